//! One stream and the application's connection that it carries: the task of a connection runs [`Stream::run`].
//!
//! ```text
//!            application: EOF              peer: END_STREAM, everything delivered
//!   Open ----------------------> half ----------------------------------------> Finished
//!     |   (END_STREAM is sent)          (the application's write side is shut)
//!     +-- the application resets: RST_STREAM(CONNECT_ERROR)  -> AppReset
//!     +-- the peer resets, refuses, or the tunnel ends       -> PeerReset, Refused, Tunnel ... : the caller resets the application
//! ```

use std::{fmt, io, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    io::Interest,
    net::TcpStream,
    time::{Instant, sleep_until},
};
use underpass_hbone::{ErrorCode, Headers, SMALL_FRAME};
use underpass_telemetry::metrics;

use super::{
    Inner, MOST_QUEUED_BYTES, Memory, State, Tunnel, TunnelEnd,
    lane::{Lane, StreamEnd, Tally},
};
use crate::{
    budget::{Held, Level},
    socket,
    system::unread,
};

/// One DATA frame per stream and turn.
pub(super) const TURN_BYTES: usize = 64 << 10;
/// What may follow a CONNECT before it is answered, kept so that it can be sent again.
pub(super) const EARLY_BYTES: usize = 64 << 10;

/// Small frames that nobody has shown to have read, from which on more bytes are waited for before the next one: each costs a
/// peer more than its window says, and peers end the whole tunnel where too many are unread.
const MANY_SMALL_FRAMES: u32 = 64;
/// How long that is at most.
pub(super) const GATHER: Duration = Duration::from_millis(10);

/// What the application said before the CONNECT was answered.
#[derive(Debug, Default)]
pub struct Early {
    bytes: Vec<u8>,
    /// How much of it this stream has sent: less than all of it where it is sent again.
    sent: usize,
    /// What it is charged to; nothing, where nothing is kept.
    held: Option<Held>,
}

impl Early {
    /// Of a connection of this pod.
    #[must_use]
    pub fn of(memory: &Memory) -> Self {
        Self { held: Some(memory.held()), ..Self::default() }
    }

    /// For another stream: all of it is to be sent again.
    pub fn rewind(&mut self) {
        self.sent = 0;
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.sent = self.bytes.len();
        if let Some(held) = &mut self.held {
            held.set(self.bytes.capacity());
        }
    }

    fn unsent(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Both halves finished.
    Finished,
    /// The application reset its connection.
    AppReset,
    /// The peer reset the stream: its application did, or it broke a rule.
    PeerReset(ErrorCode),
    /// The peer answered CONNECT with something else than 200.
    Refused(u16),
    /// The peer has provably not looked at the stream: it may be opened again elsewhere.
    Unprocessed,
    /// We gave it up: its application did not take what was there, and the pod's budget of memory is used up.
    Memory,
    /// The tunnel ended.
    Tunnel(TunnelEnd),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("both halves finished"),
            Self::AppReset => f.write_str("the application reset its connection"),
            Self::PeerReset(code) => write!(f, "stream reset by the peer: {code}"),
            Self::Refused(status) => write!(f, "CONNECT refused with status {status}"),
            Self::Unprocessed => f.write_str("stream not processed by the peer"),
            Self::Memory => f.write_str("stream given up: the pod's budget of memory is used up"),
            Self::Tunnel(end) => write!(f, "tunnel ended: {end}"),
        }
    }
}

impl std::error::Error for Ended {}

impl From<Ended> for io::Error {
    fn from(ended: Ended) -> Self {
        let kind = match &ended {
            Ended::Refused(_) => io::ErrorKind::ConnectionRefused,
            Ended::Memory => io::ErrorKind::OutOfMemory,
            Ended::Finished | Ended::Unprocessed | Ended::Tunnel(_) => io::ErrorKind::ConnectionAborted,
            Ended::AppReset | Ended::PeerReset(_) => io::ErrorKind::ConnectionReset,
        };
        Self::new(kind, ended)
    }
}

/// The answer to a CONNECT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// 200, or the stream is refused.
    pub status: u16,
    /// What else was said.
    pub headers: Headers,
}

