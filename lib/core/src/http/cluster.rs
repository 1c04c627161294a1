//! Clusters: the places that routes lead to, each a host's port with the endpoints of one subset, and the traffic policy
//! that counts there.
//!
//! What must hold: a subset that is not defined, or selects nothing, has no endpoints; it is never another version's.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc};

use serde::{Serialize, Serializer};

use super::rules_of_host::HostRules;
use crate::{
    ObjectName, World,
    labels::{Labels, selects},
    objects::{ClientTls, DestinationRule, PortPolicy, ProxyProtocol, RetryBudget, TlsMode, TrafficPolicy, Tunnel},
    resolve::Sources,
    world::{Service, Workload},
};

/// The name of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterKey {
    /// The whole name of the host.
    pub host: Arc<str>,
    /// The subset; none: all endpoints.
    pub subset: Option<Arc<str>>,
    /// The port of the host.
    pub port: u16,
}

impl fmt::Display for ClusterKey {
    /// As Istio names clusters in metrics.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "outbound|{}|{}|{}", self.port, self.subset.as_deref().unwrap_or_default(), self.host)
    }
}

impl Serialize for ClusterKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// The reason why a cluster can have no endpoint: requests to it are answered 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize)]
pub enum Unresolved {
    /// No Service has this host.
    #[error("no Service has this host")]
    Host,
    /// The Service has no such port.
    #[error("the Service has no such port")]
    Port,
    /// No DestinationRule defines it.
    #[error("no DestinationRule of the host defines this subset")]
    Subset,
}

/// The traffic policy of a cluster: of its subset, of its port and of its host, each part by the nearest that has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClusterPolicy {
    /// The parts that a port can have of its own.
    pub port: PortPolicy,
    /// `tunnel`.
    pub tunnel: Option<Tunnel>,
    /// `proxyProtocol`.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// `retryBudget`.
    pub retry_budget: Option<RetryBudget>,
}

/// One cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The Service, or why there is none.
    pub service: Result<ObjectName, Unresolved>,
    /// Of its pods those with these labels.
    pub labels: Labels,
    /// The DestinationRule that defines the subset, and the position there.
    pub defined_by: Option<(ObjectName, usize)>,
    /// The levels that the policy is of: the host's, then the subset's.
    pub levels: Vec<PolicyLevel>,
    /// How its connections and requests are treated.
    pub policy: ClusterPolicy,
}

/// One level of a cluster's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyLevel {
    /// The DestinationRule.
    pub rule: ObjectName,
    /// Its field.
    pub field: String,
    /// The parts that are set there.
    pub parts: Vec<&'static str>,
}

/// An endpoint of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterEndpoint<'w> {
    /// Its workload.
    pub workload: &'w Arc<Workload>,
    /// Where it is called.
    pub target: SocketAddr,
    /// Its share among the others.
    pub weight: u16,
}

impl ClusterKey {
    /// Of all endpoints of a Service's port.
    #[must_use]
    pub fn of(service: &Service, port: u16) -> Self {
        Self { host: Arc::clone(&service.hostname), subset: None, port }
    }
}

impl Cluster {
    /// The cluster of this name, which no route need lead to.
    #[must_use]
    pub fn named(world: &World, sources: &Sources, key: &ClusterKey) -> Self {
        Self::new(world, &HostRules::of(world, sources, &key.host), key)
    }

    pub(crate) fn new(world: &World, rules: &HostRules<'_>, key: &ClusterKey) -> Self {
        let mut cluster = Self {
            service: service_of(world, &key.host).ok_or(Unresolved::Host).and_then(|service| {
                match service.port(key.port) {
                    Some(_) => Ok(service.name.clone()),
                    None => Err(Unresolved::Port),
                }
            }),
            labels: Labels::new(),
            defined_by: None,
            levels: Vec::new(),
            policy: ClusterPolicy::default(),
        };
        if let Some((rule, policy)) = rules.policy() {
            cluster.overlay(rule, "spec.trafficPolicy".to_owned(), policy, key.port);
        }
        let Some(subset) = &key.subset else { return cluster };
        match rules.subset(subset) {
            Some((rule, at, subset)) => {
                cluster.labels = subset.labels.clone();
                cluster.defined_by = Some((rule.name.clone(), at));
                cluster.overlay(rule, format!("spec.subsets[{at}].trafficPolicy"), &subset.policy, key.port);
            }
            None => cluster.service = cluster.service.and(Err(Unresolved::Subset)),
        }
        cluster
    }

