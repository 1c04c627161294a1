//! A connection: its state, its begin, keep-alive and end.
//!
//! Input is handled in `receive`, output in `send`; both work on the one struct that is declared here.
//!
//! ```text
//!   Serving --drain--> Leaving (GOAWAY 2^31-1 and a PING are out) --PING answered--> Last (GOAWAY with the last stream)
//!      |                                                                  streams end: is_drained
//!      +-- error or close(code): GOAWAY with the code; nothing more is received
//! ```

use crate::connect::{Connect, Headers, Request};
use crate::error::{Error, ErrorCode, Violation};
use crate::frame::{Kind, MAX_31_BITS, PREFACE, flag};
use crate::hpack::{Decoder, Encoder};
use crate::limits::{Budgets, CREDITED_SMALL_FRAMES};
use crate::output::Output;
use crate::receive::Parser;
use crate::settings::{Config, DEFAULT_WINDOW, PeerSettings, Role};
use crate::stream::{Gone, Receiving, Sending, Streams};
use crate::window::{RecvWindow, SendWindow};
use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

/// A stream of one connection. Numbers are never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub(crate) u32);

impl StreamId {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {}", self.0)
    }
}

/// An event on a connection. Payload borrows the input that was given to [`Connection::receive`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Server: a CONNECT request. `end`: the client sends nothing more.
    Connect {
        /// The new stream.
        stream: StreamId,
        /// The request: authority and other fields.
        request: Connect,
        /// The client will send no payload.
        end: bool,
    },
    /// Server: another request, which has to be answered (400).
    Request {
        /// The new stream.
        stream: StreamId,
        /// The request.
        request: Request,
        /// There is no content.
        end: bool,
    },
    /// Client: the answer to CONNECT. Interim answers (1xx) are left out.
    Response {
        /// The stream that was opened.
        stream: StreamId,
        /// 200 to 599 in practice; three digits in any case.
        status: u16,
        /// The other fields.
        headers: Headers,
        /// The server will send no payload.
        end: bool,
    },
    /// A piece of payload, empty only where it ends the peer's half. Its bytes have to be given back by
    /// [`Connection::consumed`].
    Data {
        /// The stream.
        stream: StreamId,
        /// The payload.
        data: &'a [u8],
        /// The peer will send no more payload.
        end: bool,
    },
    /// The peer has ended its half with trailers, which have no meaning for a tunnel.
    Trailers {
        /// The stream.
        stream: StreamId,
        /// The fields.
        headers: Headers,
    },
    /// The stream is gone.
    Reset {
        /// The stream.
        stream: StreamId,
        /// The code on the wire.
        code: ErrorCode,
        /// The cause of the reset.
        cause: ResetCause,
    },
    /// A stream whose last [`Connection::reserve`] found no room now has some.
    Writable {
        /// The stream.
        stream: StreamId,
    },
    /// The peer takes no new streams. Those of ours that it has not seen follow as [`ResetCause::Unprocessed`].
    GoAway {
        /// The last stream of ours that the peer may have processed.
        last: u32,
        /// The reason.
        code: ErrorCode,
        /// Debug data of the peer, cut after 128 bytes.
        debug: Vec<u8>,
    },
}

/// The cause of a stream's reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetCause {
    /// The peer, by RST_STREAM.
    Peer,
    /// The peer, and it has provably processed nothing of it (RFC 9113 8.7): what was sent may be sent again elsewhere.
    Unprocessed,
    /// This end, because the peer broke a rule on it.
    Violation(Violation),
}

/// The reason why no stream can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// As many streams are open as this end or the peer allows.
    #[error("open stream: as many streams are open as allowed")]
    Full,
    /// One of the two ends has sent GOAWAY, the connection failed, or its stream numbers are used up.
    #[error("open stream: the connection takes no new streams")]
    GoingAway,
    /// Servers open no streams.
    #[error("open stream: this is the server")]
    NotClient,
    /// A name or value may not be sent.
    #[error("open stream: a header or the authority is malformed")]
    Malformed,
    /// The peer takes no header list of this size.
    #[error("open stream: the headers are larger than the peer accepts")]
    HeadersTooLarge,
}

