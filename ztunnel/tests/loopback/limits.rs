//! Per-pod limits: beyond them connections wait, are refused or end, and other pods are not affected.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::LocalSet,
};
use underpass_core::addr::HBONE_PORT;
use underpass_net::tunnel::{Ended, TunnelEnd};
use underpass_ztunnel::PodUsage;

use crate::{
    IN, OUT, ask, check,
    mesh::{Mesh, at, converse, ip, is_reset, run, talk},
    tunnel,
};

/// The use of a pod's budgets.
fn pod(mesh: &Mesh, name: &str) -> PodUsage {
    find(mesh, name).expect("served")
}

fn find(mesh: &Mesh, name: &str) -> Option<PodUsage> {
    let pods = mesh.ztunnel.budgets().pods();
    pods.into_iter().find(|pod| pod.name.to_string() == format!("default/{name}"))
}

/// Waits until every pod is served.
async fn served(mesh: &Mesh) {
    until(|| ["a", "b", "c"].iter().all(|name| find(mesh, name).is_some())).await;
}

async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_pod_that_has_all_it_may_have_waits_for_its_own_to_end() {
    run(async {
        // Its eight, three connections, one tunnel for them, and one less than two more.
        let mesh = Mesh::with([], |settings| settings.limits.pod_sockets = 8 + 3 + 1 + 1);
        served(&mesh).await;
        for application in ["b", "c", "z"] {
            mesh.echo(at(application, 80)).await;
        }
        let mut open = Vec::new();
        for _ in 0..3 {
            let mut app = mesh.captured("a", at("b", 80));
            talk(&mut app).await;
            open.push(app);
        }
        until(|| pod(&mesh, "a").pauses == 1).await;
        let mut waits = mesh.captured("a", at("b", 80));
        waits.write_u8(7).await.expect("taken by the kernel");
        // The others are served.
        talk(&mut mesh.captured("c", at("z", 80))).await;
        assert_eq!(converse(&mut mesh.arrived(at("z", 9), "c", at("c", 80)), b"hello").await, b"hello");
        talk(&mut open[0]).await;
        is_open(&waits);
        assert_eq!(pod(&mesh, "a").sockets, (12, 13));
        // One that ends is the place of the one that waits.
        drop(open.pop());
        assert_eq!(waits.read_u8().await.expect("answered"), 7);
        talk(&mut waits).await;
        drop((open, waits));
        mesh.open(0).await;
        until(|| pod(&mesh, "a").sockets.0 == 8 + 1).await;
        assert_eq!((pod(&mesh, "a").refused, pod(&mesh, "c").refused), (0, 0));
    });
}

#[test]
fn an_accepted_connection_has_a_permit_for_its_next_socket() {
    run(async {
        let mesh = Mesh::with([], |settings| settings.limits.pod_sockets = 8 + 2 + 2 + 1);
        served(&mesh).await;
        mesh.echo(at("c", 80)).await;
        let arrived = |n: u16| mesh.arrived(at("z", 1000 + n), "c", at("c", 80));
        let mut open: Vec<_> = (0..2).map(arrived).collect();
        for app in &mut open {
            talk(app).await;
        }
        // There is room for itself, but not for the connection to the application.
        let mut waits = arrived(2);
        waits.write_u8(7).await.expect("taken by the kernel");
        until(|| pod(&mesh, "c").pauses == 1).await;
        assert_eq!(pod(&mesh, "c").sockets, (12, 13));
        is_open(&waits);
        drop(open.pop());
        assert_eq!(waits.read_u8().await.expect("answered"), 7);
        assert_eq!(pod(&mesh, "c").refused, 0);
    });
}

#[test]
fn an_idle_tunnel_makes_room() {
    run(async {
        let mesh = Mesh::with([], |settings| settings.limits.pod_sockets = 8 + 2 + 2);
        served(&mesh).await;
        for application in ["b", "z"] {
            mesh.echo(at(application, 80)).await;
        }
        assert_eq!(converse(&mut mesh.captured("a", at("b", 80)), b"hello").await, b"hello");
        mesh.open(0).await;
        until(|| pod(&mesh, "a").sockets == (8 + 1, 12)).await;
        // A plain one has two; for the second of them there is room without the tunnel.
        let mut open = [mesh.captured("a", at("z", 80)), mesh.captured("a", at("z", 80))];
        for app in &mut open {
            talk(app).await;
        }
        assert_eq!((pod(&mesh, "a").sockets, pod(&mesh, "a").refused), ((12, 12), 0));
    });
}

