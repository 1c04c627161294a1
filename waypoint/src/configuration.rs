//! What a waypoint goes by: the World, the objects of its kinds, and the compiled routes of the Services that it stands before.
//! Made anew on a thread of its own when something changes, and published whole: a worker never compiles, and a request keeps
//! the routes that it began with.
//!
//! What must hold: a change compiles the routes of those ports alone that it may concern, and the result is as if all had been
//! compiled from nothing.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use imbl::OrdMap;
use tokio::sync::watch;
use underpass_core::{
    ObjectName, World,
    authz::WaypointTargets,
    http::{Cluster, ClusterKey, Compiled, Host, Source, compile},
    jwt::{rules_at_endpoint, rules_at_waypoint, rules_that_select},
    labels::Labels,
    objects::{DestinationRule, JwtRule, Object, VirtualService},
    resolve::Sources,
    world::{Delta, Service, Workload},
};

use crate::{Own, called::Client};

/// A port of a Service.
type Port = (ObjectName, u16);

/// One state of everything that requests depend on.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub(crate) world: Arc<World>,
    /// The objects that routes were compiled from, and the pods with their labels.
    pub(crate) sources: Sources,
    /// Of every port of a Service that this waypoint stands before.
    routes: OrdMap<Port, Arc<Compiled>>,
    /// The rules about tokens of the Services that have some.
    tokens: OrdMap<ObjectName, Arc<[JwtRule]>>,
    /// The rules about tokens that select pods, whichever.
    selecting: Arc<[JwtRule]>,
    /// The number of the configuration that changed the endpoints of a Service last.
    endpoints: OrdMap<ObjectName, u64>,
    /// Counts configurations.
    number: u64,
}

impl Configuration {
    /// Compiled from nothing.
    pub(crate) fn new(own: &Own, world: Arc<World>, sources: Sources) -> Self {
        let mut routes = OrdMap::new();
        for service in world.services().filter(|service| own.serves(service)) {
            for port in &service.ports {
                let compiled = compile(&world, &sources, service, port.port);
                routes.insert((service.name.clone(), port.port), Arc::new(compiled));
            }
        }
        let tokens = token_rules(own, &world, &sources);
        let selecting = selecting(&sources);
        Self { world, sources, routes, tokens, selecting, endpoints: OrdMap::new(), number: 0 }
    }

    /// The one after a change.
    pub(crate) fn next(&self, own: &Own, world: Arc<World>, sources: Sources) -> Self {
        let number = self.number.wrapping_add(1);
        let change = Change::between(self, &world, &sources);
        let (mut routes, mut endpoints) = (self.routes.clone(), self.endpoints.clone());
        for service in change.endpoints.iter().chain(&change.services) {
            endpoints.insert(service.clone(), number);
        }
        if change.is_everything {
            return Self { endpoints, number, ..Self::new(own, world, sources) };
        }
        for name in &change.services {
            ports_of(&self.routes, name).for_each(|port| drop(routes.remove(port)));
        }
        for (service, port) in self.stale(own, &world, &change) {
            let compiled = compile(&world, &sources, service, port);
            routes.insert((service.name.clone(), port), Arc::new(compiled));
        }
        let are_tokens_concerned = !change.services.is_empty()
            || change.objects.iter().any(|object| matches!(object, Object::RequestAuthentication(_)));
        let (tokens, selecting) = match are_tokens_concerned {
            true => (token_rules(own, &world, &sources), selecting(&sources)),
            false => (self.tokens.clone(), Arc::clone(&self.selecting)),
        };
        Self { world, sources, routes, tokens, selecting, endpoints, number }
    }

