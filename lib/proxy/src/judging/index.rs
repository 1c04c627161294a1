//! The index of a worker's open connections by the dependencies of their verdicts, so that a change finds those that it may
//! concern without a look at the others.
//!
//! What must hold: the connections of the dependencies that [`Index::concerned`] returns are those for which
//! [`Changes::may_concern`] holds, of all that the World before allowed. The cost follows from the difference of the Worlds and
//! from the number of dependencies found, not from the number of open connections.

use std::{
    collections::{BTreeSet, HashMap, HashSet, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use underpass_core::{
    ObjectName, World,
    rejudge::{Basis, Changes, Judged, OutboundPath},
    world::{Uid, Workload},
};

/// What a verdict depends on: the connections with one dependency are judged again together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Dependency {
    /// To this pod.
    Inbound(Uid),
    /// From this pod.
    Outbound(Uid),
    /// From a pod, to this service.
    Service(ObjectName),
    /// From a pod, through a tunnel to the application at this address.
    Tunnel(IpAddr),
    /// From a pod, plain to the application at this address.
    Plain(IpAddr),
}

impl Dependency {
    /// The dependencies of one connection.
    fn of(judged: &Judged) -> impl Iterator<Item = Self> + use<> {
        let pod = judged.pod.clone();
        let dependencies = match &judged.basis {
            Basis::Inbound { .. } => [Some(Self::Inbound(pod)), None, None],
            Basis::Outbound { service, target, path, .. } => {
                let target = match path {
                    OutboundPath::Tunnel { .. } => Self::Tunnel(target.ip()),
                    OutboundPath::Plain => Self::Plain(target.ip()),
                };
                [Some(Self::Outbound(pod)), Some(target), service.clone().map(Self::Service)]
            }
        };
        dependencies.into_iter().flatten()
    }

    /// The workload by whose namespace a change of policies finds the dependency: the pod, or the owner of a plain target.
    fn workload<'a>(&self, world: &'a World) -> Option<&'a Arc<Workload>> {
        match self {
            Self::Inbound(pod) | Self::Outbound(pod) => world.workload(pod),
            Self::Plain(target) => world.workload_at(*target),
            Self::Service(_) | Self::Tunnel(_) => None,
        }
    }

    /// True where policies decide.
    const fn is_judged_by_policies(&self) -> bool {
        matches!(self, Self::Inbound(_) | Self::Plain(_))
    }
}

/// The connections with one dependency.
#[derive(Debug, Default)]
struct Members {
    ids: BTreeSet<u64>,
    /// The namespace under which the dependency is found.
    scope: Option<Arc<str>>,
}

/// Open connections by dependency, and dependencies by namespace.
#[derive(Debug, Default)]
pub(super) struct Index {
    dependencies: HashMap<Dependency, Members>,
    scopes: HashMap<Arc<str>, HashSet<Dependency>>,
}

impl Index {
    /// True without connections.
    pub(super) fn is_empty(&self) -> bool {
        self.dependencies.is_empty()
    }

    /// Adds the open connection `id`.
    pub(super) fn add(&mut self, world: &World, id: u64, judged: &Judged) {
        for dependency in Dependency::of(judged) {
            match self.dependencies.entry(dependency) {
                Entry::Occupied(mut known) => drop(known.get_mut().ids.insert(id)),
                Entry::Vacant(unknown) => {
                    let dependency = unknown.key().clone();
                    unknown.insert(Members::default()).ids.insert(id);
                    self.file(world, &dependency);
                }
            }
        }
    }

    /// Removes it.
    pub(super) fn remove(&mut self, id: u64, judged: &Judged) {
        for dependency in Dependency::of(judged) {
            let Entry::Occupied(mut known) = self.dependencies.entry(dependency) else { continue };
            known.get_mut().ids.remove(&id);
            if known.get().ids.is_empty() {
                let (dependency, members) = known.remove_entry();
                self.unfile(&dependency, members.scope.as_deref());
            }
        }
    }

    /// The connections with a dependency from this number on, in order.
    pub(super) fn members(&self, dependency: &Dependency, from: u64) -> impl Iterator<Item = u64> {
        self.dependencies.get(dependency).into_iter().flat_map(move |members| members.ids.range(from..).copied())
    }

