//! Requests at a waypoint, which has what L4 has not: method, path, headers, token. Two independent gates, and a request
//! has to pass both:
//!
//! 1. [`judge_at_waypoint`]: policies that name the called Service, the waypoint's Gateway or its GatewayClass in
//!    `targetRefs`. Before the request is routed.
//! 2. [`judge_at_endpoint`]: policies of the chosen endpoint, its own by selector, its namespace's and the mesh's. Again
//!    for each try and mirror.
//!
//! CUSTOM policies come before all others: what they match passes where their provider has allowed it. Whom to ask is said here
//! ([`checks_at_waypoint`], [`checks_at_endpoint`]); what has been allowed is an argument, and what has not is denied, so that
//! nothing passes where nothing can be asked.
//!
//! What must hold: the source is the one that called the waypoint, never the waypoint; a policy without fields of HTTP is
//! judged as [`super::judge`] judges it; and what cannot be known ([`super::truth`]) allows nothing, and denies.

mod connection;
mod custom;
mod rule;

use std::{net::SocketAddr, sync::Arc};

pub use self::{
    connection::{judge_connection_at_endpoint, judge_connection_at_waypoint},
    custom::{
        Check, audits_at_endpoint, audits_at_waypoint, checks_at_endpoint, checks_at_waypoint, has_checks_at_waypoint,
    },
};
use super::{Ends, Peer, Verdict, explains, say};
use crate::{
    ObjectName, Reason, World,
    http::RequestHead,
    jwt::Token,
    trace::{Stage, Trace},
    world::{Action, AuthorizationPolicy, MeshSettings, TargetKind, Workload},
};

/// A request as policies see it.
#[derive(Clone, Copy, Debug)]
pub struct HttpRequest<'a> {
    /// The original source.
    pub source: Peer<'a>,
    /// Method, authority, path (normalised), headers.
    pub head: RequestHead<'a>,
    /// The token that was verified for it.
    pub token: Option<&'a Token>,
    /// The external authorizers that have allowed it.
    pub allowed_by: &'a [Arc<str>],
}

/// What the policies of a waypoint may name in `targetRefs`.
#[derive(Clone, Copy, Debug)]
pub struct WaypointTargets<'a> {
    /// The Service that the request calls; none: it calls an address of a workload.
    pub service: Option<&'a ObjectName>,
    /// The Gateway that the waypoint is an instance of.
    pub gateway: &'a ObjectName,
    /// Its GatewayClass.
    pub class: &'a str,
}

impl WaypointTargets<'_> {
    /// Their policies, each once: of the Service, of the Gateway, of the class.
    fn policies<'a>(&'a self, world: &'a World) -> impl Iterator<Item = &'a AuthorizationPolicy> {
        let of_service = self.service.into_iter().flat_map(|name| world.policies_of_target(TargetKind::Service, name));
        let is_of_service = |p: &AuthorizationPolicy| {
            let names = |service: &ObjectName| {
                p.name.namespace() == service.namespace() && p.has_target(TargetKind::Service, service.name())
            };
            self.service.is_some_and(names)
        };
        let is_of_gateway = |p: &AuthorizationPolicy| {
            let name = self.gateway;
            p.name.namespace() == name.namespace() && p.has_target(TargetKind::Gateway, name.name())
        };
        let of_gateway = world.policies_of_target(TargetKind::Gateway, self.gateway).filter(move |p| !is_of_service(p));
        let of_class = world.policies_of_class(self.class);
        let of_class = of_class.filter(move |p| !is_of_service(p) && !is_of_gateway(p));
        of_service.chain(of_gateway).chain(of_class).map(|policy| &**policy)
    }
}

/// Gate 1. `called` is what the request was sent to: a Service's address and port, or a workload's.
#[must_use]
pub fn judge_at_waypoint(
    world: &World,
    targets: &WaypointTargets<'_>,
    called: SocketAddr,
    request: &HttpRequest<'_>,
    trace: &mut impl Trace,
) -> Verdict {
    Asked::new(world, called, request).judge(|| targets.policies(world), trace)
}

/// Gate 2. `target` is the chosen endpoint's address and target port.
#[must_use]
pub fn judge_at_endpoint(
    world: &World,
    endpoint: &Workload,
    target: SocketAddr,
    request: &HttpRequest<'_>,
    trace: &mut impl Trace,
) -> Verdict {
    Asked::new(world, target, request).judge(|| of_endpoint(world, endpoint), trace)
}

