//! A whole waypoint on loopback: what goes through it, where, and what does not.

mod access_log;
mod applications;
mod authorizers;
mod clusters;
mod connection_routes;
mod connections;
mod headers;
mod hostile;
mod judging;
mod keys;
mod mesh;
mod mirrors;
mod nodes;
mod origination;
mod process;
mod protocols;
mod resilience;
mod routes;
mod signer;
mod tcp_routes;
mod telemetry;
mod tokens;

use mesh::{Answer, Mesh, empty, identity, ip, open, request, run};
use underpass_core::NamedSource;

const CART: &str = "10.96.0.10:80";

#[test]
fn a_request_is_carried_and_its_source_is_named() {
    run(async {
        let mesh = Mesh::new("").await;
        let answer = mesh.get("web", CART, "/a?b=c", &[("x-own", "1")]).await;
        assert_eq!((answer.status, answer.header("x-path"), answer.header("x-authority")), (200, "/a?b=c", "cart"));
        let headers = answer.header("x-headers");
        assert!(headers.contains("x-forwarded-for=10.0.0.1") && headers.contains("x-own=1"), "{headers}");
        assert!(headers.contains("x-request-id=") && headers.contains("x-forwarded-proto=http"), "{headers}");
        let asked = mesh.asked.borrow()[0].clone();
        assert_eq!(asked.by, identity("w"), "under the waypoint's own certificate");
        let NamedSource { identity: source, address } = asked.source;
        assert_eq!((source, address.ip()), (identity("web"), ip("web")));
        assert!(asked.authority == "10.0.0.2:8080" || asked.authority == "10.0.0.3:8080", "{}", asked.authority);
        mesh.shut_down().await;
    });
}

#[test]
fn a_connection_to_an_endpoint_has_one_source() {
    run(async {
        let mesh = Mesh::new(routes::ALL_TO_V1).await;
        for _ in 0..3 {
            for pod in ["web", "other"] {
                let answer = mesh.get(pod, CART, "/", &[]).await;
                assert_eq!(answer.short(), "200 v1");
                let from = format!("x-forwarded-for={}", ip(pod));
                assert!(answer.header("x-headers").contains(&from), "{}", answer.header("x-headers"));
            }
        }
        // One connection each, though the clients came by three.
        let mut sources: Vec<_> = mesh.asked.borrow().iter().map(|asked| asked.source.identity.to_string()).collect();
        sources.sort();
        let mut expect: Vec<_> = ["other", "web"].map(|pod| identity(pod).to_string()).into();
        expect.sort();
        assert_eq!(sources, expect);
    });
}

#[test]
fn what_is_not_served_is_refused() {
    run(async {
        let mesh = Mesh::new("").await;
        let tunnel = mesh.tunnel("web");
        for (authority, status) in [
            ("10.96.0.11:80", 400), // a Service that has no waypoint
            ("10.0.0.2:8080", 400), // a pod
            ("10.96.0.99:80", 400),
            ("nonsense", 400),
            ("10.96.0.10:81", 503),
            ("10.96.0.10:15008", 503),
        ] {
            assert_eq!(open(&tunnel, authority).await.err(), Some(status), "{authority}");
        }
        assert!(open(&tunnel, CART).await.is_ok());
        assert!(open(&tunnel, "cart.shop.svc.cluster.local:80").await.is_ok());
    });
}

#[test]
fn a_refusal_of_the_endpoints_node_is_the_answer() {
    run(async {
        let mesh = Mesh::new("").await;
        mesh.node.refuses.set(401);
        assert_eq!(mesh.get("web", CART, "/", &[]).await.status, 403);
        assert_eq!(mesh.asked.borrow().len(), 1, "a denial is not tried again");
        mesh.node.refuses.set(503);
        let answer = mesh.get("web", CART, "/", &[]).await;
        assert_eq!((answer.status, answer.body.starts_with(b"upstream connect error")), (503, true));
        assert_eq!(mesh.asked.borrow().len(), 4, "tried twice more by the mesh's default");
        assert_eq!(mesh.metric("underpass_waypoint_requests_total{end=\"connect_failed\"}"), 1.0);
    });
}

#[test]
fn policies_of_both_gates_are_judged_with_the_client_as_the_source() {
    run(async {
        let gates = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: cart}]
  rules: [{from: [{source: {principals: [cluster.local/ns/front/sa/web]}}], to: [{operation: {methods: [GET], paths: [/api/*, /open]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: secrets, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  action: DENY
  rules: [{to: [{operation: {paths: ["/api/secret*"]}}]}]
"#;
        let mesh = Mesh::new(gates).await;
        let ask = async |pod: &str, method: &str, path: &str| {
            let mut sender = mesh.http1(pod, CART).await;
            let answer = sender.send_request(request(method, path, &[], empty())).await.expect("answered");
            Answer::of(answer).await.status
        };
        for (pod, method, path, expect) in [
            ("web", "GET", "/api/x", 200),
            ("web", "GET", "/open", 200),
            ("web", "GET", "/api", 403),
            ("web", "DELETE", "/api/x", 403),
            ("other", "GET", "/api/x", 403),
            ("web", "GET", "/api/secret", 403),
            ("web", "GET", "/api/x/../secret/1", 403),
            ("web", "GET", "/api/%73ecret", 403),
            ("web", "GET", "/x/../api/x", 200),
        ] {
            assert_eq!(ask(pod, method, path).await, expect, "{pod} {method} {path}");
        }
        // A connection that is no HTTP has no method that could be allowed.
        assert_eq!(mesh.connect("web", "10.96.0.10:70").await.err(), Some(401));
        mesh.change("").await;
        assert_eq!(ask("other", "DELETE", "/api/secret").await, 200, "without policies");
        assert!(mesh.connect("web", "10.96.0.10:70").await.is_ok());
    });
}