    /// The dependencies that a change of Worlds may concern. `world` is the new one, by which dependencies are found from now on.
    pub(super) fn concerned(&mut self, world: &World, changes: &Changes<'_>) -> Vec<Dependency> {
        let pods = changes.pods().flat_map(|pod| [Dependency::Inbound(pod.clone()), Dependency::Outbound(pod.clone())]);
        let services = changes.services().map(|service| Dependency::Service(service.clone()));
        let targets = changes.addresses().flat_map(|target| [Dependency::Tunnel(target), Dependency::Plain(target)]);
        let named = pods.chain(services).chain(targets).filter(|dependency| self.dependencies.contains_key(dependency));
        let mut found: Vec<Dependency> = named.collect();
        // An address that has another owner is found by that one's namespace.
        found.iter().for_each(|dependency| self.file(world, dependency));
        if changes.has_settings() {
            found.extend(self.scopes.values().flatten().cloned()); // each connection is one of a pod
        } else if changes.has_policies() {
            found.extend(self.judged_otherwise(world, changes));
        }
        found
    }

    fn judged_otherwise(&self, world: &World, changes: &Changes<'_>) -> Vec<Dependency> {
        let is_judged = |dependency: &&Dependency| {
            let workload = dependency.workload(world).filter(|_| dependency.is_judged_by_policies());
            workload.is_some_and(|workload| changes.judges_otherwise(workload))
        };
        match changes.scopes() {
            Some(scopes) => {
                let dependencies = scopes.into_iter().filter_map(|namespace| self.scopes.get(namespace));
                dependencies.flatten().filter(is_judged).cloned().collect()
            }
            None => self.scopes.values().flatten().filter(is_judged).cloned().collect(),
        }
    }

    /// Files a dependency under the namespace that its workload has in this World.
    fn file(&mut self, world: &World, dependency: &Dependency) {
        let Some(members) = self.dependencies.get_mut(dependency) else { return };
        let namespace = dependency.workload(world).map(|workload| workload.name.namespace());
        if members.scope.as_deref() == namespace {
            return;
        }
        let scope = namespace.map(Arc::from);
        let before = std::mem::replace(&mut members.scope, scope.clone());
        self.unfile(dependency, before.as_deref());
        if let Some(scope) = scope {
            self.scopes.entry(scope).or_default().insert(dependency.clone());
        }
    }

