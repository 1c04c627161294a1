//! Routes of the Gateway API that are attached to a Service: precedence, backends, filters, callers, and what they take the
//! place of.

use super::{
    objects::{
        asked, backend, elements, exact, gateway_route, grpc, match_uri, rule, to, to_backends, virtual_service,
    },
    *,
};
use crate::http::{AcceptedReason, ResolvedReason, parent_statuses};

/// Services that rules lead to: `a`, `b`, `c` of `shop`, and `x` of `other`.
fn with_backends(all: Vec<Object>) -> Vec<Object> {
    let services =
        ["shop/a app=a 10.96.1.1 80=8080", "shop/b app=b 10.96.1.2 80=8080", "shop/c app=c 10.96.1.3 80=8080"];
    let services = services.into_iter().chain(["other/x app=x 10.96.1.4 80=8080"]);
    services.map(|text| service(text).into()).chain(all).collect()
}

#[track_caller]
fn routed(all: Vec<GatewayRoute>, expect: &[(&str, &str)]) {
    check(with_backends(all.into_iter().map(Into::into).collect()), expect);
}

fn on(uri: TextMatch) -> RouteMatch {
    asked(match_uri(uri))
}

fn header(name: &str, value: &str) -> HttpMatch {
    let headers = [(name.into(), ValueMatch::Value(exact(value)))].into();
    HttpMatch { headers, ..HttpMatch::default() }
}

#[test]
fn prefixes_are_of_elements() {
    let route = gateway_route("shop/r HTTP cart", vec![to_backends(vec![on(elements("/api"))], &["a"])]);
    routed(
        vec![route],
        &[
            ("GET /api", "a.shop:80"),
            ("GET /api/x?q", "a.shop:80"),
            ("GET /api?q", "a.shop:80"),
            ("GET /apix", "404"),
            ("GET /ap", "404"),
            ("GET /", "404"),
        ],
    );
}

#[test]
fn what_asks_for_most_comes_first_in_whichever_rule_it_stands() {
    let get = HttpMatch { method: Some(exact("GET")), ..match_uri(elements("/api")) };
    let regex = TextMatch::Regex(Pattern::parse("/z.*").unwrap());
    let two = HttpMatch { uri: Some(elements("/api")), ..header("x-a", "1") };
    let query = [("q".into(), ValueMatch::Value(exact("1")))].into();
    let query = HttpMatch { query, ..match_uri(elements("/api")) };
    let rules = vec![
        to_backends(vec![], &["a"]),
        to_backends(vec![on(elements("/api"))], &["b"]),
        to_backends(vec![on(regex)], &["b"]),
        to_backends(vec![asked(query)], &["cart"]),
        to_backends(vec![asked(two)], &["c"]),
        to_backends(vec![asked(get)], &["stock:9000"]),
        to_backends(vec![on(elements("/api/long")), on(exact("/api"))], &["other/x"]),
    ];
    routed(
        vec![gateway_route("shop/r HTTP cart", rules)],
        &[
            ("GET /api", "x.other:80"),
            ("GET /api/long/x", "x.other:80"),
            ("GET /api/x x-a=1", "stock.shop:9000"),
            ("PUT /api/x?q=1 x-a=1", "c.shop:80"),
            ("PUT /api/x?q=1", "cart.shop:80"),
            ("PUT /api/x?q=2", "b.shop:80"),
            ("GET /zz", "b.shop:80"),
            ("GET /y", "a.shop:80"),
        ],
    );
}

#[test]
fn of_equals_the_oldest_then_by_name_then_the_first() {
    let one = |text: &str, to: &[&str]| {
        let rules = to.iter().map(|to| to_backends(vec![on(elements("/api"))], &[to])).collect();
        gateway_route(text, rules)
    };
    let api = |all: Vec<GatewayRoute>, want: &str| routed(all, &[("GET /api", want)]);
    api(vec![one("shop/z HTTP cart @1", &["a"]), one("shop/b HTTP cart @2", &["b"])], "a.shop:80");
    api(vec![one("shop/z HTTP cart", &["a"]), one("shop/b HTTP cart", &["b"])], "b.shop:80");
    api(vec![one("shop/z HTTP cart", &["c", "a"])], "c.shop:80");
    // a rule of a younger route that asks for more
    let exact = gateway_route("shop/y HTTP cart @9", vec![to_backends(vec![on(exact("/api"))], &["c"])]);
    api(vec![one("shop/a HTTP cart @1", &["a"]), exact], "c.shop:80");
}

