//! Policies, converted to core field by field.

use underpass_core::{
    Kind, ObjectKey,
    authz::{
        ClaimPath, Condition, L7Condition, Match, Operation, OperationL7, PrincipalMatch, Rule, ServiceAccount, Source,
        SourceL7, StringMatch,
    },
    objects::{Created, MtlsMode, Object, PeerAuthentication},
    testing::name,
    world::{Action, AuthorizationPolicy, PolicyTarget, Scope, TargetKind},
};

use crate::{Shelf, lines};

fn policy(spec: &str) -> AuthorizationPolicy {
    let spec: String = spec.lines().map(|l| format!("  {l}\n")).collect();
    let head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: prod}\n";
    let mut shelf = Shelf::new();
    let update = shelf.put(&[("a.yaml", &format!("{head}spec:\n{spec}"))]);
    assert_eq!(update.errors().count(), 0, "{}", lines(&update));
    match shelf.sources().get(&ObjectKey::new(Kind::AuthorizationPolicy, name("prod/p"))).unwrap() {
        Object::AuthorizationPolicy(p) => (**p).clone(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn rules(spec: &str, expect: &[Rule]) {
    assert_eq!(policy(spec).rules, expect, "{spec}");
}

fn any<T>(values: Vec<T>) -> Match<T> {
    Match { values, not_values: Vec::new() }
}

fn principal(t: &str) -> PrincipalMatch {
    PrincipalMatch::parse(t)
}

fn text(t: &str) -> StringMatch {
    StringMatch::parse(t)
}

#[test]
fn rules_that_match_nothing_and_rules_that_match_everything() {
    rules("{}", &[]);
    rules("rules: []", &[]);
    rules("action: ALLOW", &[]);
    rules("rules: [{}]", &[Rule::default()]);
    rules("action: DENY\nrules:\n- {}\n- {}", &[Rule::default(), Rule::default()]);
}

#[test]
fn actions_and_scopes() {
    assert_eq!(policy("{}").action, Action::Allow);
    assert_eq!(policy("action: DENY").action, Action::Deny);
    let labels = underpass_core::testing::labels("app=a v=1");
    for (spec, scope) in [
        ("{}", Scope::Namespace),
        ("selector: {}", Scope::Namespace),
        ("selector: {matchLabels: {}}", Scope::Namespace),
        ("selector: {matchLabels: {app: a, v: '1'}}", Scope::Selector(labels)),
        (
            "targetRef: {kind: Gateway, name: w, group: gateway.networking.k8s.io}",
            Scope::Targets(vec![PolicyTarget::new(TargetKind::Gateway, "w")]),
        ),
        (
            "targetRefs: [{kind: Service, name: a, group: ''}, {kind: Service, name: b, namespace: prod}]",
            Scope::Targets(["a", "b"].map(|name| PolicyTarget::new(TargetKind::Service, name)).into()),
        ),
    ] {
        assert_eq!(policy(spec).scope, scope, "{spec}");
    }
}

#[test]
fn sources() {
    let source = Source {
        principals: Match { values: vec![principal("*"), principal("a*")], not_values: vec![principal("*b")] },
        namespaces: any(vec![text("prod")]),
        service_accounts: any(vec![
            ServiceAccount { namespace: "other".into(), name: "a".into() },
            ServiceAccount { namespace: "prod".into(), name: "b".into() },
        ]),
        ip_blocks: Match {
            values: vec!["10.0.0.0/8".parse().unwrap(), "10.1.2.3/32".parse().unwrap()],
            not_values: vec!["fd00::1/128".parse().unwrap()],
        },
        trust_domains: any(vec![text("cluster.local")]),
        l7: None,
    };
    rules(
        "rules:\n- from:\n  - source:\n      principals: ['*', a*]\n      notPrincipals: ['*b']\n      namespaces: [prod]\n      \
         serviceAccounts: [other/a, b]\n      ipBlocks: [10.9.9.9/8, 10.1.2.3]\n      notIpBlocks: ['fd00::1']\n      \
         trustDomains: [cluster.local]",
        &[Rule { from: vec![source], ..Rule::default() }],
    );
    let l7 = SourceL7 {
        request_principals: Match { values: vec![text("*"), text("i/*")], not_values: vec![text("*/s")] },
        remote_ip_blocks: Match {
            values: vec!["10.0.0.0/8".parse().unwrap()],
            not_values: vec!["10.1.2.3/32".parse().unwrap()],
        },
    };
    rules(
        "rules:\n- from:\n  - source:\n      requestPrincipals: ['*', i/*]\n      notRequestPrincipals: ['*/s']\n      \
         remoteIpBlocks: [10.9.9.9/8]\n      notRemoteIpBlocks: ['::ffff:10.1.2.3']",
        &[Rule { from: vec![Source { l7: Some(l7.into()), ..Source::default() }], ..Rule::default() }],
    );
}

#[test]
fn operations() {
    let operation = Operation { ports: Match { values: vec![80, 8080], not_values: vec![9090] }, l7: None };
    rules(
        "rules: [{to: [{operation: {ports: ['80', '8080'], notPorts: ['9090']}}]}]",
        &[Rule { to: vec![operation], ..Rule::default() }],
    );
    let path = |t: &str| t.parse().unwrap();
    let l7 = OperationL7 {
        hosts: Match { values: vec![text("*.example.org")], not_values: vec![text("b.example.org:8080")] },
        methods: Match { values: vec![text("GET")], not_values: vec![text("P*")] },
        paths: Match { values: vec![path("/A/*"), path("/{*}/b/{**}")], not_values: vec![path("*.txt")] },
    };
    // hosts alone are compared without regard to case
    rules(
        "rules:\n- to:\n  - operation:\n      hosts: ['*.Example.org']\n      notHosts: ['B.example.org:8080']\n      \
         methods: [GET]\n      notMethods: [P*]\n      paths: [/A/*, '/{*}/b/{**}']\n      notPaths: ['*.txt']",
        &[Rule { to: vec![Operation { l7: Some(l7.into()), ..Operation::default() }], ..Rule::default() }],
    );
}

#[test]
fn conditions() {
    let net = |t: &str| t.parse::<ipnet::IpNet>().unwrap();
    let account = |n: &str| ServiceAccount { namespace: "prod".into(), name: n.into() };
    for (key, value, expect) in [
        ("source.ip", "10.0.0.1", Condition::SourceIp(any(vec![net("10.0.0.1/32")]))),
        ("source.namespace", "a*", Condition::SourceNamespace(any(vec![text("a*")]))),
        ("source.principal", "*", Condition::SourcePrincipal(any(vec![principal("*")]))),
        ("source.serviceAccount", "a", Condition::SourceServiceAccount(any(vec![account("a")]))),
        ("source.trustDomain", "td", Condition::SourceTrustDomain(any(vec![text("td")]))),
        ("destination.ip", "fd00::/64", Condition::DestinationIp(any(vec![net("fd00::/64")]))),
        ("destination.port", "80", Condition::DestinationPort(any(vec![80]))),
    ] {
        let expect = [Rule { when: vec![expect], ..Rule::default() }];
        rules(&format!("rules: [{{when: [{{key: '{key}', values: ['{value}']}}]}}]"), &expect);
    }
    let not = Match { values: Vec::new(), not_values: vec![80] };
    let expect = [Rule { when: vec![Condition::DestinationPort(not)], ..Rule::default() }];
    rules("rules: [{when: [{key: destination.port, notValues: ['80']}]}]", &expect);
}

#[test]
fn conditions_of_waypoints() {
    let texts = || Match { values: vec![text("x*")], not_values: vec![text("xy")] };
    let header = |name: &str| L7Condition::RequestHeader(name.parse().unwrap(), texts());
    let claim = |path| L7Condition::RequestClaim(ClaimPath::parse(path).unwrap(), texts());
    for (key, expect) in [
        ("connection.sni", L7Condition::ConnectionSni(texts())),
        ("request.headers[User-Agent]", header("User-Agent")),
        ("request.headers[:authority]", header(":authority")),
        ("request.auth.principal", L7Condition::RequestPrincipal(texts())),
        ("request.auth.audiences", L7Condition::RequestAudiences(texts())),
        ("request.auth.presenter", L7Condition::RequestPresenter(texts())),
        ("request.auth.claims[iss]", claim("iss")),
        ("request.auth.claims[a][b]", claim("a][b")),
    ] {
        let expect = [Rule { when: vec![Condition::L7(expect.into())], ..Rule::default() }];
        rules(&format!("rules: [{{when: [{{key: '{key}', values: ['x*'], notValues: ['xy']}}]}}]"), &expect);
    }
    let net = |t: &str| t.parse::<ipnet::IpNet>().unwrap();
    let remote = Match { values: vec![net("10.0.0.1/32")], not_values: vec![net("fd00::/64")] };
    let filter = "experimental.envoy.filters.a.b[c]";
    let values = Match { values: vec!["[v*]".into()], not_values: Vec::new() };
    let expect = [Rule {
        when: [L7Condition::RemoteIp(remote), L7Condition::EnvoyFilter { key: filter.into(), values }]
            .map(|condition| Condition::L7(condition.into()))
            .into(),
        ..Rule::default()
    }];
    rules(
        &format!(
            "rules:\n- when:\n  - {{key: remote.ip, values: [10.0.0.1], notValues: ['fd00::/64']}}\n  - {{key: '{filter}', values: ['[v*]']}}"
        ),
        &expect,
    );
}

/// A dry run closes nothing, also while it is broken, in each spelling of the annotation.
#[test]
fn broken_dry_runs_are_dry_runs() {
    let check = |annotation: &str, rest: &str, closes: bool| {
        let mut shelf = Shelf::new();
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\n  annotations:\n    \
             istio.io/dry-run: {annotation}\n{rest}\n"
        );
        let update = shelf.put(&[("a.yaml", &text)]);
        assert!(!update.problems.is_empty(), "{text}");
        let key = ObjectKey::new(Kind::AuthorizationPolicy, name("default/p"));
        assert_eq!(shelf.sources().get(&key).is_some(), closes, "{text}");
    };
    for broken in ["rulez: []", "spec: {rulez: []}", "spec: [", "spec: {rules: [{from: []}]}"] {
        for yes in ["\"true\"", "True", "'TRUE'", "'1'", "'t'", "true", "yes", "1"] {
            // `yes` is a boolean to a YAML parser alone
            if broken != "spec: [" || yes != "yes" {
                check(yes, broken, false);
            }
        }
        for no in ["\"false\"", "'0'", "maybe", "false", "0"] {
            check(no, broken, true);
        }
    }
    check("true", "spec: {action: DENY, rules: [{}]}", false);
    check("false", "spec: {action: DENY, rules: [{}]}", true);
}

#[test]
fn dry_runs() {
    for (value, expect) in [("'true'", true), ("'false'", false), ("'1'", true), ("\"F\"", false)] {
        let mut shelf = Shelf::new();
        let update = shelf.put(&[(
            "a.yaml",
            &format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, annotations: {{istio.io/dry-run: {value}}}}}\n"
            ),
        )]);
        assert_eq!(lines(&update), "", "{value}");
        let Some(Object::AuthorizationPolicy(p)) = shelf.object() else { panic!() };
        assert_eq!(p.dry_run, expect, "{value}");
    }
}

