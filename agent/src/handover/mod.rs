//! The hand-over of a node from a running agent, the predecessor, to its successor: one agent at a time serves a node.
//!
//! ```text
//! successor                                            predecessor
//! lock is taken: connect ---------- hello -----------> node and protocol alike, versions of tables known? else refuse
//!                                                      STILL: it changes nothing in the kernel any more; it serves
//!                                                      for an earlier version: writes that one's tables
//! adopt what is pinned  <---- offer, lock, listeners --
//!                       <---- keys and certificates ---
//!                       <---- networks of waypoints ---
//! own tables, programs: [`underpass_loader::Kernel::take_over`]
//! both cgroups count as the agent
//! first World applied ------------- taken -----------> it accepts no more, sends GOAWAY, drains, judges, renews
//! OWNER                 <---------- leaving -----------
//! its version of the tables counts
//! its cgroup counts no more <------- end of file ------ ended
//! ```
//! Failures, by the process that dies or does not answer in time:
//! - the successor before `taken`: the predecessor restores its programs, reads the tables again, restores its pods, and
//!   resumes (STILL is over);
//! - the successor has not applied everything in time (`GIVE_UP`): it changes nothing from then on and ends, well before the
//!   predecessor resumes (`APPLY`);
//! - the predecessor before `leaving`: the successor is the owner at once, if that process is really gone; if it lives
//!   and hangs up, it has resumed, and the successor ends without having taken anything away;
//! - both: connects wait and what arrives is refused, as whenever no agent runs; the next one finds the pins.
//!
//! What must hold: the lock is one open file, whose owner is the process with a descriptor of it: it passes with the offer,
//! and goes with the last process that has it, by any end. Only the agent that is not STILL changes the kernel's tables,
//! but for the successor. The socket lets in root alone.

mod lock;
mod message;
mod predecessor;

use std::{
    collections::BTreeMap,
    io,
    net::TcpListener,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use underpass_abi::{CgroupId, Cookie, Direction, ListenerKey};
use underpass_core::ObjectName;
use underpass_identity::{Credential, Serial};
use underpass_loader::Kernel;
use underpass_net::passing::DescriptorConnection;
use zeroize::Zeroizing;

use self::message::{CertificateText, Hello, Message, WaypointText};
pub use self::{
    lock::Lock,
    predecessor::{OfferContents, SuccessorRequest, listen},
};

use crate::{
    certs::Issued,
    waypoints::{At, Lent},
};

/// Timeout of each answer of the predecessor.
const ANSWER: Duration = Duration::from_secs(20);
/// Timeout of a successor until everything is applied, from the end of the offer. After that the predecessor resumes.
const APPLY: Duration = Duration::from_secs(60);
/// Timeout after which the successor gives up, from before its request: earlier than the predecessor resumes, also after a
/// slow offer, by the time that a change of the kernel's tables that is under way may need to end.
const GIVE_UP: Duration = Duration::from_secs(50);
const _: () = assert!(GIVE_UP.as_secs() + 10 <= APPLY.as_secs() && 2 * ANSWER.as_secs() < GIVE_UP.as_secs());
/// The longest time between the end of a process's sockets and its own.
const GONE: Duration = Duration::from_secs(2);

/// A hand-over, or a claim of the node, that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation on a file or a socket.
    #[error("cannot {operation} {object}")]
    Io {
        /// A verb, such as `open`.
        operation: &'static str,
        /// The file or socket.
        object: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Another agent serves this node.
    #[error("another agent serves node {node} (lock {lock})")]
    Runs {
        /// This node.
        node: String,
        /// The directory that is locked.
        lock: String,
    },
    /// The agent of this node cannot be reached.
    #[error("the running agent of node {node} does not listen at {socket}: it is starting, or has another --state")]
    Unreachable {
        /// This node.
        node: String,
        /// The socket of the hand-over address.
        socket: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The predecessor refused the hand-over.
    #[error("the running agent refuses the take-over: {why}")]
    Refused {
        /// Its reason.
        why: String,
    },
    /// An answer that breaks the protocol, or of a process that is no agent.
    #[error("unexpected answer of the running agent: {found}")]
    Answer {
        /// The answer.
        found: String,
    },
    /// The predecessor has resumed.
    #[error("the running agent resumed: it did not learn in time that everything was applied")]
    Withdrawn,
    /// The successor was too slow: the predecessor resumes.
    #[error("not everything was applied within {} s: the running agent resumes", GIVE_UP.as_secs())]
    Late,
}

/// The address at which a successor finds the agent of a node: socket and lock.
#[derive(Clone, Debug)]
pub struct HandoverAddress {
    node: String,
    lock: PathBuf,
    socket: PathBuf,
}

impl HandoverAddress {
    /// The address of the agent with this state directory. The lock is beside the pins that it protects: agents of different
    /// state directories meet there.
    #[must_use]
    pub fn new(state: &Path, kernel: &underpass_loader::Settings) -> Self {
        let node = &kernel.instance;
        let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        let name: String = node.chars().map(safe).collect();
        Self { node: node.clone(), lock: Kernel::lock(kernel), socket: state.join(format!("{name}.handover")) }
    }

    /// The socket at which the agent waits for a successor.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Removes the socket, where it is there: of an agent that is gone, by the process that has the lock.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn remove_socket(&self) -> Result<(), Error> {
        match std::fs::remove_file(&self.socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Self::failed("remove", &self.socket)(error)),
            _ => Ok(()),
        }
    }

    /// Removes the lock of a process that will not be the agent. The next one makes it anew.
    pub fn leave(&self, lock: Lock) {
        lock.remove(&self.lock);
    }

    fn failed(operation: &'static str, object: &Path) -> impl FnOnce(io::Error) -> Error {
        let object = object.display().to_string();
        move |source| Error::Io { operation, object, source }
    }
}

