//! Connections to endpoints and of clients: what waits for them, and how long they last.

use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    CART,
    mesh::{Mesh, empty, fed, full, request, run, until},
};

/// A DestinationRule of the Service with this connection pool, and routes to one of its pods.
pub(crate) fn pool(pool: &str, http: &str) -> String {
    policy(&format!("connectionPool: {{{pool}}}"), http)
}

fn policy(policy: &str, http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: cart, namespace: shop}}\n\
         spec: {{host: cart, subsets: [{{name: v1, labels: {{version: v1}}}}], trafficPolicy: {{{policy}}}}}\n\
         ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: cart, namespace: shop}}\n\
         spec: {{hosts: [cart], http: [{http}]}}\n"
    )
}

pub(crate) const TO_V1: &str = "{route: [{destination: {host: cart, subset: v1}}]}";

/// No longer than that, where it is asked for.
const SHORT: &str =
    "{match: [{uri: {exact: /short}}], timeout: 50ms, route: [{destination: {host: cart, subset: v1}}]}";

/// A request that has the only connection, until it is released.
async fn hangs(mesh: &Mesh) -> tokio::task::JoinHandle<u16> {
    let mut sender = mesh.http1("web", CART).await;
    let hangs = tokio::task::spawn_local(async move {
        sender.send_request(request("GET", "/hang", &[], empty())).await.expect("answered").status().as_u16()
    });
    until("it came", || mesh.node.requests.borrow().values().sum::<u32>() == 1).await;
    hangs
}

#[test]
fn a_request_that_waits_with_its_body_does_so_for_the_time_of_its_route() {
    run(async {
        let mesh = Mesh::new(&pool("tcp: {maxConnections: 1}", &format!("{SHORT}, {TO_V1}"))).await;
        let first = hangs(&mesh).await;
        // The second is larger than what is taken of it, and the third has no end.
        let (chunks, without_end) = fed();
        chunks.send(vec![7; 100 << 10].into()).expect("sent");
        for body in [full("small"), full(vec![7; 1 << 20]), without_end] {
            let mut sender = mesh.http2("other", CART).await;
            let answer = sender.send_request(request("POST", "http://cart/short", &[], body)).await.expect("answered");
            assert_eq!(answer.status(), 504);
        }
        mesh.node.release.notify_one();
        assert_eq!(first.await.expect("ran"), 200);
        // What was read meanwhile arrives whole.
        let mut sender = mesh.http1("web", CART).await;
        let answer = sender.send_request(request("POST", "/", &[], full(vec![7; 1 << 20]))).await.expect("answered");
        assert_eq!(answer.into_body().collect().await.expect("whole").to_bytes().len(), 1 << 20);
    });
}

#[test]
fn an_endpoint_that_reads_no_more_holds_no_place() {
    run(async {
        let pool = pool("tcp: {maxConnections: 1}", TO_V1);
        let mesh = Mesh::new(&pool).await;
        let mut sender = mesh.http1("web", CART).await;
        // More than there is room for on the way, so that the rest waits to be written when it is denied.
        let unread = request("POST", "/", &[("x-slow", "v1")], full(vec![7; 8 << 20]));
        let given_up = sender.send_request(unread);
        let (answer, next) = tokio::join!(given_up, async {
            until("it came", || mesh.node.requests.borrow().contains_key("v1")).await;
            let denied = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: posts, namespace: shop}\n\
                 spec: {targetRefs: [{kind: Service, name: cart}], action: DENY, rules: [{to: [{operation: {methods: [POST]}}]}]}\n";
            mesh.change(&format!("{pool}{denied}")).await;
            mesh.get("other", CART, "/", &[]).await
        });
        assert_eq!((answer.expect("answered").status().as_u16(), next.status), (403, 200));
    });
}