#[test]
fn greedy_pods_leave_something_to_the_others() {
    run(async {
        // 24 for the three pods themselves.
        let mesh = Mesh::with([], |settings| settings.limits.sockets = 24 + 60);
        served(&mesh).await;
        for application in ["b", "c", "z"] {
            mesh.echo(at(application, 80)).await;
        }
        let mut greedy = Vec::new();
        while pod(&mesh, "a").pauses == 0 {
            let mut app = mesh.captured("a", at("b", 80));
            let _ = app.write_u8(7).await;
            greedy.push(app);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for _ in 0..20 {
            assert_eq!(converse(&mut mesh.captured("c", at("z", 80)), b"").await, b"");
            talk(&mut mesh.arrived(at("z", 9), "c", at("c", 80))).await;
        }
        let (used, most) = mesh.ztunnel.budgets().sockets();
        assert!(used < most, "{used} of {most}");
    });
}

#[test]
fn a_destination_that_has_all_it_may_have_says_so() {
    run(LocalSet::new().run_until(async {
        let mesh = Mesh::with([], |settings| settings.limits.pod_sockets = 8 + 2 + 3);
        served(&mesh).await;
        mesh.echo(at("b", 80)).await;
        let mut open = Vec::new();
        // One tunnel, and three applications' sockets; another tunnel in the place of one of them. The one that is left is kept
        // for the listeners, which wait for two.
        for _ in 0..3 {
            let mut app = mesh.captured("a", at("b", 80));
            talk(&mut app).await;
            open.push(app);
        }
        let other = tunnel(&mesh, "c");
        drop(open.pop());
        until(|| pod(&mesh, "b").sockets.0 == 8 + 2 + 2).await;
        until(|| pod(&mesh, "b").pauses > 0).await;
        assert_eq!(ask(&other, "10.0.0.2:80").await, Ended::Refused(503));
        check(&mesh.line(&[IN, ("source_workload", "c")]).await, &[("reason", "limit"), ("path", "hbone")]);
        assert_eq!(pod(&mesh, "b").refused, 1);
        talk(&mut open[0]).await;
        drop(open.pop());
        until(|| pod(&mesh, "b").sockets.0 < 12).await;
        assert_eq!(ask(&other, "10.0.0.2:80").await, Ended::Finished);
        other.end(TunnelEnd::Closed);
    }));
}

#[test]
fn an_unauthenticated_peer_makes_room() {
    run(async {
        let mesh = Mesh::with([], |settings| settings.most_unauthenticated = 2);
        served(&mesh).await;
        mesh.echo(at("b", 80)).await;
        let silent = |port| mesh.arrived(SocketAddr::new(ip("z"), port), "b", at("b", HBONE_PORT));
        let (mut first, _second) = (silent(1), silent(2));
        // A TLS record that never ends is no proof.
        first.write_all(&[22, 3, 1, 0, 200, 1]).await.expect("sent");
        let _third = silent(3);
        assert_eq!(first.read(&mut [0]).await.expect("closed"), 0);
        check(&mesh.line(&[IN]).await, &[("reason", "limit"), ("source_address", "10.0.0.9:1")]);
        assert_eq!(pod(&mesh, "b").refused, 1);
        // They compete with each other, and with no other peer.
        assert_eq!(converse(&mut mesh.captured("a", at("b", 80)), b"hello").await, b"hello");
        let _more: Vec<_> = (4..10).map(silent).collect();
        assert_eq!(converse(&mut mesh.captured("c", at("b", 80)), b"hello").await, b"hello");
        mesh.lines(2, &[OUT, ("reason", "finished")]).await;
    });
}

#[test]
fn a_slow_handshake_loses_its_slot_in_time() {
    run(async {
        let mesh = Mesh::with([], |settings| settings.tunnel.handshake = Duration::from_millis(200));
        served(&mesh).await;
        mesh.echo(at("b", 80)).await;
        let mut slow = mesh.arrived(at("z", 1), "b", at("b", HBONE_PORT));
        // One byte at a time moves nothing back.
        let dripping = async {
            for byte in [22, 3, 1, 0, 200].into_iter().chain(std::iter::repeat(0)) {
                if slow.write_u8(byte).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        dripping.await;
        check(&mesh.line(&[IN]).await, &[("reason", "timeout"), ("source_address", "10.0.0.9:1")]);
    });
}

#[test]
fn a_storm_at_one_pod_is_a_turn_among_others() {
    run(async {
        let mesh = Mesh::with([], |settings| settings.workers = std::num::NonZeroUsize::MIN);
        served(&mesh).await;
        for application in ["b", "c"] {
            mesh.echo(at(application, 80)).await;
        }
        // All of them are in the backlog before one is accepted.
        let storm: Vec<_> = (0..100).map(|_| mesh.captured("a", at("b", 80))).collect();
        let mut beside = mesh.arrived(at("z", 9), "c", at("c", 80));
        talk(&mut beside).await;
        for mut app in storm {
            talk(&mut app).await;
            is_open(&app);
        }
        talk(&mut beside).await;
    });
}

fn is_open(app: &TcpStream) {
    assert!(matches!(app.try_read(&mut [0]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock));
}

#[test]
fn a_stalled_connection_ends_where_memory_is_used_up() {
    run(async {
        let mesh = Mesh::with([], |settings| {
            settings.limits.pod_memory = 1 << 20;
            settings.tunnel.hbone.stream_window_max = 256 << 10;
        });
        served(&mesh).await;
        mesh.echo(at("c", 80)).await;
        let unread = mesh.application(at("b", 80)).await;
        let (mut apps, mut sockets) = (Vec::new(), Vec::new());
        let block = vec![7; 64 << 10];
        while pod(&mesh, "b").given_up == 0 {
            let app = mesh.captured("a", at("b", 80));
            sockets.push(unread.accept().await.expect("accepted"));
            // Half of what its window lets wait: a few of them are more than there is room for.
            let before = pod(&mesh, "b").memory.0;
            until(|| {
                while app.try_write(&block).is_ok() {}
                let now = pod(&mesh, "b");
                now.given_up > 0 || now.memory.0 >= before + (128 << 10)
            })
            .await;
            apps.push(app);
            assert!(apps.len() < 20, "{:?}", pod(&mesh, "b"));
        }
        // The oldest, at both ends, and not by an orderly end; the newest stays. Those between, which still grew when there
        // was room again, may have followed.
        check(&mesh.first(&[IN, ("reason", "memory")]).await, &[("destination_address", "10.0.0.2:80")]);
        is_reset(&mut apps[0]).await;
        is_reset(&mut sockets[0].0).await;
        is_open(apps.last().expect("one"));
        let PodUsage { memory: (used, allowed), .. } = pod(&mesh, "b");
        assert!(used <= allowed, "{used} of {allowed}");
        assert_eq!(converse(&mut mesh.captured("a", at("c", 80)), b"hello").await, b"hello");
        assert_eq!(pod(&mesh, "a").given_up + pod(&mesh, "c").given_up, 0);
    });
}
