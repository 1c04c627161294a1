//! Trust: the peers of a pool's tunnels, expiry, and changed roots.

use std::{rc::Rc, time::Duration};

use underpass_core::Reason;
use underpass_identity::{
    Roots,
    testing::{TestCa, now},
};
use underpass_net::{
    testing::{
        ALICE, BOB, Mesh, Server, carried, carry, converse, dated, echo, id, last_word, run, talk, tcp_pair, until,
    },
    tunnel::{Ended, Stream, TunnelEnd},
};
use underpass_proxy::pool::Pool;

use crate::support::{open, pooled};

const CAROL: &str = "spiffe://cluster.local/ns/default/sa/carol";

#[test]
fn no_stream_begins_after_a_certificate_has_expired() {
    for (client_s, server_s) in [(600, 3_600), (3_600, 600)] {
        run(async {
            let mut mesh = Mesh::new();
            mesh.alice = mesh.ca.credential(&dated(ALICE, -10, client_s));
            mesh.bob = mesh.ca.credential(&dated(BOB, -10, server_s));
            let mesh = Rc::new(mesh);
            let server = mesh.serve_applications().await;
            let (pool, target) = (Rc::<Pool>::default(), echo("127.0.0.1:0").await);
            let mut old = pooled(&mesh, &pool, server.address, target).await;
            talk(&mut old.app).await;
            let tunnel = server.tunnel();
            let (before, after) = (now() + Duration::from_secs(599), now() + Duration::from_secs(600));
            assert_eq!(pool.with_room(before), 1);
            assert_eq!(pool.with_room(after), 0);
            // What is open goes on, and the tunnel is still known to those who check trust.
            pool.sweep();
            assert_eq!(pool.len(), 1);
            talk(&mut old.app).await;
            assert!(!tunnel.has_ended());
        });
    }
}

/// The answer that an application gets through this stream.
async fn through(stream: &Stream, payload: &[u8]) -> (Ended, Vec<u8>) {
    let (mut app, socket) = tcp_pair().await;
    let (ended, answer) = tokio::join!(carry(stream, socket), converse(&mut app, payload));
    (ended, answer.unwrap_or_default())
}

#[test]
fn a_stream_that_comes_just_at_the_expiry_is_carried_elsewhere() {
    run(async {
        let mut mesh = Mesh::new();
        mesh.alice = mesh.ca.credential(&dated(ALICE, -10, 600));
        let mesh = Rc::new(mesh);
        let renewed = mesh.client_of(&mesh.ca.credential(&dated(ALICE, -10, 3_600)), &mesh.ca.roots(1));
        let server = mesh.serve_applications().await;
        let (pool, target) = (Pool::default(), echo("127.0.0.1:0").await);
        let again = |not: Option<&Stream>| open(&mesh, &pool, server.address, target, not, &renewed);
        // Two tunnels of one certificate, each with a connection that stays.
        let one = open(&mesh, &pool, server.address, target, None, &mesh.client());
        let other = open(&mesh, &pool, server.address, target, Some(&one), &mesh.client());
        let mut lasting = [carried(one).await, carried(other).await];
        for app in &mut lasting {
            talk(app).await;
        }
        assert_eq!(pool.len(), 2);
        // It has expired where it ends; where it begins, the clock is not read again.
        mesh.clock.set(now() + Duration::from_secs(600));
        assert_eq!(pool.with_room(now()), 2);
        let first = again(None);
        let (_app, socket) = tcp_pair().await;
        assert_eq!(carry(&first, socket).await, Ended::Unprocessed, "refused unprocessed");
        assert_eq!(pool.with_room(now()), 1, "one of them goes away, the other one has no GOAWAY yet");
        let second = again(Some(&first));
        assert_eq!(through(&second, b"hello").await, (Ended::Finished, b"hello".to_vec()));
        assert_eq!(pool.len(), 3, "a new one");
        // Others that come back go there as well.
        let third = again(Some(&first));
        assert_eq!(through(&third, b"again").await, (Ended::Finished, b"again".to_vec()));
        assert_eq!(pool.len(), 3);
        for app in &mut lasting {
            talk(app).await;
        }
    });
}

#[test]
fn a_root_that_is_removed_takes_its_tunnels_along() {
    for client in [true, false] {
        run(async {
            let mesh = Rc::new(Mesh::new());
            let server = mesh.serve_applications().await;
            let (pool, target) = (Rc::<Pool>::default(), echo("127.0.0.1:0").await);
            let mut call = pooled(&mesh, &pool, server.address, target).await;
            talk(&mut call.app).await;
            let both = |generation| {
                let certificates = vec![mesh.ca.root(), TestCa::new("next").root()];
                Roots::new(generation, certificates).expect("bundle")
            };
            // Another root beside it changes nothing, nor does the expiry of the leaf.
            let later = now() + Duration::from_secs(48 * 3600);
            check(&pool, &server, client, &both(2), later);
            talk(&mut call.app).await;
            check(&pool, &server, client, &TestCa::new("next").roots(3), now());
            assert!(last_word(&mut call.app).await.is_some(), "reset");
            let (near, far) = (call.ended().await, server.ended().await);
            if client {
                assert_eq!((near, far), (Ended::Tunnel(TunnelEnd::Distrusted), TunnelEnd::Closed));
            } else {
                assert_eq!((near, far), (Ended::Tunnel(TunnelEnd::Closed), TunnelEnd::Distrusted));
            }
            assert_eq!(TunnelEnd::Distrusted.reason(), Reason::Identity);
            pool.sweep();
            assert!(pool.is_empty());
        });
    }
}

fn check(pool: &Pool, server: &Server, client: bool, roots: &Roots, at: std::time::SystemTime) {
    if client { pool.verify_again(roots, at) } else { server.tunnel().verify_again(roots, at) }
}

#[test]
fn a_draining_tunnel_is_still_verified() {
    run(async {
        let mesh = Rc::new(Mesh::new());
        let server = mesh.serve_applications().await;
        let (pool, target) = (Rc::<Pool>::default(), echo("127.0.0.1:0").await);
        let mut call = pooled(&mesh, &pool, server.address, target).await;
        talk(&mut call.app).await;
        server.tunnel().drain();
        until("the client knows", || pool.with_room(now()) == 0).await;
        let mut next = pooled(&mesh, &pool, server.address, target).await;
        assert_eq!(converse(&mut next.app, b"hello").await.expect("answered"), b"hello");
        assert_eq!(pool.len(), 2);
        pool.verify_again(&TestCa::new("next").roots(2), now());
        assert!(last_word(&mut call.app).await.is_some(), "the stream of the tunnel that went away is reset");
        assert_eq!(call.ended().await, Ended::Tunnel(TunnelEnd::Distrusted));
    });
}

#[test]
fn the_tunnels_of_an_identity_end_with_it() {
    run(async {
        let mesh = Rc::new(Mesh::new());
        let server = mesh.serve_applications().await;
        let (pool, target) = (Rc::<Pool>::default(), echo("127.0.0.1:0").await);
        let mut call = pooled(&mesh, &pool, server.address, target).await;
        talk(&mut call.app).await;
        let end = |uri: &str| pool.end(|key| key.source == id(uri), &TunnelEnd::Closed);
        assert!(end(CAROL).is_empty());
        assert_eq!(pool.len(), 1);
        let ended = end(ALICE);
        assert_eq!((ended.len(), pool.len()), (1, 0));
        assert_eq!(call.ended().await, Ended::Tunnel(TunnelEnd::Closed));
        ended[0].closed().await;
        ended[0].closed().await; // asked again, it still is
    });
}
