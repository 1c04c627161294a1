//! One stream and the application's connection that it carries: the task of a connection runs [`Stream::run`].
//!
//! ```text
//!            application: EOF              peer: END_STREAM, everything delivered
//!   Open ----------------------> half ----------------------------------------> Finished
//!     |   (END_STREAM is sent)          (the application's write side is shut)
//!     +-- the application resets: RST_STREAM(CONNECT_ERROR)  -> AppReset
//!     +-- the peer resets, refuses, or the tunnel ends       -> PeerReset, Refused, Tunnel ... : the caller resets the application
//! ```

use std::{io, rc::Rc, sync::Arc};

use tokio::{io::Interest, net::TcpStream};
use underpass_hbone::{Blocked, ErrorCode, Headers};

use super::{
    Inner, MOST_QUEUED_BYTES, TunnelEnd,
    lane::{Lane, StreamEnd, Tally},
};
use crate::socket;

/// One DATA frame per stream and turn.
const TURN_BYTES: usize = 64 << 10;
/// What may follow a CONNECT before it is answered, kept so that it can be sent again.
const EARLY_BYTES: usize = 64 << 10;

/// What the application said before the CONNECT was answered.
#[derive(Debug, Default)]
pub struct Early {
    bytes: Vec<u8>,
    /// How much of it this stream has sent: less than all of it where it is sent again.
    sent: usize,
    /// The application had ended its half.
    eof: bool,
}

impl Early {
    /// For another stream: all of it is to be sent again.
    pub fn rewind(&mut self) {
        self.sent = 0;
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
    /// The tunnel ended.
    Tunnel(TunnelEnd),
}

/// One stream. Dropped before it ended, it is reset.
pub struct Stream {
    tunnel: Rc<Inner>,
    lane: Rc<Lane>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.lane.id.fmt(f)
    }
}

/// What one attempt to send came to.
enum Pumped {
    /// A frame is queued.
    Sent,
    /// The application has nothing to say now.
    Idle,
    /// There is no room: somebody will wake this stream.
    Blocked,
    /// The application ended its half.
    Eof,
    /// The application's connection broke.
    AppReset,
}

impl Stream {
    pub(super) fn new(tunnel: Rc<Inner>, lane: Rc<Lane>) -> Self {
        Self { tunnel, lane }
    }

    /// It is one of this tunnel's.
    #[must_use]
    pub fn is_on(&self, tunnel: &super::Tunnel) -> bool {
        Rc::ptr_eq(&self.tunnel, &tunnel.0)
    }

    /// Answers a CONNECT. With anything but 200 the stream is over.
    pub fn respond(&self, status: u16, headers: &Headers) {
        let mut state = self.tunnel.state.borrow_mut();
        let refused = status != 200;
        // The stream may be gone already; then nobody waits for the answer.
        let _ = state.hbone.respond(self.lane.id, status, headers, refused);
        if refused {
            state.hbone.reset(self.lane.id, ErrorCode::NO_ERROR); // stops what the client still sends
        }
        drop(state);
        self.tunnel.wake.notify_one();
    }

    /// Ends the stream with RST_STREAM.
    pub fn reset(&self, code: ErrorCode) {
        self.tunnel.state.borrow_mut().hbone.reset(self.lane.id, code);
        self.tunnel.wake.notify_one();
    }

    /// Completes when the peer gave the stream up: for an answer that takes its time.
    pub async fn gone(&self) {
        while self.lane.end.borrow().is_none() {
            self.lane.wake.notified().await;
        }
    }

    /// Carries the application's connection until both halves ended. `early` is kept until the answer comes; a stream
    /// that we answered (or that needs no second try) gets an empty one.
    pub async fn run(&self, app: &Rc<TcpStream>, tally: &Arc<Tally>, early: &mut Early) -> Ended {
        self.lane.attach(Rc::clone(app), Arc::clone(tally));
        let (mut sending, mut receiving) = (true, true);
        loop {
            if let Some(ended) = self.end() {
                return ended;
            }
            let app_reset = self.receive_half(app, &mut receiving);
            let pumped = if sending && !app_reset { self.pump(app, tally, early) } else { Pumped::Idle };
            if app_reset || matches!(pumped, Pumped::AppReset) {
                self.reset(ErrorCode::CONNECT_ERROR);
                return Ended::AppReset;
            }
            sending &= !matches!(pumped, Pumped::Eof);
            if !sending && !receiving {
                return Ended::Finished;
            }
            match pumped {
                Pumped::Sent => tokio::task::yield_now().await, // the others' turn
                Pumped::Eof => {}
                _ => {
                    let reads = sending && !matches!(pumped, Pumped::Blocked);
                    if self.wait(app, reads).await {
                        self.reset(ErrorCode::CONNECT_ERROR);
                        return Ended::AppReset;
                    }
                }
            }
        }
    }