/// The reason why a request cannot be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RespondError {
    /// The stream was reset meanwhile.
    #[error("answer request: the stream is gone")]
    Gone,
    /// It was answered already, or this is the client.
    #[error("answer request: there is nothing to answer")]
    Answered,
    /// A name or value may not be sent, or the status is not final.
    #[error("answer request: the status or a header is malformed")]
    Malformed,
}

/// Payloads of this end's PINGs, which tell their answers apart.
pub(crate) mod ping {
    pub(crate) const ALIVE: [u8; 8] = *b"up.alive";
    pub(crate) const DRAIN: [u8; 8] = *b"up.drain";
    pub(crate) const RESETS: [u8; 8] = *b"up.reset";
}

/// The phase of this end's shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Going {
    Serving,
    /// The first GOAWAY is out: streams are still accepted.
    Leaving,
    /// The final GOAWAY is out, with this last stream: later ones are ignored.
    Last(u32),
}

/// Whether the peer is alive.
#[derive(Debug)]
struct KeepAlive {
    /// When the next PING is due, or the answer to the last one; `None`: never.
    due: Option<Instant>,
    /// A PING is out, and nothing has arrived yet that was heard of at a look; until then the peer has time.
    dead_at: Option<Instant>,
}

/// One end of an HBONE connection.
#[derive(Debug)]
pub struct Connection {
    pub(crate) role: Role,
    pub(crate) config: Config,
    pub(crate) parser: Parser,
    pub(crate) output: Output,
    pub(crate) decoder: Decoder,
    pub(crate) encoder: Encoder,
    pub(crate) streams: Streams,
    /// Pending events, all without payload.
    pub(crate) events: VecDeque<Event<'static>>,
    pub(crate) peer: PeerSettings,
    /// This end's settings are in effect: the peer has acknowledged them.
    pub(crate) settings_acknowledged: bool,
    pub(crate) send_window: SendWindow,
    pub(crate) recv_window: RecvWindow,
    pub(crate) growth: bool,
    /// Client: the number of the next stream.
    pub(crate) next_stream: u32,
    /// Server: the highest number the client has used.
    pub(crate) highest_accepted: u32,
    pub(crate) going: Going,
    /// The lowest last stream that the peer's GOAWAYs have named.
    pub(crate) peer_going: Option<u32>,
    pub(crate) budgets: Budgets,
    /// Streams whose RST_STREAM waits.
    pub(crate) resets_due: VecDeque<u32>,
    pub(crate) resets_in_flight: u32,
    /// Something arrived since the last look.
    pub(crate) heard: bool,
    /// Memory of the field block that was sent last.
    pub(crate) block_buffer: Vec<u8>,
    keep_alive: KeepAlive,
    pub(crate) closed: bool,
}

impl Connection {
    /// The client's end. `now` is any monotonic time, used to compute [`Connection::poll_timeout`].
    pub fn client(config: Config, now: Instant) -> Self {
        Self::new(Role::Client, config, now)
    }

    /// The server's end.
    pub fn server(config: Config, now: Instant) -> Self {
        Self::new(Role::Server, config, now)
    }

    fn new(role: Role, config: Config, now: Instant) -> Self {
        let config = config.clamped();
        let mut connection = Self {
            role,
            parser: Parser::new(role),
            output: Output::default(),
            decoder: Decoder::new(config.header_table_size),
            encoder: Encoder::default(),
            streams: Streams::default(),
            events: VecDeque::new(),
            peer: PeerSettings::default(),
            settings_acknowledged: false,
            send_window: SendWindow::new(DEFAULT_WINDOW),
            recv_window: RecvWindow::new(DEFAULT_WINDOW),
            growth: true,
            next_stream: 1,
            highest_accepted: 0,
            going: Going::Serving,
            peer_going: None,
            budgets: Budgets::new(),
            resets_due: VecDeque::new(),
            resets_in_flight: 0,
            heard: false,
            block_buffer: Vec::new(),
            keep_alive: KeepAlive { due: None, dead_at: None },
            closed: false,
            config,
        };
        connection.keep_alive.due = connection.config.ping_interval.and_then(|interval| now.checked_add(interval));
        connection.greet();
        connection
    }

