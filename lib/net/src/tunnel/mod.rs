//! Tunnels: a TCP socket (or a stream of another tunnel), mutual TLS on it, HBONE in that, and the streams that share it.
//! Worker-local.
//!
//! ```text
//!  application socket --read straight into--> hbone output --encrypt once--> tls out --write once--> tunnel socket
//!  application socket <--written straight from the decrypted buffer-- hbone events <-- tls <-- tunnel socket
//!                     \-- queued only when it does not take more; credit returns when it left
//! ```
//!
//! A tunnel is driven by one task (`driver`); each stream by the task of its connection (`stream`), which sleeps
//! unless its application or its window has something for it. What the two share about a stream is in `shared`.
//! A tunnel exists from the moment its connect() was begun: streams are opened on it at once, and CONNECT leaves as
//! soon as the handshake is done.
//!
//! Invariant: the tunnel's state is borrowed only between awaits, never across one.

mod bytes;
mod driver;
mod memory;
mod meter;
mod shared;
mod stream;
mod transport;

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    fmt, io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::Notify, time::Instant};
use underpass_core::{Reason, tls::TlsFailure};
use underpass_hbone::{Config, Connect, Connection, ErrorCode, OpenError, StreamId};
use underpass_identity::Roots;

pub use self::{
    bytes::ByteStream,
    memory::{Charge, Memory},
    meter::{FAMILIES, Meter},
    shared::Tally,
    stream::{EarlyData, Ended, Response, Stream},
    transport::Transport,
};
use self::{
    driver::{Driver, ServerEnd},
    meter::TunnelMeter,
    shared::SharedStream,
};
use crate::{
    budget::Reservation,
    buffer::Buffers,
    tls::{ClientConfig, Outgoing, PeerInfo, ServerConfig, Session, SessionError},
};

/// The settings of a tunnel.
#[derive(Clone, Debug)]
pub struct Settings {
    /// HTTP/2 settings of both roles.
    pub hbone: Config,
    /// Timeout of connecting and the handshake.
    pub handshake: Duration,
    /// Time after which a tunnel without streams is closed.
    pub idle: Duration,
    /// The metrics of tunnels and streams.
    pub meter: Meter,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hbone: Config::default(),
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(300),
            meter: Meter::default(),
        }
    }
}

/// The end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelEnd {
    /// It was idle, or its peer closed it in order.
    Closed,
    /// No connection to the next hop.
    Unreachable(io::ErrorKind),
    /// The connection broke.
    Broken(io::ErrorKind),
    /// The peer did not answer in time.
    Timeout,
    /// The TLS handshake failed, or the session did.
    Tls(TlsFailure),
    /// The peer broke HTTP/2.
    Protocol(ErrorCode),
    /// The peer's certificate is no longer trusted.
    Distrusted,
    /// Its peer was not authenticated yet, and there are too many such peers.
    Crowded,
    /// We are going away.
    Drained,
    /// It ran in a stream of another tunnel, which ended so.
    Carrier(Box<Ended>),
    /// The task that drove it panicked.
    Defect,
}

impl TunnelEnd {
    /// The reason of its connections' end.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Closed | Self::Broken(_) => Reason::TunnelClosed,
            Self::Unreachable(_) => Reason::Unreachable,
            Self::Timeout => Reason::Timeout,
            Self::Tls(failure) => Reason::Tls(failure.clone()),
            Self::Protocol(_) => Reason::Protocol,
            Self::Distrusted => Reason::Identity,
            Self::Crowded => Reason::Limit,
            Self::Drained => Reason::Drain,
            Self::Carrier(ended) => match &**ended {
                Ended::Refused(status) => Reason::Refused(*status),
                Ended::Memory => Reason::Memory,
                Ended::Tunnel(end) => end.reason(),
                Ended::Finished | Ended::AppReset | Ended::PeerReset(_) | Ended::Unprocessed => Reason::TunnelClosed,
            },
            Self::Defect => Reason::Internal,
        }
    }
}

