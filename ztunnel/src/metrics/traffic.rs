//! The series of traffic: their keys, their limit, and when one is dropped. No clock: a scrape brings the time.

use std::{
    collections::{
        HashMap,
        hash_map::Entry::{Occupied, Vacant},
    },
    sync::{
        Arc,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant},
};

use underpass_core::{ObjectName, connection::Direction};
use underpass_proxy::series::{Alive, Gone, Side, UNKNOWN};
use underpass_telemetry::metrics::Lines;

use super::{
    CLOSED, OPENED, OVERFLOW, RECEIVED, SENT, Settings,
    response::{Flag, Security},
};

/// The key of a series.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) direction: Direction,
    pub(super) source: Arc<Side>,
    pub(super) destination: Arc<Side>,
    /// Its name, and its DNS name.
    pub(super) service: Option<(ObjectName, Arc<str>)>,
    pub(super) security: Security,
}

impl Key {
    fn labels<'a>(&'a self, cluster: &'a str, flag: Flag) -> Vec<&'a str> {
        let (name, hostname) = self.service.as_ref().map_or((None, UNKNOWN), |(name, host)| (Some(name), &**host));
        let mut values = vec![reporter(self.direction)];
        values.extend(self.source.labels(cluster));
        values.extend([hostname, name.map_or(UNKNOWN, ObjectName::namespace), name.map_or(UNKNOWN, ObjectName::name)]);
        values.extend(self.destination.labels(cluster));
        values.extend(["tcp", flag.as_str(), self.security.as_str()]);
        values
    }

    /// True if everything that it names is still there.
    fn is_alive(&self, alive: &Alive) -> bool {
        alive.has(&self.source)
            && alive.has(&self.destination)
            && self.service.as_ref().is_none_or(|(name, _)| alive.has_service(name))
    }
}

const fn reporter(direction: Direction) -> &'static str {
    match direction {
        Direction::Outbound => "source",
        Direction::Inbound => "destination",
    }
}

/// The counts of one series.
#[derive(Debug)]
pub(super) struct Series {
    names: Names,
    opened: AtomicU64,
    closed: [AtomicU64; 3],
    received: AtomicU64,
    sent: AtomicU64,
    /// Open connections that will still count here; [`RETIRED`] once it is not shown any more.
    flows: AtomicUsize,
}

/// The number of flows of a retired series, which counts no connection again: the next one of its key has a new series.
const RETIRED: usize = usize::MAX;

