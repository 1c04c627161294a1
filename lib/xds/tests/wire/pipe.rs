//! Connections in memory between clients and one server.

use std::io;

use tokio::{
    io::{DuplexStream, duplex},
    sync::mpsc,
};
use tokio_stream::{Stream, StreamExt, wrappers::UnboundedReceiverStream};
use underpass_xds::connect::Connect;

/// Bytes that wait in a pipe.
const CAPACITY: usize = 64 << 10;

/// The clients' end.
#[derive(Clone)]
pub(crate) struct Pipe(mpsc::UnboundedSender<DuplexStream>);

impl Pipe {
    /// The clients' end, and the connections that the server gets.
    pub(crate) fn new() -> (Self, impl Stream<Item = io::Result<DuplexStream>> + Send + 'static) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), UnboundedReceiverStream::new(receiver).map(Ok))
    }

    pub(crate) fn open(&self) -> io::Result<DuplexStream> {
        let (client, server) = duplex(CAPACITY);
        self.0.send(server).map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        Ok(client)
    }
}

impl Connect for Pipe {
    type Stream = DuplexStream;

    async fn connect(&self) -> io::Result<DuplexStream> {
        self.open()
    }
}
