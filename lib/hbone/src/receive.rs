//! Bytes to events: the input is split into frames, independent of the cuts between reads.
//!
//! ```text
//!   Preface --24 bytes--> Header --9 bytes--> Payload (whole, then `frames` decides) --+
//!     (server only)         ^  |--DATA--> Pad length --> Data (in pieces) --> Padding -+
//!                           |  |--unknown, refused--> Skip ----------------------------+
//!                           +----------------------------------------------------------+
//! ```
//!
//! DATA payload is lent as it comes. Everything else is small: it is collected only where a read has cut it, within a
//! limit that is checked on the header, before a byte is kept.

use crate::connection::{Connection, Event, ResetCause, StreamId};
use crate::error::{Error, Violation};
use crate::frame::{HEADER_LEN, Header, Kind, PREFACE, flag, take};
use crate::limits::{BLOCK_SLACK, Cost, MOST_UNREAD_CONTROL};
use crate::settings::{MOST_SETTINGS_PER_FRAME, Role};
use crate::stream::Gone;

mod data;
mod frames;
mod messages;

/// The size of a GOAWAY's last stream and code, and the limit of kept debug data (RFC 9113 6.8).
const GOAWAY_LEN: usize = 8;
const DEBUG_LEN: usize = 128;

/// A rule was broken: by the connection, or on one stream only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Connection(Violation),
    Stream(u32, Violation),
}

impl From<Violation> for Fault {
    fn from(violation: Violation) -> Self {
        Self::Connection(violation)
    }
}

/// The next part of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// This much of the preface has arrived.
    Preface(usize),
    Header,
    /// The first so many bytes of the payload are needed in one piece; the rest is skipped.
    Payload(Header, usize),
    /// The byte that says how much padding follows.
    PadLength(Header),
    Data(Data),
    Skip(u32),
}

/// The rest of a DATA frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Data {
    stream: u32,
    left: u32,
    padding: u32,
    end: bool,
}

/// A field block that is not whole yet.
#[derive(Debug)]
struct Block {
    stream: u32,
    end_stream: bool,
    depends_on_itself: bool,
    bytes: Vec<u8>,
    continuations: u32,
}

/// The position in the input.
#[derive(Debug)]
pub(crate) struct Parser {
    phase: Phase,
    /// The frame that is being read, for errors.
    current: Header,
    /// Part of a header or payload that a read has cut.
    partial: Vec<u8>,
    block: Option<Block>,
    settings_seen: bool,
}

impl Parser {
    pub(crate) fn new(role: Role) -> Self {
        let phase = if role == Role::Server { Phase::Preface(0) } else { Phase::Header };
        let current = Header { length: 0, kind: Kind::SETTINGS, flags: 0, stream: 0 };
        Self { phase, current, partial: Vec::new(), block: None, settings_seen: false }
    }

    /// Whether the next step needs no more input: a frame, or a rest of one, without payload.
    fn has_more(&self) -> bool {
        match self.phase {
            Phase::Payload(_, need) => need <= self.partial.len(),
            Phase::Skip(left) => left == 0,
            Phase::Data(data) => data.left == 0 && data.padding == 0,
            Phase::Preface(_) | Phase::Header | Phase::PadLength(_) => false,
        }
    }
}

/// The next `n` bytes in one piece, once all of them are there: from the input itself where no read has cut them.
fn gather<'a, 'i: 'a>(partial: &'a mut Vec<u8>, n: usize, input: &mut &'i [u8]) -> Option<&'a [u8]> {
    if partial.is_empty()
        && let Some((bytes, rest)) = input.split_at_checked(n)
    {
        *input = rest;
        return Some(bytes);
    }
    let missing = n.saturating_sub(partial.len()).min(input.len());
    let (bytes, rest) = input.split_at_checked(missing)?;
    *input = rest;
    partial.extend_from_slice(bytes);
    (partial.len() >= n).then_some(partial.as_slice())
}

