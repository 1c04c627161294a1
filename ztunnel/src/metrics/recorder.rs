//! The recorder of one worker: it finds the series of a connection, by caches of series and of the labels of facts.

use std::{cell::RefCell, collections::HashMap, fmt, sync::Arc};

use underpass_core::{
    Connection, Identity, ObjectName, World,
    addr::HBONE_PORT,
    connection::{Direction, Party},
    world::Workload,
};
use underpass_net::tunnel::Tally;
use underpass_telemetry::metrics::{IntCounter, IntCounterVec, Registry};

use super::{
    ENDS, Metrics,
    flow::{Flows, Folded},
    lock,
    response::{Flag, Security},
    side::Side,
    traffic::{Key, Series},
};

/// The size up to which the cache of sides is not swept.
const FEW: usize = 64;

/// The recorder of one worker's connections.
pub(crate) struct Recorder {
    metrics: Arc<Metrics>,
    flows: RefCell<Flows>,
    cache: RefCell<SeriesCache>,
    ends: IntCounterVec,
    /// Handles of `ends`, by direction and reason.
    ended: RefCell<HashMap<(Direction, &'static str), IntCounter>>,
    known: RefCell<SideCache>,
}

/// A cached side. Its key is the workload's address in memory, which is not reused while the workload is kept here, and its
/// identity.
struct CachedSide {
    workload: Option<Arc<Workload>>,
    side: Arc<Side>,
}

impl CachedSide {
    /// True if the World has this very fact.
    fn is_current(&self, world: &World) -> bool {
        let is_it = |w: &Arc<Workload>| world.workload(&w.uid).is_some_and(|current| Arc::ptr_eq(current, w));
        self.workload.as_ref().is_some_and(is_it)
    }
}

/// A cache of the labels of facts. A fact does not change, so that the next World which has it as well changes nothing here;
/// entries that the World does not have any more are swept when the cache has doubled since the last sweep.
#[derive(Default)]
struct SideCache {
    sides: HashMap<(usize, Option<Identity>), CachedSide>,
    most: usize,
    /// The number of sweeps.
    swept: u64,
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

    /// Folds the bytes of the next page of open connections after this number into their series.
    pub(crate) fn fold(&self, after: u64) -> Folded {
        self.flows.borrow_mut().fold(after)
    }

    /// The series that a connection counts in, which counts it as opened.
    fn series(&self, world: &World, record: &Connection) -> Arc<Series> {
        let mut known = self.known.borrow_mut();
        let key = known.key(world, record);
        let mut cache = self.cache.borrow_mut();
        cache.follow(self.metrics.dropped(), known.swept);
        if let Some(series) = cache.find(&key).filter(|series| series.open()) {
            return Arc::clone(series);
        }
        let series = lock(&self.metrics.traffic).open(&key);
        cache.remember(key, &series);
        series
    }

    fn dry_runs(&self, record: &Connection) {
        if !record.dry_run_denied_by.is_empty() {
            lock(&self.metrics.dry_runs).deny(&record.dry_run_denied_by);
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

impl SideCache {
    fn key(&mut self, world: &World, record: &Connection) -> Key {
        let service = match record.direction {
            Direction::Outbound => record.service.clone(),
            Direction::Inbound => service(world, &record.destination),
        };
        Key {
            direction: record.direction,
            source: self.side(world, &record.source),
            destination: self.side(world, &record.destination),
            service: service.map(|name| (name.clone(), hostname(world, &name))),
            security: Security::of(record.direction, record.path),
        }
    }

    fn side(&mut self, world: &World, party: &Party) -> Arc<Side> {
        if self.sides.len() > self.most {
            self.sides.retain(|_, known| known.is_current(world));
            self.most = (2 * self.sides.len()).max(FEW);
            self.swept += 1;
        }
        let address = party.workload.as_ref().map_or(0, |w| Arc::as_ptr(w).addr());
        let make = || CachedSide { workload: party.workload.clone(), side: Arc::new(Side::new(party)) };
        Arc::clone(&self.sides.entry((address, party.identity.clone())).or_insert_with(make).side)
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

#[cfg(test)]
mod tests {
    use underpass_core::{
        objects::{Batch, Object},
        testing::{model, pod},
    };

    use super::*;

    #[test]
    fn the_labels_of_a_fact_are_cached_while_the_world_has_it() {
        let mut model = model([pod("default/stays", "10.0.0.1").into()]);
        let mut known = SideCache::default();
        let mut side = |world: &World, address: &str| {
            let address: std::net::SocketAddr = address.parse().unwrap();
            let workload = world.workload_at(address.ip()).cloned();
            assert!(workload.is_some());
            let side = known.side(world, &Party { address, workload, identity: None });
            (side, known.sides.len())
        };
        let (first, _) = side(model.world(), "10.0.0.1:1");
        let mut most = 0;
        for n in 0..FEW * 4 {
            let mut batch = Batch::default();
            batch.put(pod(&format!("default/p{n}"), "10.0.0.2"));
            model.apply(&batch);
            most = most.max(side(model.world(), "10.0.0.2:1").1);
            let mut batch = Batch::default();
            batch.remove(Object::from(pod(&format!("default/p{n}"), "10.0.0.2")).key());
            model.apply(&batch);
            assert!(Arc::ptr_eq(&first, &side(model.world(), "10.0.0.1:1").0), "made once");
        }
        assert!(most <= FEW + 1, "{most}");
        let mut batch = Batch::default();
        batch.put(pod("default/stays", "10.0.0.1"));
        model.apply(&batch);
        assert!(Arc::ptr_eq(&first, &side(model.world(), "10.0.0.1:1").0), "an equal put is no change");
    }
}
