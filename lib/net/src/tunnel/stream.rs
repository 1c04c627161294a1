//! Streams of a tunnel, each with the application's connection that it carries: the task of a connection runs [`Stream::run`].
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
    shared::{SharedStream, StreamEnd, Tally},
};
use crate::{
    budget::{Level, Reservation},
    socket,
    system::unread,
};

/// One DATA frame per stream and turn.
pub(super) const TURN_BYTES: usize = 64 << 10;
/// The most early data: bytes that follow a CONNECT before it is answered, kept so that they can be sent again.
pub(super) const EARLY_BYTES: usize = 64 << 10;

/// Number of small frames without returned credit from which on the next one waits for more bytes: each costs a peer more than
/// its window says, and peers end the whole tunnel where too many are unread.
const MANY_SMALL_FRAMES: u32 = 64;
/// The longest such wait.
pub(super) const GATHER: Duration = Duration::from_millis(10);

/// Early data: what the application sent before the CONNECT was answered.
#[derive(Debug, Default)]
pub struct EarlyData {
    bytes: Vec<u8>,
    /// How much of it this stream has sent: less than all of it where it is sent again.
    sent: usize,
    /// Its reservation; none where nothing is kept.
    reservation: Option<Reservation>,
}

impl EarlyData {
    /// The early data of a connection of this pod.
    #[must_use]
    pub fn of(memory: &Memory) -> Self {
        Self { reservation: Some(memory.reservation()), ..Self::default() }
    }

    /// Prepares it for another stream, which sends all of it again.
    pub fn rewind(&mut self) {
        self.sent = 0;
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.sent = self.bytes.len();
        if let Some(reservation) = &mut self.reservation {
            reservation.set(self.bytes.capacity());
        }
    }

    fn unsent(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }
}

/// The end of a stream.
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
    /// The peer has provably not processed the stream: it may be opened again elsewhere.
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
    /// Its headers.
    pub headers: Headers,
}

/// One stream. Dropped before it ended, it is reset.
pub struct Stream {
    pub(super) tunnel: Rc<Inner>,
    pub(super) shared: Rc<SharedStream>,
    _open: metrics::GaugeGuard,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.id.fmt(f)
    }
}

/// The result of one attempt to send.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pumped {
    /// A frame is queued.
    Sent,
    /// The application has sent nothing.
    Idle,
    /// There is no room: credit, the tunnel's output or the answer wakes this stream.
    Blocked,
    /// There is little, and it waits for more, until then.
    Gathers(Instant),
    /// The application ended its half.
    Eof,
    /// The application's connection broke.
    AppReset,
}

impl Stream {
    pub(super) fn new(tunnel: Rc<Inner>, shared: Rc<SharedStream>) -> Self {
        let open = tunnel.meter.stream();
        Self { tunnel, shared, _open: open }
    }

    /// True for a stream of this tunnel.
    #[must_use]
    pub fn is_on(&self, tunnel: &Tunnel) -> bool {
        Rc::ptr_eq(&self.tunnel, &tunnel.0)
    }

    /// After this stream came back unprocessed, there is no point in trying that tunnel: it is this very one, or this one
    /// takes no more streams at all, and the other was there before. Tunnels to one peer go away together, when a
    /// certificate expires or the peer ends, and GOAWAY may only not have reached one of them yet.
    #[must_use]
    pub fn rules_out(&self, tunnel: &Tunnel) -> bool {
        let left = self.tunnel.state.borrow().takes_no_more();
        let ended_at = self.shared.ended_at.get().filter(|_| left);
        self.is_on(tunnel) || ended_at.is_some_and(|at| tunnel.0.begun <= at)
    }

    /// Answers a CONNECT. With anything but 200 the stream is over. What was answered before stays as it is.
    pub fn respond(&self, status: u16, headers: &Headers) {
        let mut state = self.tunnel.state.borrow_mut();
        let refused = status != 200;
        // Fails where the stream is gone already, and its client with it.
        let answered = state.hbone.respond(self.shared.id, status, headers, refused).is_ok();
        if answered && refused {
            state.hbone.reset(self.shared.id, ErrorCode::NO_ERROR); // stops what the client still sends
        }
        drop(state);
        self.shared.notify(); // from now on there is room to write
        self.tunnel.wake.notify_one();
    }