    /// The endpoints that can be called at this address family, ready ones; where none is, those that drain. `labels`
    /// answers those of a workload's pod: one whose labels are not known is of no subset.
    #[must_use]
    pub fn endpoints<'w, 'l>(
        &self,
        world: &'w World,
        port: u16,
        is_ipv4: bool,
        labels: impl Fn(&Workload) -> Option<&'l Labels>,
    ) -> Vec<ClusterEndpoint<'w>> {
        let Ok(name) = &self.service else { return Vec::new() };
        let Some(service) = world.service(name) else { return Vec::new() };
        let is_of_subset =
            |w: &Workload| self.labels.is_empty() || labels(w).is_some_and(|labels| selects(&self.labels, labels));
        let all: Vec<_> = (world.endpoints(&service.name))
            .filter(|(w, e)| (e.ready || e.draining) && e.address.is_ipv4() == is_ipv4 && is_of_subset(w))
            .filter_map(|(workload, e)| {
                let target = SocketAddr::new(e.address, e.target_port(port)?);
                Some((e.ready, ClusterEndpoint { workload, target, weight: e.weight }))
            })
            .collect();
        let any_ready = all.iter().any(|(ready, _)| *ready);
        all.into_iter().filter(|(ready, _)| *ready || !any_ready).map(|(_, endpoint)| endpoint).collect()
    }

    /// What a nearer level says counts.
    fn overlay(&mut self, rule: &DestinationRule, field: String, nearer: &TrafficPolicy, port: u16) {
        let parts = self.policy.overlay(nearer, port);
        if !parts.is_empty() {
            self.levels.push(PolicyLevel { rule: rule.name.clone(), field, parts });
        }
    }
}

impl ClusterPolicy {
    /// It asks for what a waypoint does not do yet: TLS by a Secret, a tunnel, a PROXY protocol.
    #[must_use]
    pub fn is_beyond_waypoints(&self) -> bool {
        let is_by_secret = |tls: &ClientTls| tls.credential_name.is_some();
        self.origination().is_some_and(is_by_secret) || self.tunnel.is_some() || self.proxy_protocol.is_some()
    }

    /// TLS that is begun towards endpoints, inside of the tunnel where they are in the mesh.
    #[must_use]
    pub fn origination(&self) -> Option<&ClientTls> {
        self.port.tls.as_ref().filter(|tls| tls.begins())
    }

    /// Endpoints are called through the tunnel or not at all.
    #[must_use]
    pub fn requires_tunnel(&self) -> bool {
        self.port.tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::IstioMutual)
    }

    /// What a nearer level says counts; answers the parts that it says. As in Istio a port's own settings take the place of
    /// all that its level says.
    fn overlay(&mut self, nearer: &TrafficPolicy, port: u16) -> Vec<&'static str> {
        let own = nearer.ports.get(&port).unwrap_or(&nearer.own);
        let set = [
            ("loadBalancer", take(&mut self.port.load_balancer, own.load_balancer.as_ref())),
            ("connectionPool", take(&mut self.port.connection_pool, own.connection_pool.as_ref())),
            ("outlierDetection", take(&mut self.port.outlier_detection, own.outlier_detection.as_ref())),
            ("tls", take(&mut self.port.tls, own.tls.as_ref())),
            ("tunnel", take(&mut self.tunnel, nearer.tunnel.as_ref())),
            ("proxyProtocol", take(&mut self.proxy_protocol, nearer.proxy_protocol.as_ref())),
            ("retryBudget", take(&mut self.retry_budget, nearer.retry_budget.as_ref())),
        ];
        set.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name).collect()
    }
}

fn take<T: Clone>(into: &mut Option<T>, nearer: Option<&T>) -> bool {
    if let Some(nearer) = nearer {
        *into = Some(nearer.clone());
    }
    nearer.is_some()
}

/// The Service that a whole host name names, there or not.
pub(crate) fn service_name(world: &World, host: &str) -> Option<ObjectName> {
    let rest = host.strip_suffix(&*world.settings().cluster_domain)?.strip_suffix(".svc.")?;
    let (name, namespace) = rest.split_once('.')?;
    Some(ObjectName::new(namespace, name))
}

/// The Service of a whole host name.
pub(crate) fn service_of<'w>(world: &'w World, host: &str) -> Option<&'w Arc<Service>> {
    world.service_of_host(host)
}

/// The clusters of a host's routes.
#[derive(Clone, Debug, Default)]
pub struct Clusters(BTreeMap<ClusterKey, Cluster>);

impl Clusters {
    /// The cluster of this name.
    #[must_use]
    pub fn get(&self, key: &ClusterKey) -> Option<&Cluster> {
        self.0.get(key)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&ClusterKey, &Cluster)> {
        self.0.iter()
    }

    pub(super) fn add(&mut self, world: &World, sources: &Sources, key: ClusterKey) {
        let cluster = Cluster::named(world, sources, &key);
        self.0.insert(key, cluster);
    }
}
