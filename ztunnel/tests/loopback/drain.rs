//! Draining: open connections go on, judged as before, until they end by themselves; and listeners that
//! another process goes on with.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use underpass_ztunnel::Accepting;

use super::*;

fn is_pending(future: Pin<&mut impl Future<Output = ()>>) -> bool {
    future.poll(&mut Context::from_waker(Waker::noop())) == Poll::Pending
}

#[test]
fn open_connections_end_by_themselves() {
    run(async {
        let mesh = Mesh::new([]);
        mesh.echo(at("b", 80)).await;
        let (mut a, mut c) = (mesh.captured("a", at("b", 80)), mesh.captured("c", at("b", 80)));
        talk(&mut a).await;
        talk(&mut c).await;
        let mut drained = pin!(mesh.ztunnel.drain(Accepting::Ends));
        mesh.ztunnel.caught_up().await;
        // Open connections go on, and what still reaches the listeners is served.
        talk(&mut a).await;
        assert_eq!(converse(&mut mesh.captured("a", at("b", 80)), b"late").await, b"late");
        // They are judged as before.
        mesh.change(|batch| batch.put(about("default/late", Action::Deny, "c"))).await;
        is_reset(&mut c).await;
        check(&mesh.line(&[IN, ("source_workload", "c")]).await, &[("reason", "denied"), ("policy", "default/late")]);
        assert!(is_pending(drained.as_mut()), "one is open");
        assert_eq!(converse(&mut a, &[7; 300_000]).await, [7; 300_000]);
        drained.await;
        mesh.open(0).await;
        let lines = mesh.stop();
        assert_eq!(lines.iter().filter(|line| line["reason"] == "drain").count(), 0, "{lines:?}");
    });
}

#[test]
fn the_peer_is_told_and_loses_nothing() {
    run(LocalSet::new().run_until(async {
        let mesh = Mesh::new([]);
        mesh.echo(at("b", 80)).await;
        let peer = tunnel(&mesh, "a");
        assert_eq!(ask(&peer, "10.0.0.2:99").await, Ended::Refused(503), "served");
        let drained = mesh.ztunnel.drain(Accepting::Ends);
        peer.closed().await;
        assert!(!peer.can_open(SystemTime::now()));
        drained.await;
    }));
}

#[test]
fn another_process_goes_on_with_the_listeners() {
    run(async {
        let mesh = Mesh::new([]);
        mesh.echo(at("b", 80)).await;
        let lent = mesh.ztunnel.lend_listeners().await;
        let a = lent.into_iter().flatten().find(|lent| lent.cookie == cookie("a")).expect("lent");
        assert_eq!(a.outbound.local_addr().expect("name"), mesh.homes["a"].outbound);
        assert_eq!(a.inbound.local_addr().expect("name"), mesh.homes["a"].inbound);
        // Lending changes nothing.
        talk(&mut mesh.captured("a", at("b", 80))).await;
        mesh.ztunnel.drain(Accepting::Elsewhere).await;
        let theirs = TcpListener::from_std(a.outbound).expect("registered");
        let mut waits = mesh.captured("a", at("b", 80));
        let (mut served, _) = theirs.accept().await.expect("accepted");
        served.write_u8(9).await.expect("sent");
        assert_eq!(waits.read_u8().await.expect("heard"), 9, "the other process serves it");
    });
}
