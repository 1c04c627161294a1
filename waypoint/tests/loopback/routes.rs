//! Where requests go: by the user's VirtualServices and DestinationRules.

use crate::{
    CART,
    mesh::{Answer, Mesh, empty, fed, full, request, run},
};

/// Subsets of the Service.
pub(crate) const SUBSETS: &str = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec:
  host: cart
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
  - {name: v3, labels: {version: v3}}
---
"#;

/// Every request goes to one pod.
pub(crate) const ALL_TO_V1: &str = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec: {host: cart, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart]
  http: [{route: [{destination: {host: cart, subset: v1}}]}]
"#;

/// A VirtualService with these routes, beside the subsets.
pub(crate) fn routes(http: &str) -> String {
    let head = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: cart, namespace: shop}\n";
    format!("{SUBSETS}{head}spec: {{hosts: [cart], http: [{http}]}}\n")
}

#[test]
fn by_header_path_and_weight() {
    run(async {
        let mesh = Mesh::new(&routes(
            "{match: [{headers: {end-user: {exact: jason}}}], route: [{destination: {host: cart, subset: v2}}]},
             {match: [{uri: {prefix: /old}}], rewrite: {uri: /new, authority: other}, route: [{destination: {host: cart, subset: v2}}]},
             {match: [{uri: {exact: /gone}}], redirect: {uri: /here, redirectCode: 302}},
             {match: [{uri: {exact: /said}}], directResponse: {status: 418, body: {string: teapot}}},
             {match: [{uri: {exact: /none}}], route: [{destination: {host: cart, subset: v3}}]},
             {match: [{uri: {exact: /undefined}}], route: [{destination: {host: cart, subset: v4}}]},
             {match: [{uri: {exact: /never}}], route: [{destination: {host: cart, subset: v1}, weight: 100}, {destination: {host: cart, subset: v2}, weight: 0}]},
             {match: [{uri: {prefix: /v1}}], headers: {request: {set: {x-set: a}, remove: [x-own]}, response: {add: {x-added: b}}}, route: [{destination: {host: cart, subset: v1}}]}",
        ))
        .await;
        let check = async |path: &str, headers: &[(&str, &str)], expect: &str| {
            let answer = mesh.get("web", CART, path, headers).await;
            assert_eq!(answer.short(), expect, "{path} {headers:?}");
            answer
        };
        check("/x", &[("end-user", "jason")], "200 v2").await;
        check("/x", &[("end-user", "bob")], "404").await;
        let answer = check("/old/a?b", &[], "200 v2").await;
        assert_eq!((answer.header("x-path"), answer.header("x-authority")), ("/new/a?b", "other"));
        assert_eq!(check("/gone", &[], "302").await.header("location"), "http://cart/here");
        assert_eq!(check("/said", &[], "418").await.body, "teapot");
        assert_eq!(check("/none", &[], "503").await.body, "no healthy upstream");
        check("/undefined", &[], "503").await;
        for _ in 0..5 {
            check("/never", &[], "200 v1").await;
        }
        let answer = check("/v1", &[("x-own", "1")], "200 v1").await;
        let headers = answer.header("x-headers");
        assert!(headers.contains("x-set=a") && !headers.contains("x-own"), "{headers}");
        assert_eq!(answer.header("x-added"), "b");
        assert_eq!(mesh.metric("underpass_waypoint_requests_total{end=\"no_route\"}"), 1.0);
        assert_eq!(mesh.metric("underpass_waypoint_requests_total{end=\"no_endpoint\"}"), 1.0);
    });
}

#[test]
fn a_request_keeps_the_routes_that_it_began_with() {
    run(async {
        let to = |subset: &str| routes(&format!("{{route: [{{destination: {{host: cart, subset: {subset}}}}}]}}"));
        let mesh = Mesh::new(&to("v1")).await;
        let mut sender = mesh.http1("web", CART).await;
        let (chunks, body) = fed();
        let under_way = sender.send_request(request("POST", "/", &[], body));
        chunks.send("first".into()).expect("sent");
        let answer = under_way.await.expect("its head comes before its body ends");
        assert_eq!(answer.headers()["x-pod"], "v1");
        mesh.change(&to("v2")).await;
        assert_eq!(mesh.get("web", CART, "/", &[]).await.short(), "200 v2");
        chunks.send(" second".into()).expect("sent");
        drop(chunks);
        assert_eq!(Answer::of(answer).await.body, "first second");
        // The next one on the same connection goes by the new ones.
        let answer = sender.send_request(request("POST", "/", &[], full("x"))).await.expect("answered");
        assert_eq!(Answer::of(answer).await.short(), "200 v2");
        mesh.change("").await;
        assert_eq!(mesh.get("web", CART, "/", &[]).await.status, 200, "without any");
    });
}

#[test]
fn http_2_and_1_are_routed_alike() {
    run(async {
        let mesh = Mesh::new(&routes(
            "{match: [{method: {exact: POST}}], route: [{destination: {host: cart, subset: v2}}]},
             {route: [{destination: {host: cart, subset: v1}}]}",
        ))
        .await;
        let mut sender = mesh.http2("web", CART).await;
        for (method, expect) in [("POST", "200 v2"), ("GET", "200 v1")] {
            let answer = sender.send_request(request(method, "http://cart/x", &[], empty())).await.expect("answered");
            let answer = Answer::of(answer).await;
            // The port says HTTP/1.
            assert_eq!((answer.short().as_str(), answer.header("x-version")), (expect, "HTTP/1.1"));
            assert_eq!(answer.header("x-authority"), "cart");
        }
    });
}
