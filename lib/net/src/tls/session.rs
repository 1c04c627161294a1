//! A TLS session, client or server, without a socket: bytes of the peer in, plaintext out, and the other way round.
//! A type of our own because the library below changes its unbuffered API in its next version, which is then a change of
//! this file alone, and because that API has rules that must be kept in one place.
//!
//! ```text
//!  client(..) / server(..)            Event::Connected             close()
//!        |                                   |                        |
//!   handshaking --- receive() ---------> connected --- receive() -----'---> over: what still arrives is dropped
//!        |                                   |  encrypt(), also behind Event::PeerClosed
//!        '--------------- any error: failed; what is in `out` (an alert) is still to be sent
//! ```
//! What must hold:
//! * Every byte given to [`Session::receive`] is taken. The library gets whole records only; the beginning of one is
//!   kept in `partial`. A handshake message may span records, and then the library refers into the bytes it was given
//!   until the message is whole: they are kept in `fragments`, and no call may pass it anything else meanwhile.
//! * Until the handshake is done records are given one by one, so that [`Event::Connected`] precedes all data.
//! * What the library wants to send goes to `out` in the call that caused it, before anything that follows.

mod error;
mod outgoing;
mod record;

use std::{
    fmt, mem,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    Error as RustlsError,
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    time_provider::TimeProvider,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};

use crate::tls::{
    config::{ALPN, Cipher, ClientConfig, ServerConfig, no_server_name},
    verify::{Accept, End, PeerInfo, system_time},
};

pub use error::SessionError;
pub use outgoing::Outgoing;
use record::{RECORD_OVERHEAD, RECORD_PLAIN_MAX, fill, first_record, records};

/// Plaintext that is encrypted in one call of the library: it looks at its keys' age once per call, and this many
/// records is how far it can overshoot.
const BATCH_BYTES: usize = 32 * RECORD_PLAIN_MAX;
/// Room for what precedes data: two key updates.
const BATCH_EXTRA_BYTES: usize = 2 * (RECORD_OVERHEAD + 5);
/// Bytes of an unfinished handshake message that are kept. A message is at most 64 KiB, a chain of ours is below 4.
const FRAGMENTS_MAX: usize = 80 * 1024;

