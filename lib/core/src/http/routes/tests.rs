//! Routes, as data: objects in short, requests in one line, and the answer in one line.

mod gateway;
pub(in crate::http) mod objects;
mod properties;
mod several;

use std::time::Duration;

use self::objects::{exact, match_uri, pod_of, prefix, rule, target, to, virtual_service};
use super::*;
use crate::{
    http::{Action, Dice, Pattern, Source, Substitution, TextMatch, ValueMatch, route},
    objects::*,
    testing::{labels, model, service},
};

/// The routes of `shop/cart` port 80 that follow from these objects.
fn compiled(all: Vec<Object>) -> (Compiled, crate::resolve::Model) {
    let base = [
        service("shop/cart app=cart 10.96.0.1 80=8080").into(),
        service("shop/stock app=stock 10.96.0.2 9000=9000").into(),
        pod_of("shop/cart-1", "10.0.0.1", "app=cart version=v1"),
        pod_of("shop/cart-2", "10.0.0.2", "app=cart version=v2"),
    ];
    let model = model(base.into_iter().chain(all));
    let service = model.world().service(&crate::testing::name("shop/cart")).unwrap();
    (compile(model.world(), model.sources(), service, 80), model)
}

/// `METHOD /path header=value ...`, from a pod of namespace `front` with the label `app=web`.
fn ask(routes: &Routes, request: &str, dice: u64) -> String {
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let headers: Vec<(&str, &[u8])> =
        words.map(|w| w.split_once('=').unwrap()).map(|(name, value)| (name, value.as_bytes())).collect();
    let of_web = labels("app=web");
    let source = Source { namespace: Some("front"), labels: Some(&of_web) };
    let head = RequestHead { method, scheme: "http", authority: "cart:80", path, headers: &headers, port: 80, source };
    let decision = route(routes, &head, Dice(dice), &mut ());
    let waits = decision.delay.map_or_else(String::new, |delay| format!("after {delay:?} "));
    let does = match decision.action {
        Action::NotFound => "404".to_owned(),
        Action::Redirect { status, location, .. } => format!("{status} {location}"),
        Action::Respond(r) => {
            let grpc = r.grpc_status.map_or_else(String::new, |status| format!(" grpc {status}"));
            format!("answer {}{grpc} {:?}", r.status, String::from_utf8_lossy(&r.body))
        }
        Action::Forward(f) => {
            let short = |key: &ClusterKey| {
                let host = key.host.strip_suffix(".svc.cluster.local").unwrap_or(&key.host);
                format!("{host}:{}{}", key.port, key.subset.as_ref().map_or_else(String::new, |s| format!("/{s}")))
            };
            let mut all = vec![short(f.cluster)];
            all.extend(f.path.map(|path| format!("path {path}")));
            all.extend(f.authority.map(|authority| format!("authority {authority}")));
            all.extend(f.timeout.map(|timeout| format!("within {timeout:?}")));
            all.extend(f.retry.filter(|retry| retry.is_own).map(|retry| format!("retry {}", retry.attempts)));
            all.extend(f.retry.is_none().then(|| "no retry".to_owned()));
            all.extend(f.headers.iter().flat_map(|h| &h.request.set).map(|(name, value)| format!("{name}={value}")));
            all.extend(f.mirrors.iter().map(|cluster| format!("copy to {}", short(cluster))));
            all.join(", ")
        }
    };
    waits + &does
}

/// Requests and their answers, under the routes of these VirtualServices.
#[track_caller]
fn check(all: Vec<Object>, expect: &[(&str, &str)]) {
    let (compiled, _) = compiled(all);
    for (request, want) in expect {
        assert_eq!(ask(&compiled.routes, request, 0), *want, "{request}");
    }
}

/// One rule that has this condition, before one for everything else.
#[track_caller]
fn check_match(condition: HttpMatch, expect: &[(&str, bool)]) {
    let all = virtual_service("shop/v cart", vec![rule(vec![condition], to("cart/v2")), rule(vec![], to("cart/v1"))]);
    let (compiled, _) = compiled(vec![all.into()]);
    for (request, matches) in expect {
        let want = if *matches { "cart.shop:80/v2" } else { "cart.shop:80/v1" };
        assert_eq!(ask(&compiled.routes, request, 0), want, "{request}");
    }
}

