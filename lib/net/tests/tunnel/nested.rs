//! A tunnel in a stream of another one: through a gateway, which sees the outer CONNECT and ciphertext.

use std::{io::ErrorKind, net::SocketAddr, rc::Rc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::spawn_local,
};
use underpass_core::{Identities, Reason};
use underpass_hbone::{ErrorCode, Headers};
use underpass_identity::testing::Leaf;
use underpass_net::tunnel::{Accepted, ByteStream, Ended, Tunnel, TunnelEnd};

use underpass_net::testing::{
    Application, Call, Mesh, Server, call, charge, converse, echo, id, last_word, pattern, request, reset, run, until,
};

const GATEWAY: &str = "spiffe://cluster.local/ns/gateways/sa/east";

/// Where the inner tunnel leads to, by the name that the gateway knows.
const NAME: &str = "bob.far.mesh:15008";

/// A gateway that leads to `next`, and refuses every other name.
async fn gateway(mesh: &Mesh, next: SocketAddr) -> Server {
    let tls = mesh.server_of(&mesh.ca.credential(&Leaf::of(GATEWAY)), &mesh.ca.roots(1));
    let accept = Rc::new(move |Accepted { stream, request, .. }: Accepted| {
        drop(spawn_local(async move {
            if request.authority != NAME.as_bytes() {
                return stream.respond(404, &Headers::new());
            }
            let socket = TcpStream::connect(next).await.expect("next hop");
            stream.respond(200, &Headers::new());
            let (mut bytes, mut socket) = (ByteStream::from(stream), socket);
            // Fails where either end is gone; then both are.
            let _ = tokio::io::copy_bidirectional(&mut bytes, &mut socket).await;
        }));
    });
    Server::new(mesh, tls, "127.0.0.1:0", accept).await
}

/// Alice's tunnel to bob, in a stream of her tunnel to the gateway.
fn nested(mesh: &Mesh, outer: &Tunnel, name: &str) -> Tunnel {
    let stream = outer.open(&request(name)).expect("opened");
    Tunnel::client(stream.into(), &mesh.client(), &mesh.settings, &mesh.buffers, charge(&mesh.memory)).expect("begun")
}

/// Alice's tunnel to the gateway.
fn outer(mesh: &Mesh, to: SocketAddr) -> Tunnel {
    mesh.tunnel_with(to, &mesh.client_to(&Identities::from(id(GATEWAY))))
}

#[test]
fn the_inner_end_is_the_one_that_proves_who_it_is() {
    for short_lived_keys in [false, true] {
        run(async {
            let mesh = if short_lived_keys { Mesh::with_short_lived_keys() } else { Mesh::new() };
            let bob = mesh.serve_applications().await;
            let gateway = gateway(&mesh, bob.address).await;
            let outer = outer(&mesh, gateway.address);
            let inner = nested(&mesh, &outer, NAME);
            let target = echo("127.0.0.1:0").await;
            for size in [0, 1, 255, 65_537, 3_000_000] {
                let mut call = call(&inner, target).await;
                let answer = converse(&mut call.app, &pattern(size)).await.expect("answered");
                assert!(answer == pattern(size), "{size} bytes");
                assert_eq!(call.ended().await, Ended::Finished);
            }
            let peers = [&outer, &inner].map(|tunnel| tunnel.peer().expect("known").identity.uri().to_owned());
            assert_eq!(peers, [GATEWAY, underpass_net::testing::BOB]);
            assert_eq!(outer.open_streams(), 1);
            // Its end is the end of the stream, not of the outer tunnel.
            inner.drain();
            inner.closed().await;
            assert_eq!(bob.ended().await, TunnelEnd::Closed);
            until("the stream is gone", || outer.open_streams() == 0).await;
            assert!(!outer.has_ended());
            drop((inner, outer));
            until("nothing is held", || mesh.share.used() == 0).await;
        });
    }
}

