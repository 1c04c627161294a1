//! Tokens of requests: what is refused, as whom a request passes, and what the application gets.

use std::time::SystemTime;

use aws_lc_rs::hmac;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use underpass_telemetry::Format;

use crate::{
    CART,
    access_log::Lines,
    mesh::{Mesh, fed, request, run, until},
    routes::routes,
    signer::{Signer, base64url},
};

pub(crate) const ISSUER: &str = "https://issuer.example";

fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after the epoch").as_secs()
}

/// Claims of a good token, and these.
pub(crate) fn claims(more: &Value) -> String {
    let mut all = json!({"iss": ISSUER, "sub": "ann", "aud": "cart", "exp": seconds() + 3600});
    for (name, value) in more.as_object().expect("claims") {
        all[name] = value.clone();
    }
    all.to_string()
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

pub(crate) fn key_set(signers: &[&Signer]) -> String {
    json!({"keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>()}).to_string()
}

/// A RequestAuthentication of the Service cart with one rule.
pub(crate) fn authentication(rule: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens, namespace: shop}}
spec:
  targetRefs: [{{kind: Service, name: cart}}]
  jwtRules: [{{issuer: '{ISSUER}', {rule}}}]
"
    )
}

fn inline(signers: &[&Signer], more: &str) -> String {
    authentication(&format!("jwks: '{}'{more}", key_set(signers)))
}

/// What a policy of the Service cart allows, as an entry of `rules`.
fn allowing(rule: &str) -> String {
    format!(
        "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: allowed, namespace: shop}}
spec:
  targetRefs: [{{kind: Service, name: cart}}]
  rules: [{rule}]
"
    )
}

#[test]
fn what_of_tokens_is_refused() {
    run(async {
        let (own, other) = (Signer::new("RS256", "a"), Signer::new("RS256", "a"));
        let mesh = Mesh::new(&inline(&[&own], ", audiences: [cart, shop]")).await;
        let good = own.token(&claims(&json!({})));
        let unsigned = {
            let (signed, _) = good.rsplit_once('.').expect("a token");
            let payload = signed.split_once('.').expect("a token").1.to_owned();
            move |header: Value| format!("{}.{payload}", base64url(header.to_string().as_bytes()))
        };
        // The public key as a secret that both know.
        let forged = unsigned(json!({"alg": "HS256", "kid": "a"}));
        let modulus = own.jwk()["n"].as_str().expect("a number").to_owned();
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, modulus.as_bytes()), forged.as_bytes());
        let forged = format!("{forged}.{}", base64url(mac.as_ref()));
        let of = |more: Value| own.token(&claims(&more));
        for (what, token, status, text) in [
            ("a good one", good.clone(), 200, ""),
            ("another audience", of(json!({"aud": ["x", "shop"]})), 200, ""),
            ("no longer, but for a minute", of(json!({"exp": seconds() - 30})), 200, ""),
            ("another key", other.token(&claims(&json!({}))), 401, "Jwt verification fails"),
            ("a key of no name", own.named("z").token(&claims(&json!({}))), 401, "Jwt verification fails"),
            (
                "not the key's algorithm",
                own.speaking("PS256").token(&claims(&json!({}))),
                401,
                "Jwt verification fails",
            ),
            ("another issuer", of(json!({"iss": "https://other"})), 401, "Jwt issuer is not configured"),
            ("expired", of(json!({"exp": seconds() - 90})), 401, "Jwt is expired"),
            ("early", of(json!({"nbf": seconds() + 90})), 401, "Jwt not yet valid"),
            ("no audience of here", of(json!({"aud": "other"})), 403, "Audiences in Jwt are not allowed"),
            ("none", format!("{}.", unsigned(json!({"alg": "none"}))), 401, "Jwt header [alg] is not supported"),
            ("HS256", forged, 401, "Jwt header [alg] is not supported"),
            ("no token", "x".into(), 401, "Jwt is not in the form of Header.Payload.Signature"),
        ] {
            let answer = mesh.get("web", CART, "/a?b=c", &[("authorization", &bearer(&token))]).await;
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            assert_eq!((answer.status, body.starts_with(text)), (status, true), "{what}: {body}");
            let challenge = "Bearer realm=\"http://cart/a\", error=\"invalid_token\"";
            assert_eq!(answer.header("www-authenticate"), if status == 200 { "" } else { challenge }, "{what}");
        }
        let two = [("authorization", bearer(&good)), ("authorization", bearer(&other.token(&claims(&json!({})))))];
        let two: Vec<_> = two.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(mesh.get("web", CART, "/", &two).await.status, 401, "one of two");
        assert_eq!(mesh.get("web", CART, "/", &two[..1]).await.status, 200);
        assert_eq!(mesh.get("web", CART, "/", &[]).await.status, 200, "without a token");
        assert_eq!(mesh.metric("underpass_waypoint_requests_total{end=\"unauthenticated\"}"), 11.0);
        mesh.change("").await;
        assert_eq!(mesh.get("web", CART, "/", &two).await.status, 200, "without a rule");
    });
}

