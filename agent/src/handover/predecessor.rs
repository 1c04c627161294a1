//! The predecessor's end of a hand-over: a thread of its own that talks to the successor, and passes its requests on to the node.
//! Its own file because the two ends never share a process.

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

use super::{
    APPLY, Error, HandoverAddress, Hello, Message, Predecessor, io_failure,
    message::{CertificateText, WaypointText},
    receive,
};
use crate::{certs::Issued, waypoints::Lent};

/// Timeout of a successor's introduction, and pause after an accept that failed.
const INTRODUCE: Duration = Duration::from_secs(5);
/// The number of pods in one message: each has two listeners.
const PODS_PER_MESSAGE: usize = MOST_DESCRIPTORS / 2;

/// The contents of an offer: listeners, lock and predecessors of this agent.
#[derive(Debug)]
pub struct OfferContents {
    /// The cgroup of this process.
    pub cgroup: u64,
    /// Its own predecessors, which still drain.
    pub predecessors: Vec<Predecessor>,
    /// The lock of the node.
    pub lock: File,
    /// The listeners of the pods.
    pub pods: Vec<PodListeners>,
    /// The listeners of the admin API, readiness and metrics.
    pub servers: Vec<TcpListener>,
    /// The certificates of this node's identities: its successor serves with them before its CA answers.
    pub certificates: Vec<Issued>,
    /// The networks of the waypoints of this node.
    pub waypoints: Vec<Lent>,
    /// The version of the kernel tables that are filled.
    pub tables: u32,
}

/// A request of the successor to the node.
#[derive(Debug)]
pub enum SuccessorRequest {
    /// Stand still and make an offer, or refuse.
    Offer {
        /// The version of the successor's kernel tables.
        tables: u32,
        /// Takes the offer, or the reason of a refusal.
        answer: oneshot::Sender<Result<OfferContents, String>>,
    },
    /// Resume: the successor failed.
    Resume,
    /// Accept no more and leave: the successor serves.
    Leave(oneshot::Sender<()>),
}

/// Starts the thread that waits for successors, one at a time, for as long as the process lives.
///
/// # Errors
/// Where the socket or the thread cannot be made.
pub fn listen(address: &HandoverAddress, requests: mpsc::UnboundedSender<SuccessorRequest>) -> Result<(), Error> {
    if let Some(directory) = address.socket().parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(HandoverAddress::failed("create", directory))?;
    }
    let listener =
        DescriptorListener::open(address.socket()).map_err(HandoverAddress::failed("listen at", address.socket()))?;
    let own = Hello::new(&address.node);
    let thread = std::thread::Builder::new().name("handover".into()).spawn(move || {
        loop {
            match listener.accept() {
                Ok(connection) => match serve(&connection, &own, &requests) {
                    // The successor sees the end of this process by itself: no message is left to send.
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => tracing::warn!(error = %chain(&error), "hand-over failed"),
                },
                Err(error) => {
                    tracing::warn!(%error, "accepting a successor failed");
                    std::thread::sleep(INTRODUCE); // out of descriptors
                }
            }
        }
    });
    thread.map(drop).map_err(io_failure("start a thread for"))
}

/// Serves one successor; true where it has taken over.
fn serve(
    connection: &DescriptorConnection,
    own: &Hello,
    requests: &mpsc::UnboundedSender<SuccessorRequest>,
) -> Result<bool, Error> {
    connection.set_timeout(INTRODUCE).map_err(io_failure("set up"))?;
    let (user, pid) = connection.peer().map_err(io_failure("identify the peer of"))?;
    let (Message::Hello(hello), _) = receive(connection)? else {
        return Err(Error::Answer { found: "no introduction".into() });
    };
    let misfit = hello
        .misfit(own, underpass_loader::is_known)
        .or_else(|| (user != 0).then(|| format!("its process belongs to user {user}")));
    let refuse = |why: String| {
        tracing::warn!(pid, version = hello.version, why, "successor refused");
        connection.send(&Message::Refuse { why }.encode(), &[]).map(|()| false).map_err(io_failure("write to"))
    };
    if let Some(why) = misfit {
        return refuse(why);
    }
    tracing::info!(pid, version = hello.version, "hand-over started");
    let (answer, answered) = oneshot::channel();
    let _ = requests.send(SuccessorRequest::Offer { tables: hello.abi, answer }); // fails only while the process ends
    let offer = match answered.blocking_recv() {
        Ok(Ok(offer)) => offer,
        Ok(Err(why)) => return refuse(why),
        Err(_) => return Ok(false), // the process ends
    };
    let confirmed = send_offer(connection, &offer).and_then(|()| {
        connection.set_timeout(APPLY).map_err(io_failure("set up"))?;
        receive(connection)
    });
    drop(offer);
    if let Ok((Message::Taken, _)) = confirmed {
        let (answer, left) = oneshot::channel();
        let _ = requests.send(SuccessorRequest::Leave(answer));
        let _ = left.blocking_recv();
        // It fails where the successor is gone: then captured connections wait for the next agent.
        let _ = connection.send(&Message::Leaving.encode(), &[]);
        return Ok(true);
    }
    let _ = requests.send(SuccessorRequest::Resume);
    confirmed.map(|_| false)
}

fn send_offer(connection: &DescriptorConnection, offer: &OfferContents) -> Result<(), Error> {
    let send = |message: &Message, with: &[BorrowedFd<'_>]| {
        connection.send(&message.encode(), with).map_err(io_failure("write to"))
    };
    // One that is too large for a message is requested anew.
    let certificates = offer.certificates.iter().map(|Issued { credential, issuer }| {
        let issuer = issuer.as_ref().map(ToString::to_string);
        Message::Certificate(CertificateText { pem: credential.to_pem(), issuer })
    });
    let certificates: Vec<_> = certificates.filter(Message::fits).collect();
    let head = Message::Offer {
        cgroup: offer.cgroup,
        earlier: offer.predecessors.iter().map(|agent| agent.cgroup.0).collect(),
        pods: offer.pods.len(),
        servers: offer.servers.len(),
        certificates: certificates.len(),
        waypoints: offer.waypoints.len(),
        tables: offer.tables,
    };
    let processes = offer.predecessors.iter().map(|agent| agent.process.as_fd());
    send(&head, &std::iter::once(offer.lock.as_fd()).chain(processes).collect::<Vec<_>>())?;
    for pods in offer.pods.chunks(PODS_PER_MESSAGE) {
        let cookies = pods.iter().map(|pod| pod.cookie).collect();
        let with: Vec<_> = pods.iter().flat_map(|pod| [pod.outbound.as_fd(), pod.inbound.as_fd()]).collect();
        send(&Message::Pods(cookies), &with)?;
    }
    if !offer.servers.is_empty() {
        let with: Vec<_> = offer.servers.iter().map(std::os::fd::AsFd::as_fd).collect();
        send(&Message::Servers, &with)?;
    }
    certificates.iter().try_for_each(|certificate| send(certificate, &[]))?;
    offer.waypoints.iter().try_for_each(|Lent { pod, at, netns, listener }| {
        let text = WaypointText {
            namespace: pod.namespace().to_owned(),
            name: pod.name().to_owned(),
            addresses: at.addresses.clone(),
            port: at.port,
        };
        send(&Message::Waypoint(text), &[netns.as_fd(), listener.as_fd()])
    })
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