#[test]
fn paths() {
    check_match(match_uri(exact("/api")), &[("GET /api", true), ("GET /api?x", true), ("GET /api/", false)]);
    check_match(
        match_uri(prefix("/api")),
        &[("GET /api", true), ("GET /apix", true), ("GET /api/x", true), ("GET /ap", false), ("GET /Api", false)],
    );
    check_match(match_uri(prefix("/api/")), &[("GET /api", false), ("GET /apix", false), ("GET /api/", true)]);
    let regex = TextMatch::Regex(Pattern::parse("/v[0-9]+/.*").unwrap());
    check_match(match_uri(regex), &[("GET /v1/x", true), ("GET /v1/x?y", true), ("GET /a/v1/x", false)]);
    let ignoring = |uri| HttpMatch { ignore_uri_case: true, ..match_uri(uri) };
    check_match(ignoring(exact("/Api")), &[("GET /aPI", true), ("GET /api/", false)]);
    check_match(ignoring(prefix("/Api")), &[("GET /aPIx", true), ("GET /ap", false)]);
}

#[test]
fn other_conditions() {
    let value = |text: TextMatch| ValueMatch::Value(text);
    let headers = |all: &[(&str, ValueMatch)]| {
        all.iter().map(|(name, v)| ((*name).into(), v.clone())).collect::<std::collections::BTreeMap<_, _>>()
    };
    let m = HttpMatch { method: Some(exact("POST")), ..HttpMatch::default() };
    check_match(m, &[("POST /", true), ("GET /", false), ("post /", false)]);
    let m = HttpMatch { authority: Some(exact("cart:80")), scheme: Some(exact("http")), ..HttpMatch::default() };
    check_match(m, &[("GET /", true)]);
    let m = HttpMatch { authority: Some(exact("cart")), ..HttpMatch::default() };
    check_match(m, &[("GET /", false)]);
    let jason = [("end-user", value(exact("jason"))), ("x-any", ValueMatch::Present)];
    let m = HttpMatch { headers: headers(&jason), ..HttpMatch::default() };
    check_match(
        m,
        &[
            ("GET / end-user=jason x-any=", true),
            ("GET / end-user=jason", false),
            ("GET / end-user=jasons x-any=1", false),
            // values that are repeated are one list
            ("GET / end-user=jason end-user=jason x-any=1", false),
        ],
    );
    let m = HttpMatch { without_headers: headers(&jason), ..HttpMatch::default() };
    check_match(
        m,
        &[("GET /", true), ("GET / end-user=bob", true), ("GET / end-user=jason", false), ("GET / x-any=", false)],
    );
    let m = HttpMatch { query: headers(&[("q", value(prefix("a")))]), ..HttpMatch::default() };
    check_match(
        m,
        &[
            ("GET /?q=ab", true),
            ("GET /?p&q=a&q=b", true),
            ("GET /?q=b", false),
            ("GET /", false),
            ("GET /?qq=a", false),
        ],
    );
    let m = HttpMatch { query: headers(&[("q", value(exact("")))]), ..HttpMatch::default() };
    check_match(m, &[("GET /?q", true), ("GET /?q=", true), ("GET /?q=a", false)]);
    let source = |namespace: Option<&str>, of: &str| HttpMatch {
        source_namespace: namespace.map(Into::into),
        source_labels: labels(of),
        ..HttpMatch::default()
    };
    check_match(source(Some("front"), "app=web"), &[("GET /", true)]);
    check_match(source(Some("back"), ""), &[("GET /", false)]);
    check_match(source(None, "app=web version=v1"), &[("GET /", false)]);
    let at = |port| HttpMatch { port: Some(port), ..HttpMatch::default() };
    check_match(at(80), &[("GET /", true)]);
    check_match(at(81), &[("GET /", false)]);
    let through = |gateway: &str| HttpMatch { gateways: vec![gateway.into()], ..HttpMatch::default() };
    check_match(through("mesh"), &[("GET /", true)]);
    check_match(through("front"), &[("GET /", false)]);
}

#[test]
fn one_of_several_conditions_is_enough_and_the_first_rule_counts() {
    let rules = vec![
        rule(vec![match_uri(exact("/a")), match_uri(prefix("/b"))], to("cart/v1")),
        rule(vec![match_uri(prefix("/"))], to("cart/v2")),
        rule(vec![match_uri(exact("/c"))], to("cart/v3")),
    ];
    let all = virtual_service("shop/v cart", rules);
    check(
        vec![all.into()],
        &[("GET /a", "cart.shop:80/v1"), ("GET /bb", "cart.shop:80/v1"), ("GET /c", "cart.shop:80/v2")],
    );
    let all = virtual_service("shop/v cart", vec![rule(vec![match_uri(exact("/a"))], to("cart"))]);
    check(vec![all.into()], &[("GET /a", "cart.shop:80"), ("GET /b", "404")]);
    check(vec![], &[("GET /a", "cart.shop:80")]);
}

