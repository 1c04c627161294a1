//! The cluster that is measured: every object follows from its number, so that nothing of it is kept beside the agent's own
//! copy. In words of its own, not in the product's types: [`super::subject`] translates, and is all that has to follow them.
//!
//! Of `pods` pods the first fifth are in one namespace (`crowd`), the next 500 in one that is not in the mesh (`later`), the
//! others in namespaces of 50. Ten at a time are an application with a service and an account; a service of the crowd
//! (`popular`) has a twentieth of all pods, at least one slice full. A node has 250 of them.

use std::net::IpAddr;

/// Pods of the namespace that can be enrolled.
pub const LATER: usize = 500;
/// Pods of one node.
pub const PER_NODE: usize = 250;
/// AuthorizationPolicies and PeerAuthentications.
pub const POLICIES: usize = 500;
/// Kubernetes' limit of endpoints in one EndpointSlice.
const SLICE: usize = 100;
/// Pods of one application.
const APPLICATION: usize = 10;
/// Pods of one of the many namespaces.
const TEAM: usize = 50;
/// The first pods of the crowd count as this node's, where connections are open.
const LOCAL: usize = 100;

/// namespace/name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Empty for what is cluster-scoped.
    pub namespace: String,
    /// Within the namespace.
    pub name: String,
}

/// One object, as far as the benchmark says anything about it.
#[derive(Clone, Debug)]
pub enum Thing {
    /// A namespace, in the mesh by its label or not.
    Namespace {
        /// Its name.
        name: String,
        /// Labelled.
        enrolled: bool,
    },
    /// A node in a zone.
    Node {
        /// Its name.
        name: String,
        /// Its zone.
        zone: String,
    },
    /// A running, ready pod.
    Pod {
        /// Its name.
        name: Name,
        /// Its addresses.
        addresses: Vec<IpAddr>,
        /// Its node.
        node: String,
        /// Its application: label and service account.
        app: String,
        /// The value of a label that nothing goes by.
        turn: usize,
    },
    /// A service of port 80.
    Service {
        /// Its name.
        name: Name,
        /// Its addresses.
        vips: Vec<IpAddr>,
        /// The application that it selects.
        app: String,
    },
    /// Endpoints of a service, of one address family.
    Slice {
        /// Its name.
        name: Name,
        /// The service.
        service: Name,
        /// Address, node, readiness.
        endpoints: Vec<(IpAddr, String, bool)>,
    },
    /// An AuthorizationPolicy with one rule about principals.
    Policy {
        /// Its name.
        name: Name,
        /// The application that it selects; none: its namespace, or the mesh.
        app: Option<String>,
        /// ALLOW or DENY.
        allow: bool,
        /// Its pods.
        principals: Vec<String>,
    },
    /// A PeerAuthentication without a selector.
    PeerAuthentication {
        /// Its name.
        name: Name,
        /// STRICT or PERMISSIVE.
        strict: bool,
    },
}

/// One change.
#[derive(Clone, Debug)]
pub enum Change {
    /// The object is now this.
    Put(Thing),
    /// This object is gone.
    Remove(Thing),
    /// This trust domain counts as the mesh's own.
    Alias(String),
}

/// An open connection of a pod of the crowd with another one.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The pod of this node.
    pub pod: Name,
    /// Its address.
    pub address: IpAddr,
    /// Its account.
    pub account: String,
    /// The other pod's address.
    pub peer: IpAddr,
    /// The other pod's account, in the same namespace.
    pub peer_account: String,
    /// Towards this node's pod, or from it.
    pub inbound: bool,
}

/// Addresses of one family, or of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// IPv4.
    Single,
    /// IPv4 and IPv6.
    Dual,
}

impl Stack {
    /// As told.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Dual => "dual",
        }
    }

    /// From how it is told.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Single, Self::Dual].into_iter().find(|stack| stack.as_str() == text)
    }

    /// Number of families.
    #[must_use]
    pub const fn families(self) -> usize {
        match self {
            Self::Single => 1,
            Self::Dual => 2,
        }
    }
}

/// A cluster.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Number of pods.
    pub pods: usize,
    /// With which addresses.
    pub stack: Stack,
}

fn name(namespace: impl Into<String>, name: impl Into<String>) -> Name {
    Name { namespace: namespace.into(), name: name.into() }
}

