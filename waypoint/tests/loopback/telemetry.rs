//! What the metrics of a waypoint say about the requests that went through it.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    CART,
    mesh::{Answer, Mesh, empty, full, request, run, until},
    routes::{ALL_TO_V1, routes},
};

const CLUSTER: &str = "{cluster_name=\"outbound|80|v1|cart.shop.svc.cluster.local\"}";

/// Waits until there is one request with these labels, from the pod web to the Service cart.
async fn one(mesh: &Mesh, labels: &[&str]) {
    let from = ["source_workload=\"web\"", "source_principal=\"spiffe://cluster.local/ns/front/sa/web\""];
    let to = ["destination_service=\"cart.shop.svc.cluster.local\"", "reporter=\"waypoint\""];
    let all: Vec<&str> = from.into_iter().chain(to).chain(labels.iter().copied()).collect();
    until(&format!("{labels:?}"), || mesh.sum("istio_requests_total{", &all) == 1.0).await;
}

#[test]
fn labels_of_requests_by_their_answers() {
    run(async {
        let mesh = Mesh::new(&routes(
            "{match: [{uri: {prefix: /hang}}], timeout: 50ms, route: [{destination: {host: cart, subset: v1}}]},
             {match: [{uri: {prefix: /aborted}}], fault: {abort: {httpStatus: 418, percentage: {value: 100}}}, route: [{destination: {host: cart}}]},
             {match: [{uri: {prefix: /slow}}], fault: {delay: {fixedDelay: 1ms, percentage: {value: 100}}}, route: [{destination: {host: cart, subset: v1}}]},
             {match: [{uri: {prefix: /tried}}], retries: {attempts: 1, retryOn: 5xx}, route: [{destination: {host: cart, subset: v1}}]},
             {match: [{uri: {prefix: /none}}], route: [{destination: {host: cart, subset: v3}}]},
             {match: [{uri: {prefix: /ok}}], route: [{destination: {host: cart, subset: v1}}]}",
        ))
        .await;
        let v1 = "destination_principal=\"spiffe://cluster.local/ns/shop/sa/v1\"";
        let nowhere = "destination_workload=\"unknown\"";
        for (path, labels) in [
            ("/ok", ["response_code=\"200\"", "response_flags=\"-\"", v1]),
            ("/hang", ["response_code=\"504\"", "response_flags=\"UT\"", v1]),
            ("/aborted", ["response_code=\"418\"", "response_flags=\"FI\"", nowhere]),
            ("/slow", ["response_code=\"200\"", "response_flags=\"DI\"", v1]),
            ("/tried", ["response_code=\"503\"", "response_flags=\"URX\"", v1]),
            ("/none", ["response_code=\"503\"", "response_flags=\"UH\"", nowhere]),
            ("/unrouted", ["response_code=\"404\"", "response_flags=\"NR\"", nowhere]),
        ] {
            mesh.get("web", CART, path, if path == "/tried" { &[("x-fail", "v1=503")] } else { &[] }).await;
            one(&mesh, &labels).await;
        }
        // The node of the endpoint denies it: the connection is none.
        mesh.node.refuses.set(401);
        mesh.get("other", CART, "/ok", &[]).await;
        let denied = ["response_code=\"403\"", "response_flags=\"-\"", "source_workload=\"other\""];
        assert_eq!(
            mesh.sum("istio_requests_total{", &[&denied[..], &["destination_principal=\"unknown\""]].concat()),
            1.0
        );
        assert_eq!(mesh.sum("istio_requests_total{", &["source_workload=\"web\""]), 7.0, "once each");
        assert_eq!(mesh.sum("istio_request_duration_milliseconds_count{", &[]), 8.0);
    });
}

#[test]
fn a_client_that_goes_away_has_no_code_but_its_endpoint() {
    run(async {
        let mesh = Mesh::new(ALL_TO_V1).await;
        let mut sender = mesh.http2("web", CART).await;
        let hangs = sender.send_request(request("GET", "http://cart/hang", &[], empty()));
        let hangs = tokio::task::spawn_local(hangs);
        until("it came", || mesh.node.requests.borrow().contains_key("v1")).await;
        assert_eq!(mesh.sum("istio_requests_total{", &[]), 0.0, "it has not ended");
        hangs.abort();
        let v1 = "destination_principal=\"spiffe://cluster.local/ns/shop/sa/v1\"";
        one(&mesh, &["response_code=\"0\"", "response_flags=\"DC\"", v1]).await;
    });
}