#[test]
fn rewrites() {
    let path = |new: &str| HttpRewrite { path: Some(PathRewrite::Matched(new.into())), authority: None };
    let with = |matches: Vec<HttpMatch>, rewrite: HttpRewrite| {
        let mut one = rule(matches, to("cart"));
        one.policy.rewrite = Some(rewrite);
        vec![virtual_service("shop/v cart", vec![one]).into()]
    };
    check(
        with(vec![match_uri(prefix("/api"))], path("/v1")),
        &[
            ("GET /api", "cart.shop:80, path /v1"),
            ("GET /api/x?q=1", "cart.shop:80, path /v1/x?q=1"),
            ("GET /apix", "cart.shop:80, path /v1x"),
        ],
    );
    check(with(vec![match_uri(prefix("/api/"))], path("/")), &[("GET /api/x", "cart.shop:80, path /x")]);
    check(with(vec![match_uri(exact("/api"))], path("/v1")), &[("GET /api?q", "cart.shop:80, path /v1?q")]);
    let regex = || TextMatch::Regex(Pattern::parse("/a.*").unwrap());
    check(with(vec![match_uri(regex())], path("/v1")), &[("GET /abc?q", "cart.shop:80, path /v1?q")]);
    check(with(vec![], path("/v1")), &[("GET /abc", "cart.shop:80, path /v1abc")]);
    let ignoring = HttpMatch { ignore_uri_case: true, ..match_uri(prefix("/API")) };
    check(with(vec![ignoring], path("/v1")), &[("GET /api/x", "cart.shop:80, path /v1/x")]);
    let substitution = Substitution::parse("^/v([0-9])/(.*)$", r"/\2/\1").unwrap();
    let both = HttpRewrite { path: Some(PathRewrite::Regex(substitution)), authority: Some("other".into()) };
    check(
        with(vec![], both),
        &[
            ("GET /v1/x?q", "cart.shop:80, path /x/1?q, authority other"),
            ("GET /x", "cart.shop:80, path /x, authority other"),
        ],
    );
}

#[test]
fn answers_without_an_endpoint() {
    let redirect = HttpRedirect {
        uri: Some("/new".into()),
        prefix: None,
        authority: None,
        port: RedirectPort::AsWritten,
        scheme: None,
        status: 302,
    };
    let respond = DirectResponse { status: 503, body: b"gone"[..].into() };
    let rules = vec![
        rule(vec![match_uri(exact("/r"))], HttpAction::Redirect(redirect)),
        rule(vec![match_uri(exact("/d"))], HttpAction::Respond(respond)),
    ];
    let all = virtual_service("shop/v cart", rules);
    check(vec![all.into()], &[("GET /r?q", "302 http://cart:80/new?q"), ("GET /d", "answer 503 \"gone\"")]);
}

#[test]
fn time_retries_headers_and_copies() {
    let mut one = rule(vec![], to("cart/v1"));
    one.policy.timeout = Some(Some(Duration::from_secs(10)));
    one.policy.retries = Some(HttpRetry {
        attempts: 3,
        per_try_timeout: Some(Duration::from_secs(2)),
        on: None,
        backoff: None,
        avoids_previous: true,
        remote_localities: false,
    });
    let set = |name: &str, value: &str| HeaderOperations {
        request: HeaderChanges { set: vec![(name.into(), value.into())], ..HeaderChanges::default() },
        ..HeaderOperations::default()
    };
    one.policy.headers = set("x-route", "r");
    let HttpAction::Forward(targets) = &mut one.action else { panic!() };
    targets[0].headers = set("x-target", "t");
    let copies = |share| Mirror { target: target("stock/v2"), share: Share(share) };
    one.policy.mirrors = vec![copies(0), copies(1_000_000)];
    let all = virtual_service("shop/v cart", vec![one.clone()]);
    check(
        vec![all.into()],
        &[("GET /", "cart.shop:80/v1, within 10s, retry 3, x-target=t, x-route=r, copy to stock.shop:9000/v2")],
    );
    one.policy = HttpPolicy { timeout: Some(None), ..HttpPolicy::default() };
    one.action = to("cart/v1");
    one.policy.retries = Some(HttpRetry { attempts: 0, ..two_tries() });
    check(vec![virtual_service("shop/v cart", vec![one]).into()], &[("GET /", "cart.shop:80/v1, no retry")]);
}