impl Series {
    fn new(names: Names) -> Arc<Self> {
        Arc::new(Self {
            names,
            opened: AtomicU64::new(0),
            closed: Default::default(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            flows: AtomicUsize::new(0),
        })
    }

    /// Counts a connection that is open until [`Self::close`]. False where the series is retired.
    pub(super) fn open(&self) -> bool {
        let one_more = |flows: usize| (flows != RETIRED).then(|| flows + 1);
        let opens = self.flows.fetch_update(AcqRel, Relaxed, one_more).is_ok();
        if opens {
            self.opened.fetch_add(1, Relaxed);
        }
        opens
    }

    /// Retires it, unless a connection is open that counts here, or more than `opened` have been.
    fn retire(&self, opened: u64) -> bool {
        let is_unused = self.flows.compare_exchange(0, RETIRED, AcqRel, Relaxed).is_ok();
        // From here on none opens. One that came and went just before has not been shown.
        if is_unused && self.opened.load(Relaxed) != opened {
            self.flows.store(0, Release);
            return false;
        }
        is_unused
    }

    pub(super) fn add_bytes(&self, received: u64, sent: u64) {
        self.received.fetch_add(received, Relaxed);
        self.sent.fetch_add(sent, Relaxed);
    }

    /// Counts the end of a connection, whose bytes have been added.
    pub(super) fn close(&self, flag: Flag) {
        self.closed[flag as usize].fetch_add(1, Relaxed);
        self.flows.fetch_sub(1, Release);
    }

    /// The numbers of closed connections, by flag; most have none.
    fn closed(&self) -> impl Iterator<Item = (Flag, u64)> {
        let all = Flag::ALL.into_iter().zip(&self.closed).map(|(flag, closed)| (flag, closed.load(Relaxed)));
        all.filter(|(flag, closed)| *flag == Flag::None || *closed > 0)
    }
}

pub(super) fn show(all: &[Arc<Series>], lines: &mut Lines) {
    let mut counts = |family, count: fn(&Series) -> &AtomicU64| {
        lines.family(family);
        all.iter().for_each(|s| lines.sample(family, &s.names.labels(Flag::None), count(s).load(Relaxed)));
    };
    counts(&OPENED, |series| &series.opened);
    counts(&RECEIVED, |series| &series.received);
    counts(&SENT, |series| &series.sent);
    lines.family(&CLOSED);
    for series in all {
        series.closed().for_each(|(flag, n)| lines.sample(&CLOSED, &series.names.labels(flag), n));
    }
}

/// The labels of a series.
#[derive(Debug)]
enum Names {
    /// By its key, in this cluster.
    Own(Key, Arc<str>),
    /// Everything beyond the limit.
    Overflow(Direction),
}

impl Names {
    fn labels(&self, flag: Flag) -> Vec<&str> {
        match self {
            Self::Own(key, cluster) => key.labels(cluster, flag),
            Self::Overflow(direction) => {
                let mut values = vec![OVERFLOW; super::TRAFFIC_LABELS.len()];
                let last = values.len();
                (values[0], values[last - 3], values[last - 2]) = (reporter(*direction), "tcp", flag.as_str());
                values
            }
        }
    }
}

#[derive(Debug)]
struct Entry {
    series: Arc<Series>,
    /// The number of opened connections at the last scrape.
    opened: u64,
    gone: Gone,
}

/// All series.
#[derive(Debug)]
pub(super) struct Traffic {
    cluster: Arc<str>,
    most: usize,
    keep_gone: Duration,
    series: HashMap<Key, Entry>,
    /// The series of traffic beyond the limit, by direction.
    overflow: [Option<Arc<Series>>; 2],
}

impl Traffic {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            cluster: Arc::clone(&settings.cluster),
            most: settings.most_series,
            keep_gone: settings.keep_gone,
            series: HashMap::new(),
            overflow: [None, None],
        }
    }

    /// Counts a connection in its series, until [`Series::close`].
    pub(super) fn open(&mut self, key: &Key) -> Arc<Series> {
        let full = self.series.len() >= self.most;
        let series = match self.series.entry(key.clone()) {
            Occupied(known) => Arc::clone(&known.get().series),
            Vacant(_) if full => {
                let overflow = &mut self.overflow[key.direction as usize];
                Arc::clone(overflow.get_or_insert_with(|| Series::new(Names::Overflow(key.direction))))
            }
            Vacant(unknown) => {
                let series = Series::new(Names::Own(key.clone(), Arc::clone(&self.cluster)));
                Arc::clone(&unknown.insert(Entry { series, opened: 0, gone: Gone::default() }).series)
            }
        };
        // A series that is retired is none of these.
        series.open();
        series
    }

    /// Drops series of objects that are gone, once they have been shown for long enough.
    ///
    /// True if some were dropped.
    pub(super) fn sweep(&mut self, alive: &Alive, now: Instant) -> bool {
        let (keep, before) = (self.keep_gone, self.series.len());
        self.series.retain(|key, entry| {
            let is_alive = entry.series.flows.load(Acquire) > 0 || key.is_alive(alive);
            let opened = entry.series.opened.load(Relaxed);
            if std::mem::replace(&mut entry.opened, opened) != opened {
                entry.gone.end(); // opened and ended since: that is still to be shown
            }
            entry.gone.stays(is_alive, keep, now) || !entry.series.retire(opened)
        });
        self.series.len() < before
    }

    pub(super) fn list(&self) -> Vec<Arc<Series>> {
        let series = self.series.values().map(|entry| &entry.series);
        series.chain(self.overflow.iter().flatten()).cloned().collect()
    }

    /// Connections that were counted under overflow.
    pub(super) fn folded(&self) -> u64 {
        self.overflow.iter().flatten().map(|series| series.opened.load(Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_retired_when_all_that_it_counted_was_shown() {
        let series = Series::new(Names::Overflow(Direction::Outbound));
        assert!(series.open());
        assert!(!series.retire(1), "a connection is open");
        series.close(Flag::None);
        assert!(!series.retire(0), "one came and went since it was shown");
        assert!(series.open());
        series.close(Flag::None);
        assert!(series.retire(2));
        assert!(!series.open(), "the next one has a series of its own");
        assert_eq!(series.opened.load(Relaxed), 2);
    }
}