/// The outcome of a claim of the node.
#[derive(Debug)]
pub enum Claim {
    /// No other agent runs: this process is the agent.
    Alone(Lock),
    /// An agent runs, and can be asked for a hand-over.
    Successor(Successor),
}

impl HandoverAddress {
    /// Becomes the agent of the node, or, with `take_over`, connects to the running one, which has changed nothing yet.
    ///
    /// # Errors
    /// Where another agent runs, and the take-over from it is not wanted or not possible.
    pub fn claim(&self, take_over: bool) -> Result<Claim, Error> {
        let node = self.node.clone();
        match Lock::take(&self.lock)? {
            Some(lock) => Ok(Claim::Alone(lock)),
            None if take_over => {
                let socket = self.socket.display().to_string();
                let unreachable = |source| Error::Unreachable { node, socket, source };
                let connection = DescriptorConnection::connect(&self.socket).map_err(unreachable)?;
                Successor::new(connection, &self.node).map(Claim::Successor)
            }
            None => Err(Error::Runs { node, lock: self.lock.display().to_string() }),
        }
    }
}

/// The successor's end of a hand-over.
#[derive(Debug)]
pub struct Successor {
    connection: DescriptorConnection,
    node: String,
    /// The process of the predecessor: readable when it is gone.
    process: OwnedFd,
}

/// The contents of an offer, as the successor inherits them.
#[derive(Debug)]
pub struct Inherited {
    /// The lock of the node, which both have until the predecessor leaves.
    pub lock: Lock,
    /// The agent that ran, then its own predecessors, which still drain.
    pub predecessors: Vec<Predecessor>,
    /// The end of the time in which the kernel's tables may be changed, unless [`Successor::confirm`] has said before that this
    /// process alone is the agent.
    pub until: Instant,
    /// The listeners of each pod: outbound, inbound.
    pub listeners: BTreeMap<Cookie, (TcpListener, TcpListener)>,
    /// The listeners of the admin API, readiness, metrics, in any order.
    pub servers: Vec<TcpListener>,
    /// The certificates that served.
    pub certificates: Vec<Issued>,
    /// The networks of the waypoints of this node.
    pub waypoints: Vec<Lent>,
    /// The version of the kernel tables that are filled.
    pub tables: u32,
}

