//! The semantics of policies at a waypoint, as data: rules in the notation of the tests of connections, requests in one of
//! their own.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::{
    Identity, World,
    authz::{Operation, OperationL7, Request, Rule, Source, judge, tests::rule},
    http::{self, PathNormalization, normalize},
    jwt::{Claim, Claims},
    objects::{Batch, Object},
    testing::{any_of, model, name, pod, policy, some_model, world},
    world::{PolicyTarget, Scope},
};

/// Words: `METHOD authority path`, then `name:value` headers, and `name=value` claims: `a,b` is a list, `#` before it a
/// number, `a.b=` within an object.
struct Text {
    words: Vec<String>,
    token: Option<Token>,
    allowed_by: Vec<Arc<str>>,
}

fn request(text: &str) -> Text {
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    let claims = words.iter().skip(3).filter_map(|word| word.split_once('=').filter(|(name, _)| !name.contains(':')));
    let mut all = Claims::new();
    for (name, value) in claims {
        let one = |value: &str| match value.strip_prefix('#') {
            Some(number) => Claim::Number(number.parse().unwrap()),
            None => Claim::Text(value.into()),
        };
        let value = if value.contains(',') { Claim::List(value.split(',').map(one).collect()) } else { one(value) };
        match name.split_once('.') {
            Some((outer, inner)) => all.insert(outer.into(), Claim::Map([(inner.into(), value)].into())),
            None => all.insert(name.into(), value),
        };
    }
    Text { words, token: (!all.is_empty()).then(|| Token::new(all, [])), allowed_by: Vec::new() }
}

