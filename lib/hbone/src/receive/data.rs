//! DATA: windows are charged on the header, payload is lent in pieces, padding is skipped (RFC 9113 6.1, 6.9).

use super::{Data, Fault, Phase};
use crate::connection::{Connection, Event, StreamId};
use crate::error::Violation;
use crate::frame::{Header, Kind, flag};
use crate::limits::Cost;
use crate::send::SMALL_FRAME;
use crate::settings::Role;
use crate::stream::{Gone, Receiving};

impl Connection {
    /// A DATA frame begins. Accepted or not, its bytes count against the connection's window, and that credit is
    /// returned at once: a stalled stream holds its own window alone.
    pub(super) fn begin_data(&mut self, header: Header) -> Result<(), Fault> {
        self.parser.phase = Phase::Skip(header.length);
        if header.stream == 0 {
            return Err(Violation::WrongStream.into());
        }
        if header.has(flag::PADDED) && header.length == 0 {
            return Err(Violation::FrameSize.into());
        }
        self.recv_window.receive(header.length)?;
        if let Some(credit) = self.recv_window.consume(header.length as usize, false, false, 0) {
            self.output.frame(Kind::WINDOW_UPDATE, 0, 0, &credit.to_be_bytes());
        }
        if !self.accepts_data(header)? {
            // Payload that was on its way when we reset a stream may be megabytes in many frames; windows bound it, not
            // a budget.
            if header.length == 0 {
                self.budgets.spend(Cost::EmptyData)?;
            }
            return Ok(());
        }
        if header.has(flag::PADDED) {
            self.parser.phase = Phase::PadLength(header);
            return Ok(());
        }
        self.begin_payload(header, None)
    }

    /// Whether the stream takes the frame; if it does, its window is charged.
    fn accepts_data(&mut self, header: Header) -> Result<bool, Fault> {
        let id = header.stream;
        let Some(stream) = self.streams.get(id) else { return self.data_without_stream(id) };
        if stream.reset_due.is_some() {
            return Ok(false);
        }
        match stream.recv {
            Receiving::Open => {}
            Receiving::Ended => return Err(Fault::Stream(id, Violation::StreamClosed)),
            // Content before the answer's header section (RFC 9113 8.1).
            Receiving::Unanswered => return Err(Fault::Stream(id, Violation::Malformed)),
        }
        stream.recv_window.receive(header.length).map_err(|violation| Fault::Stream(id, violation))?;
        Ok(true)
    }

    fn data_without_stream(&mut self, id: u32) -> Result<bool, Fault> {
        if self.is_idle(id) {
            return Err(Violation::IdleStream.into());
        }
        match self.streams.gone(id) {
            Some(Gone::Ended) => Err(Fault::Stream(id, Violation::StreamClosed)),
            // Beyond the final GOAWAY, or it was on its way when we reset the stream.
            _ if self.is_ignored(id) => Ok(false),
            Some(Gone::Reset) => Ok(false),
            // So long ago that it is not remembered: a client's own, or one that was skipped.
            None if self.role == Role::Client => Ok(false),
            None => Err(Fault::Stream(id, Violation::StreamClosed)),
        }
    }

    /// The length of the padding is known, and with it that of the payload.
    pub(super) fn begin_payload(&mut self, header: Header, padding: Option<u8>) -> Result<(), Fault> {
        let id = header.stream;
        let overhead = padding.map_or(0, |padding| u32::from(padding).saturating_add(1));
        let Some(left) = header.length.checked_sub(overhead) else { return Err(Violation::Padding.into()) };
        let (padding, end) = (padding.map_or(0, u32::from), header.has(flag::END_STREAM));
        // From here on the rest of the frame is `left` and `padding`, also if the stream turns out to be in error.
        self.parser.phase = Phase::Skip(left.saturating_add(padding));
        if overhead > 0 {
            // No owner will consume it.
            self.consumed(StreamId(id), overhead as usize);
        }
        if left == 0 && !end {
            self.budgets.spend(Cost::EmptyData)?;
        } else if left > 0 {
            self.budgets.payload();
            if let Some(stream) = self.streams.get(id) {
                stream.small_frames = 0; // a peer that answers also reads
                stream.small_received = stream.small_received.saturating_add(u32::from((left as usize) < SMALL_FRAME));
            }
        }
        if let Some(content_left) = self.streams.get(id).and_then(|stream| stream.content_left.as_mut()) {
            let Some(after) = content_left.checked_sub(u64::from(left)).filter(|&after| !end || after == 0) else {
                return Err(Fault::Stream(id, Violation::Malformed));
            };
            *content_left = after;
        }
        self.parser.phase = Phase::Data(Data { stream: id, left, padding, end });
        Ok(())
    }

    /// Lends what has come of the payload, then skips the padding; the end is told with the last byte of the frame.
    pub(super) fn data<'i>(&mut self, mut data: Data, input: &mut &'i [u8]) -> Result<Option<Event<'i>>, Fault> {
        let (piece, rest) = input.split_at_checked(data.left as usize).unwrap_or((*input, &[]));
        let skipped = if piece.len() == data.left as usize { rest.len().min(data.padding as usize) } else { 0 };
        *input = rest.get(skipped..).unwrap_or_default();
        data.left = data.left.saturating_sub(piece.len() as u32);
        data.padding = data.padding.saturating_sub(skipped as u32);
        let whole = data.left == 0 && data.padding == 0;
        self.parser.phase = if whole { Phase::Header } else { Phase::Data(data) };
        let end = whole && data.end;
        // The owner may have reset the stream since the frame began.
        let Some(stream) = self.streams.get(data.stream).filter(|stream| stream.reset_due.is_none()) else {
            return Ok(None);
        };
        if piece.is_empty() && !end {
            return Ok(None);
        }
        if end {
            stream.recv = Receiving::Ended;
            self.settle(data.stream);
        }
        Ok(Some(Event::Data { stream: StreamId(data.stream), data: piece, end }))
    }
}
