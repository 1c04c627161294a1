//! Pods that leave, come back, or are served twice, and the connections that end with them; and closing one connection.

use std::time::Duration;

use underpass_core::{Few, objects::Pod, testing::ambient};

use super::*;
use crate::mesh::{DEADLINE, account};

#[test]
fn a_pod_that_leaves_takes_everything_along() {
    for (gone, gone_line, other_line) in [("b", IN, OUT), ("a", OUT, IN)] {
        run(async {
            let mesh = Mesh::new([]);
            mesh.echo(at("b", 80)).await;
            let mut app = mesh.captured("a", at("b", 80));
            talk(&mut app).await;
            mesh.open(2).await;
            mesh.ztunnel.remove(&name(&format!("default/{gone}")), cookie(gone)).await;
            let home = mesh.homes[gone];
            for listener in [home.outbound, home.inbound] {
                assert!(TcpStream::connect(listener).await.is_err(), "its listeners are closed");
            }
            is_reset(&mut app).await;
            check(&mesh.line(&[gone_line]).await, &[("reason", "pod_gone")]);
            assert_ne!(mesh.line(&[other_line]).await["reason"], "finished");
            mesh.open(0).await;
        });
    }
}

#[test]
fn a_pod_that_leaves_takes_its_tunnels_along() {
    run(async {
        let mesh = Mesh::with([], |settings| settings.tunnel.handshake = Duration::from_secs(3600));
        // A next hop that takes its time.
        let next = mesh.application(at("b", HBONE_PORT)).await;
        let mut app = mesh.captured("a", at("b", 80));
        let (mut tunnel, _) = next.accept().await.expect("accepted");
        tunnel.read_u8().await.expect("it begins");
        mesh.ztunnel.remove(&name("default/a"), cookie("a")).await;
        tunnel.read_to_end(&mut Vec::new()).await.expect("it is closed");
        is_reset(&mut app).await;
        check(&mesh.line(&[OUT]).await, &[("reason", "pod_gone")]);
    });
}

#[test]
fn a_pod_that_comes_back_is_not_waited_for() {
    run(async {
        let mut mesh = Mesh::new([]);
        mesh.echo(at("b", 80)).await;
        // Says nothing, and does not hear that its tunnel ends.
        let stranger = mesh.arrived(at("z", 1), "b", at("b", HBONE_PORT));
        mesh.accepted("b", 1).await;
        let gone = mesh.ztunnel.remove(&name("default/b"), cookie("b"));
        mesh.add("b");
        let mut open = mesh.arrived(at("z", 9), "b", at("b", 80));
        talk(&mut open).await;
        gone.await;
        talk(&mut open).await;
        drop(stranger);
    });
}

#[test]
fn a_pod_that_is_there_twice_is_served_once() {
    run(async {
        let mut mesh = Mesh::new([]);
        mesh.echo(at("b", 80)).await;
        let mut before = mesh.arrived(at("z", 9), "b", at("b", 80));
        talk(&mut before).await;
        let old = mesh.add("b");
        talk(&mut mesh.arrived(at("z", 9), "b", at("b", 80))).await;
        is_reset(&mut before).await;
        for listener in [old.outbound, old.inbound] {
            assert!(TcpStream::connect(listener).await.is_err(), "closed");
        }
        assert_eq!(converse(&mut mesh.captured("a", at("b", 80)), b"hello").await, b"hello");
    });
}

#[test]
fn an_operator_closes_what_is_listed_and_nothing_else() {
    run(LocalSet::new().run_until(async {
        let mesh = Mesh::new([]);
        mesh.echo(at("b", 80)).await;
        let tunnel = tunnel(&mesh, "a");
        assert_eq!(ask(&tunnel, "10.0.0.2:80").await, Ended::Finished);
        let mut plain = mesh.arrived(at("z", 9), "b", at("b", 80));
        talk(&mut plain).await;
        mesh.open(1).await;
        let listed = mesh.ztunnel.connections().list().await[0].id;
        let connections = mesh.ztunnel.connections().clone();
        // The tunnel has a number too, and those that have ended had one.
        for id in 0..listed + 2 {
            assert_eq!(connections.close(id).await, id == listed, "{id} of {listed}");
        }
        is_reset(&mut plain).await;
        check(&mesh.line(&[IN, ("path", "plaintext")]).await, &[("reason", "operator")]);
        assert_eq!(ask(&tunnel, "10.0.0.2:80").await, Ended::Finished, "the tunnel is still there");
        tunnel.end(TunnelEnd::Closed);
    }));
}

/// `b` as it is, but for one thing.
fn other_b(change: impl FnOnce(&mut Pod)) -> Option<Object> {
    let mut pod = ambient("default/b", &ip("b").to_string(), "");
    change(&mut pod);
    Some(pod.into())
}

