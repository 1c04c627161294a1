//! Connections at a waypoint that are no HTTP, at the same two gates. Their own file because nothing of HTTP is known of them: a
//! rule that asks for it allows nothing, and denies what the rest of it matches, as at L4. So does a rule of a CUSTOM policy: its
//! provider judges requests.

use std::net::SocketAddr;

use super::{WaypointTargets, of_endpoint};
use crate::{
    Reason, World,
    authz::{Ends, Peer, Rule, Verdict},
    world::{Action, AuthorizationPolicy, Workload},
};

/// Gate 1. `called` is the Service's address and port, or a workload's.
#[must_use]
pub fn judge_connection_at_waypoint(
    world: &World,
    targets: &WaypointTargets<'_>,
    called: SocketAddr,
    source: Peer<'_>,
) -> Verdict {
    judge(world, called, source, || targets.policies(world))
}

/// Gate 2. `target` is the chosen endpoint's address and target port.
#[must_use]
pub fn judge_connection_at_endpoint(
    world: &World,
    endpoint: &Workload,
    target: SocketAddr,
    source: Peer<'_>,
) -> Verdict {
    judge(world, target, source, || of_endpoint(world, endpoint))
}

fn judge<'p, I>(world: &World, to: SocketAddr, peer: Peer<'_>, policies: impl Fn() -> I) -> Verdict
where
    I: Iterator<Item = &'p AuthorizationPolicy>,
{
    let ends = Ends { peer, address: to.ip(), port: to.port() };
    let matches = |policy: &AuthorizationPolicy| {
        let counts = |rule: &Rule| policy.action.refuses() || rule.l7_fields().is_empty();
        policy.rules.iter().any(|rule| rule.l4_matches(world.settings(), ends) && counts(rule))
    };
    let enforced = |action| policies().filter(move |p| !p.dry_run && p.action == action);
    let mut refusing = policies().filter(|p| !p.dry_run && p.action.refuses());
    if let Some(policy) = refusing.find(|p| matches(p)) {
        return Verdict::Deny { policy: Some(policy.name.clone()), reason: Reason::Denied };
    }
    match (enforced(Action::Allow).find(|p| matches(p)), enforced(Action::Allow).next()) {
        (Some(policy), _) => Verdict::Allow { policy: Some(policy.name.clone()) },
        (None, Some(policy)) => Verdict::Deny { policy: Some(policy.name.clone()), reason: Reason::NotAllowed },
        (None, None) => Verdict::Allow { policy: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        authz::{Operation, tests::rule},
        testing::{by_method, name, pod, policy, world},
        world::{PolicyTarget, Scope, TargetKind},
    };

    /// The answers of both gates to a policy with these rules, about the Service and about the endpoint.
    fn check(action: Action, rules: Vec<Rule>, may_pass: bool) {
        let service = PolicyTarget { kind: TargetKind::Service, name: "a".into() };
        let at_service = AuthorizationPolicy {
            scope: Scope::Targets(vec![service]),
            ..policy("default/at-service", action, rules.clone())
        };
        let at_endpoint = policy("default/at-endpoint", action, rules.clone());
        let caller = "spiffe://cluster.local/ns/default/sa/b".parse().unwrap();
        let source = Peer::itself("10.0.0.2".parse().unwrap(), Some(&caller));
        let (service, gateway) = (name("default/a"), name("default/w"));
        let targets = WaypointTargets { service: Some(&service), gateway: &gateway, class: "istio-waypoint" };
        let of = |policy: AuthorizationPolicy| world([policy.into(), pod("default/a", "10.0.0.1").into()]);
        let first = judge_connection_at_waypoint(&of(at_service), &targets, "10.96.0.1:80".parse().unwrap(), source);
        let of_endpoint = of(at_endpoint);
        let endpoint = of_endpoint.pod(&name("default/a")).unwrap();
        let second = judge_connection_at_endpoint(&of_endpoint, endpoint, "10.0.0.1:80".parse().unwrap(), source);
        assert_eq!([first.is_allow(), second.is_allow()], [may_pass; 2], "{action:?} {rules:?}");
    }

    fn with(operation: Operation, mut rule: Rule) -> Rule {
        rule.to = vec![operation];
        rule
    }

    #[test]
    fn what_asks_for_http_never_widens() {
        let (own, other) = (|| rule("from namespaces=default"), || rule("from namespaces=other"));
        check(Action::Allow, vec![own()], true);
        check(Action::Allow, vec![other()], false);
        check(Action::Allow, vec![with(by_method("GET"), own())], false);
        check(Action::Allow, vec![with(by_method("GET"), own()), own()], true);
        check(Action::Deny, vec![own()], false);
        check(Action::Deny, vec![other()], true);
        check(Action::Deny, vec![with(by_method("GET"), own())], false);
        check(Action::Deny, vec![with(by_method("GET"), other())], true);
        check(Action::Allow, vec![], false);
        check(Action::Custom, vec![own()], false);
        check(Action::Custom, vec![other()], true);
        check(Action::Custom, vec![with(by_method("GET"), own())], false);
        check(Action::Audit, vec![own()], true);
    }
}
