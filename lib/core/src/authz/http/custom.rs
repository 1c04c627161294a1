//! External authorizers (CUSTOM) and counts (AUDIT) at the two gates. Their own file because they are no verdicts: the one says whom
//! to ask before there can be one, the other changes none.

use std::{net::SocketAddr, sync::Arc};

use super::{Asked, HttpRequest, WaypointTargets, of_endpoint};
use crate::{
    ObjectName, World,
    world::{Action, AuthorizationPolicy, Workload},
};

/// A question to an external authorizer, because a CUSTOM policy matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The policy.
    pub policy: ObjectName,
    /// `provider.name`.
    pub provider: Arc<str>,
}

/// Whom gate 1 has to ask, each once, in the order of the policies. Allocates nothing where there is none.
#[must_use]
pub fn checks_at_waypoint(
    world: &World,
    targets: &WaypointTargets<'_>,
    called: SocketAddr,
    request: &HttpRequest<'_>,
) -> Vec<Check> {
    Asked::new(world, called, request).checks(targets.policies(world))
}

/// Some policy of gate 1 asks an external authorizer.
#[must_use]
pub fn has_checks_at_waypoint(world: &World, targets: &WaypointTargets<'_>) -> bool {
    targets.policies(world).any(|p| p.action == Action::Custom && !p.dry_run)
}

/// Whom gate 2 has to ask.
#[must_use]
pub fn checks_at_endpoint(
    world: &World,
    endpoint: &Workload,
    target: SocketAddr,
    request: &HttpRequest<'_>,
) -> Vec<Check> {
    Asked::new(world, target, request).checks(of_endpoint(world, endpoint))
}

/// The AUDIT policies of gate 1 that match. Allocates nothing where there is none.
#[must_use]
pub fn audits_at_waypoint(
    world: &World,
    targets: &WaypointTargets<'_>,
    called: SocketAddr,
    request: &HttpRequest<'_>,
) -> Vec<ObjectName> {
    Asked::new(world, called, request).audits(targets.policies(world))
}

/// Those of gate 2.
#[must_use]
pub fn audits_at_endpoint(
    world: &World,
    endpoint: &Workload,
    target: SocketAddr,
    request: &HttpRequest<'_>,
) -> Vec<ObjectName> {
    Asked::new(world, target, request).audits(of_endpoint(world, endpoint))
}

impl<'a> Asked<'a> {
    /// The provider of a CUSTOM policy has allowed the request.
    pub(super) fn has_allowed(&self, policy: &AuthorizationPolicy) -> bool {
        policy.provider.as_ref().is_some_and(|provider| self.request.allowed_by.contains(provider))
    }

    fn checks<'p>(&self, policies: impl Iterator<Item = &'p AuthorizationPolicy>) -> Vec<Check> {
        let mut checks: Vec<Check> = Vec::new();
        for policy in policies.filter(|p| p.action == Action::Custom && !p.dry_run) {
            let Some(provider) = policy.provider.as_ref().filter(|_| !self.has_allowed(policy)) else { continue };
            let is_asked = checks.iter().any(|check| check.provider == *provider);
            if !is_asked && self.matching(policy).is_some() {
                checks.push(Check { policy: policy.name.clone(), provider: Arc::clone(provider) });
            }
        }
        checks
    }

    fn audits<'p>(&self, policies: impl Iterator<Item = &'p AuthorizationPolicy>) -> Vec<ObjectName> {
        let audits = policies.filter(|p| p.action == Action::Audit && !p.dry_run);
        audits.filter(|p| self.matching(p).is_some()).map(|p| p.name.clone()).collect()
    }
}
