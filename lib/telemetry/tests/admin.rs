//! The admin API over real sockets: answered as told, and not to be worn down.

use std::{net::SocketAddr, time::Duration};

use expect_test::{Expect, expect};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use underpass_telemetry::admin::{
    AdminError, Client, ClientError, Limits, Listener, Method, Readiness, Request, Response, Router, Server, Target,
    healthz,
};

/// Long enough for any machine; only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(30);

fn local() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn router() -> Router {
    healthz(Router::new())
        .route(Method::GET, "/echo", async |request: Request| Response::json(&request.query("q")))
        .route(Method::PUT, "/echo", async |request: Request| Response::json(&request.body().len()))
        .route(Method::POST, "/change", async |_| Response::json(&true))
        .route(Method::GET, "/large", async |_| Response::json(&"x".repeat(8 << 20)))
        .route(Method::GET, "/never", async |_| std::future::pending().await)
        .route(Method::GET, "/panic", async |_| panic!("by intention"))
}

fn serve(limits: Limits) -> Server {
    Listener::any(local()).unwrap().serve(router(), limits).unwrap()
}

/// Where a server of TCP listens.
fn at(server: &Server) -> SocketAddr {
    server.target().address().unwrap()
}

/// Writes `bytes`, closes that direction if asked to, and reads until the server closes.
async fn raw(address: SocketAddr, bytes: &[u8], half_close: bool) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let exchange = async {
        // The server may close while garbage is still being written; what it said before counts.
        let _ = stream.write_all(bytes).await;
        if half_close {
            let _ = stream.shutdown().await;
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    timeout(DEADLINE, exchange).await.expect("the server closes")
}

fn status_line(answer: &str) -> &str {
    answer.lines().next().unwrap_or_default()
}

/// Through hyper's own client, so that somebody else says what HTTP is.
async fn hyper(address: SocketAddr, method: Method, path: &str, body: Vec<u8>) -> (u16, hyper::HeaderMap, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = hyper::Request::builder().method(method).uri(path).header("host", "localhost");
    let request = request.body(Full::new(bytes::Bytes::from(body))).unwrap();
    let (head, body) = timeout(DEADLINE, sender.send_request(request)).await.unwrap().unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    driver.abort();
    (head.status.as_u16(), head.headers, String::from_utf8_lossy(&body).into_owned())
}

async fn check(address: SocketAddr, method: Method, path: &str, want: &Expect) {
    let (status, headers, body) = hyper(address, method, path, Vec::new()).await;
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["cache-control"], "no-store");
    let allow = headers.get("allow").map(|a| format!("allow: {}\n", a.to_str().unwrap())).unwrap_or_default();
    want.assert_eq(&format!("{status}\n{allow}{body}"));
}

