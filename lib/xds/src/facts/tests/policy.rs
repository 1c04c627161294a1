//! Policies as another data plane reads them, beside what core says about them.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use proptest::{collection::vec, prelude::*, sample::select};
use underpass_core::{
    Identity, World,
    authz::{
        self, Condition, L7Condition, Match, Operation, OperationL7, Peer, PrincipalMatch, Request, Rule,
        ServiceAccount, Source, SourceL7, StringMatch,
    },
    testing::{labels, name, pod, workload},
    world::{Action, AuthorizationPolicy, Fact, Facts, MeshSettings, Scope},
};

use super::{decode, encode, round_trip::normal, round_trip::some_settings};
use crate::{
    contract::istio::security::{
        self, Authorization, Match as Fields, StringMatch as Pattern, string_match::MatchType,
    },
    facts::decode::plain,
};

/// A caller of a port of 10.0.0.1.
#[derive(Clone, Debug)]
struct Caller {
    identity: Option<Identity>,
    address: IpAddr,
    port: u16,
}

/// Whether the policy matches, as ztunnel reads Istio's message: a field at a time, texts as they are.
fn foreign(message: &Authorization, caller: &Caller) -> bool {
    message.groups.iter().any(|group| {
        group.rules.iter().all(|rules| rules.matches.is_empty() || rules.matches.iter().any(|m| fields(m, caller)))
    })
}

fn fields(m: &Fields, caller: &Caller) -> bool {
    if *m == Fields::default() {
        return false;
    }
    let id = caller.identity.as_ref();
    let to: IpAddr = "10.0.0.1".parse().unwrap();
    let principal = |p: &Pattern| id.is_some_and(|id| pattern(p, id.principal()));
    let namespace = |p: &Pattern| pattern(p, id.map(Identity::namespace).unwrap_or_default());
    let account = |a: &security::ServiceAccountMatch| {
        id.is_some_and(|id| id.namespace() == a.namespace && id.service_account() == a.service_account)
    };
    let block = |ip: IpAddr| {
        move |a: &security::Address| {
            let bytes = &a.address;
            let base: IpAddr = match bytes.len() {
                4 => <[u8; 4]>::try_from(&**bytes).unwrap().into(),
                _ => <[u8; 16]>::try_from(&**bytes).unwrap().into(),
            };
            IpNet::new(base, a.length.try_into().unwrap()).unwrap().contains(&ip)
        }
    };
    list(&m.principals, &m.not_principals, principal)
        && list(&m.namespaces, &m.not_namespaces, namespace)
        && list(&m.service_accounts, &m.not_service_accounts, account)
        && list(&m.source_ips, &m.not_source_ips, block(caller.address))
        && list(&m.destination_ips, &m.not_destination_ips, block(to))
        && list(&m.destination_ports, &m.not_destination_ports, |port| *port == u32::from(caller.port))
}

fn list<T>(values: &[T], not_values: &[T], test: impl Fn(&T) -> bool) -> bool {
    (values.is_empty() || values.iter().any(&test)) && !not_values.iter().any(&test)
}

fn pattern(p: &Pattern, text: &str) -> bool {
    match p.match_type.as_ref().unwrap() {
        MatchType::Exact(t) => text == t,
        MatchType::Prefix(t) => text.starts_with(t),
        MatchType::Suffix(t) => text.ends_with(t),
        MatchType::Presence(()) => !text.is_empty(),
    }
}

/// Whether the policy decides about this caller, as core judges it.
fn core(world: &World, caller: &Caller) -> bool {
    let of = workload(&pod("default/w", "10.0.0.1"));
    let peer = Peer::itself(caller.address, caller.identity.as_ref());
    let request = Request { peer, workload: &of, address: "10.0.0.1".parse().unwrap(), port: caller.port };
    let verdict = authz::judge(world, &request, &mut ());
    match world.policies().next().unwrap().action {
        Action::Allow => verdict.is_allow(),
        _ => !verdict.is_allow(),
    }
}

fn only(settings: &MeshSettings, policy: AuthorizationPolicy) -> World {
    let mut facts = Facts::default();
    facts.put(Fact::Policy(Arc::new(policy)));
    World::empty(settings.clone()).apply(facts)
}

fn lists<T: Clone + std::fmt::Debug>(values: impl Strategy<Value = T> + Clone) -> impl Strategy<Value = Match<T>> {
    prop_oneof![
        3 => Just(Match::default()),
        1 => (vec(values.clone(), 0..3), vec(values, 0..2)).prop_map(|(values, not_values)| Match { values, not_values }),
    ]
}

