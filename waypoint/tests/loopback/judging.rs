//! What becomes of what is open when policies change: it ends where they deny it by now, and nothing else does.

use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use underpass_net::tunnel::ByteStream;

use crate::{
    CART,
    mesh::{Mesh, empty, fed, request, run, until},
    routes::routes,
};

/// A policy that denies by this rule, of the Service or of its pods.
pub(crate) fn deny(of: &str, rule: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: deny, namespace: shop}}\n\
         spec: {{{of}, action: DENY, rules: [{{{rule}}}]}}\n"
    )
}

pub(crate) const SERVICE: &str = "targetRefs: [{kind: Service, name: cart}]";
const PODS: &str = "selector: {matchLabels: {app: cart}}";
const OTHERS: &str = "selector: {matchLabels: {app: web}}";

fn from(account: &str) -> String {
    format!("from: [{{source: {{principals: [cluster.local/ns/front/sa/{account}]}}}}]")
}

pub(crate) fn to(path: &str) -> String {
    format!("to: [{{operation: {{paths: [\"{path}\"]}}}}]")
}

/// It carries bytes there and back.
async fn echoes(stream: &mut ByteStream) {
    stream.write_all(b"ping\n").await.expect("sent");
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.expect("back");
    assert_eq!(&back, b"ping\n");
}

/// It is reset: an end in order would be taken for the whole.
async fn is_reset(stream: &mut ByteStream) {
    let read = stream.read_to_end(&mut Vec::new()).await;
    assert!(read.is_err(), "{read:?}");
}

const DENIED: &str = "underpass_waypoint_connections_denied_total";

#[test]
fn bytes_that_are_no_http() {
    run(async {
        for of in [SERVICE, PODS] {
            let mesh = Mesh::new("").await;
            let mut web = mesh.connect("web", "10.96.0.10:70").await.expect("accepted");
            let mut other = mesh.connect("other", "10.96.0.10:72").await.expect("accepted");
            echoes(&mut web).await;
            echoes(&mut other).await;
            mesh.change(&deny(OTHERS, &from("web"))).await;
            mesh.change(&deny(of, &from("stranger"))).await;
            echoes(&mut web).await;
            mesh.change(&deny(of, &from("web"))).await;
            is_reset(&mut web).await;
            echoes(&mut other).await;
            assert_eq!(mesh.metric(DENIED), 1.0, "{of}");
        }
    });
}

#[test]
fn websockets_by_the_request_that_they_began_with() {
    run(async {
        for of in [SERVICE, PODS] {
            let mesh = Mesh::new("").await;
            let mut stream = mesh.connect("web", CART).await.expect("accepted");
            let head = "GET /chat HTTP/1.1\r\nHost: cart\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly";
            stream.write_all(head.as_bytes()).await.expect("sent");
            let mut answer = Vec::new();
            while !answer.ends_with(b"early") {
                assert!(stream.read_buf(&mut answer).await.expect("read") > 0);
            }
            mesh.change(&deny(of, &to("/other"))).await;
            echoes(&mut stream).await;
            mesh.change(&deny(of, &to("/chat"))).await;
            is_reset(&mut stream).await;
            assert_eq!(mesh.metric(DENIED), 1.0, "{of}");
        }
    });
}

#[test]
fn requests_that_are_under_way() {
    run(async {
        for of in [SERVICE, PODS] {
            let mesh = Mesh::new("").await;
            let mut sender = mesh.http2("web", CART).await;
            let (chunks, body) = fed();
            let streams = sender.send_request(request("POST", "http://cart/streams", &[], body));
            chunks.send("a".into()).expect("sent");
            let mut answer = streams.await.expect("answered before the end").into_body();
            let mut next =
                async || answer.frame().await.expect("a frame").map(|frame| frame.into_data().expect("data"));
            assert_eq!(next().await.expect("data"), "a");
            let hangs = tokio::task::spawn_local(sender.send_request(request("GET", "http://cart/hang", &[], empty())));
            until("they came", || mesh.node.requests.borrow().values().sum::<u32>() == 2).await;
            mesh.change(&deny(of, &to("/other"))).await;
            chunks.send("b".into()).expect("sent");
            assert_eq!(next().await.expect("data"), "b");
            mesh.change(&deny(of, &to("/streams"))).await;
            assert!(next().await.is_err(), "reset, {of}");
            assert!(!hangs.is_finished());
            mesh.change(&deny(of, &to("/hang"))).await;
            assert_eq!(hangs.await.expect("ran").expect("answered").status(), 403);
            until("the endpoint heard of it", || mesh.node.given_up.get() == 1).await;
            let ended = |end: &str| mesh.metric(&format!("underpass_waypoint_requests_total{{end=\"{end}\"}}"));
            assert_eq!([ended("denied_later"), ended("denied")], [1.0, 1.0], "{of}");
            assert_eq!(mesh.sum("istio_requests_total{", &["response_code=\"200\"", "response_flags=\"LR\""]), 1.0);
        }
    });
}