    fn greet(&mut self) {
        if self.role == Role::Client {
            self.output.raw(PREFACE);
        }
        self.output.frame(Kind::SETTINGS, 0, 0, &self.config.encode(self.role));
        if let Some(credit) = self.recv_window.grow(self.config.connection_window) {
            self.output.frame(Kind::WINDOW_UPDATE, 0, 0, &credit.to_be_bytes());
        }
    }

    /// Bytes to encrypt and send, perhaps none. They stay until [`Connection::transmitted`] takes them away.
    pub fn poll_transmit(&self) -> &[u8] {
        self.output.pending()
    }

    /// The first `n` bytes of [`Connection::poll_transmit`] were encrypted or sent.
    pub fn transmitted(&mut self, n: usize) {
        self.output.sent(n);
    }

    /// The count of bytes that wait to be sent.
    pub fn queued(&self) -> usize {
        self.output.len()
    }

    /// Lends a buffer for what is to be sent, so that an idle connection holds none. What is in it is overwritten; its
    /// length, not its capacity, is what can be used without clearing it first. Dropped if bytes wait in the
    /// connection's own.
    pub fn lend(&mut self, buffer: Vec<u8>) {
        self.output.lend(buffer);
    }

    /// Takes the buffer back once nothing waits in it.
    pub fn release(&mut self) -> Option<Vec<u8>> {
        self.output.release()
    }