#[test]
fn many_streams_share_it() {
    run(async {
        let mesh = Mesh::new();
        let bob = mesh.serve_applications().await;
        let gateway = gateway(&mesh, bob.address).await;
        let outer = outer(&mesh, gateway.address);
        let inner = nested(&mesh, &outer, NAME);
        let target = echo("127.0.0.1:0").await;
        let mut calls = Vec::new();
        for _ in 0..50 {
            let mut call = call(&inner, target).await;
            calls.push(spawn_local(async move {
                assert!(converse(&mut call.app, &pattern(200_000)).await.expect("answered") == pattern(200_000));
                assert_eq!(call.ended().await, Ended::Finished);
            }));
        }
        for call in calls {
            call.await.expect("no panic");
        }
        assert_eq!(outer.open_streams(), 1);
    });
}

#[test]
fn a_reset_passes_through() {
    run(async {
        let mesh = Mesh::new();
        let bob = mesh.serve_applications().await;
        let gateway = gateway(&mesh, bob.address).await;
        let inner = nested(&mesh, &outer(&mesh, gateway.address), NAME);
        let application = Application::new("127.0.0.1:0").await;
        let mut called = call(&inner, application.address).await;
        let mut app = application.accept().await;
        // The application accepts before the tunnel knows that it has.
        app.write_u8(b'!').await.expect("sent");
        assert_eq!(called.app.read_u8().await.expect("heard"), b'!');
        reset(app);
        assert_eq!(last_word(&mut called.app).await, Some(ErrorKind::ConnectionReset));
        assert_eq!(called.ended().await, Ended::PeerReset(ErrorCode::CONNECT_ERROR));
        let called = call(&inner, application.address).await;
        let mut app = application.accept().await;
        reset(called.app);
        assert_eq!(last_word(&mut app).await, Some(ErrorKind::ConnectionReset));
    });
}

#[test]
fn a_failure_of_the_carrier_is_the_reason_of_the_inner_tunnel() {
    run(async {
        let mesh = Mesh::new();
        let bob = mesh.serve_applications().await;
        let gateway = gateway(&mesh, bob.address).await;
        let target = echo("127.0.0.1:0").await;
        let check = async |mut called: Call, carrier: Ended, reason: Reason| {
            assert!(last_word(&mut called.app).await.is_some(), "reset, not ended");
            let end = TunnelEnd::Carrier(Box::new(carrier));
            assert_eq!(end.reason(), reason);
            assert_eq!(called.ended().await, Ended::Tunnel(end));
        };
        // The gateway does not know the name.
        let outer = outer(&mesh, gateway.address);
        let called = call(&nested(&mesh, &outer, "eve.far.mesh:15008"), target).await;
        check(called, Ended::Refused(404), Reason::Refused(404)).await;
        // The gateway has another identity, and so gets no stream.
        let stranger = mesh.tunnel(gateway.address);
        let inner = nested(&mesh, &stranger, NAME);
        let mut called = call(&inner, target).await;
        assert!(last_word(&mut called.app).await.is_some());
        assert!(matches!(called.ended().await, Ended::Tunnel(TunnelEnd::Carrier(_))));
        // The outer tunnel ends under way.
        let inner = nested(&mesh, &outer, NAME);
        let mut called = call(&inner, target).await;
        called.app.write_u8(b'!').await.expect("sent");
        assert_eq!(called.app.read_u8().await.expect("answered"), b'!');
        outer.end(TunnelEnd::Drained);
        check(called, Ended::Tunnel(TunnelEnd::Drained), Reason::Drain).await;
    });
}

#[test]
fn a_stranger_behind_the_gateway_is_refused() {
    run(async {
        let mesh = Mesh::new();
        // Whom the gateway leads to is the gateway itself, not bob.
        let bob = mesh.serve_applications().await;
        let wrong = gateway(&mesh, bob.address).await;
        let gateway = gateway(&mesh, wrong.address).await;
        let inner = nested(&mesh, &outer(&mesh, gateway.address), NAME);
        let mut called = call(&inner, "10.0.0.1:80").await;
        assert!(last_word(&mut called.app).await.is_some(), "reset, not ended");
        let ended = called.ended().await;
        assert!(matches!(&ended, Ended::Tunnel(TunnelEnd::Tls(_))), "{ended:?}");
    });
}
