//! Inbound connections from another node's tunnel to the application: mutual TLS, CONNECT, core's verdict, the application's
//! connection. Other ports than 15008 are [`crate::plaintext`]'s.

use std::{cell::Cell, net::SocketAddr, pin::Pin, rc::Rc, sync::Arc, time::SystemTime};

use underpass_core::{
    Identity, NamedSource, Reason, World,
    addr::{HBONE_PORT, canonical},
    authz::{Peer, Request},
    connection::{Direction, Path},
    named_source::NAMED_SOURCE_HEADER,
    rejudge::{Basis, Judged},
    world::Workload,
};
use underpass_hbone::{ErrorCode, Headers};
use underpass_net::{
    socket::options::Role,
    tunnel::{Accepted, Charge, EarlyData, Ended, Tunnel, TunnelEnd},
};

use crate::{
    accept,
    app::{self, ResettingSocket},
    open_connection::OpenConnection,
    outbound, plaintext,
    sockets::Ends,
    worker::Worker,
    worker_pod::WorkerPod,
};

/// Serves one accepted socket.
pub(crate) async fn serve(worker: Rc<Worker>, pod: Rc<WorkerPod>, accepted: accept::Accepted) {
    let Ok(Ends { from, to }) = worker.settings.sockets.ends(&accepted.socket) else { return };
    if let Err(reason) = is_served(&worker, &pod, to) {
        worker.settings.accepted(Role::FromPeer, &accepted.socket);
        drop(ResettingSocket::new(accepted.socket, accepted.permit)); // resets it
        OpenConnection::begin(&worker, &pod, Direction::Inbound, from, to).finish(reason);
    } else if to.port() == HBONE_PORT {
        tunnel(&worker, &pod, accepted, from, to).await;
    } else {
        plaintext::serve(&worker, &pod, accepted, from, to).await;
    }
}

/// Checks that the address is the pod's, and the pod the one that the World knows.
fn is_served(worker: &Worker, pod: &WorkerPod, to: SocketAddr) -> Result<(), Reason> {
    let world = worker.world();
    pod.workload(&world)?.addresses.contains(&to.ip()).then_some(()).ok_or(Reason::NotServedHere)
}

/// Serves the tunnel of another node until it ends. One that ended before its first connection is recorded.
async fn tunnel(
    worker: &Rc<Worker>,
    pod: &Rc<WorkerPod>,
    accepted: accept::Accepted,
    from: SocketAddr,
    to: SocketAddr,
) {
    let mut connection = OpenConnection::begin(worker, pod, Direction::Inbound, from, to);
    let begun = begin(worker, pod, accepted, from, to);
    let (tunnel, driving, asked) = match begun {
        Ok(begun) => begun,
        Err(reason) => return connection.finish(reason),
    };
    let listed = pod.tunnels.enter(tunnel.clone());
    if pod.closed.borrow().is_some() {
        tunnel.end(TunnelEnd::Closed); // accepted before, begun after
    }
    if worker.draining.get() {
        tunnel.drain(); // streams that its peer opens before it reads GOAWAY are served
    }
    let end = driving.await;
    drop(listed);
    connection.path(Path::Hbone);
    connection.source_identity(tunnel.peer().map(|peer| peer.identity.clone()));
    match end {
        // Its streams have records of their own; the tunnel's is for one without any.
        _ if asked.get() => connection.discard(),
        TunnelEnd::Closed if tunnel.peer().is_some() => connection.discard(),
        end => {
            tracing::debug!(%from, %to, %end, "tunnel ended before its first connection");
            connection.finish(end.reason());
        }
    }
}

/// The tunnel, the future that drives it, and whether a CONNECT came.
type Begun = (Tunnel, Pin<Box<dyn Future<Output = TunnelEnd>>>, Rc<Cell<bool>>);