fn some_principal() -> impl Strategy<Value = PrincipalMatch> + Clone {
    select(vec![
        "*",
        "cluster.local/ns/default/sa/x",
        "mesh.example/ns/default/sa/x",
        "old.example/ns/other/*",
        "cluster.local/*",
        "other.org/*",
        "*/sa/x",
        "*example/ns/default/sa/x",
        "*.local/ns/default/sa/x",
        "cluster.*",
        "mesh*",
        "*",
        "o*",
        "x",
        "*/ns/default/sa/y",
    ])
    .prop_map(PrincipalMatch::parse)
}

fn some_trust_domain() -> impl Strategy<Value = StringMatch> + Clone {
    select(vec![
        "*",
        "cluster.local",
        "mesh.example",
        "other.org",
        "mesh*",
        "cluster.l*",
        "o*",
        "*example",
        "*org",
        "a/b",
        "*/x",
    ])
    .prop_map(StringMatch::parse)
}

fn some_namespace() -> impl Strategy<Value = StringMatch> + Clone {
    select(vec!["*", "default", "other", "def*", "*er", ""]).prop_map(StringMatch::parse)
}

fn some_account() -> impl Strategy<Value = ServiceAccount> + Clone {
    select(vec![("default", "x"), ("other", "y")])
        .prop_map(|(namespace, name)| ServiceAccount { namespace: namespace.into(), name: name.into() })
}

fn some_block() -> impl Strategy<Value = IpNet> + Clone {
    select(vec!["10.0.0.0/30", "10.0.0.9/32", "10.9.9.9/0", "fd00::/64", "::ffff:10.0.0.0/120"])
        .prop_map(|text| text.parse().unwrap())
}

fn some_source() -> impl Strategy<Value = Source> {
    let parts = (lists(some_principal()), lists(some_namespace()), lists(some_account()));
    (parts, lists(some_block()), lists(some_trust_domain()), prop::bool::weighted(0.15)).prop_map(
        |((principals, namespaces, service_accounts), ip_blocks, trust_domains, needs_token)| {
            let request_principals = Match { values: vec![StringMatch::Present], not_values: Vec::new() };
            let l7 = SourceL7 { request_principals, ..SourceL7::default() };
            let l7 = if needs_token { l7.boxed() } else { None };
            Source { principals, namespaces, service_accounts, ip_blocks, trust_domains, l7 }
        },
    )
}

fn some_operation() -> impl Strategy<Value = Operation> {
    (lists(select(vec![80u16, 8080])), prop::bool::weighted(0.15)).prop_map(|(ports, is_l7)| {
        let mut l7 = OperationL7::default();
        l7.methods.not_values.push(StringMatch::Present);
        Operation { ports, l7: if is_l7 { l7.boxed() } else { None } }
    })
}

fn some_condition() -> impl Strategy<Value = Condition> {
    let keys = ["remote.ip", "request.headers[X-a]", "request.auth.claims[a][b]", "connection.sni"];
    let l7 = select(keys.to_vec()).prop_map(|key| {
        Condition::L7(Box::new(match key {
            "remote.ip" => L7Condition::RemoteIp(Match::default()),
            "connection.sni" => L7Condition::ConnectionSni(Match::default()),
            "request.headers[X-a]" => L7Condition::RequestHeader("X-a".parse().unwrap(), Match::default()),
            _ => L7Condition::RequestClaim(authz::ClaimPath::parse("a][b").unwrap(), Match::default()),
        }))
    });
    prop_oneof![
        2 => lists(some_block()).prop_map(Condition::SourceIp),
        2 => lists(some_namespace()).prop_map(Condition::SourceNamespace),
        2 => lists(some_principal()).prop_map(Condition::SourcePrincipal),
        2 => lists(some_account()).prop_map(Condition::SourceServiceAccount),
        2 => lists(some_trust_domain()).prop_map(Condition::SourceTrustDomain),
        2 => lists(some_block()).prop_map(Condition::DestinationIp),
        2 => lists(select(vec![80u16, 8080])).prop_map(Condition::DestinationPort),
        1 => l7,
    ]
}

fn some_policy() -> impl Strategy<Value = AuthorizationPolicy> {
    let rule = (vec(some_source(), 0..3), vec(some_operation(), 0..3), vec(some_condition(), 0..2))
        .prop_map(|(from, to, when)| Rule { from, to, when });
    let action = select(vec![Action::Allow, Action::Deny, Action::Custom]);
    (action, vec(rule, 0..3)).prop_map(|(action, rules)| AuthorizationPolicy {
        name: name("default/p"),
        scope: Scope::Namespace,
        action,
        provider: (action == Action::Custom).then(|| "opa".into()),
        rules,
        dry_run: false,
    })
}