impl Inherited {
    /// The listeners by the keys of the kernel's table.
    #[must_use]
    pub fn keys(&self) -> Vec<(ListenerKey, BorrowedFd<'_>)> {
        let mut keys = Vec::with_capacity(2 * self.listeners.len());
        for (pod, (outbound, inbound)) in &self.listeners {
            let key = |direction| ListenerKey { pod: *pod, direction };
            keys.push((key(Direction::OUTBOUND), outbound.as_fd()));
            keys.push((key(Direction::INBOUND), inbound.as_fd()));
        }
        keys
    }
}

/// An agent that ran before, until it has drained.
#[derive(Debug)]
pub struct Predecessor {
    /// Its cgroup, by which the kernel knows its sockets.
    pub cgroup: CgroupId,
    /// Its process: readable when it is gone.
    pub process: OwnedFd,
}

impl Predecessor {
    /// A copy of its descriptor, for another process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { cgroup: self.cgroup, process: self.process.try_clone()? })
    }

    /// Waits until it is gone, without a timeout: it may drain for long.
    pub fn wait(&self) {
        while !underpass_net::passing::is_readable(&self.process, Duration::from_secs(60)) {}
    }
}

impl Successor {
    fn new(connection: DescriptorConnection, node: &str) -> Result<Self, Error> {
        let (user, pid) = connection.peer().map_err(io_failure("identify the peer of"))?;
        if user != 0 {
            return Err(Error::Answer { found: format!("its process belongs to user {user}") });
        }
        connection.set_timeout(ANSWER).map_err(io_failure("set up"))?;
        let process = underpass_net::passing::pidfd(pid).map_err(io_failure("watch the peer of"))?;
        Ok(Self { connection, node: node.to_owned(), process })
    }

    /// Asks for an offer. The predecessor stands still from here on; dropping this lets it resume.
    ///
    /// # Errors
    /// Where it refuses, or does not answer.
    pub fn request(&self) -> Result<Inherited, Error> {
        let until = Instant::now() + GIVE_UP;
        self.send(&Message::Hello(Hello::new(&self.node)))?;
        let (offer, with) = self.receive()?;
        let (cgroup, earlier, [pods, servers, mut certificates, waypoints], tables) = match &offer {
            Message::Offer { cgroup, earlier, pods, servers, certificates, waypoints, tables }
                if with.len() == 1 + earlier.len() =>
            {
                (*cgroup, earlier, [*pods, *servers, *certificates, *waypoints], *tables)
            }
            Message::Refuse { why } => return Err(Error::Refused { why: why.clone() }),
            other => return Err(unexpected(other)),
        };
        let mut with = with.into_iter();
        let lock = Lock::from(with.next().ok_or_else(|| unexpected(&offer))?);
        let process = self.process.try_clone().map_err(io_failure("watch the peer of"))?;
        let earlier =
            earlier.iter().zip(with).map(|(cgroup, process)| Predecessor { cgroup: CgroupId(*cgroup), process });
        let predecessors = std::iter::once(Predecessor { cgroup: CgroupId(cgroup), process }).chain(earlier).collect();
        let mut inherited = Inherited {
            lock,
            predecessors,
            until,
            listeners: BTreeMap::new(),
            servers: Vec::new(),
            certificates: Vec::new(),
            waypoints: Vec::new(),
            tables,
        };
        while inherited.listeners.len() < pods
            || inherited.servers.len() < servers
            || certificates > 0
            || inherited.waypoints.len() < waypoints
        {
            match self.receive()? {
                (Message::Pods(cookies), with) if with.len() == 2 * cookies.len() && !cookies.is_empty() => {
                    let mut with = with.into_iter().map(TcpListener::from);
                    for cookie in cookies {
                        if let (Some(outbound), Some(inbound)) = (with.next(), with.next()) {
                            inherited.listeners.insert(Cookie(cookie), (outbound, inbound));
                        }
                    }
                }
                (Message::Servers, with) if !with.is_empty() && inherited.servers.is_empty() => {
                    inherited.servers.extend(with.into_iter().map(TcpListener::from));
                }
                (Message::Certificate(text), _) if certificates > 0 => {
                    certificates -= 1;
                    inherited.certificates.extend(issued(&text));
                }
                (Message::Waypoint(text), with) => {
                    let found = format!("{text:?} with {} descriptors", with.len());
                    inherited.waypoints.push(lent(text, with).ok_or(Error::Answer { found })?);
                }
                (other, _) => return Err(unexpected(&other)),
            }
        }
        Ok(inherited)
    }

