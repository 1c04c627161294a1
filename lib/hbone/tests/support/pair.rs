//! Two connections joined in memory, under virtual time, with the bytes between them cut wherever a test wants.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};
use underpass_hbone::{Blocked, Config, Connect, Connection, Error, Event, Headers, StreamId};

/// One end and what its owner has seen.
pub(crate) struct End {
    pub(crate) connection: Connection,
    /// Events other than DATA, in order, as text with the fields that tests look at.
    pub(crate) log: Vec<Event<'static>>,
    /// Payload per stream.
    pub(crate) received: BTreeMap<u32, Vec<u8>>,
    /// Streams whose other half has ended.
    pub(crate) ended: Vec<u32>,
    /// Whether payload is consumed as soon as it arrives.
    pub(crate) consumes: bool,
    /// Payload that was delivered and not consumed.
    pub(crate) held: BTreeMap<u32, usize>,
    pub(crate) error: Option<Error>,
}

impl End {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            log: vec![],
            received: BTreeMap::new(),
            ended: vec![],
            consumes: true,
            held: BTreeMap::new(),
            error: None,
        }
    }

    /// Gives the connection some input and notes what it says.
    pub(crate) fn receive(&mut self, mut input: &[u8]) {
        loop {
            match self.connection.receive(&mut input) {
                Ok(Some(event)) => self.note(event),
                Ok(None) => return assert!(input.is_empty(), "all input is taken"),
                Err(error) => {
                    self.error.get_or_insert(error);
                    return;
                }
            }
        }
    }

    fn note(&mut self, event: Event<'_>) {
        let event = match event {
            Event::Data { stream, data, end } => {
                assert!(!data.is_empty() || end, "an event without meaning");
                self.received.entry(stream.number()).or_default().extend_from_slice(data);
                if self.consumes {
                    self.connection.consumed(stream, data.len());
                } else {
                    *self.held.entry(stream.number()).or_default() += data.len();
                }
                if end {
                    self.ended.push(stream.number());
                }
                return;
            }
            Event::Connect { stream, request, end } => {
                self.end_if(end, stream);
                Event::Connect { stream, request, end }
            }
            Event::Request { stream, request, end } => {
                self.end_if(end, stream);
                Event::Request { stream, request, end }
            }
            Event::Response { stream, status, headers, end } => {
                self.end_if(end, stream);
                Event::Response { stream, status, headers, end }
            }
            Event::Trailers { stream, headers } => {
                self.end_if(true, stream);
                Event::Trailers { stream, headers }
            }
            Event::Reset { stream, code, cause } => Event::Reset { stream, code, cause },
            Event::Writable { stream } => Event::Writable { stream },
            Event::GoAway { last, code, debug } => Event::GoAway { last, code, debug },
        };
        self.log.push(event);
    }

    fn end_if(&mut self, end: bool, stream: StreamId) {
        if end {
            self.ended.push(stream.number());
        }
    }

    /// Sends as much of `bytes` as there is room for; answers how much that was.
    pub(crate) fn send(&mut self, stream: StreamId, bytes: &[u8], end: bool) -> usize {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.connection.reserve(stream, (bytes.len() - sent).min(64 << 10)) {
                Ok(mut room) => {
                    let n = room.len();
                    assert_eq!(room.bytes().len(), n);
                    room.bytes().copy_from_slice(&bytes[sent..sent + n]);
                    sent += n;
                    room.commit(n, end && sent == bytes.len());
                }
                Err(Blocked::Window) => return sent,
                Err(other) => panic!("{other} after {sent} bytes on {stream:?}"),
            }
        }
        if bytes.is_empty() && end {
            self.connection.finish(stream);
        }
        sent
    }

    /// The requests in the log, by stream.
    pub(crate) fn asked(&self) -> Vec<StreamId> {
        let stream = |event: &Event<'_>| match event {
            Event::Connect { stream, .. } | Event::Request { stream, .. } => Some(*stream),
            _ => None,
        };
        self.log.iter().filter_map(stream).collect()
    }

    /// Takes the bytes that wait to be sent.
    pub(crate) fn transmit(&mut self) -> Vec<u8> {
        let bytes = self.connection.poll_transmit().to_vec();
        self.connection.transmitted(bytes.len());
        bytes
    }
}

/// A client and a server.
pub(crate) struct Pair {
    pub(crate) client: End,
    pub(crate) server: End,
    pub(crate) now: Instant,
    /// The sizes of the next reads; when used up, reads are whole.
    pub(crate) cuts: VecDeque<usize>,
    /// The bytes in flight between the ends.
    up: Vec<u8>,
    down: Vec<u8>,
}

impl Pair {
    pub(crate) fn new(client: Config, server: Config) -> Self {
        let now = super::origin();
        Self {
            client: End::new(Connection::client(client, now)),
            server: End::new(Connection::server(server, now)),
            now,
            cuts: VecDeque::new(),
            up: vec![],
            down: vec![],
        }
    }

    /// Carries bytes both ways until neither end has any.
    pub(crate) fn run(&mut self) {
        while self.step() {}
    }

    /// Carries what both ends have now; answers whether that was anything.
    pub(crate) fn step(&mut self) -> bool {
        let (mut up, mut down) = (std::mem::take(&mut self.up), std::mem::take(&mut self.down));
        up.extend(self.client.transmit());
        down.extend(self.server.transmit());
        for (bytes, end) in [(&up, &mut self.server), (&down, &mut self.client)] {
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let n = self.cuts.pop_front().unwrap_or(usize::MAX).clamp(1, rest.len());
                end.receive(&rest[..n]);
                rest = &rest[n..];
            }
            if bytes.is_empty() {
                end.receive(&[]);
            }
        }
        !up.is_empty() || !down.is_empty()
    }

    /// The first bytes of what one end has to send leave it.
    pub(crate) fn part(&mut self, server: bool, n: usize) {
        let (end, wire) = if server { (&mut self.server, &mut self.down) } else { (&mut self.client, &mut self.up) };
        let bytes = end.connection.poll_transmit();
        let n = n.min(bytes.len());
        wire.extend(&bytes[..n]);
        end.connection.transmitted(n);
    }

    /// Lets time pass for both ends.
    pub(crate) fn pass(&mut self, by: Duration) {
        self.now += by;
        for end in [&mut self.client, &mut self.server] {
            if let Err(error) = end.connection.handle_timeout(self.now) {
                end.error.get_or_insert(error);
            }
        }
    }

    pub(crate) fn no_errors(&self) {
        assert_eq!((self.client.error, self.server.error), (None, None));
    }
}

pub(crate) fn connect(authority: &str) -> Connect {
    Connect { authority: authority.into(), headers: Headers::new() }
}
