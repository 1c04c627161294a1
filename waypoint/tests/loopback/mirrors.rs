//! Copies of requests: what a mirror receives, and that it has no effect.

use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::spawn_local,
};

use crate::{
    CART,
    judging::{SERVICE, deny, to},
    mesh::{Answer, Mesh, empty, fed, full, request, run, until},
    routes::routes,
    signer::Signer,
};

/// All to v1, with these mirrors.
fn mirrored(mirrors: &str) -> String {
    routes(&format!("{{route: [{{destination: {{host: cart, subset: v1}}}}], {mirrors}}}"))
}

/// These routes, and this policy of the Service's traffic.
fn under(policy: &str, routes: &str) -> String {
    routes.replacen("host: cart\n", &format!("host: cart\n  trafficPolicy: {{{policy}}}\n"), 1)
}

const TO_V2: &str = "mirror: {host: cart, subset: v2}";

async fn ended(mesh: &Mesh, end: &str, many: f64) {
    let series = format!("underpass_waypoint_mirrored_requests_total{{end=\"{end}\"}}");
    until(end, || mesh.metric(&series) == many).await;
}

#[test]
fn a_mirror_receives_what_the_endpoint_does() {
    run(async {
        let mesh = Mesh::new(&mirrored(TO_V2)).await;
        let headers = [("x-keep", "1"), ("x-own", "mine")];
        let kept = async || {
            until("both have it", || mesh.node.kept.borrow().len() == 2).await;
            let mut kept = mesh.node.kept.take();
            kept.sort();
            kept
        };
        let mut http1 = mesh.http1("web", CART).await;
        for body in ["", "body"] {
            let answer = http1.send_request(request("POST", "/x?y=1", &headers, full(body))).await.expect("answered");
            let answer = Answer::of(answer).await;
            assert_eq!((answer.short().as_str(), &answer.body[..]), ("200 v1", body.as_bytes()));
            let expect = ["cart", "cart-shadow"].map(|authority| format!("POST /x {authority} mine {body}"));
            assert_eq!(kept().await, [("v1", expect[0].clone()), ("v2", expect[1].clone())]);
        }
        // By HTTP/2, with a body that comes in pieces.
        let mut http2 = mesh.http2("web", "10.96.0.10:80").await;
        let (chunks, body) = fed();
        let under_way = spawn_local(http2.send_request(request("PUT", "http://cart:80/", &headers, body)));
        for chunk in ["a", "b", "c"] {
            chunks.send(chunk.into()).expect("sent");
            tokio::task::yield_now().await;
        }
        drop(chunks);
        assert_eq!(under_way.await.expect("ran").expect("answered").status(), 200);
        let expect = ["cart:80", "cart-shadow:80"].map(|authority| format!("PUT / {authority} mine abc"));
        assert_eq!(kept().await, [("v1", expect[0].clone()), ("v2", expect[1].clone())]);
        ended(&mesh, "answered", 3.0).await;
        assert!(mesh.asked.borrow().iter().all(|asked| asked.source.identity == crate::mesh::identity("web")));
        assert_eq!(mesh.sum("istio_requests_total{", &[]), 3.0, "a copy is no request");
    });
}

#[test]
fn what_becomes_of_a_copy_has_no_effect() {
    run(async {
        let none = "mirrors: [{destination: {host: cart, subset: v3}}, {destination: {host: cart, subset: v2}, percentage: {value: 0}}]";
        let mesh = Mesh::new(&mirrored(none)).await;
        assert_eq!(mesh.get("web", CART, "/", &[]).await.short(), "200 v1");
        ended(&mesh, "failed", 1.0).await;
        mesh.change(&mirrored(&format!("retries: {{attempts: 3, retryOn: 5xx}}, {TO_V2}"))).await;
        assert_eq!(mesh.get("web", CART, "/", &[("x-fail", "v2=503")]).await.short(), "200 v1");
        ended(&mesh, "answered", 1.0).await;
        assert_eq!(mesh.node.requests.borrow()["v2"], 1, "never tried again");
        // A policy of the mirror's pods is the copy's alone.
        let deny = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny, namespace: shop}\n\
                    spec: {selector: {matchLabels: {version: v2}}, action: DENY, rules: [{to: [{operation: {paths: [/x]}}]}]}\n---\n";
        mesh.change(&format!("{deny}{}", mirrored(TO_V2))).await;
        assert_eq!(mesh.get("web", CART, "/x", &[]).await.short(), "200 v1");
        ended(&mesh, "denied", 1.0).await;
        assert_eq!(mesh.node.requests.borrow()["v2"], 1);
    });
}

