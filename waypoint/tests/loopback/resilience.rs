//! What happens when endpoints fail, are slow, or are too many asked at once; and when the waypoint goes.

use crate::{
    CART,
    mesh::{Answer, Mesh, empty, fed, full, http1_over, http2_over, request, run, until},
    routes::{SUBSETS, routes},
};

#[test]
fn a_try_that_failed_goes_to_another_endpoint() {
    run(async {
        let mesh = Mesh::new(&routes(
            "{match: [{uri: {prefix: /retried}}], retries: {attempts: 2, retryOn: 5xx}, route: [{destination: {host: cart}}]},
             {match: [{uri: {prefix: /once}}], retries: {attempts: 0}, route: [{destination: {host: cart}}]},
             {route: [{destination: {host: cart}}]}",
        ))
        .await;
        for _ in 0..10 {
            let answer = mesh.get("web", CART, "/retried", &[("x-fail", "v1=503")]).await;
            assert_eq!(answer.short(), "200 v2");
        }
        assert!(mesh.node.requests.borrow()["v1"] > 0, "tried first, of ten requests some time");
        let mut sender = mesh.http1("web", CART).await;
        let body = vec![7; 60 << 10];
        let answer =
            sender.send_request(request("POST", "/retried", &[("x-fail", "v1=503")], full(body.clone()))).await;
        let answer = Answer::of(answer.expect("answered")).await;
        assert!(answer.status == 200 && answer.body == body, "a body that is kept is sent again");
        // By the default of the mesh no status is a reason.
        let mut statuses: Vec<u16> = Vec::new();
        for path in ["/once", "/default"] {
            for _ in 0..20 {
                statuses.push(mesh.get("web", CART, path, &[("x-fail", "v1=503")]).await.status);
            }
        }
        assert!(statuses.contains(&503) && statuses.contains(&200), "{statuses:?}");
    });
}

#[test]
fn a_large_or_streaming_body_is_never_sent_twice() {
    run(async {
        let mesh = Mesh::new(&routes(
            "{retries: {attempts: 3, retryOn: 5xx}, route: [{destination: {host: cart, subset: v1}}]}",
        ))
        .await;
        let mut sender = mesh.http1("web", CART).await;
        let (chunks, body) = fed();
        let under_way = sender.send_request(request("POST", "/", &[("x-fail", "v1=503")], body));
        chunks.send(vec![7; 100 << 10].into()).expect("sent");
        drop(chunks);
        assert_eq!(under_way.await.expect("answered").status(), 503);
        let tried = mesh.node.requests.borrow()["v1"];
        assert!((1..=4).contains(&tried), "{tried}");
    });
}

#[test]
fn times_of_routes_and_tries() {
    run(async {
        let mesh = Mesh::new(&routes(
            "{match: [{headers: {x-try: {exact: short}}}], timeout: 10s, retries: {attempts: 1, perTryTimeout: 300ms, retryOn: reset}, route: [{destination: {host: cart}}]},
             {timeout: 1s, route: [{destination: {host: cart}}]}",
        ))
        .await;
        // Connections to both pods are not part of it.
        while mesh.node.requests.borrow().len() < 2 {
            mesh.get("web", CART, "/", &[]).await;
        }
        mesh.node.requests.borrow_mut().clear();
        let answer = mesh.get("web", CART, "/hang", &[]).await;
        assert_eq!((answer.status, &answer.body[..]), (504, &b"upstream request timeout"[..]));
        until("the endpoint heard of it", || mesh.node.given_up.get() == 1).await;
        assert_eq!(mesh.get("web", CART, "/hang", &[("x-try", "short")]).await.status, 504);
        let requests = mesh.node.requests.borrow().clone();
        assert_eq!(requests.values().sum::<u32>(), 3, "tried twice: {requests:?}");
        until("they are counted", || mesh.metric("underpass_waypoint_requests_total{end=\"timeout\"}") == 2.0).await;
        // The time begins when the client has sent its request.
        let mut sender = mesh.http1("web", CART).await;
        let (chunks, body) = fed();
        let under_way = tokio::task::spawn_local(sender.send_request(request("POST", "/", &[], body)));
        tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
        chunks.send("late".into()).expect("sent");
        drop(chunks);
        let answer = Answer::of(under_way.await.expect("ran").expect("answered")).await;
        assert_eq!((answer.status, &answer.body[..]), (200, &b"late"[..]));
    });
}