impl Text {
    fn asked<T>(&self, identity: Option<&Identity>, ask: impl FnOnce(&HttpRequest<'_>) -> T) -> T {
        let word = |at: usize| self.words[at].as_str();
        let headers = self.words.iter().skip(3).filter_map(|word| word.split_once(':'));
        let headers: Vec<_> = headers.map(|(name, value)| (name, value.as_bytes())).collect();
        let path = normalize(word(2), PathNormalization::default()).unwrap();
        let (method, authority) = (word(0), word(1));
        let source = http::Source::default();
        let head = RequestHead { method, scheme: "http", authority, path: &path, headers: &headers, port: 80, source };
        let peer = Peer::itself("10.0.0.2".parse().unwrap(), identity);
        ask(&HttpRequest { source: peer, head, token: self.token.as_ref(), allowed_by: &self.allowed_by })
    }
}

const GATEWAY: &str = "default/w";
const CALLED: &str = "10.96.0.1:80";
const TARGET: &str = "10.0.0.1:8080";

/// Service default/a, at the waypoint default/w of class istio-waypoint; the endpoint is pod default/a (app=a).
fn ask(world: &World, text: &str) -> [Verdict; 2] {
    let caller: Identity = "spiffe://cluster.local/ns/default/sa/b".parse().unwrap();
    let (service, gateway) = (name("default/a"), name(GATEWAY));
    let targets = WaypointTargets { service: Some(&service), gateway: &gateway, class: "istio-waypoint" };
    let endpoint = world.pod(&name("default/a")).unwrap();
    request(text).asked(Some(&caller), |request| {
        [
            judge_at_waypoint(world, &targets, CALLED.parse().unwrap(), request, &mut ()),
            judge_at_endpoint(world, endpoint, TARGET.parse().unwrap(), request, &mut ()),
        ]
    })
}

fn mesh(policies: impl IntoIterator<Item = AuthorizationPolicy>) -> World {
    world(policies.into_iter().map(Object::from).chain([pod("default/a", "10.0.0.1").into()]))
}

/// Whether a rule matches: as an ALLOW and as a DENY the same, at both gates.
fn check(rule: Rule, text: &str, expect: bool) {
    check_unknown(rule, text, expect, expect);
}

fn check_unknown(rule: Rule, text: &str, as_allow: bool, as_deny: bool) {
    for (action, expect) in [(Action::Allow, as_allow), (Action::Deny, !as_deny)] {
        let wide = policy("default/p", action, vec![rule.clone()]);
        let targets = Scope::Targets(vec![PolicyTarget::new(TargetKind::Service, "a")]);
        let of_service = AuthorizationPolicy { scope: targets, name: name("default/s"), ..wide.clone() };
        let got = ask(&mesh([wide, of_service]), text).map(|verdict| verdict.is_allow());
        assert_eq!(got, [expect; 2], "{action:?} {rule:?} {text}");
    }
}

#[test]
fn methods_paths_and_hosts() {
    for (text, request, expect) in [
        ("to methods=GET", "GET a /", true),
        ("to methods=GET", "POST a /", false),
        ("to methods=get", "GET a /", false),
        ("to methods=P*", "PUT a /", true),
        ("to methods=*", "GET a /", true),
        ("to notMethods=GET", "GET a /", false),
        ("to notMethods=GET", "PUT a /", true),
        ("to paths=/admin", "GET a /admin", true),
        ("to paths=/admin", "GET a /admin?x=1", true),
        ("to paths=/admin", "GET a /admin/", false),
        ("to paths=/admin", "GET a /Admin", false),
        ("to paths=/admin", "GET a /x/../admin", true),
        ("to paths=/admin", "GET a /x/%2e%2e/admin", true),
        ("to paths=/admin", "GET a /./admin", true),
        ("to paths=/admin", "GET a /../admin", true),
        ("to paths=/x/admin", "GET a /x\\admin", true),
        ("to paths=/admin", "GET a //admin", false),
        ("to paths=/admin", "GET a /admin;x", false),
        ("to paths=/admin", "GET a /%61dmin", true),
        ("to paths=/a/b", "GET a /a%2Fb", false),
        ("to paths=/api*", "GET a /apix", true),
        ("to paths=/api/*", "GET a /api", false),
        ("to paths=*.js", "GET a /x/y.js", true),
        ("to paths=*", "GET a /", true),
        ("to paths=/a/{*}/c", "GET a /a/b/c", true),
        ("to paths=/a/{*}/c", "GET a /a/b/b/c", false),
        ("to paths=/a/{**}", "GET a /a/b/b?c", true),
        ("to notPaths=/a*", "GET a /ab", false),
        ("to notPaths=/a*", "GET a /b", true),
        // gRPC
        ("to methods=POST paths=/pkg.Svc/Method", "POST a /pkg.Svc/Method", true),
        ("to methods=POST paths=/pkg.Svc/*", "POST a /pkg.Svc/Other", true),
        ("to methods=POST paths=/pkg.Svc/Method", "POST a /pkg.Svc/Other", false),
        ("to hosts=a.example", "GET A.Example /", true),
        ("to hosts=*.example", "GET a.example /", true),
        ("to hosts=a.*", "GET a.example /", true),
        ("to hosts=b.example", "GET a.example /", false),
        ("to hosts=a.example:80", "GET a.example:80 /", true),
        ("to hosts=a.example:*", "GET a.example:8080 /", true),
        ("to notHosts=a.example", "GET a.example /", false),
        ("to notHosts=a.example", "GET b.example /", true),
        // fields AND, values OR, entries OR, parts AND
        ("to methods=GET,PUT paths=/a,/b", "PUT a /b", true),
        ("to methods=GET paths=/a", "GET a /b", false),
        ("to methods=PUT to paths=/b", "GET a /b", true),
        ("from namespaces=default to methods=GET", "GET a /", true),
        ("from namespaces=other to methods=GET", "GET a /", false),
        ("from namespaces=other from remoteIpBlocks=10.0.0.0/8 to methods=GET", "GET a /", true),
    ] {
        check(rule(text), request, expect);
    }
}

#[test]
fn other_spellings_never_widen() {
    for (text, request) in [
        ("to hosts=a.example", "GET a.example:80 /"),
        ("to hosts=a.example", "GET a.example. /"),
        ("to hosts=a.example", "GET a.example.:80 /"),
        ("to notHosts=a.example", "GET a.example:80 /"),
        ("to paths=/a%2fb", "GET a /a%2Fb"),
        ("to notPaths=/a%2fb", "GET a /a%2Fb"),
        ("to paths=/{*}/b", "GET a /*/b"),
        // the same header twice
        ("when request.headers[x]=admin", "GET a / x:user x:admin"),
        ("when !request.headers[x]=admin", "GET a / x:user x:admin"),
        // a claim that is no text
        ("when request.auth.claims[n]=5", "GET a / n=#5"),
        ("when !request.auth.claims[n]=5", "GET a / n=#5"),
        ("when request.auth.claims[a]=x", "GET a / a.b=x"),
        ("when request.auth.claims[a]=x", "GET a / a=y,#1"),
        ("when experimental.envoy.filters.a[b]=c", "GET a /"),
    ] {
        check_unknown(rule(text), request, false, true);
    }
}

#[test]
fn headers() {
    for (text, request, expect) in [
        ("when request.headers[X-User]=a", "GET a / x-user:a", true),
        ("when request.headers[x-user]=a", "GET a / x-user:ab", false),
        ("when request.headers[x-user]=a*", "GET a / x-user:ab", true),
        ("when request.headers[x-user]=*b", "GET a / x-user:ab", true),
        ("when request.headers[x-user]=*", "GET a / x-user:", true),
        ("when request.headers[x-user]=*", "GET a /", false),
        ("when !request.headers[x-user]=*", "GET a /", true),
        ("when !request.headers[x-user]=a", "GET a / x-user:b", true),
        ("when request.headers[x]=a,b", "GET a / x:b", true),
        ("when request.headers[x]=b,*", "GET a / x:a x:b", true),
        ("when request.headers[x]=*c", "GET a / x:a x:b", false),
        ("when request.headers[:method]=GET", "GET a /", true),
        ("when request.headers[:path]=/a?b", "GET a /a?b", true),
        ("when request.headers[host]=a", "GET a /", true),
        ("when request.headers[x]=1 request.headers[y]=2", "GET a / x:1 y:2", true),
        ("when request.headers[x]=1 request.headers[y]=2", "GET a / x:1", false),
    ] {
        check(rule(text), request, expect);
    }
}

#[test]
fn tokens() {
    let token = "GET a / iss=i/x sub=s aud=one,two azp=p groups=dev,ops realm.role=admin scope=read";
    for (text, request, expect) in [
        ("from requestPrincipals=i/x/s", token, true),
        ("from requestPrincipals=i/*", token, true),
        ("from requestPrincipals=*/s", token, true),
        ("from requestPrincipals=*", token, true),
        ("from requestPrincipals=*", "GET a /", false),
        ("from requestPrincipals=*", "GET a / iss=i", false),
        ("from notRequestPrincipals=*", "GET a /", true),
        ("from notRequestPrincipals=*", token, false),
        ("from notRequestPrincipals=i/x/t", token, true),
        ("when request.auth.principal=i/x/s", token, true),
        ("when request.auth.audiences=two", token, true),
        ("when request.auth.audiences=three", token, false),
        ("when !request.auth.audiences=two", token, false),
        ("when request.auth.presenter=p", token, true),
        ("when !request.auth.presenter=p", "GET a /", true),
        ("when request.auth.claims[groups]=ops", token, true),
        ("when request.auth.claims[groups]=op*", token, true),
        ("when request.auth.claims[groups]=none", token, false),
        ("when request.auth.claims[realm][role]=admin", token, true),
        ("when request.auth.claims[realm][rule]=admin", token, false),
        ("when request.auth.claims[scope]=read", token, true),
        ("when request.auth.claims[iss]=i/x", token, true),
        ("when request.auth.claims[iss]=*", "GET a /", false),
        ("when !request.auth.claims[iss]=*", "GET a /", true),
    ] {
        check(rule(text), request, expect);
    }
}

#[test]
fn sources_and_destinations() {
    for (text, expect) in [
        ("from principals=cluster.local/ns/default/sa/b", true),
        ("from notPrincipals=cluster.local/ns/default/sa/b", false),
        ("from remoteIpBlocks=10.0.0.2/32 ipBlocks=10.0.0.0/24", true),
        ("from remoteIpBlocks=10.0.0.2/32 ipBlocks=10.0.1.0/24", false),
        ("from notRemoteIpBlocks=10.0.0.2/32", false),
        ("when remote.ip=10.0.0.0/24", true),
        ("when !remote.ip=10.0.0.0/24", false),
        ("when connection.sni=a", false),
        ("when !connection.sni=a", true),
        ("from", false),
        ("to", false),
        ("", true),
    ] {
        check(rule(text), "GET a / x-forwarded-for:192.0.2.1", expect);
    }
    // Gate 1 has what was called, gate 2 the endpoint.
    for (text, expect) in [("to ports=80", [true, false]), ("to ports=8080", [false, true])] {
        let wide = policy("default/p", Action::Allow, vec![rule(text)]);
        let scope = Scope::Targets(vec![PolicyTarget::new(TargetKind::Gateway, "w")]);
        let of_gateway = AuthorizationPolicy { scope, name: name("default/g"), ..wide.clone() };
        assert_eq!(ask(&mesh([wide, of_gateway]), "GET a /").map(|v| v.is_allow()), expect, "{text}");
    }
}

/// The two gates, by which policies each has.
#[test]
fn two_gates() {
    let target = |kind, n: &str| Scope::Targets(vec![PolicyTarget::new(kind, n)]);
    let at = |full_name: &str, scope: Scope| AuthorizationPolicy {
        scope,
        ..policy(full_name, Action::Deny, vec![rule("to methods=GET")])
    };
    let selector = |text: &str| Scope::Selector(crate::testing::labels(text));
    for (full_name, scope, expect) in [
        ("default/p", target(TargetKind::Service, "a"), [false, true]),
        ("default/p", target(TargetKind::Service, "b"), [true, true]),
        ("other/p", target(TargetKind::Service, "a"), [true, true]),
        ("default/p", target(TargetKind::Gateway, "w"), [false, true]),
        ("default/p", target(TargetKind::Gateway, "a"), [true, true]),
        ("default/p", target(TargetKind::ServiceEntry, "a"), [true, true]),
        ("istio-system/p", target(TargetKind::Gateway, "w"), [true, true]),
        ("istio-system/p", target(TargetKind::GatewayClass, "istio-waypoint"), [false, true]),
        ("istio-system/p", target(TargetKind::GatewayClass, "other"), [true, true]),
        ("default/p", target(TargetKind::GatewayClass, "istio-waypoint"), [true, true]),
        ("default/p", Scope::Namespace, [true, false]),
        ("default/p", selector("app=a"), [true, false]),
        ("default/p", selector("app=b"), [true, true]),
        ("other/p", Scope::Namespace, [true, true]),
        ("istio-system/p", Scope::Namespace, [true, false]),
    ] {
        let deny = at(full_name, scope);
        let got = ask(&mesh([deny.clone()]), "GET a /").map(|verdict| verdict.is_allow());
        assert_eq!(got, expect, "{deny:?}");
        let others = ask(&mesh([deny.clone()]), "PUT a /").map(|verdict| verdict.is_allow());
        assert_eq!(others, [true; 2], "{deny:?}");
        let dry = AuthorizationPolicy { dry_run: true, ..deny };
        assert_eq!(ask(&mesh([dry]), "GET a /").map(|verdict| verdict.is_allow()), [true; 2]);
    }
}

#[test]
fn deny_before_allow_and_allow_closes_the_rest() {
    let of = |full_name: &str, action, text: &str, kind| AuthorizationPolicy {
        scope: Scope::Targets(vec![PolicyTarget::new(kind, if kind == Service { "a" } else { "w" })]),
        ..policy(full_name, action, vec![rule(text)])
    };
    use TargetKind::{Gateway, Service};
    let yes = |p: Option<&str>| Verdict::Allow { policy: p.map(name) };
    let no = |p, reason| Verdict::Deny { policy: Some(name(p)), reason };
    for (policies, expect) in [
        (vec![], yes(None)),
        (vec![of("default/p", Action::Allow, "to methods=GET", Service)], yes(Some("default/p"))),
        (vec![of("default/p", Action::Allow, "to methods=PUT", Service)], no("default/p", Reason::NotAllowed)),
        // a policy of the Gateway opens what one of the Service does not: they are one gate
        (
            vec![
                of("default/p", Action::Allow, "to methods=PUT", Service),
                of("default/q", Action::Allow, "to methods=GET", Gateway),
            ],
            yes(Some("default/q")),
        ),
        (
            vec![
                of("default/p", Action::Allow, "to methods=GET", Service),
                of("default/q", Action::Deny, "to methods=GET", Gateway),
            ],
            no("default/q", Reason::Denied),
        ),
        (vec![of("default/q", Action::Deny, "to methods=PUT", Gateway)], yes(None)),
    ] {
        assert_eq!(ask(&mesh(policies.clone()), "GET a /")[0], expect, "{policies:?}");
    }
}

#[test]
fn custom_passes_what_its_provider_has_allowed() {
    let of = |full_name: &str, provider: &str, text: &str, scope: Scope| AuthorizationPolicy {
        scope,
        provider: Some(provider.into()),
        ..policy(full_name, Action::Custom, vec![rule(text)])
    };
    let service = || Scope::Targets(vec![PolicyTarget::new(TargetKind::Service, "a")]);
    let world = mesh([
        of("default/p", "opa", "to paths=/admin*", service()),
        of("default/q", "opa", "to methods=PUT", service()),
        of("default/r", "other", "to methods=PUT", service()),
        of("default/s", "opa", "to paths=/admin*", Scope::Namespace),
        AuthorizationPolicy { dry_run: true, ..of("default/t", "dry", "to methods=*", service()) },
    ]);
    let gates = |text: &str, allowed_by: &[&str]| {
        let request = Text { allowed_by: allowed_by.iter().map(|name| (*name).into()).collect(), ..request(text) };
        let caller: Identity = "spiffe://cluster.local/ns/default/sa/b".parse().unwrap();
        let (service, gateway) = (name("default/a"), name(GATEWAY));
        let targets = WaypointTargets { service: Some(&service), gateway: &gateway, class: "istio-waypoint" };
        let endpoint = world.pod(&name("default/a")).unwrap();
        let (called, target) = (CALLED.parse().unwrap(), TARGET.parse().unwrap());
        request.asked(Some(&caller), |request| {
            let says = |verdict: Verdict, checks: Vec<Check>| {
                let asks = checks.iter().map(|check| format!(" {}:{}", check.policy.name(), check.provider));
                format!("{}{}", verdict.is_allow(), asks.collect::<String>())
            };
            [
                says(
                    judge_at_waypoint(&world, &targets, called, request, &mut ()),
                    checks_at_waypoint(&world, &targets, called, request),
                ),
                says(
                    judge_at_endpoint(&world, endpoint, target, request, &mut ()),
                    checks_at_endpoint(&world, endpoint, target, request),
                ),
            ]
        })
    };
    assert_eq!(gates("GET a /", &[]), ["true", "true"]);
    assert_eq!(gates("GET a /admin", &[]), ["false p:opa", "false s:opa"]);
    assert_eq!(gates("GET a /admin", &["other"]), ["false p:opa", "false s:opa"]);
    assert_eq!(gates("GET a /admin", &["opa"]), ["true", "true"]);
    // Each provider once; what one allows, another may deny.
    assert_eq!(gates("PUT a /admin", &[]), ["false p:opa r:other", "false s:opa"]);
    assert_eq!(gates("PUT a /admin", &["opa"]), ["false r:other", "true"]);
    assert_eq!(gates("PUT a /admin", &["opa", "other"]), ["true", "true"]);
}

#[test]
fn what_a_provider_allows_may_be_denied_and_audits_decide_nothing() {
    let custom = AuthorizationPolicy {
        provider: Some("opa".into()),
        ..policy("default/p", Action::Custom, vec![rule("to methods=*")])
    };
    let deny = policy("default/q", Action::Deny, vec![rule("to paths=/admin")]);
    let audit = policy("default/r", Action::Audit, vec![rule("to methods=GET")]);
    let world = mesh([custom, deny, audit]);
    let endpoint = world.pod(&name("default/a")).unwrap();
    let target = TARGET.parse().unwrap();
    let at = |text: &str| {
        let request = Text { allowed_by: vec!["opa".into()], ..request(text) };
        request.asked(None, |request| {
            let verdict = judge_at_endpoint(&world, endpoint, target, request, &mut ());
            (verdict.is_allow(), audits_at_endpoint(&world, endpoint, target, request).len())
        })
    };
    assert_eq!(at("GET a /"), (true, 1));
    assert_eq!(at("GET a /admin"), (false, 1));
    assert_eq!(at("PUT a /"), (true, 0));
}

#[test]
fn dry_runs_are_judged_aside_and_each_once() {
    let targets = vec![PolicyTarget::new(TargetKind::Service, "a"), PolicyTarget::new(TargetKind::Gateway, "w")];
    let dry = |full_name: &str, action, text: &str, scope: Scope| AuthorizationPolicy {
        scope,
        dry_run: true,
        ..policy(full_name, action, vec![rule(text)])
    };
    let world = mesh([
        dry("default/p", Action::Deny, "to methods=GET", Scope::Targets(targets.clone())),
        dry("default/q", Action::Allow, "to methods=PUT", Scope::Targets(targets)),
        dry("default/r", Action::Deny, "to methods=GET", Scope::Namespace),
        dry("default/s", Action::Deny, "to methods=PUT", Scope::Namespace),
    ]);
    let (service, gateway) = (name("default/a"), name(GATEWAY));
    let targets = WaypointTargets { service: Some(&service), gateway: &gateway, class: "istio-waypoint" };
    let endpoint = world.pod(&name("default/a")).unwrap();
    request("GET a /").asked(None, |request| {
        let at_waypoint = dry_run_denials_at_waypoint(&world, &targets, CALLED.parse().unwrap(), request);
        assert_eq!(at_waypoint, [name("default/p"), name("default/q")]);
        let at_endpoint = dry_run_denials_at_endpoint(&world, endpoint, TARGET.parse().unwrap(), request);
        assert_eq!(at_endpoint, [name("default/r")]);
    });
}

fn some_l7() -> impl Strategy<Value = Option<Operation>> {
    let words = |all: &'static [&'static str]| proptest::sample::subsequence(all, 0..=2);
    let lists = (words(&["GET", "P*", "*"]), words(&["/a", "/b*", "/{*}/c"]), words(&["a", "*.b"]));
    proptest::option::of((lists, any::<bool>())).prop_map(|some| {
        let ((methods, paths, hosts), not) = some?;
        let methods = any_of(methods.into_iter().map(crate::authz::StringMatch::parse));
        let mut paths = any_of(paths.into_iter().map(|path| path.parse().unwrap()));
        if not {
            std::mem::swap(&mut paths.values, &mut paths.not_values);
        }
        let hosts = any_of(hosts.into_iter().map(crate::authz::StringMatch::parse));
        Some(Operation { l7: OperationL7 { hosts, methods, paths }.boxed(), ..Operation::default() })
    })
}