/// One retry at once.
const ONE_RETRY: &str = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec:
  host: cart
  trafficPolicy: {connectionPool: {http: {maxRetries: 1}}}
  subsets: [{name: v1, labels: {version: v1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart]
  http:
  - {match: [{uri: {prefix: /v1}}], retries: {attempts: 3, retryOn: 5xx}, route: [{destination: {host: cart, subset: v1}}]}
  - {retries: {attempts: 1, retryOn: 5xx}, route: [{destination: {host: cart}}]}
"#;

#[test]
fn a_retry_that_a_limit_forbids_is_an_overflow() {
    run(async {
        let mesh = Mesh::new(ONE_RETRY).await;
        let fails = [("x-fail", "v1=503")];
        let came = |pod: &str| mesh.node.requests.borrow().get(pod).copied().unwrap_or(0);
        // What fails at v1 is tried again at v2, where it hangs.
        let (mut senders, mut hang) = (Vec::new(), 0);
        while came("v1") == 0 {
            let mut sender = mesh.http1("web", CART).await;
            hang += 1;
            drop(tokio::task::spawn_local(sender.send_request(request("GET", "/hang", &fails, empty()))));
            senders.push(sender);
            until("it came", || came("v1") + came("v2") >= hang).await;
        }
        until("it is tried again", || came("v2") == hang).await;
        let mut status = 200;
        while status == 200 {
            status = mesh.get("web", CART, "/", &fails).await.status;
        }
        assert_eq!(status, 503);
        one(&mesh, &["response_code=\"503\"", "response_flags=\"UO\""]).await;
        mesh.node.release.notify_waiters();
        drop(senders);
    });
}

#[test]
fn retries_of_one_request_are_one_after_the_other() {
    run(async {
        let mesh = Mesh::new(ONE_RETRY).await;
        assert_eq!(mesh.get("web", CART, "/v1", &[("x-fail", "v1=503")]).await.status, 503);
        assert_eq!(mesh.node.requests.borrow()["v1"], 4);
        one(&mesh, &["response_code=\"503\"", "response_flags=\"URX\""]).await;
    });
}

#[test]
fn a_policy_of_the_waypoint_is_403_without_an_endpoint() {
    run(async {
        let policy = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: shop}
spec: {targetRefs: [{kind: Service, name: cart}]}
"#;
        let mesh = Mesh::new(policy).await;
        assert_eq!(mesh.get("web", CART, "/", &[]).await.status, 403);
        one(&mesh, &["response_code=\"403\"", "response_flags=\"-\"", "destination_workload=\"unknown\""]).await;
    });
}

#[test]
fn bytes_of_bodies_and_the_status_of_grpc() {
    run(async {
        let mesh = Mesh::new(ALL_TO_V1).await;
        let mut sender = mesh.http2("web", "10.96.0.10:90").await;
        let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("x-trailers", "7")];
        let answer = sender.send_request(request("POST", "http://cart/p.S/M", &headers, full("four"))).await;
        assert_eq!(Answer::of(answer.expect("answered")).await.body, "four");
        one(&mesh, &["request_protocol=\"grpc\"", "response_code=\"200\"", "grpc_response_status=\"7\""]).await;
        for family in ["istio_request_bytes_sum{", "istio_response_bytes_sum{"] {
            assert_eq!(mesh.sum(family, &[]), 4.0, "{family}");
        }
        // A body that is sent again is received once.
        let mut sender = mesh.http1("web", CART).await;
        let answer = sender.send_request(request("POST", "/", &[], full(vec![7; 1000]))).await;
        assert_eq!(Answer::of(answer.expect("answered")).await.body.len(), 1000);
        one(&mesh, &["request_protocol=\"http\"", "response_code=\"200\"", "grpc_response_status=\"\""]).await;
        assert_eq!(mesh.sum("istio_request_bytes_sum{", &[]), 1004.0);
    });
}

