//! The transport of a tunnel: a TCP socket, or a stream of another tunnel. The latter is double HBONE: the outer tunnel leads
//! to a gateway, the inner one past it to the workload, whose certificate alone proves that it is the one that was called.

use std::{io, net::SocketAddr};

use tokio::net::TcpStream;

use super::{ByteStream, Ended, Stream, TunnelEnd};
use crate::socket;

/// The carrier of a tunnel's ciphertext, non-blocking.
#[derive(Debug)]
pub enum Transport {
    /// A socket that was accepted, or whose connect() was begun.
    Socket(TcpStream),
    /// A stream of another tunnel of the same worker. The CONNECT of one that was opened may still be unanswered; one that was
    /// accepted has to be answered before.
    Stream(Box<ByteStream>),
}

impl From<TcpStream> for Transport {
    fn from(socket: TcpStream) -> Self {
        Self::Socket(socket)
    }
}

impl From<Stream> for Transport {
    fn from(stream: Stream) -> Self {
        Self::Stream(Box::new(stream.into()))
    }
}

impl Transport {
    /// The address of the socket's peer; none if it is gone already, and for a stream.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket(socket) => socket.peer_addr().ok(),
            Self::Stream(_) => None,
        }
    }

    /// Waits until connect() is done, or CONNECT answered.
    pub(super) async fn connected(&self) -> Result<(), TunnelEnd> {
        let unreachable = |error: io::Error| TunnelEnd::Unreachable(error.kind());
        match self {
            Self::Socket(socket) => {
                socket.writable().await.map_err(unreachable)?;
                socket.take_error().map_err(unreachable)?.map_or(Ok(()), |error| Err(unreachable(error)))
            }
            Self::Stream(stream) => match stream.response().await {
                Ok(response) if response.status != 200 => Err(end_of(Ended::Refused(response.status))),
                Ok(_) => Ok(()),
                Err(ended) => Err(end_of(ended)),
            },
        }
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Socket(socket) => socket.readable().await,
            Self::Stream(stream) => {
                stream.readable().await;
                Ok(())
            }
        }
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Socket(socket) => socket.writable().await,
            Self::Stream(stream) => {
                stream.writable().await;
                Ok(())
            }
        }
    }

    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.try_read(buffer),
            Self::Stream(stream) => stream.try_read(buffer),
        }
    }

    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.try_write(bytes),
            Self::Stream(stream) => stream.try_write(bytes),
        }
    }

    /// Sends what is written from now on at once, however small.
    pub(super) fn send_at_once(&self) {
        match self {
            Self::Socket(_) => {}
            Self::Stream(stream) => stream.send_at_once(),
        }
    }

    pub(super) fn shut_down_write(&self) -> io::Result<()> {
        match self {
            Self::Socket(socket) => socket::shutdown_write(socket),
            Self::Stream(stream) => stream.shut_down_write(),
        }
    }
}

/// The end of a tunnel whose transport failed with `error`.
pub(super) fn broken(error: &io::Error) -> TunnelEnd {
    let ended = error.get_ref().and_then(|inner| inner.downcast_ref::<Ended>());
    ended.map_or(TunnelEnd::Broken(error.kind()), |ended| end_of(ended.clone()))
}

fn end_of(ended: Ended) -> TunnelEnd {
    TunnelEnd::Carrier(Box::new(ended))
}
