//! One agent serves a node. Another one of the same node takes over from it, or is refused.
//!
//! ```text
//! successor                                            the agent that runs
//! lock is taken: connect ---------- hello -----------> node and protocol alike, versions of tables known? else refuse
//!                                                      STILL: it changes nothing in the kernel any more; it serves
//!                                                      for an earlier version: writes that one's tables
//! adopt what is pinned  <---- offer, lock, listeners --
//! own tables, programs: [`underpass_loader::Kernel::take_over`]
//! both cgroups count as the agent
//! first World applied ------------- taken -----------> it accepts no more, says GOAWAY, drains, judges, renews
//! OWNER                 <---------- leaving -----------
//! its version of the tables counts
//! its cgroup counts no more <------- end of file ------ ended
//! ```
//! Who dies, or does not answer in time:
//! - the successor before `taken`: the other one puts its programs back, reads the tables again, puts right what the successor may
//!   have changed about its pods, and goes on (STILL is over);
//! - the successor has not applied everything in time (`GIVE_UP`): it changes nothing from then on and ends, well before the
//!   other one goes on (`APPLY`);
//! - the agent that runs before `leaving`: the successor is the owner at once, if that process is really gone; if it lives
//!   and hangs up, it has changed its mind, and the successor ends without having taken anything away;
//! - both: connects wait and what arrives is refused, as whenever no agent runs; the next one finds the pins.
//!
//! What must hold: the lock is one open file, whose owner is who holds a descriptor of it: it passes with the offer, and
//! goes with the last process that has it, however that ends. Only the agent that is not STILL changes the kernel's tables,
//! but for the successor. Whom the socket lets in is root, and nobody else.

mod lock;
mod message;
mod predecessor;

use std::{
    collections::BTreeMap,
    io,
    net::TcpListener,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use underpass_abi::{CgroupId, Cookie, Direction, ListenerKey};
use underpass_loader::Kernel;
use underpass_net::passing::DescriptorConnection;

pub use self::lock::Lock;
use self::message::{Hello, Message};
pub use self::predecessor::{Ask, Lending, listen};

/// How long the agent that runs may take for each answer.
const ANSWER: Duration = Duration::from_secs(20);
/// How long a successor may take until everything is applied, from the end of the offer. After that the agent that runs goes
/// on.
const APPLY: Duration = Duration::from_secs(60);
/// When the successor gives up, from before it asks: earlier than the other one goes on, whatever the offer took, by the time
/// that a change of the kernel's tables that is under way may need to end.
const GIVE_UP: Duration = Duration::from_secs(50);
const _: () = assert!(GIVE_UP.as_secs() + 10 <= APPLY.as_secs() && 2 * ANSWER.as_secs() < GIVE_UP.as_secs());
/// How long a process takes to be gone after its sockets are.
const GONE: Duration = Duration::from_secs(2);

/// Why there is no hand-over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or a socket of it.
    #[error("cannot {operation} {object}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Which file or socket.
        object: String,
        /// What came of it.
        source: io::Error,
    },
    /// Another agent serves this node.
    #[error("another agent serves node {node} (it holds {lock})")]
    Runs {
        /// This node.
        node: String,
        /// The directory that is locked.
        lock: String,
    },
    /// It serves this node, and is not to be found.
    #[error("the agent that serves node {node} does not listen at {socket}: it only starts, or has another --state")]
    Unheard {
        /// This node.
        node: String,
        /// Where it would be.
        socket: String,
        /// What came of it.
        source: io::Error,
    },
    /// The agent that runs does not let us.
    #[error("the agent that runs refuses: {why}")]
    Refused {
        /// What it says.
        why: String,
    },
    /// It is not the agent that answers, or not as it should.
    #[error("the agent that runs does not answer as an agent: {found}")]
    Answer {
        /// What came instead.
        found: String,
    },
    /// The agent that runs changed its mind.
    #[error("the agent that runs goes on: it has not heard in time that everything was applied")]
    Withdrawn,
    /// We were too slow: the agent that runs goes on.
    #[error("not everything was applied within {} s: the agent that runs goes on", GIVE_UP.as_secs())]
    Late,
}

