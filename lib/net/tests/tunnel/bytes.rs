//! Streams as async readers and writers, without a socket at one end or at both.

use std::{
    io::{self, ErrorKind},
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, copy, split},
    sync::mpsc,
    task::spawn_local,
};
use underpass_hbone::{ErrorCode, Headers};
use underpass_net::tunnel::{Accepted, ByteStream, Ended, Response, Tunnel, TunnelEnd};

use crate::{
    foreign::{FIELD, MANNERS, serve},
    memory,
};
use underpass_net::testing::{
    Application, Mesh, Server, carry, converse, echo, last_word, pattern, request, reset, run, tcp_pair, until,
};

/// A tunnel, and its server's end, which hands out what it is asked for.
async fn asked(mesh: &Mesh) -> (Tunnel, Server, mpsc::UnboundedReceiver<Accepted>) {
    let (sender, asked) = mpsc::unbounded_channel();
    let server = mesh.serve(move |accepted| drop(sender.send(accepted))).await;
    (mesh.tunnel(server.address), server, asked)
}

fn open(tunnel: &Tunnel, target: impl ToString) -> ByteStream {
    tunnel.open(&request(target)).expect("opened").into()
}

/// Both ends of one stream, answered.
async fn pair(tunnel: &Tunnel, asked: &mut mpsc::UnboundedReceiver<Accepted>) -> (ByteStream, ByteStream) {
    let near = open(tunnel, "10.0.0.1:80");
    let accepted = asked.recv().await.expect("asked");
    accepted.stream.respond(200, &Headers::new());
    near.response().await.expect("answered");
    (near, accepted.stream.into())
}

/// The end of a stream inside an error.
fn ended(error: &io::Error) -> Ended {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Ended>()).expect("says how the stream ended").clone()
}

/// How reading ends; what is read before means nothing.
async fn read_error(stream: &mut (impl AsyncRead + Unpin)) -> io::Error {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => panic!("the end, and no error"),
            Ok(_) => {}
            Err(error) => return error,
        }
    }
}

#[test]
fn what_is_sent_comes_back_from_an_application() {
    run(async {
        let mesh = Mesh::new();
        let (tunnel, server) = mesh.pair().await;
        let target = echo("127.0.0.1:0").await;
        for size in [0, 1, 255, 16_384, 65_535, 65_536, 65_537, 1_000_000, 5_000_000] {
            let answer = converse(&mut open(&tunnel, target), &pattern(size)).await.expect("answered");
            assert!(answer == pattern(size), "{size} bytes");
        }
        until("no stream is left", || tunnel.open_streams() + server.tunnel().open_streams() == 0).await;
        until("nothing is held", || mesh.share.used() == 0).await;
    });
}

#[test]
fn what_is_sent_comes_back_from_a_program() {
    for short_lived_keys in [false, true] {
        run(async {
            let mesh = if short_lived_keys { Mesh::with_short_lived_keys() } else { Mesh::new() };
            let (tunnel, _server, mut asked) = asked(&mesh).await;
            for size in [0, 1, 65_537, 3_000_000] {
                let (mut near, far) = pair(&tunnel, &mut asked).await;
                let answering = spawn_local(async move {
                    let (mut from, mut to) = split(far);
                    copy(&mut from, &mut to).await.expect("all of it");
                    to.shutdown().await.expect("ended");
                });
                assert!(converse(&mut near, &pattern(size)).await.expect("answered") == pattern(size), "{size} bytes");
                answering.await.expect("no panic");
            }
            until("nothing is held", || mesh.share.used() == 0).await;
        });
    }
}

#[test]
fn with_a_server_of_the_h2_crate() {
    for manner in MANNERS {
        run(async {
            let mesh = Mesh::new();
            let tunnel = mesh.tunnel(serve(&mesh, manner).await);
            for size in [0, 1, 255, 65_535, 400_000] {
                let payload = pattern(if manner.window < 1000 { size.min(5_000) } else { size });
                let answer = converse(&mut open(&tunnel, "10.0.0.1:9080"), &payload).await.expect("answered");
                assert!(answer == payload, "{}: {size} bytes", manner.name);
                until("the stream is gone", || tunnel.open_streams() == 0).await;
            }
        });
    }
}

