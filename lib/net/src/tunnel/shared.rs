//! The part of a stream that the driver of its tunnel and the task of its connection share. The driver writes decrypted
//! payload straight to the application; only what the application does not take is queued here, and its credit with it.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
};

use tokio::{net::TcpStream, sync::Notify, time::Instant};
use underpass_hbone::{ErrorCode, Headers, StreamId};

use super::{Memory, TunnelEnd};
use crate::budget::Reservation;

/// Byte counters of one connection. Written by one thread, read by others as well.
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

    /// Counts bytes that the application took. One writer: a load and a store, not a locked instruction.
    pub fn add_to_app(&self, n: usize) {
        self.to_app.store(self.to_app().wrapping_add(n as u64), Relaxed);
    }

    /// Counts bytes that the application gave.
    pub fn add_from_app(&self, n: usize) {
        self.from_app.store(self.from_app().wrapping_add(n as u64), Relaxed);
    }
}

/// The end of a stream whose halves did not both finish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StreamEnd {
    /// RST_STREAM, by the peer or because the peer broke a rule.
    Reset(ErrorCode),
    /// The peer has provably not processed it.
    Unprocessed,
    /// The pod's budget of memory is used up, and this one's application has taken nothing for longest.
    Memory,
    /// The whole tunnel ended.
    Tunnel(TunnelEnd),
}

/// The application's connection, and where its bytes are counted.
#[derive(Debug)]
struct App {
    socket: Rc<TcpStream>,
    tally: Arc<Tally>,
}

/// The shared part of a stream.
#[derive(Debug)]
pub(super) struct SharedStream {
    pub(super) id: StreamId,
    /// The peer has opened it.
    pub(super) is_accepted: bool,
    app: RefCell<Option<App>>,
    /// Payload that the application has not taken yet.
    queue: RefCell<VecDeque<u8>>,
    /// What the queue is charged to, its reservation, and its position among the stalled streams.
    memory: Memory,
    reservation: RefCell<Reservation>,
    stalled: Cell<Option<u64>>,
    /// The peer has ended its half.
    pub(super) finished: Cell<bool>,
    /// The answer's status. A stream that the peer opened needs none, and has 200 from the beginning.
    pub(super) status: Cell<Option<u16>>,
    /// The answer's headers, until they are asked for.
    pub(super) headers: RefCell<Option<Headers>>,
    pub(super) end: RefCell<Option<StreamEnd>>,
    /// When it ended.
    pub(super) ended_at: Cell<Option<Instant>>,
    /// The application's socket failed while it was written to.
    pub(super) app_failed: Cell<bool>,
    /// It is among the streams that wait for the tunnel's output to be written.
    pub(super) waits: Cell<bool>,
    /// Wakes the task that awaits a change: one of the above, or perhaps room to send.
    wake: Notify,
    /// The number of changes.
    changes: Cell<u32>,
    /// Wakers of polled readers and writers, for the same.
    pub(super) reader: RefCell<Option<Waker>>,
    pub(super) writer: RefCell<Option<Waker>>,
}

impl SharedStream {
    fn new(id: StreamId, status: Option<u16>, finished: bool, memory: &Memory) -> Self {
        Self {
            id,
            is_accepted: status.is_some(),
            app: RefCell::default(),
            queue: RefCell::default(),
            reservation: RefCell::new(memory.reservation()),
            memory: memory.clone(),
            stalled: Cell::new(None),
            finished: Cell::new(finished),
            status: Cell::new(status),
            headers: RefCell::default(),
            end: RefCell::default(),
            ended_at: Cell::new(None),
            app_failed: Cell::new(false),
            waits: Cell::new(false),
            wake: Notify::new(),
            changes: Cell::new(0),
            reader: RefCell::default(),
            writer: RefCell::default(),
        }
    }

    /// A stream that we opened.
    pub(super) fn opened(id: StreamId, memory: &Memory) -> Self {
        Self::new(id, None, false, memory)
    }

    /// A stream that the peer opened, and whose half may have ended with that.
    pub(super) fn accepted(id: StreamId, finished: bool, memory: &Memory) -> Self {
        Self::new(id, Some(200), finished, memory)
    }

    /// Announces a change.
    pub(super) fn notify(&self) {
        self.changes.set(self.changes().wrapping_add(1));
        self.wake.notify_one();
        [&self.reader, &self.writer].into_iter().filter_map(RefCell::take).for_each(Waker::wake);
    }

    /// Another number after every change.
    pub(super) fn changes(&self) -> u32 {
        self.changes.get()
    }

    /// Completes when something has changed since it completed before.
    pub(super) async fn changed(&self) {
        self.wake.notified().await;
    }

