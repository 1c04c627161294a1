//! Waypoints as facts name them: where the instances are that calls pass, and which workloads those are. Its own file
//! because Services and workloads name them alike, routes lead to them, and what they say about a source rests on who
//! they are.
//!
//! What must hold: one that is named and does not exist stays named. Nothing here turns it into none.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::{Serialize, Serializer};

use super::{Addressed, Endpoint, Workload, World};
use crate::{Identities, Identity, ObjectName};

/// The waypoint that calls of a Service, or of a pod's own addresses, pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waypoint {
    /// Where its instances are.
    pub at: WaypointAt,
    /// The port of their tunnels.
    pub port: u16,
}

/// The place of a waypoint's instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaypointAt {
    /// Behind the Service of this name.
    Service(ObjectName),
    /// At this address, canonical: a Service's or one instance's.
    Address(IpAddr),
    /// Nowhere: no such waypoint exists, or it does not admit what names it.
    Missing(ObjectName),
}

impl Waypoint {
    /// It does not exist, or does not admit what names it.
    #[must_use]
    pub const fn is_missing(&self) -> bool {
        matches!(self.at, WaypointAt::Missing(_))
    }
}

/// Its name, or its address.
impl fmt::Display for Waypoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            WaypointAt::Service(name) | WaypointAt::Missing(name) => name.fmt(f),
            WaypointAt::Address(ip) => ip.fmt(f),
        }
    }
}

impl Serialize for Waypoint {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// One instance of a waypoint.
#[derive(Clone, Copy, Debug)]
pub struct Instance<'a> {
    /// The pod.
    pub workload: &'a Arc<Workload>,
    /// As a backend of the waypoint's Service; none: the waypoint is the address of a pod.
    pub endpoint: Option<&'a Endpoint>,
    /// Where its tunnels are.
    pub address: SocketAddr,
}

impl World {
    /// The Service whose endpoints are the instances of a waypoint, where there is one.
    pub(crate) fn service_of(&self, waypoint: &Waypoint) -> Option<&ObjectName> {
        match &waypoint.at {
            WaypointAt::Service(name) => self.service(name).map(|service| &service.name),
            WaypointAt::Address(ip) => match self.addressed(*ip) {
                Addressed::Service(service) => Some(&service.name),
                Addressed::Workload(_) | Addressed::Ambiguous(_) | Addressed::Unknown => None,
            },
            WaypointAt::Missing(_) => None,
        }
    }

    /// The instances of a waypoint, ready or not, by address: the pods that can prove who they are.
    #[must_use]
    pub fn instances<'w>(&'w self, waypoint: &Waypoint) -> Vec<Instance<'w>> {
        if let Some(service) = self.service_of(waypoint) {
            // A slice of the Service may list any address.
            let is_own = |w: &Workload| w.is_pod() && w.name.namespace() == service.namespace();
            let current = self.endpoints(service).filter(|(workload, e)| is_own(workload) && !e.outdated);
            let of = |(workload, e): (_, &'w Endpoint)| Instance {
                workload,
                endpoint: Some(e),
                address: SocketAddr::new(e.address, waypoint.port),
            };
            return current.map(of).collect();
        }
        let WaypointAt::Address(ip) = waypoint.at else { return Vec::new() };
        let address = SocketAddr::new(ip, waypoint.port);
        let of = |workload| Instance { workload, endpoint: None, address };
        self.workload_at(ip).into_iter().map(of).collect()
    }

    /// The identities that may answer as this waypoint: those of all its instances.
    #[must_use]
    pub fn identities_of(&self, waypoint: &Waypoint) -> Identities {
        Identities::new(self.instances(waypoint).iter().filter_map(|i| self.identity(i.workload)).cloned())
    }

    /// This workload is an instance of the waypoint.
    #[must_use]
    pub fn is_instance(&self, waypoint: &Waypoint, workload: &Workload) -> bool {
        let is_behind = |service: &ObjectName| {
            let is_own = workload.is_pod() && workload.name.namespace() == service.namespace();
            is_own && workload.endpoints.iter().any(|e| e.service == *service && !e.outdated)
        };
        match &waypoint.at {
            WaypointAt::Service(name) => is_behind(name),
            WaypointAt::Address(ip) => match self.service_of(waypoint) {
                Some(service) => is_behind(service),
                None => workload.owns_addresses() && workload.addresses.contains(ip),
            },
            WaypointAt::Missing(_) => false,
        }
    }

    /// The waypoints that calls of this workload may have passed: its own, and those of the Services of its namespace that
    /// it is behind. A slice of another namespace may list any address, and would make that namespace's waypoint its.
    pub fn waypoints_before<'a>(&'a self, workload: &'a Workload) -> impl Iterator<Item = &'a Waypoint> + 'a {
        let own = |e: &&Endpoint| e.service.namespace() == workload.name.namespace() && !e.outdated;
        let of_services = workload.endpoints.iter().filter(own);
        let of_services = of_services.filter_map(|e| self.service(&e.service)?.waypoint.as_ref());
        workload.waypoint.iter().chain(of_services)
    }

    /// This identity is that of a waypoint before `workload`, and nothing but instances of that waypoint have it: what
    /// they say about the source of a connection is believed.
    #[must_use]
    pub fn speaks_for_callers_of(&self, identity: &Identity, workload: &Workload) -> bool {
        self.settings().is_own(identity.trust_domain())
            && self.waypoints_before(workload).any(|waypoint| self.is_only_of(identity, waypoint))
    }

    /// The trust domain may be an alias: the account counts.
    fn is_only_of(&self, identity: &Identity, waypoint: &Waypoint) -> bool {
        let has = |workload: &Workload| {
            workload.account.as_ref().is_some_and(|account| {
                (&*account.namespace, &*account.name) == (identity.namespace(), identity.service_account())
            })
        };
        let instances = self.instances(waypoint);
        let mut own: Vec<_> = instances.iter().map(|i| i.workload).filter(|w| has(w)).collect();
        own.sort_unstable_by(|a, b| a.uid.cmp(&b.uid));
        own.dedup_by(|a, b| a.uid == b.uid);
        let account = own.first().and_then(|w| w.account.as_ref());
        account.is_some_and(|account| self.index.count_of(account) == own.len())
    }
}
