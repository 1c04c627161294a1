//! One pod or service, and all that concerns it: in the mesh or why not, its services, the policies that select it, and what its ports
//! accept. By the functions that judge connections.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use underpass_core::{
    ObjectName, World, peer_auth,
    resolve::Sources,
    world::{self, Takes},
};

use super::{Policy, Service, Workload};

/// A pod and all that concerns it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodDescription {
    /// The pod.
    #[serde(flatten)]
    pub workload: Workload,
    /// It has its node's addresses, and is captured by none of its own.
    pub host_network: bool,
    /// The waypoint that calls of its own addresses pass.
    pub waypoint: Option<String>,
    /// The services that it is a backend of, by name.
    pub services: Vec<Backend>,
    /// The AuthorizationPolicies that judge connections to it, in the order of names: of the mesh, of its namespace, its own.
    pub policies: Vec<Policy>,
    /// What its ports accept that are not in `ports`.
    pub mtls: PortMtls,
    /// What single target ports accept.
    pub ports: BTreeMap<u16, PortMtls>,
}

/// A pod as a backend of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// The service, namespace/name.
    pub service: String,
    /// It may take new connections.
    pub ready: bool,
    /// The service's ports, each with the pod's.
    pub ports: Vec<(u16, u16)>,
}

/// What a port accepts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMtls {
    /// `STRICT`: mutual TLS only; `PERMISSIVE`: plaintext as well.
    pub mode: String,
    /// The PeerAuthentication that says so, namespace/name; none: there is none, and plaintext is accepted.
    pub by: Option<String>,
}

/// A service and its pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceDescription {
    /// The service.
    pub service: Service,
    /// The pods behind it, by name.
    pub pods: Vec<PodDescription>,
}

impl PodDescription {
    pub(super) fn of(world: &World, sources: &Sources, name: &ObjectName) -> Option<Self> {
        let w = world.pod(name)?;
        let policy = |p| Policy::of_authorization(world, sources, p);
        let ports = w.mtls.ports().map(|(port, _)| (port, PortMtls::of(world, w, port)));
        Some(Self {
            workload: Workload::of(world, w),
            host_network: w.host_network,
            waypoint: w.waypoint.as_ref().map(ToString::to_string),
            services: Backend::all(w),
            policies: world.authorization_policies(w).map(|p| policy(p)).collect(),
            // No PeerAuthentication names port 0.
            mtls: PortMtls::of(world, w, 0),
            ports: ports.collect(),
        })
    }

    /// What a target port accepts.
    #[must_use]
    pub fn mtls_of(&self, port: u16) -> &PortMtls {
        self.ports.get(&port).unwrap_or(&self.mtls)
    }
}

impl Backend {
    /// One for each service: addresses of both families are alike.
    fn all(w: &world::Workload) -> Vec<Self> {
        let current = w.endpoints.iter().filter(|e| !e.outdated);
        let mut all: BTreeMap<&ObjectName, Self> = BTreeMap::new();
        for e in current {
            let one = Self { service: e.service.to_string(), ready: e.ready, ports: e.ports.to_vec() };
            all.entry(&e.service).and_modify(|known| known.ready |= e.ready).or_insert(one);
        }
        all.into_values().collect()
    }
}

impl PortMtls {
    fn of(world: &World, w: &world::Workload, port: u16) -> Self {
        let (takes, by) = peer_auth::takes(world, w, port, &mut ());
        let mode = match takes {
            Takes::MutualTls => "STRICT",
            Takes::Plaintext => "PERMISSIVE",
        };
        Self { mode: mode.to_owned(), by: by.map(ToString::to_string) }
    }
}

impl ServiceDescription {
    pub(super) fn of(world: &World, sources: &Sources, name: &ObjectName) -> Option<Self> {
        let service = world.service(name)?;
        let mut names: Vec<&ObjectName> =
            world.endpoints(name).filter(|(w, _)| w.is_pod()).map(|(w, _)| &w.name).collect();
        names.sort();
        names.dedup();
        let pods = names.into_iter().filter_map(|pod| PodDescription::of(world, sources, pod)).collect();
        Some(Self { service: Service::of(world, service), pods })
    }
}
