//! The one plaintext buffer that all streams of a connection append their frames to.
//!
//! Its own module because of three promises: room behind a frame header is lent without being cleared each time; the
//! frames of a stream that was given up can be cut out again as long as none of their bytes has left; a connection with
//! nothing to send holds no memory.
//!
//! ```text
//!   0        head        boundary                      tail                    len
//!   | sent    | rest of a | whole frames, not sent yet  | room, already cleared |
//!             | frame     |
//! ```

use crate::frame::{HEADER_LEN, Header, Kind, flag, take};

#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Its length is the size that was ever cleared, not the used one: see `tail`.
    buffer: Vec<u8>,
    head: usize,
    boundary: usize,
    tail: usize,
    /// The begin of the last frame, if that is a DATA frame.
    last_data: Option<usize>,
    /// Bytes of frames other than DATA and field blocks that have not begun to leave.
    control: usize,
}

impl Output {
    pub(crate) fn pending(&self) -> &[u8] {
        self.buffer.get(self.head..self.tail).unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Whether the first frame that waits has begun to leave.
    pub(crate) fn is_cut(&self) -> bool {
        self.head != self.boundary && self.head != 0
    }

    pub(crate) fn len(&self) -> usize {
        self.tail.saturating_sub(self.head)
    }

    /// Bytes of answers and credit that the peer has provoked and that have not left.
    pub(crate) fn control(&self) -> usize {
        self.control
    }

    /// `n` of the pending bytes have left.
    pub(crate) fn sent(&mut self, n: usize) {
        self.head = self.head.saturating_add(n).min(self.tail);
        if self.head == self.tail {
            (self.head, self.boundary, self.tail, self.last_data, self.control) = (0, 0, 0, None, 0);
            return;
        }
        while self.boundary < self.head {
            let Some(header) = self.header_at(self.boundary) else { return };
            let end = end_of(self.boundary, header);
            if is_control(header.kind) {
                self.control = self.control.saturating_sub(end.saturating_sub(self.boundary));
            }
            self.boundary = end;
        }
        self.last_data = self.last_data.filter(|&at| at >= self.head);
    }

    /// Takes a buffer to write into; what was in it is overwritten. Keeps its own while bytes wait in it.
    pub(crate) fn lend(&mut self, buffer: Vec<u8>) {
        if self.is_empty() && buffer.len() > self.buffer.len() {
            self.buffer = buffer;
        }
    }

    /// Gives the buffer away, unless bytes wait in it.
    pub(crate) fn release(&mut self) -> Option<Vec<u8>> {
        self.is_empty().then(|| std::mem::take(&mut self.buffer))
    }

    /// Bytes in front of everything else: the preface.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.space(bytes.len()).copy_from_slice(bytes);
        self.tail = self.tail.saturating_add(bytes.len());
        self.boundary = self.tail;
    }

    pub(crate) fn frame(&mut self, kind: Kind, flags: u8, stream: u32, payload: &[u8]) {
        let header = Header { length: length(payload.len()), kind, flags, stream };
        let total = payload.len().saturating_add(HEADER_LEN);
        let (head, body) = self.space(total).split_at_mut(HEADER_LEN.min(total));
        head.copy_from_slice(&header.encode());
        body.copy_from_slice(payload);
        self.tail = self.tail.saturating_add(total);
        self.last_data = None;
        if is_control(kind) {
            self.control = self.control.saturating_add(total);
        }
    }

    /// A field block, in as many frames as `most` bytes per frame need.
    pub(crate) fn block(&mut self, stream: u32, block: &[u8], most: usize, end_stream: bool) {
        let (first, mut rest) = block.split_at_checked(most).unwrap_or((block, &[]));
        let end_headers = |rest: &[u8]| if rest.is_empty() { flag::END_HEADERS } else { 0 };
        let end_stream = if end_stream { flag::END_STREAM } else { 0 };
        self.frame(Kind::HEADERS, end_stream | end_headers(rest), stream, first);
        while !rest.is_empty() {
            let (next, after) = rest.split_at_checked(most).unwrap_or((rest, &[]));
            rest = after;
            self.frame(Kind::CONTINUATION, end_headers(rest), stream, next);
        }
    }

    /// Room for the payload of a DATA frame; it becomes one by [`Output::data`].
    pub(crate) fn room(&mut self, want: usize) -> &mut [u8] {
        self.space(want.saturating_add(HEADER_LEN)).get_mut(HEADER_LEN..).unwrap_or_default()
    }

    /// The first `n` bytes of the room are a DATA frame of `stream`.
    pub(crate) fn data(&mut self, stream: u32, n: usize, end_stream: bool) {
        let flags = if end_stream { flag::END_STREAM } else { 0 };
        let header = Header { length: length(n), kind: Kind::DATA, flags, stream };
        self.space(HEADER_LEN).copy_from_slice(&header.encode());
        self.last_data = Some(self.tail);
        self.tail = self.tail.saturating_add(HEADER_LEN).saturating_add(n);
    }

    /// Ends `stream` with its last DATA frame, if that is the last frame of all and has not left.
    pub(crate) fn end_with_last(&mut self, stream: u32) -> bool {
        let Some(at) = self.last_data else { return false };
        match self.header_at(at) {
            Some(header) if header.stream == stream => {
                let ended = Header { flags: header.flags | flag::END_STREAM, ..header };
                if let Some(bytes) = self.buffer.get_mut(at..at.saturating_add(HEADER_LEN)) {
                    bytes.copy_from_slice(&ended.encode());
                }
                true
            }
            _ => false,
        }
    }

