//! A stream of a tunnel as an async reader and writer, for a program that has no socket to carry: an HTTP connection of a
//! waypoint, or a tunnel inside the tunnel. [`Stream::run`] is faster where both ends are sockets: it copies nothing.
//!
//! | of the stream | here |
//! |---|---|
//! | END_STREAM of the peer | the end of what is read, once everything before it was read |
//! | our END_STREAM | `shutdown`; the peer's half goes on |
//! | RST_STREAM, a refusal, the end of the tunnel | an error of reading, unless the peer's half has ended before, and of writing, with the [`Ended`] inside |
//! | RST_STREAM(NO_ERROR) after the peer's END_STREAM: it needs no more of ours (RFC 9113, 8.1) | `BrokenPipe` for a writer |
//! | an empty window, a tunnel whose socket takes no more | a write that waits |
//! | what is not read | charged to the pod; its credit is not returned, so that the peer waits |
//!
//! Dropped before both halves ended, the stream is reset with CANCEL; with NO_ERROR where we have accepted it and ended our half,
//! because the answer is complete and the rest of the request not needed.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use underpass_hbone::{Blocked, ErrorCode, Headers, SMALL_FRAME};

use super::stream::{EARLY_BYTES, Ended, GATHER, Response, Stream, TURN_BYTES};

/// A stream as an async reader and writer. Worker-local, like everything of a tunnel.
pub struct ByteStream {
    stream: Stream,
    /// Early data: the number of bytes that followed CONNECT before its answer. Not kept: the owner sends them again, or not.
    early: Cell<usize>,
    /// Our half has ended.
    is_shut: Cell<bool>,
    /// [`SharedStream::changes`] when the last write found no room.
    blocked_at: Cell<Option<u32>>,
    /// Small writes are sent at once.
    sends_at_once: Cell<bool>,
    /// When a small write began to wait for more bytes.
    gathering: Cell<Option<Instant>>,
    timer: RefCell<Option<Pin<Box<Sleep>>>>,
}

impl fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stream.fmt(f)
    }
}

impl From<Stream> for ByteStream {
    fn from(stream: Stream) -> Self {
        Self {
            stream,
            early: Cell::new(0),
            is_shut: Cell::new(false),
            blocked_at: Cell::new(None),
            sends_at_once: Cell::new(false),
            gathering: Cell::new(None),
            timer: RefCell::default(),
        }
    }
}

impl ByteStream {
    /// The answer to our CONNECT. Bytes may be written before: 64 KiB of them leave at once.
    ///
    /// # Errors
    /// The end of a stream without one.
    pub async fn response(&self) -> Result<Response, Ended> {
        self.stream.response().await
    }

    /// Answers a CONNECT: see [`Stream::respond`].
    pub fn respond(&self, status: u16, headers: &Headers) {
        self.stream.respond(status, headers);
    }