    /// The ports that a change may concern, each once: those of Services that differ, those that lead to them, and those that an
    /// object is about.
    fn stale<'w>(&self, own: &Own, world: &'w World, change: &Change<'_>) -> Vec<(&'w Service, u16)> {
        let domain = &world.settings().cluster_domain;
        let differing: BTreeSet<&ObjectName> = change.services.iter().collect();
        let served =
            change.services.iter().filter_map(|name| world.service(name)).filter(|service| own.serves(service));
        let mut stale: Vec<_> =
            served.flat_map(|service| service.ports.iter().map(move |port| (&**service, port.port))).collect();
        if change.objects.is_empty() && change.services.is_empty() {
            return stale;
        }
        let hosts: BTreeSet<String> = change.services.iter().map(|name| hostname(name, domain)).collect();
        let is_concerned = |service: &ObjectName, compiled: &Compiled| {
            compiled.clusters.iter().any(|(key, _)| hosts.contains(&*key.host))
                || (!hosts.is_empty() && compiled.has_broken_targets())
                || change.objects.iter().any(|object| concerns(object, service, compiled, domain))
        };
        for ((service, port), compiled) in &self.routes {
            if !differing.contains(service) && is_concerned(service, compiled) {
                stale.extend(world.service(service).map(|service| (&**service, *port)));
            }
        }
        stale
    }

    /// The routes of a port; none: this waypoint does not stand before it.
    pub(crate) fn routes(&self, service: &ObjectName, port: u16) -> Option<&Arc<Compiled>> {
        self.routes.get(&(service.clone(), port))
    }

    /// A cluster of a Service. Where this waypoint does not stand before that, its DestinationRules are looked up, and no routes
    /// are compiled.
    pub(crate) fn cluster(&self, service: &Service, key: &ClusterKey) -> Cow<'_, Cluster> {
        let compiled = self.routes(&service.name, key.port).and_then(|compiled| compiled.clusters.get(key));
        compiled.map_or_else(|| Cow::Owned(Cluster::named(&self.world, &self.sources, key)), Cow::Borrowed)
    }

    /// The rules about tokens of requests to a Service.
    pub(crate) fn tokens(&self, service: &ObjectName) -> Option<&Arc<[JwtRule]>> {
        self.tokens.get(service)
    }

    /// The rules about tokens of requests to an endpoint. Most often none select any, which costs nothing.
    pub(crate) fn tokens_at(&self, workload: &Workload) -> Vec<&JwtRule> {
        if !self.selects_tokens() {
            return Vec::new();
        }
        let nothing = Labels::new();
        let labels = self.labels(workload).unwrap_or(&nothing);
        rules_at_endpoint(&self.sources, self.world.settings(), workload.name.namespace(), labels)
    }

    /// Some rules about tokens select pods.
    pub(crate) fn selects_tokens(&self) -> bool {
        !self.selecting.is_empty()
    }

    /// The rules about tokens of requests to a Service, wherever they go: its own, and those of pods.
    pub(crate) fn all_tokens(&self, service: &ObjectName) -> Vec<&JwtRule> {
        let own = self.tokens.get(service).into_iter().flat_map(|rules| rules.iter());
        own.chain(self.selecting.iter()).collect()
    }

    /// The rules about tokens of all Services.
    pub(crate) fn token_rules(&self) -> impl Iterator<Item = &JwtRule> {
        self.tokens.values().flat_map(|rules| rules.iter())
    }

    /// The number of this one: a later one has a greater one.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// The clusters that routes lead to; one to which several do comes several times.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &ClusterKey> {
        self.routes.values().flat_map(|compiled| compiled.clusters.iter().map(|(key, _)| key))
    }

    /// A number that changes with the endpoints of a Service, or their labels.
    pub(crate) fn endpoints_of(&self, service: &ObjectName) -> u64 {
        self.endpoints.get(service).copied().unwrap_or(0)
    }

    /// The sender, by its certificate; its labels where it is a pod of that account.
    pub(crate) fn source<'c>(&'c self, client: &'c Client) -> Source<'c> {
        let workload = self.world.workload_at(client.address.ip());
        let workload = workload.filter(|workload| self.world.identity(workload) == Some(&client.identity));
        Source {
            namespace: Some(client.identity.namespace()),
            labels: workload.and_then(|workload| self.labels(workload)),
        }
    }

    /// The labels of a workload's pod, where its object is known.
    pub(crate) fn labels(&self, workload: &Workload) -> Option<&Labels> {
        self.sources.pod(&workload.name).map(|pod| &pod.labels)
    }
}

