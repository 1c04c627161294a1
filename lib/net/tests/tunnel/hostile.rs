//! Peers that are absent, silent, or send nonsense at every layer.

use std::{io::ErrorKind, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use underpass_core::Reason;
use underpass_hbone::ErrorCode;
use underpass_identity::testing::{Leaf, now};
use underpass_net::tunnel::{Ended, TunnelEnd};

use crate::peer::Tls;
use underpass_net::testing::{ALICE, Application, BOB, Mesh, call, converse, echo, last_word, raw, reset, run, until};

#[test]
fn a_peer_without_a_listener_is_unreachable() {
    run(async {
        let mesh = Mesh::new();
        let free = TcpListener::bind("127.0.0.1:0").await.expect("bound").local_addr().expect("name");
        let tunnel = mesh.tunnel(free);
        let mut call = call(&tunnel, "10.0.0.1:80").await;
        assert!(last_word(&mut call.app).await.is_some());
        let end = TunnelEnd::Unreachable(ErrorKind::ConnectionRefused);
        assert_eq!(end.reason(), Reason::Unreachable);
        assert_eq!(call.ended().await, Ended::Tunnel(end));
        assert!(tunnel.has_ended() && !tunnel.can_open(now()));
    });
}

#[test]
fn a_server_that_says_nothing_is_not_waited_for() {
    run(async {
        let mut mesh = Mesh::new();
        mesh.settings.handshake = Duration::from_millis(50);
        let silent = Application::new("127.0.0.1:0").await;
        let tunnel = mesh.tunnel(silent.address);
        let call = call(&tunnel, "10.0.0.1:80").await;
        assert_eq!(call.ended().await, Ended::Tunnel(TunnelEnd::Timeout));
    });
}

#[test]
fn a_tunnel_may_be_ended_while_it_begins() {
    run(async {
        let mesh = Mesh::new();
        let silent = Application::new("127.0.0.1:0").await;
        let tunnel = mesh.tunnel(silent.address);
        let call = call(&tunnel, "10.0.0.1:80").await;
        tunnel.end(TunnelEnd::Drained);
        assert_eq!(call.ended().await, Ended::Tunnel(TunnelEnd::Drained));
    });
}

#[test]
fn a_client_that_never_proves_who_it_is_loses_its_slot() {
    run(async {
        let mut mesh = Mesh::new();
        mesh.settings.handshake = Duration::from_millis(50);
        let server = mesh.serve_applications().await;
        // Without a byte, without the end of the handshake.
        let mut socket = raw(server.address).await;
        assert_eq!(server.ended().await, TunnelEnd::Timeout);
        assert_eq!(last_word(&mut socket).await, None, "closed");
        let mut socket = raw(server.address).await;
        socket.write_all(&[22, 3, 1, 1, 0, 1]).await.expect("sent");
        assert_eq!(server.ended().await, TunnelEnd::Timeout);
        assert_eq!(server.unauthenticated(), 0);
    });
}

#[test]
fn a_client_that_proved_who_it_is_needs_no_slot() {
    // One whose tunnel is in use, and one that has opened it before it is needed.
    for asks in [true, false] {
        run(async {
            let mut mesh = Mesh::new();
            mesh.settings.handshake = Duration::from_millis(500);
            let server = mesh.serve_applications().await;
            let (tunnel, target) = (mesh.tunnel(server.address), echo("127.0.0.1:0").await);
            let mut first = None;
            if asks {
                let mut call = call(&tunnel, target).await;
                call.app.write_u8(1).await.expect("sent");
                assert_eq!(call.app.read_u8().await.expect("heard"), 1);
                first = Some(call);
            }
            until("it is known", || server.tunnels.borrow().first().is_some_and(|tunnel| tunnel.peer().is_some()))
                .await;
            until("its slot is free", || server.unauthenticated() == 0).await;
            // A second one's deadline passes meanwhile; this one's means nothing any more.
            let _socket = raw(server.address).await;
            assert_eq!(server.ended().await, TunnelEnd::Timeout);
            assert!(!tunnel.has_ended());
            let mut call = match first {
                Some(call) => call,
                None => call(&tunnel, target).await,
            };
            assert_eq!(converse(&mut call.app, b"still").await.expect("answered"), b"still");
        });
    }
}

#[test]
fn nonsense_instead_of_tls() {
    let hello = [22, 3, 1, 0, 40, 1, 0, 0, 36, 3, 3];
    for (what, bytes, expect) in [
        ("nothing", &[][..], "tunnel_closed"),
        ("a truncated hello", &hello, "tunnel_closed"),
        ("plain HTTP", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", "tls_protocol"),
        ("plain HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "tls_protocol"),
        ("zeros", &[0; 100], "tls_protocol"),
    ] {
        run(async {
            let mesh = Mesh::new();
            let server = mesh.serve(|_| panic!("nothing may be asked for")).await;
            let mut socket = raw(server.address).await;
            socket.write_all(bytes).await.expect("sent");
            socket.shutdown().await.expect("ended");
            assert_eq!(server.ended().await.reason().as_str(), expect, "{what}");
            assert_eq!(server.unauthenticated(), 0, "{what}");
            last_word(&mut socket).await;
        });
    }
    run(async {
        let mesh = Mesh::new();
        let server = mesh.serve(|_| panic!("nothing may be asked for")).await;
        reset(raw(server.address).await);
        assert_eq!(server.ended().await, TunnelEnd::Broken(ErrorKind::ConnectionReset));
    });
}

#[test]
fn nonsense_instead_of_http2() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let framed = |bytes: &[u8]| [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0], bytes].concat();
    for (what, bytes, expect) in [
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nhost: example\r\n\r\n".to_vec(), ErrorCode::PROTOCOL_ERROR),
        (
            "no SETTINGS",
            [PREFACE, &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]].concat(),
            ErrorCode::PROTOCOL_ERROR,
        ),
        ("a huge frame", framed(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]), ErrorCode::FRAME_SIZE_ERROR),
        ("HPACK nonsense", framed(&[0, 0, 1, 1, 5, 0, 0, 0, 1, 0xff]), ErrorCode::COMPRESSION_ERROR),
        ("DATA on nothing", framed(&[0, 0, 1, 0, 0, 0, 0, 0, 1, 7]), ErrorCode::PROTOCOL_ERROR),
    ] {
        run(async {
            let mesh = Mesh::new();
            let server = mesh.serve(|_| panic!("nothing may be asked for")).await;
            let tls = Tls::new(&mesh.ca, &Leaf::of(ALICE));
            let mut socket = tls.connect(raw(server.address).await).await.expect("handshake");
            socket.write_all(&bytes).await.expect("sent");
            assert_eq!(server.ended().await, TunnelEnd::Protocol(expect), "{what}");
            // GOAWAY is the last frame, and close_notify follows.
            let mut said = Vec::new();
            socket.read_to_end(&mut said).await.expect("an orderly end");
            let goaway = &said[said.len() - 17..];
            assert_eq!((goaway[3], goaway[16]), (7, expect.0 as u8), "{what}: {said:?}");
        });
    }
}