impl fmt::Display for TunnelEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::Unreachable(kind) => write!(f, "connect failed: {kind}"),
            Self::Broken(kind) => write!(f, "connection broken: {kind}"),
            Self::Timeout => f.write_str("the peer did not answer in time"),
            Self::Tls(failure) => write!(f, "{}: {failure}", failure.refusal().as_str()),
            Self::Protocol(code) => write!(f, "http/2: {}", code.name().unwrap_or("unknown error")),
            Self::Distrusted => f.write_str("the peer's certificate is no longer trusted"),
            Self::Crowded => f.write_str("too many unauthenticated peers"),
            Self::Drained => f.write_str("drained"),
            Self::Carrier(ended) => write!(f, "carrier: {ended}"),
            Self::Defect => f.write_str("internal error: the tunnel's task panicked"),
        }
    }
}

/// A CONNECT that a peer sent. Dropping the stream unanswered resets it.
#[derive(Debug)]
pub struct Accepted {
    /// The stream, to be answered.
    pub stream: Stream,
    /// The request.
    pub request: Connect,
    /// The client.
    pub peer: Arc<PeerInfo>,
}

/// The handler of CONNECTs of a server's tunnel. Called between turns; must not block.
pub type Acceptor = Box<dyn Fn(Accepted)>;

/// A handle of a tunnel. Cheap to clone; it may outlive the tunnel.
#[derive(Clone)]
pub struct Tunnel(Rc<Inner>);

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").field("to", &self.0.to).finish_non_exhaustive()
    }
}

/// The part of a tunnel that the driver and the streams share. The socket is the driver's alone, and closes with it.
struct Inner {
    /// The peer's address; none if it was gone already, or if the tunnel runs in another one.
    to: Option<SocketAddr>,
    state: RefCell<State>,
    /// Wakes the driver: output waits to be encrypted and written, or the tunnel was told to end.
    wake: Notify,
    /// When connect() was begun, or the socket accepted.
    begun: Instant,
    /// The driver is gone, and the socket with it.
    closed: Cell<bool>,
    closing: Notify,
    buffers: Buffers,
    memory: Memory,
    settings: Settings,
    meter: TunnelMeter,
}

struct State {
    tls: Session,
    out: Outgoing,
    hbone: Connection,
    streams: HashMap<StreamId, Rc<SharedStream>>,
    /// Streams that wait for the output to be written, in the order in which they came; each once.
    waiting: VecDeque<Rc<SharedStream>>,
    /// The peer has sent something, and SETTINGS comes first: its limit of streams is known.
    is_known: bool,
    /// When the connection's window became empty.
    starved_since: Option<Instant>,
    /// When one of the two certificates expires, by the clock at the last check.
    expires: Option<Instant>,
    /// A bundle that came during the handshake, by which the peer is verified again after it.
    verify_by: Option<Roots>,
    /// The reservation of output that the socket did not take.
    output_reservation: Reservation,
    ending: Option<TunnelEnd>,
}

impl State {
    /// No stream can be opened any more; open ones may go on.
    fn takes_no_more(&self) -> bool {
        self.ending.is_some() || self.hbone.is_going_away()
    }

    /// One of the two certificates has expired: no new stream begins, open ones go on.
    fn has_expired(&self) -> bool {
        self.tls.streams_left().is_some_and(|left| left.is_zero())
    }

    /// Goes away where it has expired; otherwise sets the time of the next check.
    fn check_expiry(&mut self) {
        if self.has_expired() {
            self.hbone.drain();
        }
        self.expires = self.tls.streams_left().filter(|left| !left.is_zero()).map(|left| Instant::now() + left);
    }

    /// The handshake is done: the peer is authenticated.
    fn peer_is_known(&mut self) -> Result<(), TunnelEnd> {
        self.check_expiry();
        let peer = self.tls.peer();
        let (Some(roots), Some(peer)) = (self.verify_by.take(), peer) else { return Ok(()) };
        peer.verify_again(&roots, self.tls.now()).map_err(|_| TunnelEnd::Distrusted)
    }

