//! The endpoints of services, as part of the facts about their workloads: from EndpointSlices, or from a service's
//! selector.
//!
//! In Kubernetes slices are the only truth, and a controller makes them from the selector. So slices count alone where
//! a service has any; without one (manifests that no cluster has run) its selector does what the controller would do.

use std::{net::IpAddr, sync::Arc};

use super::{Resolver, claim::EndpointTarget};
use crate::{
    Few, ObjectName,
    enrol::{Enrolment, EnrolmentReason},
    labels::selects,
    objects::{DEFAULT_WEIGHT, EndpointSlice, Pod, Service, SliceEndpoint},
    world::{Endpoint, Locality, Mtls, ServicePort, TargetPort, Uid, Workload},
};

impl Resolver {
    /// Of a pod, in order.
    pub(super) fn endpoints_of(&self, pod: &Pod) -> Box<[Endpoint]> {
        let mut all = Merged::default();
        for (slice, endpoint) in self.listings(pod) {
            let Some((service, ip)) = self.sources.service(&slice.service).zip(endpoint.address()) else { continue };
            let listed = all.of_slice(service, slice, endpoint, pod.weight);
            all.add(match self.meant(pod, ip, endpoint) {
                EndpointTarget::ThisPod => listed,
                EndpointTarget::Outdated => listed.map(outdated),
                EndpointTarget::OtherPod => None,
            });
        }
        for service in self.selecting_services(pod) {
            self.of_selector(service, pod).for_each(|endpoint| all.add(Some(endpoint)));
        }
        all.0.into()
    }

    /// The entries of slices that list an address of the pod.
    pub(super) fn listings<'a>(
        &'a self,
        pod: &'a Pod,
    ) -> impl Iterator<Item = (&'a EndpointSlice, &'a SliceEndpoint)> + 'a {
        let own = pod.addresses.iter().filter(|ip| pod.has_own_addresses() && self.holds(pod, **ip));
        own.flat_map(|ip| self.listed(*ip))
    }

    /// The entries of slices that list an address.
    fn listed(&self, ip: IpAddr) -> impl Iterator<Item = (&EndpointSlice, &SliceEndpoint)> {
        let slices = self.index.listed_by.get(&ip).iter().filter_map(|slice| self.slice(slice));
        slices.flat_map(move |slice| {
            slice.endpoints.iter().filter(move |e| e.address() == Some(ip)).map(move |endpoint| (slice, endpoint))
        })
    }

    fn selecting_services<'a>(&'a self, pod: &'a Pod) -> impl Iterator<Item = &'a Arc<Service>> + 'a {
        let candidates = self.index.services.candidates(pod.name.namespace(), &pod.labels);
        let unsliced = candidates.filter(|service| !self.index.slices_of.has(*service));
        let services = unsliced.filter_map(|service| self.sources.service(service));
        services.filter(|service| service.selector.as_ref().is_some_and(|s| selects(s, &pod.labels)))
    }

    /// As the controller would have it: one slice of each family, with the pod's first address of that family.
    fn of_selector<'a>(&'a self, service: &'a Service, pod: &'a Pod) -> impl Iterator<Item = Endpoint> + 'a {
        let target = |port: &ServicePort| match &port.target {
            TargetPort::Number(n) => Some(*n),
            TargetPort::Name(name) => pod.port_named(name),
        };
        let ports: Arc<[_]> = service.ports.iter().filter_map(|p| Some((p.port, target(p)?))).collect();
        let of_family = |v4: bool| pod.addresses.iter().copied().find(|ip| ip.is_ipv4() == v4);
        let addresses = [of_family(true), of_family(false)];
        // It has none, even where it has a selector.
        let addresses = addresses.into_iter().flatten().filter(|_| service.external_name.is_none());
        addresses.map(move |address| {
            let endpoint = Endpoint {
                service: service.name.clone(),
                address,
                ports: Arc::clone(&ports),
                ready: pod.ready || service.publish_not_ready,
                draining: pod.draining,
                weight: pod.weight,
                hints: None,
                outdated: false,
            };
            let is_former = pod.has_own_addresses() && !self.holds(pod, address);
            if is_former { outdated(endpoint) } else { endpoint }
        })
    }

    /// An address of a slice that belongs to no pod.
    pub(super) fn lone_workload(&self, slice: &ObjectName, address: IpAddr) -> Option<Workload> {
        if !self.index.owners.get(&address).is_empty() {
            return None;
        }
        let slice = self.slice(slice)?;
        let service = self.sources.service(&slice.service)?;
        let mut endpoints = Merged::default();
        let listed = || slice.endpoints.iter().filter(|e| e.address() == Some(address));
        listed().for_each(|endpoint| endpoints.add(endpoints.of_slice(service, slice, endpoint, DEFAULT_WEIGHT)));
        let first = listed().next()?;
        let of_zone = || Locality { zone: first.zone.clone(), ..Locality::default() }.into();
        let name = ObjectName::new(slice.name.namespace(), format!("{}/{address}", slice.name.name()));
        Some(Workload {
            uid: Uid::of_slice(&self.settings.cluster, &slice.name, address),
            addresses: Few::one(address),
            account: None,
            enrolment: Enrolment::outside(EnrolmentReason::NoPod),
            host_network: false,
            waypoint: None,
            policies: Few::new(),
            mtls: Mtls::default(),
            endpoints: endpoints.0.into(),
            locality: first.node.as_deref().and_then(|node| self.locality(node)).unwrap_or_else(of_zone),
            node: first.node.clone(),
            ready: first.ready,
            draining: first.draining,
            owner: None,
            canonical_service: name.name().into(),
            canonical_revision: "latest".into(),
            app: name.name().into(),
            version: "latest".into(),
            name,
        })
    }
}