#[test]
fn headers_of_requests() {
    let route = gateway_route("shop/r HTTP cart", vec![to_backends(vec![asked(header("x-a", "1"))], &["a"])]);
    routed(
        vec![route],
        &[
            ("GET / x-a=1", "a.shop:80"),
            ("GET / x-a=2", "404"),
            // repeated values are one list
            ("GET / x-a=1 x-a=1", "404"),
            ("GET /", "404"),
        ],
    );
}

#[test]
fn backends_that_do_not_exist_refuse_their_share() {
    let to = |protocol: &str, all: &[&str]| {
        vec![gateway_route(&format!("shop/r {protocol} cart"), vec![to_backends(vec![], all)])]
    };
    for all in [&["none"][..], &["a:81"], &[], &["a=0", "b=0"], &["none=1", "a=0"]] {
        routed(to("HTTP", all), &[("GET /", "answer 500 \"\"")]);
        routed(to("GRPC", all), &[("POST /s/m", "answer 200 grpc 14 \"\"")]);
    }
    let mut secret = to("HTTP", &["a"]);
    secret[0].rules[0].backends[0].to.target.kind = "Secret".into();
    routed(secret, &[("GET /", "answer 500 \"\"")]);
    routed(to("HTTP", &["none=0", "a=1"]), &[("GET /", "a.shop:80")]);
    // A backend of another namespace needs no grant at a Service.
    routed(to("HTTP", &["other/x"]), &[("GET /", "x.other:80")]);
    let all = with_backends(vec![to("HTTP", &["none=20", "a=80"]).remove(0).into()]);
    let (compiled, _) = compiled(all);
    let answers: Vec<_> = (0..10_000).map(|dice| ask(&compiled.routes, "GET /", dice)).collect();
    let refused = answers.iter().filter(|answer| *answer == "answer 500 \"\"").count();
    assert!(refused.abs_diff(2000) < 200, "five standard deviations of a binomial distribution, p = 0.2: {refused}");
    assert!(answers.iter().all(|answer| answer == "answer 500 \"\"" || answer == "a.shop:80"));
}

#[test]
fn filters() {
    let with = |change: &dyn Fn(&mut RouteRule)| {
        let mut one = to_backends(vec![on(elements("/api"))], &["a"]);
        change(&mut one);
        vec![gateway_route("shop/r HTTP cart", vec![one])]
    };
    let rewritten =
        |path| move |one: &mut RouteRule| one.rewrite = Some(HttpRewrite { path: Some(path), authority: None });
    let to = |path: PathRewrite| with(&|one| rewritten(path.clone())(one));
    routed(
        to(PathRewrite::Elements("/v1".into())),
        &[("GET /api/x?q", "a.shop:80, path /v1/x?q"), ("GET /api", "a.shop:80, path /v1")],
    );
    routed(to(PathRewrite::Elements("/".into())), &[("GET /api/x", "a.shop:80, path /x")]);
    routed(to(PathRewrite::Full("/all".into())), &[("GET /api/x?q", "a.shop:80, path /all?q")]);
    let redirect = |uri: Option<&str>, prefix: Option<&str>, port| HttpRedirect {
        uri: uri.map(Into::into),
        prefix: prefix.map(Into::into),
        authority: None,
        port,
        scheme: None,
        status: 302,
    };
    let led = |redirect: HttpRedirect| with(&|one| one.redirect = Some(redirect.clone()));
    let (called, https) = (RedirectPort::Called, RedirectPort::ProtocolDefault);
    routed(led(redirect(None, Some("/new"), called)), &[("GET /api/x?q", "302 http://cart/new/x?q")]);
    routed(led(redirect(Some("/new"), None, called)), &[("GET /api/x", "302 http://cart/new")]);
    let secure = HttpRedirect { scheme: Some("https".into()), ..redirect(None, None, https) };
    routed(led(secure), &[("GET /api/x", "302 https://cart/api/x")]);
    let mirrored = |share| RouteMirror { to: backend("b").to, share: Share(share) };
    routed(
        with(&|one| one.mirrors = vec![mirrored(0), mirrored(1_000_000)]),
        &[("GET /api", "a.shop:80, copy to b.shop:80")],
    );
    let lost = RouteMirror { to: backend("none").to, share: Share::ALL };
    routed(with(&|one| one.mirrors = vec![lost.clone()]), &[("GET /api", "a.shop:80")]);
}

