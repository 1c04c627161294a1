//! The verdicts about a request or connection that is asked about: of the policies of its waypoint, and of the endpoint's. Their own file
//! because they come from other objects than its route, and one of them before it.

use std::{net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::Answer;
use crate::{
    Kind, ObjectKey, ObjectName, World,
    authz::{self, Check, HttpRequest, Peer, Verdict, WaypointTargets},
    http::ClusterEndpoint,
    trace::{Stage, Step, Trace as _},
    world::{Service, WaypointAt},
};

/// The waypoint that is meant where no label names one, by the name that `istioctl waypoint` gives.
const USUAL_WAYPOINT: &str = "waypoint";
const USUAL_CLASS: &str = "istio-waypoint";

/// The verdict of one of the two sets of policies that a request has to pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// `waypoint`: policies with `targetRefs`; `endpoint`: those of the endpoint's workload.
    pub gate: String,
    /// The endpoint that was judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// Whether the request passes.
    pub verdict: Answer,
    /// The policy that decided, if one did.
    pub policy: Option<ObjectName>,
}

/// A request before its gates.
#[derive(Clone, Copy)]
pub(super) struct Gates<'a> {
    pub(super) world: &'a World,
    pub(super) service: &'a Service,
    /// The Service's address and port.
    pub(super) called: SocketAddr,
    pub(super) request: HttpRequest<'a>,
}

impl Gates<'_> {
    pub(super) fn at_waypoint(&self, steps: &mut Vec<Step>) -> Gate {
        let gateway = gateway(self.service);
        let targets = WaypointTargets { service: Some(&self.service.name), gateway: &gateway, class: USUAL_CLASS };
        let mut said = Vec::new();
        let checks = authz::checks_at_waypoint(self.world, &targets, self.called, &self.request);
        let allowed_by = asks(steps, "at the waypoint", checks);
        let request = HttpRequest { allowed_by: &allowed_by, ..self.request };
        let verdict = authz::judge_at_waypoint(self.world, &targets, self.called, &request, &mut said);
        add(steps, "at the waypoint", said);
        for policy in authz::dry_run_denials_at_waypoint(self.world, &targets, self.called, &self.request) {
            dry_run(steps, "at the waypoint", policy);
        }
        gate("waypoint", None, &verdict)
    }

    /// Of several endpoints the first is explained, as the route of a connection is.
    pub(super) fn at_endpoints(&self, endpoints: &[ClusterEndpoint<'_>], steps: &mut Vec<Step>) -> Option<Gate> {
        let (first, others) = endpoints.split_first()?;
        let checks = |endpoint: &ClusterEndpoint<'_>| {
            authz::checks_at_endpoint(self.world, endpoint.workload, endpoint.target, &self.request)
        };
        let judge = |endpoint: &ClusterEndpoint<'_>, said: &mut Vec<Step>| {
            let allowed_by: Vec<_> = checks(endpoint).into_iter().map(|check| check.provider).collect();
            let request = HttpRequest { allowed_by: &allowed_by, ..self.request };
            authz::judge_at_endpoint(self.world, endpoint.workload, endpoint.target, &request, said)
        };
        let mut said = Vec::new();
        let at = format!("at {}", first.target);
        asks(steps, &at, checks(first));
        let verdict = judge(first, &mut said);
        add(steps, &at, said);
        for policy in authz::dry_run_denials_at_endpoint(self.world, first.workload, first.target, &self.request) {
            dry_run(steps, &at, policy);
        }
        let other = others.iter().find(|other| judge(other, &mut Vec::new()).is_allow() != verdict.is_allow());
        if let Some(other) = other {
            let says = if verdict.is_allow() { "denied" } else { "allowed" };
            steps.say(Stage::Authorization, None, || {
                format!("the verdict depends on the endpoint: at {} it is {says}", other.target)
            });
        }
        Some(gate("endpoint", Some(first.target), &verdict))
    }
}

/// A connection that is no HTTP before its gates.
#[derive(Clone, Copy)]
pub(super) struct ConnectionGates<'a> {
    pub(super) world: &'a World,
    pub(super) service: &'a Service,
    /// The Service's address and port.
    pub(super) called: SocketAddr,
    pub(super) source: Peer<'a>,
}

