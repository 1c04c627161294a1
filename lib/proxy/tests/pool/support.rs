//! Connections through a pool.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use tokio::task::spawn_local;
use underpass_core::Identities;
use underpass_identity::testing::now;
use underpass_net::{
    testing::{ALICE, BOB, Call, Mesh, close, id, request, tcp_pair},
    tls::ClientConfig,
    tunnel::{EarlyData, Ended, Stream},
};
use underpass_proxy::pool::{Key, Pool};

/// A connection through a tunnel of the pool, opened once more where the first tunnel did not look at it.
pub(crate) async fn pooled(mesh: &Rc<Mesh>, pool: &Rc<Pool>, next: SocketAddr, target: SocketAddr) -> Call {
    let (app, socket) = tcp_pair().await;
    let (mesh, pool) = (Rc::clone(mesh), Rc::clone(pool));
    let ended = spawn_local(async move {
        let (socket, tally, mut early) = (Rc::new(socket), Arc::default(), EarlyData::default());
        let mut first = open(&mesh, &pool, next, target, None, &mesh.client());
        let mut ended = first.run(&socket, &tally, &mut early).await;
        if ended == Ended::Unprocessed {
            early.rewind();
            first = open(&mesh, &pool, next, target, Some(&first), &mesh.client());
            ended = first.run(&socket, &tally, &mut early).await;
        }
        close(&socket, &ended);
        ended
    });
    Call { app, ended }
}

/// A stream of a tunnel in the pool, or of a new one with this configuration.
pub(crate) fn open(
    mesh: &Mesh,
    pool: &Pool,
    next: SocketAddr,
    target: SocketAddr,
    not: Option<&Stream>,
    config: &ClientConfig,
) -> Stream {
    let identities = Identities::from(id(BOB));
    let key = Key { source: id(ALICE), identities, next, from: next.ip(), netns: 1 };
    let connect = || Ok::<_, ()>(mesh.tunnel_with(next, config));
    pool.open(&key, &request(target), now(), not, connect).expect("connected").expect("opened")
}