fn peer_authentication(rest: &str) -> PeerAuthentication {
    let mut shelf = Shelf::new();
    let update =
        shelf.put(&[("a.yaml", &format!("apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\n{rest}\n"))]);
    assert_eq!(lines(&update), "", "{rest}");
    match shelf.object() {
        Some(Object::PeerAuthentication(p)) => (**p).clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn peer_authentications() {
    let p = peer_authentication("metadata: {name: p}");
    assert_eq!((p.mode, p.selector, p.created), (MtlsMode::Unset, None, Created::UNKNOWN));
    let p = peer_authentication(
        "metadata: {name: p, creationTimestamp: 1970-01-01T00:01:40Z}\nspec:\n  selector: {matchLabels: {app: a}}\n  \
         mtls: {mode: PERMISSIVE}\n  portLevelMtls: {80: {mode: STRICT}, '81': {}, 82: {mode: DISABLE}}",
    );
    assert_eq!((p.mode, p.created), (MtlsMode::Permissive, Created(100)));
    let ports: Vec<_> = p.ports.into_iter().collect();
    assert_eq!(ports, [(80, MtlsMode::Strict), (81, MtlsMode::Unset), (82, MtlsMode::Disable)]);
    assert_eq!(peer_authentication("metadata: {name: p, creationTimestamp: null}\nspec: {}").created, Created::UNKNOWN);
}