#[test]
fn a_mirror_that_is_slow_is_left_behind() {
    run(async {
        let mesh = Mesh::new(&mirrored(TO_V2)).await;
        let mut sender = mesh.http1("web", CART).await;
        let body = vec![7; 8 << 20];
        let answer = sender.send_request(request("POST", "/", &[("x-slow", "v2")], full(body.clone()))).await;
        let answer = Answer::of(answer.expect("answered")).await;
        assert!(answer.short() == "200 v1" && answer.body == body);
        ended(&mesh, "lost", 1.0).await;
        mesh.node.release.notify_waiters();
    });
}

/// The same with one connection to each pod at most; `x-to` names one that a request goes to without a copy.
fn one_connection_each(mirrors: &str) -> String {
    let to = |pod: &str| {
        format!(
            "{{match: [{{headers: {{x-to: {{exact: {pod}}}}}}}], route: [{{destination: {{host: cart, subset: {pod}}}}}]}}"
        )
    };
    let all =
        format!("{}, {}, {{route: [{{destination: {{host: cart, subset: v1}}}}], {mirrors}}}", to("v1"), to("v2"));
    under("connectionPool: {tcp: {maxConnections: 1}}", &routes(&all))
}

#[test]
fn a_mirror_that_reads_no_more_is_left_after_its_time() {
    run(async {
        let mesh = Mesh::new(&one_connection_each(&format!("timeout: 100ms, {TO_V2}"))).await;
        let mut sender = mesh.http2("web", CART).await;
        let (chunks, body) = fed();
        let streams = sender.send_request(request("POST", "http://cart/", &[("x-slow", "v2")], body));
        chunks.send("a".into()).expect("sent");
        let mut answer = streams.await.expect("answered before the end").into_body();
        until("the mirror has it", || mesh.node.requests.borrow().contains_key("v2")).await;
        // More than there is room for on the way, no faster than the endpoint sends it back.
        let mut left = 1;
        for _ in 0..512 {
            chunks.send(vec![7; 16 << 10].into()).expect("sent");
            left += 16 << 10;
            while left > 0 {
                left -= answer.frame().await.expect("a frame").expect("whole").into_data().expect("data").len();
            }
        }
        ended(&mesh, "lost", 1.0).await;
        assert_eq!(mesh.get("web", CART, "/", &[("x-to", "v2")]).await.short(), "200 v2", "the connection is closed");
        drop(chunks);
        assert_eq!(answer.collect().await.expect("whole").to_bytes().len(), 0);
    });
}

#[test]
fn a_mirror_whose_connection_has_gone_gets_the_copy_by_another_one() {
    run(async {
        let ejects = "outlierDetection: {consecutive5xxErrors: 1, interval: 60s, baseEjectionTime: 60s, maxEjectionPercent: 100}";
        let mesh = Mesh::new(&under(ejects, &mirrored(TO_V2))).await;
        let ejections = || mesh.metric("envoy_cluster_outlier_detection_ejections_enforced_total");
        let gone = [("x-stale", "v2")];
        assert_eq!(mesh.get("web", CART, "/", &[]).await.short(), "200 v1");
        ended(&mesh, "answered", 1.0).await;
        assert_eq!(mesh.get("web", CART, "/", &gone).await.short(), "200 v1");
        ended(&mesh, "answered", 2.0).await;
        assert_eq!(ejections(), 0.0, "it says nothing about the endpoint");
        // What may have been done already is not asked for again.
        let mut sender = mesh.http1("web", CART).await;
        let answer = sender.send_request(request("POST", "/", &gone, full("x"))).await.expect("answered");
        assert_eq!(Answer::of(answer).await.short(), "200 v1");
        ended(&mesh, "failed", 1.0).await;
        until("it is ejected", || ejections() == 1.0).await;
    });
}

const OF_V1: &str = "selector: {matchLabels: {version: v1}}";
const COPIES: &str = "underpass_waypoint_mirrored_requests_total";

/// One more request is let pass; its copy is the only one there was.
async fn the_next_copy_is_the_first(mesh: &Mesh) {
    assert_eq!(mesh.get("web", CART, "/", &[]).await.short(), "200 v1");
    ended(mesh, "answered", 1.0).await;
    assert_eq!((mesh.node.requests.borrow()["v2"], mesh.metric(COPIES)), (1, 1.0));
}

