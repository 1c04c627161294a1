//! Trust: the peers that a tunnel accepts, expiry, and changed roots.

use std::time::Duration;

use tokio::{io::AsyncWriteExt, task::spawn_local};
use underpass_core::{
    Reason,
    tls::{RefusedBy, TlsFailure},
};
use underpass_identity::{
    Roots,
    testing::{Leaf, TestCa, now},
};
use underpass_net::{
    testing::{
        ALICE, Application, BOB, Mesh, call, carried, charge, connect, converse, dated, echo, last_word, raw, request,
        run, talk, until,
    },
    tunnel::{Ended, Tunnel, TunnelEnd},
};

const CAROL: &str = "spiffe://cluster.local/ns/default/sa/carol";
const FOREIGN: &str = "spiffe://elsewhere.org/ns/default/sa/alice";

/// Why TLS failed, whose word must be `expect`.
fn refused(ended: &Ended, expect: &str) -> TlsFailure {
    let Ended::Tunnel(TunnelEnd::Tls(failure)) = ended else { panic!("{expect}: {ended:?}") };
    let reason = Reason::Tls(failure.clone());
    assert_eq!(reason.as_str(), expect, "{failure}");
    failure.clone()
}

#[test]
fn a_server_of_another_identity_gets_nothing() {
    let two = Leaf { uris: vec![BOB.to_owned(), CAROL.to_owned()], ..Leaf::of(BOB) };
    let none = Leaf { uris: Vec::new(), ..Leaf::of(BOB) };
    let nameless = "spiffe:///ns/default/sa/bob";
    for (leaf, expect, found) in [
        (Leaf::of(CAROL), "tls_unexpected_identity", Some(CAROL)),
        (dated(BOB, -100, -10), "tls_certificate_expired", None),
        (dated(BOB, 10, 100), "tls_certificate_not_yet_valid", None),
        (two, "tls_several_uri_sans", None),
        (none, "tls_no_uri_san", None),
        (Leaf::of(nameless), "tls_not_an_identity", Some(nameless)),
        (Leaf { server_auth: false, ..Leaf::of(BOB) }, "tls_wrong_purpose", None),
    ] {
        run(async {
            let mesh = Mesh::new();
            let server = forged(&mesh, &mesh.ca, &leaf).await;
            let tunnel = mesh.tunnel(server);
            let mut call = call(&tunnel, "10.0.0.1:80").await;
            call.app.write_all(b"secret").await.expect("sent");
            assert!(last_word(&mut call.app).await.is_some(), "{expect}: reset");
            let failure = refused(&call.ended().await, expect);
            assert_eq!((failure.refusal().by(), failure.found()), (RefusedBy::Us, found), "{expect}");
            assert_eq!(failure.expected(), Some(BOB), "{expect}");
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
        assert_eq!(refused(&ended, "tls_unknown_issuer").found(), None, "not proved by a root of ours");
    });
}

/// A server that shows any certificate, and would take any client.
async fn forged(mesh: &Mesh, ca: &TestCa, leaf: &Leaf) -> std::net::SocketAddr {
    let acceptor = crate::peer::Tls::new(ca, leaf).acceptor();
    let application = Application::new("127.0.0.1:0").await;
    let (address, _) = (application.address, mesh);
    spawn_local(async move {
        let socket = application.accept().await;
        let accepted = acceptor.accept(socket).await;
        assert!(accepted.is_err(), "the client has to refuse");
    });
    address
}

#[test]
fn a_client_of_another_mesh_is_not_served() {
    let for_servers = Leaf { client_auth: false, ..Leaf::of(ALICE) };
    for (ca, leaf, expect, told, found) in [
        (Some("root"), Leaf::of(ALICE), "tls_unknown_issuer", "tls_alert_unknown_ca", None),
        (None, Leaf::of(FOREIGN), "tls_other_trust_domain", "tls_alert_certificate_unknown", Some(FOREIGN)),
        (None, dated(ALICE, -100, -10), "tls_certificate_expired", "tls_alert_certificate_expired", None),
        (None, dated(ALICE, 10, 100), "tls_certificate_not_yet_valid", "tls_alert_certificate_expired", None),
        (None, for_servers, "tls_wrong_purpose", "tls_alert_certificate_unknown", None),
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
            let at_client = refused(&call.ended().await, told);
            assert_eq!(at_client.to_string(), format!("peer refused: {}", &told["tls_alert_".len()..]), "{expect}");
            assert_eq!((at_client.refusal().by(), at_client.expected()), (RefusedBy::Peer, None), "{expect}");
            let at_server = refused(&Ended::Tunnel(server.ended().await), expect);
            assert_eq!((at_server.refusal().by(), at_server.found()), (RefusedBy::Us, found), "{expect}");
            assert_eq!(at_server.expected(), Some("trust domain cluster.local"), "{expect}");
            assert_eq!(server.unauthenticated(), 0, "{expect}: its slot is free");
        });
    }
}