#[test]
fn a_token_that_was_good_expires() {
    run(async {
        let own = Signer::new("ES256", "a");
        let mesh = Mesh::new(&inline(&[&own], "")).await;
        let ask = async |token: &str| mesh.get("web", CART, "/", &[("authorization", token)]).await.status;
        // In two seconds, or one.
        let about_to_expire = || bearer(&own.token(&claims(&json!({"exp": seconds() - 58}))));
        let mut token = about_to_expire();
        while ask(&token).await != 200 {
            token = about_to_expire();
        }
        while ask(&token).await != 401 {}
    });
}

#[test]
fn policies_see_who_it_is_and_what_is_claimed() {
    run(async {
        let own = Signer::new("ES256", "a");
        let mesh = Mesh::new("").await;
        let of = |more: Value| bearer(&own.token(&claims(&more)));
        let ann = || of(json!({}));
        for (rule, token, expect) in [
            ("from: [{source: {requestPrincipals: ['https://issuer.example/ann']}}]", Some(ann()), 200),
            (
                "from: [{source: {requestPrincipals: ['https://issuer.example/ann']}}]",
                Some(of(json!({"sub": "bob"}))),
                403,
            ),
            ("from: [{source: {requestPrincipals: ['*']}}]", Some(of(json!({"sub": "bob"}))), 200),
            ("from: [{source: {requestPrincipals: ['*']}}]", None, 403),
            ("when: [{key: request.auth.audiences, values: [cart]}]", Some(of(json!({"aud": ["x", "cart"]}))), 200),
            ("when: [{key: request.auth.audiences, values: [cart]}]", Some(of(json!({"aud": ["x"]}))), 403),
            ("when: [{key: request.auth.presenter, values: [app]}]", Some(of(json!({"azp": "app"}))), 200),
            ("when: [{key: request.auth.presenter, values: [app]}]", Some(ann()), 403),
            (
                "when: [{key: 'request.auth.claims[groups]', values: [admin]}]",
                Some(of(json!({"groups": ["a", "admin"]}))),
                200,
            ),
            ("when: [{key: 'request.auth.claims[groups]', values: [admin]}]", Some(of(json!({"groups": ["a"]}))), 403),
            (
                "when: [{key: 'request.auth.claims[realm][roles]', values: [admin]}]",
                Some(of(json!({"realm": {"roles": "admin"}}))),
                200,
            ),
            (
                "when: [{key: 'request.auth.claims[realm][roles]', values: [admin]}]",
                Some(of(json!({"realm": "admin"}))),
                403,
            ),
            (
                "when: [{key: 'request.auth.claims[scope]', values: [write]}]",
                Some(of(json!({"scope": "read write"}))),
                200,
            ),
        ] {
            mesh.change(&format!("{}{}", inline(&[&own], ""), allowing(&format!("{{{rule}}}")))).await;
            let headers: Vec<_> = token.iter().map(|token| ("authorization", token.as_str())).collect();
            assert_eq!(mesh.get("web", CART, "/", &headers).await.status, expect, "{rule} {token:?}");
        }
        // Without the rule about tokens nothing is believed of them.
        mesh.change(&allowing("{from: [{source: {requestPrincipals: ['*']}}]}")).await;
        assert_eq!(mesh.get("web", CART, "/", &[("authorization", &ann())]).await.status, 403);
    });
}

