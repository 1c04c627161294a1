//! The agent that runs, when another one wants to follow it: a thread of its own that talks to the successor, and asks the
//! node. Its own file because the two ends never share a process.

use std::{
    fs::{DirBuilder, File},
    net::TcpListener,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::DirBuilderExt as _,
    },
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};
use underpass_net::passing::{DescriptorConnection, DescriptorListener, MOST_DESCRIPTORS};
use underpass_ztunnel::PodListeners;

use super::{APPLY, Earlier, Error, Hello, Message, Place, hear, wired};

/// How long it may take to say who it is.
const INTRODUCE: Duration = Duration::from_secs(5);
/// Pods of one message: each has two listeners.
const PODS_PER_MESSAGE: usize = MOST_DESCRIPTORS / 2;

/// What is lent to a successor.
#[derive(Debug)]
pub struct Lending {
    /// The cgroup of this process.
    pub cgroup: u64,
    /// The agents before it that drain still.
    pub earlier: Vec<Earlier>,
    /// Who has it is the agent of the node.
    pub lock: File,
    /// The listeners of the pods.
    pub pods: Vec<PodListeners>,
    /// The listeners of the admin API, readiness and metrics.
    pub servers: Vec<TcpListener>,
    /// The version of the kernel tables in which everything stands.
    pub tables: u32,
}

/// What the node is asked.
#[derive(Debug)]
pub enum Ask {
    /// Stand still and lend, or say why not.
    Lend {
        /// The version of the successor's kernel tables.
        tables: u32,
        /// Takes what is lent.
        answer: oneshot::Sender<Result<Lending, String>>,
    },
    /// The successor failed: go on.
    GoOn,
    /// The successor serves: accept no more, and leave.
    Leave(oneshot::Sender<()>),
}

/// Waits for successors, one at a time, on a thread of its own, for as long as the process lives.
///
/// # Errors
/// Where the socket cannot be made, or the thread.
pub fn listen(place: &Place, asks: mpsc::UnboundedSender<Ask>) -> Result<(), Error> {
    if let Some(directory) = place.socket().parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(Place::failed("create", directory))?;
    }
    let door = DescriptorListener::open(place.socket()).map_err(Place::failed("listen at", place.socket()))?;
    let own = Hello::new(&place.node);
    let thread = std::thread::Builder::new().name("handover".into()).spawn(move || {
        loop {
            match door.accept() {
                Ok(wire) => match serve(&wire, &own, &asks) {
                    // The successor sees this process end by itself: nothing is left to say.
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => tracing::warn!(error = %chain(&error), "no hand-over"),
                },
                Err(error) => {
                    tracing::warn!(%error, "hand-over: accept");
                    std::thread::sleep(INTRODUCE); // out of descriptors
                }
            }
        }
    });
    thread.map(drop).map_err(wired("start a thread for"))
}

/// Serves one successor; true where it has taken over.
fn serve(wire: &DescriptorConnection, own: &Hello, asks: &mpsc::UnboundedSender<Ask>) -> Result<bool, Error> {
    wire.set_timeout(INTRODUCE).map_err(wired("set up"))?;
    let (user, pid) = wire.peer().map_err(wired("look at"))?;
    let (Message::Hello(hello), _) = hear(wire)? else { return Err(Error::Answer { found: "no hello".into() }) };
    let misfit = hello
        .misfit(own, underpass_loader::is_known)
        .or_else(|| (user != 0).then(|| format!("it belongs to user {user}")));
    let refuse = |why: String| {
        tracing::warn!(pid, version = hello.version, why, "another agent is refused");
        wire.send(&Message::Refuse { why }.encode(), &[]).map(|()| false).map_err(wired("write to"))
    };
    if let Some(why) = misfit {
        return refuse(why);
    }
    tracing::info!(pid, version = hello.version, "another agent takes over");
    let (answer, lent) = oneshot::channel();
    let _ = asks.send(Ask::Lend { tables: hello.abi, answer }); // fails only while the process ends
    let lending = match lent.blocking_recv() {
        Ok(Ok(lending)) => lending,
        Ok(Err(why)) => return refuse(why),
        Err(_) => return Ok(false), // the process ends
    };
    let taken = lend(wire, &lending).and_then(|()| {
        wire.set_timeout(APPLY).map_err(wired("set up"))?;
        hear(wire)
    });
    drop(lending);
    if let Ok((Message::Taken, _)) = taken {
        let (answer, left) = oneshot::channel();
        let _ = asks.send(Ask::Leave(answer));
        let _ = left.blocking_recv();
        // Nobody to tell: then it is gone, and what waits for an agent waits for the next one.
        let _ = wire.send(&Message::Leaving.encode(), &[]);
        return Ok(true);
    }
    let _ = asks.send(Ask::GoOn);
    taken.map(|_| false)
}

fn lend(wire: &DescriptorConnection, lending: &Lending) -> Result<(), Error> {
    let say =
        |message: &Message, with: &[BorrowedFd<'_>]| wire.send(&message.encode(), with).map_err(wired("write to"));
    let offer = Message::Offer {
        cgroup: lending.cgroup,
        earlier: lending.earlier.iter().map(|agent| agent.cgroup.0).collect(),
        pods: lending.pods.len(),
        servers: lending.servers.len(),
        tables: lending.tables,
    };
    let processes = lending.earlier.iter().map(|agent| agent.process.as_fd());
    say(&offer, &std::iter::once(lending.lock.as_fd()).chain(processes).collect::<Vec<_>>())?;
    for pods in lending.pods.chunks(PODS_PER_MESSAGE) {
        let cookies = pods.iter().map(|pod| pod.cookie).collect();
        let with: Vec<_> = pods.iter().flat_map(|pod| [pod.outbound.as_fd(), pod.inbound.as_fd()]).collect();
        say(&Message::Pods(cookies), &with)?;
    }
    if !lending.servers.is_empty() {
        let with: Vec<_> = lending.servers.iter().map(std::os::fd::AsFd::as_fd).collect();
        say(&Message::Servers, &with)?;
    }
    Ok(())
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