#[test]
fn time_and_retries() {
    let second = Duration::from_secs;
    let policy = |timeout: u64, backend_timeout: u64, retry: Option<RouteRetry>| {
        let limit = |s: u64| (s > 0).then(|| second(s));
        let mut one = to_backends(vec![], &["a"]);
        (one.timeout, one.backend_timeout, one.retry) = (limit(timeout), limit(backend_timeout), retry);
        let (compiled, _) = compiled(with_backends(vec![gateway_route("shop/r HTTP cart", vec![one]).into()]));
        let route = Arc::clone(&compiled.routes.rules[0].route);
        let retry = route.retry.as_ref().map(|r| {
            let on: Vec<_> = r.on.conditions.iter().map(|c| c.as_str()).collect();
            (r.attempts, r.per_try_timeout.map(|t| t.as_secs()), on.join(","), r.on.statuses.clone(), r.is_own)
        });
        (route.timeout.map(|t| t.as_secs()), retry)
    };
    let default = "connect-failure,refused-stream,retriable-status-codes,cancelled,unavailable".to_owned();
    assert_eq!(policy(0, 0, None), (None, Some((2, None, default.clone(), vec![], false))));
    assert_eq!(policy(9, 3, None), (Some(9), Some((2, Some(3), default, vec![], false))));
    let retry = |attempts, codes: &[u16]| Some(RouteRetry { codes: codes.into(), attempts, backoff: None });
    let failures = "reset,connect-failure,refused-stream";
    let with_codes = format!("{failures},retriable-status-codes");
    assert_eq!(policy(9, 0, retry(Some(3), &[503])), (Some(9), Some((3, None, with_codes, vec![503], true))));
    assert_eq!(policy(0, 3, retry(None, &[])).1, Some((2, Some(3), failures.to_owned(), vec![], true)));
    // the limit of the only try
    assert_eq!(policy(9, 3, retry(Some(0), &[503])), (Some(3), None));
    assert_eq!(policy(2, 3, retry(Some(0), &[])), (Some(2), None));
}

#[test]
fn methods_of_grpc() {
    let rules = vec![
        to_backends(vec![], &["cart"]),
        to_backends(vec![grpc(None, Some("Get"))], &["a"]),
        to_backends(vec![grpc(Some("shop.Cart"), None)], &["b"]),
        to_backends(vec![grpc(Some("shop.Cart"), Some("Get"))], &["c"]),
    ];
    routed(
        vec![gateway_route("shop/r GRPC cart", rules)],
        &[
            ("POST /shop.Cart/Get", "c.shop:80"),
            ("POST /shop.Cart/Put", "b.shop:80"),
            ("POST /shop.CartX/Put", "cart.shop:80"),
            ("POST /other/Get", "a.shop:80"),
        ],
    );
}

#[test]
fn ports_and_sections() {
    let of = |parent: &str| vec![gateway_route(&format!("shop/r HTTP {parent}"), vec![to_backends(vec![], &["a"])])];
    routed(of("cart"), &[("GET /", "a.shop:80")]);
    routed(of("cart:80"), &[("GET /", "a.shop:80")]);
    for other in ["cart:81", "cart#metrics", "other/cart", "stock"] {
        routed(of(other), &[("GET /", "cart.shop:80")]);
    }
    routed(of("stock,cart"), &[("GET /", "a.shop:80")]);
}