    /// Sleeps until something may have changed. True: the application's connection broke.
    async fn wait(&self, app: &TcpStream, reads: bool) -> bool {
        tokio::select! {
            _ = app.readable(), if reads => false,
            // A reset is noticed also while nothing is read.
            _ = app.ready(Interest::ERROR), if !reads => true,
            _ = app.writable(), if self.lane.has_queue() => false,
            () = self.lane.wake.notified() => false,
        }
    }

    fn end(&self) -> Option<Ended> {
        let end = self.lane.end.borrow().clone();
        let status = self.lane.status.get();
        match (end, status) {
            (_, Some(status)) if status != 200 => Some(Ended::Refused(status)),
            // The peer finished and needs no more of ours (RFC 9113 8.1): what came is delivered first.
            (Some(StreamEnd::Reset(ErrorCode::NO_ERROR)), _) if self.lane.finished.get() => {
                (!self.lane.has_queue()).then_some(Ended::Finished)
            }
            (Some(StreamEnd::Reset(code)), _) => Some(Ended::PeerReset(code)),
            // Unanswered, so all that was sent was kept.
            (Some(StreamEnd::Unprocessed), None) => Some(Ended::Unprocessed),
            (Some(StreamEnd::Unprocessed), _) => Some(Ended::PeerReset(ErrorCode::REFUSED_STREAM)),
            (Some(StreamEnd::Tunnel(end)), _) => Some(Ended::Tunnel(end)),
            (None, _) => None,
        }
    }

    /// Delivers what was kept, gives its credit back, and passes the peer's end on. True: the application is gone.
    fn receive_half(&self, app: &TcpStream, receiving: &mut bool) -> bool {
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
        self.lane.app_failed.get()
    }

    /// One frame from the application, read straight into its place.
    fn pump(&self, app: &TcpStream, tally: &Tally, early: &mut Early) -> Pumped {
        let unanswered = self.tunnel.acceptor.is_none() && self.lane.status.get().is_none();
        if !unanswered && early.sent == early.bytes.len() && !early.bytes.is_empty() {
            *early = Early::default();
        }
        let mut state = self.tunnel.state.borrow_mut();
        if state.hbone.queued() >= MOST_QUEUED_BYTES {
            state.waiting.push_back(Rc::clone(&self.lane));
            return Pumped::Blocked;
        }
        let again = early.bytes.len().saturating_sub(early.sent);
        let most = match (again, unanswered) {
            (1.., _) => again.min(TURN_BYTES),
            (0, true) => EARLY_BYTES.saturating_sub(early.bytes.len()),
            (0, false) => TURN_BYTES,
        };
        if most == 0 && !early.eof {
            return Pumped::Blocked; // the answer wakes it
        }
        if early.eof && again == 0 {
            state.hbone.finish(self.lane.id);
            drop(state);
            self.tunnel.wake.notify_one();
            return Pumped::Eof;
        }
        let mut room = match state.hbone.reserve(self.lane.id, most) {
            Ok(room) => room,
            Err(Blocked::Window | Blocked::Unanswered) => return Pumped::Blocked,
            Err(Blocked::Ended) => return Pumped::Blocked, // its end wakes it
        };
        let pumped = if again > 0 {
            let n = copy(early.bytes.get(early.sent..).unwrap_or_default(), room.bytes());
            early.sent = early.sent.saturating_add(n);
            room.commit(n, false);
            Pumped::Sent
        } else {
            match app.try_read(room.bytes()) {
                Ok(0) => {
                    early.eof = unanswered;
                    room.commit(0, true);
                    Pumped::Eof
                }
                Ok(n) => {
                    tally.add_from_app(n);
                    if unanswered {
                        early.bytes.extend(room.bytes().iter().take(n));
                        early.sent = early.bytes.len();
                    }
                    room.commit(n, false);
                    Pumped::Sent
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Pumped::Idle,
                Err(_) => return Pumped::AppReset,
            }
        };
        drop(state);
        self.tunnel.wake.notify_one();
        pumped
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
        let mut state = self.tunnel.state.borrow_mut();
        if state.lanes.remove(&self.lane.id).is_some() {
            // Does nothing where both halves ended.
            state.hbone.reset(self.lane.id, ErrorCode::CANCEL);
        }
        drop(state);
        self.tunnel.wake.notify_one();
    }
}