#[test]
fn the_answer_arrives_with_its_headers() {
    run(async {
        let mesh = Mesh::new();
        let (tunnel, _server, mut asked) = asked(&mesh).await;
        for status in [200, 401, 503] {
            let mut near = open(&tunnel, "10.0.0.1:80");
            let accepted = asked.recv().await.expect("asked");
            let headers = Headers::from_iter([("baggage", "service.name=bob"), ("x", "y")]);
            accepted.stream.respond(status, &headers);
            assert_eq!(near.response().await, Ok(Response { status, headers }));
            assert_eq!(near.response().await, Ok(Response { status, headers: Headers::new() }), "once");
            if status != 200 {
                let refused = read_error(&mut near).await;
                assert_eq!((refused.kind(), ended(&refused)), (ErrorKind::ConnectionRefused, Ended::Refused(status)));
                assert_eq!(near.write_all(b"!").await.expect_err("refused").kind(), ErrorKind::ConnectionRefused);
            }
        }
    });
}

#[test]
fn a_half_ends_by_itself() {
    run(async {
        let mesh = Mesh::new();
        let (tunnel, _server, mut asked) = asked(&mesh).await;
        let (mut near, mut far) = pair(&tunnel, &mut asked).await;
        near.write_all(b"question").await.expect("sent");
        near.shutdown().await.expect("ended");
        near.shutdown().await.expect("ended already");
        assert_eq!(near.write(b"!").await.expect_err("our half has ended").kind(), ErrorKind::BrokenPipe);
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).await.expect("the end");
        assert_eq!(heard, b"question");
        for word in [&b"first"[..], b"second"] {
            far.write_all(word).await.expect("sent");
            let mut answer = vec![0; word.len()];
            near.read_exact(&mut answer).await.expect("answered");
            assert_eq!(answer, word);
        }
        // What was sent before the end is read after it, also where the tunnel has ended.
        far.write_all(b"last").await.expect("sent");
        far.shutdown().await.expect("ended");
        drop(far);
        until("the stream is gone", || tunnel.open_streams() == 0).await;
        tunnel.end(TunnelEnd::Drained);
        tunnel.closed().await;
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.expect("the end");
        assert_eq!(answer, b"last");
    });
}

#[test]
fn a_reset_is_an_error_and_never_an_end() {
    run(async {
        let mesh = Mesh::new();
        let (tunnel, server) = mesh.pair().await;
        let application = Application::new("127.0.0.1:0").await;
        // Of the application, which is told of ours as well.
        let mut near = open(&tunnel, application.address);
        let app = application.accept().await;
        near.response().await.expect("answered");
        reset(app);
        let error = read_error(&mut near).await;
        let expect = (ErrorKind::ConnectionReset, Ended::PeerReset(ErrorCode::CONNECT_ERROR));
        assert_eq!((error.kind(), ended(&error)), expect);
        assert_eq!(near.write(b"!").await.expect_err("reset").kind(), ErrorKind::ConnectionReset);
        let near = open(&tunnel, application.address);
        let mut app = application.accept().await;
        near.response().await.expect("answered");
        drop(near);
        assert_eq!(last_word(&mut app).await, Some(ErrorKind::ConnectionReset));
        // Of the whole tunnel, for a reader.
        let mut near = open(&tunnel, application.address);
        let _app = application.accept().await;
        near.response().await.expect("answered");
        server.tunnel().end(TunnelEnd::Drained);
        let error = read_error(&mut near).await;
        assert_eq!((error.kind(), ended(&error)), (ErrorKind::ConnectionAborted, Ended::Tunnel(TunnelEnd::Closed)));
    });
}

#[test]
fn a_tunnel_that_ends_is_told_to_those_who_wait_for_an_answer_or_for_room() {
    run(async {
        let mesh = Mesh::new();
        let (tunnel, server, mut asked) = asked(&mesh).await;
        let unanswered = open(&tunnel, "10.0.0.1:80");
        let _held_back = asked.recv().await.expect("asked");
        let mut writer = open(&tunnel, "10.0.0.1:80");
        let ends = async {
            let held_back = asked.recv().await.expect("asked");
            server.tunnel().end(TunnelEnd::Drained);
            held_back
        };
        let payload = pattern(200_000);
        let (answer, written, _held_back_too) = tokio::join!(unanswered.response(), writer.write_all(&payload), ends);
        assert_eq!(answer, Err(Ended::Tunnel(TunnelEnd::Closed)));
        assert_eq!(ended(&written.expect_err("not read")), Ended::Tunnel(TunnelEnd::Closed));
    });
}

