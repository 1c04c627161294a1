//! The list of one worker's open connections, which no other thread touches.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use underpass_core::{Connection, connection::Direction};
use underpass_net::tunnel::Tally;

/// Connections of one page.
const PAGE: usize = 256;

/// One open connection.
#[derive(Debug)]
struct Open {
    record: Connection,
    tally: Arc<Tally>,
    began: Instant,
}

/// The ids of one worker's connections, and the number of open ones. No two workers give the same id, and an id tells the worker
/// that gave it.
#[derive(Debug)]
pub(crate) struct ConnectionIds {
    /// From 1 on.
    next: Cell<u64>,
    workers: u64,
    open: Arc<AtomicUsize>,
}

impl ConnectionIds {
    /// The ids of the worker `index` of `workers`.
    pub(crate) fn new(index: usize, workers: usize) -> Self {
        Self { next: Cell::new(index as u64 + 1), workers: workers as u64, open: Arc::default() }
    }

    /// The number of its open connections, for other threads.
    pub(crate) fn open(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.open)
    }
}

/// The index of the worker that gave this id.
pub(crate) fn worker_of(id: u64, workers: usize) -> Option<usize> {
    usize::try_from(id.checked_sub(1)? % workers.max(1) as u64).ok()
}

/// A page of one worker's open connections, in the order of their ids.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) connections: Vec<Connection>,
    /// The highest id of all that are open now: a reader that began now ends with it.
    pub(crate) newest: u64,
}

/// The open connections of one worker.
#[derive(Debug)]
pub(crate) struct OpenConnections {
    open: RefCell<BTreeMap<u64, Open>>,
    numbers: ConnectionIds,
}

impl OpenConnections {
    pub(crate) fn new(numbers: ConnectionIds) -> Self {
        Self { open: RefCell::default(), numbers }
    }

    /// An id that no other connection of this process has.
    pub(crate) fn next_id(&self) -> u64 {
        let next = self.numbers.next.get();
        self.numbers.next.replace(next.wrapping_add(self.numbers.workers))
    }

    pub(crate) fn insert(&self, record: Connection, tally: Arc<Tally>, began: Instant) {
        self.open.borrow_mut().insert(record.id, Open { record, tally, began });
        self.count();
    }

    pub(crate) fn remove(&self, id: u64) {
        self.open.borrow_mut().remove(&id);
        self.count();
    }

    fn count(&self) {
        self.numbers.open.store(self.open.borrow().len(), Relaxed);
    }

    /// The page after this id, [`PAGE`] connections at most, as of `now`.
    pub(crate) fn page(&self, after: u64, now: Instant) -> Page {
        let open = self.open.borrow();
        let page = open.range((Excluded(after), Unbounded)).take(PAGE);
        Page {
            connections: page.map(|(_, open)| filled(&open.record, &open.tally, open.began, now)).collect(),
            newest: open.last_key_value().map_or(0, |(id, _)| *id),
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.open.borrow().len()
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

/// The record, with its byte counts and duration.
pub(crate) fn filled(record: &Connection, tally: &Tally, began: Instant, now: Instant) -> Connection {
    let (bytes_received, bytes_sent) = carried(record.direction, tally);
    let duration_us = u64::try_from(now.saturating_duration_since(began).as_micros()).unwrap_or(u64::MAX);
    Connection { bytes_received, bytes_sent, duration_us, ..record.clone() }
}

#[cfg(test)]
mod tests {
    use underpass_core::testing::connection;

    use super::*;

    #[test]
    fn an_id_is_given_once_and_tells_its_worker() {
        for workers in 1..=4 {
            let all: Vec<_> =
                (0..workers).map(|index| OpenConnections::new(ConnectionIds::new(index, workers))).collect();
            let mut given = std::collections::BTreeSet::new();
            for n in 0..20 * workers {
                let index = n * 7 % workers;
                let id = all[index].next_id();
                assert!(given.insert(id), "{id} twice");
                assert_eq!(worker_of(id, workers), Some(index), "{id} of {workers}");
            }
        }
        assert_eq!(worker_of(0, 2), None);
    }

    #[test]
    fn pages_have_every_connection_once() {
        for many in [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE] {
            let open = OpenConnections::new(ConnectionIds::new(0, 3));
            for _ in 0..many {
                let record = Connection { id: open.next_id(), ..connection("10.0.0.1:9", "10.0.0.2:80") };
                open.insert(record, Arc::default(), Instant::now());
            }
            let (mut after, mut all) = (0, Vec::new());
            loop {
                let page = open.page(after, Instant::now());
                assert!(page.connections.len() <= PAGE);
                let Some(last) = page.connections.last() else { break };
                after = last.id;
                assert!(after <= page.newest);
                all.extend(page.connections.into_iter().map(|connection| connection.id));
            }
            assert!(all.is_sorted(), "{all:?}");
            assert_eq!((all.len(), open.numbers.open().load(Relaxed)), (many, many));
            all.into_iter().for_each(|id| open.remove(id));
            assert_eq!(open.numbers.open().load(Relaxed), 0);
        }
    }
}
