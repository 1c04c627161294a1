//! Operations on streams: open, answer, send, end, reset.
//!
//! Sending is in two steps, so that the application's socket is read straight into the place from which its bytes are
//! encrypted: [`Connection::reserve`] lends room behind a frame header, [`Room::commit`] makes it a frame.

use crate::connect::{self, Connect, Headers};
use crate::connection::{Connection, OpenError, RespondError, StreamId, ping};
use crate::error::ErrorCode;
use crate::frame::Kind;
use crate::limits::MOST_RESETS_IN_FLIGHT;
use crate::stream::{Gone, Receiving, Sending, Stream};
use crate::window::{RecvWindow, SendWindow};

/// DATA frames with less payload than this cost a peer more than their window says, and peers count them (h2: as what
/// is missing to this number, against half its connection window, until its application has read them).
pub const SMALL_FRAME: usize = 256;

/// Memory that is kept for the next field block: usual ones fit.
const KEPT_BLOCK: usize = 4 << 10;

/// The reason why nothing can be sent on a stream now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// The stream's or the connection's window is empty: [`crate::Event::Writable`] follows.
    #[error("reserve room: a window is empty")]
    Window,
    /// Server: the request is not answered yet.
    #[error("reserve room: the request is not answered")]
    Unanswered,
    /// The stream is gone, or this half of it has ended.
    #[error("reserve room: the stream has ended")]
    Ended,
}

/// Room for the payload of one DATA frame. Dropped without [`Room::commit`], it was never there.
#[derive(Debug)]
pub struct Room<'a> {
    connection: &'a mut Connection,
    stream: u32,
    len: usize,
}

impl Room<'_> {
    /// The room. Its initial content is arbitrary.
    pub fn bytes(&mut self) -> &mut [u8] {
        self.connection.output.room(self.len)
    }

    /// Its size.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a window that is empty is [`Blocked::Window`].
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Queues the first `n` bytes (at most all), and ends our half with them if `end`. No bytes and no end: nothing is
    /// queued.
    pub fn commit(self, n: usize, end: bool) {
        let n = n.min(self.len);
        if n == 0 {
            if end {
                self.connection.finish(StreamId(self.stream));
            }
            return;
        }
        self.connection.output.data(self.stream, n, end);
        self.connection.send_window.take(n);
        self.connection.budgets.payload();
        if let Some(stream) = self.connection.streams.get(self.stream) {
            stream.send_window.take(n);
            if n < SMALL_FRAME {
                stream.small_frames = stream.small_frames.saturating_add(1);
            }
            if end {
                stream.send = Sending::Ended;
                self.connection.settle(self.stream);
            }
        }
    }
}

impl Connection {
    /// Client: opens a stream. CONNECT is queued at once, and payload may follow it before it is answered; the owner
    /// decides how much of such early data it is ready to lose or to send again.
    pub fn open(&mut self, request: &Connect) -> Result<StreamId, OpenError> {
        self.check_open()?;
        if !connect::valid(&request.headers) || !connect::valid_value(&request.authority) {
            return Err(OpenError::Malformed);
        }
        let pseudo: [(&[u8], &[u8]); 2] = [(b":method", b"CONNECT"), (b":authority", &request.authority)];
        let fields = pseudo.into_iter().chain(request.headers.iter());
        let size = connect::list_size(fields.clone());
        if self.peer.max_header_list_size.is_some_and(|most| size > most as usize) {
            return Err(OpenError::HeadersTooLarge);
        }
        let id = self.next_stream;
        self.next_stream = id.saturating_add(2);
        self.block(id, fields, false);
        self.insert(id, Sending::Open, Receiving::Unanswered, None);
        Ok(StreamId(id))
    }

    /// Server: answers a request. `end`: no payload follows.
    pub fn respond(&mut self, stream: StreamId, status: u16, headers: &Headers, end: bool) -> Result<(), RespondError> {
        let Some(state) = self.streams.get(stream.0) else { return Err(RespondError::Gone) };
        if state.send != Sending::Unanswered {
            return Err(RespondError::Answered);
        }
        if !(200..=999).contains(&status) || !connect::valid(headers) {
            return Err(RespondError::Malformed);
        }
        state.send = if end { Sending::Ended } else { Sending::Open };
        let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' | (digit & 0x0f) as u8);
        let pseudo: [(&[u8], &[u8]); 1] = [(b":status", &digits)];
        self.block(stream.0, pseudo.into_iter().chain(headers.iter()), end);
        self.budgets.answered();
        self.settle(stream.0);
        Ok(())
    }

