//! Connections that can be cut. A stream whose client does not read cannot be ended in any other way: its last frame
//! waits behind those that the client has left unread.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
};
use tonic::transport::server::Connected;

/// Cuts one connection.
#[derive(Clone, Debug)]
pub(crate) struct Scissors(watch::Sender<bool>);

impl Scissors {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    pub(crate) fn cut(&self) {
        self.0.send_replace(true);
    }

    /// Waits until it is cut.
    pub(crate) async fn wait(&self) {
        // The sender is here, so that the channel does not close.
        let _ = self.0.subscribe().wait_for(|cut| *cut).await;
    }
}

/// A connection that fails once it is cut, alone or with all of its server.
pub(crate) struct Connection<IO> {
    io: IO,
    scissors: Scissors,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_cut: bool,
}

impl<IO> Connection<IO> {
    pub(crate) fn new(io: IO, all: Scissors) -> Self {
        let scissors = Scissors::new();
        let own = scissors.clone();
        let cut = Box::pin(async move {
            tokio::select! {
                () = own.wait() => (),
                () = all.wait() => (),
            }
        });
        Self { io, scissors, cut, is_cut: false }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        self.is_cut = self.is_cut || self.cut.as_mut().poll(context).is_ready();
        if self.is_cut { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl<IO> Connected for Connection<IO> {
    type ConnectInfo = Scissors;

    fn connect_info(&self) -> Scissors {
        self.scissors.clone()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Connection<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Connection<IO> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