#[test]
fn a_client_without_h2_is_refused() {
    run(async {
        let mesh = Mesh::new();
        let server = mesh.serve(|_| panic!("nothing may be asked for")).await;
        let mut tls = Tls::new(&mesh.ca, &Leaf::of(ALICE));
        tls.alpn = b"http/1.1".to_vec();
        assert!(tls.connect(raw(server.address).await).await.is_err());
        let end = server.ended().await;
        assert_eq!(end.to_string(), "tls_no_common_protocol: the peer did not agree to speak h2");
    });
}

#[test]
fn nonsense_from_a_server() {
    for (what, bytes, expect) in [
        ("an end", &b""[..], TunnelEnd::Closed),
        ("HTTP/1.1", b"HTTP/1.1 400 Bad Request\r\n\r\n", TunnelEnd::Protocol(ErrorCode::PROTOCOL_ERROR)),
        (
            "an answer to nothing",
            &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 1, 4, 0, 0, 0, 9, 0x88],
            TunnelEnd::Protocol(ErrorCode::PROTOCOL_ERROR),
        ),
    ] {
        run(async {
            let mesh = Mesh::new();
            let application = Application::new("127.0.0.1:0").await;
            let tunnel = mesh.tunnel(application.address);
            let call = call(&tunnel, "10.0.0.1:80").await;
            let tls = Tls::new(&mesh.ca, &Leaf::of(BOB));
            let mut socket = tls.accept(application.accept().await).await;
            socket.write_all(bytes).await.expect("sent");
            socket.shutdown().await.expect("closed");
            assert_eq!(call.ended().await, Ended::Tunnel(expect), "{what}");
        });
    }
}