#[test]
fn a_client_that_leaves_early_is_a_reset_for_the_other_end() {
    run(async {
        let mesh = Mesh::new();
        let (tunnel, _server, mut asked) = asked(&mesh).await;
        let mut near = open(&tunnel, "10.0.0.1:80");
        let accepted = asked.recv().await.expect("asked");
        accepted.stream.respond(200, &Headers::new());
        let (mut app, socket) = tcp_pair().await;
        let carried = spawn_local(async move { carry(&accepted.stream, socket).await });
        near.shutdown().await.expect("ended");
        app.read_to_end(&mut Vec::new()).await.expect("the end of the question");
        app.write_all(b"half of the answer").await.expect("sent");
        let mut half = [0; 18];
        near.read_exact(&mut half).await.expect("heard");
        drop(near);
        assert_eq!(carried.await.expect("no panic"), Ended::PeerReset(ErrorCode::CANCEL));
    });
}

#[test]
fn a_program_that_has_answered_does_not_cut_off_its_client() {
    run(async {
        let mesh = Mesh::new();
        let (tunnel, _server, mut asked) = asked(&mesh).await;
        let (mut near, mut far) = pair(&tunnel, &mut asked).await;
        // It ends its half and leaves, while the other end has read nothing of it.
        far.write_all(&pattern(100_000)).await.expect("sent");
        far.shutdown().await.expect("ended");
        drop(far);
        until("we know", || near.try_write(b"!").is_err_and(|error| error.kind() == ErrorKind::BrokenPipe)).await;
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.expect("all of it, and the end");
        assert!(answer == pattern(100_000));
    });
}

#[test]
fn bytes_before_the_answer_are_64_kib() {
    run(async {
        let mesh = Mesh::new();
        let (tunnel, _server, mut asked) = asked(&mesh).await;
        // Before the peer has told its window, that of the protocol counts, which is smaller by one byte.
        let _known = pair(&tunnel, &mut asked).await;
        let mut near = open(&tunnel, "10.0.0.1:80");
        let payload = pattern(200_000);
        let mut early = 0;
        while let Ok(n) = near.try_write(&payload[early..]) {
            early += n;
        }
        assert_eq!(early, 64 << 10);
        let accepted = asked.recv().await.expect("asked");
        let writing = async {
            near.write_all(&payload[early..]).await.expect("sent");
            near.shutdown().await.expect("ended");
        };
        let reading = async {
            // An end before the answer would be lost.
            let mut far = ByteStream::from(accepted.stream);
            assert_eq!(far.shutdown().await.expect_err("unanswered").kind(), ErrorKind::NotConnected);
            assert_eq!(far.try_write(b"!").expect_err("unanswered").kind(), ErrorKind::WouldBlock);
            far.respond(200, &Headers::new());
            let mut heard = Vec::new();
            far.read_to_end(&mut heard).await.expect("the end");
            heard
        };
        assert!(tokio::join!(writing, reading).1 == payload);
    });
}