impl Layout {
    /// Of a multiple of 1,000 pods.
    #[must_use]
    pub fn new(pods: usize, stack: Stack) -> Self {
        assert!(pods > 0 && pods.is_multiple_of(1000), "a multiple of 1,000 pods");
        Self { pods, stack }
    }

    /// Every object, in the order of their kinds.
    pub fn objects(self) -> impl Iterator<Item = Thing> {
        let namespaces = [("crowd".to_owned(), true), ("later".to_owned(), false)].into_iter();
        let namespaces = namespaces.chain((0..self.teams()).map(|n| (team(n), true)));
        let namespaces = namespaces.map(|(name, enrolled)| Thing::Namespace { name, enrolled });
        let nodes = (0..self.pods.div_ceil(PER_NODE)).map(move |n| self.node(n, 0));
        let pods = (0..self.pods).map(move |n| self.pod(n, 0, false));
        let services = (0..self.pods / APPLICATION).flat_map(move |n| self.service(n));
        let policies = (0..POLICIES).map(move |n| self.policy(n));
        namespaces.chain(nodes).chain(pods).chain(services).chain(self.popular()).chain(policies)
    }

    /// Pods of the crowd.
    #[must_use]
    pub const fn crowd(self) -> usize {
        self.pods / 5
    }

    /// Endpoints of the popular service, of one family.
    #[must_use]
    pub const fn popularity(self) -> usize {
        let part = self.pods / 20;
        if part < SLICE { SLICE } else { part }
    }

    /// Entries that the kernel's tables have for the mesh when everything is loaded: pods that are in it, and services that
    /// lead to some.
    #[must_use]
    pub const fn destinations(self) -> usize {
        let pods = self.pods - LATER;
        (pods + pods / APPLICATION + 1) * self.stack.families()
    }

    const fn teams(self) -> usize {
        (self.pods - self.crowd() - LATER) / TEAM
    }

    fn namespace(self, pod: usize) -> String {
        match pod.checked_sub(self.crowd()) {
            None => "crowd".to_owned(),
            Some(n) if n < LATER => "later".to_owned(),
            Some(n) => team((n - LATER) / TEAM),
        }
    }

    fn addresses(self, v4: u32, v6: u128) -> Vec<IpAddr> {
        let both = [IpAddr::from(v4.to_be_bytes()), IpAddr::from(v6.to_be_bytes())];
        both.into_iter().take(self.stack.families()).collect()
    }

    /// 10.64.0.0/10 and fd00:10::/64, or 10.128.0.0/10 and fd00:20::/64 where it has `moved`.
    fn addresses_of(self, pod: usize, moved: bool) -> Vec<IpAddr> {
        let (v4, v6) = if moved { (0x0a80_0000, 0xfd00_0020) } else { (0x0a40_0000, 0xfd00_0010) };
        self.addresses(v4 + pod as u32, (v6 << 96) + pod as u128)
    }

    /// The pod of this number, where its label and its addresses have changed.
    #[must_use]
    pub fn pod(self, n: usize, turn: usize, moved: bool) -> Thing {
        Thing::Pod {
            name: name(self.namespace(n), format!("{}-{n}", app(n))),
            addresses: self.addresses_of(n, moved),
            node: node_name(n),
            app: app(n),
            turn,
        }
    }

    /// One more pod of the crowd.
    #[must_use]
    pub fn newcomer(self, n: usize) -> Thing {
        let addresses = self.addresses_of(self.pods + n, true);
        Thing::Pod { name: name("crowd", format!("new-{n}")), addresses, node: node_name(0), app: app(0), turn: 0 }
    }

    /// The node of this number, where its zone has changed.
    #[must_use]
    pub fn node(self, n: usize, turn: usize) -> Thing {
        Thing::Node { name: node_name(n * PER_NODE), zone: format!("zone-{}", (n + turn) % 3) }
    }

    /// The namespace that can be enrolled.
    #[must_use]
    pub fn later(self, enrolled: bool) -> Thing {
        Thing::Namespace { name: "later".to_owned(), enrolled }
    }

    fn service(self, n: usize) -> impl Iterator<Item = Thing> {
        let first = n * APPLICATION;
        let service = name(self.namespace(first), app(first));
        let vips = self.addresses(0x6440_0000 + n as u32, (0xfd00_0096 << 96) + n as u128);
        let slices = self.slices(&service, first..first + APPLICATION, false);
        std::iter::once(Thing::Service { name: service, vips, app: app(first) }).chain(slices)
    }

