//! Inbound plaintext connections from outside the mesh: judged like any other, but without an identity.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use tokio::net::TcpStream;
use underpass_core::{
    Reason,
    authz::{Peer, Request},
    connection::{Direction, Path},
    rejudge::{Basis, Judged},
};
use underpass_net::{budget::Permit, socket::options::Role};

use crate::{
    accept::Accepted,
    app::{self, ResettingSocket},
    copy,
    open_connection::OpenConnection,
    worker::Worker,
    worker_pod::WorkerPod,
};

/// Serves one accepted socket whose destination is an application's port.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    pod: &Rc<WorkerPod>,
    accepted: Accepted,
    from: SocketAddr,
    to: SocketAddr,
) {
    let mut connection = OpenConnection::begin(worker, pod, Direction::Inbound, from, to);
    connection.path(Path::Plaintext);
    let Accepted { socket, permit, next } = accepted;
    worker.settings.accepted(Role::FromPeer, &socket);
    let client = ResettingSocket::new(socket, permit);
    let reason = carry(worker, pod, (&client, next), from, to, &mut connection).await;
    client.ended(&reason);
    drop(client);
    connection.finish(reason);
}

async fn carry(
    worker: &Rc<Worker>,
    pod: &WorkerPod,
    (client, permit): (&TcpStream, Permit),
    from: SocketAddr,
    to: SocketAddr,
    connection: &mut OpenConnection,
) -> Reason {
    if let Err(reason) = admit(worker, pod, from, to, connection) {
        return reason;
    }
    let (tally, cancel) = (Arc::clone(&connection.tally), Rc::clone(&connection.cancel));
    let carried = async {
        let server = match app::connect(worker, pod, permit, from.ip(), to).await {
            Ok(server) => server,
            Err(reason) => return reason,
        };
        let (there, back) = (|n| tally.add_to_app(n), |n| tally.add_from_app(n));
        let reason = copy::both_ways(client, &server, (&worker.buffers, &pod.memory), there, back).await;
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

/// Judges by the World of this turn, and registers an allowed connection.
fn admit(
    worker: &Worker,
    pod: &WorkerPod,
    from: SocketAddr,
    to: SocketAddr,
    connection: &mut OpenConnection,
) -> Result<(), Reason> {
    let world = worker.world();
    let workload = pod.workload(&world)?;
    let peer = Peer::itself(from.ip(), None);
    connection.judge(&world, &Request { peer, workload, address: to.ip(), port: to.port() })?;
    let basis = Basis::Inbound { address: to.ip(), port: to.port(), peer: from.ip(), identity: None, named: None };
    connection.open(Judged { pod: pod.uid.clone(), basis, judged_at: world.version() });
    Ok(())
}