#[test]
fn uploads_are_answered_that_they_are_denied() {
    run(async {
        for (of, authority) in [(SERVICE, CART), (PODS, CART), (SERVICE, "10.96.0.10:90")] {
            let mesh = Mesh::new("").await;
            let mut sender = mesh.http2("web", authority).await;
            // Each time the try fails as well, because its body ends.
            for round in 1..=8 {
                let (chunks, body) = fed();
                let post = request("POST", "http://cart/upload", &[("x-keep", "1")], body);
                let uploads = tokio::task::spawn_local(sender.send_request(post));
                chunks.send("a".into()).expect("sent");
                until("it came", || mesh.node.requests.borrow().values().sum::<u32>() == round).await;
                mesh.change(&deny(of, &to("/upload"))).await;
                assert_eq!(uploads.await.expect("ran").expect("answered").status(), 403, "{of} {authority} {round}");
                mesh.change(&deny(of, &to("/other"))).await;
            }
        }
    });
}

#[test]
fn no_copy_is_sent_of_what_is_denied_before() {
    run(async {
        let mirrored = routes(
            "{match: [{uri: {exact: /slow}}], fault: {delay: {fixedDelay: 2s, percentage: {value: 100}}},
               route: [{destination: {host: cart, subset: v1}}], mirror: {host: cart, subset: v2}},
             {route: [{destination: {host: cart, subset: v1}}]}",
        );
        let mesh = Mesh::new(&mirrored).await;
        let mut sender = mesh.http2("web", CART).await;
        let delayed = sender.send_request(request("GET", "http://cart/slow", &[], empty()));
        let delayed = tokio::task::spawn_local(delayed);
        // Behind it on its connection: it has passed the waypoint's gate and is delayed.
        let behind = sender.send_request(request("GET", "http://cart/", &[], empty())).await;
        assert_eq!(behind.expect("answered").status(), 200);
        mesh.change(&format!("{}---\n{mirrored}", deny(SERVICE, &to("/slow")))).await;
        assert_eq!(delayed.await.expect("ran").expect("answered").status(), 403);
        // The only copy is that of the next one, to which nothing happens.
        mesh.change(&mirrored).await;
        assert_eq!(mesh.get("web", CART, "/slow", &[]).await.status, 200);
        until("its copy came", || mesh.metric("underpass_waypoint_mirrored_requests_total") > 0.0).await;
        assert_eq!(mesh.metric("underpass_waypoint_mirrored_requests_total"), 1.0);
        assert_eq!(mesh.node.requests.borrow().get("v2"), Some(&1));
    });
}

#[test]
fn a_response_whose_client_reads_no_more() {
    run(async {
        for of in [SERVICE, PODS] {
            let mesh = Mesh::new("").await;
            mesh.node.keys.replace("7".repeat(32 << 20));
            let mut stream = mesh.connect("web", CART).await.expect("accepted");
            stream.write_all(b"GET /keys HTTP/1.1\r\nHost: cart\r\n\r\n").await.expect("sent");
            stream.read_exact(&mut [0; 64]).await.expect("begun");
            let ended = |end: &str| mesh.metric(&format!("underpass_waypoint_requests_total{{end=\"{end}\"}}"));
            mesh.change(&deny(of, &to("/other"))).await;
            assert_eq!(([ended("denied_later"), ended("finished")], mesh.node.open.get()), ([0.0, 0.0], 1));
            mesh.change(&deny(of, &to("/keys"))).await;
            until("it has ended", || ended("denied_later") == 1.0).await;
            until("the endpoint heard of it", || mesh.node.open.get() == 0).await;
            is_reset(&mut stream).await;
        }
    });
}
