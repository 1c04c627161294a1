//! What the metrics of clusters say about retries and about endpoints that fail.

use crate::{
    CART,
    mesh::{Mesh, run},
    routes::routes,
};

#[test]
fn what_came_of_retries() {
    run(async {
        let mesh = Mesh::new(&routes(
            "{match: [{uri: {prefix: /v1}}], retries: {attempts: 3, retryOn: 5xx}, route: [{destination: {host: cart, subset: v1}}]},
             {retries: {attempts: 5, retryOn: 5xx}, route: [{destination: {host: cart}}]}",
        ))
        .await;
        let series = |which: &str, subset: &str| {
            format!(
                "envoy_cluster_upstream_rq_retry{which}{{cluster_name=\"outbound|80|{subset}|cart.shop.svc.cluster.local\"}}"
            )
        };
        let counts =
            |subset: &str| ["", "_success", "_limit_exceeded", "_overflow"].map(|w| mesh.metric(&series(w, subset)));
        assert!(mesh.shows(&series("", "v1")), "before the first request");
        let fails = [("x-fail", "v1=503")];
        assert_eq!(mesh.get("web", CART, "/v1", &fails).await.status, 503);
        assert_eq!(counts("v1"), [3.0, 0.0, 1.0, 0.0]);
        // A try that fails goes to the other endpoint, sooner or later.
        while counts("")[1] == 0.0 {
            assert_eq!(mesh.get("web", CART, "/", &fails).await.status, 200);
        }
        let [retries, success, limit, overflow] = counts("");
        assert!(retries >= success && success == 1.0, "{retries} {success}");
        assert_eq!([limit, overflow], [0.0, 0.0]);
    });
}

#[test]
fn endpoints_that_are_ejected() {
    run(async {
        let outliers = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec:
  host: cart
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 3, interval: 60s, baseEjectionTime: 60s, maxEjectionPercent: 50}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart]
  http: [{retries: {attempts: 0}, route: [{destination: {host: cart}}]}]
"#;
        let mesh = Mesh::new(outliers).await;
        let cluster = "{cluster_name=\"outbound|80||cart.shop.svc.cluster.local\"}";
        let ejections = || {
            ["active", "enforced_total"]
                .map(|which| mesh.metric(&format!("envoy_cluster_outlier_detection_ejections_{which}{cluster}")))
        };
        let mut failed = 0;
        while failed < 3 {
            assert_eq!(ejections(), [0.0, 0.0]);
            failed += u32::from(mesh.get("web", CART, "/", &[("x-fail", "v1=503")]).await.status == 503);
        }
        assert_eq!(ejections(), [1.0, 1.0]);
    });
}