#[test]
fn where_tokens_stand_and_what_the_application_gets() {
    run(async {
        let own = Signer::new("EdDSA", "a");
        let mesh = Mesh::new("").await;
        let token = own.token(&claims(&json!({"realm": {"role": "admin"}})));
        let payload = token.split('.').nth(1).expect("a payload").to_owned();
        let writes = ", outputPayloadToHeader: x-payload, outputClaimToHeaders: [{header: x-role, claim: realm.role}]";
        let places = ", fromHeaders: [{name: x-jwt, prefix: 'Token '}], fromParams: [t], fromCookies: [session]";
        let ask = async |more: &str, path: &str, headers: &[(&str, &str)]| {
            mesh.change(&inline(&[&own], more)).await;
            let answer = mesh.get("web", CART, path, headers).await;
            assert_eq!(answer.status, 200, "{more} {path}");
            (answer.header("x-path").to_owned(), answer.header("x-headers").to_owned())
        };
        let with = |name: &'static str, value: String| [(name, value)];
        for (more, path, header, seen) in [
            ("", "/a", with("authorization", bearer(&token)), "/a"),
            ("", "/a?access_token=TOKEN", with("x-a", "b".into()), "/a"),
            (places, "/a?t=TOKEN&b=c", with("x-a", "b".into()), "/a?b=c"),
            (places, "/a", with("x-jwt", format!("Token {token}")), "/a"),
            (places, "/a", with("cookie", format!("a=b; session={token}")), "/a"),
        ] {
            let header: Vec<_> = header.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let path = path.replace("TOKEN", &token);
            let (at, headers) = ask(&format!("{more}{writes}"), &path, &header).await;
            assert_eq!((at.as_str(), headers.contains(&token)), (seen, false), "{headers}");
            assert!(headers.contains(&format!("x-payload={payload}")), "{headers}");
            assert!(headers.contains("x-role=admin"), "{headers}");
            let (at, headers) = ask(&format!("{more}, forwardOriginalToken: true"), &path, &header).await;
            assert!(at.contains(&token) || headers.contains(&token), "{at} {headers}");
            assert!(!headers.contains("x-role") && !headers.contains("x-payload"), "{headers}");
        }
        // Where a rule names other places, this is none.
        let (_, headers) = ask(places, "/a", &[("authorization", &bearer("nonsense"))]).await;
        assert!(headers.contains("authorization=Bearer nonsense"), "{headers}");
        let (_, headers) = ask(writes, "/a", &[("x-role", "admin"), ("x-payload", "e30")]).await;
        assert!(!headers.contains("x-role") && !headers.contains("x-payload"), "the client's own: {headers}");
    });
}

/// A RequestAuthentication of what `at` names, with one rule.
fn rule(own: &Signer, name: &str, at: &str, more: &str) -> String {
    format!(
        "
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: {name}, namespace: shop}}
spec: {{{at}, jwtRules: [{{issuer: '{ISSUER}', jwks: '{}'{more}}}]}}
",
        key_set(&[own])
    )
}

/// A policy of what `at` names that lets these subjects of the issuer pass.
fn letting(at: &str, subjects: &[&str]) -> String {
    let principals: Vec<_> = subjects.iter().map(|subject| format!("'{ISSUER}/{subject}'")).collect();
    format!(
        "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: known, namespace: shop}}
spec: {{{at}, rules: [{{from: [{{source: {{requestPrincipals: [{}]}}}}]}}]}}
",
        principals.join(", ")
    )
}

const SERVICE: &str = "targetRefs: [{kind: Service, name: cart}]";
const PODS: &str = "selector: {matchLabels: {app: cart}}";

#[test]
fn what_is_open_is_judged_again_with_its_token() {
    run(async {
        let own = Signer::new("ES256", "a");
        let token = bearer(&own.token(&claims(&json!({}))));
        for (at, judged) in [(SERVICE, SERVICE), (SERVICE, PODS), (PODS, PODS)] {
            let rule = rule(&own, "tokens", at, "");
            let of = |subjects: &[&str]| format!("{rule}{}", letting(judged, subjects));
            let mesh = Mesh::new(&of(&["ann"])).await;
            let mut sender = mesh.http2("web", CART).await;
            let (chunks, body) = fed();
            let headers = [("authorization", token.as_str())];
            let streams = sender.send_request(request("POST", "http://cart/streams", &headers, body));
            chunks.send("a".into()).expect("sent");
            let answer = streams.await.expect("answered before the end");
            assert_eq!(answer.status(), 200, "{at}, {judged}");
            let mut answer = answer.into_body();
            let mut next =
                async || answer.frame().await.expect("a frame").map(|frame| frame.into_data().expect("data"));
            assert_eq!(next().await.expect("data"), "a");
            mesh.change(&of(&["bob", "ann"])).await;
            chunks.send("b".into()).expect("sent");
            assert_eq!(next().await.expect("data"), "b");
            mesh.change(&of(&["bob"])).await;
            assert!(next().await.is_err(), "reset, {at}, {judged}");
            assert_eq!(mesh.metric("underpass_waypoint_requests_total{end=\"denied_later\"}"), 1.0);
        }
    });
}

