//! The registry of collectors and owned tables that a scrape reads. Equal labels are added up, so that owners of a family need
//! not know each other.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, TextEncoder,
    core::{Collector, Desc},
    proto::{Bucket, Counter, Gauge, Histogram, Metric, MetricFamily, MetricType},
};

use super::{Family, Kind, Lines, Samples, samples::ScrapeCollector};

type Writer = Arc<dyn Fn(&mut Lines) + Send + Sync>;

/// All metrics of a process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registry {
    registered: prometheus::Registry,
    /// The owners of each family, by its name.
    owners: Arc<Mutex<HashMap<&'static str, Owners>>>,
    writers: Arc<Mutex<Vec<Writer>>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Registry {
    /// A table of counters of this family, for one owner: other tables of the same family are added at a scrape. The handle of a series takes a lock: ask once and keep it, where it counts often. The values of labels are
    /// few and known; values of peers, or of objects that come and go, are collected at a scrape instead.
    ///
    /// # Panics
    /// Where Prometheus would not take the family: it is a constant.
    #[must_use]
    pub fn counter(&self, family: &'static Family) -> IntCounterVec {
        debug_assert_eq!(family.kind(), Kind::Counter, "{}", family.name());
        self.owned(family, IntCounterVec::new(family.opts(), family.labels()))
    }

    /// A table of gauges; see [`Registry::counter`].
    ///
    /// # Panics
    /// As [`Registry::counter`] does.
    #[must_use]
    pub fn gauge(&self, family: &'static Family) -> IntGaugeVec {
        debug_assert_eq!(family.kind(), Kind::Gauge, "{}", family.name());
        self.owned(family, IntGaugeVec::new(family.opts(), family.labels()))
    }

    /// A table of histograms; see [`Registry::counter`].
    ///
    /// # Panics
    /// As [`Registry::counter`] does.
    #[must_use]
    pub fn histogram(&self, family: &'static Family) -> HistogramVec {
        let bounds = match family.kind() {
            Kind::Histogram(bounds) => bounds,
            _ => &[],
        };
        debug_assert!(!bounds.is_empty(), "{}", family.name());
        let opts = HistogramOpts { common_opts: family.opts(), buckets: bounds.to_vec() };
        self.owned(family, HistogramVec::new(opts, family.labels()))
    }

    /// Calls `collector` for these families at every scrape. It may take locks, and must not wait for anything else.
    ///
    /// # Panics
    /// Where Prometheus would not take one of the families, or it has another collector already.
    pub fn collect(&self, families: &[&'static Family], collector: impl Fn(&mut Samples) + Send + Sync + 'static) {
        if let Some(first) = families.first() {
            first.taken(self.registered.register(Box::new(ScrapeCollector::new(families, collector))));
        }
    }

    /// Has `writer` write these families at every scrape, each once and each of their series once; see [`Lines`].
    ///
    /// # Panics
    /// As [`Registry::collect`] does.
    pub fn write(&self, families: &[&'static Family], writer: impl Fn(&mut Lines) + Send + Sync + 'static) {
        self.collect(families, |_| ()); // reserves them
        lock(&self.writers).push(Arc::new(writer));
    }

    /// All metrics now, as Prometheus' text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for mut family in self.registered.gather() {
            add_up(&mut family);
            // Fails for a family without a name or without series, and none of these is gathered.
            let _ = TextEncoder::new().encode_utf8(&[family], &mut text);
        }
        let (writers, mut lines) = (lock(&self.writers).clone(), Lines(text));
        writers.iter().for_each(|write| write(&mut lines));
        lines.0
    }

    fn owned<T: Collector + Clone + 'static>(&self, family: &'static Family, made: prometheus::Result<T>) -> T {
        let table = family.taken(made);
        let mut owners = lock(&self.owners);
        let owners = owners.entry(family.name()).or_insert_with(|| {
            let owners = Owners { desc: family.desc(), tables: Arc::default() };
            family.taken(self.registered.register(Box::new(owners.clone())));
            owners
        });
        lock(&owners.tables).push(Box::new(table.clone()));
        table
    }
}

/// The tables of one family.
#[derive(Clone)]
struct Owners {
    desc: Desc,
    tables: Arc<Mutex<Vec<Box<dyn Collector>>>>,
}

impl Collector for Owners {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        lock(&self.tables).iter().flat_map(|table| table.collect()).collect()
    }
}

/// Merges series with equal labels, which stand together once they are gathered.
fn add_up(family: &mut MetricFamily) {
    let kind = family.get_field_type();
    family.mut_metric().dedup_by(|more, sum| {
        let is_same = more.get_label() == sum.get_label();
        if is_same {
            add(kind, sum, more);
        }
        is_same
    });
}

fn add(kind: MetricType, sum: &mut Metric, more: &Metric) {
    match kind {
        MetricType::COUNTER => {
            let mut counter = Counter::default();
            counter.set_value(sum.get_counter().get_value() + more.get_counter().get_value());
            sum.set_counter(counter);
        }
        MetricType::HISTOGRAM => sum.set_histogram(both(sum.get_histogram(), more.get_histogram())),
        _ => {
            let mut gauge = Gauge::default();
            gauge.set_value(sum.get_gauge().get_value() + more.get_gauge().get_value());
            sum.set_gauge(gauge);
        }
    }
}

/// Of one family, and so with the same bounds.
fn both(a: &Histogram, b: &Histogram) -> Histogram {
    let bucket = |(a, b): (&Bucket, &Bucket)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(a.upper_bound());
        bucket.set_cumulative_count(a.cumulative_count() + b.cumulative_count());
        bucket
    };
    let mut sum = Histogram::default();
    sum.set_sample_count(a.get_sample_count() + b.get_sample_count());
    sum.set_sample_sum(a.get_sample_sum() + b.get_sample_sum());
    sum.set_bucket(a.get_bucket().iter().zip(b.get_bucket()).map(bucket).collect());
    sum
}

/// Every critical section leaves a list whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