    fn wait_for_output(&mut self, shared: &Rc<SharedStream>) {
        if !shared.waits.replace(true) {
            self.waiting.push_back(Rc::clone(shared));
        }
    }
}

/// The most plaintext of all streams that waits for the socket. Above it, streams do not read their applications.
const MOST_QUEUED_BYTES: usize = 256 << 10;
/// The time after which a tunnel whose connection window is empty takes no new stream: those it has wait for each other.
const STARVED_AFTER: Duration = Duration::from_millis(100);

impl Tunnel {
    /// The client's end, on a socket whose connect() was begun or a stream that was opened. Spawns the driver on the current
    /// `LocalSet`.
    ///
    /// # Errors
    /// Where TLS cannot begin; nothing was sent then.
    pub fn client(
        transport: Transport,
        tls: &ClientConfig,
        settings: &Settings,
        buffers: &Buffers,
        charge: Charge,
    ) -> Result<Self, SessionError> {
        let mut out = Outgoing::new();
        let session = Session::client(tls, &mut out)?;
        let hbone = Connection::client(settings.hbone.clone(), Instant::now().into_std());
        let Charge { memory, permit } = charge;
        let counted = (memory, settings.meter.outbound().begin());
        let tunnel = Self::new(transport.peer(), session, out, hbone, settings, buffers, counted);
        tokio::task::spawn_local(Driver::new(transport, permit, Rc::clone(&tunnel.0), None).drive());
        Ok(tunnel)
    }

    /// The server's end, on an accepted socket or stream, and the future that drives it until it ends. `admission` is dropped as
    /// soon as the peer is authenticated.
    ///
    /// # Errors
    /// Where TLS cannot begin.
    pub fn server(
        transport: Transport,
        tls: &ServerConfig,
        settings: &Settings,
        buffers: &Buffers,
        charge: Charge,
        admission: Box<dyn Any>,
        acceptor: Acceptor,
    ) -> Result<(Self, impl Future<Output = TunnelEnd> + use<>), SessionError> {
        let session = Session::server(tls)?;
        let hbone = Connection::server(settings.hbone.clone(), Instant::now().into_std());
        let Charge { memory, permit } = charge;
        let counted = (memory, settings.meter.inbound().begin());
        let tunnel = Self::new(transport.peer(), session, Outgoing::new(), hbone, settings, buffers, counted);
        let server = ServerEnd { acceptor, admission: Some(admission) };
        let driving = Driver::new(transport, permit, Rc::clone(&tunnel.0), Some(server)).drive();
        Ok((tunnel, driving))
    }

    fn new(
        to: Option<SocketAddr>,
        tls: Session,
        out: Outgoing,
        hbone: Connection,
        settings: &Settings,
        buffers: &Buffers,
        (memory, meter): (Memory, TunnelMeter),
    ) -> Self {
        let state = State {
            tls,
            out,
            hbone,
            streams: HashMap::new(),
            waiting: VecDeque::new(),
            is_known: false,
            starved_since: None,
            expires: None,
            verify_by: None,
            output_reservation: memory.reservation(),
            ending: None,
        };
        Self(Rc::new(Inner {
            to,
            state: RefCell::new(state),
            wake: Notify::new(),
            begun: Instant::now(),
            closed: Cell::new(false),
            closing: Notify::new(),
            buffers: buffers.clone(),
            memory,
            settings: settings.clone(),
            meter,
        }))
    }

    /// Opens a stream. CONNECT leaves in this turn, or as soon as the handshake is done.
    ///
    /// # Errors
    /// Where the tunnel takes no new stream.
    pub fn open(&self, request: &Connect) -> Result<Stream, OpenError> {
        let mut state = self.0.state.borrow_mut();
        if state.ending.is_some() {
            return Err(OpenError::GoingAway);
        }
        let id = state.hbone.open(request)?;
        let shared = Rc::new(SharedStream::opened(id, &self.0.memory));
        state.streams.insert(id, Rc::clone(&shared));
        drop(state);
        self.0.wake.notify_one();
        Ok(Stream::new(Rc::clone(&self.0), shared))
    }