#[test]
fn a_copy_has_the_token_of_its_request_and_the_rules_of_its_endpoint() {
    run(async {
        let own = Signer::new("ES256", "a");
        let mirrors = routes("{route: [{destination: {host: cart, subset: v1}}], mirror: {host: cart, subset: v2}}");
        let at_v2 = "selector: {matchLabels: {version: v2}}";
        let ann = letting(at_v2, &["ann"]);
        let good = bearer(&own.token(&claims(&json!({}))));
        let bob = bearer(&own.token(&claims(&json!({"sub": "bob"}))));
        let bad = bearer(&own.token(&claims(&json!({"exp": 1}))));
        for (manifests, token, expect) in [
            (format!("{}{ann}", rule(&own, "tokens", SERVICE, "")), Some(&good), "answered"),
            (format!("{}{ann}", rule(&own, "tokens", SERVICE, "")), Some(&bob), "denied"),
            (format!("{}{ann}", rule(&own, "tokens", SERVICE, "")), None, "denied"),
            (format!("{}{ann}", rule(&own, "tokens", at_v2, "")), Some(&good), "answered"),
            (ann.clone(), Some(&good), "denied"),
            (rule(&own, "tokens", at_v2, ""), Some(&bad), "denied"),
            (rule(&own, "tokens", at_v2, ""), None, "answered"),
        ] {
            let mesh = Mesh::new(&format!("{manifests}\n---\n{mirrors}")).await;
            let headers: Vec<_> = token.iter().map(|token| ("authorization", token.as_str())).collect();
            assert_eq!(mesh.get("web", CART, "/", &headers).await.short(), "200 v1", "{manifests}");
            let series = format!("underpass_waypoint_mirrored_requests_total{{end=\"{expect}\"}}");
            until(expect, || mesh.metric(&series) == 1.0).await;
            assert_eq!(mesh.node.requests.borrow().get("v2").is_some(), expect == "answered");
        }
    });
}

#[test]
fn an_endpoints_rules_read_the_request_as_it_came() {
    run(async {
        let own = Signer::new("ES256", "a");
        let token = bearer(&own.token(&claims(&json!({}))));
        let of_pods = format!("{}{}", rule(&own, "pods", PODS, ""), letting(PODS, &["ann"]));
        let changes = "{headers: {request: {remove: [authorization]}}, route: [{destination: {host: cart}}]}";
        // What a route removes was there, and what the rules before the Service remove as well.
        for more in [String::new(), rule(&own, "service", SERVICE, "")] {
            let mesh = Mesh::new(&format!("{of_pods}{more}\n---\n{}", routes(changes))).await;
            assert_eq!(mesh.get("web", CART, "/", &[("authorization", &token)]).await.status, 200, "{more}");
            assert_eq!(mesh.get("web", CART, "/", &[]).await.status, 403, "{more}");
        }
    });
}

#[test]
fn an_endpoints_own_rules_are_asked_as_well() {
    run(async {
        let own = Signer::new("ES256", "a");
        let rule = |name: &str, at: &str, more: &str| rule(&own, name, at, more);
        let of_pods = |label: &str| format!("selector: {{matchLabels: {{{label}}}}}");
        let policy = "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: known, namespace: shop}
spec: {selector: {matchLabels: {app: cart}}, rules: [{from: [{source: {requestPrincipals: ['https://issuer.example/ann']}}]}]}
";
        let route = format!("\n---\n{}", crate::routes::ALL_TO_V1);
        let good = bearer(&own.token(&claims(&json!({}))));
        let bad = bearer(&own.token(&claims(&json!({"exp": 1}))));
        let of_service = rule("service", "targetRefs: [{kind: Service, name: cart}]", "");
        let writes = ", outputClaimToHeaders: [{header: x-sub, claim: sub}]";
        for (manifests, expect) in [
            (rule("v1", &of_pods("version: v1"), writes), [403, 200, 401]),
            (rule("v2", &of_pods("version: v2"), writes), [403, 403, 403]),
            (of_service.clone(), [403, 200, 401]),
            // The rules before the Service remove the token; the endpoint's know it nevertheless.
            (format!("{of_service}{}", rule("v1", &of_pods("version: v1"), writes)), [403, 200, 401]),
        ] {
            let mesh = Mesh::new(&format!("{manifests}{policy}{route}")).await;
            for (token, expect) in [None, Some(&good), Some(&bad)].into_iter().zip(expect) {
                let headers: Vec<_> = token.into_iter().map(|token| ("authorization", token.as_str())).collect();
                let answer = mesh.get("web", CART, "/", &headers).await;
                assert_eq!(answer.status, expect, "{manifests} {token:?}");
                let seen = answer.header("x-headers");
                assert!(!seen.contains("authorization"), "{seen}");
                assert_eq!(seen.contains("x-sub=ann"), expect == 200 && manifests.contains("x-sub"), "{seen}");
                let challenge = answer.header("www-authenticate").ends_with("error=\"invalid_token\"");
                assert_eq!(challenge, expect == 401);
            }
        }
    });
}

