//! One of our ends on a byte stream in memory, with an h2 peer at the other side.

use super::pair::{End, connect};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use underpass_hbone::{Config, Connection, Event, Headers, StreamId};

/// Nothing that is waited for here takes longer, however loaded the machine is.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Ours {
    pub(crate) end: End,
    io: DuplexStream,
    /// Bytes per read.
    read: usize,
    /// Server: how much of each stream was sent back.
    echoed: BTreeMap<u32, usize>,
    closed: bool,
}

impl Ours {
    pub(crate) fn client(config: Config, io: DuplexStream, read: usize) -> Self {
        Self::new(Connection::client(config, super::origin()), io, read)
    }

    pub(crate) fn server(config: Config, io: DuplexStream, read: usize) -> Self {
        Self::new(Connection::server(config, super::origin()), io, read)
    }

    fn new(connection: Connection, io: DuplexStream, read: usize) -> Self {
        Self { end: End::new(connection), io, read, echoed: BTreeMap::new(), closed: false }
    }

    pub(crate) fn open(&mut self, authority: &str) -> StreamId {
        self.end.connection.open(&connect(authority)).unwrap()
    }

    /// Writes what the stream takes and reads once, whichever is possible: who only writes may block a peer who does the same.
    pub(crate) async fn turn(&mut self) {
        let mut buffer = vec![0; self.read];
        poll_fn(|context| {
            let moved = self.write(context);
            let mut read = ReadBuf::new(&mut buffer);
            match pin!(&mut self.io).poll_read(context, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => self.end.receive(read.filled()),
                Poll::Ready(_) => self.closed = true,
                Poll::Pending if moved => {}
                Poll::Pending => return Poll::Pending,
            }
            Poll::Ready(())
        })
        .await;
    }

    fn write(&mut self, context: &mut Context<'_>) -> bool {
        let mut moved = false;
        while self.end.connection.queued() > 0 {
            match pin!(&mut self.io).poll_write(context, self.end.connection.poll_transmit()) {
                Poll::Ready(Ok(n)) => self.end.connection.transmitted(n),
                // The peer has gone: what it said before is still to be read.
                Poll::Ready(Err(_)) => self.end.connection.transmitted(usize::MAX),
                Poll::Pending => break,
            }
            moved = true;
        }
        moved
    }

    /// Takes turns until `fact` holds.
    pub(crate) async fn until(&mut self, what: &str, mut fact: impl FnMut(&mut End) -> bool) {
        let turns = async {
            while !fact(&mut self.end) {
                assert!(
                    !self.closed,
                    "the peer is gone before: {what}; error {:?}, log {:?}",
                    self.end.error, self.end.log
                );
                self.turn().await;
            }
        };
        if tokio::time::timeout(DEADLINE, turns).await.is_err() {
            panic!("not in time: {what}; error {:?}, log {:?}", self.end.error, self.end.log);
        }
        poll_fn(|context| Poll::Ready(self.write(context))).await;
    }

    /// Sends everything and ends the half; answers what came back until the peer ended its own.
    pub(crate) async fn converse(&mut self, stream: StreamId, payload: &[u8]) -> Vec<u8> {
        let (mut sent, mut finished) = (0, false);
        self.until("the stream's both ends", |end| {
            if !finished {
                sent += end.send(stream, &payload[sent..], false);
                if sent == payload.len() {
                    end.connection.finish(stream);
                    finished = true;
                }
            }
            finished && end.ended.contains(&stream.number())
        })
        .await;
        self.end.received.remove(&stream.number()).unwrap_or_default()
    }

    /// Accepts every CONNECT and sends back what comes, until the peer closes the connection.
    pub(crate) async fn serve_echo(mut self) -> End {
        let mut seen = 0;
        while !self.closed && self.end.error.is_none() {
            while let Some(event) = self.end.log.get(seen) {
                seen += 1;
                match event {
                    Event::Connect { stream, .. } => {
                        let stream = *stream;
                        if self.end.connection.respond(stream, 200, &Headers::new(), false).is_ok() {
                            self.echoed.insert(stream.number(), 0);
                        }
                    }
                    Event::Request { stream, .. } => {
                        let stream = *stream;
                        self.end.connection.respond(stream, 400, &Headers::new(), true).unwrap();
                    }
                    Event::Reset { stream, .. } => {
                        self.echoed.remove(&stream.number());
                    }
                    _ => {}
                }
            }
            self.echo();
            self.turn().await;
        }
        self.end
    }

    fn echo(&mut self) {
        let asked = self.end.asked();
        for stream in asked {
            let Some(done) = self.echoed.get_mut(&stream.number()) else { continue };
            let received = self.end.received.remove(&stream.number()).unwrap_or_default();
            *done += self.end.send(stream, &received[*done..], false);
            let all = *done == received.len();
            self.end.received.insert(stream.number(), received);
            if all && self.end.ended.contains(&stream.number()) {
                self.end.connection.finish(stream);
                self.echoed.remove(&stream.number());
            }
        }
    }
}
