//! The series of requests: their keys, their limit, and when one is dropped. No clock: a scrape brings the time.

use std::{
    collections::{
        BTreeMap, HashMap,
        hash_map::Entry::{Occupied, Vacant},
    },
    sync::{
        Arc,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Relaxed, Release},
        },
    },
    time::Instant,
};

use underpass_core::ObjectName;
use underpass_proxy::series::{Alive, Gone, Side, UNKNOWN};
use underpass_telemetry::metrics::Lines;

use super::{
    DURATION, LABELS, OVERFLOW, REPORTER, REQUEST_BYTES, REQUESTS, RESPONSE_BYTES, Settings, flags::Answer,
    histogram::Histogram, record::Measured,
};

/// The key of a series.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) source: Arc<Side>,
    pub(super) destination: Arc<Side>,
    /// Its name, and its DNS name.
    pub(super) service: (ObjectName, Arc<str>),
    pub(super) answer: Answer,
}

impl Key {
    /// The values of all labels.
    fn with_labels(&self, cluster: &str, show: &mut dyn FnMut(&[&str])) {
        let Answer { code, grpc_status, flags, .. } = self.answer;
        let (code, flags) = (code.to_string(), flags.text());
        // As Istio has it, a request that is none of gRPC has no such label.
        let missing = if self.answer.is_grpc { UNKNOWN } else { "" };
        let grpc_status = grpc_status.map_or_else(|| missing.to_owned(), |status| status.to_string());
        let mut values = vec![REPORTER];
        // Without region and zone, which the series of requests have not.
        values.extend(self.source.labels(cluster).into_iter().take(8));
        values.extend(self.destination.labels(cluster).into_iter().take(8));
        let (name, host) = &self.service;
        values.extend([&**host, name.name(), name.namespace()]);
        values.extend([self.answer.protocol(), &code, &flags, &grpc_status, "mutual_tls"]);
        show(&values);
    }

    /// True if everything that it names is still there.
    fn is_alive(&self, alive: &Alive) -> bool {
        alive.has(&self.source) && alive.has(&self.destination) && alive.has_service(&self.service.0)
    }
}

/// The counts of one series.
#[derive(Debug)]
pub(super) struct Series {
    names: Names,
    requests: AtomicU64,
    duration: Histogram<1000>,
    request_bytes: Histogram<1>,
    response_bytes: Histogram<1>,
    /// Workers that are counting here; [`RETIRED`] once it is not shown any more.
    counting: AtomicUsize,
}

/// The number of workers in a retired series, which counts no request again: the next one of its key has a new series.
const RETIRED: usize = usize::MAX;

impl Series {
    fn new(names: Names) -> Arc<Self> {
        Arc::new(Self {
            names,
            requests: AtomicU64::new(0),
            duration: Histogram::default(),
            request_bytes: Histogram::default(),
            response_bytes: Histogram::default(),
            counting: AtomicUsize::new(0),
        })
    }

    /// Counts a request. False where the series is retired: nothing is counted.
    pub(super) fn count(&self, measured: &Measured) -> bool {
        let one_more = |counting: usize| (counting != RETIRED).then(|| counting + 1);
        if self.counting.fetch_update(AcqRel, Relaxed, one_more).is_err() {
            return false;
        }
        self.requests.fetch_add(1, Relaxed);
        self.duration.observe(u64::try_from(measured.duration.as_micros()).unwrap_or(u64::MAX));
        self.request_bytes.observe(measured.request_bytes);
        self.response_bytes.observe(measured.response_bytes);
        self.counting.fetch_sub(1, Release);
        true
    }

    /// Retires it, unless more than `requests` have been counted.
    fn retire(&self, requests: u64) -> bool {
        let is_unused = self.counting.compare_exchange(0, RETIRED, AcqRel, Relaxed).is_ok();
        // From here on none is counted. One that was just before has not been shown.
        if is_unused && self.requests.load(Relaxed) != requests {
            self.counting.store(0, Release);
            return false;
        }
        is_unused
    }
}