fn token_rules(own: &Own, world: &World, sources: &Sources) -> OrdMap<ObjectName, Arc<[JwtRule]>> {
    if sources.request_authentications().next().is_none() {
        return OrdMap::new();
    }
    let of = |service: &Arc<Service>| {
        let targets = WaypointTargets { service: Some(&service.name), gateway: &own.gateway, class: &own.class };
        let rules: Vec<JwtRule> = rules_at_waypoint(sources, world.settings(), &targets).into_iter().cloned().collect();
        (!rules.is_empty()).then(|| (service.name.clone(), Arc::from(rules)))
    };
    world.services().filter(|service| own.serves(service)).filter_map(of).collect()
}

fn selecting(sources: &Sources) -> Arc<[JwtRule]> {
    rules_that_select(sources).into_iter().cloned().collect()
}

fn ports_of<'a>(routes: &'a OrdMap<Port, Arc<Compiled>>, service: &'a ObjectName) -> impl Iterator<Item = &'a Port> {
    routes.range((service.clone(), 0)..=(service.clone(), u16::MAX)).map(|(port, _)| port)
}

fn hostname(service: &ObjectName, domain: &str) -> String {
    format!("{}.{}.svc.{domain}", service.name(), service.namespace())
}

/// What differs, as far as routes and endpoints depend on it.
struct Change<'a> {
    /// Settings differ that every route may depend on.
    is_everything: bool,
    /// Services that appeared, changed or went.
    services: Vec<ObjectName>,
    /// Objects of a waypoint's kinds, before and after.
    objects: Vec<&'a Object>,
    /// Services whose endpoints, or the labels of those, may differ.
    endpoints: Vec<ObjectName>,
}

impl<'a> Change<'a> {
    fn between(old: &'a Configuration, world: &'a World, sources: &'a Sources) -> Self {
        let delta = Delta::between(&old.world, world);
        let (mut objects, mut endpoints) = (Vec::new(), Vec::new());
        let mut of = |workload: &Workload| endpoints.extend(workload.endpoints.iter().map(|e| e.service.clone()));
        delta.workloads.iter().flat_map(underpass_core::world::Difference::both).for_each(|workload| of(workload));
        for both in old.sources.differences(sources) {
            if let [Some(Object::Pod(pod)), _] | [_, Some(Object::Pod(pod))] = both {
                let labels = both.map(|object| match object {
                    Some(Object::Pod(pod)) => Some(&pod.labels),
                    _ => None,
                });
                if labels[0] != labels[1]
                    && let Some(workload) = world.pod(&pod.name)
                {
                    of(workload);
                }
                continue;
            }
            objects.extend(both.into_iter().flatten().filter(|object| object.key().kind.is_of_waypoints()));
        }
        let name = |differs: &underpass_core::world::Difference<'_, Service>| {
            differs.both().next().map(|service| service.name.clone())
        };
        let services = delta.services.iter().filter_map(name).collect();
        Self { is_everything: delta.settings.is_some(), services, objects, endpoints }
    }
}

/// The routes of a port of this Service may differ with this object.
fn concerns(object: &Object, service: &ObjectName, compiled: &Compiled, domain: &str) -> bool {
    let own = || compiled.routes.host();
    let matches = |host: &Host, namespace: &str, name: &str| host.qualified(namespace, domain).matches(name);
    match object {
        // Routes of others may lead to one without hosts.
        Object::VirtualService(v) if v.hosts.is_empty() => true,
        Object::VirtualService(v) => is_for(v, |host| matches(host, v.name.namespace(), own())),
        Object::DestinationRule(rule) => {
            let DestinationRule { name, host, .. } = &**rule;
            compiled.clusters.iter().any(|(key, _)| matches(host, name.namespace(), &key.host))
        }
        Object::GatewayRoute(route) => route.parents.iter().any(|parent| parent.target.service() == Some(service)),
        // Routes at a Service ask for no grant; rules about tokens are beside them.
        _ => false,
    }
}

fn is_for(v: &VirtualService, matches: impl Fn(&Host) -> bool) -> bool {
    v.hosts.iter().any(matches)
}

