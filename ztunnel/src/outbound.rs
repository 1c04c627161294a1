//! Outbound connections: from a captured socket to the next hop of core's plan. The application's connect() has succeeded
//! already; a refusal therefore is a reset, never an end of stream.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::SystemTime};

use tokio::net::TcpStream;
use underpass_core::{
    ObjectName, Reason, World,
    addr::is_loopback,
    connection::{Direction, Path},
    rejudge::{self, Basis, Judged, OutboundPath},
    route::{self, Destination, Hop, HopKind, Plan},
    world::{OwnerKind, Workload},
};
use underpass_hbone::{Connect, ErrorCode, Headers};
use underpass_net::{
    budget::Permit,
    socket::options::Role,
    tunnel::{EarlyData, Ended, Stream, Tunnel},
};
use underpass_proxy::pool::Key;

use crate::{
    accept::Accepted,
    app::{self, ResettingSocket},
    copy,
    open_connection::OpenConnection,
    sockets::Ends,
    worker::Worker,
    worker_pod::WorkerPod,
};

/// Serves one accepted socket.
pub(crate) async fn serve(worker: Rc<Worker>, pod: Rc<WorkerPod>, accepted: Accepted) {
    let Ok(Ends { from, to }) = worker.settings.sockets.ends(&accepted.socket) else { return };
    let mut connection = OpenConnection::begin(&worker, &pod, Direction::Outbound, from, to);
    let Accepted { socket, permit, next } = accepted;
    worker.settings.accepted(Role::FromApplication, &socket);
    let socket = ResettingSocket::new(socket, permit);
    let reason = carry(&worker, &pod, (&socket, next), from, to, &mut connection).await;
    socket.ended(&reason);
    drop(socket);
    connection.finish(reason);
}

/// A planned connection, owned: the World that it was planned by is released before anything is awaited.
enum Opening {
    /// Through a tunnel.
    Hbone(Call),
    /// As it came, to this endpoint.
    Plain(SocketAddr),
}

/// A stream to open: on which tunnel, and the CONNECT.
struct Call {
    key: Key,
    request: Connect,
}

async fn carry(
    worker: &Rc<Worker>,
    pod: &WorkerPod,
    (socket, permit): (&ResettingSocket, Permit),
    from: SocketAddr,
    to: SocketAddr,
    connection: &mut OpenConnection,
) -> Reason {
    match plan(worker, pod, from, to, connection) {
        Ok(Opening::Hbone(call)) => {
            drop(permit); // a tunnel has its own
            hbone(worker, pod, socket, &call, connection).await
        }
        Ok(Opening::Plain(target)) => plain(worker, pod, (socket, permit), from, target, connection).await,
        Err(reason) => reason,
    }
}

/// Plans by the World of this turn, and registers the planned connection.
fn plan(
    worker: &Worker,
    pod: &WorkerPod,
    from: SocketAddr,
    to: SocketAddr,
    connection: &mut OpenConnection,
) -> Result<Opening, Reason> {
    let world = worker.world();
    let source = source(&world, pod, from, to)?;
    let own = world.identity(source).ok_or(Reason::NoCertificate)?.clone();
    connection.source_identity(Some(own.clone()));
    let judged = |to: &Destination, path| Judged {
        pod: pod.uid.clone(),
        basis: Basis::Outbound { from: from.ip(), service: to.service.clone(), target: to.target, path },
        judged_at: world.version(),
    };
    match route::plan(&world, source, to, worker.roll(), &mut ()) {
        Plan::Refuse { service, reason } => {
            connection.service(&world, service, to);
            Err(reason)
        }
        Plan::Plain { destination } => {
            connection.path(Path::Passthrough);
            connection.destination(&world, destination.target);
            connection.service(&world, destination.service.clone(), to);
            connection.open(judged(&destination, OutboundPath::Plain));
            Ok(Opening::Plain(destination.target))
        }
        Plan::Hbone { destination, hop } => {
            connection.path(Path::Hbone);
            connection.destination(&world, destination.target);
            connection.service(&world, destination.service.clone(), to);
            let answers = hop.identities.only().cloned();
            match hop.kind {
                HopKind::Workload => connection.destination_identity(answers),
                // Who is behind it is not known here.
                HopKind::Waypoint | HopKind::Gateway => connection.via(answers),
            }
            connection.open(judged(&destination, OutboundPath::tunnel(own.clone(), &hop)));
            let headers = headers(&world, source, from, destination.service.as_ref());
            let request = Connect { authority: hop.authority.to_string().into_bytes(), headers };
            let Hop { address, identities, .. } = hop;
            let key = Key { source: own, identities, next: address, from: from.ip(), netns: pod.cookie };
            Ok(Opening::Hbone(Call { key, request }))
        }
    }
}

fn source<'a>(world: &'a World, pod: &WorkerPod, from: SocketAddr, to: SocketAddr) -> Result<&'a Workload, Reason> {
    pod.workload(world)?;
    let source = rejudge::source(world, &pod.uid, from.ip())?;
    // The listener's own port can be reached from inside the pod: that is no captured connection.
    let itself = source.addresses.contains(&to.ip()) || is_loopback(to.ip());
    if itself { Err(Reason::BadSource) } else { Ok(source) }
}