/// The dry-run policies of gate 1 that would deny it. Allocates nothing where there is none.
#[must_use]
pub fn dry_run_denials_at_waypoint(
    world: &World,
    targets: &WaypointTargets<'_>,
    called: SocketAddr,
    request: &HttpRequest<'_>,
) -> Vec<ObjectName> {
    Asked::new(world, called, request).dry_run_denials(|| targets.policies(world))
}

/// The dry-run policies of gate 2 that would deny it. Allocates nothing where there is none.
#[must_use]
pub fn dry_run_denials_at_endpoint(
    world: &World,
    endpoint: &Workload,
    target: SocketAddr,
    request: &HttpRequest<'_>,
) -> Vec<ObjectName> {
    Asked::new(world, target, request).dry_run_denials(|| of_endpoint(world, endpoint))
}

fn of_endpoint<'a>(world: &'a World, endpoint: &'a Workload) -> impl Iterator<Item = &'a AuthorizationPolicy> {
    world.authorization_policies(endpoint).map(|policy| &**policy)
}

/// One request at one gate.
struct Asked<'a> {
    settings: &'a MeshSettings,
    ends: Ends<'a>,
    request: &'a HttpRequest<'a>,
}

impl<'a> Asked<'a> {
    fn new(world: &'a World, to: SocketAddr, request: &'a HttpRequest<'a>) -> Self {
        let ends = Ends { peer: request.source, address: to.ip(), port: to.port() };
        Self { settings: world.settings(), ends, request }
    }

    /// The first rule of a policy that matches.
    fn matching(&self, policy: &AuthorizationPolicy) -> Option<usize> {
        policy.rules.iter().position(|rule| self.rule(rule).counts(policy.action))
    }

    fn judge<'p, I>(&self, policies: impl Fn() -> I, trace: &mut impl Trace) -> Verdict
    where
        I: Iterator<Item = &'p AuthorizationPolicy>,
    {
        let enforced = |action| policies().filter(move |p| !p.dry_run && p.action == action);
        for policy in enforced(Action::Custom) {
            let Some(rule) = self.matching(policy) else {
                say(trace, policy, || "CUSTOM does not match".to_owned());
                continue;
            };
            if !self.has_allowed(policy) {
                say(trace, policy, || format!("CUSTOM matches, and is not allowed: spec.rules[{rule}]"));
                return Verdict::Deny { policy: Some(policy.name.clone()), reason: Reason::Denied };
            }
            say(trace, policy, || format!("CUSTOM matches, and is allowed: spec.rules[{rule}]"));
        }
        for policy in enforced(Action::Deny) {
            if let Some(rule) = self.matching(policy) {
                say(trace, policy, || format!("DENY matches: spec.rules[{rule}]"));
                return Verdict::Deny { policy: Some(policy.name.clone()), reason: Reason::Denied };
            }
            say(trace, policy, || "DENY does not match".to_owned());
        }
        let mut refusal: Option<(u8, &AuthorizationPolicy)> = None;
        for policy in enforced(Action::Allow) {
            if let Some(rule) = self.matching(policy) {
                say(trace, policy, || format!("ALLOW matches: spec.rules[{rule}]"));
                return Verdict::Allow { policy: Some(policy.name.clone()) };
            }
            say(trace, policy, || "ALLOW does not match".to_owned());
            let explains = explains(policy, &Reason::NotAllowed);
            if refusal.is_none_or(|(before, _)| explains > before) {
                refusal = Some((explains, policy));
            }
        }
        match refusal {
            Some((_, policy)) => Verdict::Deny { policy: Some(policy.name.clone()), reason: Reason::NotAllowed },
            None => {
                trace.say(Stage::Authorization, None, || "no ALLOW policy applies: allowed".to_owned());
                Verdict::Allow { policy: None }
            }
        }
    }

    fn dry_run_denials<'p, I>(&self, policies: impl Fn() -> I) -> Vec<ObjectName>
    where
        I: Iterator<Item = &'p AuthorizationPolicy>,
    {
        let tried = |action| policies().filter(move |p| p.dry_run && p.action == action);
        let denying = tried(Action::Deny).filter(|p| self.matching(p).is_some());
        let is_allowed = tried(Action::Allow).any(|p| self.matching(p).is_some());
        let not_allowing = tried(Action::Allow).filter(|_| !is_allowed);
        denying.chain(not_allowing).map(|p| p.name.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
