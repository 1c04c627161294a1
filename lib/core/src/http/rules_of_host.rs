//! Which VirtualServices and DestinationRules concern a host, and which of them comes first. Its own file because the
//! order is a promise to users: the routes, the subsets and the policies of several objects for one host.

use std::sync::Arc;

use super::cluster::{service_name, service_of};
use crate::{
    World,
    objects::{DestinationRule, Subset, TrafficPolicy, VirtualService},
    resolve::Sources,
};

/// The VirtualServices for this whole host name whose routes of HTTP calls inside the mesh follow: of the most precise
/// host that one of them names, the oldest first, then by name.
pub(crate) fn virtual_services<'s>(world: &World, sources: &'s Sources, host: &str) -> Vec<&'s Arc<VirtualService>> {
    virtual_services_with(world, sources, host, |v| !v.http.is_empty())
}

/// The same of those that have such routes.
pub(super) fn virtual_services_with<'s>(
    world: &World,
    sources: &'s Sources,
    host: &str,
    has: impl Fn(&VirtualService) -> bool,
) -> Vec<&'s Arc<VirtualService>> {
    let service = service_name(world, host);
    let counts = |v: &&Arc<VirtualService>| v.is_for_mesh() && has(v);
    let levels = sources.virtual_services_of(host, service.as_ref());
    let mut levels = levels.map(|level| level.into_iter().filter(counts).collect::<Vec<_>>());
    let mut best = levels.find(|level| !level.is_empty()).unwrap_or_default();
    best.sort_by_key(|v| (v.created, &v.name));
    best
}

/// The DestinationRules of a host, in their order.
pub(crate) struct HostRules<'s>(Vec<&'s Arc<DestinationRule>>);

impl<'s> HostRules<'s> {
    /// Those of the host's own namespace; where it has none, those of the root namespace. Of the most precise host, the
    /// oldest first, then by name. Those for some callers alone are left out: one waypoint serves all callers.
    pub(crate) fn of(world: &World, sources: &'s Sources, host: &str) -> Self {
        let Some(service) = service_of(world, host) else { return Self(Vec::new()) };
        let own = service.name.namespace();
        let of_namespace = |namespace: &str| {
            let counts =
                |rule: &&Arc<DestinationRule>| rule.callers.is_none() && rule.export_to.includes(namespace, Some(own));
            let levels = sources.destination_rules_of(host, &service.name, namespace);
            let mut levels = levels.map(|level| level.into_iter().filter(counts).collect::<Vec<_>>());
            let mut best = levels.find(|level| !level.is_empty()).unwrap_or_default();
            best.sort_by_key(|rule| (rule.created, &rule.name));
            best
        };
        let found = of_namespace(own);
        Self(if found.is_empty() { of_namespace(&world.settings().root_namespace) } else { found })
    }

    /// The rule is one of them.
    pub(crate) fn has(&self, rule: &DestinationRule) -> bool {
        self.0.iter().any(|known| known.name == rule.name)
    }

    /// The policy of the host: the first that one of them has.
    pub(crate) fn policy(&self) -> Option<(&'s DestinationRule, &'s TrafficPolicy)> {
        let first = self.0.iter().find(|rule| rule.policy != TrafficPolicy::default())?;
        Some((first, &first.policy))
    }

    /// A subset, of the first that defines it, and its position there.
    pub(crate) fn subset(&self, name: &str) -> Option<(&'s DestinationRule, usize, &'s Subset)> {
        self.0.iter().find_map(|rule| {
            let (at, subset) = rule.subsets.iter().enumerate().find(|(_, subset)| &*subset.name == name)?;
            Some((&***rule, at, subset))
        })
    }
}

#[cfg(test)]
mod tests;