#[test]
fn a_writer_waits_for_a_reader() {
    run(async {
        let mut mesh = Mesh::new();
        mesh.settings.hbone.stream_window_max = 256 << 10;
        let (tunnel, server, mut asked) = asked(&mesh).await;
        let (mut near, mut far) = pair(&tunnel, &mut asked).await;
        let (mut sent, block) = (0, pattern(64 << 10));
        loop {
            let mut writing = pin!(near.write(&block));
            match writing.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(n) => sent += n.expect("sent"),
                // Blocked for good once all of it is at the other end.
                Poll::Pending if server.tunnel().queued().input == sent => break,
                Poll::Pending => {}
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(sent, 256 << 10, "the window of one stream");
        assert!(mesh.share.used() >= sent, "what waits is charged");
        let mut heard = vec![0; sent];
        let (read, written) = tokio::join!(far.read_exact(&mut heard), near.write_all(&block));
        read.and(written.map(|()| 0)).expect("it goes on");
        assert!(heard.chunks(block.len()).all(|piece| piece == block));
        drop((near, far));
        until("nothing is held", || mesh.share.used() == 0).await;
    });
}

#[test]
fn where_memory_is_used_up_the_longest_stalled_is_given_up() {
    run(async {
        let mesh = memory::mesh(2 << 20);
        let (tunnel, _server, mut asked) = asked(&mesh).await;
        let (mut near, mut far) = pair(&tunnel, &mut asked).await;
        near.write_all(&pattern(100_000)).await.expect("sent");
        let mut first = [0; 1];
        far.read_exact(&mut first).await.expect("heard");
        until("it waits", || mesh.share.used() >= 99_999).await;
        let others = mesh.share.reserve(3 << 20);
        let (other, _far) = pair(&tunnel, &mut asked).await;
        other.try_write(b"what makes room").expect("sent");
        until("it is given up", || mesh.share.used() < (3 << 20) + 99_999).await;
        let error = read_error(&mut far).await;
        assert_eq!((error.kind(), ended(&error)), (ErrorKind::OutOfMemory, Ended::Memory));
        // Also where all of it had arrived, with its end: cut, it is no whole answer.
        let (mut near, mut far) = pair(&tunnel, &mut asked).await;
        drop(others);
        near.write_all(&pattern(100_000)).await.expect("sent");
        near.shutdown().await.expect("ended");
        far.read_exact(&mut first).await.expect("heard");
        until("it waits", || mesh.share.used() >= 99_999).await;
        let _others = mesh.share.reserve(3 << 20);
        let (other, _far) = pair(&tunnel, &mut asked).await;
        other.try_write(b"what makes room").expect("sent");
        until("it is given up", || mesh.share.used() < (3 << 20) + 99_999).await;
        assert_eq!(ended(&read_error(&mut far).await), Ended::Memory);
    });
}

/// A peer counts unread small frames, and ends the whole tunnel where there are too many of them.
#[test]
fn unread_small_writes_are_gathered() {
    run(async {
        let mesh = Mesh::new();
        let tunnel = mesh.tunnel(serve(&mesh, FIELD).await);
        let (mut unread, mut answered) = (open(&tunnel, "10.0.0.1:9"), open(&tunnel, "10.0.0.1:80"));
        unread.response().await.expect("answered");
        answered.response().await.expect("answered");
        for _ in 0..64 {
            assert_eq!(unread.try_write(b"!").expect("at once"), 1);
        }
        let begun = Instant::now();
        assert_eq!(unread.try_write(b"!").expect_err("gathers").kind(), ErrorKind::WouldBlock);
        // One that is not small waits for nothing.
        assert_eq!(unread.try_write(&[7; 256]).expect("at once"), 256);
        unread.write_all(b"!").await.expect("sent");
        unread.writable().await; // after a write that found room there is more, as far as is known
        assert!(begun.elapsed() >= Duration::from_millis(10));
        // Where answers come, no write waits, however many there were.
        for _ in 0..200 {
            assert_eq!(answered.try_write(b"?").expect("at once"), 1);
            assert_eq!(answered.read_u8().await.expect("answered"), b'?');
        }
    });
}

/// As a waypoint: HTTP of a library on both ends of a stream, many requests on one of them.
#[test]
fn http_on_a_stream() {
    run(async {
        let mesh = Mesh::new();
        let (tunnel, _server, mut asked) = asked(&mesh).await;
        let (near, far) = pair(&tunnel, &mut asked).await;
        spawn_local(async move {
            let mut connection = h2::server::handshake(far).await.expect("preface");
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                spawn_local(async move {
                    let mut body = respond.send_response(http::Response::new(()), false).expect("sent");
                    let mut from = request.into_body();
                    while let Some(data) = from.data().await {
                        let data = data.expect("data");
                        from.flow_control().release_capacity(data.len()).expect("credit");
                        body.send_data(data, false).expect("sent");
                    }
                    body.send_data(bytes::Bytes::new(), true).expect("sent");
                });
            }
        });
        let (requests, connection) = h2::client::handshake(near).await.expect("preface");
        let driver = spawn_local(connection);
        let payload = Rc::new(pattern(300_000));
        let calls: Vec<_> = (0..20)
            .map(|_| {
                let (requests, payload) = (requests.clone(), Rc::clone(&payload));
                spawn_local(async move {
                    let mut requests = requests.ready().await.expect("room");
                    let request = http::Request::post("http://reviews/").body(()).expect("request");
                    let (response, mut body) = requests.send_request(request, false).expect("sent");
                    body.send_data(payload.to_vec().into(), true).expect("sent");
                    let (mut from, mut heard) = (response.await.expect("answered").into_body(), Vec::new());
                    while let Some(data) = from.data().await {
                        let data = data.expect("data");
                        from.flow_control().release_capacity(data.len()).expect("credit");
                        heard.extend_from_slice(&data);
                    }
                    assert!(heard == *payload);
                })
            })
            .collect();
        drop(requests);
        for call in calls {
            call.await.expect("no panic");
        }
        driver.await.expect("no panic").expect("an orderly end");
        until("the stream is gone", || tunnel.open_streams() == 0).await;
    });
}
