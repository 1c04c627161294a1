//! Which VirtualServices and DestinationRules concern a host, and which of them comes first. Its own file because the
//! order is a promise to users: the routes, the subsets and the policies of several objects for one host.

use std::{cmp::Reverse, sync::Arc};

use super::cluster::service_of;
use crate::{
    World,
    objects::{DestinationRule, Subset, TrafficPolicy, VirtualService},
    resolve::Sources,
};

/// The VirtualServices for this whole host name whose routes of HTTP calls inside the mesh follow: of the most precise
/// host that one of them names, the oldest first, then by name.
pub(crate) fn virtual_services<'s>(world: &World, sources: &'s Sources, host: &str) -> Vec<&'s Arc<VirtualService>> {
    let domain = &world.settings().cluster_domain;
    let precision = |v: &VirtualService| {
        let hosts = v.hosts.iter().map(|host| host.qualified(v.name.namespace(), domain));
        hosts.filter(|own| own.matches(host)).map(|own| own.precision()).max()
    };
    let all = sources.virtual_services().filter(|v| v.is_for_mesh() && !v.http.is_empty());
    let mut all: Vec<_> = all.filter_map(|v| Some((precision(v)?, v))).collect();
    let best = all.iter().map(|(precision, _)| *precision).max();
    all.retain(|(precision, _)| Some(*precision) == best);
    all.sort_by_key(|(_, v)| (v.created, &v.name));
    all.into_iter().map(|(_, v)| v).collect()
}

/// The DestinationRules of a host, in their order.
pub(crate) struct HostRules<'s>(Vec<&'s Arc<DestinationRule>>);

impl<'s> HostRules<'s> {
    /// Those of the host's own namespace; where it has none, those of the root namespace. Of the most precise host, the
    /// oldest first, then by name. Those for some callers alone are left out: one waypoint serves all callers.
    pub(crate) fn of(world: &World, sources: &'s Sources, host: &str) -> Self {
        let settings = world.settings();
        let Some(service) = service_of(world, host) else { return Self(Vec::new()) };
        let own = service.name.namespace();
        let of_namespace = |namespace: &str| {
            let matching = |rule: &&Arc<DestinationRule>| {
                let host_of = rule.host.qualified(rule.name.namespace(), &settings.cluster_domain);
                rule.name.namespace() == namespace
                    && rule.callers.is_none()
                    && rule.export_to.includes(namespace, Some(own))
                    && host_of.matches(host)
            };
            let mut all: Vec<_> = sources.destination_rules().filter(matching).collect();
            let precision = |rule: &DestinationRule| {
                rule.host.qualified(rule.name.namespace(), &settings.cluster_domain).precision()
            };
            let best = all.iter().map(|rule| precision(rule)).max();
            all.retain(|rule| Some(precision(rule)) == best);
            all.sort_by_key(|rule| (Reverse(precision(rule)), rule.created, &rule.name));
            all
        };
        let found = of_namespace(own);
        Self(if found.is_empty() { of_namespace(&settings.root_namespace) } else { found })
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