#[tokio::test]
async fn routes_are_answered_and_others_are_told() {
    let server = serve(Limits::default());
    let at = at(&server);
    check(
        at,
        Method::GET,
        "/healthz",
        &expect![[r#"
        200
        {
          "status": "ok"
        }
    "#]],
    )
    .await;
    check(
        at,
        Method::GET,
        "/echo?q=a%20b+c",
        &expect![[r#"
        200
        "a b c"
    "#]],
    )
    .await;
    check(
        at,
        Method::GET,
        "/echo?q=%ff",
        &expect![[r#"
        400
        {
          "error": "query: \"%ff\" is not percent-encoded UTF-8"
        }
    "#]],
    )
    .await;
    check(
        at,
        Method::GET,
        "/echo?q=1&q=2",
        &expect![[r#"
        400
        {
          "error": "query: \"q\" is given twice"
        }
    "#]],
    )
    .await;
    check(
        at,
        Method::DELETE,
        "/echo",
        &expect![[r#"
        405
        allow: GET, PUT
        {
          "error": "no DELETE on /echo: GET, PUT"
        }
    "#]],
    )
    .await;
    check(
        at,
        Method::POST,
        "/",
        &expect![[r#"
        405
        allow: GET
        {
          "error": "no POST on /: GET"
        }
    "#]],
    )
    .await;
    check(
        at,
        Method::GET,
        "/nothing%0a",
        &expect![[r#"
        404
        {
          "error": "no /nothing%0a here; GET / lists what there is"
        }
    "#]],
    )
    .await;
    check(
        at,
        Method::GET,
        "/",
        &expect![[r#"
            200
            {
              "/change": [
                "POST"
              ],
              "/echo": [
                "GET",
                "PUT"
              ],
              "/healthz": [
                "GET"
              ],
              "/large": [
                "GET"
              ],
              "/never": [
                "GET"
              ],
              "/panic": [
                "GET"
              ]
            }
        "#]],
    )
    .await;
    let (status, headers, body) = hyper(at, Method::HEAD, "/healthz", Vec::new()).await;
    assert_eq!((status, headers["content-length"].to_str().unwrap(), &*body), (200, "21", ""));
}

#[tokio::test]
async fn a_body_is_read_within_its_limit() {
    let server = serve(Limits { body_bytes: 1000, ..Limits::default() });
    let put = |n: usize| hyper(at(&server), Method::PUT, "/echo", vec![b'x'; n]);
    assert_eq!(put(1000).await.2, "1000\n");
    let (status, _, body) = put(1001).await;
    assert_eq!((status, &*body), (413, "{\n  \"error\": \"a body has at most 1000 bytes\"\n}\n"));

    // Without a length, chunk by chunk: the limit counts what came.
    let chunked = "PUT /echo HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    let chunks = "ff\r\n".to_owned() + &"x".repeat(255) + "\r\n";
    let answer = raw(at(&server), (chunked.to_owned() + &chunks.repeat(5)).as_bytes(), false).await;
    assert_eq!(status_line(&answer), "HTTP/1.1 413 Payload Too Large");
}

#[tokio::test]
async fn only_a_loopback_address_is_served() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "10.0.0.1:15000", "[::ffff:192.0.2.1]:0"] {
        let address = address.parse().unwrap();
        match Listener::loopback(address) {
            Err(AdminError::NotLoopback { address: told }) => assert_eq!(told, address),
            other => panic!("{address}: {other:?}"),
        }
    }
    for address in ["127.0.0.1:0", "127.0.0.2:0"] {
        Listener::loopback(address.parse().unwrap()).unwrap();
    }
    Listener::any("0.0.0.0:0".parse().unwrap()).unwrap();
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let first = Listener::loopback(local()).unwrap();
    let error = Listener::loopback(first.target().address().unwrap()).unwrap_err();
    let want = format!("cannot listen on {}: Address already in use (os error 98)", first.target());
    assert_eq!(error.to_string(), want);
}

#[tokio::test]
async fn a_browser_that_a_name_led_here_is_refused() {
    let server = Listener::loopback(local()).unwrap().serve(router(), Limits::default()).unwrap();
    let open = serve(Limits::default());
    let ask = async |at, hosts: &str| {
        let request = format!("GET /healthz HTTP/1.1\r\n{hosts}connection: close\r\n\r\n");
        status_line(&raw(at, request.as_bytes(), false).await).to_owned()
    };
    assert_eq!(ask(at(&server), "host: localhost:15000\r\n").await, "HTTP/1.1 200 OK");
    assert_eq!(ask(at(&server), "host: rebound.example.org\r\n").await, "HTTP/1.1 403 Forbidden");
    assert_eq!(ask(at(&server), "host: localhost\r\nhost: example.org\r\n").await, "HTTP/1.1 403 Forbidden");
    assert_eq!(ask(at(&open), "host: node-1.example.org\r\n").await, "HTTP/1.1 200 OK");
}

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
    let limits = Limits { connections: 8, header_time: DEADLINE * 10, ..Limits::default() };
    let server = serve(limits);
    let at = at(&server);
    let mut slow = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nx-slow: ").await.unwrap();
        slow.push(stream);
    }
    // They have all the time in the world, and still somebody else is answered.
    timeout(DEADLINE, Client::new(Target::Tcp(at)).text("/healthz")).await.unwrap().unwrap();
    // 41 came, 8 may stay: the oldest were closed. (The last 7 slow ones are not read: they would wait for long.)
    for (n, stream) in slow.iter_mut().take(33).enumerate() {
        let read = timeout(DEADLINE, stream.read(&mut [0; 64])).await;
        assert!(matches!(read.expect("it was closed"), Ok(0) | Err(_)), "slow peer {n}");
    }
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
    timeout(DEADLINE, refused).await.expect("nobody listens");
}

#[tokio::test]
async fn the_client_says_what_went_wrong() {
    let server = serve(Limits::default());
    let at = at(&server);
    let client = Client::new(Target::Tcp(at));
    let told =
        async |path: &str| client.json::<u64>(path).await.unwrap_err().to_string().replace(&at.to_string(), "ADDRESS");
    assert_eq!(
        told("/nothing").await,
        "GET /nothing on ADDRESS: 404 Not Found: no /nothing here; GET / lists what there is"
    );
    assert_eq!(
        told("/healthz").await,
        "GET /healthz on ADDRESS: unexpected JSON: invalid type: map, expected u64 at line 1 column 0"
    );
    assert_eq!(told("a b").await, "\"a b\" is no path: invalid uri character");
    assert_eq!(client.json::<Option<String>>("/echo?q=x").await.unwrap().as_deref(), Some("x"));
    assert_eq!(client.json::<String>("/large").await.unwrap().len(), 8 << 20);

    drop(server);
    let refused = async { while TcpStream::connect(at).await.is_ok() {} };
    timeout(DEADLINE, refused).await.expect("nobody listens");
    assert_eq!(told("/healthz").await, "cannot connect to ADDRESS: Connection refused (os error 111)");
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let readiness = Readiness::new();
    let gate = readiness.gate("world", "no World yet");
    let server = Listener::any(local()).unwrap().serve(readiness.routes(Router::new()), Limits::default()).unwrap();
    check(
        at(&server),
        Method::GET,
        "/healthz/ready",
        &expect![[r#"
        503
        {
          "error": "not ready",
          "waiting": [
            {
              "part": "world",
              "reason": "no World yet"
            }
          ]
        }
    "#]],
    )
    .await;
    gate.open();
    check(
        at(&server),
        Method::GET,
        "/healthz/ready",
        &expect![[r#"
        200
        {
          "ready": true
        }
    "#]],
    )
    .await;
    drop(gate);
    check(
        at(&server),
        Method::GET,
        "/healthz/ready",
        &expect![[r#"
        503
        {
          "error": "not ready",
          "waiting": [
            {
              "part": "world",
              "reason": "it has ended"
            }
          ]
        }
    "#]],
    )
    .await;
}

/// A server on a unix socket in a directory of its own.
fn unix() -> (tempfile::TempDir, Server) {
    let directory = tempfile::tempdir().unwrap();
    let listener = Listener::unix(&directory.path().join("run/admin.sock")).unwrap();
    (directory, listener.serve(router(), Limits::default()).unwrap())
}

#[tokio::test]
async fn loopback_only_looks_and_the_socket_does_everything() {
    let loopback = Listener::loopback(local()).unwrap().serve(router(), Limits::default()).unwrap();
    let (_directory, socket) = unix();
    for (server, may) in [(&loopback, false), (&socket, true)] {
        let client = Client::new(server.target().clone());
        assert_eq!(client.json::<String>("/echo?q=a").await.unwrap(), "a");
        let refused = match client.post("/change").await {
            Ok(()) => false,
            Err(ClientError::Refused { status, says, .. }) => {
                assert_eq!(status.as_u16(), 403);
                says.contains("over the unix socket")
            }
            Err(other) => panic!("{other}"),
        };
        assert_eq!(refused, !may, "{}", server.target());
    }
    // HEAD looks, and so does what there is no such thing of
    let request = b"HEAD /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    assert_eq!(status_line(&raw(at(&loopback), request, false).await), "HTTP/1.1 200 OK");
    let request = b"PUT /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    assert_eq!(status_line(&raw(at(&loopback), request, false).await), "HTTP/1.1 403 Forbidden");
}

#[tokio::test]
async fn the_socket_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let (directory, server) = unix();
    let mode = |path: &str| std::fs::metadata(directory.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("run"), mode("run/admin.sock")), (0o700, 0o600));
    assert_eq!(std::fs::read_dir(directory.path().join("run")).unwrap().count(), 1, "and nothing is beside it");
    drop(server);
    let gone = || !directory.path().join("run/admin.sock").exists();
    timeout(DEADLINE, async {
        while !gone() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("a socket that nobody serves is no longer there");
}

#[tokio::test]
async fn a_socket_is_replaced_in_one_step() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let says =
        |text: &'static str| Router::new().route(Method::GET, "/", move |_| std::future::ready(Response::json(&text)));
    let serve = |text| Listener::unix(&path).unwrap().serve(says(text), Limits::default()).unwrap();
    let client = Client::new(Target::Unix(path.clone()));
    // one that a killed process left
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let first = serve("first");
    assert_eq!(client.json::<String>("/").await.unwrap(), "first");
    let second = serve("second");
    assert_eq!(client.json::<String>("/").await.unwrap(), "second");
    // the first one's end takes nothing away from the second
    drop(first);
    tokio::task::yield_now().await;
    assert_eq!(client.json::<String>("/").await.unwrap(), "second");
    drop(second);
    // a path that cannot be
    let error = Listener::unix(&directory.path().join("x".repeat(200))).unwrap_err().to_string();
    assert!(error.starts_with("cannot listen on unix:"), "{error}");
}
