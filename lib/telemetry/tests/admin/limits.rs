//! Resistance to garbage, slow peers, and handlers that fail.

use std::time::Duration;

use expect_test::expect;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use underpass_telemetry::admin::{Client, ClientError, Limits, Listener, Method, Router, Target, serve_accepted};

use super::{DEADLINE, at, check, local, raw, router, serve, status_line};

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let server = serve(Limits::default());
    let at = at(&server);
    let long_header = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(64 << 10));
    let many_headers = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(100));
    let long_path = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "y".repeat(64 << 10));
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\0\0\0\0\0\0\0\0",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked, x\r\n\r\n",
        b"PUT /echo HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nbad header: x\r\n\r\n",
        long_header.as_bytes(),
        many_headers.as_bytes(),
        long_path.as_bytes(),
        &[0xff; 4096],
        b"",
    ] {
        let answer = raw(at, bytes, true).await;
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        assert!(!answer.starts_with("HTTP/1.1 2"), "{shown:?}: {answer}");
    }
    let line = async |bytes: &str| status_line(&raw(at, bytes.as_bytes(), true).await).to_owned();
    assert_eq!(line(&long_header).await, "HTTP/1.1 431 Request Header Fields Too Large");
    assert_eq!(line(&many_headers).await, "HTTP/1.1 431 Request Header Fields Too Large");
    assert_eq!(Client::new(Target::Tcp(at)).text("/healthz").await.unwrap(), "{\n  \"status\": \"ok\"\n}\n");
}

#[tokio::test]
async fn slow_peers_cannot_lock_out_a_quick_one() {
    let limits = Limits { connections: 8, first_time: DEADLINE * 10, header_time: DEADLINE * 10, ..Limits::default() };
    let server = serve(limits);
    let at = at(&server);
    let mut slow = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nx-slow: ").await.unwrap();
        slow.push(stream);
    }
    // They have all the time in the world, and still another client is answered.
    timeout(DEADLINE, Client::new(Target::Tcp(at)).text("/healthz")).await.unwrap().unwrap();
    // 41 came, 8 may stay: the oldest were closed. (The last 7 slow ones are not read: they would wait for long.)
    for (n, stream) in slow.iter_mut().take(33).enumerate() {
        let read = timeout(DEADLINE, stream.read(&mut [0; 64])).await;
        assert!(matches!(read.expect("it was closed"), Ok(0) | Err(_)), "slow peer {n}");
    }
}

/// A server of connections that come with any address, and a connection to it.
fn of_any_address(limits: Limits) -> impl AsyncFn(u8) -> DuplexStream {
    let (connections, accepted) = mpsc::channel(1);
    tokio::spawn(serve_accepted(accepted, router(), limits));
    async move |peer| {
        let (near, far) = duplex(256 << 10);
        connections.send((far, Some([10, 0, 0, peer].into()))).await.unwrap();
        near
    }
}

/// What comes next, at most 4 KiB of it; nothing: it was closed.
async fn next(stream: &mut DuplexStream) -> String {
    let mut read = vec![0; 4096];
    let n = timeout(DEADLINE, stream.read(&mut read)).await.expect("nothing came").unwrap_or_default();
    String::from_utf8_lossy(&read[..n]).into_owned()
}

const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";

async fn is_healthy(stream: &mut DuplexStream) {
    stream.write_all(HEALTH).await.unwrap();
    let answer = next(stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer:?}");
}

#[tokio::test]
async fn many_of_one_address_cannot_lock_out_another() {
    let time = DEADLINE * 10;
    let connect = of_any_address(Limits { connections: 8, first_time: time, header_time: time, ..Limits::default() });
    let mut other = connect(1).await;
    is_healthy(&mut other).await;
    let mut many = Vec::new();
    for _ in 0..40 {
        many.push(connect(2).await);
    }
    for stream in many.iter_mut().take(33) {
        assert_eq!(next(stream).await, "");
    }
    // The oldest of all.
    is_healthy(&mut other).await;
}

#[tokio::test]
async fn who_never_asks_is_given_up_before_who_has_asked() {
    let (first_time, header_time) = (Duration::from_millis(50), DEADLINE * 10);
    let connect = of_any_address(Limits { first_time, header_time, ..Limits::default() });
    let mut asked = connect(1).await;
    is_healthy(&mut asked).await;
    let mut silent = connect(1).await;
    assert_eq!(next(&mut silent).await, "");
    // It is idle for longer.
    is_healthy(&mut asked).await;
}

