//! What another World means for what is open. A connection keeps no World alive: the one that it was planned by is freed when
//! the next one has come, in every state of the connection.

use std::{net::SocketAddr, sync::Weak};

use tokio::net::TcpStream;
use underpass_core::{
    World,
    addr::HBONE_PORT,
    testing::{ambient, peer_authentication, service},
};

use crate::mesh::{Mesh, at, converse, run, talk};

const CHANGES: usize = 100;
/// Of each way in which a connection goes through the node.
const EACH: usize = 25;

/// Another World, which concerns no connection.
async fn change(mesh: &Mesh, n: usize) -> Weak<World> {
    mesh.change(|batch| batch.put(peer_authentication(&format!("other/p{n} - STRICT")))).await;
    mesh.newest()
}

#[test]
fn open_connections_keep_no_world() {
    run(async {
        let outside = service("default/outside app=z 10.96.0.2 80").into();
        let mesh = Mesh::new([outside]);
        mesh.echo(at("b", 80)).await;
        mesh.echo(at("z", 80)).await;
        // A peer that never answers a handshake, and an application that never gets what it is sent: both are waited for.
        let silent = mesh.application(at("c", HBONE_PORT)).await;
        let mut worlds = vec![mesh.newest()];
        let (mut open, mut waiting) = (Vec::<TcpStream>::new(), Vec::new());
        for n in 0..CHANGES {
            if n % (CHANGES / EACH) == 0 {
                let vip: SocketAddr = "10.96.0.2:80".parse().expect("address");
                let through = [
                    mesh.captured("a", at("b", 80)),
                    mesh.captured("a", vip),
                    mesh.arrived(at("z", 9), "b", at("b", 80)),
                ];
                for mut app in through {
                    talk(&mut app).await;
                    open.push(app);
                }
                waiting.push(mesh.captured("a", at("c", 80)));
            }
            worlds.push(change(&mesh, n).await);
        }
        // Each through the tunnel is two.
        mesh.open(EACH * 5).await;
        let kept = worlds.iter().filter(|world| world.strong_count() > 0).count();
        assert_eq!((worlds.len(), kept), (CHANGES + 1, 1), "only the newest");
        for app in &mut open {
            talk(app).await;
        }
        drop(silent);
    });
}

/// Another pod may have the address next, also one of the same identity.
#[test]
fn a_tunnel_to_an_address_that_its_pod_has_given_up_is_closed() {
    run(async {
        let mesh = Mesh::new([]);
        mesh.echo(at("b", 80)).await;
        assert_eq!(converse(&mut mesh.captured("a", at("b", 80)), b"hello").await, b"hello");
        // Each end of the tunnel is kept for the next connection.
        mesh.accepted("a", 1).await;
        mesh.change(|batch| batch.put(ambient("default/c", "10.0.0.33", ""))).await;
        mesh.accepted("a", 1).await;
        mesh.change(|batch| batch.put(ambient("default/b", "10.0.0.22", ""))).await;
        mesh.accepted("a", 0).await;
        mesh.accepted("b", 0).await;
    });
}
