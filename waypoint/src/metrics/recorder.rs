//! The recorder of one worker: it finds the series of a request in a cache, without a lock.

use std::{cell::RefCell, collections::HashMap, fmt, sync::Arc};

use underpass_core::{ObjectName, World, connection::Party, http::RequestEnd};
use underpass_proxy::series::{Side, SideCache};
use underpass_telemetry::metrics::{IntCounter, IntCounterVec, Registry};

use crate::{authorizer::CheckResult, http::MirrorEnd};

use super::{
    CHECKS, ConnectionSeries, DENIED, ENDS, MIRRORED, Metrics, connections,
    flags::Answer,
    lock,
    record::Record,
    series::{Key, Series},
};

/// The recorder of one worker's requests.
pub(crate) struct Recorder {
    metrics: Arc<Metrics>,
    known: RefCell<SideCache>,
    cache: RefCell<SeriesCache>,
    ends: IntCounterVec,
    /// Handles of `ends`.
    ended: RefCell<HashMap<&'static str, IntCounter>>,
    denied: IntCounter,
    mirrored: IntCounterVec,
    checks: IntCounterVec,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl Recorder {
    pub(crate) fn new(metrics: &Arc<Metrics>, registry: &Registry) -> Self {
        Self {
            metrics: Arc::clone(metrics),
            known: RefCell::default(),
            cache: RefCell::default(),
            ends: registry.counter(&ENDS),
            ended: RefCell::default(),
            mirrored: registry.counter(&MIRRORED),
            checks: registry.counter(&CHECKS),
            denied: registry.counter(&DENIED).with_label_values(&[] as &[&str]),
        }
    }

    /// Counts an open connection, which ends because it is denied since a change.
    pub(crate) fn denied(&self) {
        self.denied.inc();
    }

    /// Counts a connection that is no HTTP as open, until its end.
    pub(crate) fn opens(
        &self,
        world: &World,
        source: &Party,
        destination: &Party,
        service: &ObjectName,
    ) -> Arc<ConnectionSeries> {
        let mut known = self.known.borrow_mut();
        let key = connections::Key {
            source: known.side(world, source),
            destination: known.side(world, destination),
            service: (service.clone(), hostname(world, service)),
        };
        lock(&self.metrics.connections).open(&key)
    }

    /// Counts a copy of a request, which ends so.
    pub(crate) fn mirrored(&self, end: MirrorEnd) {
        self.mirrored.with_label_values(&[end.as_str()]).inc();
    }

    /// Counts a question to an external authorizer of this name, with what came of it.
    pub(crate) fn checked(&self, provider: &str, result: CheckResult) {
        self.checks.with_label_values(&[provider, result.as_str()]).inc();
    }

    /// Counts a request, which ends so.
    pub(crate) fn ended(&self, world: &World, record: &Record, end: RequestEnd) {
        let word = end.as_str();
        self.ended.borrow_mut().entry(word).or_insert_with(|| self.ends.with_label_values(&[word])).inc();
        let tried = record.dry_run_denied_by.borrow();
        if !tried.is_empty() {
            lock(&self.metrics.dry_runs).count(&tried);
        }
        let audited = record.audited_by.borrow();
        if !audited.is_empty() {
            lock(&self.metrics.audits).count(&audited);
        }
        let mut known = self.known.borrow_mut();
        let key = key(&mut known, world, record, end);
        let mut cache = self.cache.borrow_mut();
        cache.follow(self.metrics.dropped(), known.swept());
        let measured = record.measured();
        if cache.find(&key).is_some_and(|series| series.count(&measured)) {
            return;
        }
        let series = lock(&self.metrics.traffic).count(&key, &measured);
        cache.remember(key, &series, self.metrics.most_series);
    }
}

fn key(sides: &mut SideCache, world: &World, record: &Record, end: RequestEnd) -> Key {
    let name = record.service.borrow().clone();
    let host = hostname(world, &name);
    Key {
        source: sides.side(world, record.source()),
        destination: sides.side(world, &record.destination()),
        service: (name, host),
        answer: record.answer(end),
    }
}

fn hostname(world: &World, service: &ObjectName) -> Arc<str> {
    let known = world.service(service).map(|service| Arc::clone(&service.hostname));
    known.unwrap_or_else(|| service.name().into())
}

/// The key of a series for one worker, which makes each side once: sides by their address in memory.
type SeriesKey = (usize, usize, ObjectName, Answer);

/// A cache of series. It is cleared when series were dropped, after which there may be room for one that counts under overflow;
/// when sides were, which it would keep alive; and when it has as many as there may be series.
#[derive(Default)]
struct SeriesCache {
    /// With the key, which keeps the sides where they are.
    series: HashMap<SeriesKey, (Key, Arc<Series>)>,
    /// The numbers of drops of series, and of sweeps of sides, when it was cleared.
    dropped: u64,
    swept: u64,
}

impl SeriesCache {
    fn key(key: &Key) -> SeriesKey {
        let side = |side: &Arc<Side>| Arc::as_ptr(side).addr();
        (side(&key.source), side(&key.destination), key.service.0.clone(), key.answer)
    }

    fn find(&self, key: &Key) -> Option<&Arc<Series>> {
        // The DNS name of a service may change.
        let known = self.series.get(&Self::key(key)).filter(|(known, _)| known.service == key.service);
        known.map(|(_, series)| series)
    }

    fn follow(&mut self, dropped: u64, swept: u64) {
        if (self.dropped, self.swept) != (dropped, swept) {
            (self.dropped, self.swept) = (dropped, swept);
            self.series.clear();
        }
    }

    fn remember(&mut self, key: Key, series: &Arc<Series>, most: usize) {
        if self.series.len() >= most {
            self.series.clear();
        }
        self.series.insert(Self::key(&key), (key, Arc::clone(series)));
    }
}