pub(super) fn show(all: &[Arc<Series>], lines: &mut Lines) {
    lines.family(&REQUESTS);
    for series in all {
        let requests = series.requests.load(Relaxed);
        series.names.with_labels(&mut |labels| lines.sample(&REQUESTS, labels, requests));
    }
    lines.family(&DURATION);
    for series in all {
        series.names.with_labels(&mut |labels| series.duration.show(&DURATION, labels, lines));
    }
    lines.family(&REQUEST_BYTES);
    for series in all {
        series.names.with_labels(&mut |labels| series.request_bytes.show(&REQUEST_BYTES, labels, lines));
    }
    lines.family(&RESPONSE_BYTES);
    for series in all {
        series.names.with_labels(&mut |labels| series.response_bytes.show(&RESPONSE_BYTES, labels, lines));
    }
}

/// The labels of a series.
#[derive(Debug)]
enum Names {
    /// By its key, in this cluster.
    Own(Key, Arc<str>),
    /// Everything beyond the limit with this code, which alerts look at.
    Overflow(u16),
}

impl Names {
    fn with_labels(&self, show: &mut dyn FnMut(&[&str])) {
        match self {
            Self::Own(key, cluster) => key.with_labels(cluster, show),
            Self::Overflow(code) => {
                let code = code.to_string();
                let value = |label: &&str| match *label {
                    "reporter" => REPORTER,
                    "response_code" => code.as_str(),
                    _ => OVERFLOW,
                };
                show(&LABELS.iter().map(value).collect::<Vec<_>>());
            }
        }
    }
}

#[derive(Debug)]
struct Entry {
    series: Arc<Series>,
    /// The number of requests at the last scrape.
    requests: u64,
    gone: Gone,
}

/// All series.
#[derive(Debug)]
pub(super) struct Traffic {
    settings: Settings,
    series: HashMap<Key, Entry>,
    /// The series of requests beyond the limit, by code.
    overflow: BTreeMap<u16, Arc<Series>>,
}

impl Traffic {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { settings: settings.clone(), series: HashMap::new(), overflow: BTreeMap::new() }
    }

    /// Counts a request in its series, which may be a new one.
    pub(super) fn count(&mut self, key: &Key, measured: &Measured) -> Arc<Series> {
        let is_full = self.series.len() >= self.settings.most_series;
        let series = match self.series.entry(key.clone()) {
            Occupied(known) => Arc::clone(&known.get().series),
            Vacant(_) if is_full => {
                let code = key.answer.code;
                Arc::clone(self.overflow.entry(code).or_insert_with(|| Series::new(Names::Overflow(code))))
            }
            Vacant(unknown) => {
                let series = Series::new(Names::Own(key.clone(), Arc::clone(&self.settings.cluster)));
                Arc::clone(&unknown.insert(Entry { series, requests: 0, gone: Gone::default() }).series)
            }
        };
        // A series that is retired is none of these.
        series.count(measured);
        series
    }

    /// Drops series of objects that are gone, once they have been shown for long enough.
    ///
    /// True if some were dropped.
    pub(super) fn sweep(&mut self, alive: &Alive, now: Instant) -> bool {
        let (keep, before) = (self.settings.keep_gone, self.series.len());
        self.series.retain(|key, entry| {
            let requests = entry.series.requests.load(Relaxed);
            if std::mem::replace(&mut entry.requests, requests) != requests {
                entry.gone.end(); // counted since: that is still to be shown
            }
            entry.gone.stays(key.is_alive(alive), keep, now) || !entry.series.retire(requests)
        });
        self.series.len() < before
    }

    pub(super) fn list(&self) -> Vec<Arc<Series>> {
        let series = self.series.values().map(|entry| &entry.series);
        series.chain(self.overflow.values()).cloned().collect()
    }

    /// Requests that were counted under overflow.
    pub(super) fn folded(&self) -> u64 {
        self.overflow.values().map(|series| series.requests.load(Relaxed)).sum()
    }
}
