//! Headers that a waypoint makes, passes on and takes away.

use underpass_core::{http::PathNormalization, world::MeshSettings};
use underpass_telemetry::Format;
use underpass_waypoint::ClientCert;

use crate::{
    CART,
    access_log::Lines,
    mesh::{Mesh, run},
    routes::{ALL_TO_V1, routes},
};

#[test]
fn headers_of_traces_are_passed_on_and_none_is_made() {
    run(async {
        let mesh = Mesh::new(ALL_TO_V1).await;
        let traces = [
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("tracestate", "a=1,b=2"),
            ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1"),
            ("x-b3-traceid", "80f198ee56343ba864fe8b2a57d3eff7"),
            ("x-b3-spanid", "e457b5a2e4d86bd1"),
            ("x-b3-parentspanid", "05e3ac9a4f6e3b90"),
            ("x-b3-sampled", "1"),
            ("x-b3-flags", "1"),
            ("x-ot-span-context", "c"),
            ("baggage", "k=v"),
            ("x-request-id", "kept"),
        ];
        let answer = mesh.get("web", CART, "/", &traces).await;
        let seen: Vec<&str> = answer.header("x-headers").split(' ').collect();
        for (name, value) in traces {
            assert!(seen.contains(&&*format!("{name}={value}")), "{name}: {seen:?}");
        }
        let answer = mesh.get("web", CART, "/", &[]).await;
        let made: Vec<&str> =
            answer.header("x-headers").split(' ').filter_map(|h| Some(h.split_once('=')?.0)).collect();
        assert!(traces[..10].iter().all(|(name, _)| !made.contains(name)), "{made:?}");
        assert!(made.contains(&"x-request-id"), "{made:?}");
    });
}

#[test]
fn a_try_has_its_number_and_a_rewritten_path_the_one_before() {
    run(async {
        let mesh = Mesh::new(&routes(
            "{match: [{uri: {prefix: /old}}], rewrite: {uri: /new}, retries: {attempts: 3, retryOn: 5xx}, route: [{destination: {host: cart}}]},
             {retries: {attempts: 3, retryOn: 5xx}, route: [{destination: {host: cart}}]}",
        ))
        .await;
        let claimed = [("x-envoy-attempt-count", "9")];
        let answer = mesh.get("web", CART, "/", &claimed).await;
        let seen = answer.header("x-headers");
        assert!(seen.contains("x-envoy-attempt-count=1") && !seen.contains("x-envoy-original-path"), "{seen}");
        let answer = mesh.get("web", CART, "/old/./a?q=1", &[]).await;
        assert_eq!(answer.header("x-path"), "/new/a?q=1");
        assert!(answer.header("x-headers").contains("x-envoy-original-path=/old/a?q=1"), "{answer:?}");
        // Until a try has failed at v1, and the next one came to v2.
        let mut seen = String::new();
        while !seen.contains("x-envoy-attempt-count=2") {
            let answer = mesh.get("web", CART, "/", &[("x-fail", "v1=503")]).await;
            seen = answer.header("x-headers").to_owned();
        }
    });
}

#[test]
fn no_client_speaks_for_a_proxy() {
    run(async {
        let (log, lines) = Lines::new(Format::Text, "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %REQ(X-ENVOY-RETRY-ON)%");
        let deny = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny, namespace: shop}\n\
            spec: {targetRefs: [{kind: Service, name: cart}], action: DENY, rules: [{to: [{operation: {paths: [/denied]}}]}]}\n---\n";
        let rewritten = "{match: [{uri: {prefix: /old}}], rewrite: {uri: /new}, route: [{destination: {host: cart}}]},
             {route: [{destination: {host: cart}}]}";
        let mesh = Mesh::logging(&format!("{deny}{}", routes(rewritten)), log).await;
        let claims = [
            ("x-envoy-original-path", "/forged"),
            ("x-envoy-retry-on", "5xx"),
            ("x-envoy-decorator-operation", "forged"),
            ("x-envoy-expected-rq-timeout-ms", "1"),
            ("x-envoy-external-address", "192.0.2.1"),
        ];
        for (path, original) in [("/a", None), ("/old/a", Some("/old/a"))] {
            let answer = mesh.get("web", CART, path, &claims).await;
            let seen: Vec<&str> = answer.header("x-headers").split(' ').filter(|h| h.starts_with("x-envoy-")).collect();
            let original = original.map(|path| format!("x-envoy-original-path={path}"));
            let made = ["x-envoy-attempt-count=1", "x-envoy-external-address=192.0.2.1"];
            assert_eq!(seen, made.into_iter().chain(original.as_deref()).collect::<Vec<_>>(), "{path}");
        }
        assert_eq!(mesh.get("web", CART, "/denied", &claims).await.status, 403);
        assert_eq!(lines.first(3).await, ["/a -", "/old/a -", "/denied -"]);
    });
}

#[test]
fn no_client_says_by_whose_certificate_it_comes() {
    run(async {
        let claims = [("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/admin")];
        let mesh = Mesh::new(ALL_TO_V1).await;
        let answer = mesh.get("web", CART, "/", &claims).await;
        assert!(!answer.header("x-headers").contains("x-forwarded-client-cert"), "{answer:?}");
        let mesh = Mesh::with(ALL_TO_V1, |settings| settings.client_cert = ClientCert::Set).await;
        let answer = mesh.get("web", CART, "/", &claims).await;
        let said =
            "x-forwarded-client-cert=By=spiffe://cluster.local/ns/shop/sa/w;URI=spiffe://cluster.local/ns/front/sa/web";
        let seen: Vec<&str> = answer.header("x-headers").split(' ').collect();
        assert!(seen.contains(&said), "{seen:?}");
    });
}

#[test]
fn paths_are_normalised_as_the_mesh_says() {
    run(async {
        let denied = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: secret, namespace: shop}\n\
            spec: {targetRefs: [{kind: Service, name: cart}], action: DENY, rules: [{to: [{operation: {paths: [/a/secret]}}]}]}\n";
        let mesh = Mesh::new(denied).await;
        let asked = async |path: &str| {
            let answer = mesh.get("web", CART, path, &[]).await;
            format!("{} {}", answer.status, answer.header("x-path"))
        };
        for (mode, answers) in [
            (PathNormalization::None, ["200 /a/%73ecret", "200 /a//secret", "200 /a%2Fsecret"]),
            (PathNormalization::Base, ["403 ", "200 /a//secret", "200 /a%2Fsecret"]),
            (PathNormalization::MergeSlashes, ["403 ", "403 ", "200 /a%2Fsecret"]),
            (PathNormalization::DecodeAndMergeSlashes, ["403 "; 3]),
        ] {
            mesh.set(MeshSettings { path_normalization: mode, ..MeshSettings::default() }).await;
            let all = [asked("/a/%73ecret").await, asked("/a//secret").await, asked("/a%2Fsecret").await];
            assert_eq!(all, answers, "{mode}");
        }
    });
}
