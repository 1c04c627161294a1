//! Policies that are not understood, and those that are for all their shape.

use expect_test::{Expect, expect};
use prost::Message as _;
use underpass_core::{
    ObjectName,
    authz::Rule,
    testing::name,
    world::{Action, AuthorizationPolicy, Scope},
};

use super::{Agent, exact, one, pod, policy, rules};
use crate::{
    contract::istio::{
        security::{self, Authorization, Group, Match, StringMatch},
        workload::{Address, Extension, address::Type},
    },
    resource::ResourceKind,
};

/// What could widen access is refused, by name, and what it selects is closed; after a good version that one stays.
#[test]
fn policies_that_are_not_understood() {
    use security::Action::{Allow, Deny};
    let check = |message: Authorization, expect: Expect| {
        let mut agent = Agent::new();
        expect.assert_eq(&agent.policy(&message));
        let closed = AuthorizationPolicy {
            name: name("default/p"),
            scope: Scope::Namespace,
            action: Action::Deny,
            provider: None,
            rules: vec![Rule::default()],
            dry_run: false,
        };
        assert_eq!(agent.world.policies().map(|p| (**p).clone()).collect::<Vec<_>>(), [closed]);
        assert_eq!(agent.decoder.problems().count(), 1);
        let mut agent = Agent::new();
        agent.policy(&policy(Deny, vec![]));
        assert!(agent.policy(&message).ends_with("(the last good version stays served)\n"));
        assert_eq!(agent.world.policy(&name("default/p")).unwrap().rules, []);
        agent.take(ResourceKind::Authorization, "default/p", None);
        assert_eq!((agent.world.policies().count(), agent.decoder.problems().count()), (0, 0));
    };
    let with = |m: Match| policy(Allow, one(m));
    let text = |text| Match { namespaces: vec![exact(text)], ..Match::default() };
    check(
        Authorization { action: 2, ..policy(Allow, vec![]) },
        expect![[r#"
        error: control plane: default/p: AuthorizationPolicy default/p: action: is 2, probably of a newer version of its API: without it the policy might allow more (connections to what it selects are refused until it is fixed)
    "#]],
    );
    check(
        Authorization { scope: 3, ..policy(Allow, vec![]) },
        expect![[r#"
        error: control plane: default/p: AuthorizationPolicy default/p: scope: is 3, probably of a newer version of its API: without it the policy might allow more (connections to what it selects are refused until it is fixed)
    "#]],
    );
    check(
        policy(Allow, vec![Group { rules: vec![rules(vec![])] }]),
        expect![[r#"
        error: control plane: default/p: AuthorizationPolicy default/p: groups[0].rules[0]: has no matches, which could mean nothing or anything (connections to what it selects are refused until it is fixed)
    "#]],
    );
    check(
        with(text("")),
        expect![[r#"
        error: control plane: default/p: AuthorizationPolicy default/p: groups[0].rules[0].matches[0].namespaces: is empty (connections to what it selects are refused until it is fixed)
    "#]],
    );
    check(
        with(Match { principals: vec![exact("*")], ..Match::default() }),
        expect![[r#"
        error: control plane: default/p: AuthorizationPolicy default/p: groups[0].rules[0].matches[0].principals: `*` has a star where no pattern has one (connections to what it selects are refused until it is fixed)
    "#]],
    );
    check(
        with(Match { namespaces: vec![StringMatch { match_type: None }], ..Match::default() }),
        expect![[r#"
        error: control plane: default/p: AuthorizationPolicy default/p: groups[0].rules[0].matches[0].namespaces: is a pattern of an unknown kind (connections to what it selects are refused until it is fixed)
    "#]],
    );
    check(
        with(Match { destination_ports: vec![65536], ..Match::default() }),
        expect![[r#"
        error: control plane: default/p: AuthorizationPolicy default/p: groups[0].rules[0].matches[0].destination_ports: `65536` is not a port: a number from 1 to 65535 (connections to what it selects are refused until it is fixed)
    "#]],
    );
    let ip = |address: &[u8], length| security::Address { address: address.to_vec(), length };
    check(
        with(Match { source_ips: vec![ip(&[1, 2, 3], 8)], ..Match::default() }),
        expect![[r#"
        error: control plane: default/p: AuthorizationPolicy default/p: groups[0].rules[0].matches[0].source_ips: has 3 bytes: an address has 4 or 16 (connections to what it selects are refused until it is fixed)
    "#]],
    );
    check(
        with(Match { source_ips: vec![ip(&[1, 2, 3, 4], 33)], ..Match::default() }),
        expect![[r#"
        error: control plane: default/p: AuthorizationPolicy default/p: groups[0].rules[0].matches[0].source_ips: a prefix of 33 bits is longer than its address (connections to what it selects are refused until it is fixed)
    "#]],
    );
    let extensions = vec![Extension { name: "example.org/x".into(), config: None }];
    check(
        with(Match { extensions, ..text("default") }),
        expect![[r#"
        error: control plane: default/p: AuthorizationPolicy default/p: groups[0].rules[0].matches[0].extensions: has extension `example.org/x`: without it the policy might allow more (connections to what it selects are refused until it is fixed)
    "#]],
    );
}

#[test]
fn fields_of_a_newer_policy() {
    let mut agent = Agent::new();
    let mut body = policy(security::Action::Allow, vec![]).encode_to_vec();
    // A group whose rule has a match with field 14.
    body.extend([0x2a, 8, 0x0a, 6, 0x12, 4, 0x72, 2, b'x', b'y']);
    let said = agent.take(ResourceKind::Authorization, "default/p", Some(body));
    expect![[r#"
        error: control plane: default/p: AuthorizationPolicy default/p: has field 14, probably of a newer version of its API: without it the policy might allow more (connections to what it selects are refused until it is fixed)
    "#]].assert_eq(&said);
    // Workloads and services are served by what is known.
    let mut body = Address { r#type: Some(Type::Workload(pod())) };
    let Some(Type::Workload(message)) = &mut body.r#type else { panic!() };
    message.tunnel_protocol = 9;
    message.network_mode = 9;
    let mut body = body.encode_to_vec();
    body.extend([0x72, 2, b'x', b'y']);
    assert_eq!(agent.take(ResourceKind::Address, "Kubernetes//Pod/default/a", Some(body)), "");
    assert!(agent.pod("default/a").is_enrolled(), "an unknown tunnel is not plaintext");
}

/// A clause of several matches that ask for different things is one rule for each.
#[test]
fn clauses_are_multiplied_out() {
    let mixed = || {
        let port = Match { destination_ports: vec![80], ..Match::default() };
        rules(vec![Match { principals: vec![exact("a/ns/b/sa/c")], ..port.clone() }, port])
    };
    let mut agent = Agent::new();
    let group = |count: usize| vec![Group { rules: (0..count).map(|_| mixed()).collect() }];
    assert_eq!(agent.policy(&policy(security::Action::Allow, group(3))), "");
    assert_eq!(agent.world.policy(&ObjectName::new("default", "p")).unwrap().rules.len(), 8);
    expect![[r#"
        error: control plane: default/p: AuthorizationPolicy default/p: groups[0]: comes to more than 4096 rules (the last good version stays served)
    "#]].assert_eq(&agent.policy(&policy(security::Action::Allow, group(40))));
}

/// Control plane and agent disagree about the root namespace: what is meant for the whole mesh closes the whole mesh.
#[test]
fn a_mesh_wide_policy_of_another_namespace() {
    let mut agent = Agent::new();
    let message = Authorization { scope: 0, ..policy(security::Action::Allow, vec![]) };
    expect![[r#"
        error: control plane: default/p: AuthorizationPolicy default/p: scope: control plane and agent disagree about the root namespace, which is `istio-system` here (connections to what it selects are refused until it is fixed)
    "#]].assert_eq(&agent.policy(&message));
    let policies =
        |agent: &Agent| agent.world.policies().map(|p| format!("{} {:?}", p.name, p.action)).collect::<Vec<_>>();
    assert_eq!(policies(&agent), ["istio-system/default/p Deny"]);
    agent.policy(&policy(security::Action::Allow, vec![]));
    assert_eq!(policies(&agent), ["default/p Allow"]);
    agent.take(ResourceKind::Authorization, "default/p", None);
    agent.policy(&message);
    agent.take(ResourceKind::Authorization, "default/p", None);
    assert_eq!(policies(&agent), [""; 0]);
}