/// A rule as it reads.
fn naive(rule: &Rule, ends: Ends<'_>, settings: &MeshSettings, text: &[&str; 3]) -> bool {
    let l4 = |from: &[Source], to: &[Operation]| {
        let rule = Rule { from: from.to_vec(), to: to.to_vec(), when: rule.when.clone() };
        rule.l4_matches(settings, ends)
    };
    let from = |source: &&Source| match &source.l7 {
        Some(l7) => l7.request_principals.values.is_empty(),
        None => true,
    };
    let to = |operation: &&Operation| {
        operation.l7.as_ref().is_none_or(|l7| {
            let [method, host, path] = *text;
            let is = |m: &crate::authz::PathMatch| m.matches(path) == crate::authz::truth::Truth::Yes;
            (l7.methods.values.is_empty() || l7.methods.values.iter().any(|m| m.matches(method)))
                && (l7.hosts.values.is_empty() || l7.hosts.values.iter().any(|m| m.matches(host)))
                && (l7.paths.values.is_empty() || l7.paths.values.iter().any(is))
                && !l7.paths.not_values.iter().any(is)
        })
    };
    let sources: Vec<_> = rule.from.iter().filter(from).cloned().collect();
    let operations: Vec<_> = rule.to.iter().filter(to).cloned().collect();
    (rule.from.is_empty() || !sources.is_empty())
        && (rule.to.is_empty() || !operations.is_empty())
        && l4(&sources, &operations)
}