async fn plain(
    worker: &Rc<Worker>,
    pod: &WorkerPod,
    (socket, permit): (&ResettingSocket, Permit),
    from: SocketAddr,
    target: SocketAddr,
    connection: &mut OpenConnection,
) -> Reason {
    let (tally, cancel) = (Arc::clone(&connection.tally), Rc::clone(&connection.cancel));
    let carried = async {
        let server = match app::connect_plain(worker, pod, permit, from.ip(), target).await {
            Ok(server) => server,
            Err(reason) => return reason,
        };
        let (there, back) = (|n| tally.add_from_app(n), |n| tally.add_to_app(n));
        let reason = copy::both_ways(socket, &server, (&worker.buffers, &pod.memory), there, back).await;
        server.ended(&reason);
        reason
    };
    tokio::select! {
        biased;
        (reason, policy) = cancel.cancelled() => {
            connection.policy(policy);
            reason
        }
        reason = carried => reason,
    }
}

async fn hbone(
    worker: &Rc<Worker>,
    pod: &WorkerPod,
    socket: &ResettingSocket,
    call: &Call,
    connection: &mut OpenConnection,
) -> Reason {
    let (tally, cancel) = (Arc::clone(&connection.tally), Rc::clone(&connection.cancel));
    let carried = async {
        let mut early = EarlyData::of(&pod.memory);
        let mut refused_by: Option<Stream> = None;
        loop {
            let stream = match open(worker, pod, call, refused_by.as_ref()) {
                Ok(stream) => stream,
                Err(reason) => return reason,
            };
            let ended = stream.run(socket, &tally, &mut early).await;
            if ended == Ended::Unprocessed && refused_by.is_none() {
                early.rewind();
                refused_by = Some(stream);
                continue;
            }
            return reason(&ended);
        }
    };
    tokio::select! {
        biased;
        (reason, policy) = cancel.cancelled() => {
            connection.policy(policy);
            reason
        }
        reason = carried => reason,
    }
}

/// A stream to the destination, on a tunnel that may be shared or on a new one.
fn open(worker: &Rc<Worker>, pod: &WorkerPod, call: &Call, not: Option<&Stream>) -> Result<Stream, Reason> {
    let Call { key, request } = call;
    let now = SystemTime::now();
    let credential = worker.credentials.credential(&key.source, now).ok_or(Reason::NoCertificate)?;
    let connect = || {
        let config = worker.credentials.client(&credential, &key.identities)?;
        let options = worker.settings.options(Role::ToNextHop);
        let socket = worker.settings.sockets.to_next_hop(&pod.netns, key.from, key.next, &options);
        let socket = socket.map_err(|error| {
            tracing::debug!(pod = %pod.name, next = %key.next, %error, "connect to the next hop failed");
            app::failure(&error, Reason::Unreachable)
        })?;
        let socket = TcpStream::from_std(socket).map_err(|_| Reason::Limit)?;
        let settings = &worker.settings.tunnel;
        let begun = Tunnel::client(socket.into(), &config, settings, &worker.buffers, pod.charge());
        begun.map_err(|e| Reason::Tls(e.failure(None)))
    };
    let opened = worker.pool.open(key, request, now, not, connect)?;
    opened.map_err(|_| Reason::TunnelClosed)
}

/// The headers of a CONNECT, by the wire contract.
fn headers(world: &World, source: &Workload, from: SocketAddr, service: Option<&ObjectName>) -> Headers {
    let mut headers = Headers::new();
    let host = service.and_then(|service| world.service(service)).map(|service| &service.hostname);
    // RFC 7239, section 6: an address with a port or a colon is quoted.
    let host = host.map_or_else(String::new, |host| format!(";host={host}"));
    headers.push("forwarded", format!("for=\"{from}\"{host}"));
    headers.push("baggage", baggage(source));
    headers
}

/// The baggage of a workload, for the other end's logs (W3C Baggage). Never input to a verdict.
pub(crate) fn baggage(workload: &Workload) -> String {
    let kind = match workload.owner.as_ref().map(|owner| owner.kind) {
        Some(OwnerKind::Deployment) => "deployment",
        Some(OwnerKind::Job) => "job",
        Some(OwnerKind::CronJob) => "cronjob",
        Some(OwnerKind::Other) | None => "pod",
    };
    let name = if kind == "pod" { workload.name.name() } else { workload.workload_name() };
    format!(
        "k8s.namespace.name={},k8s.{kind}.name={name},service.name={},service.version={}",
        workload.name.namespace(),
        workload.canonical_service,
        workload.canonical_revision,
    )
}

fn reason(ended: &Ended) -> Reason {
    match ended {
        Ended::Finished => Reason::Finished,
        Ended::AppReset => Reason::ClientReset,
        Ended::PeerReset(ErrorCode::CONNECT_ERROR | ErrorCode::CANCEL) => Reason::ServerReset,
        Ended::PeerReset(_) => Reason::ServerReset,
        Ended::Refused(status) => Reason::Refused(*status),
        Ended::Unprocessed => Reason::TunnelClosed,
        Ended::Memory => Reason::Memory,
        Ended::Tunnel(end) => end.reason(),
    }
}