#[test]
fn a_peer_that_vanishes() {
    for with_reset in [true, false] {
        run(async {
            let mesh = Mesh::new();
            let application = Application::new("127.0.0.1:0").await;
            let tunnel = mesh.tunnel(application.address);
            let mut call = call(&tunnel, "10.0.0.1:80").await;
            let tls = Tls::new(&mesh.ca, &Leaf::of(BOB));
            let socket = tls.accept(application.accept().await).await;
            let (socket, _) = socket.into_inner();
            if with_reset {
                reset(socket);
            } else {
                drop(socket); // without close_notify
            }
            assert_eq!(last_word(&mut call.app).await, Some(ErrorKind::ConnectionReset));
            let ended = call.ended().await;
            assert!(matches!(ended, Ended::Tunnel(TunnelEnd::Broken(_))), "{ended:?}");
        });
    }
}

#[test]
fn a_goaway_is_read_also_where_writing_failed_first() {
    run(async {
        let mesh = Mesh::new();
        // Reading and writing fail at once; which comes first is chance.
        for _ in 0..30 {
            let application = Application::new("127.0.0.1:0").await;
            let tunnel = mesh.tunnel(application.address);
            let mut call = call(&tunnel, "10.0.0.1:80").await;
            let tls = Tls::new(&mesh.ca, &Leaf::of(BOB));
            let mut socket = tls.accept(application.accept().await).await;
            socket.read_exact(&mut [0; 24]).await.expect("a preface");
            // SETTINGS, and a GOAWAY that names no stream as seen.
            let words = [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            call.app.write_all(b"more").await.expect("sent");
            socket.write_all(&words).await.expect("sent");
            socket.flush().await.expect("sent");
            reset(socket.into_inner().0);
            assert_eq!(call.ended().await, Ended::Unprocessed);
        }
    });
}

#[test]
fn a_peer_that_does_not_answer_pings_is_dead() {
    run(async {
        let mut mesh = Mesh::new();
        mesh.settings.hbone.ping_interval = Some(Duration::from_millis(20));
        mesh.settings.hbone.ping_timeout = Duration::from_millis(50);
        let application = Application::new("127.0.0.1:0").await;
        let tunnel = mesh.tunnel(application.address);
        let call = call(&tunnel, "10.0.0.1:80").await;
        let tls = Tls::new(&mesh.ca, &Leaf::of(BOB));
        let _socket = tls.accept(application.accept().await).await;
        assert_eq!(call.ended().await, Ended::Tunnel(TunnelEnd::Timeout));
    });
}

#[test]
fn an_idle_tunnel_is_closed_and_a_busy_one_is_not() {
    run(async {
        let mut mesh = Mesh::new();
        mesh.settings.idle = Duration::from_millis(100);
        let (tunnel, server) = mesh.pair().await;
        let application = Application::new("127.0.0.1:0").await;
        let mut first = call(&tunnel, application.address).await;
        let mut app = application.accept().await;
        app.write_u8(1).await.expect("sent");
        assert_eq!(first.app.read_u8().await.expect("heard"), 1);
        // Another peer's idle tunnel is closed meanwhile, twice.
        for _ in 0..2 {
            let other = mesh.tunnel(server.address);
            until("the idle one is closed", || other.has_ended()).await;
            assert_eq!(server.ended().await, TunnelEnd::Closed);
        }
        app.write_u8(2).await.expect("sent");
        assert_eq!(first.app.read_u8().await.expect("heard"), 2);
        drop(app);
        assert_eq!(converse(&mut first.app, b"").await.expect("ended"), b"");
        assert_eq!(first.ended().await, Ended::Finished);
        assert_eq!(server.ended().await, TunnelEnd::Closed);
        assert!(tunnel.has_ended());
    });
}
