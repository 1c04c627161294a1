//! The admin API over real sockets.

mod answers;
mod limits;
mod listeners;

use std::{net::SocketAddr, time::Duration};

use expect_test::Expect;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use underpass_telemetry::admin::{Limits, Listener, Method, Request, Response, Router, Server, healthz};

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

/// The address of a server of TCP.
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

/// Through hyper's own client, as an independent HTTP implementation.
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
