//! What an application may do to its connection, seen from the other end: bytes, half-closes, resets.

use std::{
    io::{self, ErrorKind},
    rc::Rc,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::spawn_local,
};
use underpass_hbone::{ErrorCode, Headers};
use underpass_net::tunnel::{Ended, Tunnel, TunnelEnd};

use underpass_net::testing::{
    Application, Call, Mesh, Server, call, connect, converse, echo, last_word, pattern, reset, run, until,
};

/// What applications send at a time where they send much.
const BLOCK: usize = 64 << 10;
const RESET: Option<ErrorKind> = Some(ErrorKind::ConnectionReset);

/// Both ends, and a connection between two applications.
async fn connected(mesh: &Mesh) -> (Tunnel, Server, Call, TcpStream) {
    let (tunnel, server) = mesh.pair().await;
    let application = Application::new("127.0.0.1:0").await;
    let mut call = call(&tunnel, application.address).await;
    let mut app = application.accept().await;
    // The application accepts before the tunnel knows that it has.
    app.write_u8(b'!').await.expect("sent");
    assert_eq!(call.app.read_u8().await.expect("heard"), b'!');
    (tunnel, server, call, app)
}

#[test]
fn what_is_sent_comes_back() {
    for at in ["127.0.0.1:0", "[::1]:0"] {
        run(async {
            let mesh = Mesh::new();
            let accept = Rc::new(|accepted| drop(spawn_local(connect(accepted))));
            let server = Server::new(&mesh, mesh.server(), at, accept).await;
            let tunnel = mesh.tunnel(server.address);
            let target = echo(at).await;
            for size in [0, 1, 255, 16_384, 65_535, 65_536, 65_537, 1_000_000, 5_000_000] {
                let mut call = call(&tunnel, target).await;
                let answer = converse(&mut call.app, &pattern(size)).await.expect("answered");
                assert!(answer == pattern(size), "{size} bytes at {at}");
                assert_eq!(call.ended().await, Ended::Finished);
            }
            until("no stream is left", || tunnel.open_streams() + server.tunnel().open_streams() == 0).await;
        });
    }
}

#[test]
fn keys_change_under_way() {
    run(async {
        let mesh = Mesh::with_short_lived_keys();
        let (tunnel, _server) = mesh.pair().await;
        let target = echo("127.0.0.1:0").await;
        for size in [1, 20_000_000] {
            let mut call = call(&tunnel, target).await;
            assert!(converse(&mut call.app, &pattern(size)).await.expect("answered") == pattern(size));
            assert_eq!(call.ended().await, Ended::Finished);
        }
        let mut call = call(&tunnel, target).await;
        for byte in 0..500_u32 {
            call.app.write_u8(byte as u8).await.expect("sent");
            assert_eq!(call.app.read_u8().await.expect("heard"), byte as u8);
        }
    });
}

#[test]
fn either_end_may_finish_first() {
    run(async {
        let mesh = Mesh::new();
        for client_first in [true, false] {
            let (_tunnel, _server, mut call, mut app) = connected(&mesh).await;
            let (first, second) = if client_first { (&mut call.app, &mut app) } else { (&mut app, &mut call.app) };
            let mut read = Vec::new();
            first.write_all(b"question").await.expect("sent");
            first.shutdown().await.expect("ended");
            second.read_to_end(&mut read).await.expect("the end of the question");
            assert_eq!(read, b"question");
            second.write_all(&pattern(300_000)).await.expect("sent long after");
            second.shutdown().await.expect("ended");
            read.clear();
            first.read_to_end(&mut read).await.expect("the answer");
            assert!(read == pattern(300_000));
            assert_eq!(call.ended().await, Ended::Finished);
        }
    });
}

#[test]
fn the_server_may_speak_first() {
    run(async {
        let mesh = Mesh::new();
        let (_tunnel, _server, mut call, mut app) = connected(&mesh).await;
        app.write_all(b"220 ready").await.expect("sent");
        let mut greeting = [0; 9];
        call.app.read_exact(&mut greeting).await.expect("greeted");
        assert_eq!(&greeting, b"220 ready");
    });
}