/// One stream. Dropped before it ended, it is reset.
pub struct Stream {
    pub(super) tunnel: Rc<Inner>,
    pub(super) lane: Rc<Lane>,
    _counted: metrics::Held,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lane.id.fmt(f)
    }
}

/// What one attempt to send came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pumped {
    /// A frame is queued.
    Sent,
    /// The application has nothing to say now.
    Idle,
    /// There is no room: somebody will wake this stream.
    Blocked,
    /// There is little, and more is waited for, until then.
    Gathers(Instant),
    /// The application ended its half.
    Eof,
    /// The application's connection broke.
    AppReset,
}

impl Stream {
    pub(super) fn new(tunnel: Rc<Inner>, lane: Rc<Lane>) -> Self {
        let counted = tunnel.metered.stream();
        Self { tunnel, lane, _counted: counted }
    }

    /// It is one of this tunnel's.
    #[must_use]
    pub fn is_on(&self, tunnel: &Tunnel) -> bool {
        Rc::ptr_eq(&self.tunnel, &tunnel.0)
    }

    /// After this stream came back unprocessed, there is no point in trying that tunnel: it is this very one, or this one
    /// takes no more streams at all, and the other was there before. Tunnels to one peer go away together, when a
    /// certificate expires or the peer ends, and one of them may only not have heard of it.
    #[must_use]
    pub fn rules_out(&self, tunnel: &Tunnel) -> bool {
        let left = self.tunnel.state.borrow().takes_no_more();
        let ended_at = self.lane.ended_at.get().filter(|_| left);
        self.is_on(tunnel) || ended_at.is_some_and(|at| tunnel.0.begun <= at)
    }

    /// Answers a CONNECT. With anything but 200 the stream is over. What was answered before stays as it is.
    pub fn respond(&self, status: u16, headers: &Headers) {
        let mut state = self.tunnel.state.borrow_mut();
        let refused = status != 200;
        // The stream may be gone already; then nobody waits for the answer.
        let answered = state.hbone.respond(self.lane.id, status, headers, refused).is_ok();
        if answered && refused {
            state.hbone.reset(self.lane.id, ErrorCode::NO_ERROR); // stops what the client still sends
        }
        drop(state);
        self.lane.notify(); // from now on there is room to write
        self.tunnel.wake.notify_one();
    }

    /// The answer to our CONNECT, refusals among them. Of a stream that the peer opened, and when it was asked for before,
    /// without headers.
    ///
    /// # Errors
    /// How the stream ended without one.
    pub async fn response(&self) -> Result<Response, Ended> {
        loop {
            if let Some(status) = self.lane.status.get() {
                let headers = self.lane.headers.take().unwrap_or_default();
                return Ok(Response { status, headers });
            }
            if let Some(ended) = self.failure() {
                return Err(ended);
            }
            self.lane.changed().await;
        }
    }

    /// Ends the stream with RST_STREAM.
    pub fn reset(&self, code: ErrorCode) {
        self.tunnel.state.borrow_mut().hbone.reset(self.lane.id, code);
        self.tunnel.wake.notify_one();
    }

    /// Completes when the peer gave the stream up: for an answer that takes its time.
    pub async fn gone(&self) {
        while self.lane.end.borrow().is_none() {
            self.lane.changed().await;
        }
    }