impl ConnectionGates<'_> {
    pub(super) fn at_waypoint(&self, steps: &mut Vec<Step>) -> Gate {
        let gateway = gateway(self.service);
        let targets = WaypointTargets { service: Some(&self.service.name), gateway: &gateway, class: USUAL_CLASS };
        let verdict = authz::judge_connection_at_waypoint(self.world, &targets, self.called, self.source);
        say_verdict(steps, "the waypoint", &verdict);
        gate("waypoint", None, &verdict)
    }

    /// Of several endpoints the first is explained.
    pub(super) fn at_endpoint(&self, endpoints: &[ClusterEndpoint<'_>], steps: &mut Vec<Step>) -> Option<Gate> {
        let first = endpoints.first()?;
        let verdict = authz::judge_connection_at_endpoint(self.world, first.workload, first.target, self.source);
        say_verdict(steps, &first.target.to_string(), &verdict);
        Some(gate("endpoint", Some(first.target), &verdict))
    }
}

/// The verdict about a connection, where a policy has a say.
fn say_verdict(steps: &mut Vec<Step>, at: &str, verdict: &Verdict) {
    let key = verdict.policy().map(|policy| ObjectKey::new(Kind::AuthorizationPolicy, policy.clone()));
    let word = if verdict.is_allow() { "allowed" } else { "denied" };
    if key.is_some() || !verdict.is_allow() {
        steps.say(Stage::Authorization, key.as_ref(), || format!("at {at}: the connection is {word}"));
    }
}

/// The waypoint before a Service, or the one that is meant.
fn gateway(service: &Service) -> ObjectName {
    match service.waypoint.as_ref().map(|waypoint| &waypoint.at) {
        Some(WaypointAt::Service(name) | WaypointAt::Missing(name)) => name.clone(),
        Some(WaypointAt::Address(_)) | None => ObjectName::new(service.name.namespace(), USUAL_WAYPOINT),
    }
}

/// The steps of a gate, where a policy has a say there.
fn add(steps: &mut Vec<Step>, at: &str, said: Vec<Step>) {
    if said.iter().any(|step| step.object.is_some()) {
        steps.extend(said.into_iter().map(|step| Step { says: format!("{at}: {}", step.says), ..step }));
    }
}

/// Names the external authorizers that are asked, and answers them: the verdict is that of a request which they allow.
fn asks(steps: &mut Vec<Step>, at: &str, checks: Vec<Check>) -> Vec<Arc<str>> {
    let say = |check: Check| {
        let key = ObjectKey::new(Kind::AuthorizationPolicy, check.policy);
        steps.say(Stage::Authorization, Some(&key), || {
            format!("{at}: the provider {:?} is asked, and decides; below it is taken to allow", check.provider)
        });
        check.provider
    };
    checks.into_iter().map(say).collect()
}

fn dry_run(steps: &mut Vec<Step>, at: &str, policy: ObjectName) {
    let key = ObjectKey::new(Kind::AuthorizationPolicy, policy);
    steps.say(Stage::Authorization, Some(&key), || format!("{at}: dry run: it would be denied"));
}

