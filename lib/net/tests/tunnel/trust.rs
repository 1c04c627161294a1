//! Whom a tunnel talks to, and for how long.

use std::{rc::Rc, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use underpass_core::Reason;
use underpass_identity::testing::{Leaf, TestCa, now};
use underpass_net::{
    pool::Pool,
    tls::Refusal,
    tunnel::{Ended, TunnelEnd},
};

use crate::support::{ALICE, Application, BOB, Mesh, Server, call, converse, echo, id, last_word, run, until};

const CAROL: &str = "spiffe://cluster.local/ns/default/sa/carol";
const FOREIGN: &str = "spiffe://elsewhere.org/ns/default/sa/alice";

/// A leaf that is not valid any more, or not yet.
fn dated(uri: &str, from_s: i64, until_s: i64) -> Leaf {
    let at = |s: i64| {
        let by = Duration::from_secs(s.unsigned_abs());
        if s < 0 { now() - by } else { now() + by }
    };
    Leaf { not_before: at(from_s), not_after: at(until_s), ..Leaf::of(uri) }
}

#[test]
fn a_server_that_is_somebody_else_gets_nothing() {
    let two = Leaf { uris: vec![BOB.to_owned(), CAROL.to_owned()], ..Leaf::of(BOB) };
    let none = Leaf { uris: Vec::new(), ..Leaf::of(BOB) };
    for (what, leaf, expect) in [
        ("another identity", Leaf::of(CAROL), Refusal::WrongIdentity),
        ("expired", dated(BOB, -100, -10), Refusal::Expired),
        ("not valid yet", dated(BOB, 10, 100), Refusal::NotYetValid),
        ("two identities", two, Refusal::NotOneIdentity),
        ("no identity", none, Refusal::NotOneIdentity),
        ("for clients only", Leaf { server_auth: false, ..Leaf::of(BOB) }, Refusal::WrongPurpose),
    ] {
        run(async {
            let mesh = Mesh::new();
            let server = forged(&mesh, &mesh.ca, &leaf).await;
            let tunnel = mesh.tunnel(server);
            let mut call = call(&tunnel, "10.0.0.1:80").await;
            call.app.write_all(b"secret").await.expect("sent");
            assert!(last_word(&mut call.app).await.is_some(), "{what}: reset");
            let end = TunnelEnd::Tls(expect);
            assert_eq!(end.reason(), Reason::Identity, "{what}");
            assert_eq!(call.ended().await, Ended::Tunnel(end), "{what}");
            assert!(tunnel.has_ended() && !tunnel.can_open(now()));
        });
    }
}

#[test]
fn a_server_of_another_root_gets_nothing() {
    run(async {
        let mesh = Mesh::new();
        let tunnel = mesh.tunnel(forged(&mesh, &TestCa::new("root"), &Leaf::of(BOB)).await);
        let ended = call(&tunnel, "10.0.0.1:80").await.ended().await;
        assert_eq!(ended, Ended::Tunnel(TunnelEnd::Tls(Refusal::Untrusted)));
    });
}

/// A server that shows any certificate, and would take any client.
async fn forged(mesh: &Mesh, ca: &TestCa, leaf: &Leaf) -> std::net::SocketAddr {
    let acceptor = crate::peer::Tls::new(ca, leaf).acceptor();
    let application = Application::new("127.0.0.1:0").await;
    let (address, _) = (application.address, mesh);
    tokio::task::spawn_local(async move {
        let socket = application.accept().await;
        let accepted = acceptor.accept(socket).await;
        assert!(accepted.is_err(), "the client has to refuse");
    });
    address
}

#[test]
fn a_client_that_is_nobody_here_is_not_served() {
    for (what, ca, leaf, expect) in [
        ("another root", Some("root"), Leaf::of(ALICE), Refusal::Untrusted),
        ("a foreign trust domain", None, Leaf::of(FOREIGN), Refusal::ForeignTrustDomain),
        ("expired", None, dated(ALICE, -100, -10), Refusal::Expired),
        ("for servers only", None, Leaf { client_auth: false, ..Leaf::of(ALICE) }, Refusal::WrongPurpose),
    ] {
        run(async {
            let mesh = Mesh::new();
            let server = mesh.serve(|_| panic!("nothing may be asked for")).await;
            let other = ca.map(TestCa::new);
            let credential = other.as_ref().unwrap_or(&mesh.ca).credential(&leaf);
            let tunnel = mesh.tunnel_with(server.address, &mesh.client_of(&credential, &mesh.ca.roots(1)));
            let mut call = call(&tunnel, "10.0.0.1:80").await;
            call.app.write_all(b"?").await.expect("sent");
            assert!(last_word(&mut call.app).await.is_some());
            // The client is told why by an alert, also where it had sent more than the server read.
            assert_eq!(call.ended().await, Ended::Tunnel(TunnelEnd::Tls(Refusal::PeerRefused)), "{what}");
            assert_eq!(server.ended().await, TunnelEnd::Tls(expect), "{what}");
            assert_eq!(server.unauthenticated(), 0, "{what}: its slot is free");
        });
    }
}

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
            let mut old = mesh.pooled(&pool, server.address, target).await;
            old.app.write_u8(1).await.expect("sent");
            assert_eq!(old.app.read_u8().await.expect("heard"), 1);
            let tunnel = server.tunnel();
            let (before, after) = (now() + Duration::from_secs(599), now() + Duration::from_secs(600));
            assert_eq!(pool.with_room(before), 1);
            assert_eq!(pool.with_room(after), 0);
            // What is open goes on, and the tunnel is still known to those who check trust.
            pool.sweep();
            assert_eq!(pool.len(), 1);
            old.app.write_u8(2).await.expect("sent");
            assert_eq!(old.app.read_u8().await.expect("heard"), 2);
            assert!(!tunnel.has_ended());
        });
    }
}