/// It takes no connections, ready or not.
fn outdated(endpoint: Endpoint) -> Endpoint {
    Endpoint { ready: false, draining: false, outdated: true, ..endpoint }
}

/// The endpoints of one workload, in order. While a controller moves one from one slice to another it stands in both: it
/// is one all the same.
#[derive(Default)]
struct Merged(Vec<Endpoint>);

impl Merged {
    fn add(&mut self, endpoint: Option<Endpoint>) {
        fn key(of: &Endpoint) -> (&ObjectName, IpAddr, &[(u16, u16)], bool) {
            (&of.service, of.address, &of.ports, of.outdated)
        }
        let Some(endpoint) = endpoint else { return };
        let at = self.0.partition_point(|known| key(known) < key(&endpoint));
        match self.0.get_mut(at).filter(|known| key(known) == key(&endpoint)) {
            Some(known) => {
                known.ready |= endpoint.ready;
                known.draining |= endpoint.draining;
            }
            None => self.0.insert(at, endpoint),
        }
    }

    /// An endpoint of a slice, before it is added.
    fn of_slice(
        &self,
        service: &Service,
        slice: &EndpointSlice,
        endpoint: &SliceEndpoint,
        weight: u16,
    ) -> Option<Endpoint> {
        if service.external_name.is_some() {
            return None;
        }
        let target = |port: &ServicePort| slice.ports.iter().find(|p| p.name == port.name).map(|p| p.port);
        let ports = || service.ports.iter().filter_map(|p| Some((p.port, target(p)?)));
        // The same as of the other address family, mostly: one copy for both.
        let known = self.0.last().filter(|last| last.ports.iter().copied().eq(ports()));
        Some(Endpoint {
            service: service.name.clone(),
            address: endpoint.address()?,
            ports: known.map_or_else(|| ports().collect(), |last| Arc::clone(&last.ports)),
            ready: endpoint.ready || service.publish_not_ready,
            draining: endpoint.draining,
            weight,
            hints: endpoint.hints.clone(),
            outdated: false,
        })
    }
}