/// The files of a node's agent.
#[derive(Clone, Debug)]
pub struct Place {
    node: String,
    lock: PathBuf,
    socket: PathBuf,
}

impl Place {
    /// Of the agent with this state directory, where a successor finds it. The lock is where what it protects is pinned:
    /// agents of different state directories meet there.
    #[must_use]
    pub fn new(state: &Path, kernel: &underpass_loader::Settings) -> Self {
        let node = &kernel.instance;
        let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        let name: String = node.chars().map(safe).collect();
        Self { node: node.clone(), lock: Kernel::lock(kernel), socket: state.join(format!("{name}.handover")) }
    }

    /// Where a successor is waited for.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// This process is not to be the agent: nothing is left of the lock. The next one makes it anew.
    pub fn leave(&self, lock: Lock) {
        lock.remove(&self.lock);
    }

    fn failed(operation: &'static str, object: &Path) -> impl FnOnce(io::Error) -> Error {
        let object = object.display().to_string();
        move |source| Error::Io { operation, object, source }
    }
}

/// What a process that wants to be the agent of a node finds.
#[derive(Debug)]
pub enum Claim {
    /// Nobody: it is.
    Alone(Lock),
    /// One that runs, and can be asked.
    Successor(Successor),
}

impl Place {
    /// Becomes the agent of the node, or, with `take_over`, finds the one that runs. Nothing has changed then.
    ///
    /// # Errors
    /// Where another agent runs and is not to be, or cannot be, taken over.
    pub fn claim(&self, take_over: bool) -> Result<Claim, Error> {
        let node = self.node.clone();
        match Lock::take(&self.lock)? {
            Some(lock) => Ok(Claim::Alone(lock)),
            None if take_over => {
                let socket = self.socket.display().to_string();
                let unheard = |source| Error::Unheard { node, socket, source };
                let wire = DescriptorConnection::connect(&self.socket).map_err(unheard)?;
                Successor::new(wire, &self.node).map(Claim::Successor)
            }
            None => Err(Error::Runs { node, lock: self.lock.display().to_string() }),
        }
    }
}

/// The successor's end of a hand-over.
#[derive(Debug)]
pub struct Successor {
    wire: DescriptorConnection,
    node: String,
    /// The agent that runs: readable when it is gone.
    process: OwnedFd,
}

/// What an agent takes over.
#[derive(Debug)]
pub struct Inherited {
    /// The agent of the node is this process from now on, or the other one still.
    pub lock: Lock,
    /// The one that ran, then those before it that drain still.
    pub before: Vec<Earlier>,
    /// The kernel's tables may be changed until then, or until [`Successor::taken`] has said that this process alone is the
    /// agent.
    pub until: Instant,
    /// By pod: outbound, inbound.
    pub listeners: BTreeMap<Cookie, (TcpListener, TcpListener)>,
    /// Of the admin API, readiness, metrics, in any order.
    pub servers: Vec<TcpListener>,
    /// The version of the kernel tables in which everything stands.
    pub tables: u32,
}

impl Inherited {
    /// The listeners, as the kernel is given them.
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

/// An agent before this one.
#[derive(Debug)]
pub struct Earlier {
    /// By which the kernel knows its sockets.
    pub cgroup: CgroupId,
    /// Readable when it is gone.
    pub process: OwnedFd,
}

impl Earlier {
    /// The same, for another process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn again(&self) -> io::Result<Self> {
        Ok(Self { cgroup: self.cgroup, process: self.process.try_clone()? })
    }

    /// Waits until it is gone, however long it drains.
    pub fn wait(&self) {
        while !underpass_net::passing::is_readable(&self.process, Duration::from_secs(60)) {}
    }
}