#[test]
fn what_waits_is_sent_whole() {
    run(async {
        let mesh = Mesh::new(&pool("tcp: {maxConnections: 1}", TO_V1)).await;
        for size in [1, 64 << 10, 300 << 10] {
            let first = hangs(&mesh).await;
            let before = mesh.metric("envoy_cluster_upstream_cx_overflow");
            let mut sender = mesh.http1("other", CART).await;
            let waits = tokio::task::spawn_local(async move {
                sender.send_request(request("POST", "/", &[], full(vec![7; size]))).await.expect("answered")
            });
            until("it waits", || mesh.metric("envoy_cluster_upstream_cx_overflow") > before).await;
            mesh.node.release.notify_one();
            assert_eq!(first.await.expect("ran"), 200);
            let body = waits.await.expect("ran").into_body().collect().await.expect("whole").to_bytes();
            assert!(body.len() == size && body.iter().all(|byte| *byte == 7), "{size}");
            mesh.node.requests.borrow_mut().clear();
        }
    });
}

#[test]
fn a_client_that_goes_away_waits_no_more() {
    run(async {
        let limits = "tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}";
        let mesh = Mesh::new(&pool(limits, TO_V1)).await;
        let first = hangs(&mesh).await;
        for n in 1..4 {
            // Its body has begun and does not end; then its connection does.
            let mut stream = mesh.connect("other", CART).await.expect("accepted");
            stream.write_all(b"POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 9\r\n\r\nhalf").await.expect("sent");
            until("it waits", || mesh.metric("envoy_cluster_upstream_cx_overflow") == f64::from(n)).await;
            drop(stream);
            until("it has gone", || {
                mesh.metric("underpass_waypoint_requests_total{end=\"client_reset\"}") == f64::from(n)
            })
            .await;
        }
        assert_eq!(mesh.metric("underpass_waypoint_requests_total{end=\"overflow\"}"), 0.0);
        mesh.node.release.notify_one();
        assert_eq!(first.await.expect("ran"), 200);
    });
}

#[test]
fn the_first_connection_of_an_endpoint_is_above_the_limit() {
    run(async {
        let limits = "connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}";
        let in_turns = format!("{limits}, loadBalancer: {{simple: ROUND_ROBIN}}");
        let mesh = Mesh::new(&policy(&in_turns, "{route: [{destination: {host: cart}}]}")).await;
        let first = hangs(&mesh).await;
        let busy = mesh.node.requests.borrow().keys().next().copied().expect("a pod");
        let answer = mesh.get("web", CART, "/", &[]).await;
        assert_eq!(answer.status, 200);
        assert_ne!(answer.header("x-pod"), busy);
        mesh.node.release.notify_one();
        assert_eq!(first.await.expect("ran"), 200);
    });
}

#[test]
fn an_idle_connection_of_another_worker_gives_way() {
    run(async {
        let two = |settings: &mut underpass_waypoint::Settings| {
            settings.workers = std::num::NonZeroUsize::MIN.saturating_add(1);
        };
        let mesh = Mesh::with(&pool("tcp: {maxConnections: 1}", TO_V1), two).await;
        // Each tunnel is one of either worker.
        for n in 0..100 {
            let pod = if n % 3 == 0 { "other" } else { "web" };
            assert_eq!(mesh.get(pod, CART, "/", &[]).await.short(), "200 v1");
        }
        mesh.shut_down().await;
    });
}