    fn unfile(&mut self, dependency: &Dependency, scope: Option<&str>) {
        let Some(scope) = scope else { return };
        let Some(dependencies) = self.scopes.get_mut(scope) else { return };
        dependencies.remove(dependency);
        if dependencies.is_empty() {
            self.scopes.remove(scope);
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::net::SocketAddr;

    use underpass_core::route::{self, Plan};

    use super::*;

    /// The connections that this World allows: each pod is called by `from`, with and without an identity, and calls `to`.
    pub(in crate::judging) fn connections(world: &World, from: IpAddr, to: SocketAddr) -> Vec<Judged> {
        let judged_at = world.version();
        let mut open = Vec::new();
        for pod in world.workloads().filter(|w| w.is_pod()) {
            for address in &pod.addresses {
                for identity in [None, world.identity(pod).cloned()] {
                    let basis =
                        Basis::Inbound { address: *address, port: to.port(), peer: from, identity, named: None };
                    open.push(Judged { pod: pod.uid.clone(), basis, judged_at });
                }
            }
            let Some(from) = pod.addresses.iter().copied().find(|ip| ip.is_ipv4() == to.is_ipv4()) else { continue };
            let (destination, path) = match route::plan(world, pod, to, 0, &mut ()) {
                Plan::Hbone { destination, hop } => {
                    (destination, OutboundPath::tunnel(world.identity(pod).cloned().expect("a pod's"), &hop))
                }
                Plan::Plain { destination } => (destination, OutboundPath::Plain),
                Plan::Refuse { .. } => continue,
            };
            let (service, target) = (destination.service, destination.target);
            let basis = Basis::Outbound { from, service, target, path };
            open.push(Judged { pod: pod.uid.clone(), basis, judged_at });
        }
        open.retain(|judged| underpass_core::rejudge::check(world, judged).is_allow());
        open
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::SocketAddr};

    use proptest::{collection::vec, prelude::*};
    use underpass_core::{
        objects::{Batch, Object},
        rejudge::check,
        testing::{
            ambient, model, name, namespace, pod, policy,
            walk::{some_call, some_step},
        },
        world::{Action, MeshSettings},
    };

    use super::{testing::connections, *};

    fn found(index: &Index, dependencies: &[Dependency]) -> BTreeSet<u64> {
        dependencies.iter().flat_map(|dependency| index.members(dependency, 0)).collect()
    }

    #[test]
    fn a_plain_target_is_found_by_the_namespace_of_its_present_owner() {
        let z = |name: &str| Object::from(pod(name, "10.0.0.9"));
        let mut model = model([ambient("default/a", "10.0.0.1", "").into(), z("out/z")]);
        let mut index = Index::default();
        let (from, target) = (IpAddr::from([10, 0, 0, 1]), SocketAddr::from(([10, 0, 0, 9], 80)));
        let basis = Basis::Outbound { from, service: None, target, path: OutboundPath::Plain };
        let pod = model.world().pod(&name("default/a")).expect("a pod").uid.clone();
        index.add(model.world(), 1, &Judged { pod, basis, judged_at: model.world().version() });
        let mut changed = |change: &dyn Fn(&mut Batch)| {
            let before = model.world().clone();
            let mut batch = Batch::default();
            change(&mut batch);
            model.apply(&batch);
            let dependencies = index.concerned(model.world(), &Changes::new(&before, model.world()));
            found(&index, &dependencies).len()
        };
        let deny = |name: &str| policy(name, Action::Deny, Vec::new());
        assert_eq!(changed(&|batch| batch.put(deny("out/p"))), 1);
        assert_eq!(changed(&|batch| batch.put(deny("back/p"))), 0);
        let moves = |batch: &mut Batch| {
            batch.remove(z("out/z").key());
            batch.put(z("back/z"));
        };
        assert_eq!(changed(&moves), 1);
        assert_eq!(changed(&|batch| batch.put(deny("out/q"))), 0);
        assert_eq!(changed(&|batch| batch.put(deny("back/q"))), 1);
    }

    proptest! {
        /// Also where Worlds are skipped; connections come and go meanwhile.
        #[test]
        fn the_index_finds_exactly_the_connections_that_a_change_may_concern(
            steps in vec((some_step(), prop::bool::weighted(0.05), any::<bool>(), some_call()), 20..50),
        ) {
            let mut model = model([namespace("default").into()]);
            let mut index = Index::default();
            let (mut open, mut next) = (BTreeMap::new(), 0);
            let mut followed = model.world().clone();
            for (step, settings, skips, call) in steps {
                model.apply(&step.batch(model.sources()));
                if settings {
                    let trust_domain = format!("td{next}.example").parse().unwrap();
                    model.set_settings(MeshSettings { trust_domain, ..MeshSettings::default() });
                }
                if skips {
                    continue;
                }
                let world = model.world().clone();
                let changes = Changes::new(&followed, &world);
                let dependencies = index.concerned(&world, &changes);
                let may = |judged: &Judged| {
                    changes.may_concern(&Judged { judged_at: followed.version(), ..judged.clone() })
                };
                let expected: BTreeSet<u64> = open.iter().filter(|(_, judged)| may(judged)).map(|(id, _)| *id).collect();
                prop_assert_eq!(found(&index, &dependencies), expected, "{:?} of {:?}", changes, open);
                // What is denied ends; and some others, for reasons of their own.
                open.retain(|id, judged| {
                    let stays = check(&world, judged).is_allow() && id % 7 != 0;
                    if !stays {
                        index.remove(*id, judged);
                    }
                    stays
                });
                // Every other call is one of a service.
                let addresses: Vec<IpAddr> = world.addresses().collect();
                let vips: Vec<IpAddr> = world.services().flat_map(|service| service.vips.iter().copied()).collect();
                let nth = |of: &[IpAddr], n: usize| of.get(n % of.len().max(1)).copied();
                let called = if call.roll % 2 == 0 { &vips } else { &addresses };
                if let (Some(from), Some(to)) = (nth(&addresses, call.from), nth(called, call.to)) {
                    for judged in connections(&world, from, SocketAddr::new(to, call.port)) {
                        next += 1;
                        index.add(&world, next, &judged);
                        open.insert(next, judged);
                    }
                }
                followed = world;
            }
            open.iter().for_each(|(id, judged)| index.remove(*id, judged));
            prop_assert!(index.is_empty() && index.scopes.is_empty(), "{:?}", index);
        }
    }
}