    /// The time at which [`Connection::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.keep_alive.due.filter(|_| !self.closed)
    }

    /// Time has come to `now`. Earlier calls than due do nothing. An error means that the peer is dead.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return Ok(());
        }
        let Some(interval) = self.config.ping_interval else { return Ok(()) };
        self.budgets.tick();
        // Anything that arrived shows that the peer lives: the answer to a PING may stand behind megabytes.
        let waiting = self.keep_alive.dead_at.filter(|_| !std::mem::take(&mut self.heard));
        let dead_at = match waiting {
            Some(dead_at) if dead_at <= now => {
                self.close(ErrorCode::NO_ERROR);
                return Err(Error::PingTimeout);
            }
            Some(dead_at) => Some(dead_at),
            None => {
                self.heard = false;
                self.output.frame(Kind::PING, 0, 0, &ping::ALIVE);
                now.checked_add(self.config.ping_timeout)
            }
        };
        let next = now.checked_add(interval);
        self.keep_alive = KeepAlive { due: next.into_iter().chain(dead_at).min(), dead_at };
        Ok(())
    }

    /// Whether the connection takes a stream now. (What [`Connection::open`] may still refuse is the request.)
    pub fn can_open(&self) -> bool {
        self.check_open().is_ok()
    }

    /// Whether no stream can be opened any more, because one of the two goes away.
    pub fn is_going_away(&self) -> bool {
        self.closed || self.going != Going::Serving || self.peer_going.is_some()
    }

    /// The limit of streams that are open at once: the lower one of this end's and the peer's.
    pub fn stream_cap(&self) -> usize {
        self.config.max_open_streams.min(self.peer.max_concurrent_streams.unwrap_or(u32::MAX)) as usize
    }

    /// The count of open streams.
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    pub(crate) fn check_open(&self) -> Result<(), OpenError> {
        if self.role == Role::Server {
            return Err(OpenError::NotClient);
        }
        if self.is_going_away() || self.next_stream > MAX_31_BITS {
            return Err(OpenError::GoingAway);
        }
        if self.streams.len() >= self.stream_cap() {
            return Err(OpenError::Full);
        }
        Ok(())
    }

    /// Whether the connection's own send window is empty: streams have to wait for each other's credit. An owner that
    /// sees this for 100 ms with data waiting opens no new stream here.
    pub fn is_starved(&self) -> bool {
        self.send_window.available() == 0
    }

    /// Whether stream windows may grow on their own (they do at first). Turned off while memory is short.
    pub fn allow_growth(&mut self, allowed: bool) {
        self.growth = allowed;
    }

    /// Enlarges the window of one stream to `size` bytes, at most the configured largest one.
    pub fn grow(&mut self, stream: StreamId, size: u32) {
        let size = size.min(self.config.stream_window_max);
        if let Some(credit) = self.streams.get(stream.0).and_then(|stream| stream.recv_window.grow(size)) {
            self.output.frame(Kind::WINDOW_UPDATE, 0, stream.0, &credit.to_be_bytes());
        }
    }

    /// The receive window of a stream in bytes, if it lives.
    pub fn window(&mut self, stream: StreamId) -> Option<u32> {
        self.streams.get(stream.0).map(|stream| stream.recv_window.size())
    }

    /// The owner is done with `n` bytes of this stream's payload: they left, or were dropped. For streams that are gone
    /// nothing has to be done, and nothing happens.
    pub fn consumed(&mut self, stream: StreamId, n: usize) {
        let (growth, most) = (self.growth, self.config.stream_window_max);
        let Some(state) = self.streams.get(stream.0) else { return };
        let credit = state.recv_window.consume(n, state.small_received >= CREDITED_SMALL_FRAMES, growth, most);
        if credit.is_some() {
            state.small_received = 0;
        }
        // A peer that has ended its half needs no credit.
        if let Some(credit) = credit.filter(|_| state.recv != Receiving::Ended && state.reset_due.is_none()) {
            self.output.frame(Kind::WINDOW_UPDATE, 0, stream.0, &credit.to_be_bytes());
        }
    }

    /// Takes no new streams; those that are open go on. A server sends GOAWAY twice, a round trip apart, so that no
    /// stream in flight is lost (RFC 9113 6.8).
    pub fn drain(&mut self) {
        if self.closed || self.going != Going::Serving {
            return;
        }
        match self.role {
            Role::Client => self.go_away(0, ErrorCode::NO_ERROR),
            Role::Server => {
                self.going = Going::Leaving;
                self.goaway_frame(MAX_31_BITS, ErrorCode::NO_ERROR);
                self.output.frame(Kind::PING, 0, 0, &ping::DRAIN);
            }
        }
    }

    /// The peer has seen the first GOAWAY: all streams that it opened before have arrived.
    pub(crate) fn drain_answered(&mut self) {
        if self.going == Going::Leaving {
            self.go_away(self.highest_accepted, ErrorCode::NO_ERROR);
        }
    }

    fn go_away(&mut self, last: u32, code: ErrorCode) {
        self.going = Going::Last(last);
        self.goaway_frame(last, code);
    }

    fn goaway_frame(&mut self, last: u32, code: ErrorCode) {
        let [l0, l1, l2, l3] = last.to_be_bytes();
        let [c0, c1, c2, c3] = code.0.to_be_bytes();
        self.output.frame(Kind::GOAWAY, 0, 0, &[l0, l1, l2, l3, c0, c1, c2, c3]);
    }

    /// Whether one of the two goes away, no stream is left and nothing waits to be sent: the socket can be closed.
    pub fn is_drained(&self) -> bool {
        let going = matches!(self.going, Going::Last(_)) || self.peer_going.is_some() || self.closed;
        going && self.streams.len() == 0 && self.output.is_empty()
    }

    /// Whether the connection failed or was closed: only what is queued is still to be sent.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Ends the connection at once, all its streams with it. What is queued, the GOAWAY at its end, is still to be
    /// sent.
    pub fn close(&mut self, code: ErrorCode) {
        if self.closed {
            return;
        }
        let last = match self.going {
            Going::Last(last) => last,
            _ => self.highest_accepted,
        };
        self.goaway_frame(last, code);
        self.closed = true;
        // Nothing is sent behind this GOAWAY.
        self.streams = Streams::default();
        self.events.clear();
    }

    /// Takes out a stream whose halves have both ended.
    pub(crate) fn settle(&mut self, id: u32) {
        let Some(stream) = self.streams.get(id) else { return };
        if stream.send == Sending::Ended && stream.recv == Receiving::Ended {
            self.streams.remove(id, Some(Gone::Ended));
        }
    }

    /// Sends the acknowledgement of a PING or SETTINGS frame.
    pub(crate) fn acknowledge(&mut self, kind: Kind, payload: &[u8]) {
        self.output.frame(kind, flag::ACK, 0, payload);
    }
}
