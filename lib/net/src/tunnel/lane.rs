//! What the driver of a tunnel and the task of a connection share about one stream. The driver writes what it decrypted
//! straight to the application; only what the application does not take is kept here, and its credit with it.

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
use crate::budget::Held;

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
pub(super) struct Lane {
    pub(super) id: StreamId,
    /// The peer has opened it.
    pub(super) is_accepted: bool,
    app: RefCell<Option<App>>,
    /// What the application did not take yet.
    queue: RefCell<VecDeque<u8>>,
    /// Whom that is charged to, how much it is, and its place among those that wait.
    memory: Memory,
    held: RefCell<Held>,
    stalled: Cell<Option<u64>>,
    /// The peer has ended its half.
    pub(super) finished: Cell<bool>,
    /// The answer's status. A stream that the peer opened needs none, and has 200 from the beginning.
    pub(super) status: Cell<Option<u16>>,
    /// What the answer said beside it, until it is asked for.
    pub(super) headers: RefCell<Option<Headers>>,
    pub(super) end: RefCell<Option<StreamEnd>>,
    /// When it ended.
    pub(super) ended_at: Cell<Option<Instant>>,
    /// The application's socket failed while it was written to.
    pub(super) app_failed: Cell<bool>,
    /// It is among those who wait for the tunnel's output to be written.
    pub(super) waits: Cell<bool>,
    /// One of the above has changed, or there may be room to send: for the task that awaits it.
    wake: Notify,
    /// How often that was.
    changes: Cell<u32>,
    /// The same, for those who are polled.
    pub(super) reader: RefCell<Option<Waker>>,
    pub(super) writer: RefCell<Option<Waker>>,
}

impl Lane {
    fn new(id: StreamId, status: Option<u16>, finished: bool, memory: &Memory) -> Self {
        Self {
            id,
            is_accepted: status.is_some(),
            app: RefCell::default(),
            queue: RefCell::default(),
            held: RefCell::new(memory.held()),
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

    /// Of a stream that we opened.
    pub(super) fn opened(id: StreamId, memory: &Memory) -> Self {
        Self::new(id, None, false, memory)
    }

    /// Of a stream that the peer opened, and whose half may have ended with that.
    pub(super) fn accepted(id: StreamId, finished: bool, memory: &Memory) -> Self {
        Self::new(id, Some(200), finished, memory)
    }

    /// Something about it has changed.
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

    /// Lets go of the application's socket, which others may want to close, and of what it has not taken.
    pub(super) fn detach(&self) {
        *self.app.borrow_mut() = None;
        self.forget();
    }

    /// It holds more than there is room for, and its turn has come.
    pub(super) fn give_up(&self) {
        self.forget();
        self.end_with(StreamEnd::Memory);
    }

    fn forget(&self) {
        *self.queue.borrow_mut() = VecDeque::new();
        self.held.borrow_mut().set(0);
        if let Some(place) = self.stalled.take() {
            self.memory.moves(place);
        }
    }

    /// What is kept has changed; `took`: the application took something of it.
    fn charge(self: &Rc<Self>, took: bool) {
        let (is_empty, memory) = (self.queue.borrow().is_empty(), self.queue.borrow().capacity());
        self.held.borrow_mut().set(memory);
        match (is_empty, self.stalled.get()) {
            (true, Some(place)) => {
                self.memory.moves(place);
                self.stalled.set(None);
            }
            (false, None) => self.stalled.set(Some(self.memory.stalls(self, None))),
            (false, place) if took => self.stalled.set(Some(self.memory.stalls(self, place))),
            _ => {}
        }
    }

    pub(super) fn has_queue(&self) -> bool {
        !self.queue.borrow().is_empty()
    }

    /// How many bytes are kept.
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

    /// From the driver: payload for the application. Returns how much of it is done with; the rest is kept.
    pub(super) fn deliver(self: &Rc<Self>, data: &[u8]) -> usize {
        let taken = if self.has_queue() { 0 } else { self.write(data) };
        if self.app_failed.get() {
            self.notify();
            return data.len();
        }
        if self.end.borrow().is_some() {
            return data.len(); // given up: nobody will take it
        }
        if let Some(rest) = data.get(taken..).filter(|rest| !rest.is_empty()) {
            self.queue.borrow_mut().extend(rest);
            self.charge(false);
            self.memory.make_room();
            self.notify();
        }
        taken
    }

    /// Hands what is kept to `take`, at most so many bytes. Returns how many those were.
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

    /// Writes what is kept. Returns how many bytes left.
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