#[test]
fn no_time_runs_while_the_client_sends() {
    run(async {
        let limit = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec: {host: cart, trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec: {hosts: [cart], http: [
  {match: [{uri: {prefix: /hang}}], route: [{destination: {host: cart, subset: v1}}]},
  {timeout: 1s, route: [{destination: {host: cart, subset: v1}}]}]}
";
        let per_try = "{timeout: 60s, retries: {attempts: 1, perTryTimeout: 1s, retryOn: reset}, route: [{destination: {host: cart, subset: v1}}]}";
        for (manifests, witness) in [(limit.to_owned(), "/"), (routes(per_try), "/hang")] {
            let mesh = Mesh::new(&manifests).await;
            let mut sender = mesh.http2("web", CART).await;
            let mut ask = |method: &str, path: &str, body| {
                let asked =
                    sender.send_request(request(method, &format!("http://cart{path}"), &[("x-keep", "1")], body));
                tokio::task::spawn_local(asked)
            };
            // In the one mesh it has the only connection, for which the upload waits with more than is kept of it.
            let holds = ask("GET", "/hang", empty());
            let has_come = |count| mesh.node.requests.borrow().get("v1") == Some(&count);
            until("it came", || has_come(1)).await;
            let (chunks, body) = fed();
            let uploads = ask("POST", "/", body);
            chunks.send(vec![7; 100 << 10].into()).expect("sent");
            if witness == "/" {
                until("it waits", || mesh.metric("envoy_cluster_upstream_cx_overflow") > 0.0).await;
                mesh.node.release.notify_one();
                assert_eq!(holds.await.expect("ran").expect("answered").status(), 200);
            }
            until("the upload came", || has_come(2)).await;
            // For a request that was sent the time runs, as often as the upload would be tried.
            for _ in 0..2 {
                let late = ask("GET", witness, empty()).await.expect("ran").expect("answered");
                assert_eq!(late.status(), 504, "{witness}");
            }
            assert!(!uploads.is_finished(), "{witness}");
            chunks.send(vec![8; 100 << 10].into()).expect("sent");
            drop(chunks);
            let answer = Answer::of(uploads.await.expect("ran").expect("answered")).await;
            assert_eq!((answer.status, answer.body.len()), (200, 200 << 10), "{witness}");
        }
    });
}

#[test]
fn limits_of_a_cluster() {
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
        let mut senders = Vec::new();
        for _ in 0..3 {
            senders.push(mesh.http1("web", CART).await);
        }
        let mut hangs =
            |n: usize| tokio::task::spawn_local(senders[n].send_request(request("GET", "/hang", &[], empty())));
        let first = hangs(0);
        until("it came", || mesh.node.requests.borrow().values().sum::<u32>() == 1).await;
        // One of them waits for the connection, and for the other there is no place.
        let (mut second, mut third) = (hangs(1), hangs(2));
        let (refused, waits) = tokio::select! {
            refused = &mut second => (refused, third),
            refused = &mut third => (refused, second),
        };
        let refused = refused.expect("ran").expect("answered");
        assert_eq!(
            (refused.status().as_u16(), refused.headers()["x-envoy-overloaded"].as_bytes()),
            (503, &b"true"[..])
        );
        assert_eq!(mesh.metric("underpass_waypoint_requests_total{end=\"overflow\"}"), 1.0);
        mesh.node.release.notify_one();
        assert_eq!(first.await.expect("ran").expect("answered").status(), 200);
        until("the other has the connection", || mesh.node.requests.borrow().values().sum::<u32>() == 2).await;
        mesh.node.release.notify_one();
        assert_eq!(waits.await.expect("ran").expect("answered").status(), 200);
    });
}

#[test]
fn an_endpoint_that_fails_again_and_again_is_left_out() {
    run(async {
        let rule = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec:
  host: cart
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    outlierDetection: {consecutive5xxErrors: 3, interval: 60s, baseEjectionTime: 60s, maxEjectionPercent: 50}
"#;
        let mesh = Mesh::new(rule).await;
        let mut failed = 0;
        while failed < 3 {
            failed += u32::from(mesh.get("web", CART, "/", &[("x-fail", "v1=500")]).await.status == 500);
        }
        for _ in 0..20 {
            assert_eq!(mesh.get("web", CART, "/", &[("x-fail", "v1=500")]).await.short(), "200 v2");
        }
    });
}

#[test]
fn a_consistent_hash_by_cookie() {
    run(async {
        let rule = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec: {host: cart, trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: user, ttl: 60s}}}}}
"#;
        let mesh = Mesh::new(rule).await;
        let first = mesh.get("web", CART, "/", &[]).await;
        let cookie = first.header("set-cookie").split(';').next().expect("a cookie").to_owned();
        assert!(cookie.starts_with("user="), "{cookie}");
        for _ in 0..10 {
            let answer = mesh.get("web", CART, "/", &[("cookie", &cookie)]).await;
            assert_eq!((answer.short(), answer.header("set-cookie")), (first.short(), ""));
        }
    });
}

#[test]
fn injected_faults() {
    run(async {
        let mesh = Mesh::new(&routes(
            "{match: [{uri: {prefix: /aborted}}], fault: {abort: {httpStatus: 418, percentage: {value: 100}}}, route: [{destination: {host: cart}}]},
             {fault: {delay: {fixedDelay: 30ms, percentage: {value: 100}}}, route: [{destination: {host: cart}}]}",
        ))
        .await;
        let answer = mesh.get("web", CART, "/aborted", &[]).await;
        assert_eq!((answer.status, &answer.body[..]), (418, &b"fault filter abort"[..]));
        assert!(mesh.node.requests.borrow().is_empty());
        let begun = std::time::Instant::now();
        assert_eq!(mesh.get("web", CART, "/", &[]).await.status, 200);
        assert!(begun.elapsed() >= std::time::Duration::from_millis(30));
    });
}