    /// Lends room for up to `want` bytes of payload, within both windows and the peer's frame size.
    pub fn reserve(&mut self, stream: StreamId, want: usize) -> Result<Room<'_>, Blocked> {
        let Some(state) = self.streams.get(stream.0) else { return Err(Blocked::Ended) };
        match state.send {
            Sending::Open if state.reset_due.is_none() => {}
            Sending::Unanswered => return Err(Blocked::Unanswered),
            Sending::Open | Sending::Ended => return Err(Blocked::Ended),
        }
        let want = want.clamp(1, self.peer.max_frame_size as usize);
        let room = want.min(state.send_window.available()).min(self.send_window.available());
        // What is left of a window is used up at once: the peer may need it before it gives more. But a stream that
        // found the window empty waits until it is worth a frame, so that a peer which returns credit byte by byte is
        // not answered in frames of one byte. A window whose whole size is small never has more to come.
        if room < state.waits_for.clamp(1, want) {
            state.waits_for = SMALL_FRAME.min(self.peer.initial_window as usize / 4).clamp(1, want);
            return Err(Blocked::Window);
        }
        state.waits_for = 0;
        Ok(Room { connection: self, stream: stream.0, len: room })
    }

    /// The count of DATA frames of less than [`SMALL_FRAME`] bytes that were sent on a stream since the peer last gave
    /// it credit, or sent payload of its own. Where many are, its reader may have stalled, and enough of them end the
    /// whole connection: the owner then waits a while for more bytes to send at once.
    pub fn uncredited_small_frames(&mut self, stream: StreamId) -> u32 {
        self.streams.get(stream.0).map_or(0, |stream| stream.small_frames)
    }

    /// Ends our half of a stream; the peer's goes on. On the last frame of payload where that has not left yet.
    pub fn finish(&mut self, stream: StreamId) {
        let Some(state) = self.streams.get(stream.0) else { return };
        if state.send != Sending::Open || state.reset_due.is_some() {
            return;
        }
        state.send = Sending::Ended;
        if !self.output.end_with_last(stream.0) {
            self.output.data(stream.0, 0, true);
        }
        self.settle(stream.0);
    }

    /// Ends a stream at once, both ways. A stream whose CONNECT has not begun to leave is taken back as if it had never
    /// been.
    ///
    /// Nothing is reported about the stream any more. Codes: CONNECT_ERROR where the application's connection was
    /// reset, CANCEL where the answer is no longer needed, NO_ERROR where the answer is complete and the rest of the
    /// request is not needed.
    pub fn reset(&mut self, stream: StreamId, code: ErrorCode) {
        let id = stream.0;
        let unanswered = match self.streams.get(id) {
            Some(state) if state.reset_due.is_none() => state.recv == Receiving::Unanswered,
            _ => return,
        };
        self.events.retain(|event| !matches!(event, crate::Event::Writable { stream: other } if *other == stream));
        if !unanswered {
            self.send_reset(id, code);
            self.streams.remove(id, Some(Gone::Reset));
            return;
        }
        if self.take_back(id) {
            self.streams.remove(id, None);
            self.wake_all();
            return;
        }
        if let Some(state) = self.streams.get(id) {
            state.reset_due = Some(code);
            self.resets_due.push_back(id);
            self.send_due_resets();
        }
    }

    /// Takes a stream's frames out of the output, if the CONNECT that opens it has not begun to leave. (Not that of the
    /// one block which tells a peer without a table that none is used: the blocks behind it rely on it.)
    pub(crate) fn take_back(&mut self, id: u32) -> bool {
        if self.encoder.is_needed(id) {
            return false;
        }
        let Some(data) = self.output.cut(id) else { return false };
        self.send_window.give_back(data);
        true
    }

    /// Sends as many of the waiting RST_STREAMs as may be in flight. The last of them is followed by a PING: its answer
    /// proves that they have arrived, and makes room for the next ones.
    fn send_due_resets(&mut self) {
        while self.resets_in_flight < MOST_RESETS_IN_FLIGHT {
            let Some(id) = self.resets_due.pop_front() else { return };
            let Some(code) = self.streams.get(id).and_then(|stream| stream.reset_due) else { continue };
            self.send_reset(id, code);
            self.streams.remove(id, Some(Gone::Reset));
            self.resets_in_flight = self.resets_in_flight.saturating_add(1);
            if self.resets_in_flight == MOST_RESETS_IN_FLIGHT {
                self.output.frame(Kind::PING, 0, 0, &ping::RESETS);
            }
        }
    }

    /// The RST_STREAMs before the PING have arrived.
    pub(crate) fn resets_arrived(&mut self) {
        self.resets_in_flight = 0;
        self.send_due_resets();
    }

    pub(crate) fn send_reset(&mut self, id: u32, code: ErrorCode) {
        self.output.frame(Kind::RST_STREAM, 0, id, &code.0.to_be_bytes());
    }

    fn block<'a>(&mut self, id: u32, fields: impl Iterator<Item = (&'a [u8], &'a [u8])>, end: bool) {
        let mut block = std::mem::take(&mut self.block_buffer);
        block.clear();
        self.encoder.begin(id, &mut block);
        fields.for_each(|(name, value)| self.encoder.field(name, value, &mut block));
        self.output.block(id, &block, self.peer.max_frame_size as usize, end);
        if block.capacity() <= KEPT_BLOCK {
            self.block_buffer = block;
        }
    }

    pub(crate) fn insert(&mut self, id: u32, send: Sending, recv: Receiving, content_left: Option<u64>) {
        // Until the peer has seen our settings the protocol's initial window holds, if that is larger (RFC 9113 6.5.3).
        let least = if self.settings_acknowledged { 0 } else { crate::settings::DEFAULT_WINDOW };
        self.streams.insert(Stream {
            id,
            send,
            recv,
            send_window: SendWindow::new(self.peer.initial_window),
            recv_window: RecvWindow::new(self.config.stream_window.max(least)),
            waits_for: 0,
            small_frames: 0,
            small_received: 0,
            reset_due: None,
            content_left,
        });
    }

    /// The connection's window has opened: waiting streams with a window of their own may go on.
    pub(crate) fn wake_all(&mut self) {
        let available = self.send_window.available();
        for stream in self.streams.iter_mut() {
            if stream.waits_for != 0 && stream.send_window.available().min(available) >= stream.waits_for {
                stream.waits_for = 0;
                self.events.push_back(crate::Event::Writable { stream: StreamId(stream.id) });
            }
        }
    }

    /// One stream's window has opened.
    pub(crate) fn wake(&mut self, id: u32) {
        let available = self.send_window.available();
        let Some(stream) = self.streams.get(id) else { return };
        if stream.waits_for != 0 && stream.send_window.available().min(available) >= stream.waits_for {
            stream.waits_for = 0;
            self.events.push_back(crate::Event::Writable { stream: StreamId(id) });
        }
    }
}