#[test]
fn a_tunnel_goes_away_when_a_certificate_expires_and_ends_with_its_streams() {
    for (client_s, server_s) in [(1, 3_600), (3_600, 1)] {
        run(async {
            let mut mesh = Mesh::new();
            mesh.alice = mesh.ca.credential(&dated(ALICE, -10, client_s));
            mesh.bob = mesh.ca.credential(&dated(BOB, -10, server_s));
            let server = mesh.serve_applications().await;
            let tunnel = mesh.tunnel(server.address);
            let stream = tunnel.open(&request(echo("127.0.0.1:0").await)).expect("opened");
            let mut app = carried(stream).await;
            talk(&mut app).await;
            mesh.clock.set(now() + Duration::from_secs(1));
            let later = now() - Duration::from_secs(1); // so that the clock alone does not close it
            until("it takes no more", || !tunnel.can_open(later)).await;
            talk(&mut app).await;
            assert!(!tunnel.has_ended(), "what is open goes on");
            assert_eq!(converse(&mut app, b"the end").await.expect("answered"), b"the end");
            assert_eq!(server.ended().await, TunnelEnd::Closed);
            until("both ends have ended", || tunnel.has_ended()).await;
        });
    }
}

#[test]
fn a_peer_in_its_handshake_while_the_roots_change_is_verified_by_the_new_ones() {
    let next = TestCa::new("next");
    run(async {
        // At the client.
        let mesh = Mesh::new();
        let server = mesh.serve_applications().await;
        let target = echo("127.0.0.1:0").await;
        let tunnel = mesh.tunnel(server.address);
        let call = call(&tunnel, target).await;
        tunnel.verify_again(&next.roots(2), now());
        assert_eq!(call.ended().await, Ended::Tunnel(TunnelEnd::Distrusted));
    });
    for removed in [true, false] {
        run(async {
            // At the server, where CONNECT may come with the last word of the handshake.
            let mesh = Mesh::new();
            let accept = move |accepted| {
                assert!(!removed, "nothing may be asked for");
                spawn_local(connect(accepted));
            };
            let server = mesh.serve(accept).await;
            let (removed_root, socket) = (next.roots(2), raw(server.address).await);
            until("the server has accepted it", || !server.tunnels.borrow().is_empty()).await;
            let both = Roots::new(2, vec![mesh.ca.root(), next.root()]).expect("bundle");
            server.tunnel().verify_again(if removed { &removed_root } else { &both }, now());
            let charge = charge(&mesh.memory);
            let tunnel =
                Tunnel::client(socket.into(), &mesh.client(), &mesh.settings, &mesh.buffers, charge).expect("begun");
            let mut call = call(&tunnel, echo("127.0.0.1:0").await).await;
            if removed {
                assert_eq!(server.ended().await, TunnelEnd::Distrusted);
                assert!(matches!(call.ended().await, Ended::Tunnel(_) | Ended::Unprocessed));
            } else {
                assert_eq!(converse(&mut call.app, b"hello").await.expect("answered"), b"hello");
            }
        });
    }
}
