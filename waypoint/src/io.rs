//! The streams of bytes that HTTP and plain connections run on: a client's stream behind the bytes that were read to find out
//! what it speaks, and the ways to an endpoint.

use std::{
    cell::{Cell, RefCell},
    future::Future as _,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};
use underpass_net::{budget::Permit, tls::Stream, tunnel::ByteStream};

/// When the head of a request must have come: the time runs from its first byte on, and not while a connection is idle.
#[derive(Debug)]
pub(crate) struct HeadTime {
    limit: Duration,
    /// Requests whose heads have come and that are being answered.
    in_flight: Cell<usize>,
    /// When the last request began or ended.
    last: Cell<Instant>,
    since: Cell<Option<Instant>>,
}

impl HeadTime {
    pub(crate) fn new(limit: Duration) -> Rc<Self> {
        Rc::new(Self { limit, in_flight: Cell::new(0), last: Cell::new(Instant::now()), since: Cell::new(None) })
    }

    /// A head has come; until the guard is dropped bytes that arrive are a body's.
    pub(crate) fn came(self: &Rc<Self>) -> InFlight {
        self.since.set(None);
        self.last.set(Instant::now());
        self.in_flight.set(self.in_flight.get() + 1);
        InFlight(Rc::clone(self))
    }

    /// Completes when no request has been under way for so long; none: never.
    pub(crate) async fn idle(&self, time: Option<Duration>) {
        let Some(time) = time else { return std::future::pending().await };
        while self.in_flight.get() > 0 || self.last.get().elapsed() < time {
            // One that is under way says when it has ended.
            let since = if self.in_flight.get() > 0 { Instant::now() } else { self.last.get() };
            sleep_until(since + time).await;
        }
    }

    fn arrived(&self) {
        if self.in_flight.get() == 0 && self.since.get().is_none() {
            self.since.set(Some(Instant::now()));
        }
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct InFlight(Rc<HeadTime>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get().saturating_sub(1));
        self.0.last.set(Instant::now());
    }
}

/// A timer that is set while it is needed.
type Timer = RefCell<Option<Pin<Box<Sleep>>>>;

/// A client's stream: first the bytes that were read already.
pub(crate) struct ClientStream {
    read: Bytes,
    stream: ByteStream,
    head: Option<(Rc<HeadTime>, Timer)>,
}

impl std::fmt::Debug for ClientStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientStream").field("read", &self.read.len()).finish_non_exhaustive()
    }
}

impl ClientStream {
    pub(crate) const fn new(read: Bytes, stream: ByteStream) -> Self {
        Self { read, stream, head: None }
    }

    /// These bytes, which were read of it, once more before the rest.
    pub(crate) fn again(self, mut read: BytesMut) -> Self {
        read.extend_from_slice(&self.read);
        Self { read: read.freeze(), ..self }
    }

    /// Ends with `TimedOut` where the head of a request takes longer.
    pub(crate) fn limited(mut self, head: &Rc<HeadTime>) -> Self {
        if !self.read.is_empty() {
            head.arrived();
        }
        self.head = Some((Rc::clone(head), RefCell::default()));
        self
    }

    /// What comes from now on is no request: after an upgrade.
    pub(crate) fn unlimited(mut self) -> Self {
        self.head = None;
        self
    }

    fn poll_late(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some((head, timer)) = &self.head else { return Poll::Pending };
        let mut timer = timer.borrow_mut();
        let Some(since) = head.since.get() else {
            *timer = None;
            return Poll::Pending;
        };
        let until = since + head.limit;
        let sleep = timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if sleep.deadline() != until {
            sleep.as_mut().reset(until);
        }
        sleep.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.read.is_empty() {
            let n = this.read.len().min(buffer.remaining());
            buffer.put_slice(this.read.get(..n).unwrap_or_default());
            this.read.advance(n);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Pending => this.poll_late(cx),
            read => {
                if buffer.filled().len() > before
                    && let Some((head, _)) = &this.head
                {
                    head.arrived();
                }
                read
            }
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// The way to an endpoint.
#[derive(Debug)]
pub(crate) enum EndpointStream {
    /// A stream of a tunnel to its node.
    Hbone(ByteStream),
    /// A connection of its own: the endpoint is not in the mesh.
    Plain(TcpStream, #[allow(dead_code, reason = "a guard")] Permit),
    /// TLS of a DestinationRule inside of one of the others.
    Tls(Box<Stream<Self>>),
}

impl AsyncRead for EndpointStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Hbone(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Plain(stream, _) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for EndpointStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Hbone(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Plain(stream, _) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Hbone(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Plain(stream, _) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Hbone(stream) => Pin::new(stream).poll_flush(cx),
            Self::Plain(stream, _) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Hbone(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Plain(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
