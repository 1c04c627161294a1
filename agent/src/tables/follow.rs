//! From the World that the tables are of to another one: only addresses about which it may decide otherwise are looked up, each
//! once. Its own file because [`compile()`](super::compile()) walks through the whole World, which is for the start, and for
//! when it is not known what is there.
//!
//! What must hold: the tables end as `compile` makes them, whatever Worlds were skipped, and the order is
//! [`diff`](super::diff())'s, so that nothing opens on the way.

use std::{collections::BTreeSet, net::IpAddr};

use underpass_abi::{Address, Op};
use underpass_core::{World, world::Delta};

use super::{
    Tables,
    compile::destination,
    diff::{local, ordered},
};

/// The operations that make `there`, whose destinations are those of `old`, into what `new` and this node's pods want.
/// `wanted`: all but destinations.
#[must_use]
pub fn follow(there: &Tables, old: &World, new: &World, wanted: &Tables) -> Vec<Op> {
    let mut ops = Vec::new();
    for ip in concerned(&Delta::between(old, new), new) {
        let address = Address::from(ip);
        match (there.mesh.get(&address), destination(new, ip)) {
            (there, Some(wanted)) if there != Some(&wanted) => ops.push(Op::SetDestination(address, wanted)),
            (Some(_), None) => ops.push(Op::RemoveDestination(address)),
            _ => {}
        }
    }
    local(&mut ops, there, wanted);
    ordered(ops, wanted)
}

/// The addresses about which the new World may decide otherwise: of workloads and services that differ, as they were and as they
/// are, and of services of which an endpoint differs, which may be in the mesh by it.
fn concerned(delta: &Delta<'_>, new: &World) -> BTreeSet<IpAddr> {
    let workloads = || delta.workloads.iter().flat_map(|workload| workload.both());
    let own = workloads().filter(|w| w.owns_addresses()).flat_map(|w| &w.addresses);
    let vips = delta.services.iter().flat_map(|service| service.both()).flat_map(|service| &service.vips);
    let behind: BTreeSet<_> = workloads().flat_map(|w| &w.endpoints).map(|endpoint| &endpoint.service).collect();
    let of_those = behind.into_iter().filter_map(|name| new.service(name)).flat_map(|service| &service.vips);
    own.chain(vips).chain(of_those).copied().collect()
}