    /// Cuts out all frames of `stream` if the HEADERS that open it are among those of which no byte has left. Answers
    /// how many bytes of DATA payload were cut; `None` if the stream was opened already.
    pub(crate) fn cut(&mut self, stream: u32) -> Option<usize> {
        let (mut from, mut to, mut data, mut opened) = (self.boundary, self.boundary, 0_usize, false);
        while from < self.tail {
            let header = self.header_at(from)?;
            let next = end_of(from, header);
            if header.stream == stream {
                // A stream's first frame is the HEADERS that open it. If another one is, those have left.
                opened |= header.kind == Kind::HEADERS;
                if !opened {
                    return None;
                }
                if header.kind == Kind::DATA {
                    data = data.saturating_add(header.length as usize);
                }
            } else {
                if from != to {
                    self.buffer.copy_within(from..next, to);
                }
                to = to.saturating_add(next.saturating_sub(from));
            }
            from = next;
        }
        if !opened {
            return None;
        }
        self.tail = to;
        self.last_data = None;
        Some(data)
    }

    fn header_at(&self, at: usize) -> Option<Header> {
        take(self.buffer.get(at..self.tail)?).map(Header::decode)
    }

    /// `n` bytes behind the tail.
    fn space(&mut self, n: usize) -> &mut [u8] {
        /// Grows in steps, so that a buffer is cleared a few times in its life and not for every frame.
        const STEP: usize = 16 << 10;
        if self.tail.saturating_add(n) > self.buffer.len() {
            // What has left makes room first, where that is the larger part.
            if self.head > self.len() {
                let moved = self.head;
                self.buffer.copy_within(moved..self.tail, 0);
                self.head = 0;
                self.tail = self.tail.saturating_sub(moved);
                self.boundary = self.boundary.saturating_sub(moved);
                self.last_data = self.last_data.map(|at| at.saturating_sub(moved));
            }
            let need = self.tail.saturating_add(n);
            if need > self.buffer.len() {
                self.buffer.resize(need.checked_next_multiple_of(STEP).unwrap_or(need), 0);
            }
        }
        self.buffer.get_mut(self.tail..self.tail.saturating_add(n)).unwrap_or_default()
    }
}

fn is_control(kind: Kind) -> bool {
    !matches!(kind, Kind::DATA | Kind::HEADERS | Kind::CONTINUATION)
}

fn end_of(at: usize, header: Header) -> usize {
    at.saturating_add(HEADER_LEN).saturating_add(header.length as usize)
}

/// Payload lengths are bounded by the peer's maximum frame size, which has 24 bits.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(bytes: &[u8]) -> Vec<(Kind, u32, usize, u8)> {
        let (mut at, mut list) = (0, vec![]);
        while at < bytes.len() {
            let header = Header::decode(take(&bytes[at..]).unwrap());
            list.push((header.kind, header.stream, header.length as usize, header.flags));
            at = end_of(at, header);
        }
        assert_eq!(at, bytes.len(), "whole frames");
        list
    }

    fn data(output: &mut Output, stream: u32, byte: u8, n: usize) {
        output.room(n + 5)[..n].fill(byte);
        output.data(stream, n, false);
    }

    #[test]
    fn a_room_that_is_not_used_leaves_no_trace() {
        let mut output = Output::default();
        output.room(1000).fill(0xee);
        assert!(output.is_empty());
        data(&mut output, 1, 7, 3);
        assert_eq!(output.pending()[HEADER_LEN..], [7, 7, 7]);
        assert_eq!(frames(output.pending()), [(Kind::DATA, 1, 3, 0)]);
    }

    #[test]
    fn end_of_stream_rides_on_the_last_frame_only() {
        let mut output = Output::default();
        data(&mut output, 1, 7, 3);
        data(&mut output, 3, 7, 3);
        assert!(!output.end_with_last(1));
        assert!(output.end_with_last(3));
        assert_eq!(frames(output.pending()), [(Kind::DATA, 1, 3, 0), (Kind::DATA, 3, 3, flag::END_STREAM)]);
        data(&mut output, 5, 7, 3);
        output.sent(25);
        assert!(!output.end_with_last(5), "its first byte has left");
    }

    #[test]
    fn a_stream_is_cut_out_unless_it_has_begun_to_leave() {
        for sent in 0..=40 {
            let mut output = Output::default();
            output.block(1, &[1; 10], 16_384, false);
            data(&mut output, 3, 3, 20);
            output.block(5, &[5; 30], 16, false);
            data(&mut output, 5, 5, 100);
            output.frame(Kind::PING, 0, 0, &[9; 8]);
            data(&mut output, 5, 5, 11);
            data(&mut output, 1, 1, 2);
            let whole = output.pending().to_vec();
            output.sent(sent);
            assert_eq!(output.cut(3), None, "never opened here");
            assert_eq!(output.cut(1), (sent == 0).then_some(2), "{sent}");
            assert_eq!(output.cut(5), Some(111), "{sent}");
            if sent > 0 {
                assert_eq!(output.pending().len(), whole.len() - sent - 111 - 30 - 4 * HEADER_LEN);
                assert_eq!(output.pending()[..40 - sent], whole[sent..40]);
            }
            output.sent(usize::MAX);
            assert!(output.is_empty());
        }
    }

    #[test]
    fn sent_bytes_make_room() {
        let mut output = Output::default();
        for round in 0..1000_u32 {
            data(&mut output, 1, (round % 251) as u8, 1000);
            output.sent(if round == 0 { 500 } else { 1009 });
            assert!(output.len() < 1100);
        }
        assert!(output.buffer.len() <= 64 << 10, "{}", output.buffer.len());
        assert!(output.release().is_none());
        output.sent(usize::MAX);
        let buffer = output.release().unwrap();
        assert!(!buffer.is_empty() && output.buffer.is_empty());
        output.lend(buffer);
        assert!(!output.buffer.is_empty());
    }
}
