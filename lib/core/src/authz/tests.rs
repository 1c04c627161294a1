//! The semantics of policies, as data: policies in a small notation, requests, expected verdicts.

mod via;

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{
    objects::{Batch, Object},
    resolve::Model,
    testing::{by_method, labels, name, pod, policy, some_model, world},
    world::{MeshSettings, PolicyTarget, Scope, TargetKind},
};

/// `field=value,value` words; `from`, `to` and `when` start a new entry. `source:`-less: `from principals=a,b
/// notNamespaces=c`.
pub(super) fn rule(text: &str) -> Rule {
    let mut rule = Rule::default();
    let mut part = "";
    for word in text.split_whitespace() {
        match word {
            "from" => rule.from.push(Source::default()),
            "to" => rule.to.push(Operation::default()),
            "when" => {}
            field => {
                let (key, values) = field.split_once('=').expect("field=value");
                match part {
                    "from" => from_field(rule.from.last_mut().unwrap(), key, values),
                    "to" => to_field(rule.to.last_mut().unwrap(), key, values),
                    _ => rule.when.push(condition(key, values)),
                }
                continue;
            }
        }
        part = word;
    }
    rule
}

fn list<T>(m: &mut Match<T>, not: bool, values: &str, parse: impl Fn(&str) -> T) {
    let parsed = values.split(',').map(parse);
    if not { m.not_values.extend(parsed) } else { m.values.extend(parsed) }
}

fn account(text: &str) -> ServiceAccount {
    let (namespace, name) = text.split_once('/').unwrap();
    ServiceAccount { namespace: namespace.into(), name: name.into() }
}

fn from_field(s: &mut Source, key: &str, values: &str) {
    let not = key.starts_with("not");
    match key.trim_start_matches("not").to_lowercase().as_str() {
        "principals" => list(&mut s.principals, not, values, PrincipalMatch::parse),
        "namespaces" => list(&mut s.namespaces, not, values, StringMatch::parse),
        "serviceaccounts" => list(&mut s.service_accounts, not, values, account),
        "ipblocks" => list(&mut s.ip_blocks, not, values, |v| v.parse().unwrap()),
        "trustdomains" => list(&mut s.trust_domains, not, values, StringMatch::parse),
        "requestprincipals" => {
            let l7 = s.l7.get_or_insert_default();
            list(&mut l7.request_principals, not, values, StringMatch::parse);
        }
        "remoteipblocks" => {
            let l7 = s.l7.get_or_insert_default();
            list(&mut l7.remote_ip_blocks, not, values, |v| v.parse().unwrap());
        }
        other => panic!("no field of a source: {other}"),
    }
}

fn to_field(o: &mut Operation, key: &str, values: &str) {
    let not = key.starts_with("not");
    let key = key.trim_start_matches("not").to_lowercase();
    if key == "ports" {
        return list(&mut o.ports, not, values, |v| v.parse().unwrap());
    }
    let l7 = o.l7.get_or_insert_default();
    match key.as_str() {
        "methods" => list(&mut l7.methods, not, values, StringMatch::parse),
        "hosts" => list(&mut l7.hosts, not, values, StringMatch::parse),
        "paths" => list(&mut l7.paths, not, values, |v| v.parse().unwrap()),
        other => panic!("no field of an operation: {other}"),
    }
}

fn condition(key: &str, values: &str) -> Condition {
    let (not, key) = key.strip_prefix('!').map_or((false, key), |k| (true, k));
    fn m<T>(not: bool, values: &str, parse: impl Fn(&str) -> T) -> Match<T> {
        let mut m = Match::default();
        list(&mut m, not, values, parse);
        m
    }
    match key {
        "source.ip" => Condition::SourceIp(m(not, values, |v| v.parse().unwrap())),
        "source.namespace" => Condition::SourceNamespace(m(not, values, StringMatch::parse)),
        "source.principal" => Condition::SourcePrincipal(m(not, values, PrincipalMatch::parse)),
        "source.serviceAccount" => Condition::SourceServiceAccount(m(not, values, account)),
        "source.trustDomain" => Condition::SourceTrustDomain(m(not, values, StringMatch::parse)),
        "destination.ip" => Condition::DestinationIp(m(not, values, |v| v.parse().unwrap())),
        "destination.port" => Condition::DestinationPort(m(not, values, |v| v.parse().unwrap())),
        other => Condition::L7(l7_condition(other, not, values).into()),
    }
}