#[test]
fn limits_that_were_met() {
    run(async {
        let limits = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec:
  host: cart
  trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}}
  subsets: [{name: v1, labels: {version: v1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec: {hosts: [cart], http: [{route: [{destination: {host: cart, subset: v1}}]}]}
"#;
        let mesh = Mesh::new(limits).await;
        let series = |which: &str| format!("envoy_cluster_upstream_{which}_overflow{CLUSTER}");
        assert!(mesh.shows(&series("cx")) && mesh.shows(&series("rq_pending")), "before the first request");
        let met = |which: &str| mesh.metric(&series(which));
        let mut senders = Vec::new();
        for _ in 0..3 {
            senders.push(mesh.http1("web", CART).await);
        }
        let mut hangs =
            |n: usize| tokio::task::spawn_local(senders[n].send_request(request("GET", "/hang", &[], empty())));
        let first = hangs(0);
        until("it came", || mesh.node.requests.borrow().values().sum::<u32>() == 1).await;
        assert_eq!([met("cx"), met("rq_pending")], [0.0, 0.0]);
        let (mut second, mut third) = (hangs(1), hangs(2));
        let waits = tokio::select! {
            _ = &mut second => third,
            _ = &mut third => second,
        };
        one(&mesh, &["response_code=\"503\"", "response_flags=\"UO\""]).await;
        assert_eq!([met("cx"), met("rq_pending")], [2.0, 1.0]);
        mesh.node.release.notify_one();
        assert_eq!(first.await.expect("ran").expect("answered").status(), 200);
        until("the other has the connection", || mesh.node.requests.borrow().values().sum::<u32>() == 2).await;
        mesh.node.release.notify_one();
        assert_eq!(waits.await.expect("ran").expect("answered").status(), 200);
        assert_eq!(met("cx"), 2.0, "one that waits has met it once");
    });
}

#[test]
fn series_are_limited() {
    run(async {
        let mesh = Mesh::with(ALL_TO_V1, |settings| settings.metrics.most_series = 1).await;
        for path in ["/", "/"] {
            mesh.get("web", CART, path, &[]).await;
        }
        mesh.get("other", CART, "/", &[]).await;
        until("all are counted", || mesh.sum("istio_requests_total{", &[]) == 3.0).await;
        assert_eq!(mesh.sum("istio_requests_total{", &["source_workload=\"web\""]), 2.0);
        assert_eq!(mesh.sum("istio_requests_total{", &["source_workload=\"overflow\"", "response_code=\"200\""]), 1.0);
        assert_eq!(mesh.metric("underpass_waypoint_folded_total"), 1.0);
    });
}

#[test]
fn connections_that_are_no_http() {
    run(async {
        let mesh = Mesh::new(ALL_TO_V1).await;
        let sum = |family: &str, labels: &[&str]| {
            let of_service = ["destination_service_name=\"cart\"", "request_protocol=\"tcp\"", "reporter=\"waypoint\""];
            mesh.sum(&format!("istio_tcp_{family}_total{{"), &[&of_service[..], labels].concat())
        };
        let web = "source_principal=\"spiffe://cluster.local/ns/front/sa/web\"";
        let mut stream = mesh.connect("web", "10.96.0.10:70").await.expect("accepted");
        stream.write_all(b"\0six..").await.expect("sent");
        let mut echoed = [0; 6];
        stream.read_exact(&mut echoed).await.expect("echoed");
        let pod = mesh.asked.borrow()[0].pod;
        let to = format!("destination_principal=\"spiffe://cluster.local/ns/shop/sa/{pod}\"");
        let all = || {
            ["connections_opened", "connections_closed", "received_bytes", "sent_bytes"].map(|f| sum(f, &[web, &to]))
        };
        assert_eq!(all(), [1.0, 0.0, 6.0, 6.0], "it is open");
        stream.shutdown().await.expect("ended");
        assert_eq!(stream.read(&mut echoed).await.expect("read"), 0);
        until("it is closed", || all() == [1.0, 1.0, 6.0, 6.0]).await;
        assert_eq!(sum("connections_closed", &["response_flags=\"-\""]), 1.0);
        // One that the endpoint's node refuses, and one that turns out to be HTTP.
        mesh.node.refuses.set(503);
        assert_eq!(mesh.connect("web", "10.96.0.10:70").await.err(), Some(503));
        assert_eq!(sum("connections_closed", &["response_flags=\"UF\"", "destination_principal=\"unknown\""]), 1.0);
        mesh.node.refuses.set(0);
        mesh.get("web", "10.96.0.10:60", "/", &[]).await;
        assert_eq!(sum("connections_opened", &[]), 2.0);
    });
}

#[test]
fn dry_runs_are_counted_and_deny_nothing() {
    run(async {
        let policy = |name: &str, at: &str, annotations: &str| {
            format!(
                "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: shop{annotations}}}
spec: {{{at}, action: DENY, rules: [{{to: [{{operation: {{paths: [/{name}]}}}}]}}]}}
"
            )
        };
        let tried = ", annotations: {istio.io/dry-run: 'true'}";
        let (service, pods) = ("targetRefs: [{kind: Service, name: cart}]", "selector: {matchLabels: {app: cart}}");
        let policies = [("a", service, tried), ("b", pods, tried), ("c", service, "")];
        let mesh = Mesh::new(&policies.map(|(name, at, tried)| policy(name, at, tried)).concat()).await;
        for (path, status, expect) in [("/a", 200, [1.0, 0.0]), ("/b", 200, [1.0, 1.0]), ("/c", 403, [1.0, 1.0])] {
            assert_eq!(mesh.get("web", CART, path, &[]).await.status, status);
            let of =
                |name: &str| mesh.sum("underpass_waypoint_dry_run_denials_total{", &[&format!("policy=\"{name}\"")]);
            until("it is counted", || [of("a"), of("b")] == expect).await;
            assert_eq!(of("c"), 0.0, "it is enforced");
        }
    });
}