/// Routes of which one rewrites, one has no endpoint, and one is denied.
const ENDS: &str =
    "{match: [{uri: {prefix: /old}}], rewrite: {uri: /new}, route: [{destination: {host: cart, subset: v1}}]},
    {match: [{uri: {prefix: /none}}], route: [{destination: {host: cart, subset: v3}}]},
    {match: [{uri: {prefix: /denied}}], route: [{destination: {host: cart, subset: v1}}]}";
const DENIED: &str = "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: denied, namespace: shop}
spec: {targetRefs: [{kind: Service, name: cart}], action: DENY, rules: [{to: [{operation: {paths: [/denied]}}]}]}
---
";

#[test]
fn a_token_that_is_kept_from_the_application_is_said_nowhere() {
    run(async {
        let own = Signer::new("ES256", "a");
        let good = own.token(&claims(&json!({})));
        let bad = own.token(&claims(&json!({"exp": 1})));
        let places = ", fromHeaders: [{name: x-jwt}], fromParams: [t], fromCookies: [session]";
        let writes = ", outputClaimToHeaders: [{header: x-sub, claim: sub}]";
        let format = "%REQ(:PATH)% %REQ(X-ENVOY-ORIGINAL-PATH)% %REQ(X-JWT)% %REQ(COOKIE)% %REQ(X-SUB)%";
        for (at, forwards) in [(SERVICE, false), (PODS, false), (SERVICE, true), (PODS, true)] {
            let (log, lines) = Lines::new(Format::Text, format);
            let rule = rule(&own, "tokens", at, &format!("{places}{writes}, forwardOriginalToken: {forwards}"));
            let mesh = Mesh::logging(&format!("{rule}{DENIED}{}", routes(ENDS)), log).await;
            let mut expect = Vec::new();
            for (path, token, status) in [
                ("/old/a", &good, 200),
                ("/none", &good, 503),
                ("/denied", &good, 403),
                ("/unrouted", &good, 404),
                ("/old/a", &bad, 401),
            ] {
                let sub = if status == 200 || (at == SERVICE && status != 401) { "ann" } else { "forged" };
                let (query, cookie) = (format!("?t={token}&b=c"), format!("a=b; session={token}"));
                let headers = [("x-jwt", token.as_str()), ("cookie", &cookie), ("x-sub", "forged")];
                let answer = mesh.get("web", CART, &format!("{path}{query}"), &headers).await;
                assert_eq!(answer.status, status, "{at} {path}");
                let query = if forwards { &query } else { "?b=c" };
                let (jwt, cookie) = if forwards { (token.as_str(), &*cookie) } else { ("-", "a=b") };
                // A request that is not good at its endpoint was about to be sent there.
                let is_rewritten = status == 200 || (at == PODS && status == 401);
                let paths = match is_rewritten {
                    true => format!("/new/a{query} {path}{query}"),
                    false => format!("{path}{query} -"),
                };
                expect.push(format!("{paths} {jwt} {cookie} {sub}"));
                if status == 200 {
                    let seen = answer.header("x-headers");
                    assert_eq!(answer.header("x-path"), format!("/new/a{query}"));
                    assert!(seen.contains(&format!("x-envoy-original-path={path}{query}")), "{seen}");
                    assert_eq!(seen.contains(token), forwards, "{seen}");
                }
            }
            assert_eq!(lines.first(expect.len()).await, expect, "{at}");
        }
    });
}