fn l7_condition(key: &str, not: bool, values: &str) -> L7Condition {
    let mut texts = Match::default();
    list(&mut texts, not, values, StringMatch::parse);
    let in_brackets = |prefix: &str| key.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(']'));
    match key {
        "remote.ip" => {
            let mut nets = Match::default();
            list(&mut nets, not, values, |v| v.parse().unwrap());
            L7Condition::RemoteIp(nets)
        }
        "connection.sni" => L7Condition::ConnectionSni(texts),
        "request.auth.principal" => L7Condition::RequestPrincipal(texts),
        "request.auth.audiences" => L7Condition::RequestAudiences(texts),
        "request.auth.presenter" => L7Condition::RequestPresenter(texts),
        _ => match (in_brackets("request.headers["), in_brackets("request.auth.claims[")) {
            (Some(name), _) => L7Condition::RequestHeader(name.parse().unwrap(), texts),
            (_, Some(path)) => L7Condition::RequestClaim(ClaimPath::parse(path).unwrap(), texts),
            _ => {
                let mut values_of = Match::default();
                list(&mut values_of, not, values, |v| Arc::from(v));
                L7Condition::EnvoyFilter { key: key.into(), values: values_of }
            }
        },
    }
}

/// The pod is default/a (app=a) at 10.0.0.1:80; the caller is `identity` (`-`: none) at 10.0.0.2.
fn ask(policies: Vec<AuthorizationPolicy>, identity: &str) -> Verdict {
    let a = pod("default/a", "10.0.0.1");
    let world = world(policies.into_iter().map(Object::from).chain([a.into()]));
    let a = world.pod(&name("default/a")).unwrap();
    let id: Option<Identity> = (identity != "-").then(|| format!("spiffe://{identity}").parse().unwrap());
    let peer = Peer::itself("10.0.0.2".parse().unwrap(), id.as_ref());
    judge(&world, &Request { peer, workload: a, address: "10.0.0.1".parse().unwrap(), port: 80 }, &mut ())
}

const B: &str = "cluster.local/ns/default/sa/b";

#[test]
fn matches_of_one_rule() {
    for (text, identity, matches) in [
        // rules: [{}] matches everything
        ("", B, true),
        ("", "-", true),
        // an entry that asks for nothing matches nothing
        ("from", B, false),
        ("to", B, false),
        // identities
        ("from principals=cluster.local/ns/default/sa/b", B, true),
        ("from principals=spiffe://cluster.local/ns/default/sa/b", B, false),
        ("from principals=cluster.local/ns/default/sa/c", B, false),
        ("from principals=cluster.local/ns/default/*", B, true),
        ("from principals=*/sa/b", B, true),
        ("from principals=*", B, true),
        ("from principals=*", "-", false),
        ("from notPrincipals=*", "-", true),
        ("from notPrincipals=*", B, false),
        ("from notPrincipals=cluster.local/ns/default/sa/c", B, true),
        ("from namespaces=default", B, true),
        ("from namespaces=def*", B, true),
        ("from namespaces=other", B, false),
        ("from notNamespaces=other", "-", true),
        ("from namespaces=default", "-", false),
        ("from serviceAccounts=default/b", B, true),
        ("from serviceAccounts=other/b", B, false),
        ("from serviceAccounts=default/b", "-", false),
        ("from notServiceAccounts=default/b", B, false),
        ("from trustDomains=cluster.local", B, true),
        ("from trustDomains=td2", B, false),
        ("from trustDomains=*", "-", false),
        // addresses
        ("from ipBlocks=10.0.0.0/24", "-", true),
        ("from ipBlocks=10.0.0.2/32", "-", true),
        ("from ipBlocks=10.0.1.0/24", "-", false),
        ("from ipBlocks=::/0", "-", false),
        ("from notIpBlocks=10.0.0.0/24", "-", false),
        // fields AND, values OR, entries OR
        ("from namespaces=x,default principals=*", B, true),
        ("from namespaces=default principals=no-one", B, false),
        ("from namespaces=x from namespaces=default", B, true),
        ("to ports=80", B, true),
        ("to ports=81", B, false),
        ("to notPorts=80", B, false),
        ("to ports=81 to ports=80", B, true),
        ("from namespaces=default to ports=81", B, false),
        // when: all of them
        ("when source.namespace=default", B, true),
        ("when source.namespace=default source.ip=10.9.0.0/16", B, false),
        ("when !source.ip=10.9.0.0/16", "-", true),
        ("when source.principal=*", "-", false),
        ("when !source.principal=*", "-", true),
        ("when source.serviceAccount=default/b", B, true),
        ("when source.trustDomain=cluster.local", B, true),
        ("when destination.ip=10.0.0.1/32", B, true),
        ("when destination.ip=10.0.0.2/32", B, false),
        ("when destination.port=80", B, true),
        ("when !destination.port=80", B, false),
    ] {
        let allowed = ask(vec![policy("default/p", Action::Allow, vec![rule(text)])], identity).is_allow();
        assert_eq!(allowed, matches, "ALLOW {text:?} for {identity}");
        let denied = !ask(vec![policy("default/p", Action::Deny, vec![rule(text)])], identity).is_allow();
        assert_eq!(denied, matches, "DENY {text:?} for {identity}");
    }
}

