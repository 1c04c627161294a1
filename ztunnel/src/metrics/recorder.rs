//! The recorder of one worker: it finds the series of a connection, by caches of series and of the labels of facts.

use std::{cell::RefCell, collections::HashMap, fmt, sync::Arc};

use underpass_core::{
    Connection, ObjectName, World,
    addr::HBONE_PORT,
    connection::{Direction, Party},
};
use underpass_net::tunnel::Tally;
use underpass_proxy::series::{Side, SideCache};
use underpass_telemetry::metrics::{IntCounter, IntCounterVec, Registry};

use super::{
    DROPPED_SOURCES, ENDS, Metrics,
    flow::{Flows, Folded},
    lock,
    response::{Flag, Security},
    traffic::{Key, Series},
};

/// The recorder of one worker's connections.
pub(crate) struct Recorder {
    metrics: Arc<Metrics>,
    flows: RefCell<Flows>,
    cache: RefCell<SeriesCache>,
    ends: IntCounterVec,
    dropped_sources: IntCounterVec,
    /// Handles of `ends`, by direction and reason.
    ended: RefCell<HashMap<(Direction, &'static str), IntCounter>>,
    known: RefCell<SideCache>,
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
            flows: RefCell::default(),
            cache: RefCell::default(),
            ends: registry.counter(&ENDS),
            dropped_sources: registry.counter(&DROPPED_SOURCES),
            ended: RefCell::default(),
            known: RefCell::default(),
        }
    }

    /// Records an open connection: its tally counts from now on.
    pub(crate) fn opened(&self, world: &World, record: &Connection, tally: &Arc<Tally>) {
        self.dry_runs(record);
        let series = self.series(world, record);
        self.flows.borrow_mut().begin(record.id, record.direction, Arc::clone(tally), series);
    }

    /// Records the end of a connection, or a refusal before it was open.
    pub(crate) fn ended(&self, world: &World, record: &Connection) {
        let Some(reason) = &record.reason else { return };
        let word = reason.as_str();
        let direction = record.direction;
        let mut ended = self.ended.borrow_mut();
        ended
            .entry((direction, word))
            .or_insert_with(|| self.ends.with_label_values(&[direction.as_str(), word]))
            .inc();
        let flag = Flag::of(direction, reason);
        if self.flows.borrow_mut().end(record.id, flag) {
            return;
        }
        // A tunnel that ended before it carried a connection is none.
        if direction == Direction::Inbound && record.destination.address.port() == HBONE_PORT {
            return;
        }
        self.dry_runs(record);
        self.series(world, record).close(flag);
    }

    /// Counts a source that a peer named and that is not believed.
    pub(crate) fn dropped_named_source(&self) {
        self.dropped_sources.with_label_values::<&str>(&[]).inc();
    }

    /// Folds the bytes of the next page of open connections after this number into their series.
    pub(crate) fn fold(&self, after: u64) -> Folded {
        self.flows.borrow_mut().fold(after)
    }

    /// The series that a connection counts in, which counts it as opened.
    fn series(&self, world: &World, record: &Connection) -> Arc<Series> {
        let mut known = self.known.borrow_mut();
        let key = key(&mut known, world, record);
        let mut cache = self.cache.borrow_mut();
        cache.follow(self.metrics.dropped(), known.swept());
        if let Some(series) = cache.find(&key).filter(|series| series.open()) {
            return Arc::clone(series);
        }
        let series = lock(&self.metrics.traffic).open(&key);
        cache.remember(key, &series);
        series
    }

    fn dry_runs(&self, record: &Connection) {
        if !record.dry_run_denied_by.is_empty() {
            lock(&self.metrics.dry_runs).count(&record.dry_run_denied_by);
        }
    }
}

/// The key of a series for one worker, which makes each side once: sides by their address in memory.
type SeriesKey = (Direction, usize, usize, Option<ObjectName>, Security);

/// A cache of series, so that a worker takes no lock for them again. It is cleared when series were dropped, after
/// which there may be room for one that counts under overflow, and when sides were, which it would keep alive.
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
        let service = key.service.as_ref().map(|(name, _)| name.clone());
        (key.direction, side(&key.source), side(&key.destination), service, key.security)
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

    fn remember(&mut self, key: Key, series: &Arc<Series>) {
        self.series.insert(Self::key(&key), (key, Arc::clone(series)));
    }
}

/// The key of a connection.
fn key(sides: &mut SideCache, world: &World, record: &Connection) -> Key {
    let service = match record.direction {
        Direction::Outbound => record.service.clone(),
        Direction::Inbound => service(world, &record.destination),
    };
    Key {
        direction: record.direction,
        source: sides.side(world, &record.source),
        destination: sides.side(world, &record.destination),
        service: service.map(|name| (name.clone(), hostname(world, &name))),
        security: Security::of(record.direction, record.path),
    }
}

fn hostname(world: &World, service: &ObjectName) -> Arc<str> {
    let known = world.service(service).map(|service| Arc::clone(&service.hostname));
    known.unwrap_or_else(|| service.name().into())
}

/// The service of an inbound connection, which HBONE does not carry: one that leads to this port of this pod, as Istio guesses.
fn service(world: &World, destination: &Party) -> Option<ObjectName> {
    let workload = world.workload(&destination.workload.as_ref()?.uid)?;
    workload.service_at(destination.address.port()).cloned()
}