fn begin(
    worker: &Rc<Worker>,
    pod: &Rc<WorkerPod>,
    accepted: accept::Accepted,
    from: SocketAddr,
    to: SocketAddr,
) -> Result<Begun, Reason> {
    let own = own_identity(worker, pod)?;
    let credential = worker.credentials.credential(&own, SystemTime::now()).ok_or(Reason::NoCertificate)?;
    let config = worker.credentials.server(&credential)?;
    let slot = pod.unauthenticated.slot(from.ip());
    let number = slot.number();
    let accept::Accepted { socket, permit, .. } = accepted;
    let charge = Charge { memory: pod.memory.clone(), permit };
    let asked = Rc::new(Cell::new(false));
    let acceptor = {
        let (worker, pod, asked) = (Rc::clone(worker), Rc::clone(pod), Rc::clone(&asked));
        Box::new(move |accepted| {
            asked.set(true);
            let serving = worker.begin_serving(&pod);
            let connecting = connect(Rc::clone(&worker), Rc::clone(&pod), accepted, from, to);
            tokio::task::spawn_local(async move {
                connecting.await;
                drop(serving);
            });
        })
    };
    let settings = &worker.settings.tunnel;
    // Fails only where the connection is gone, and that is found by its first use.
    let _ = worker.settings.options(Role::FromTunnel).set(&socket);
    let begun = Tunnel::server(socket.into(), &config, settings, &worker.buffers, charge, Box::new(slot), acceptor);
    let (tunnel, driving) = begun.map_err(|e| Reason::Tls(e.failure(None)))?;
    pod.unauthenticated.set_tunnel(number, &tunnel);
    Ok((tunnel, Box::pin(driving), asked))
}

fn own_identity(worker: &Worker, pod: &WorkerPod) -> Result<Identity, Reason> {
    let world = worker.world();
    world.identity(pod.workload(&world)?).cloned().ok_or(Reason::NoCertificate)
}

/// Answers one CONNECT and carries its connection.
async fn connect(worker: Rc<Worker>, pod: Rc<WorkerPod>, accepted: Accepted, from: SocketAddr, to: SocketAddr) {
    let target = target(&accepted.request.authority, to);
    let shown = target.as_ref().map_or(to, |target| *target);
    let mut connection = OpenConnection::begin(&worker, &pod, Direction::Inbound, from, shown);
    connection.path(Path::Hbone);
    connection.source_identity(Some(accepted.peer.identity.clone()));
    let reason = match target {
        Ok(target) => carry(&worker, &pod, &accepted, from, target, &mut connection).await,
        Err((status, reason)) => answer(&accepted, status, reason),
    };
    connection.finish(reason);
}

/// The application's address in a CONNECT: the address that the tunnel was opened to, and a port other than 15008.
fn target(authority: &[u8], to: SocketAddr) -> Result<SocketAddr, (u16, Reason)> {
    let text = std::str::from_utf8(authority).ok();
    match text.and_then(|text| text.parse::<SocketAddr>().ok()).map(canonical) {
        Some(target) if target.ip() != to.ip() => Err((400, Reason::NotServedHere)),
        Some(target) if target.port() == HBONE_PORT || target.port() == 0 => Err((503, Reason::NotServedHere)),
        Some(target) => Ok(target),
        None => Err((400, Reason::NotServedHere)),
    }
}

fn answer(accepted: &Accepted, status: u16, reason: Reason) -> Reason {
    accepted.stream.respond(status, &Headers::new());
    reason
}

async fn carry(
    worker: &Rc<Worker>,
    pod: &WorkerPod,
    accepted: &Accepted,
    from: SocketAddr,
    target: SocketAddr,
    connection: &mut OpenConnection,
) -> Reason {
    let baggage = match admit(worker, pod, accepted, from, target, connection) {
        Ok(baggage) => baggage,
        Err((status, reason)) => return answer(accepted, status, reason),
    };
    let (tally, cancel) = (Arc::clone(&connection.tally), Rc::clone(&connection.cancel));
    let carried = async {
        let Some(permit) = pod.permit() else { return answer(accepted, 503, Reason::Limit) };
        let app = tokio::select! {
            app = app::connect(worker, pod, permit, from.ip(), target) => app,
            () = accepted.stream.gone() => return gone(accepted),
        };
        let app = match app {
            Ok(app) => app,
            Err(reason) => return answer(accepted, 503, reason),
        };
        let mut headers = Headers::new();
        headers.push("baggage", baggage);
        accepted.stream.respond(200, &headers);
        let ended = accepted.stream.run(&app, &tally, &mut EarlyData::default()).await;
        let reason = reason(&ended);
        app.ended(&reason);
        reason
    };
    tokio::select! {
        biased;
        (reason, policy) = cancel.cancelled() => {
            // Unanswered, the caller is told; answered, its connection breaks.
            accepted.stream.respond(if reason.is_denial() { 401 } else { 503 }, &Headers::new());
            accepted.stream.reset(ErrorCode::CONNECT_ERROR);
            connection.policy(policy);
            reason
        }
        reason = carried => reason,
    }
}