/// Publishes a configuration for every change of its inputs, until the last of them is dropped.
pub(crate) async fn publish(
    own: Own,
    mut world: watch::Receiver<Arc<World>>,
    mut sources: watch::Receiver<Sources>,
    configuration: watch::Sender<Arc<Configuration>>,
) {
    loop {
        tokio::select! {
            Ok(()) = world.changed() => {}
            Ok(()) = sources.changed() => {}
            else => return,
        }
        let (world, sources) = (Arc::clone(&world.borrow_and_update()), sources.borrow_and_update().clone());
        let current = Arc::clone(&configuration.borrow());
        configuration.send_replace(Arc::new(current.next(&own, world, sources)));
    }
}

#[cfg(test)]
mod walk;

#[cfg(test)]
mod tests {
    use underpass_core::{
        Identity, TrustDomain,
        objects::{self, Batch, Created, DestinationRule, ExportTo, ProxyProtocol, TrafficPolicy},
        testing::{gateway, labels, model, name, pod, request_authentication, service},
    };

    use super::*;

    #[test]
    fn a_change_compiles_the_ports_that_it_concerns() {
        let behind = |text: &str| objects::Service { labels: labels("istio.io/use-waypoint=w"), ..service(text) };
        let mut model = model([
            gateway("shop/w").into(),
            service("shop/w app=w 10.96.0.1 15008").into(),
            pod("shop/w-1", "10.0.0.100").into(),
            behind("shop/cart app=cart 10.96.0.10 80").into(),
            behind("shop/stock app=stock 10.96.0.11 80").into(),
            service("shop/other app=other 10.96.0.12 80").into(),
        ]);
        let identity = Identity::new(&TrustDomain::default(), "shop", "w");
        let own = Own { gateway: name("shop/w"), class: "istio-waypoint".into(), identity, addresses: vec![] };
        let mut current = Configuration::new(&own, Arc::new(model.world().clone()), model.sources().clone());
        let mut check = |change: &dyn Fn(&mut Batch), expect: [bool; 2]| {
            let mut batch = Batch::default();
            change(&mut batch);
            model.apply(&batch);
            let (world, sources) = (Arc::new(model.world().clone()), model.sources().clone());
            let change = Change::between(&current, &world, &sources);
            let stale = current.stale(&own, &world, &change);
            assert_eq!(stale.len(), expect.into_iter().filter(|is_new| *is_new).count(), "each once: {stale:?}");
            let next = current.next(&own, Arc::clone(&world), sources.clone());
            let is_new = ["shop/cart", "shop/stock"].map(|service| {
                let of = |c: &Configuration| c.routes(&name(service), 80).cloned().expect("compiled");
                !Arc::ptr_eq(&of(&current), &of(&next))
            });
            assert_eq!(is_new, expect);
            current = next;
        };
        let rule = |host: &str| DestinationRule {
            name: name("shop/rule"),
            created: Created::UNKNOWN,
            host: Host::parse(host),
            policy: TrafficPolicy::default(),
            subsets: Vec::new(),
            export_to: ExportTo::All,
            callers: None,
        };
        check(&|batch| batch.put(rule("cart")), [true, false]);
        check(&|batch| batch.put(rule("stock")), [true, true]);
        check(&|batch| batch.put(request_authentication("shop/r - issuer")), [false, false]);
        check(&|batch| batch.put(pod("shop/other", "10.0.0.9")), [false, false]);
        check(&|batch| batch.put(behind("shop/cart app=cart 10.96.0.10 80=8080")), [true, false]);
        // The cluster of a port is the compiled one, and another Service's is found without.
        let policy = TrafficPolicy { proxy_protocol: Some(ProxyProtocol::V1), ..TrafficPolicy::default() };
        let of_other = DestinationRule { name: name("shop/of-other"), policy, ..rule("other") };
        check(&|batch| batch.put(of_other.clone()), [false, false]);
        let is_known = |service: &str| {
            let service = current.world.service(&name(service)).expect("a Service");
            let cluster = current.cluster(service, &ClusterKey::of(service, 80));
            assert_eq!(cluster.service, Ok(service.name.clone()));
            (matches!(cluster, Cow::Borrowed(_)), cluster.policy.proxy_protocol.is_some())
        };
        assert_eq!([is_known("shop/cart"), is_known("shop/other")], [(true, false), (false, true)]);
    }
}