#[test]
fn deny_before_allow_and_allow_closes_the_rest() {
    let allow = |n: &str, text| policy(n, Action::Allow, vec![rule(text)]);
    let deny = |n: &str, text| policy(n, Action::Deny, vec![rule(text)]);
    let yes = |p: Option<&str>| Verdict::Allow { policy: p.map(name) };
    let no = |p, reason| Verdict::Deny { policy: Some(name(p)), reason };
    for (policies, expect) in [
        (vec![], yes(None)),
        (vec![allow("default/p", "to ports=80")], yes(Some("default/p"))),
        (vec![allow("default/p", "to ports=81")], no("default/p", Reason::NotAllowed)),
        (vec![allow("default/p", "to ports=81"), allow("default/q", "")], yes(Some("default/q"))),
        (vec![allow("default/p", ""), deny("default/q", "to ports=80")], no("default/q", Reason::Denied)),
        (vec![deny("default/q", "to ports=81")], yes(None)),
        // spec: {} allows nothing
        (vec![policy("default/p", Action::Allow, vec![])], no("default/p", Reason::NotAllowed)),
        (vec![policy("default/p", Action::Deny, vec![])], yes(None)),
        // scope
        (vec![policy("other/p", Action::Allow, vec![])], yes(None)),
        (vec![policy("istio-system/p", Action::Allow, vec![])], no("istio-system/p", Reason::NotAllowed)),
    ] {
        assert_eq!(ask(policies.clone(), B), expect, "{policies:?}");
    }
}

#[test]
fn scopes_and_dry_run() {
    let check = |namespace: &str, change: &dyn Fn(&mut AuthorizationPolicy), applies: bool| {
        let mut p = policy(&format!("{namespace}/p"), Action::Deny, vec![Rule::default()]);
        change(&mut p);
        assert_eq!(!ask(vec![p.clone()], B).is_allow(), applies, "{p:?}");
    };
    let selector = |text: &'static str| move |p: &mut AuthorizationPolicy| p.scope = Scope::Selector(labels(text));
    check("default", &|_| {}, true);
    check("default", &selector("app=a"), true);
    check("default", &selector("app=z"), false);
    check("istio-system", &selector("app=a"), true);
    check("istio-system", &selector("app=z"), false);
    check("other", &selector("app=a"), false);
    check("default", &|p| p.scope = Scope::Targets(vec![PolicyTarget::new(TargetKind::Service, "a")]), false);
    check("default", &|p| p.dry_run = true, false);
}

#[test]
fn l7_fields_never_widen() {
    let needs = |fields: &[&str]| Reason::NeedsWaypoint(fields.iter().map(|f| Arc::from(*f)).collect());
    let ask1 = |action, text| ask(vec![policy("default/p", action, vec![rule(text)])], B);
    let no = |reason| Verdict::Deny { policy: Some(name("default/p")), reason };
    for (action, text, expect) in [
        (Action::Allow, "to methods=GET", no(needs(&["methods"]))),
        (Action::Allow, "from namespaces=default to methods=GET paths=/x", no(needs(&["methods", "paths"]))),
        // one entry without L7 fields does not help: the rule as a whole has them
        (Action::Allow, "from namespaces=default from requestPrincipals=*", no(needs(&["requestPrincipals"]))),
        (Action::Allow, "from namespaces=other to methods=GET", no(Reason::NotAllowed)),
        (Action::Deny, "to methods=GET", no(needs(&["methods"]))),
        (Action::Deny, "from requestPrincipals=*", no(needs(&["requestPrincipals"]))),
        (Action::Deny, "when request.headers[x]=1", no(needs(&["request.headers[x]"]))),
        (Action::Deny, "from namespaces=other to methods=GET", Verdict::Allow { policy: None }),
        (Action::Deny, "to methods=GET ports=81", Verdict::Allow { policy: None }),
    ] {
        assert_eq!(ask1(action, text), expect, "{action:?} {text}");
    }
}