fn two_tries() -> HttpRetry {
    HttpRetry {
        attempts: 2,
        per_try_timeout: None,
        on: None,
        backoff: None,
        avoids_previous: true,
        remote_localities: false,
    }
}

#[test]
fn faults() {
    let with = |delay: u32, abort: Option<(AbortWith, u32)>| {
        let mut one = rule(vec![], to("cart"));
        one.policy.fault = Some(Fault {
            delay: Some(Delay { time: Duration::from_secs(5), share: Share(delay) }),
            abort: abort.map(|(with, share)| Abort { with, share: Share(share) }),
        });
        vec![virtual_service("shop/v cart", vec![one]).into()]
    };
    let all = Share::ALL.0;
    check(with(all, None), &[("GET /", "after 5s cart.shop:80")]);
    check(with(0, None), &[("GET /", "cart.shop:80")]);
    check(with(all, Some((AbortWith::Status(418), all))), &[("GET /", "after 5s answer 418 \"fault filter abort\"")]);
    check(with(0, Some((AbortWith::Grpc(14), all))), &[("GET /", "answer 200 grpc 14 \"\"")]);
    check(with(0, Some((AbortWith::Status(418), 0))), &[("GET /", "cart.shop:80")]);
    // half of the requests, and not the same half
    let (compiled, _) = compiled(with(all / 2, Some((AbortWith::Status(418), all / 2))));
    let answers: Vec<_> = (0..1000).map(|dice| ask(&compiled.routes, "GET /", dice)).collect();
    let count = |test: &dyn Fn(&str) -> bool| answers.iter().filter(|a| test(a)).count();
    let both = count(&|a| a.starts_with("after") && a.contains("418"));
    let (late, aborted) = (count(&|a| a.starts_with("after")), count(&|a| a.contains("418")));
    // Five standard deviations: 79 of 1,000 with p = 1/2, 68 with p = 1/4.
    assert!(
        late.abs_diff(500) < 79 && aborted.abs_diff(500) < 79 && both.abs_diff(250) < 68,
        "{late} {aborted} {both}"
    );
}

#[test]
fn a_preflight_is_answered_before_a_fault() {
    let mut one = rule(vec![], to("cart"));
    one.policy.cors = Some(CorsPolicy { allow_origins: vec![exact("https://a")], ..CorsPolicy::default() });
    let abort = Some(Abort { with: AbortWith::Status(418), share: Share::ALL });
    one.policy.fault = Some(Fault { delay: None, abort });
    let v = virtual_service("shop/v cart", vec![one]);
    check(
        vec![v.into()],
        &[
            ("OPTIONS / origin=https://a access-control-request-method=PUT", "answer 200 \"\""),
            ("OPTIONS / origin=https://b access-control-request-method=PUT", "answer 418 \"fault filter abort\""),
            ("GET / origin=https://a", "answer 418 \"fault filter abort\""),
        ],
    );
}

#[test]
fn weights() {
    let mut one = rule(vec![], to("cart/v1"));
    let HttpAction::Forward(targets) = &mut one.action else { panic!() };
    let more = [("cart/v2", 20), ("cart/v3", 0)].map(|(to, weight)| WeightedTarget {
        target: target(to),
        weight,
        headers: HeaderOperations::default(),
    });
    targets[0].weight = 80;
    targets.extend(more);
    let (compiled, _) = compiled(vec![virtual_service("shop/v cart", vec![one]).into()]);
    let answers: Vec<_> = (0..10_000).map(|dice| ask(&compiled.routes, "GET /", dice)).collect();
    let count = |want: &str| answers.iter().filter(|a| *a == want).count();
    let [v1, v2, v3] = ["cart.shop:80/v1", "cart.shop:80/v2", "cart.shop:80/v3"].map(count);
    // Five standard deviations of a binomial distribution of 10,000 throws with p = 0.2.
    assert!(v2.abs_diff(2000) < 200, "{v1} {v2} {v3}");
    assert_eq!((v1 + v2, v3), (10_000, 0));
}
