//! The resources of a World, kept up with the Worlds that follow it.

mod converted;
mod exact;
mod policy;
mod service;
mod strings;
mod workload;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use imbl::OrdMap;
use prost::Message;
use underpass_core::{
    Few, ObjectName, World,
    bulk::alternating,
    world::{Delta, MeshSettings, Service, Uid, Workload},
};

use self::converted::{Converted, Naming, effective};
use super::names;
use crate::{
    contract::istio::{
        security::Authorization,
        workload::{Address, address::Type},
    },
    resource::{ContentHash, Resource, Resources},
};

/// A follower of the World that keeps its resources.
///
/// Beside the resources it keeps which workloads share a converted policy.
#[derive(Debug, Default)]
pub struct Encoder {
    resources: Resources,
    converted: Converted,
    encoded: u64,
}

impl Encoder {
    /// Of a World without facts.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The resources of the World that it followed last. Their source is for the caller to set.
    #[must_use]
    pub const fn resources(&self) -> &Resources {
        &self.resources
    }

    /// The count of messages that it has encoded so far.
    #[must_use]
    pub const fn encoded(&self) -> u64 {
        self.encoded
    }

    /// From `old`, the World that it followed last, to `new`. Costs what differs, and the whole World where settings
    /// do. What is encoded to the same bytes stays the same resource.
    pub fn follow(&mut self, old: &World, new: &World) {
        let delta = Delta::between(old, new);
        if delta.settings.is_some() {
            return self.rebuild(new);
        }
        let settings = new.settings();
        for one in &delta.services {
            let name = one.new.map(|service| service_name(service));
            if let Some(former) = one.old.map(|service| service_name(service)).filter(|old| Some(old) != name.as_ref())
            {
                self.resources.addresses.remove(&*former);
            }
            one.new.iter().for_each(|service| self.put_service(settings, service));
        }
        for one in &delta.policies {
            let message = one.new.and_then(|policy| policy::authorization(settings, policy));
            if let Some(name) = one.both().map(|policy| &policy.name).next() {
                self.put_policy(name, message);
            }
        }
        let mut touched = BTreeSet::new();
        for one in &delta.workloads {
            match (one.old, one.new) {
                (_, Some(workload)) => drop(touched.insert(workload.uid.clone())),
                (Some(workload), None) => self.remove_workload(workload),
                (None, None) => {}
            }
        }
        for namespace in delta.mtls.iter().filter_map(|one| one.both().next()).map(|mtls| &mtls.namespace) {
            match *namespace == settings.root_namespace {
                true => touched.extend(new.workloads().map(|w| w.uid.clone())),
                false => touched.extend(new.workloads_of(namespace).map(|w| w.uid.clone())),
            }
        }
        self.put_workloads(new, touched);
    }

    fn rebuild(&mut self, world: &World) {
        let before = std::mem::take(&mut self.resources);
        let settings = world.settings();
        *self = Self { encoded: self.encoded, ..Self::default() };
        self.resources.source = before.source;
        world.services().for_each(|service| self.put_service(settings, service));
        for policy in world.policies() {
            self.put_policy(&policy.name, policy::authorization(settings, policy));
        }
        self.put_workloads(world, world.workloads().map(|w| w.uid.clone()).collect());
        keep(&mut self.resources.addresses, &before.addresses);
        keep(&mut self.resources.authorizations, &before.authorizations);
    }

    fn put_service(&mut self, settings: &MeshSettings, service: &Service) {
        let message = Address { r#type: Some(Type::Service(service::service(settings, service))) };
        let name = service_name(service);
        self.encoded += 1;
        put(&mut self.resources.addresses, name.into(), aliases(service.addresses()), &message);
    }

    /// Without a message it is not sent.
    fn put_policy(&mut self, name: &ObjectName, message: Option<Authorization>) {
        let name = names::slashed(name);
        match message {
            None => drop(self.resources.authorizations.remove(&*name)),
            Some(message) => {
                self.encoded += 1;
                put(&mut self.resources.authorizations, name.into(), Few::new(), &message);
            }
        }
    }

    fn remove_workload(&mut self, workload: &Workload) {
        self.converted.set(&workload.uid, Naming::Nothing);
        self.resources.addresses.remove(workload.uid.as_str());
    }

    fn put_workloads(&mut self, world: &World, mut touched: BTreeSet<Uid>) {
        let settings = world.settings();
        let root = &*settings.root_namespace;
        for workload in touched.iter().filter_map(|uid| world.workload(uid)) {
            self.converted.set(&workload.uid, Naming::of(&effective(world, workload)));
        }
        let (policies, renamed) = self.converted.settle();
        policies.into_iter().for_each(|(name, message)| self.put_policy(&name, message));
        let strict = ObjectName::new(root, names::STATIC_STRICT);
        let is_there = self.resources.authorizations.contains_key(&*names::slashed(&strict));
        if is_there != self.converted.has_strict() {
            self.put_policy(&strict, self.converted.has_strict().then(|| converted::strict(root)));
        }
        touched.extend(renamed);
        for workload in alternating(touched.iter()).filter_map(|uid| world.workload(uid)) {
            let (mtls, converted) = (effective(world, workload), self.converted.name(&workload.uid, root));
            let message = workload::workload(settings, workload, &mtls, converted);
            let message = Address { r#type: Some(Type::Workload(message)) };
            self.encoded += 1;
            let aliases = aliases(workload.addresses.iter().copied());
            put(&mut self.resources.addresses, Arc::clone(workload.uid.text()), aliases, &message);
        }
    }
}

fn service_name(service: &Service) -> String {
    format!("{}/{}", service.name.namespace(), service.hostname)
}

fn aliases(addresses: impl Iterator<Item = IpAddr>) -> Few<Arc<str>> {
    addresses.map(|ip| format!("/{ip}").into()).collect()
}

/// A resource of equal bytes stays.
fn put(all: &mut OrdMap<Arc<str>, Arc<Resource>>, name: Arc<str>, aliases: Few<Arc<str>>, message: &impl Message) {
    let body = message.encode_to_vec().into_boxed_slice();
    if all.get(&name).is_some_and(|known| known.body == body) {
        return;
    }
    let version = ContentHash::of(&body);
    all.insert(Arc::clone(&name), Arc::new(Resource { name, aliases, version, body }));
}

/// Resources that are as before stay.
fn keep(all: &mut OrdMap<Arc<str>, Arc<Resource>>, before: &OrdMap<Arc<str>, Arc<Resource>>) {
    for (name, known) in before {
        if let Some(now) = all.get_mut(name)
            && now == known
        {
            *now = Arc::clone(known);
        }
    }
}
