//! Field blocks: put together, decoded, and turned into an event of their stream (RFC 9113 6.2, 6.10, 8).

use super::{Block, Fault};
use crate::connect::{Fields, Opening};
use crate::connection::{Connection, Event, StreamId};
use crate::error::Violation;
use crate::frame::{Header, MAX_31_BITS, flag, take};
use crate::limits::{Cost, MOST_CONTINUATIONS};
use crate::settings::Role;
use crate::stream::{Gone, Receiving, Sending};

/// A block as a whole.
struct Section {
    stream: u32,
    end: bool,
    depends_on_itself: bool,
    fields: Fields,
}

impl Connection {
    pub(super) fn headers(&mut self, header: Header, payload: &[u8]) -> Result<Option<Event<'static>>, Fault> {
        let mut fragment = payload;
        if header.has(flag::PADDED) {
            let (&padding, rest) = payload.split_first().ok_or(Violation::FrameSize)?;
            let length = rest.len().checked_sub(usize::from(padding)).ok_or(Violation::Padding)?;
            fragment = rest.get(..length).unwrap_or_default();
        }
        let mut depends_on_itself = false;
        if header.has(flag::PRIORITY) {
            let dependency = take::<4>(fragment).ok_or(Violation::FrameSize)?;
            depends_on_itself = u32::from_be_bytes(dependency) & MAX_31_BITS == header.stream;
            fragment = fragment.get(5..).ok_or(Violation::FrameSize)?;
        }
        let (stream, end) = (header.stream, header.has(flag::END_STREAM));
        if !header.has(flag::END_HEADERS) {
            let bytes = fragment.to_vec();
            self.parser.block = Some(Block { stream, end_stream: end, depends_on_itself, bytes, continuations: 0 });
            return Ok(None);
        }
        let fields = self.decode(fragment)?;
        self.section(Section { stream, end, depends_on_itself, fields })
    }

    pub(super) fn continuation(&mut self, header: Header, payload: &[u8]) -> Result<Option<Event<'static>>, Fault> {
        let mut block = self.parser.block.take().ok_or(Violation::Continuation)?;
        block.continuations = block.continuations.saturating_add(1);
        if block.continuations > MOST_CONTINUATIONS {
            return Err(Violation::FieldBlockFlood.into());
        }
        block.bytes.extend_from_slice(payload);
        if !header.has(flag::END_HEADERS) {
            self.parser.block = Some(block);
            return Ok(None);
        }
        let fields = self.decode(&block.bytes)?;
        let Block { stream, end_stream: end, depends_on_itself, .. } = block;
        self.section(Section { stream, end, depends_on_itself, fields })
    }

    /// Every block is decoded, also of streams that are refused: the table is the connection's.
    fn decode(&mut self, block: &[u8]) -> Result<Fields, Fault> {
        let mut fields = Fields::new(self.config.max_header_list_size);
        let decoded = self.decoder.decode(block, |name, value| fields.field(name, value));
        self.decoder.shrink();
        match decoded {
            Ok(()) => Ok(fields),
            Err(crate::hpack::Malformed) => Err(Violation::Compression.into()),
        }
    }

    fn section(&mut self, section: Section) -> Result<Option<Event<'static>>, Fault> {
        let id = section.stream;
        let event = match self.streams.get(id) {
            Some(stream) if stream.reset_due.is_some() => self.nothing(),
            Some(stream) => match stream.recv {
                Receiving::Unanswered => self.answer(section),
                Receiving::Open => self.trailers(section),
                Receiving::Ended => Err(Fault::Stream(id, Violation::StreamClosed)),
            },
            None => match self.role {
                Role::Client => self.answer_without_stream(id),
                Role::Server => self.request(section),
            },
        }?;
        self.check_unread()?;
        Ok(event)
    }

    fn nothing(&mut self) -> Result<Option<Event<'static>>, Fault> {
        self.budgets.spend(Cost::Nothing)?;
        Ok(None)
    }

    /// Server: a new stream.
    fn request(&mut self, section: Section) -> Result<Option<Event<'static>>, Fault> {
        let (id, end) = (section.stream, section.end);
        if id.is_multiple_of(2) {
            return Err(Violation::StreamIdentifier.into());
        }
        if id <= self.highest_accepted {
            return match self.streams.gone(id) {
                Some(Gone::Reset) => self.nothing(),
                Some(Gone::Ended) => Err(Violation::StreamClosed.into()),
                None => Err(Violation::StreamIdentifier.into()),
            };
        }
        self.highest_accepted = id;
        if self.is_ignored(id) {
            self.streams.remember(id, Gone::Reset);
            return self.nothing();
        }
        if self.streams.len() >= self.config.max_accepted_streams as usize {
            return Err(Fault::Stream(id, Violation::TooManyStreams));
        }
        if section.depends_on_itself {
            return Err(Fault::Stream(id, Violation::SelfDependency));
        }
        let (opening, length) = section.fields.request().map_err(|violation| Fault::Stream(id, violation))?;
        if end && length.is_some_and(|length| length > 0) {
            return Err(Fault::Stream(id, Violation::Malformed));
        }
        let recv = if end { Receiving::Ended } else { Receiving::Open };
        self.insert(id, Sending::Unanswered, recv, length);
        let stream = StreamId(id);
        Ok(Some(match opening {
            Opening::Connect(request) => Event::Connect { stream, request, end },
            Opening::Request(request) => Event::Request { stream, request, end },
        }))
    }

    /// Client: an answer, perhaps an interim one.
    fn answer(&mut self, section: Section) -> Result<Option<Event<'static>>, Fault> {
        let (id, end) = (section.stream, section.end);
        let malformed = Fault::Stream(id, Violation::Malformed);
        let (answer, length) = section.fields.answer().map_err(|violation| Fault::Stream(id, violation))?;
        if answer.status < 200 {
            // An interim answer does not end a stream (RFC 9113 8.1).
            return if end { Err(malformed) } else { self.nothing() };
        }
        if end && length.is_some_and(|length| length > 0) {
            return Err(malformed);
        }
        let Some(stream) = self.streams.get(id) else { return Ok(None) };
        stream.recv = if end { Receiving::Ended } else { Receiving::Open };
        stream.content_left = length;
        self.settle(id);
        Ok(Some(Event::Response { stream: StreamId(id), status: answer.status, headers: answer.headers, end }))
    }

    /// A second section ends the peer's half (RFC 9113 8.1).
    fn trailers(&mut self, section: Section) -> Result<Option<Event<'static>>, Fault> {
        let id = section.stream;
        let headers = section.fields.trailers().map_err(|violation| Fault::Stream(id, violation))?;
        let Some(stream) = self.streams.get(id) else { return Ok(None) };
        if !section.end || stream.content_left.is_some_and(|left| left > 0) {
            return Err(Fault::Stream(id, Violation::Malformed));
        }
        stream.recv = Receiving::Ended;
        self.settle(id);
        Ok(Some(Event::Trailers { stream: StreamId(id), headers }))
    }

    /// Client: the stream is gone. What was on its way when it ended is ignored.
    fn answer_without_stream(&mut self, id: u32) -> Result<Option<Event<'static>>, Fault> {
        if self.is_idle(id) {
            return Err(Violation::IdleStream.into());
        }
        match self.streams.gone(id) {
            Some(Gone::Ended) => Err(Fault::Stream(id, Violation::StreamClosed)),
            Some(Gone::Reset) | None => self.nothing(),
        }
    }
}