#[test]
fn a_request_that_its_endpoint_is_not_to_have_has_no_copies() {
    run(async {
        let mesh = Mesh::new(&format!("{}---\n{}", deny(OF_V1, &to("/denied")), mirrored(TO_V2))).await;
        assert_eq!(mesh.get("web", CART, "/denied", &[]).await.status, 403);
        the_next_copy_is_the_first(&mesh).await;
    });
}

/// Answers a fetch of keys with that of this signer.
async fn gives(mut fetch: TcpStream, signer: &Signer) {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        assert!(fetch.read_buf(&mut asked).await.expect("read") > 0);
    }
    let body = format!("{{\"keys\": [{}]}}", signer.jwk());
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    fetch.write_all(answer.as_bytes()).await.expect("sent");
}

#[test]
fn a_request_that_is_denied_while_it_waits_for_keys_has_no_copies() {
    run(async {
        let own = Signer::new("ES256", "1");
        let token = format!("Bearer {}", own.token(r#"{"iss": "i", "exp": 9999999999}"#));
        let said = "{match: [{uri: {exact: /said}}], directResponse: {status: 418}}";
        let mirrored = routes(&format!("{said}, {{route: [{{destination: {{host: cart, subset: v1}}}}], {TO_V2}}}"));
        for (at, path, expect) in
            [(SERVICE, "/denied", 403), (SERVICE, "/allowed", 200), (OF_V1, "/denied", 403), (OF_V1, "/allowed", 200)]
        {
            let tokens = format!(
                "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: tokens, namespace: shop}}\n\
                 spec: {{{at}, jwtRules: [{{issuer: i, jwksUri: 'http://10.0.0.50/keys'}}]}}\n---\n"
            );
            let server = TcpListener::bind("127.0.0.1:0").await.expect("bound");
            let mesh = Mesh::new("").await;
            mesh.switch.listen("10.0.0.50:80".parse().expect("address"), server.local_addr().expect("name"));
            mesh.change(&format!("{tokens}{mirrored}")).await;
            let mut sender = mesh.http2("web", CART).await;
            let path = format!("http://cart{path}");
            let waits = sender.send_request(request("GET", &path, &[("authorization", &token)], empty()));
            let waits = spawn_local(async move { waits.await.expect("answered").status() });
            // One that came later is answered: the first one waits for keys.
            let said = sender.send_request(request("GET", "http://cart/said", &[], empty())).await.expect("answered");
            assert_eq!(said.status(), 418);
            let (fetch, _) = server.accept().await.expect("fetched");
            mesh.change(&format!("{tokens}{}---\n{mirrored}", deny(SERVICE, &to("/denied")))).await;
            gives(fetch, &own).await;
            assert_eq!(waits.await.expect("ran"), expect, "{at} {path}");
            match expect {
                403 => the_next_copy_is_the_first(&mesh).await,
                _ => ended(&mesh, "answered", 1.0).await,
            }
        }
    });
}

#[test]
fn a_copy_that_waits_is_not_sent_once_its_request_was_denied() {
    run(async {
        let all = one_connection_each(TO_V2);
        for (denied, status, end) in [("/waits", 403, "denied"), ("/other", 200, "answered")] {
            let mesh = Mesh::new(&all).await;
            // Both pods are busy, so that the request and its copy have to wait.
            let mut hang = Vec::new();
            for pod in ["v1", "v2"] {
                let mut sender = mesh.http1("other", CART).await;
                let busy = request("GET", "/hang", &[("x-to", pod)], empty());
                hang.push(spawn_local(async move { sender.send_request(busy).await.expect("answered").status() }));
            }
            until("they came", || mesh.node.requests.borrow().len() == 2).await;
            let mut sender = mesh.http1("web", CART).await;
            let asked = request("GET", "/waits", &[], empty());
            let waits = spawn_local(async move { sender.send_request(asked).await.expect("answered").status() });
            until("both wait", || mesh.metric("envoy_cluster_upstream_cx_overflow") == 2.0).await;
            mesh.change(&format!("{}---\n{all}", deny(OF_V1, &to(denied)))).await;
            if status == 403 {
                until("it is denied", || waits.is_finished()).await;
            }
            mesh.node.release.notify_waiters();
            assert_eq!(waits.await.expect("ran"), status, "{denied}");
            for hang in hang {
                assert_eq!(hang.await.expect("ran"), 200);
            }
            ended(&mesh, end, 1.0).await;
            assert_eq!(mesh.node.requests.borrow()["v2"], if status == 403 { 1 } else { 2 });
        }
    });
}