#[test]
fn single_bytes_go_back_and_forth() {
    run(async {
        let mesh = Mesh::new();
        let (_tunnel, _server, mut call, mut app) = connected(&mesh).await;
        for byte in 0..2_000_u32 {
            let byte = byte as u8;
            call.app.write_u8(byte).await.expect("sent");
            assert_eq!(app.read_u8().await.expect("heard"), byte);
            app.write_u8(!byte).await.expect("sent");
            assert_eq!(call.app.read_u8().await.expect("heard"), !byte);
        }
        // And many that are not read until the end.
        let write = async {
            for _ in 0..20_000 {
                call.app.write_u8(7).await.expect("sent");
            }
            call.app.shutdown().await.expect("ended");
        };
        let mut all = Vec::new();
        let (_, read) = tokio::join!(write, app.read_to_end(&mut all));
        assert_eq!(read.expect("all of them"), 20_000);
    });
}

/// The state of the two when one of them resets its connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Doing {
    Nothing,
    /// The one who resets has ended its half before.
    Ended,
    /// The other has ended its half before.
    OtherEnded,
    /// Neither end reads, and the one that resets has sent until nothing more went.
    Sent,
    /// The same of both.
    Stalled,
}

#[test]
fn a_reset_is_never_an_end() {
    for doing in [Doing::Nothing, Doing::Ended, Doing::OtherEnded, Doing::Sent, Doing::Stalled] {
        for client in [true, false] {
            run(async {
                let mesh = Mesh::new();
                let (tunnel, server, Call { app: near, ended }, far) = connected(&mesh).await;
                let (mut mine, mut other) = if client { (near, far) } else { (far, near) };
                match doing {
                    Doing::Nothing => {}
                    Doing::Ended => {
                        mine.shutdown().await.expect("ended");
                        assert_eq!(last_word(&mut other).await, None);
                    }
                    Doing::OtherEnded => {
                        other.shutdown().await.expect("ended");
                        assert_eq!(last_word(&mut mine).await, None);
                    }
                    Doing::Sent => {
                        let receives = if client { server.tunnel() } else { tunnel.clone() };
                        until("it is stalled", || fill(&mine).is_err() && receives.queued().input >= 200_000).await;
                    }
                    Doing::Stalled => {
                        let far = server.tunnel();
                        until("both are stalled", || {
                            fill(&mine).is_err()
                                && fill(&other).is_err()
                                && [&tunnel, &far].iter().all(|t| t.queued().input >= 200_000)
                        })
                        .await;
                    }
                }
                reset(mine);
                let expect = if client { Ended::AppReset } else { Ended::PeerReset(ErrorCode::CONNECT_ERROR) };
                assert_eq!(ended.await.expect("no panic"), expect, "{doing:?}");
                if doing == Doing::Ended {
                    // It has read the end already; the reset is seen by writing.
                    until("writing fails", || other.try_write(b"?").is_err_and(|e| e.kind() != ErrorKind::WouldBlock))
                        .await;
                } else {
                    assert_eq!(last_word(&mut other).await, RESET, "{doing:?}, client {client}");
                }
                until("no stream is left", || tunnel.open_streams() + server.tunnel().open_streams() == 0).await;
                let left = [tunnel.queued(), server.tunnel().queued()];
                assert!(left.iter().all(|q| q.input + q.output == 0), "{left:?}");
            });
        }
    }
}

/// Writes until nothing more goes.
fn fill(app: &TcpStream) -> io::Result<()> {
    let block = [7; BLOCK];
    while app.try_write(&block)? > 0 {}
    Ok(())
}

#[test]
fn bytes_sent_before_a_reset_arrive() {
    run(async {
        let mesh = Mesh::new();
        for (client, stalled) in [(true, false), (false, false), (true, true), (false, true)] {
            let (tunnel, server, Call { app: near, ended }, far) = connected(&mesh).await;
            let receives = if client { tunnel } else { server.tunnel() };
            let (mut mine, mut other) = if client { (near, far) } else { (far, near) };
            // It answers and closes, and does not care for what it has not read.
            other.write_all(&pattern(BLOCK)).await.expect("sent");
            if stalled {
                until("more waits than it takes", || fill(&other).is_err() && receives.queued().input > 0).await;
            }
            mine.readable().await.expect("there it is");
            mine.write_all(b"too large").await.expect("said");
            drop(mine);
            let mut said = [0; 9];
            other.read_exact(&mut said).await.expect("heard");
            assert_eq!(&said, b"too large");
            assert_eq!(last_word(&mut other).await, RESET);
            assert_ne!(ended.await.expect("no panic"), Ended::Finished);
        }
    });
}