#[tokio::test]
async fn large_bodies_of_one_address_cannot_lock_out_those_of_another() {
    let limits = Limits { large_bodies: 2, body_bytes: 1 << 20, request_time: DEADLINE * 10, ..Limits::default() };
    let connect = of_any_address(limits);
    let head = |length: usize, more: &str| {
        format!("PUT /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{more}\r\n")
            .into_bytes()
    };
    let mut never = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(2).await;
        stream.write_all(&head(100 << 10, "expect: 100-continue\r\n")).await.unwrap();
        let answer = next(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 100"), "its body is read: {answer:?}");
        never.push(stream);
    }
    let answer = async |length: usize| {
        let mut stream = connect(1).await;
        stream.write_all(&head(length, "")).await.unwrap();
        stream.write_all(&vec![b'x'; length]).await.unwrap();
        next(&mut stream).await
    };
    // A small one takes no place, a large one that of the oldest.
    assert!(answer(1000).await.starts_with("HTTP/1.1 200"));
    assert!(answer(100 << 10).await.starts_with("HTTP/1.1 200"));
    let answer = next(&mut never[0]).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("too many requests with a large body"), "{answer:?}");
}

#[tokio::test]
async fn a_header_that_never_ends_is_given_up() {
    let server = serve(Limits { header_time: Duration::from_millis(50), ..Limits::default() });
    for bytes in [&b""[..], b"GET /healthz HTTP/1.1\r\nx: "] {
        let answer = raw(at(&server), bytes, false).await;
        assert!(!answer.contains("200"), "{answer}");
    }
    // The same for a peer that asked once and idles.
    let answer = raw(at(&server), b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n", false).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn a_body_that_never_comes_is_given_up() {
    let server = serve(Limits { request_time: Duration::from_millis(50), ..Limits::default() });
    let request = b"PUT /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\nconnection: close\r\n\r\n123";
    let answer = raw(at(&server), request, false).await;
    assert_eq!(status_line(&answer), "HTTP/1.1 408 Request Timeout");
}

#[tokio::test]
async fn a_handler_that_never_answers_is_given_up() {
    let server = serve(Limits { request_time: Duration::from_millis(50), ..Limits::default() });
    let want = expect![[r#"
        503
        {
          "error": "no answer in time"
        }
    "#]];
    check(at(&server), Method::GET, "/never", &want).await;
}

#[tokio::test]
async fn a_peer_that_never_reads_is_given_up() {
    let short = Duration::from_millis(50);
    let server = serve(Limits { connection_time: short, request_time: short, ..Limits::default() });
    let mut stream = TcpStream::connect(at(&server)).await.unwrap();
    stream.write_all(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    // Nothing is read until the server closed, which shows when this side can write no more.
    let closed = async {
        loop {
            if stream.write_all(b"x").await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, closed).await.expect("the server closes");
}

#[tokio::test]
async fn a_handler_that_panics_ends_its_own_connection() {
    let server = serve(Limits::default());
    let client = Client::new(server.target().clone());
    assert!(matches!(client.text("/panic").await, Err(ClientError::Http { .. })));
    client.text("/healthz").await.unwrap();
}

#[tokio::test]
async fn a_dropped_server_closes_everything() {
    let (asked, mut was_asked) = mpsc::unbounded_channel();
    let router = Router::new().route(Method::GET, "/", move |_| {
        let _ = asked.send(());
        std::future::pending()
    });
    let server = Listener::loopback(local()).unwrap().serve(router, Limits::default()).unwrap();
    let at = at(&server);
    let ask = tokio::spawn(async move { Client::new(Target::Tcp(at)).text("/").await });
    timeout(DEADLINE, was_asked.recv()).await.unwrap().unwrap();
    drop(server);
    assert!(matches!(timeout(DEADLINE, ask).await.unwrap().unwrap(), Err(ClientError::Http { .. })));
    let refused = async { while TcpStream::connect(at).await.is_ok() {} };
    timeout(DEADLINE, refused).await.expect("no listener is left");
}