#[test]
fn a_drain_ends_what_is_under_way_in_order() {
    run(async {
        let mesh = Mesh::new(SUBSETS).await;
        let mut http2 = mesh.http2("web", CART).await;
        let mut http1 = mesh.http1("web", CART).await;
        let idle = mesh.http1("other", CART).await;
        let slow = tokio::task::spawn_local(http2.send_request(request("GET", "http://cart/hang", &[], empty())));
        let slow1 = tokio::task::spawn_local(http1.send_request(request("GET", "/hang", &[], empty())));
        until("they came", || mesh.node.requests.borrow().values().sum::<u32>() == 2).await;
        let drained = tokio::task::spawn_local(mesh.waypoint().drain());
        until("idle connections are closed", || idle.is_closed()).await;
        assert!(!drained.is_finished());
        mesh.node.release.notify_waiters();
        assert_eq!(slow.await.expect("ran").expect("answered").status(), 200);
        let answer = slow1.await.expect("ran").expect("answered");
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["connection"]),
            (200, &"close".parse().expect("value"))
        );
        drop(answer);
        drained.await.expect("drained");
    });
}

#[test]
fn a_drain_serves_what_was_on_its_way() {
    run(async {
        let patient = |settings: &mut underpass_waypoint::Settings| {
            settings.first_bytes = std::time::Duration::from_secs(60);
        };
        let mesh = Mesh::with(SUBSETS, patient).await;
        let (late1, late2) = (mesh.connect("web", CART).await, mesh.connect("web", CART).await);
        let mut idle = mesh.http1("other", CART).await;
        assert_eq!(idle.send_request(request("GET", "/", &[], empty())).await.expect("answered").status(), 200);
        let drained = tokio::task::spawn_local(mesh.waypoint().drain());
        until("idle connections are closed", || idle.is_closed()).await;
        let mut http1 = http1_over(late1.expect("accepted")).await;
        let answer = http1.send_request(request("GET", "/", &[], empty())).await.expect("answered");
        assert!(answer.status() == 200 && answer.headers()["connection"] == "close", "{answer:?}");
        let mut http2 = http2_over(late2.expect("accepted")).await;
        let asked = http2.send_request(request("GET", "http://cart/", &[], empty())).await;
        assert_eq!(asked.expect("answered").status(), 200);
        drop((answer, http1, http2));
        drained.await.expect("drained");
    });
}

#[test]
fn a_connection_with_a_limit_of_requests_takes_no_more() {
    run(async {
        let rule = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec: {host: cart, subsets: [{name: v1, labels: {version: v1}}], trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 2}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec: {hosts: [cart], http: [{route: [{destination: {host: cart, subset: v1}}]}]}
"#;
        let mesh = Mesh::new(rule).await;
        for _ in 0..5 {
            assert_eq!(mesh.get("web", CART, "/", &[]).await.status, 200);
        }
        assert_eq!(mesh.asked.borrow().len(), 3, "two requests each");
    });
}

#[test]
fn a_rewrite_leads_to_no_path_that_policy_reads_otherwise() {
    run(async {
        let deny = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: admin, namespace: shop}
spec: {selector: {matchLabels: {app: cart}}, action: DENY, rules: [{to: [{operation: {paths: ["/admin*"]}}]}]}
---
"#;
        let rewritten = "{match: [{uri: {prefix: /api}}], rewrite: {uri: /}, route: [{destination: {host: cart}}]}";
        let mesh = Mesh::new(&format!("{deny}{}", routes(rewritten))).await;
        assert_eq!(mesh.get("web", CART, "/api../admin", &[]).await.status, 403);
        assert_eq!(mesh.get("web", CART, "/apix", &[]).await.header("x-path"), "/x");
    });
}

#[test]
fn what_is_not_served_is_not_passed_by() {
    run(async {
        let with = |policy: &str| {
            format!(
                "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: cart, namespace: shop}}\n\
                 spec: {{host: cart, trafficPolicy: {{{policy}}}}}\n"
            )
        };
        let mesh = Mesh::new(&with("tls: {mode: SIMPLE, credentialName: authority}")).await;
        let answer = mesh.get("web", CART, "/", &[]).await;
        assert_eq!((answer.status, answer.body.starts_with(b"tls")), (503, true));
        assert_eq!(mesh.connect("web", "10.96.0.10:70").await.err(), Some(503));
        assert!(mesh.asked.borrow().is_empty(), "never in plaintext");
        mesh.change(&with("tls: {mode: ISTIO_MUTUAL}")).await;
        assert_eq!(mesh.get("web", CART, "/", &[]).await.status, 200, "the tunnel's own");
    });
}