    /// A stream can be opened now, as far as is known: the tunnel is neither full, nor going away, nor past the expiry of one
    /// of the two certificates, nor out of credit for long.
    #[must_use]
    pub fn can_open(&self, now: SystemTime) -> bool {
        let state = self.0.state.borrow();
        let valid = state.tls.streams_until().is_none_or(|until| now < until);
        let starved = state.starved_since.is_some_and(|since| since.elapsed() >= STARVED_AFTER);
        state.ending.is_none() && valid && state.hbone.can_open() && !starved
    }

    /// True if it has ended, or is about to; not for one that only takes no more streams.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.0.state.borrow().ending.is_some()
    }

    /// The limit of open streams, once the peer has announced its own.
    #[must_use]
    pub fn stream_cap(&self) -> Option<usize> {
        let state = self.0.state.borrow();
        state.is_known.then(|| state.hbone.stream_cap())
    }

    /// The number of open streams.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.0.state.borrow().hbone.open_streams()
    }

    /// The peer, once the handshake is done.
    #[must_use]
    pub fn peer(&self) -> Option<Arc<PeerInfo>> {
        self.0.state.borrow().tls.peer().cloned()
    }

    /// Verifies the peer's certificate against a changed bundle; where it is no longer trusted, the tunnel ends and its streams
    /// with it. A peer in its handshake is verified by the bundle before, and by this one after the handshake.
    pub fn verify_again(&self, roots: &Roots, now: SystemTime) {
        match self.peer() {
            None => self.0.state.borrow_mut().verify_by = Some(roots.clone()),
            Some(peer) if peer.verify_again(roots, now).is_err() => self.end(TunnelEnd::Distrusted),
            Some(_) => {}
        }
    }

    /// Takes no new streams; ends when the open ones have.
    pub fn drain(&self) {
        self.0.state.borrow_mut().hbone.drain();
        self.0.wake.notify_one();
    }

    /// Ends it now, with GOAWAY where the socket takes it.
    pub fn end(&self, end: TunnelEnd) {
        let mut state = self.0.state.borrow_mut();
        state.hbone.close(ErrorCode::NO_ERROR);
        state.ending.get_or_insert(end);
        drop(state);
        self.0.wake.notify_one();
    }

    /// Completes when its socket is closed.
    pub async fn closed(&self) {
        let closing = self.0.closing.notified();
        tokio::pin!(closing);
        closing.as_mut().enable();
        if !self.0.closed.get() {
            closing.await;
        }
    }

    /// Memory of its buffers, idle or not: for tests.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let mut state = self.0.state.borrow_mut();
        let released = state.hbone.release();
        let output = released.as_ref().map_or(state.hbone.queued(), Vec::len);
        released.into_iter().for_each(|buffer| state.hbone.lend(buffer));
        let input = state.streams.values().map(|shared| shared.held_bytes()).sum::<usize>();
        output + state.out.held_bytes() + input
    }

    /// Bytes that wait here for the socket and for applications: for tests.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn queued(&self) -> Queued {
        let state = self.0.state.borrow();
        let output = state.hbone.queued() + state.out.len();
        Queued { output, input: state.streams.values().map(|shared| shared.queued()).sum() }
    }
}

/// See [`Tunnel::queued`].
#[cfg(any(test, feature = "testing"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Plaintext and ciphertext for the socket.
    pub output: usize,
    /// Payload that applications have not taken.
    pub input: usize,
}

impl Inner {
    /// Takes the output's memory back for other tunnels, unless something waits in it.
    fn reclaim_output(&self, state: &mut State) {
        if let Some(buffer) = state.hbone.release() {
            self.buffers.put_back(buffer);
        }
    }
}
