//! Listeners and their audiences.

use tokio::time::timeout;
use underpass_telemetry::admin::{
    AdminError, Client, ClientError, Limits, Listener, Method, Response, Router, Server, Target,
};

use super::{DEADLINE, at, local, raw, router, serve, status_line};

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
async fn a_rebound_dns_name_is_refused() {
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

/// A server on a unix socket in a directory of its own.
fn unix() -> (tempfile::TempDir, Server) {
    let directory = tempfile::tempdir().unwrap();
    let listener = Listener::unix(&directory.path().join("run/admin.sock")).unwrap();
    (directory, listener.serve(router(), Limits::default()).unwrap())
}

#[tokio::test]
async fn loopback_reads_and_the_unix_socket_changes() {
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
    .expect("a socket without a server is removed");
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
    // nor does one that never takes its place
    let (third, unpublished) = Listener::unix_aside(&path).unwrap();
    let third = third.serve(says("third"), Limits::default()).unwrap();
    assert_eq!(client.json::<String>("/").await.unwrap(), "second");
    drop((third, unpublished));
    tokio::task::yield_now().await;
    assert_eq!(client.json::<String>("/").await.unwrap(), "second");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left of it");
    let (fourth, unpublished) = Listener::unix_aside(&path).unwrap();
    let fourth = fourth.serve(says("fourth"), Limits::default()).unwrap();
    unpublished.publish().unwrap();
    assert_eq!(client.json::<String>("/").await.unwrap(), "fourth");
    drop((second, fourth));
    // a path that cannot be
    let error = Listener::unix(&directory.path().join("x".repeat(200))).unwrap_err().to_string();
    assert!(error.starts_with("cannot listen on unix:"), "{error}");
}