#[test]
fn a_pod_is_refused_while_the_world_knows_another_one_by_its_name() {
    let other_address =
        |pod: &mut Pod| pod.addresses = Few::from([pod.addresses[0], "10.0.0.77".parse().expect("address")]);
    let other_account = |pod: &mut Pod| pod.service_account = "x".into();
    // What the World says, and what becomes of what is open: the plain one, and the one that b itself opened.
    for (object, inbound, outbound) in [
        (None, Some("pod_gone"), Some("pod_gone")),
        // Connections of a tunnel end; the plain one has no identity.
        (other_b(other_account), None, Some("identity")),
        (
            other_b(|pod| pod.addresses = Few::one("10.0.0.77".parse().expect("address"))),
            Some("pod_gone"),
            Some("bad_source"),
        ),
        // The address that they use is still its own.
        (other_b(other_address), None, None),
    ] {
        run(LocalSet::new().run_until(async {
            let mesh = Mesh::new([]);
            mesh.echo(at("b", 80)).await;
            mesh.echo(at("c", 80)).await;
            let tunnel = tunnel(&mesh, "a");
            assert_eq!(ask(&tunnel, "10.0.0.2:80").await, Ended::Finished);
            let (mut plain, mut own) = (mesh.arrived(at("z", 9), "b", at("b", 80)), mesh.captured("b", at("c", 80)));
            talk(&mut plain).await;
            talk(&mut own).await;
            mesh.clear();
            let as_it_was = other_b(|_| {}).expect("an object");
            mesh.change(|batch| match &object {
                Some(object) => batch.put(object.clone()),
                None => batch.remove(as_it_was.key()),
            })
            .await;
            for (app, direction, reason) in [(&mut plain, IN, inbound), (&mut own, OUT, outbound)] {
                match reason {
                    Some(reason) => {
                        is_reset(app).await;
                        mesh.line(&[direction, ("reason", reason)]).await;
                    }
                    None => talk(app).await,
                }
            }
            // Nothing new, either way: from it, to it in plaintext, by a tunnel that is there and by a new one.
            is_reset(&mut mesh.captured("b", at("c", 80))).await;
            mesh.line(&[OUT, ("reason", "unknown_pod"), ("destination_address", "10.0.0.3:80")]).await;
            is_reset(&mut mesh.arrived(at("z", 9), "b", at("b", 80))).await;
            assert_eq!(ask(&tunnel, "10.0.0.2:80").await, Ended::Refused(503));
            is_reset(&mut mesh.arrived(at("c", 9), "b", at("b", HBONE_PORT))).await;
            mesh.lines(3, &[IN, ("reason", "unknown_pod")]).await;
            // The twin: as soon as both say the same.
            mesh.change(|batch| batch.put(as_it_was)).await;
            assert_eq!(ask(&tunnel, "10.0.0.2:80").await, Ended::Finished);
            talk(&mut mesh.captured("b", at("c", 80))).await;
            talk(&mut mesh.arrived(at("z", 9), "b", at("b", 80))).await;
            tunnel.end(TunnelEnd::Closed);
        }));
    }
}

#[test]
fn an_account_that_its_node_learns_counts_at_once_for_what_is_new() {
    run(async {
        let mesh = Mesh::new([]);
        mesh.echo(at("c", 80)).await;
        let mut open = mesh.captured("b", at("c", 80));
        talk(&mut open).await;
        mesh.ztunnel.rename(cookie("b"), account("x"));
        is_reset(&mut mesh.captured("b", at("c", 80))).await;
        mesh.line(&[OUT, ("reason", "unknown_pod")]).await;
        // What is open is judged by the World alone.
        talk(&mut open).await;
        mesh.ztunnel.rename(cookie("b"), account("b"));
        mesh.ztunnel.caught_up().await;
        talk(&mut mesh.captured("b", at("c", 80))).await;
    });
}

#[test]
fn connections_of_a_new_pod_wait_until_the_mesh_knows_it() {
    run(async {
        let mut mesh = Mesh::new([]);
        mesh.echo(at("b", 80)).await;
        mesh.echo(at("c", 80)).await;
        let known = other_b(|_| {}).expect("an object");
        let other_address = other_b(|pod| pod.addresses = Few::one("10.0.0.77".parse().expect("address")));
        mesh.change(|batch| batch.remove(known.key())).await;
        // The twin: one that is not expected.
        is_reset(&mut mesh.captured("b", at("c", 80))).await;
        mesh.line(&[OUT, ("reason", "unknown_pod")]).await;
        mesh.clear();

        mesh.expect("b", DEADLINE).await;
        let (mut from, mut to) = (mesh.captured("b", at("c", 80)), mesh.arrived(at("z", 9), "b", at("b", 80)));
        for app in [&mut from, &mut to] {
            app.write_u8(7).await.expect("sent");
        }
        mesh.change(|batch| batch.put(other_address.expect("an object"))).await;
        mesh.change(|batch| batch.put(known.clone())).await;
        for app in [&mut from, &mut to] {
            assert_eq!(app.read_u8().await.expect("heard"), 7);
        }
        // Known once, it is waited for no more.
        mesh.change(|batch| batch.remove(known.key())).await;
        is_reset(&mut mesh.captured("b", at("c", 80))).await;
        mesh.line(&[OUT, ("reason", "unknown_pod")]).await;

        mesh.clear();
        mesh.expect("b", Duration::ZERO).await;
        is_reset(&mut mesh.captured("b", at("c", 80))).await;
        mesh.line(&[OUT, ("reason", "unknown_pod")]).await;
    });
}