    /// Reads what has arrived.
    ///
    /// # Errors
    /// `WouldBlock` where nothing has; else the end of the stream, an [`Ended`] inside.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut at = 0;
        self.read(buffer.len(), |bytes| {
            let to = buffer.get_mut(at..at + bytes.len()).unwrap_or_default();
            to.copy_from_slice(bytes);
            at += bytes.len();
        })
    }

    /// Writes what there is room for, at most one frame.
    ///
    /// # Errors
    /// `WouldBlock` where there is no room, or where one more small frame would be one too many: for 10 ms, unless more bytes are
    /// offered. `BrokenPipe` after our half ended; else the end of the stream, an [`Ended`] inside.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.write(&[IoSlice::new(bytes)])
    }

    /// Completes when a read would not be `WouldBlock`.
    pub async fn readable(&self) {
        poll_fn(|cx| if self.is_readable() { Poll::Ready(()) } else { self.wait_to_read(cx) }).await;
    }

    /// Completes when there may be room again after a write that was `WouldBlock`.
    pub async fn writable(&self) {
        poll_fn(|cx| {
            let shared = &self.stream.shared;
            let is_blocked = self.blocked_at.get() == Some(shared.changes());
            if is_blocked { self.poll_room(cx) } else { Poll::Ready(()) }
        })
        .await;
    }

    /// Sends what is written from now on at once, however small.
    pub(super) fn send_at_once(&self) {
        self.sends_at_once.set(true);
    }

    /// Ends our half.
    ///
    /// # Errors
    /// `NotConnected` where the peer's CONNECT is not answered yet; else the end of the stream.
    pub fn shut_down_write(&self) -> io::Result<()> {
        if self.is_shut.get() {
            return Ok(());
        }
        if let Some(ended) = self.stream.failure() {
            return Err(ended.into());
        }
        let (tunnel, id) = (&self.stream.tunnel, self.stream.shared.id);
        let hbone = &mut tunnel.state.borrow_mut().hbone;
        if hbone.reserve(id, 1).is_err_and(|blocked| blocked == Blocked::Unanswered) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        hbone.finish(id);
        self.is_shut.set(true);
        tunnel.wake.notify_one();
        Ok(())
    }

    /// Hands what has arrived to `take`. A half that has finished is read to its end, also where the stream is reset afterwards.
    fn read(&self, most: usize, take: impl FnMut(&[u8])) -> io::Result<usize> {
        let Stream { shared, tunnel, .. } = &self.stream;
        let finished = shared.finished.get();
        match self.stream.failure() {
            // What was kept of a stream that was given up is gone: it never comes to its own end.
            Some(ended) if !finished || matches!(ended, Ended::Refused(_) | Ended::Memory) => return Err(ended.into()),
            _ => {}
        }
        let n = shared.take(most, take);
        if n > 0 {
            tunnel.state.borrow_mut().hbone.consumed(shared.id, n);
            tunnel.wake.notify_one();
        } else if most > 0 && !finished {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(n)
    }

    fn is_readable(&self) -> bool {
        let shared = &self.stream.shared;
        shared.has_queue() || shared.finished.get() || self.stream.failure().is_some()
    }

    fn wait_to_read(&self, cx: &Context<'_>) -> Poll<()> {
        self.stream.shared.reader.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    fn write(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        if let Some(ended) = self.stream.failure() {
            return Err(ended.into());
        }
        // The peer may need no more of ours (RFC 9113 8.1).
        if self.is_shut.get() || self.stream.shared.end.borrow().is_some() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let len: usize = from.iter().map(|slice| slice.len()).sum();
        match self.frame(from, len) {
            0 if len > 0 => {
                self.blocked_at.set(Some(self.stream.shared.changes()));
                Err(io::ErrorKind::WouldBlock.into())
            }
            n => {
                self.blocked_at.set(None);
                Ok(n)
            }
        }
    }

    /// Makes a frame of what there is room for now. Answers how many bytes that were.
    fn frame(&self, from: &[IoSlice<'_>], len: usize) -> usize {
        let Stream { tunnel, shared, .. } = &self.stream;
        let is_unanswered = shared.status.get().is_none();
        let most = if is_unanswered { EARLY_BYTES.saturating_sub(self.early.get()) } else { TURN_BYTES }.min(len);
        let mut since = self.gathering.get();
        let gathers = self.stream.gathers(|| len < SMALL_FRAME && !self.sends_at_once.get(), &mut since).is_some();
        self.gathering.set(since.filter(|_| gathers));
        if most == 0 || gathers {
            return 0;
        }
        let state = &mut *tunnel.state.borrow_mut();
        if self.stream.waits_for_output(state) {
            return 0;
        }
        self.stream.lend_output(state);
        let Ok(mut room) = state.hbone.reserve(shared.id, most) else {
            tunnel.reclaim_output(state);
            return 0;
        };
        let n = gather(from, room.bytes()).min(most);
        room.commit(n, false);
        if is_unanswered {
            self.early.set(self.early.get() + n);
        }
        tunnel.wake.notify_one();
        n
    }

    /// After a write that found no room: until it is worth another one.
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.shared.writer.replace(Some(cx.waker().clone()));
        let mut timer = self.timer.borrow_mut();
        let Some(since) = self.gathering.get() else {
            *timer = None;
            return Poll::Pending;
        };
        let until = since + GATHER;
        let sleep = timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if sleep.deadline() != until {
            sleep.as_mut().reset(until);
        }
        sleep.as_mut().poll(cx)
    }
}

/// Copies as much as there is room for. Answers how much.
fn gather(from: &[IoSlice<'_>], mut room: &mut [u8]) -> usize {
    let mut n = 0;
    for slice in from {
        let (to, rest) = room.split_at_mut(slice.len().min(room.len()));
        to.copy_from_slice(slice.get(..to.len()).unwrap_or_default());
        n += to.len();
        room = rest;
    }
    n
}

impl AsyncRead for ByteStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.read(buffer.remaining(), |bytes| buffer.put_slice(bytes)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_to_read(cx).map(Ok),
            read => Poll::Ready(read.map(|_| ())),
        }
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.write(from) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.poll_room(cx)),
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing to do: written bytes leave with this turn of the tunnel.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shut_down_write())
    }
}

impl Drop for ByteStream {
    fn drop(&mut self) {
        if self.is_shut.get() && self.stream.shared.is_accepted {
            self.stream.reset(ErrorCode::NO_ERROR);
        }
    }
}
