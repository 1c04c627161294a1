//! The difference of the tables of two Worlds: only addresses about which the new World may decide otherwise are looked up, each
//! once. Its own file because [`compile()`](super::compile()) walks through the whole World, which is for the start, and for
//! when it is not known what is there.
//!
//! What must hold: the tables end as `compile` makes them, also after skipped Worlds, and the order is
//! [`diff`](super::diff())'s, so that nothing opens on the way.

use std::{collections::BTreeSet, net::IpAddr};

use underpass_abi::{Address, Op};
use underpass_core::{World, world::Delta};

use super::{
    Tables,
    compile::destination,
    diff::{ordered, pods},
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
    pods(&mut ops, there, wanted);
    ordered(ops, wanted)
}

/// The addresses about which the new World may decide otherwise: of workloads and services that differ, as they were and as they
/// are, and of services of which an endpoint differs, which may be in the mesh by it.
fn concerned(delta: &Delta<'_>, new: &World) -> BTreeSet<IpAddr> {
    let workloads = || delta.workloads.iter().flat_map(|workload| workload.both());
    let own = workloads().filter(|w| w.owns_addresses()).flat_map(|w| w.addresses.iter().copied());
    let theirs = delta.services.iter().flat_map(|service| service.both()).flat_map(|service| service.addresses());
    let behind: BTreeSet<_> = workloads().flat_map(|w| &w.endpoints).map(|endpoint| &endpoint.service).collect();
    let of_those = behind.into_iter().filter_map(|name| new.service(name)).flat_map(|service| service.addresses());
    own.chain(theirs).chain(of_those).collect()
}

#[cfg(test)]
mod tests {
    use underpass_core::{
        objects::{Batch, Change, Object},
        resolve::Model,
        testing::{ambient, labels, model, namespace, pod, policy, service},
        world::Action,
    };

    use super::{
        super::{KernelNode, compile},
        *,
    };

    /// `many` namespaces, each with a pod of the mesh, one outside, and a service that leads to both.
    fn mesh(many: u8) -> Model {
        let objects = (0..many).flat_map(|n| {
            let app = |w: underpass_core::objects::Pod| underpass_core::objects::Pod { labels: labels("app=a"), ..w };
            let enrolled = labels("istio.io/dataplane-mode=ambient");
            let mut inside = app(pod(&format!("n{n}/in"), &format!("10.1.{n}.1")));
            inside.labels.extend(enrolled);
            let outside = app(pod(&format!("n{n}/out"), &format!("10.1.{n}.2")));
            let vip = service(&format!("n{n}/s app=a 10.96.{n}.1,fd96::{n} 80"));
            [namespace(&format!("n{n}")).into(), inside.into(), outside.into(), vip.into()]
        });
        model(objects)
    }

    #[test]
    fn what_is_looked_up_and_changed_follows_what_differs_and_not_the_world() {
        let gone = |of: Object| Change::Remove(of.key());
        let relabelled = |w: underpass_core::objects::Pod| Change::Put(w.into());
        // What happens, how many addresses are looked up for it, and how many operations come of it.
        let changes: [(&str, Change, usize, usize); 8] = [
            ("a pod outside joins", relabelled(ambient("n1/out", "10.1.1.2", "app=a")), 3, 1),
            ("the only pod inside leaves", relabelled(pod("n1/in", "10.1.1.1")), 3, 3),
            (
                "a pod is not ready",
                relabelled(underpass_core::objects::Pod { ready: false, ..ambient("n1/in", "10.1.1.1", "app=a") }),
                3,
                0,
            ),
            ("a pod moves", relabelled(ambient("n1/in", "10.1.1.9", "app=a")), 4, 2),
            ("a pod goes", gone(pod("n1/in", "").into()), 3, 3),
            ("a service gets another address", Change::Put(service("n1/s app=a 10.96.1.7,fd96::1 80").into()), 3, 2),
            ("a service goes", gone(service("n1/s - - 80").into()), 4, 2),
            ("a policy comes", Change::Put(policy("n1/p", Action::Deny, Vec::new()).into()), 0, 0),
        ];
        for many in [3, 200] {
            for (what, change, looked_up, operations) in &changes {
                let mut model = mesh(many);
                let old = model.world().clone();
                let there = compile(&old, &[], &KernelNode::default());
                model.apply(&Batch { changes: vec![change.clone()] });
                let new = model.world();
                let ops = follow(&there, &old, new, &Tables::default());
                let seen = concerned(&Delta::between(&old, new), new).len();
                assert_eq!((seen, ops.len()), (*looked_up, *operations), "{what}, of {many}: {ops:?}");
                let mut now = there;
                ops.iter().for_each(|op| now.apply(op));
                assert_eq!(now, compile(new, &[], &KernelNode::default()), "{what}");
            }
        }
    }
}