    /// Reports that everything is applied and served. When this returns, this process alone is the agent.
    ///
    /// # Errors
    /// [`Error::Withdrawn`] where the predecessor lives and resumed; then this process must not be the agent.
    pub fn confirm(&self) -> Result<(), Error> {
        // It leaves, hangs up or dies, after any time: to stop waiting would leave the node without an agent.
        let for_ever = || self.connection.set_timeout(Duration::ZERO).map_err(io_failure("set up"));
        let said = self.send(&Message::Taken).and_then(|()| for_ever()).and_then(|()| self.receive());
        match said {
            Ok((Message::Leaving, _)) => Ok(()),
            _ if self.is_gone(GONE) => Ok(()),
            _ => Err(Error::Withdrawn),
        }
    }

    /// Gives up, because not everything is applied in time.
    ///
    /// # Errors
    /// [`Error::Late`], unless the predecessor is gone: then this process is the agent all the same.
    pub fn give_up(&self) -> Result<(), Error> {
        if self.is_gone(Duration::ZERO) { Ok(()) } else { Err(Error::Late) }
    }

    fn is_gone(&self, patience: Duration) -> bool {
        underpass_net::passing::is_readable(&self.process, patience)
    }

    fn send(&self, message: &Message) -> Result<(), Error> {
        self.connection.send(&message.encode(), &[]).map_err(io_failure("write to"))
    }

    fn receive(&self) -> Result<(Message, Vec<OwnedFd>), Error> {
        receive(&self.connection)
    }
}

fn receive(connection: &DescriptorConnection) -> Result<(Message, Vec<OwnedFd>), Error> {
    let (bytes, with) = connection.receive().map_err(io_failure("read from"))?;
    let bytes = Zeroizing::new(bytes);
    let found = || match bytes.len() {
        0 => "end of the connection".to_owned(),
        n => format!("{n} bytes that are no message"), // there may be a key in them
    };
    Message::decode(&bytes).map(|message| (message, with)).ok_or_else(|| Error::Answer { found: found() })
}

/// The certificate in a text. One that cannot be read is requested anew.
fn issued(text: &CertificateText) -> Option<Issued> {
    match Credential::from_pem(&text.pem) {
        Ok(credential) => {
            let issuer = text.issuer.as_deref().and_then(Serial::from_hex);
            Some(Issued { credential: Arc::new(credential), issuer })
        }
        Err(error) => {
            tracing::warn!(%error, "a certificate of the running agent cannot be read");
            None
        }
    }
}

/// The network in a message; none where it has other descriptors than a network has.
fn lent(text: WaypointText, with: Vec<OwnedFd>) -> Option<Lent> {
    let WaypointText { namespace, name, addresses, port } = text;
    let [netns, listener] = <[OwnedFd; 2]>::try_from(with).ok()?;
    let (pod, at) = (ObjectName::new(namespace, name), At { addresses, port });
    Some(Lent { pod, at, netns, listener: listener.into() })
}

fn io_failure(operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { operation, object: "the hand-over connection".to_owned(), source }
}

fn unexpected(message: &Message) -> Error {
    Error::Answer { found: format!("{message:?}") }
}

#[cfg(test)]
mod tests;