fn gate(gate: &str, endpoint: Option<SocketAddr>, verdict: &Verdict) -> Gate {
    let answer = if verdict.is_allow() { Answer::Allow } else { Answer::Deny };
    Gate { gate: gate.into(), endpoint, verdict: answer, policy: verdict.policy().cloned() }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use crate::{
        authz::{Rule, StringMatch},
        explain::{Answer, Asked, explain_request},
        objects::{Object, Service},
        testing::{ambient, any_of, by_method, gateway, labels, model, pod, policy, service},
        world::{Action, AuthorizationPolicy, PolicyTarget, Scope, TargetKind},
    };

    fn methods(all: &[&str]) -> Rule {
        let mut operation = by_method("GET");
        operation.l7.as_mut().unwrap().methods = any_of(all.iter().map(|m| StringMatch::parse(m)));
        Rule { to: vec![operation], ..Rule::default() }
    }

    fn check(method: &str, path: &str, expect: &Expect) {
        let of = |full_name: &str, action, scope, rule| AuthorizationPolicy {
            scope,
            ..policy(full_name, action, vec![rule])
        };
        let target = |kind, name: &str| Scope::Targets(vec![PolicyTarget::new(kind, name)]);
        let model = model([
            ambient("default/web", "10.0.0.1", "").into(),
            ambient("default/a1", "10.0.0.2", "app=a v=1").into(),
            ambient("default/a2", "10.0.0.3", "app=a v=2").into(),
            service("default/a app=a 10.96.0.1 80=8080").into(),
            Object::from(of("default/of-a", Action::Allow, target(TargetKind::Service, "a"), methods(&["GET", "PUT"]))),
            of("default/of-w", Action::Deny, target(TargetKind::Gateway, "waypoint"), methods(&["DELETE"])).into(),
            of("default/v1", Action::Deny, Scope::Selector(labels("v=1")), methods(&["PUT"])).into(),
        ]);
        let asked = Asked { method: method.into(), path: path.into(), authority: None, headers: Vec::new() };
        let said = explain_request(model.world(), model.sources(), "default/web", "a:80", &asked).unwrap();
        let http = said.http.unwrap();
        let mut text = format!("{} {:?}\n", http.action, http.status);
        for gate in &http.gates {
            text += &format!("{} {:?} {:?} {:?}\n", gate.gate, gate.endpoint, gate.verdict, gate.policy);
        }
        let steps = said.steps.iter().filter(|s| s.says.starts_with("at ") || s.says.contains("400"));
        text += &steps.map(|s| format!("  {}\n", s.says)).collect::<String>();
        text += &(said.steps.iter().filter(|s| s.says.contains("depends")).map(|s| format!("  {}\n", s.says)))
            .collect::<String>();
        expect.assert_eq(&text);
    }

    #[test]
    fn both_gates_are_shown() {
        check(
            "GET",
            "/",
            &expect![[r#"
            forward None
            waypoint None Allow Some(default/of-a)
            endpoint Some(10.0.0.2:8080) Allow None
              at the waypoint: DENY does not match
              at the waypoint: ALLOW matches: spec.rules[0]
              at 10.0.0.2:8080: DENY does not match
              at 10.0.0.2:8080: no ALLOW policy applies: allowed
              the verdict depends on the endpoint; the first is explained (10.0.0.2:8080: deny, 10.0.0.3:8080: allow)
        "#]],
        );
        check(
            "PUT",
            "/",
            &expect![[r#"
                deny Some(403)
                waypoint None Allow Some(default/of-a)
                endpoint Some(10.0.0.2:8080) Deny Some(default/v1)
                  at the waypoint: DENY does not match
                  at the waypoint: ALLOW matches: spec.rules[0]
                  at 10.0.0.2:8080: DENY matches: spec.rules[0]
                  at 10.0.0.2:8080: the request is denied: 403
                  the verdict depends on the endpoint; the first is explained (10.0.0.2:8080: deny, 10.0.0.3:8080: allow)
                  the verdict depends on the endpoint: at 10.0.0.3:8080 it is allowed
            "#]],
        );
        check(
            "DELETE",
            "/",
            &expect![[r#"
                deny Some(403)
                waypoint None Deny Some(default/of-w)
                endpoint Some(10.0.0.2:8080) Allow None
                  at the waypoint: DENY matches: spec.rules[0]
                  at 10.0.0.2:8080: DENY does not match
                  at 10.0.0.2:8080: no ALLOW policy applies: allowed
                  at the waypoint: the request is denied: 403
                  the verdict depends on the endpoint; the first is explained (10.0.0.2:8080: deny, 10.0.0.3:8080: allow)
            "#]],
        );
        check(
            "GET",
            "/%zz",
            &expect![[r#"
            refuse Some(400)
              /%zz: a `%` stands before two hexadecimal digits: 400
              the verdict depends on the endpoint; the first is explained (10.0.0.2:8080: deny, 10.0.0.3:8080: allow)
        "#]],
        );
    }

    /// Where no waypoint stands, the connection's verdict counts; where one does, the request's.
    #[test]
    fn the_verdict_is_that_of_what_happens() {
        let check = |labelled: &str, method: &str, expect: (Answer, &str)| {
            let gets = policy("default/gets", Action::Deny, vec![methods(&["DELETE"])]);
            let scope = Scope::Targets(vec![PolicyTarget::new(TargetKind::Service, "a")]);
            let mut instance = pod("default/w1", "10.0.0.8");
            (instance.labels, instance.service_account) = (labels("app=w"), "w".into());
            let model = model([
                ambient("default/web", "10.0.0.1", "").into(),
                ambient("default/a1", "10.0.0.2", "app=a").into(),
                Service { labels: labels(labelled), ..service("default/a app=a 10.96.0.1 80=8080") }.into(),
                gateway("default/w").into(),
                service("default/w app=w 10.96.0.9 15008").into(),
                instance.into(),
                Object::from(AuthorizationPolicy { scope, ..gets }),
            ]);
            let asked = Asked { method: method.into(), path: "/".into(), authority: None, headers: Vec::new() };
            let said = explain_request(model.world(), model.sources(), "default/web", "a:80", &asked).unwrap();
            assert_eq!((said.verdict, &*said.reason), expect, "{labelled} {method}");
            assert_eq!(said.http.unwrap().enforced, labelled.ends_with("=w"));
        };
        let passes = (Answer::Allow, "no policy forbids it");
        check("istio.io/use-waypoint=w", "GET", passes);
        check(
            "istio.io/use-waypoint=w",
            "DELETE",
            (Answer::Deny, "the request is answered 403 by policy at the waypoint"),
        );
        check("app=a", "DELETE", passes);
        check("istio.io/use-waypoint=x", "DELETE", (Answer::Deny, "waypoint_missing"));
    }
}