#[test]
fn a_root_that_is_removed_takes_its_tunnels_along() {
    for client in [true, false] {
        run(async {
            let mesh = Rc::new(Mesh::new());
            let server = mesh.serve_applications().await;
            let (pool, target) = (Rc::<Pool>::default(), echo("127.0.0.1:0").await);
            let mut call = mesh.pooled(&pool, server.address, target).await;
            call.app.write_u8(1).await.expect("sent");
            assert_eq!(call.app.read_u8().await.expect("heard"), 1);
            let both = |generation| {
                let certificates = vec![mesh.ca.root(), TestCa::new("next").root()];
                underpass_identity::Roots::new(generation, certificates).expect("bundle")
            };
            // Another root beside it changes nothing, nor does the expiry of the leaf.
            let later = now() + Duration::from_secs(48 * 3600);
            check(&pool, &server, client, &both(2), later);
            call.app.write_u8(2).await.expect("sent");
            assert_eq!(call.app.read_u8().await.expect("heard"), 2);
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

fn check(pool: &Pool, server: &Server, client: bool, roots: &underpass_identity::Roots, at: std::time::SystemTime) {
    if client { pool.check_again(roots, at) } else { server.tunnel().check_again(roots, at) }
}

#[test]
fn what_has_left_the_pool_is_still_checked() {
    run(async {
        let mesh = Rc::new(Mesh::new());
        let server = mesh.serve_applications().await;
        let (pool, target) = (Rc::<Pool>::default(), echo("127.0.0.1:0").await);
        let mut call = mesh.pooled(&pool, server.address, target).await;
        call.app.write_u8(1).await.expect("sent");
        assert_eq!(call.app.read_u8().await.expect("heard"), 1);
        server.tunnel().drain();
        until("the client knows", || pool.with_room(now()) == 0).await;
        let mut next = mesh.pooled(&pool, server.address, target).await;
        assert_eq!(converse(&mut next.app, b"hello").await.expect("answered"), b"hello");
        assert_eq!(pool.len(), 2);
        pool.check_again(&TestCa::new("next").roots(2), now());
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
        let mut call = mesh.pooled(&pool, server.address, target).await;
        call.app.write_u8(1).await.expect("sent");
        assert_eq!(call.app.read_u8().await.expect("heard"), 1);
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