    /// The answer to our CONNECT, refusals among them. Without headers for a stream that the peer opened, and after the first
    /// call.
    ///
    /// # Errors
    /// The end of a stream without one.
    pub async fn response(&self) -> Result<Response, Ended> {
        loop {
            if let Some(status) = self.shared.status.get() {
                let headers = self.shared.headers.take().unwrap_or_default();
                return Ok(Response { status, headers });
            }
            if let Some(ended) = self.failure() {
                return Err(ended);
            }
            self.shared.changed().await;
        }
    }

    /// Ends the stream with RST_STREAM.
    pub fn reset(&self, code: ErrorCode) {
        self.tunnel.state.borrow_mut().hbone.reset(self.shared.id, code);
        self.tunnel.wake.notify_one();
    }

    /// Completes when the stream has ended: for an answer that takes its time.
    pub async fn gone(&self) {
        while self.shared.end.borrow().is_none() {
            self.shared.changed().await;
        }
    }

    /// True if it was given up because the pod's budget of memory is used up.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        *self.shared.end.borrow() == Some(StreamEnd::Memory)
    }

    /// Carries the application's connection until both halves ended. `early` is kept until the answer comes; a stream
    /// that we answered (or that needs no second try) gets an empty one.
    pub async fn run(&self, app: &Rc<TcpStream>, tally: &Arc<Tally>, early: &mut EarlyData) -> Ended {
        self.shared.attach(Rc::clone(app), Arc::clone(tally));
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
            if self.shared.status.get().is_some() && early.unsent().is_empty() {
                *early = EarlyData::default(); // answered: it is not sent again
                self.shared.headers.take();
            }
            let pumped = match (sending, self.shared.app_failed.get()) {
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
                    // What it sent before its reset is passed on.
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

    /// Sleeps until something may have changed. True if the application's connection broke.
    async fn wait(&self, app: &TcpStream, reads: bool) -> bool {
        tokio::select! {
            _ = app.readable(), if reads => false,
            // A reset is noticed also while nothing is read.
            _ = app.ready(Interest::ERROR), if !reads => true,
            _ = app.writable(), if self.shared.has_queue() => false,
            () = self.shared.changed() => false,
        }
    }

    /// Where the next frame would be one small one too many: the time until which it waits for more bytes. `since`: when that
    /// began, until something is sent.
    fn gathers_of(&self, app: &TcpStream, early: &EarlyData, since: &mut Option<Instant>) -> Option<Instant> {
        let is_small = || early.unsent().is_empty() && unread(app).is_ok_and(|n| (1..SMALL_FRAME).contains(&n));
        self.gathers(is_small, since)
    }

    /// The same, of a frame that would be small if `is_small`.
    pub(super) fn gathers(&self, is_small: impl FnOnce() -> bool, since: &mut Option<Instant>) -> Option<Instant> {
        let many = self.tunnel.state.borrow_mut().hbone.uncredited_small_frames(self.shared.id) >= MANY_SMALL_FRAMES;
        if !many || !is_small() {
            return None;
        }
        let now = Instant::now();
        Some(*since.get_or_insert(now) + GATHER).filter(|until| now < *until)
    }

    /// The end of the stream, if it has ended and nothing is left to be done. A half that has finished is delivered, also where
    /// the tunnel ends afterwards.
    fn end(&self, sending: &mut bool) -> Option<Ended> {
        let status = self.shared.status.get();
        if let Some(status) = status.filter(|&status| status != 200) {
            return Some(Ended::Refused(status));
        }
        match (status, self.shared.end.borrow().clone()?) {
            // The peer finished, and needs no more of ours (RFC 9113 8.1).
            (_, StreamEnd::Reset(ErrorCode::NO_ERROR)) if self.shared.finished.get() => {
                *sending = false;
                None
            }
            (_, StreamEnd::Memory) => Some(Ended::Memory),
            (_, StreamEnd::Reset(code)) => Some(Ended::PeerReset(code)),
            // Unanswered, so all that was sent was kept.
            (None, StreamEnd::Unprocessed) => Some(Ended::Unprocessed),
            (Some(_), StreamEnd::Unprocessed) => Some(Ended::PeerReset(ErrorCode::REFUSED_STREAM)),
            (_, StreamEnd::Tunnel(_)) if self.shared.finished.get() && !*sending => None,
            (_, StreamEnd::Tunnel(end)) => Some(Ended::Tunnel(end)),
        }
    }

    /// The end of the stream where it makes reading and writing fail: not by both halves finishing.
    pub(super) fn failure(&self) -> Option<Ended> {
        self.end(&mut true)
    }

    /// Delivers the queue, gives its credit back, and passes the peer's end on.
    fn receive_half(&self, app: &TcpStream, receiving: &mut bool) {
        if self.shared.has_queue() {
            let taken = self.shared.flush();
            if taken > 0 {
                self.tunnel.state.borrow_mut().hbone.consumed(self.shared.id, taken);
                self.tunnel.wake.notify_one();
            }
        }
        if *receiving && self.shared.finished.get() && !self.shared.has_queue() && !self.shared.app_failed.get() {
            *receiving = false;
            // Fails only where the connection is gone, which the next read tells as well.
            let _ = socket::shutdown_write(app);
        }
    }

    /// True if too much is queued already: this stream is woken when it has left. Where memory is short no stream queues for a
    /// socket that does not take what is there.
    pub(super) fn waits_for_output(&self, state: &mut State) -> bool {
        let is_short = self.tunnel.memory.level() != Level::Plenty;
        let waits = state.hbone.queued() >= MOST_QUEUED_BYTES || (is_short && !state.out.is_empty());
        if waits {
            state.wait_for_output(&self.shared);
        }
        waits
    }

    /// Lends a buffer for output, unless queued output has one.
    pub(super) fn lend_output(&self, state: &mut State) {
        if state.hbone.queued() == 0 {
            state.hbone.lend(self.tunnel.buffers.take());
        }
    }

    /// Queues one frame from the application, read straight into the output. Of an application that takes no more (`failed`)
    /// what it sent before is passed on, and then its reset.
    fn pump(&self, app: &TcpStream, tally: &Tally, early: &mut EarlyData, failed: bool) -> Pumped {
        let mut state = self.tunnel.state.borrow_mut();
        let state = &mut *state;
        if self.waits_for_output(state) {
            return Pumped::Blocked;
        }
        let level = self.tunnel.memory.level();
        let unanswered = self.shared.status.get().is_none();
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

    /// Makes a frame of at most `most` bytes: of early data that is sent again, otherwise of new bytes.
    fn read(&self, state: &mut State, most: usize, app: &TcpStream, tally: &Tally, early: &mut EarlyData) -> Pumped {
        // Without room either credit, the answer or the stream's end wakes it.
        let Ok(mut room) = state.hbone.reserve(self.shared.id, most) else { return Pumped::Blocked };
        if !early.unsent().is_empty() {
            let n = copy(early.unsent(), room.bytes());
            early.sent += n;
            room.commit(n, false);
            return Pumped::Sent;
        }
        match app.try_read(room.bytes()) {
            Ok(0) if self.shared.app_failed.get() => Pumped::AppReset,
            Ok(0) => {
                room.commit(0, true);
                Pumped::Eof
            }
            Ok(n) => {
                tally.add_from_app(n);
                if self.shared.status.get().is_none() {
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
        self.shared.detach();
        let mut state = self.tunnel.state.borrow_mut();
        if state.streams.remove(&self.shared.id).is_some() {
            // Does nothing where both halves ended.
            state.hbone.reset(self.shared.id, ErrorCode::CANCEL);
        }
        drop(state);
        self.tunnel.wake.notify_one();
    }
}