    /// It ended because it held more than there was room for.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        *self.lane.end.borrow() == Some(StreamEnd::Memory)
    }

    /// Carries the application's connection until both halves ended. `early` is kept until the answer comes; a stream
    /// that we answered (or that needs no second try) gets an empty one.
    pub async fn run(&self, app: &Rc<TcpStream>, tally: &Arc<Tally>, early: &mut Early) -> Ended {
        self.lane.attach(Rc::clone(app), Arc::clone(tally));
        let (mut sending, mut receiving) = (true, true);
        let (mut gathering, mut broke) = (None, false);
        loop {
            if let Some(ended) = self.end(&mut sending) {
                if ended == Ended::Memory {
                    self.reset(ErrorCode::ENHANCE_YOUR_CALM);
                }
                return ended;
            }
            self.receive_half(app, &mut receiving);
            if self.lane.status.get().is_some() && early.unsent().is_empty() {
                *early = Early::default(); // answered: nobody asks for it again
                self.lane.headers.take();
            }
            let pumped = match (sending, self.lane.app_failed.get()) {
                (true, failed) => match self.gathers_of(app, early, &mut gathering) {
                    Some(until) if !failed && !broke => Pumped::Gathers(until),
                    _ => self.pump(app, tally, early, failed),
                },
                (false, true) => Pumped::AppReset,
                (false, false) => Pumped::Blocked,
            };
            sending &= pumped != Pumped::Eof;
            if pumped == Pumped::AppReset {
                return self.app_reset();
            }
            if !sending && !receiving {
                return Ended::Finished;
            }
            match pumped {
                Pumped::Sent => {
                    gathering = None;
                    tokio::task::yield_now().await; // the others' turn
                }
                Pumped::Eof | Pumped::AppReset => {}
                Pumped::Idle | Pumped::Blocked => {
                    if self.wait(app, pumped == Pumped::Idle).await {
                        return self.app_reset();
                    }
                }
                Pumped::Gathers(until) => tokio::select! {
                    // What it said before its reset is passed on.
                    reset = self.wait(app, false) => broke |= reset,
                    () = sleep_until(until) => {}
                },
            }
        }
    }

    fn app_reset(&self) -> Ended {
        self.reset(ErrorCode::CONNECT_ERROR);
        Ended::AppReset
    }

    /// Sleeps until something may have changed. True: the application's connection broke.
    async fn wait(&self, app: &TcpStream, reads: bool) -> bool {
        tokio::select! {
            _ = app.readable(), if reads => false,
            // A reset is noticed also while nothing is read.
            _ = app.ready(Interest::ERROR), if !reads => true,
            _ = app.writable(), if self.lane.has_queue() => false,
            () = self.lane.changed() => false,
        }
    }

    /// The next frame would be one small one too many: until when more is waited for. `since`: when that began, until
    /// something is sent.
    fn gathers_of(&self, app: &TcpStream, early: &Early, since: &mut Option<Instant>) -> Option<Instant> {
        let is_small = || early.unsent().is_empty() && unread(app).is_ok_and(|n| (1..SMALL_FRAME).contains(&n));
        self.gathers(is_small, since)
    }

    /// The same, of a frame that would be small if `is_small`.
    pub(super) fn gathers(&self, is_small: impl FnOnce() -> bool, since: &mut Option<Instant>) -> Option<Instant> {
        let many = self.tunnel.state.borrow_mut().hbone.uncredited_small_frames(self.lane.id) >= MANY_SMALL_FRAMES;
        if !many || !is_small() {
            return None;
        }
        let now = Instant::now();
        Some(*since.get_or_insert(now) + GATHER).filter(|until| now < *until)
    }

    /// How the stream ended, if it did and nothing is left to be done. What has come to its own end is delivered,
    /// whatever happens to the tunnel afterwards.
    fn end(&self, sending: &mut bool) -> Option<Ended> {
        let status = self.lane.status.get();
        if let Some(status) = status.filter(|&status| status != 200) {
            return Some(Ended::Refused(status));
        }
        match (status, self.lane.end.borrow().clone()?) {
            // The peer finished, and needs no more of ours (RFC 9113 8.1).
            (_, StreamEnd::Reset(ErrorCode::NO_ERROR)) if self.lane.finished.get() => {
                *sending = false;
                None
            }
            (_, StreamEnd::Memory) => Some(Ended::Memory),
            (_, StreamEnd::Reset(code)) => Some(Ended::PeerReset(code)),
            // Unanswered, so all that was sent was kept.
            (None, StreamEnd::Unprocessed) => Some(Ended::Unprocessed),
            (Some(_), StreamEnd::Unprocessed) => Some(Ended::PeerReset(ErrorCode::REFUSED_STREAM)),
            (_, StreamEnd::Tunnel(_)) if self.lane.finished.get() && !*sending => None,
            (_, StreamEnd::Tunnel(end)) => Some(Ended::Tunnel(end)),
        }
    }

    /// How the stream ended, where that is what stands in the way of reading or writing it: not by both halves finishing.
    pub(super) fn failure(&self) -> Option<Ended> {
        self.end(&mut true)
    }

    /// Delivers what was kept, gives its credit back, and passes the peer's end on.
    fn receive_half(&self, app: &TcpStream, receiving: &mut bool) {
        if self.lane.has_queue() {
            let taken = self.lane.flush();
            if taken > 0 {
                self.tunnel.state.borrow_mut().hbone.consumed(self.lane.id, taken);
                self.tunnel.wake.notify_one();
            }
        }
        if *receiving && self.lane.finished.get() && !self.lane.has_queue() && !self.lane.app_failed.get() {
            *receiving = false;
            // Fails only where the connection is gone, which the next read tells as well.
            let _ = socket::shutdown_write(app);
        }
    }

    /// Too much is queued already: when it has left, this stream is told. Where memory is short no stream queues for a socket that
    /// does not take what is there.
    pub(super) fn waits_for_output(&self, state: &mut State) -> bool {
        let is_short = self.tunnel.memory.level() != Level::Plenty;
        let waits = state.hbone.queued() >= MOST_QUEUED_BYTES || (is_short && !state.out.is_empty());
        if waits {
            state.wait_for_output(&self.lane);
        }
        waits
    }

    /// Memory for a frame, where nothing waits that has some.
    pub(super) fn lend_output(&self, state: &mut State) {
        if state.hbone.queued() == 0 {
            state.hbone.lend(self.tunnel.buffers.take());
        }
    }

    /// One frame from the application, read straight into its place. Of an application that takes no more (`failed`) what
    /// it said before is passed on, and then its reset.
    fn pump(&self, app: &TcpStream, tally: &Tally, early: &mut Early, failed: bool) -> Pumped {
        let mut state = self.tunnel.state.borrow_mut();
        let state = &mut *state;
        if self.waits_for_output(state) {
            return Pumped::Blocked;
        }
        let level = self.tunnel.memory.level();
        let unanswered = self.lane.status.get().is_none();
        let again = early.unsent().len();
        let most = match (again, unanswered) {
            (1.., _) => again.min(TURN_BYTES),
            (0, true) if level == Level::Over => 0,
            (0, true) => EARLY_BYTES.saturating_sub(early.bytes.len()),
            (0, false) => TURN_BYTES,
        };
        if most == 0 {
            return Pumped::Blocked; // the answer wakes it
        }
        self.lend_output(state);
        let pumped = match self.read(state, most, app, tally, early) {
            Pumped::Idle if failed => Pumped::AppReset,
            pumped => pumped,
        };
        match pumped {
            Pumped::Sent | Pumped::Eof => self.tunnel.wake.notify_one(),
            Pumped::Idle | Pumped::Blocked | Pumped::Gathers(_) | Pumped::AppReset => self.tunnel.reclaim_output(state),
        }
        pumped
    }

    /// Makes a frame of at most `most` bytes: of those that are sent again, otherwise of new ones.
    fn read(&self, state: &mut State, most: usize, app: &TcpStream, tally: &Tally, early: &mut Early) -> Pumped {
        // Without room either credit, the answer or the stream's end wakes it.
        let Ok(mut room) = state.hbone.reserve(self.lane.id, most) else { return Pumped::Blocked };
        if !early.unsent().is_empty() {
            let n = copy(early.unsent(), room.bytes());
            early.sent += n;
            room.commit(n, false);
            return Pumped::Sent;
        }
        match app.try_read(room.bytes()) {
            Ok(0) if self.lane.app_failed.get() => Pumped::AppReset,
            Ok(0) => {
                room.commit(0, true);
                Pumped::Eof
            }
            Ok(n) => {
                tally.add_from_app(n);
                if self.lane.status.get().is_none() {
                    early.keep(room.bytes().get(..n).unwrap_or_default());
                }
                room.commit(n, false);
                Pumped::Sent
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Pumped::Idle,
            Err(_) => Pumped::AppReset,
        }
    }
}

fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let n = from.len().min(to.len());
    if let (Some(from), Some(to)) = (from.get(..n), to.get_mut(..n)) {
        to.copy_from_slice(from);
    }
    n
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.lane.detach();
        let mut state = self.tunnel.state.borrow_mut();
        if state.lanes.remove(&self.lane.id).is_some() {
            // Does nothing where both halves ended.
            state.hbone.reset(self.lane.id, ErrorCode::CANCEL);
        }
        drop(state);
        self.tunnel.wake.notify_one();
    }
}