#[test]
fn a_refusal_is_told_and_resets() {
    for status in [400, 401, 503] {
        run(async {
            let mesh = Mesh::new();
            let server = mesh.serve(move |accepted| accepted.stream.respond(status, &Headers::new())).await;
            let tunnel = mesh.tunnel(server.address);
            // With and without something that came before the answer.
            for early in [0, 10, 200_000] {
                let mut call = call(&tunnel, "10.0.0.1:80").await;
                // It may be refused while it still sends.
                let _ = call.app.write_all(&pattern(early)).await;
                assert_eq!(last_word(&mut call.app).await, RESET, "{early} early bytes");
                assert_eq!(call.ended().await, Ended::Refused(status));
            }
            until("no stream is left", || tunnel.open_streams() + server.tunnel().open_streams() == 0).await;
        });
    }
}

#[test]
fn an_answer_that_came_first_stays() {
    run(async {
        let mesh = Mesh::new();
        let server = mesh
            .serve(|accepted| {
                accepted.stream.respond(200, &Headers::new());
                accepted.stream.respond(401, &Headers::new());
                accepted.stream.reset(ErrorCode::CONNECT_ERROR);
            })
            .await;
        let tunnel = mesh.tunnel(server.address);
        let mut call = call(&tunnel, "10.0.0.1:80").await;
        assert_eq!(last_word(&mut call.app).await, RESET);
        assert_eq!(call.ended().await, Ended::PeerReset(ErrorCode::CONNECT_ERROR));
    });
}

#[test]
fn a_stream_that_is_dropped_unanswered_is_reset() {
    run(async {
        let mesh = Mesh::new();
        let server = mesh.serve(drop).await;
        let tunnel = mesh.tunnel(server.address);
        let mut call = call(&tunnel, "10.0.0.1:80").await;
        assert_eq!(last_word(&mut call.app).await, RESET);
        assert_eq!(call.ended().await, Ended::PeerReset(ErrorCode::CANCEL));
    });
}

#[test]
fn the_end_of_a_tunnel_resets_what_it_carries() {
    run(async {
        let mesh = Mesh::new();
        for client in [true, false] {
            let (tunnel, server, mut call, mut app) = connected(&mesh).await;
            if client {
                tunnel.end(TunnelEnd::Drained)
            } else {
                server.tunnel().end(TunnelEnd::Drained)
            }
            assert_eq!(last_word(&mut call.app).await, RESET);
            assert_eq!(last_word(&mut app).await, RESET);
            let (near, far) = (call.ended().await, server.ended().await);
            let (own, other) = if client { (near, Ended::Tunnel(far)) } else { (Ended::Tunnel(far), near) };
            assert_eq!((own, other), (Ended::Tunnel(TunnelEnd::Drained), Ended::Tunnel(TunnelEnd::Closed)));
        }
    });
}

#[test]
fn a_finished_half_is_delivered_also_after_the_tunnel_ended() {
    run(async {
        let mesh = Mesh::new();
        let (tunnel, server, mut call, mut app) = connected(&mesh).await;
        app.shutdown().await.expect("ended");
        // More than the application's socket takes: the rest waits in the stream. A round trip beside it each time shows
        // that it is there.
        let mut beside = self::call(&tunnel, echo("127.0.0.1:0").await).await;
        let mut size = 0;
        while server.tunnel().queued().input == 0 {
            call.app.write_all(&pattern(BLOCK)).await.expect("sent");
            size += BLOCK;
            beside.app.write_u8(1).await.expect("sent");
            beside.app.read_u8().await.expect("heard");
        }
        call.app.shutdown().await.expect("ended");
        assert_eq!(call.ended().await, Ended::Finished);
        tunnel.end(TunnelEnd::Closed);
        assert_eq!(server.ended().await, TunnelEnd::Closed);
        let mut read = Vec::new();
        app.read_to_end(&mut read).await.expect("all of it, and the end");
        assert!(read == pattern(BLOCK).repeat(size / BLOCK));
    });
}