/// Something that the peer sent.
#[derive(Debug)]
pub enum Event<'a> {
    /// The handshake is done: both ends have verified each other and speak `h2`. Once, before anything else. (A server
    /// may still refuse a client's certificate behind this: the client then sees [`SessionError::PeerAlert`].)
    Connected(&'a Arc<PeerInfo>),
    /// Plaintext, one record of it, never empty.
    Data(&'a [u8]),
    /// close_notify: the peer sends nothing more. We still may.
    PeerClosed,
}

enum Role {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// Asks the library for its next state, whichever role it has, and hands it to `$step`.
macro_rules! advance {
    ($role:expr, $bytes:expr, $step:expr) => {
        match $role {
            Role::Client(connection) => $step(connection.process_tls_records($bytes)),
            Role::Server(connection) => $step(connection.process_tls_records($bytes)),
        }
    };
}

/// The next step after one state of the library was handled.
enum Step {
    /// Ask the library again.
    Again,
    /// Nothing to do until more bytes arrive.
    Idle,
    PeerClosed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Handshaking,
    Connected,
    Failed,
}

/// One end of a connection.
pub struct Session {
    role: Role,
    stage: Stage,
    time: Arc<dyn TimeProvider>,
    own_not_after: SystemTime,
    accept: Accept,
    peer: Option<Arc<PeerInfo>>,
    closed: bool,
    peer_closed: bool,
    /// The beginning of a record. The library has not seen it.
    partial: Vec<u8>,
    /// Whole records with the beginning of a handshake message. The library refers into them.
    fragments: Vec<u8>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("client", &matches!(self.role, Role::Client(_)))
            .field("handshaking", &self.is_handshaking())
            .field("peer", &self.peer.as_ref().map(|p| &p.identity))
            .field("closed", &self.closed)
            .field("peer_closed", &self.peer_closed)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// The end that connects. Its first bytes are in `out`.
    ///
    /// # Errors
    /// [`SessionError::Local`].
    pub fn client(config: &ClientConfig, out: &mut Outgoing) -> Result<Self, SessionError> {
        let connection =
            UnbufferedClientConnection::new(Arc::clone(&config.tls), no_server_name()).map_err(SessionError::Local)?;
        let time = Arc::clone(&config.tls.time_provider);
        let mut session = Self::new(Role::Client(connection), time, config.not_after, config.accept.clone());
        session.feed(&mut [], out, &mut |_| {})?;
        Ok(session)
    }

    /// The end that accepts.
    ///
    /// # Errors
    /// [`SessionError::Local`].
    pub fn server(config: &ServerConfig) -> Result<Self, SessionError> {
        let connection = UnbufferedServerConnection::new(Arc::clone(&config.tls)).map_err(SessionError::Local)?;
        let time = Arc::clone(&config.tls.time_provider);
        Ok(Self::new(Role::Server(connection), time, config.not_after, config.accept.clone()))
    }

    fn new(role: Role, time: Arc<dyn TimeProvider>, own_not_after: SystemTime, accept: Accept) -> Self {
        Self {
            role,
            stage: Stage::Handshaking,
            time,
            own_not_after,
            accept,
            peer: None,
            closed: false,
            peer_closed: false,
            partial: Vec::new(),
            fragments: Vec::new(),
        }
    }

    /// Takes all of `incoming`, which is decrypted in place and worthless afterwards; tells `sink` what it meant, and
    /// appends to `out` what must be sent in return.
    ///
    /// # Errors
    /// The session is over. What is in `out`, perhaps an alert, is still worth sending. Events told before hold.
    pub fn receive(
        &mut self,
        mut incoming: &mut [u8],
        out: &mut Outgoing,
        mut sink: impl FnMut(Event<'_>),
    ) -> Result<(), SessionError> {
        if self.stage == Stage::Failed {
            return Err(SessionError::Closed);
        }
        if self.closed {
            return Ok(());
        }
        if !self.partial.is_empty() {
            let taken = fill(&mut self.partial, incoming);
            incoming = &mut incoming[taken..];
            if records(&self.partial) == 0 {
                return Ok(());
            }
            let mut record = mem::take(&mut self.partial);
            self.feed(&mut record, out, &mut sink)?;
        }
        while self.stage == Stage::Handshaking {
            let length = first_record(incoming);
            if length == 0 {
                break;
            }
            let (record, rest) = incoming.split_at_mut(length);
            self.feed(record, out, &mut sink)?;
            incoming = rest;
        }
        let (whole, rest) = incoming.split_at_mut(records(incoming));
        if !whole.is_empty() {
            self.feed(whole, out, &mut sink)?;
        }
        if !self.peer_closed {
            self.partial.extend_from_slice(rest);
        }
        Ok(())
    }

    /// Encrypts all of `plain` behind what waits in `out`. One call with all that a turn has costs the least.
    ///
    /// # Errors
    /// [`SessionError::NotConnected`], [`SessionError::Closed`], or the session fails.
    pub fn encrypt(&mut self, plain: &[u8], out: &mut Outgoing) -> Result<(), SessionError> {
        self.must_be_writable()?;
        plain.chunks(BATCH_BYTES).try_for_each(|batch| self.write(Write::Data(batch), out))
    }

    /// Sends close_notify and stops reading: the end that closes has what it wanted (RFC 8446, 6.1), and no alert may follow
    /// our close_notify, also where the peer sends nonsense. Does nothing the second time.
    ///
    /// # Errors
    /// [`SessionError::NotConnected`], or [`SessionError::Closed`] after an error.
    pub fn close(&mut self, out: &mut Outgoing) -> Result<(), SessionError> {
        if self.closed && self.stage == Stage::Connected {
            return Ok(());
        }
        self.must_be_writable()?;
        self.closed = true;
        self.write(Write::CloseNotify, out)
    }

    /// Checks the end of the peer's bytes: it is in order after a close_notify, and after our own [`Session::close`].
    ///
    /// # Errors
    /// [`SessionError::Truncated`] where no close_notify came: the last bytes may be missing.
    pub const fn end_of_input(&self) -> Result<(), SessionError> {
        if self.peer_closed || self.closed { Ok(()) } else { Err(SessionError::Truncated) }
    }

    /// The handshake goes on.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.stage == Stage::Handshaking
    }

    /// The peer, once connected.
    #[must_use]
    pub const fn peer(&self) -> Option<&Arc<PeerInfo>> {
        self.peer.as_ref()
    }

    /// The cipher in use, once agreed.
    #[must_use]
    pub fn cipher(&self) -> Option<Cipher> {
        let common: &rustls::CommonState = match &self.role {
            Role::Client(connection) => connection,
            Role::Server(connection) => connection,
        };
        common.negotiated_cipher_suite().and_then(|suite| Cipher::of(suite.suite()))
    }

    /// The time after which no stream may begin: the earlier expiry of the two leaf certificates. `None` before it is known.
    #[must_use]
    pub fn streams_until(&self) -> Option<SystemTime> {
        self.peer.as_ref().map(|peer| peer.not_after.min(self.own_not_after))
    }

    /// The time left until [`Session::streams_until`], by the clock that certificates are checked against; zero where it is past.
    #[must_use]
    pub fn streams_left(&self) -> Option<Duration> {
        self.streams_until().map(|until| until.duration_since(self.now()).unwrap_or_default())
    }

    /// The time against which certificates are checked. Of a clock that does not answer the worst is assumed:
    /// that our own certificate is over.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        self.time.current_time().map_or(self.own_not_after, system_time)
    }

    fn must_be_writable(&self) -> Result<(), SessionError> {
        match self.stage {
            Stage::Handshaking => Err(SessionError::NotConnected),
            Stage::Failed => Err(SessionError::Closed),
            Stage::Connected if self.closed => Err(SessionError::Closed),
            Stage::Connected => Ok(()),
        }
    }

    /// Gives whole records to the library, behind those that it still refers to.
    fn feed(
        &mut self,
        records: &mut [u8],
        out: &mut Outgoing,
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), SessionError> {
        let result = if self.fragments.is_empty() {
            self.drive(records, out, sink).map(|used| {
                if !self.peer_closed {
                    self.fragments.extend_from_slice(records.get(used..).unwrap_or_default());
                }
            })
        } else {
            let mut all = mem::take(&mut self.fragments);
            all.extend_from_slice(records);
            self.drive(&mut all, out, sink).map(|used| {
                if !self.peer_closed {
                    all.drain(..used);
                    self.fragments = all;
                }
            })
        };
        result.and_then(|()| self.after_feed(out, sink)).inspect_err(|_| self.stage = Stage::Failed)
    }

    /// Returns how many bytes at the front of `bytes` the library has done with.
    fn drive(
        &mut self,
        bytes: &mut [u8],
        out: &mut Outgoing,
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<usize, SessionError> {
        let mut used = 0;
        loop {
            let rest = bytes.get_mut(used..).unwrap_or_default();
            let (discard, step) = advance!(&mut self.role, rest, |status| take_step(status, out, sink));
            used += discard;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Idle) => return Ok(used),
                Ok(Step::PeerClosed) => {
                    self.peer_closed = true;
                    sink(Event::PeerClosed);
                }
                Err(error) => {
                    self.flush(bytes.get_mut(used..).unwrap_or_default(), out);
                    return Err(error.into());
                }
            }
        }
    }

    /// Moves what the library has queued, after an error its alert, to `out`. It gives that out before it looks at
    /// `bytes` again, which after an error it must not.
    fn flush(&mut self, bytes: &mut [u8], out: &mut Outgoing) {
        let wants_write = |role: &Role| match role {
            Role::Client(connection) => connection.wants_write(),
            Role::Server(connection) => connection.wants_write(),
        };
        while wants_write(&self.role) {
            let (_, step) = advance!(&mut self.role, bytes, |status| take_step(status, out, &mut |_| {}));
            if !matches!(step, Ok(Step::Again)) {
                return;
            }
        }
    }

    fn after_feed(&mut self, out: &mut Outgoing, sink: &mut impl FnMut(Event<'_>)) -> Result<(), SessionError> {
        if self.fragments.len() > FRAGMENTS_MAX {
            return Err(SessionError::MessageTooLong { limit: FRAGMENTS_MAX });
        }
        let common: &rustls::CommonState = match &self.role {
            Role::Client(connection) => connection,
            Role::Server(connection) => connection,
        };
        if self.stage != Stage::Handshaking || common.is_handshaking() {
            return Ok(());
        }
        let end = if matches!(self.role, Role::Client(_)) { End::Server } else { End::Client };
        let agreed = common.alpn_protocol() == Some(ALPN);
        let chain = common.peer_certificates().ok_or(SessionError::NoCertificate)?;
        let now = self.time.current_time().ok_or(SessionError::Local(RustlsError::FailedToGetCurrentTime))?;
        let peer = Arc::new(PeerInfo::new(chain, end, system_time(now)).map_err(SessionError::Peer)?);
        self.stage = Stage::Connected;
        if !agreed {
            self.close(out)?;
            return Err(SessionError::Alpn);
        }
        self.peer = Some(Arc::clone(&peer));
        sink(Event::Connected(&peer));
        Ok(())
    }

    fn write(&mut self, what: Write<'_>, out: &mut Outgoing) -> Result<(), SessionError> {
        loop {
            let step = advance!(&mut self.role, &mut self.fragments, |status| write_step(status, what, out));
            match step {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    self.stage = Stage::Failed;
                    return Err(error);
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Write<'a> {
    Data(&'a [u8]),
    CloseNotify,
}

/// Does what a state asks for while receiving. Returns how many bytes it is done with.
fn take_step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    out: &mut Outgoing,
    sink: &mut impl FnMut(Event<'_>),
) -> (usize, Result<Step, RustlsError>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let mut result = Ok(Step::Again);
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        sink(Event::Data(record.payload));
                    }
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            result
        }
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            encode(|room| data.encode(room), out);
            Ok(Step::Again)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Step::PeerClosed),
        Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) | ConnectionState::Closed) => {
            Ok(Step::Idle)
        }
        // Early data is neither offered nor accepted.
        Ok(_) => Err(RustlsError::HandshakeNotComplete),
    };
    (discard, step)
}