/// The sender of [`ask`] is in `front`.
#[test]
fn routes_of_the_callers_namespace_take_the_place_of_others() {
    let one = |full: &str, path: &str, to: &str| {
        gateway_route(&format!("{full} HTTP shop/cart"), vec![to_backends(vec![on(elements(path))], &[to])])
    };
    let producer = || one("shop/producer", "/", "a");
    routed(vec![producer()], &[("GET /api", "a.shop:80")]);
    routed(vec![producer(), one("front/consumer", "/api", "b")], &[("GET /api", "b.shop:80"), ("GET /", "404")]);
    routed(vec![producer(), one("back/consumer", "/api", "b")], &[("GET /api", "a.shop:80")]);
    routed(vec![one("back/consumer", "/api", "b")], &[("GET /api", "cart.shop:80"), ("GET /", "cart.shop:80")]);
    // VirtualServices count for callers without routes of their own alone
    let v = || Object::from(virtual_service("shop/v cart", vec![rule(vec![], to("cart/v"))]));
    let both = |route: GatewayRoute| with_backends(vec![v(), route.into()]);
    check(both(one("back/consumer", "/api", "b")), &[("GET /api", "cart.shop:80/v")]);
    check(both(one("front/consumer", "/api", "b")), &[("GET /api", "b.shop:80"), ("GET /", "404")]);
}

#[test]
fn routes_take_the_place_of_virtual_services_and_grpc_of_http() {
    let v = virtual_service("shop/v cart", vec![rule(vec![], to("cart/v"))]);
    let http = |parent: &str| {
        gateway_route(&format!("shop/h HTTP {parent}"), vec![to_backends(vec![on(elements("/h"))], &["a"])])
    };
    let both = |route: GatewayRoute| with_backends(vec![v.clone().into(), route.into()]);
    check(both(http("cart")), &[("GET /h", "a.shop:80"), ("GET /", "404")]);
    check(both(http("cart:81")), &[("GET /h", "cart.shop:80/v")]);
    let grpc = gateway_route("shop/g GRPC cart", vec![to_backends(vec![on(elements("/g"))], &["b"])]);
    routed(vec![http("cart"), grpc.clone()], &[("GET /h", "404"), ("POST /g", "b.shop:80")]);
    // in each caller's own namespace alone
    let consumer = GatewayRoute { name: crate::testing::name("back/g"), ..grpc };
    routed(vec![http("cart"), consumer], &[("GET /h", "a.shop:80"), ("POST /g", "404")]);
}

#[test]
fn statuses() {
    let says = |route: &GatewayRoute, beside: Vec<Object>| {
        let all = with_backends(beside.into_iter().chain([route.clone().into()]).collect());
        let (_, model) = compiled(all);
        let all = parent_statuses(model.world(), model.sources(), route);
        all.into_iter().map(|s| (s.parent, s.accepted, s.resolved)).collect::<Vec<_>>()
    };
    let route = |text: &str, to: &str| gateway_route(text, vec![to_backends(vec![], &[to])]);
    use AcceptedReason::{Accepted, Conflicted, NoMatchingParent};
    use ResolvedReason::{BackendNotFound, InvalidKind, ResolvedRefs};
    let one = |accepted, resolved| vec![(0, accepted, resolved)];
    assert_eq!(says(&route("shop/r HTTP cart", "a"), vec![]), one(Accepted, ResolvedRefs));
    assert_eq!(says(&route("shop/r HTTP cart", "none"), vec![]), one(Accepted, BackendNotFound));
    assert_eq!(says(&route("shop/r HTTP cart", "a:81"), vec![]), one(Accepted, BackendNotFound));
    assert_eq!(says(&route("shop/r HTTP cart", "other/x"), vec![]), one(Accepted, ResolvedRefs));
    for parent in ["none", "cart:81", "cart#metrics"] {
        assert_eq!(says(&route(&format!("shop/r HTTP {parent}"), "a"), vec![]), one(NoMatchingParent, ResolvedRefs));
    }
    let mut secret = route("shop/r HTTP cart", "a");
    secret.rules[0].backends[0].to.target.kind = "Secret".into();
    assert_eq!(says(&secret, vec![]), one(Accepted, InvalidKind));
    let grpc = || vec![route("shop/r GRPC cart", "a").into()];
    assert_eq!(says(&route("shop/r HTTP cart", "a"), grpc()), one(Conflicted, ResolvedRefs));
    let two = says(&route("shop/r HTTP cart,stock", "a"), grpc());
    assert_eq!(two, [(0, Conflicted, ResolvedRefs), (1, Accepted, ResolvedRefs)]);
    // a gateway is another controller's
    let mut at_gateway = route("shop/r HTTP cart", "a");
    at_gateway.parents[0].target.kind = "Gateway".into();
    assert_eq!(says(&at_gateway, vec![]), []);
}