    fn popular(self) -> impl Iterator<Item = Thing> {
        let service = name("crowd", "popular");
        let vips = self.addresses(0x6480_0000, 0xfd00_0097 << 96);
        let slices: Vec<_> = (0..self.popularity() / SLICE).flat_map(|n| self.popular_slices(n, false)).collect();
        std::iter::once(Thing::Service { name: service, vips, app: app(0) }).chain(slices)
    }

    /// The slices of this number of the popular service, one for each family; the first endpoint is ready or not.
    #[must_use]
    pub fn popular_slices(self, n: usize, unready: bool) -> Vec<Thing> {
        self.slices(&name("crowd", "popular"), n * SLICE..(n + 1) * SLICE, unready)
    }

    fn slices(self, service: &Name, pods: std::ops::Range<usize>, unready: bool) -> Vec<Thing> {
        let slice = |family: usize| {
            let endpoints = pods.clone().filter_map(|n| {
                let address = self.addresses_of(n, false).get(family).copied()?;
                Some((address, node_name(n), !(unready && n == pods.start)))
            });
            let own = format!("{}-{}-{family}", service.name, pods.start);
            let name = name(service.namespace.as_str(), own);
            Thing::Slice { name, service: service.clone(), endpoints: endpoints.collect() }
        };
        (0..self.stack.families()).map(slice).collect()
    }

    /// Most select an application of one of the many namespaces, some are about all of one; none is about the crowd.
    fn policy(self, n: usize) -> Thing {
        let teams = self.teams() * TEAM;
        let pod = self.crowd() + LATER + n * (teams / POLICIES).max(1) % teams;
        let name = name(self.namespace(pod), format!("policy-{n}"));
        let principal = |n: usize| format!("cluster.local/ns/{}/sa/{}", self.namespace(n), app(n));
        match n % 25 {
            0 => Thing::PeerAuthentication { name, strict: n.is_multiple_of(2) },
            1 | 2 => Thing::Policy { name, app: None, allow: false, principals: vec![principal(0)] },
            _ => {
                Thing::Policy { name, app: Some(app(pod)), allow: true, principals: vec![principal(n), principal(pod)] }
            }
        }
    }

    /// A policy of the root namespace that denies an account which nothing has.
    #[must_use]
    pub fn root_policy(self) -> Thing {
        let principals = vec!["cluster.local/ns/nowhere/sa/nothing".to_owned()];
        Thing::Policy { name: name("istio-system", "root"), app: None, allow: false, principals }
    }

    /// STRICT for the whole mesh.
    #[must_use]
    pub fn root_strict(self) -> Thing {
        Thing::PeerAuthentication { name: name("istio-system", "default"), strict: true }
    }

    /// The open connection of this number: the first hundred pods of the crowd are this node's.
    #[must_use]
    pub fn connection(self, n: usize) -> Connection {
        let (own, peer) = (n % LOCAL, LOCAL + n % (self.crowd() - LOCAL));
        let address = |pod: usize| self.addresses_of(pod, false).first().copied().expect("one family at least");
        Connection {
            pod: name("crowd", format!("{}-{own}", app(own))),
            address: address(own),
            account: app(own),
            peer: address(peer),
            peer_account: app(peer),
            inbound: n.is_multiple_of(2),
        }
    }
}

fn app(pod: usize) -> String {
    format!("app-{}", pod / APPLICATION)
}

fn node_name(pod: usize) -> String {
    format!("node-{}", pod / PER_NODE)
}

fn team(n: usize) -> String {
    format!("team-{n}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_cluster_is_as_large_as_it_says() {
        for (pods, stack) in [(1000, Stack::Single), (10_000, Stack::Dual)] {
            let layout = Layout::new(pods, stack);
            let (mut of_crowd, mut services, mut policies, mut addresses) = (0, 0, 0, BTreeSet::new());
            for thing in layout.objects() {
                match thing {
                    Thing::Pod { name, addresses: own, .. } => {
                        of_crowd += usize::from(name.namespace == "crowd");
                        addresses.extend(own);
                    }
                    Thing::Service { vips, .. } => {
                        services += 1;
                        addresses.extend(vips);
                    }
                    Thing::Policy { .. } | Thing::PeerAuthentication { .. } => policies += 1,
                    _ => {}
                }
            }
            assert_eq!((of_crowd, services, policies), (pods / 5, pods / 10 + 1, POLICIES));
            assert_eq!(addresses.len(), (pods + services) * stack.families(), "no two have one address");
        }
    }
}
