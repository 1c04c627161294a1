//! What those who count hold in their hands. A handle counts by itself, registered or not: a library that is not scraped
//! in a test counts all the same.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{Distribution, Family, Kind, Labels, Samples, Value};

/// A number that only grows. On a cache line of its own: others count beside it.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<Line<AtomicU64>>);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line<T>(T);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, n: u64) {
        self.0.0.fetch_add(n, Relaxed);
    }

    /// How many so far.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<Line<AtomicI64>>);

impl Gauge {
    /// So much more, or less.
    pub fn add(&self, n: i64) {
        self.0.0.fetch_add(n, Relaxed);
    }

    /// Exactly so much.
    pub fn set(&self, n: i64) {
        self.0.0.store(n, Relaxed);
    }

    /// How much now.
    #[must_use]
    pub fn value(&self) -> i64 {
        self.0.0.load(Relaxed)
    }

    /// One more, until the guard is dropped.
    #[must_use]
    pub fn hold(&self) -> Held {
        self.add(1);
        Held(self.clone())
    }
}

/// One of what a gauge counts; dropped, it is one less.
#[derive(Debug)]
pub struct Held(Gauge);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

/// Durations by size.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<Observed>);

#[derive(Debug)]
struct Observed {
    bounds_us: &'static [u64],
    buckets: Box<[AtomicU64]>,
    sum_us: AtomicU64,
}

impl Histogram {
    /// With these bounds, in microseconds.
    #[must_use]
    pub fn new(bounds_us: &'static [u64]) -> Self {
        let buckets = (0..=bounds_us.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Observed { bounds_us, buckets, sum_us: AtomicU64::new(0) }))
    }

    /// Something took so long.
    pub fn observe(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = self.0.bounds_us.partition_point(|bound| *bound < us);
        if let Some(bucket) = self.0.buckets.get(bucket) {
            bucket.fetch_add(1, Relaxed);
        }
        self.0.sum_us.fetch_add(us, Relaxed);
    }

    /// What was observed so far.
    #[must_use]
    pub fn value(&self) -> Distribution {
        let buckets = self.0.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        Distribution { buckets, sum_us: self.0.sum_us.load(Relaxed) }
    }
}

/// What a table hands out: [`Counter`], [`Gauge`] or [`Histogram`].
pub trait Instrument: Clone + Send + Sync + 'static {
    /// A new one, as the family describes it.
    #[must_use]
    fn of(family: &Family) -> Self;

    /// What it has counted.
    #[must_use]
    fn read(&self) -> Value;
}

impl Instrument for Counter {
    fn of(family: &Family) -> Self {
        debug_assert_eq!(family.kind(), Kind::Counter, "{} is no counter", family.name());
        Self::default()
    }

    fn read(&self) -> Value {
        self.value().into()
    }
}

impl Instrument for Gauge {
    fn of(family: &Family) -> Self {
        debug_assert_eq!(family.kind(), Kind::Gauge, "{} is no gauge", family.name());
        Self::default()
    }

    fn read(&self) -> Value {
        self.value().into()
    }
}

impl Instrument for Histogram {
    fn of(family: &Family) -> Self {
        match family.kind() {
            Kind::Histogram(bounds) => Self::new(bounds),
            _ => {
                debug_assert!(false, "{} is no histogram", family.name());
                Self::new(&[])
            }
        }
    }

    fn read(&self) -> Value {
        Value::Distribution(self.value())
    }
}

/// The series of one family that one owner counts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Table<I> {
    family: &'static Family,
    series: Arc<Mutex<BTreeMap<Labels, I>>>,
}

impl<I: Instrument> Table<I> {
    pub(super) fn new(family: &'static Family) -> Self {
        Self { family, series: Arc::default() }
    }

    pub(super) fn read(&self, samples: &mut Samples) {
        samples.declare(self.family);
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        series.iter().for_each(|(labels, handle)| samples.add_to(self.family, labels, handle.read()));
    }

    /// The handle of the series of these label values, shown from now on. Takes a lock: ask once and keep it, where it
    /// counts often. The values must be few; what comes from peers, or from objects that come and go, is collected at
    /// scrape instead.
    #[must_use]
    pub fn with(&self, labels: &[&str]) -> I {
        let labels = Labels::new(self.family, labels);
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        series.entry(labels).or_insert_with(|| I::of(self.family)).clone()
    }
}