fn some_caller() -> impl Strategy<Value = Caller> {
    let ids = ["cluster.local", "mesh.example", "old.example", "other.org"];
    let identity = (select(ids.to_vec()), select(vec!["default", "other"]), select(vec!["x", "y"]))
        .prop_map(|(td, ns, sa)| Identity::new(&td.parse().unwrap(), ns, sa));
    let address = select(vec!["10.0.0.2", "10.0.0.9", "fd00::2"]).prop_map(|a| a.parse().unwrap());
    (prop::option::weighted(0.8, identity), address, select(vec![80u16, 8080, 9000]))
        .prop_map(|(identity, address, port)| Caller { identity, address, port })
}

/// It asks for the end of a trust domain, which Istio's message cannot carry.
fn has_ends(policy: &AuthorizationPolicy) -> bool {
    let is_end =
        |m: &Match<StringMatch>| m.values.iter().chain(&m.not_values).any(|t| matches!(t, StringMatch::Suffix(_)));
    policy.rules.iter().any(|rule| {
        rule.from.iter().any(|s| is_end(&s.trust_domains))
            || rule.when.iter().any(|c| matches!(c, Condition::SourceTrustDomain(m) if is_end(m)))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_data_plane_is_wider(policy in some_policy(), settings in some_settings(), callers in vec(some_caller(), 16)) {
        let world = only(&settings, policy.clone());
        let message = message(&world);
        let read = plain::policy(&settings, &message).ok().map(|read| only(&settings, read));
        for caller in &callers {
            let (written, foreign) = (core(&world, caller), foreign(&message, caller));
            match policy.action {
                _ if !has_ends(&policy) => prop_assert_eq!(written, foreign, "{:?} {:?}", caller, message),
                Action::Allow => prop_assert!(written || !foreign, "{:?} {:?}", caller, message),
                _ => prop_assert!(foreign || !written, "{:?} {:?}", caller, message),
            }
            if let Some(read) = &read {
                prop_assert_eq!(core(read, caller), foreign, "Istio's fields alone: {:?} {:?}", caller, message);
            }
        }
        // And an agent of ours has the policy itself.
        prop_assert_eq!(decode(&settings, &encode(&world)), normal(&world));
    }
}

/// The one policy of a World, encoded.
fn message(world: &World) -> Authorization {
    let resources = encode(world);
    let resource = resources.authorizations.values().next().unwrap();
    prost::Message::decode(&*resource.body).unwrap()
}

#[test]
fn a_dry_run_enforces_nothing_anywhere() {
    for action in [Action::Allow, Action::Deny] {
        for rules in [vec![], vec![Rule::default()]] {
            let policy = AuthorizationPolicy {
                name: name("default/p"),
                scope: Scope::Selector(labels("app=a")),
                action,
                provider: None,
                rules,
                dry_run: true,
            };
            let world = only(&MeshSettings::default(), policy);
            let message = message(&world);
            assert_eq!((message.action(), message.groups.len(), message.dry_run), (security::Action::Deny, 0, true));
            assert_eq!(decode(world.settings(), &encode(&world)), world);
        }
    }
}

#[test]
fn a_policy_is_sent_twice_only_where_it_must_be() {
    let check = |source: Source, expect: bool| {
        let mut policy = AuthorizationPolicy {
            name: name("default/p"),
            scope: Scope::Namespace,
            action: Action::Allow,
            provider: None,
            rules: vec![Rule { from: vec![source], ..Rule::default() }],
            dry_run: false,
        };
        let has_extension = |policy: &AuthorizationPolicy| {
            !message(&only(&MeshSettings::default(), policy.clone())).extensions.is_empty()
        };
        assert_eq!(has_extension(&policy), expect, "{policy:?}");
        // The labels of a selector are not Istio's to carry.
        policy.scope = Scope::Selector(labels("app=a"));
        assert!(has_extension(&policy));
    };
    let one = |text: &str| Match { values: vec![PrincipalMatch::parse(text)], not_values: Vec::new() };
    let trust_domains = Match { values: vec![StringMatch::Exact("other.org".into())], not_values: Vec::new() };
    check(Source { principals: one("cluster.local/ns/default/sa/x"), ..Source::default() }, false);
    check(Source { principals: one("*"), ..Source::default() }, false);
    check(Source { principals: one("cluster.*"), ..Source::default() }, true);
    check(Source { trust_domains, ..Source::default() }, true);
}