proptest! {
    /// Policies without fields of HTTP are judged as those of connections; others as they read.
    #[test]
    fn requests_are_judged_as_policies_read(
        model in some_model(),
        more in proptest::collection::vec(some_l7(), 4),
        method in proptest::sample::select(vec!["GET", "PUT", "DELETE"]),
        path in proptest::sample::select(vec!["/a", "/bc", "/x/c"]),
        host in proptest::sample::select(vec!["a", "x.b", "c"]),
        from in (1u8..12).prop_map(|n| IpAddr::from([10, 0, 0, n])),
        port in proptest::sample::select(vec![80u16, 8080]),
        some_identity in any::<bool>(),
    ) {
        let mut batch = Batch::default();
        for (policy, operation) in model.world().policies().zip(more) {
            let mut policy = AuthorizationPolicy::clone(policy);
            if let Some(operation) = operation && let Some(rule) = policy.rules.first_mut() {
                rule.to.push(operation);
            }
            batch.put(policy);
        }
        let mut model = model;
        model.apply(&batch);
        let world = model.world();
        let identity = Identity::new(&"cluster.local".parse().unwrap(), "default", "x1");
        let identity = some_identity.then_some(&identity);
        let peer = Peer::itself(from, identity);
        let text = format!("{method} {host} {path}");
        for workload in world.workloads() {
            let target = SocketAddr::new("10.0.0.1".parse().unwrap(), port);
            let got = request(&text).asked(identity, |request| {
                let request = HttpRequest { source: peer, ..*request };
                judge_at_endpoint(world, workload, target, &request, &mut ())
            });
            let ends = Ends { peer, address: target.ip(), port };
            let of = |action| world.authorization_policies(workload).filter(move |p| !p.dry_run && p.action == action);
            let is_matched = |p: &AuthorizationPolicy| {
                p.rules.iter().any(|rule| naive(rule, ends, world.settings(), &[method, host, path]))
            };
            // No provider has allowed it.
            let denied = of(Action::Deny).chain(of(Action::Custom)).any(|p| is_matched(p));
            let allowed = of(Action::Allow).count() == 0 || of(Action::Allow).any(|p| is_matched(p));
            prop_assert_eq!(got.is_allow(), !denied && allowed, "{:?} {}", got, text);
            if world.authorization_policies(workload).all(|p| p.waypoint_fields().is_empty()) {
                let request = Request { peer, workload, address: target.ip(), port };
                prop_assert_eq!(got, judge(world, &request, &mut ()));
            }
        }
    }

    /// The index answers as all policies, one after the other, do.
    #[test]
    fn targets_are_found_by_index(start in some_model(), batch in crate::testing::some_batch()) {
        let mut now = start;
        now.apply(&batch);
        let rebuilt = model(now.sources().objects().map(|(_, object)| object.clone()));
        for world in [now.world(), rebuilt.world()] {
            for namespace in ["default", "other", "istio-system"] {
                let x1 = ObjectName::new(namespace, "x1");
                let targets = WaypointTargets { service: Some(&x1), gateway: &x1, class: "x1" };
                let mut got: Vec<_> = targets.policies(world).map(|p| p.name.clone()).collect();
                got.sort();
                let is_of = |p: &AuthorizationPolicy| {
                    let own = p.name.namespace() == namespace;
                    own && (p.has_target(TargetKind::Service, "x1") || p.has_target(TargetKind::Gateway, "x1"))
                        || p.name.namespace() == "istio-system" && p.has_target(TargetKind::GatewayClass, "x1")
                };
                let all: Vec<_> = world.policies().filter(|p| is_of(p)).map(|p| p.name.clone()).collect();
                prop_assert_eq!(got, all);
            }
        }
    }
}