/// Does what a state asks for while writing. Returns true when `what` is in `out`.
fn write_step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    what: Write<'_>,
    out: &mut Outgoing,
) -> Result<bool, SessionError> {
    match status.state? {
        ConnectionState::EncodeTlsData(mut data) => encode(|room| data.encode(room), out),
        ConnectionState::TransmitTlsData(data) => data.done(),
        ConnectionState::WriteTraffic(mut traffic) => {
            let mut want = match what {
                Write::Data(plain) => {
                    plain.len() + plain.len().div_ceil(RECORD_PLAIN_MAX) * RECORD_OVERHEAD + BATCH_EXTRA_BYTES
                }
                Write::CloseNotify => 2 * BATCH_EXTRA_BYTES,
            };
            loop {
                let room = out.room(want);
                let written = match what {
                    Write::Data(plain) => traffic.encrypt(plain, room),
                    Write::CloseNotify => traffic.queue_close_notify(room),
                };
                match written {
                    Ok(n) => {
                        out.commit(n);
                        return Ok(true);
                    }
                    Err(EncryptError::InsufficientSize(needed)) if needed.required_size > want => {
                        want = needed.required_size;
                    }
                    Err(_) => return Err(SessionError::Local(RustlsError::EncryptError)),
                }
            }
        }
        // Everything received was handled when it was received.
        _ => return Err(SessionError::Closed),
    }
    Ok(false)
}

fn encode(mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>, out: &mut Outgoing) {
    let mut want = RECORD_PLAIN_MAX;
    while let Err(EncodeError::InsufficientSize(needed)) = {
        let written = encode(out.room(want));
        if let Ok(n) = written {
            out.commit(n);
        }
        written
    } {
        want = needed.required_size;
    }
}
