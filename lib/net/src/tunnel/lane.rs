//! What the driver of a tunnel and the task of a connection share about one stream. The driver writes what it decrypted
//! straight to the application; only what the application does not take is kept here, and its credit with it.

use std::{
    cell::{Cell, OnceCell, RefCell},
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::{net::TcpStream, sync::Notify};
use underpass_hbone::{ErrorCode, StreamId};

use super::TunnelEnd;

/// Bytes of one connection, read by whoever lists connections. Written by one thread only.
#[derive(Debug, Default)]
pub struct Tally {
    to_app: AtomicU64,
    from_app: AtomicU64,
}

impl Tally {
    /// Bytes that the application took.
    #[must_use]
    pub fn to_app(&self) -> u64 {
        self.to_app.load(Relaxed)
    }

    /// Bytes that the application gave.
    #[must_use]
    pub fn from_app(&self) -> u64 {
        self.from_app.load(Relaxed)
    }

    /// Counts. One writer: a load and a store, not a locked instruction.
    pub fn add_to_app(&self, n: usize) {
        self.to_app.store(self.to_app().wrapping_add(n as u64), Relaxed);
    }

    /// Counts.
    pub fn add_from_app(&self, n: usize) {
        self.from_app.store(self.from_app().wrapping_add(n as u64), Relaxed);
    }
}

/// How a stream ended that did not end by both halves finishing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StreamEnd {
    /// RST_STREAM, by the peer or because the peer broke a rule.
    Reset(ErrorCode),
    /// The peer has provably not looked at it.
    Unprocessed,
    /// The whole tunnel ended.
    Tunnel(TunnelEnd),
}

/// The shared part of a stream.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) id: StreamId,
    app: OnceCell<(Rc<TcpStream>, Arc<Tally>)>,
    /// What the application did not take yet.
    queue: RefCell<Vec<u8>>,
    /// The peer has ended its half.
    pub(super) finished: Cell<bool>,
    /// The answer's status, for a stream that we opened.
    pub(super) status: Cell<Option<u16>>,
    pub(super) end: RefCell<Option<StreamEnd>>,
    /// The application's socket failed while the driver wrote to it.
    pub(super) app_failed: Cell<bool>,
    /// One of the above has changed, or there may be room to send.
    pub(super) wake: Notify,
}

impl Lane {
    pub(super) fn new(id: StreamId) -> Self {
        Self {
            id,
            app: OnceCell::new(),
            queue: RefCell::default(),
            finished: Cell::new(false),
            status: Cell::new(None),
            end: RefCell::new(None),
            app_failed: Cell::new(false),
            wake: Notify::new(),
        }
    }

    pub(super) fn attach(&self, app: Rc<TcpStream>, tally: Arc<Tally>) {
        // Attached once per stream; a second time would be a defect of this crate, and the first stays.
        let _ = self.app.set((app, tally));
    }

    pub(super) fn has_queue(&self) -> bool {
        !self.queue.borrow().is_empty()
    }

    /// From the driver: payload for the application. Returns how much of it is done with; the rest is kept.
    pub(super) fn deliver(&self, data: &[u8]) -> usize {
        if self.app_failed.get() {
            return data.len();
        }
        let taken = if self.has_queue() { 0 } else { self.write(data) };
        let rest = data.get(taken..).unwrap_or_default();
        if self.app_failed.get() {
            self.wake.notify_one();
            return data.len();
        }
        if !rest.is_empty() {
            self.queue.borrow_mut().extend_from_slice(rest);
            self.wake.notify_one();
        }
        taken
    }

    /// Writes what is kept. Returns how many bytes left.
    pub(super) fn flush(&self) -> usize {
        let mut queue = self.queue.borrow_mut();
        let taken = self.write(&queue);
        let gone = taken.min(queue.len());
        queue.drain(..gone);
        if queue.is_empty() {
            *queue = Vec::new(); // an idle connection holds no buffer
        }
        taken
    }

    fn write(&self, data: &[u8]) -> usize {
        let Some((app, tally)) = self.app.get() else { return 0 };
        let mut taken = 0;
        while let Some(rest) = data.get(taken..).filter(|rest| !rest.is_empty()) {
            match app.try_write(rest) {
                Ok(n) => taken = taken.saturating_add(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.app_failed.set(true);
                    break;
                }
            }
        }
        tally.add_to_app(taken);
        taken
    }

    pub(super) fn end_with(&self, end: StreamEnd) {
        self.end.borrow_mut().get_or_insert(end);
        self.wake.notify_one();
    }
}