impl Connection {
    /// Takes plaintext from the front of `input` and answers the next event; `None`: all of it is taken, and there is
    /// no more event. Call until then, also with empty input after calls that change streams ([`Event::Writable`] may
    /// wait).
    ///
    /// An error ends the connection: what [`Connection::poll_transmit`] has left is to be sent, then the socket closed.
    pub fn receive<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Event<'i>>, Error> {
        self.heard |= !input.is_empty();
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if self.closed {
                return Err(Error::Closed);
            }
            let (before, more) = (input.len(), self.parser.has_more());
            let result = self.step(input).or_else(|fault| self.fault(fault));
            match result {
                Ok(Some(event)) => return Ok(Some(event)),
                Ok(None) if input.is_empty() && self.events.is_empty() && !self.parser.has_more() => return Ok(None),
                Ok(None) => debug_assert!(input.len() < before || more),
                Err(violation) => {
                    let Header { kind: frame, stream, .. } = self.parser.current;
                    self.close(violation.code());
                    return Err(Error::Receive { frame, stream, violation });
                }
            }
        }
    }

    /// One step of the picture above.
    fn step<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Event<'i>>, Fault> {
        match self.parser.phase {
            Phase::Preface(have) => self.preface(have, input).map(|()| None),
            Phase::Header => {
                let bytes = gather(&mut self.parser.partial, HEADER_LEN, input).and_then(take);
                let Some(header) = bytes.map(Header::decode) else { return Ok(None) };
                self.parser.partial.clear();
                self.begin(header)?;
                Ok(None)
            }
            Phase::Payload(header, need) => {
                let mut partial = std::mem::take(&mut self.parser.partial);
                let Some(payload) = gather(&mut partial, need, input) else {
                    self.parser.partial = partial;
                    return Ok(None);
                };
                let rest = header.length.saturating_sub(need as u32);
                self.parser.phase = if rest == 0 { Phase::Header } else { Phase::Skip(rest) };
                self.frame(header, payload)
            }
            Phase::PadLength(header) => {
                let Some((&padding, rest)) = input.split_first() else { return Ok(None) };
                *input = rest;
                self.begin_payload(header, Some(padding)).map(|()| None)
            }
            Phase::Data(data) => self.data(data, input),
            Phase::Skip(left) => {
                let n = (left as usize).min(input.len());
                *input = input.get(n..).unwrap_or_default();
                let left = left.saturating_sub(n as u32);
                self.parser.phase = if left == 0 { Phase::Header } else { Phase::Skip(left) };
                Ok(None)
            }
        }
    }

    /// The preface is checked as it comes: another protocol is refused without waiting for all of it (RFC 9113 3.4).
    fn preface(&mut self, have: usize, input: &mut &[u8]) -> Result<(), Fault> {
        let expected = PREFACE.get(have..).unwrap_or_default();
        let n = expected.len().min(input.len());
        let (bytes, rest) = input.split_at_checked(n).unwrap_or_default();
        if !expected.starts_with(bytes) {
            return Err(Violation::Preface.into());
        }
        *input = rest;
        self.parser.phase = if n == expected.len() { Phase::Header } else { Phase::Preface(have.saturating_add(n)) };
        Ok(())
    }

    /// The checks of a frame by its header alone.
    fn begin(&mut self, header: Header) -> Result<(), Fault> {
        self.parser.current = header;
        if !self.parser.settings_seen {
            if header.kind != Kind::SETTINGS || header.has(flag::ACK) {
                return Err(Violation::SettingsFirst.into());
            }
            self.parser.settings_seen = true;
        }
        if header.length > self.config.max_frame_size {
            return Err(Violation::FrameTooLarge.into());
        }
        // A field block is contiguous: a frame of any other type is an error (RFC 9113 4.3, 6.10).
        let continued = self.parser.block.as_ref().map(|block| block.stream);
        let continues = (header.kind == Kind::CONTINUATION).then_some(header.stream);
        if continued != continues {
            return Err(Violation::Continuation.into());
        }
        let length = header.length as usize;
        let (fits, need) = match header.kind {
            Kind::DATA => return self.begin_data(header),
            Kind::HEADERS | Kind::CONTINUATION => {
                let have = self.parser.block.as_ref().map_or(0, |block| block.bytes.len());
                if have.saturating_add(length) > self.largest_block() {
                    return Err(Violation::FieldBlockFlood.into());
                }
                (true, length)
            }
            // A wrong size of PRIORITY concerns the stream only (RFC 9113 6.3).
            Kind::PRIORITY => (true, length.min(5)),
            Kind::RST_STREAM | Kind::WINDOW_UPDATE => (length == 4, 4),
            Kind::PING => (length == 8, 8),
            Kind::SETTINGS if length > MOST_SETTINGS_PER_FRAME.saturating_mul(6) => {
                return Err(Violation::SettingsFlood.into());
            }
            Kind::SETTINGS => (true, length),
            Kind::GOAWAY => (length >= GOAWAY_LEN, length.min(GOAWAY_LEN.saturating_add(DEBUG_LEN))),
            Kind::PUSH_PROMISE => return Err(Violation::Push.into()),
            _ => {
                self.parser.phase = Phase::Skip(header.length);
                return self.budgets.spend(Cost::Nothing).map_err(Fault::from);
            }
        };
        if !fits {
            return Err(Violation::FrameSize.into());
        }
        self.parser.phase = Phase::Payload(header, need);
        Ok(())
    }

    /// Compression only ever makes a list smaller, except for the little that the slack is for; a peer which ignores
    /// the limit by less than a factor of four loses one stream, not the connection.
    fn largest_block(&self) -> usize {
        (self.config.max_header_list_size as usize).saturating_mul(4).saturating_add(BLOCK_SLACK)
    }

    /// Ends the stream, or answers the error that ends the connection.
    fn fault<'i>(&mut self, fault: Fault) -> Result<Option<Event<'i>>, Violation> {
        let (id, violation) = match fault {
            Fault::Connection(violation) => return Err(violation),
            Fault::Stream(id, violation) => (id, violation),
        };
        self.budgets.spend(Cost::StreamError)?;
        let code = violation.code();
        let reported = match self.streams.remove(id, None) {
            Some(stream) => stream.reset_due.is_none(),
            None => false,
        };
        self.streams.remember(id, Gone::Reset);
        self.send_reset(id, code);
        self.check_unread()?;
        let cause = ResetCause::Violation(violation);
        Ok(reported.then_some(Event::Reset { stream: StreamId(id), code, cause }))
    }

    fn check_unread(&self) -> Result<(), Violation> {
        if self.output.control() > MOST_UNREAD_CONTROL { Err(Violation::UnreadAnswers) } else { Ok(()) }
    }
}