/// Judges by the World of this turn, and registers an allowed connection. The baggage of the answer.
///
/// # Errors
/// The status of the answer, and the reason.
fn admit(
    worker: &Worker,
    pod: &WorkerPod,
    accepted: &Accepted,
    from: SocketAddr,
    target: SocketAddr,
    connection: &mut OpenConnection,
) -> Result<String, (u16, Reason)> {
    let world = worker.world();
    let workload = pod.workload(&world).map_err(|reason| (503, reason))?;
    connection.destination_identity(world.identity(workload).cloned());
    let identity = &accepted.peer.identity;
    let named = named(worker, &world, workload, accepted).map_err(|reason| (401, reason))?;
    if let Some(source) = &named {
        connection.named(&world, source, identity.clone());
    }
    let peer = Peer::of_tunnel(from.ip(), identity, named.as_ref());
    let (address, port) = (target.ip(), target.port());
    connection.judge(&world, &Request { peer, workload, address, port }).map_err(|reason| (401, reason))?;
    let basis = Basis::Inbound { address, port, peer: from.ip(), identity: Some(identity.clone()), named };
    connection.open(Judged { pod: pod.uid.clone(), basis, judged_at: world.version() });
    Ok(outbound::baggage(workload))
}

/// The source that a waypoint of this workload names. What another peer names is dropped and counted.
///
/// # Errors
/// The waypoint is believed, and what it says names no source: it must not be judged as one that names none.
fn named(
    worker: &Worker,
    world: &World,
    workload: &Workload,
    accepted: &Accepted,
) -> Result<Option<NamedSource>, Reason> {
    let is_it = |(name, _): &(&[u8], &[u8])| *name == NAMED_SOURCE_HEADER.as_bytes();
    let mut values = accepted.request.headers.iter().filter(is_it).map(|(_, value)| value);
    let Some(first) = values.next() else { return Ok(None) };
    let peer = &accepted.peer.identity;
    if !world.speaks_for_callers_of(peer, workload) {
        tracing::debug!(pod = %workload.name, %peer, "named source dropped: it is not of this pod's waypoint alone");
        worker.recorder.dropped_named_source();
        return Ok(None);
    }
    let only = std::str::from_utf8(first).ok().filter(|_| values.next().is_none());
    only.and_then(|text| text.parse().ok()).map(Some).ok_or(Reason::BadSource)
}

/// The reason of a CONNECT that ended before its answer.
fn gone(accepted: &Accepted) -> Reason {
    if accepted.stream.is_given_up() { Reason::Memory } else { Reason::ClientReset }
}

fn reason(ended: &Ended) -> Reason {
    match ended {
        Ended::Finished => Reason::Finished,
        Ended::AppReset => Reason::ServerReset,
        Ended::PeerReset(_) | Ended::Unprocessed | Ended::Refused(_) => Reason::ClientReset,
        Ended::Memory => Reason::Memory,
        Ended::Tunnel(end) => end.reason(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_accepted_address_is_served() {
        let to: SocketAddr = "10.0.0.1:15008".parse().unwrap();
        for (authority, expect) in [
            ("10.0.0.1:80", Ok("10.0.0.1:80".parse().unwrap())),
            ("[::ffff:10.0.0.1]:80", Ok("10.0.0.1:80".parse().unwrap())),
            ("10.0.0.2:80", Err(400)),
            ("127.0.0.1:80", Err(400)),
            ("10.0.0.1", Err(400)),
            ("reviews.default:80", Err(400)),
            ("", Err(400)),
            ("10.0.0.1:15008", Err(503)),
            ("10.0.0.1:0", Err(503)),
            ("10.0.0.1:99999", Err(400)),
        ] {
            assert_eq!(target(authority.as_bytes(), to).map_err(|e| e.0), expect, "{authority}");
        }
        assert!(target(b"\xff:80", to).is_err());
    }
}
