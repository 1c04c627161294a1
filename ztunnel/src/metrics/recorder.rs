//! A worker's own end of the metrics: it finds the series of a connection, and remembers what the World says until the
//! World changes.

use std::{
    cell::RefCell,
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
};

use underpass_core::{
    Connection, Identity, ObjectName, World,
    addr::HBONE_PORT,
    connection::{Direction, Party},
    world::{Version, Workload},
};
use underpass_net::tunnel::Tally;
use underpass_telemetry::metrics::{Counter, Registry, Table};

use super::{
    ENDS, Metrics,
    flow::Flows,
    lock,
    response::{Flag, Security},
    side::Side,
    traffic::Key,
};

/// Counts the connections of one worker.
pub(crate) struct Recorder {
    metrics: Arc<Metrics>,
    flows: Arc<Mutex<Flows>>,
    ends: Table<Counter>,
    /// Handles of `ends`, by direction and reason.
    ended: RefCell<HashMap<(Direction, &'static str), Counter>>,
    known: RefCell<Known>,
}

/// A side, found by its workload's address in memory, which stays its own while it is kept here, and its identity.
struct KnownSide {
    _workload: Option<Arc<Workload>>,
    side: Arc<Side>,
}

/// What one World says, as far as it was asked.
#[derive(Default)]
struct Known {
    version: Option<Version>,
    sides: HashMap<(usize, Option<Identity>), KnownSide>,
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
            flows: metrics.add_flows(),
            ends: registry.counter(&ENDS),
            ended: RefCell::default(),
            known: RefCell::default(),
        }
    }

    /// A connection is open: its tally counts from now on.
    pub(crate) fn opened(&self, world: &World, record: &Connection, tally: &Arc<Tally>) {
        let key = self.known.borrow_mut().key(world, record);
        let series = lock(&self.metrics.traffic).open(key);
        lock(&self.flows).begin(record.id, record.direction, Arc::clone(tally), series);
    }

    /// A connection ended, or was refused before it was open.
    pub(crate) fn ended(&self, world: &World, record: &Connection) {
        let Some(reason) = &record.reason else { return };
        let word = reason.as_str();
        let direction = record.direction;
        let mut ended = self.ended.borrow_mut();
        ended.entry((direction, word)).or_insert_with(|| self.ends.with(&[direction.as_str(), word])).inc();
        let flag = Flag::of(direction, reason);
        if lock(&self.flows).end(record.id, flag) {
            return;
        }
        // A tunnel that ended before it carried anything is nobody's connection.
        if direction == Direction::Inbound && record.destination.address.port() == HBONE_PORT {
            return;
        }
        let key = self.known.borrow_mut().key(world, record);
        lock(&self.metrics.traffic).open(key).close(flag);
    }
}

impl Known {
    fn key(&mut self, world: &World, record: &Connection) -> Key {
        if self.version != Some(world.version()) {
            *self = Self { version: Some(world.version()), ..Self::default() };
        }
        let service = match record.direction {
            Direction::Outbound => record.service.clone(),
            Direction::Inbound => service(world, &record.destination),
        };
        Key {
            direction: record.direction,
            source: self.side(&record.source),
            destination: self.side(&record.destination),
            service: service.map(|name| (name.clone(), hostname(world, &name))),
            security: Security::of(record.direction, record.path),
        }
    }

    fn side(&mut self, party: &Party) -> Arc<Side> {
        let address = party.workload.as_ref().map_or(0, |w| Arc::as_ptr(w).addr());
        let make = || KnownSide { _workload: party.workload.clone(), side: Arc::new(Side::new(party)) };
        Arc::clone(&self.sides.entry((address, party.identity.clone())).or_insert_with(make).side)
    }
}

fn hostname(world: &World, service: &ObjectName) -> Arc<str> {
    let known = world.service(service).map(|service| Arc::clone(&service.hostname));
    known.unwrap_or_else(|| service.name().into())
}

/// The wire does not say which service was called: one that leads to this port of this pod, as Istio guesses.
fn service(world: &World, destination: &Party) -> Option<ObjectName> {
    let workload = world.workload(&destination.workload.as_ref()?.uid)?;
    workload.service_at(destination.address.port()).cloned()
}