    pub(super) fn attach(&self, socket: Rc<TcpStream>, tally: Arc<Tally>) {
        *self.app.borrow_mut() = Some(App { socket, tally });
    }

    /// Releases the application's socket, which others may want to close, and the queue.
    pub(super) fn detach(&self) {
        *self.app.borrow_mut() = None;
        self.drop_queue();
    }

    /// Ends it to make room for others: it has been stalled for longest.
    pub(super) fn give_up(&self) {
        self.drop_queue();
        self.end_with(StreamEnd::Memory);
    }

    fn drop_queue(&self) {
        *self.queue.borrow_mut() = VecDeque::new();
        self.reservation.borrow_mut().set(0);
        if let Some(position) = self.stalled.take() {
            self.memory.remove_stalled(position);
        }
    }

    /// Charges a changed queue; `took`: the application took something of it.
    fn charge(self: &Rc<Self>, took: bool) {
        let (is_empty, memory) = (self.queue.borrow().is_empty(), self.queue.borrow().capacity());
        self.reservation.borrow_mut().set(memory);
        match (is_empty, self.stalled.get()) {
            (true, Some(position)) => {
                self.memory.remove_stalled(position);
                self.stalled.set(None);
            }
            (false, None) => self.stalled.set(Some(self.memory.add_stalled(self, None))),
            (false, before) if took => self.stalled.set(Some(self.memory.add_stalled(self, before))),
            _ => {}
        }
    }

    pub(super) fn has_queue(&self) -> bool {
        !self.queue.borrow().is_empty()
    }

    /// Bytes in the queue.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn queued(&self) -> usize {
        self.queue.borrow().len()
    }

    /// Memory for them.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn held_bytes(&self) -> usize {
        self.queue.borrow().capacity()
    }

    /// The peer has answered.
    pub(super) fn answered(&self, status: u16, headers: Headers) {
        self.status.set(Some(status));
        *self.headers.borrow_mut() = Some(headers);
    }

    pub(super) fn finish(&self) {
        self.finished.set(true);
        self.notify();
    }

    pub(super) fn end_with(&self, end: StreamEnd) {
        self.end.borrow_mut().get_or_insert(end);
        self.ended_at.set(self.ended_at.get().or_else(|| Some(Instant::now())));
        self.notify();
    }

    /// From the driver: payload for the application. Returns how much of it is done with; the rest is queued.
    pub(super) fn deliver(self: &Rc<Self>, data: &[u8]) -> usize {
        let taken = if self.has_queue() { 0 } else { self.write(data) };
        if self.app_failed.get() {
            self.notify();
            return data.len();
        }
        if self.end.borrow().is_some() {
            return data.len(); // ended: dropped
        }
        if let Some(rest) = data.get(taken..).filter(|rest| !rest.is_empty()) {
            self.queue.borrow_mut().extend(rest);
            self.charge(false);
            self.memory.make_room();
            self.notify();
        }
        taken
    }

    /// Hands at most `most` bytes of the queue to `take`. Returns how many those were.
    pub(super) fn take(self: &Rc<Self>, most: usize, mut take: impl FnMut(&[u8])) -> usize {
        let mut queue = self.queue.borrow_mut();
        let n = most.min(queue.len());
        let (front, back) = queue.as_slices();
        let of_front = n.min(front.len());
        take(front.get(..of_front).unwrap_or_default());
        take(back.get(..n - of_front).unwrap_or_default());
        queue.drain(..n);
        if queue.is_empty() {
            *queue = VecDeque::new(); // as below
        }
        drop(queue);
        if n > 0 {
            self.charge(true);
        }
        n
    }

    /// Writes the queue to the application. Returns how many bytes it took.
    pub(super) fn flush(self: &Rc<Self>) -> usize {
        let taken = self.write_queue();
        if taken > 0 {
            self.charge(true);
        }
        taken
    }

    fn write_queue(&self) -> usize {
        let mut queue = self.queue.borrow_mut();
        let mut taken = 0;
        loop {
            let (front, _) = queue.as_slices();
            let n = self.write(front);
            taken += n;
            let all = n == front.len();
            queue.drain(..n);
            if queue.is_empty() {
                *queue = VecDeque::new(); // an idle connection holds no buffer
                return taken;
            }
            if !all {
                return taken;
            }
        }
    }

    /// Writes what the application takes now; nothing before there is one, nor after it failed.
    fn write(&self, data: &[u8]) -> usize {
        let app = self.app.borrow();
        let Some(App { socket, tally }) = app.as_ref().filter(|_| !self.app_failed.get()) else { return 0 };
        let mut taken = 0;
        while let Some(rest) = data.get(taken..).filter(|rest| !rest.is_empty()) {
            match socket.try_write(rest) {
                Ok(n) => taken += n,
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
}
