//! Mutual TLS modes in istiod's encoding.

use underpass_core::{
    testing::name,
    world::{Mtls, Takes},
};

use super::{Agent, one, pod, policy, presence, rules};
use crate::{
    contract::istio::{
        security::{self, Authorization, Group, Match},
        workload,
    },
    resource::ResourceKind,
};

#[test]
fn strict_in_istiods_encoding() {
    use security::Action::Deny;
    let named = |name: &str, groups| Authorization {
        name: name.into(),
        scope: security::Scope::WorkloadSelector.into(),
        ..policy(Deny, groups)
    };
    let plaintext = || Match { not_principals: vec![presence()], ..Match::default() };
    let but = |port| Match { not_destination_ports: vec![port], ..Match::default() };
    let on = |port| Match { destination_ports: vec![port], ..plaintext() };
    let group = |all: Vec<Match>| Group { rules: all.into_iter().map(|m| rules(vec![m])).collect() };
    let check = |converted: Option<Authorization>, lists: &[&str], expect: &[u16], by: &str| {
        let mut agent = Agent::new();
        let mut message = pod();
        message.authorization_policies = lists.iter().map(ToString::to_string).collect();
        // In either order.
        agent.workload(&message);
        converted.iter().for_each(|policy| assert_eq!(agent.policy(policy), ""));
        let last = agent.pod("default/a").mtls.clone();
        let mut other = Agent::new();
        converted.iter().for_each(|policy| assert_eq!(other.policy(policy), ""));
        other.workload(&message);
        assert_eq!(other.pod("default/a").mtls, last);
        assert!(agent.world.policies().next().is_none() && agent.pod("default/a").policies.is_empty());
        let modes = |mtls: &Mtls, port| mtls.of(port).cloned().filter(|mode| mode.takes == Takes::MutualTls);
        let ports = [80, 81, 90].into_iter().filter(|port| modes(&last, *port).is_some());
        assert_eq!(ports.collect::<Vec<_>>(), expect, "{last:?}");
        assert!([80, 81, 90].iter().filter_map(|port| modes(&last, *port)).all(|mode| mode.by == name(by)), "{last:?}");
        // Gone, and still named: it counts until it is not.
        let name = lists.last().unwrap();
        agent.take(ResourceKind::Authorization, name, None);
        assert_eq!(agent.pod("default/a").mtls, last);
        agent.workload(&pod());
        assert_eq!(agent.pod("default/a").mtls, Mtls::default());
        agent.workload(&message);
        assert!(modes(&agent.pod("default/a").mtls, 7).is_some(), "what it names is not known: all ports");
    };
    let (all, root) = ("istio-system/istio_converted_static_strict", "default/converted_peer_authentication_w");
    check(None, &[all], &[80, 81, 90], all);
    check(None, &[root], &[80, 81, 90], "default/w");
    let w = "converted_peer_authentication_w";
    check(Some(named(w, vec![group(vec![plaintext(), but(80)])])), &[root], &[81, 90], "default/w");
    check(Some(named(w, vec![group(vec![but(80), but(90), plaintext()])])), &[root], &[81], "default/w");
    check(Some(named(w, vec![group(vec![on(80)]), group(vec![on(90)])])), &[root], &[80, 90], "default/w");
}

#[test]
fn other_content_under_a_converted_name_stays_a_policy() {
    let mut agent = Agent::new();
    let converted = "default/converted_peer_authentication_w";
    let message = workload::Workload { authorization_policies: vec![converted.into()], ..pod() };
    agent.workload(&message);
    let mut other = policy(security::Action::Deny, one(Match { principals: vec![presence()], ..Match::default() }));
    other.name = "converted_peer_authentication_w".into();
    other.scope = security::Scope::WorkloadSelector.into();
    assert_eq!(agent.policy(&other), "");
    assert_eq!(*agent.pod("default/a").policies, [name(converted)]);
    assert_eq!(agent.pod("default/a").mtls, Mtls::default());
    assert!(agent.world.policy(&name(converted)).is_some());
    // And back.
    other.groups = one(Match { not_principals: vec![presence()], ..Match::default() });
    assert_eq!(agent.policy(&other), "");
    assert!(agent.pod("default/a").policies.is_empty() && agent.world.policy(&name(converted)).is_none());
    assert_eq!(agent.pod("default/a").mtls.of(80).unwrap().takes, Takes::MutualTls);
}