/// The trust domain of a mesh that was renamed: each field of each kind of policy knows all of its names.
#[test]
fn every_field_knows_all_names_of_a_trust_domain() {
    let settings = MeshSettings {
        trust_domain: "acme.example".parse().unwrap(),
        trust_domain_aliases: vec!["old.example".parse().unwrap()],
        ..MeshSettings::default()
    };
    let a = pod("default/a", "10.0.0.1");
    for domain in ["acme.example", "old.example", "cluster.local", "other.example"] {
        for field in [
            format!("from principals={domain}/ns/default/sa/b"),
            format!("from trustDomains={domain}"),
            format!("when source.principal={domain}/ns/default/sa/b"),
            format!("when source.trustDomain={domain}"),
        ] {
            let deny = policy("default/d", Action::Deny, vec![rule(&field)]);
            let mut model = Model::empty(settings.clone());
            model.apply(&[deny.into(), a.clone().into()].into_iter().collect());
            let world = model.world();
            let a = world.pod(&a.name).unwrap();
            for (of, is_own) in [("acme.example", true), ("old.example", true), ("other.example", false)] {
                let id = Identity::new(&of.parse().unwrap(), "default", "b");
                let peer = Peer::itself("10.0.0.2".parse().unwrap(), Some(&id));
                let request = Request { peer, workload: a, address: "10.0.0.1".parse().unwrap(), port: 80 };
                let denied = !judge(world, &request, &mut ()).is_allow();
                assert_eq!(denied, is_own == (domain != "other.example"), "{field} by {id}");
            }
        }
    }
}

#[test]
fn dry_run_is_judged_aside() {
    let a = pod("default/a", "10.0.0.1");
    let mut deny = policy("default/d", Action::Deny, vec![rule("to ports=80")]);
    let mut allow = policy("default/e", Action::Allow, vec![rule("to ports=81")]);
    (deny.dry_run, allow.dry_run) = (true, true);
    let world = world([deny.into(), allow.into(), a.into()]);
    let a = world.pod(&name("default/a")).unwrap();
    let peer = Peer::itself("10.0.0.2".parse().unwrap(), None);
    let request = Request { peer, workload: a, address: "10.0.0.1".parse().unwrap(), port: 80 };
    assert!(judge(&world, &request, &mut ()).is_allow());
    assert_eq!(dry_run_denials(&world, &request), [name("default/d"), name("default/e")]);
}

proptest! {
    /// Taking a DENY away or adding a rule to an ALLOW never denies more; adding L7 fields never allows more.
    #[test]
    fn l7_fields_only_narrow(model in some_model(), port in proptest::sample::select(vec![80u16, 8080])) {
        let stricter = |rule: &Rule| Rule {
            to: if rule.to.is_empty() { vec![by_method("GET")] }
                else { rule.to.iter().map(|o| Operation { ports: o.ports.clone(), ..by_method("GET") }).collect() },
            ..rule.clone()
        };
        let world = model.world();
        let mut batch = Batch::default();
        for p in world.policies() {
            batch.put(AuthorizationPolicy { rules: p.rules.iter().map(stricter).collect(), ..(**p).clone() });
        }
        let mut narrowed = model.clone();
        narrowed.apply(&batch);
        let narrowed = narrowed.world();
        for w in world.workloads() {
            let peer = Peer::itself("10.0.0.200".parse().unwrap(), None);
            let request = Request { peer, workload: w, address: "10.0.0.1".parse().unwrap(), port };
            let (before, after) = (judge(world, &request, &mut ()), judge(narrowed, &request, &mut ()));
            prop_assert!(before.is_allow() || !after.is_allow(), "{before:?} -> {after:?}");
        }
    }
}