#[test]
fn connections_to_endpoints_have_their_time() {
    run(async {
        for limits in ["http: {idleTimeout: 10ms}", "tcp: {idleTimeout: 10ms}", "tcp: {maxConnectionDuration: 10ms}"] {
            let mesh = Mesh::new(&pool(limits, TO_V1)).await;
            assert_eq!(mesh.get("web", CART, "/", &[]).await.status, 200);
            until("it is closed", || mesh.node.open.get() == 0).await;
        }
        // A request is never cut off by it.
        let mesh = Mesh::new(&pool("tcp: {maxConnectionDuration: 1ms}", TO_V1)).await;
        let mut sender = mesh.http2("web", CART).await;
        let (chunks, body) = fed();
        let under_way = sender.send_request(request("POST", "http://cart/", &[], body));
        chunks.send("a".into()).expect("sent");
        let mut answer = under_way.await.expect("answered").into_body();
        assert!(answer.frame().await.expect("a frame").is_ok());
        assert_eq!(mesh.get("web", CART, "/", &[]).await.status, 200);
        until("the other one is closed", || mesh.node.open.get() == 1).await;
        chunks.send("b".into()).expect("sent");
        drop(chunks);
        assert_eq!(answer.collect().await.expect("whole").to_bytes(), "b");
    });
}

#[test]
fn bytes_have_their_time() {
    run(async {
        let connected = async |limits: &str| {
            let mesh = Mesh::new(&pool(limits, TO_V1)).await;
            let stream = mesh.connect("web", "10.96.0.10:70").await.expect("accepted");
            (mesh, stream)
        };
        for limits in ["tcp: {idleTimeout: 30ms}", "tcp: {maxConnectionDuration: 100ms}"] {
            let (mesh, mut stream) = connected(limits).await;
            let _ = stream.write_all(b"ping").await; // where it is not over already
            assert!(stream.read_to_end(&mut Vec::new()).await.is_err(), "reset, {limits}");
            until("the endpoint heard of it", || mesh.node.open.get() == 0).await;
        }
        let (mesh, mut stream) = connected("tcp: {idleTimeout: 1h, maxConnectionDuration: 1h}").await;
        stream.write_all(b"ping").await.expect("sent");
        stream.read_exact(&mut [0; 4]).await.expect("back");
        assert_eq!(mesh.node.open.get(), 1);
    });
}

/// A request that hangs on a connection of its own, which may have been closed for being idle before: then another one. Its status,
/// and whether it ends its connection, once that is closed.
async fn under_way(mesh: &Mesh, is_http2: bool) -> tokio::task::JoinHandle<Option<(u16, bool)>> {
    let short = |answer: &hyper::Response<hyper::body::Incoming>| {
        (answer.status().as_u16(), answer.headers().contains_key("connection"))
    };
    let came = || mesh.node.requests.borrow().values().sum::<u32>();
    let before = came();
    loop {
        let task = if is_http2 {
            let mut sender = mesh.http2("web", CART).await;
            tokio::task::spawn_local(async move {
                let hang = request("GET", "http://cart/hang", &[], empty());
                let answer = short(&sender.send_request(hang).await.ok()?);
                until("it is closed", || sender.is_closed()).await;
                Some(answer)
            })
        } else {
            let mut sender = mesh.http1("web", CART).await;
            tokio::task::spawn_local(async move {
                let answer = short(&sender.send_request(request("GET", "/hang", &[], empty())).await.ok()?);
                until("it is closed", || sender.is_closed()).await;
                Some(answer)
            })
        };
        until("it came, or its connection was closed", || came() > before || task.is_finished()).await;
        if came() > before {
            return task;
        }
    }
}

#[test]
fn an_idle_client_is_closed() {
    run(async {
        let short = |settings: &mut underpass_waypoint::Settings| {
            settings.limits.idle_time = Some(std::time::Duration::from_millis(50));
        };
        let mesh = Mesh::with(&pool("tcp: {maxConnections: 9}", TO_V1), short).await;
        let hang = [under_way(&mesh, false).await, under_way(&mesh, true).await];
        // What is under way is not idle, for as long as it takes one that came later to be closed for that.
        let idle = mesh.http2("other", CART).await;
        until("it is closed", || idle.is_closed()).await;
        assert!(hang.iter().all(|task| !task.is_finished()));
        mesh.node.release.notify_waiters();
        for task in hang {
            assert_eq!(task.await.expect("ran"), Some((200, false)), "its connection takes another request");
        }
    });
}
