//! The open connections of a node, for whoever lists them. Touched when a connection opens and ends, never per byte.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use underpass_core::{Connection, connection::Direction};
use underpass_net::tunnel::Tally;

use crate::refusals::Refusals;

/// One open connection.
#[derive(Debug)]
struct Open {
    record: Connection,
    tally: Arc<Tally>,
    began: Instant,
}

/// All open connections.
#[derive(Debug, Default)]
pub struct Connections {
    open: Mutex<BTreeMap<u64, Open>>,
    next: AtomicU64,
    refusals: Refusals,
}

impl Connections {
    /// A number that no other connection of this process has.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Relaxed).wrapping_add(1)
    }

    pub(crate) fn insert(&self, record: Connection, tally: Arc<Tally>, began: Instant) {
        self.locked().insert(record.id, Open { record, tally, began });
    }

    pub(crate) fn remove(&self, id: u64) {
        self.locked().remove(&id);
    }

    /// The handshakes that came to nothing.
    #[must_use]
    pub const fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.locked().len()
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, in the order they were opened, as of `now`.
    #[must_use]
    pub fn list(&self, now: Instant) -> Vec<Connection> {
        self.locked().values().map(|open| filled(&open.record, &open.tally, open.began, now)).collect()
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Open>> {
        // A panic elsewhere leaves the map whole: every change is one insert or remove.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes from the source to the destination, and back: the application is the source of outbound, the destination of
/// inbound connections.
pub(crate) fn carried(direction: Direction, tally: &Tally) -> (u64, u64) {
    match direction {
        Direction::Outbound => (tally.from_app(), tally.to_app()),
        Direction::Inbound => (tally.to_app(), tally.from_app()),
    }
}

/// The record with what is counted.
pub(crate) fn filled(record: &Connection, tally: &Tally, began: Instant, now: Instant) -> Connection {
    let (bytes_received, bytes_sent) = carried(record.direction, tally);
    let duration_us = u64::try_from(now.saturating_duration_since(began).as_micros()).unwrap_or(u64::MAX);
    Connection { bytes_received, bytes_sent, duration_us, ..record.clone() }
}
