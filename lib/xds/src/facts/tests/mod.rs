//! Encoding and decoding together, and what both share.

mod follow;
mod foreign;
mod golden;
mod policy;
mod robust;
mod round_trip;

use std::sync::Arc;

use bytes::Bytes;
use imbl::{OrdMap, ordmap::DiffItem};
use underpass_core::{
    World,
    world::{Fact, Facts, MeshSettings},
};

use super::{Decoder, Encoder};
use crate::resource::{Change, Resource, ResourceKind, Resources};

/// The resources of a World, encoded from nothing.
fn encode(world: &World) -> Resources {
    let mut encoder = Encoder::new();
    encoder.follow(&World::empty(world.settings().clone()), world);
    encoder.resources().clone()
}

/// What a subscriber of everything is sent.
fn changes(old: &Resources, new: &Resources) -> Vec<Change> {
    ResourceKind::ALL.into_iter().flat_map(|kind| of_kind(kind, old.of(kind), new.of(kind))).collect()
}

type Map = OrdMap<Arc<str>, Arc<Resource>>;

fn of_kind(kind: ResourceKind, old: &Map, new: &Map) -> Vec<Change> {
    let each = |item: DiffItem<'_, '_, Arc<str>, Arc<Resource>>| match item {
        DiffItem::Add(name, new) | DiffItem::Update { new: (name, new), .. } => {
            let (version, body) = (new.version.to_string().into(), Some(Bytes::copy_from_slice(&new.body)));
            Change { kind, name: Arc::clone(name), version, body }
        }
        DiffItem::Remove(name, _) => Change { kind, name: Arc::clone(name), version: Arc::default(), body: None },
    };
    old.diff(new).map(each).collect()
}

/// The World of these resources. All of them are good.
fn decode(settings: &MeshSettings, resources: &Resources) -> World {
    let mut decoder = Decoder::new(Arc::new(settings.clone()));
    let decoded = decoder.apply(changes(&Resources::default(), resources));
    assert_eq!(decoded.problems, []);
    World::empty(settings.clone()).apply(decoded.facts)
}

/// Facts of a World, each changed or left out.
fn map(world: &World, change: impl Fn(Fact) -> Option<Fact>) -> World {
    let workloads = world.workloads().map(|w| Fact::Workload(Arc::clone(w)));
    let services = world.services().map(|s| Fact::Service(Arc::clone(s)));
    let policies = world.policies().map(|p| Fact::Policy(Arc::clone(p)));
    let mut facts = Facts::default();
    workloads.chain(services).chain(policies).filter_map(change).for_each(|fact| facts.put(fact));
    World::empty(world.settings().clone()).apply(facts)
}