impl Successor {
    fn new(wire: DescriptorConnection, node: &str) -> Result<Self, Error> {
        let (user, pid) = wire.peer().map_err(wired("look at"))?;
        if user != 0 {
            return Err(Error::Answer { found: format!("it belongs to user {user}") });
        }
        wire.set_timeout(ANSWER).map_err(wired("set up"))?;
        let process = underpass_net::passing::pidfd(pid).map_err(wired("watch the process behind"))?;
        Ok(Self { wire, node: node.to_owned(), process })
    }

    /// Asks for everything. The other one stands still from here on; dropping this lets it go on.
    ///
    /// # Errors
    /// Where it refuses, or does not answer.
    pub fn ask(&self) -> Result<Inherited, Error> {
        let until = Instant::now() + GIVE_UP;
        self.say(&Message::Hello(Hello::new(&self.node)))?;
        let (offer, with) = self.hear()?;
        let (cgroup, earlier, pods, servers, tables) = match &offer {
            Message::Offer { cgroup, earlier, pods, servers, tables } if with.len() == 1 + earlier.len() => {
                (*cgroup, earlier, *pods, *servers, *tables)
            }
            Message::Refuse { why } => return Err(Error::Refused { why: why.clone() }),
            other => return Err(strange(other)),
        };
        let mut with = with.into_iter();
        let lock = Lock::from(with.next().ok_or_else(|| strange(&offer))?);
        let process = self.process.try_clone().map_err(wired("watch the process behind"))?;
        let earlier = earlier.iter().zip(with).map(|(cgroup, process)| Earlier { cgroup: CgroupId(*cgroup), process });
        let before = std::iter::once(Earlier { cgroup: CgroupId(cgroup), process }).chain(earlier).collect();
        let mut inherited = Inherited { lock, before, until, listeners: BTreeMap::new(), servers: Vec::new(), tables };
        while inherited.listeners.len() < pods || inherited.servers.len() < servers {
            match self.hear()? {
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
                (other, _) => return Err(strange(&other)),
            }
        }
        Ok(inherited)
    }

    /// Everything is applied and served. When this returns, this process alone is the agent.
    ///
    /// # Errors
    /// [`Error::Withdrawn`] where the other one lives and goes on; then this one must not.
    pub fn taken(&self) -> Result<(), Error> {
        // However long it takes to leave: it does, it hangs up, or it dies. To stop waiting would leave nobody.
        let for_ever = || self.wire.set_timeout(Duration::ZERO).map_err(wired("set up"));
        let said = self.say(&Message::Taken).and_then(|()| for_ever()).and_then(|()| self.hear());
        match said {
            Ok((Message::Leaving, _)) => Ok(()),
            _ if self.is_gone(GONE) => Ok(()),
            _ => Err(Error::Withdrawn),
        }
    }

    /// Not everything is applied, and time is up.
    ///
    /// # Errors
    /// [`Error::Late`], unless the other one is gone: then this process is the agent all the same.
    pub fn late(&self) -> Result<(), Error> {
        if self.is_gone(Duration::ZERO) { Ok(()) } else { Err(Error::Late) }
    }

    fn is_gone(&self, patience: Duration) -> bool {
        underpass_net::passing::is_readable(&self.process, patience)
    }

    fn say(&self, message: &Message) -> Result<(), Error> {
        self.wire.send(&message.encode(), &[]).map_err(wired("write to"))
    }

    fn hear(&self) -> Result<(Message, Vec<OwnedFd>), Error> {
        hear(&self.wire)
    }
}

fn hear(wire: &DescriptorConnection) -> Result<(Message, Vec<OwnedFd>), Error> {
    let (bytes, with) = wire.receive().map_err(wired("read from"))?;
    let found =
        || if bytes.is_empty() { "it hung up".to_owned() } else { String::from_utf8_lossy(&bytes).into_owned() };
    Message::decode(&bytes).map(|message| (message, with)).ok_or_else(|| Error::Answer { found: found() })
}

fn wired(operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { operation, object: "the other agent".to_owned(), source }
}

fn strange(message: &Message) -> Error {
    Error::Answer { found: format!("{message:?}") }
}

#[cfg(test)]
mod tests;
