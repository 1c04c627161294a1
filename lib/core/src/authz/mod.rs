//! Authorization: whether a peer may reach a port of a workload, and at a waypoint whether a request may pass ([`judge_at_waypoint`], [`judge_at_endpoint`]).
//! Istio's order: DENY policies first, and at a waypoint CUSTOM before them; then, where no ALLOW policy applies, allow; where one does, only what one of them
//! matches. `istio.io/dry-run` policies are judged aside and never decide. Connections are judged at the destination, and
//! again while they are open after every change.

mod http;
mod l7;
mod path;
mod principal;
mod rule;
mod truth;
mod value;
mod waypoint;

use std::net::IpAddr;

use serde::Serialize;

pub use http::{
    Check, HttpRequest, WaypointTargets, audits_at_endpoint, audits_at_waypoint, checks_at_endpoint,
    checks_at_waypoint, dry_run_denials_at_endpoint, dry_run_denials_at_waypoint, has_checks_at_waypoint,
    judge_at_endpoint, judge_at_waypoint, judge_connection_at_endpoint, judge_connection_at_waypoint,
};
pub use path::{ParsePathError, PathMatch, PathSegment, PathTemplate};
pub use principal::PrincipalMatch;
pub(crate) use principal::trust_domain_is_possible;
pub use rule::{Condition, Operation, Rule, ServiceAccount, Source};
pub use value::{Match, StringMatch};
pub use waypoint::{ClaimPath, HeaderName, L7Condition, OperationL7, ParseHeaderNameError, SourceL7};

use self::l7::Matched;
use crate::{
    Identity, Kind, NamedSource, ObjectKey, ObjectName, Reason, World,
    trace::{Stage, Trace},
    world::{Action, AuthorizationPolicy, Scope, Workload},
};

/// The calling end. Never taken from a header, unless that is of a waypoint which [speaks](World::speaks_for_callers_of)
/// for it.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// The address of the connection's other end, canonical.
    pub address: IpAddr,
    /// From the certificate it showed; none: plaintext.
    pub identity: Option<&'a Identity>,
    /// The waypoint that carries the connection on for it, and has judged it.
    pub via: Option<Via<'a>>,
}

/// A waypoint that carries on a connection of another one.
#[derive(Clone, Copy, Debug)]
pub struct Via<'a> {
    /// The other end of the tunnel, canonical.
    pub address: IpAddr,
    /// From the certificate it showed.
    pub identity: &'a Identity,
}

impl<'a> Peer<'a> {
    /// The other end of a connection, which calls for itself.
    #[must_use]
    pub const fn itself(address: IpAddr, identity: Option<&'a Identity>) -> Self {
        Self { address, identity, via: None }
    }

    /// The source that the other end of a tunnel names, where it names one and is believed; else that end itself.
    #[must_use]
    pub fn of_tunnel(address: IpAddr, identity: &'a Identity, named: Option<&'a NamedSource>) -> Self {
        match named {
            None => Self::itself(address, Some(identity)),
            Some(source) => Self {
                address: source.address.ip(),
                identity: Some(&source.identity),
                via: Some(Via { address, identity }),
            },
        }
    }

    /// The other end of what arrived.
    #[must_use]
    pub fn carrier(&self) -> IpAddr {
        self.via.map_or(self.address, |via| via.address)
    }
}

/// One connection to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The calling end.
    pub peer: Peer<'a>,
    /// The pod that is called.
    pub workload: &'a Workload,
    /// Its address that is called, canonical.
    pub address: IpAddr,
    /// The target port.
    pub port: u16,
}

/// The two ends of a connection, as far as rules ask for them.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// The calling end.
    pub peer: Peer<'a>,
    /// The address that is called, canonical.
    pub address: IpAddr,
    /// The port that is called there.
    pub port: u16,
}

impl<'a> Request<'a> {
    /// Its two ends.
    #[must_use]
    pub const fn ends(&self) -> Ends<'a> {
        Ends { peer: self.peer, address: self.address, port: self.port }
    }
}

/// Allow or deny, with the policy that decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// It may pass. No policy: none applies.
    Allow {
        /// The ALLOW policy that matched.
        policy: Option<ObjectName>,
    },
    /// It may not.
    Deny {
        /// The policy that decided: the DENY that matched, or the ALLOW that came closest.
        policy: Option<ObjectName>,
        /// The reason.
        reason: Reason,
    },
}

impl Verdict {
    /// May pass.
    #[must_use]
    pub const fn is_allow(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }

    /// The policy that decided, if one did.
    #[must_use]
    pub const fn policy(&self) -> Option<&ObjectName> {
        match self {
            Self::Allow { policy } | Self::Deny { policy, .. } => policy.as_ref(),
        }
    }
}

/// Judges one connection by the AuthorizationPolicies of its destination.
#[must_use]
pub fn judge(world: &World, request: &Request<'_>, trace: &mut impl Trace) -> Verdict {
    let enforced = || world.authorization_policies(request.workload).filter(|p| !p.dry_run);
    for policy in enforced().filter(|p| p.action.refuses()) {
        let action = policy.action.as_str();
        if let Some(reason) = denies(world, policy, request) {
            say(trace, policy, || format!("{action} matches: {reason}"));
            return Verdict::Deny { policy: Some(policy.name.clone()), reason };
        }
        say(trace, policy, || format!("{action} does not match"));
    }
    let mut refusal: Option<(u8, &AuthorizationPolicy, Reason)> = None;
    for policy in enforced().filter(|p| p.action == Action::Allow) {
        let reason = match allows(world, policy, request) {
            Allows::Yes => {
                say(trace, policy, || "ALLOW matches".to_owned());
                return Verdict::Allow { policy: Some(policy.name.clone()) };
            }
            Allows::No => Reason::NotAllowed,
            Allows::NotWithout(reason) => reason,
        };
        say(trace, policy, || format!("ALLOW does not match: {reason}"));
        let explains = explains(policy, &reason);
        if refusal.as_ref().is_none_or(|(before, ..)| explains > *before) {
            refusal = Some((explains, policy, reason));
        }
    }
    match refusal {
        Some((_, policy, reason)) => Verdict::Deny { policy: Some(policy.name.clone()), reason },
        None => {
            trace.say(Stage::Authorization, None, || "no ALLOW policy applies: allowed".to_owned());
            Verdict::Allow { policy: None }
        }
    }
}

/// The dry-run policies that would deny it. Allocates nothing where there is none.
#[must_use]
pub fn dry_run_denials(world: &World, request: &Request<'_>) -> Vec<ObjectName> {
    let tried =
        |action| world.authorization_policies(request.workload).filter(move |p| p.dry_run && p.action == action);
    let denying = tried(Action::Deny).filter(|p| denies(world, p, request).is_some());
    let is_allowed = tried(Action::Allow).any(|p| matches!(allows(world, p, request), Allows::Yes));
    let not_allowing = tried(Action::Allow).filter(|_| !is_allowed);
    denying.chain(not_allowing).map(|p| p.name.clone()).collect()
}

fn denies(world: &World, policy: &AuthorizationPolicy, request: &Request<'_>) -> Option<Reason> {
    let mut stricter = None;
    for rule in &policy.rules {
        match l7::match_rule(world.settings(), policy.action, rule, request) {
            Matched::Yes => return Some(Reason::Denied),
            Matched::Stricter(fields) => stricter = stricter.or(Some(Reason::NeedsWaypoint(fields))),
            Matched::No | Matched::NotWithout(_) => {}
        }
    }
    stricter
}

/// The rank of an ALLOW policy that did not match, as the explanation of a denial: a near match before none, a policy
/// with a selector before one about a whole namespace.
fn explains(policy: &AuthorizationPolicy, reason: &Reason) -> u8 {
    let nearly = u8::from(*reason != Reason::NotAllowed) * 2;
    nearly + u8::from(matches!(policy.scope, Scope::Selector(_)))
}

enum Allows {
    Yes,
    No,
    NotWithout(Reason),
}

fn allows(world: &World, policy: &AuthorizationPolicy, request: &Request<'_>) -> Allows {
    let mut answer = Allows::No;
    for rule in &policy.rules {
        match l7::match_rule(world.settings(), policy.action, rule, request) {
            Matched::Yes => return Allows::Yes,
            Matched::NotWithout(fields) => answer = Allows::NotWithout(Reason::NeedsWaypoint(fields)),
            Matched::No | Matched::Stricter(_) => {}
        }
    }
    answer
}

fn say(trace: &mut impl Trace, policy: &AuthorizationPolicy, says: impl FnOnce() -> String) {
    trace.step(|| crate::trace::Step {
        stage: Stage::Authorization,
        object: Some(ObjectKey::new(Kind::AuthorizationPolicy, policy.name.clone())),
        says: says(),
    });
}

#[cfg(test)]
mod tests;
