//! The difference of two sets of tables: operations in an order in which nothing opens that is closed before and after.
//!
//! ```text
//! 0  agents come                 the tunnel's own sockets are let through before anything is captured
//! 1  what is local to a pod      comes before the pod, so that its own addresses are its own; of pods that stay it also
//!                                goes here: an address that is local no longer is looked up in the mesh at once
//! 2  pods' cgroups come          raw sockets are known before the pod is guarded
//! 3  the kubelet and 4 its targets come, change: no probe of a pod that comes is judged as a stranger
//! 5  destinations come, change   the whole mesh is there before a pod is captured
//! 6  pods come, change phase     from here on their connections are decided, by everything above
//! 7  the kubelet and 8 its targets go: of what goes they alone let anything in
//! 9  pods go
//! 10 destinations go             after what comes, so that an address is never open in between
//! 11 the cgroups and 12 the addresses of pods that went
//! 13 agents go                   last, as they came first
//! ```
//! What must hold: a batch that stops halfway has only closed more than it was to close; applied again from its beginning
//! it ends where it should.

use std::collections::HashMap;
use std::hash::Hash;

use underpass_abi::Op;

use super::Tables;

/// The operations that make `there` into `wanted`, in the order in which they are to be applied.
#[must_use]
pub fn diff(there: &Tables, wanted: &Tables) -> Vec<Op> {
    let mut ops = Vec::new();
    changes(&mut ops, &there.mesh, &wanted.mesh, Op::SetDestination, Op::RemoveDestination);
    pods(&mut ops, there, wanted);
    ordered(ops, wanted)
}

/// All but destinations.
pub(super) fn pods(ops: &mut Vec<Op>, there: &Tables, wanted: &Tables) {
    ops.extend(wanted.agents.difference(&there.agents).copied().map(Op::SetAgent));
    ops.extend(there.agents.difference(&wanted.agents).copied().map(Op::RemoveAgent));
    changes(ops, &there.locals, &wanted.locals, Op::SetLocal, Op::RemoveLocal);
    changes(ops, &there.pod_cgroups, &wanted.pod_cgroups, Op::SetPodCgroup, Op::RemovePodCgroup);
    changes(ops, &there.kubelets, &wanted.kubelets, Op::SetKubelet, Op::RemoveKubelet);
    changes(ops, &there.probes, &wanted.probes, Op::SetProbe, Op::RemoveProbe);
    changes(ops, &there.pods, &wanted.pods, Op::SetPod, Op::RemovePod);
}

/// In the order above.
pub(super) fn ordered(mut ops: Vec<Op>, wanted: &Tables) -> Vec<Op> {
    // The addresses of a pod that stays go as early as others come.
    let rank = |op: &Op| match op {
        Op::RemoveLocal(key) if wanted.pods.contains_key(&key.pod) => 1,
        other => other.rank(),
    };
    ops.sort_by_key(rank);
    ops
}

fn changes<K: Copy + Eq + Hash, V: Copy + Eq>(
    ops: &mut Vec<Op>,
    there: &HashMap<K, V>,
    wanted: &HashMap<K, V>,
    set: fn(K, V) -> Op,
    remove: fn(K) -> Op,
) {
    let differs = |(key, value): &(&K, &V)| there.get(key) != Some(value);
    ops.extend(wanted.iter().filter(differs).map(|(key, value)| set(*key, *value)));
    ops.extend(there.keys().filter(|key| !wanted.contains_key(key)).copied().map(remove));
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;
    use underpass_abi::{CgroupId, Cookie, Map, Marks, Phase, memory::Memory};
    use underpass_core::{
        World,
        testing::{ambient, some_address, some_batch, some_model, world},
        world::MeshSettings,
    };

    use super::super::{
        KernelNode, KernelPod, compile,
        compile::tests::{Answer, captured, kernel, kernel_pods, memory},
        compile_pods, follow, ordered_for_room,
    };
    use super::*;

    #[test]
    fn an_address_that_is_local_no_longer_is_looked_up_before_anything_else_opens() {
        let world = world([ambient("default/a", "10.0.0.1", "").into(), ambient("default/b", "10.0.0.2", "").into()]);
        let pods = kernel_pods(&world);
        let mut more = pods.clone();
        more.iter_mut().for_each(|pod| pod.namespace_addresses.push([10, 9, 9, 9].into()));
        let empty = World::empty(MeshSettings::default());
        let ops =
            diff(&compile(&empty, &more, &KernelNode::default()), &compile(&world, &pods, &KernelNode::default()));
        let at = |what: fn(&Op) -> bool| ops.iter().position(what);
        assert_eq!(ops.len(), 4, "{ops:?}");
        assert!(at(|op| matches!(op, Op::RemoveLocal(_))) < at(|op| matches!(op, Op::SetDestination(..))), "{ops:?}");
        // Of a pod that goes they are the last: until then its own addresses are its own.
        let ops = diff(&compile(&world, &more, &KernelNode::default()), &compile(&world, &[], &KernelNode::default()));
        let at = |what: fn(&Op) -> bool| ops.iter().position(what);
        assert!(at(|op| matches!(op, Op::RemovePod(_))) < at(|op| matches!(op, Op::RemoveLocal(_))), "{ops:?}");
    }

    /// Pods as a node may know them: some are being released, some are not there, some have more than their own addresses.
    /// Their probes are of few ports, and pods may have one's address in common.
    fn some_pods(world: &World) -> impl Strategy<Value = Vec<KernelPod>> + use<> {
        let each = kernel_pods(world).into_iter().map(|pod| {
            let changes = (0u8..4, prop::bool::weighted(0.2), proptest::collection::vec(some_address(), 0..3), 0u64..3);
            let probes = proptest::sample::subsequence(vec![80, 8080, 9090], 0..3);
            (changes, probes).prop_map(move |((state, other_sandbox, more, cgroup), probes)| {
                let mut pod = KernelPod { probes: probes.into(), ..pod.clone() };
                pod.namespace_addresses.extend(more);
                pod.cgroup.0 += 100 * cgroup;
                pod.cookie.0 += u64::from(other_sandbox) * 100;
                pod.phase = if state == 1 { Phase::RELEASING } else { Phase::ENROLLED };
                (state > 0).then_some(pod)
            })
        });
        each.collect::<Vec<_>>().prop_map(|pods| pods.into_iter().flatten().collect())
    }

    /// From one World and its pods to another.
    #[derive(Clone, Debug)]
    struct Turn {
        old: World,
        new: World,
        there: Tables,
        wanted: Tables,
        /// All of that but destinations.
        wanted_pods: Tables,
    }

    impl Turn {
        /// The operations by both functions: from the tables that are there, and from the World that they are of.
        fn both(&self) -> [Vec<Op>; 2] {
            let Self { old, new, there, wanted, wanted_pods } = self;
            [diff(there, wanted), follow(there, old, new, wanted_pods)]
        }
    }

    fn some_turn() -> impl Strategy<Value = Turn> {
        let batches = proptest::collection::vec(some_batch(), 1..4);
        let worlds = (some_model(), batches).prop_map(|(mut model, batches)| {
            let world = model.world().clone();
            // The follower has not seen those between.
            batches.iter().for_each(|batch| drop(model.apply(batch)));
            (world, model.world().clone())
        });
        let node = || {
            let agents = proptest::collection::vec((7u64..10).prop_map(CgroupId), 0..3);
            let kubelet = proptest::option::of((20u64..23).prop_map(|id| (CgroupId(id), Cookie(77))));
            (agents, kubelet).prop_map(|(agents, kubelet)| KernelNode { agents, kubelet })
        };
        worlds.prop_flat_map(move |(before, after)| {
            let pods = (some_pods(&before), some_pods(&after), node(), node());
            pods.prop_map(move |(before_pods, after_pods, before_node, after_node)| Turn {
                there: compile(&before, &before_pods, &before_node),
                wanted: compile(&after, &after_pods, &after_node),
                wanted_pods: compile_pods(&after_pods, &after_node),
                old: before.clone(),
                new: after.clone(),
            })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn applied_it_gives_what_is_wanted(turn in some_turn()) {
            let Turn { there, wanted, .. } = &turn;
            for ops in turn.both() {
                let mut now = there.clone();
                ops.iter().for_each(|op| now.apply(op));
                prop_assert_eq!(&now, wanted);
                // and the data path in memory agrees about what operations mean
                let mut ops_in_all = diff(&Tables::default(), there);
                ops_in_all.extend(&ops);
                prop_assert_eq!(&Tables::from_ops(&memory(&ops_in_all).contents()), wanted);
            }
            prop_assert_eq!(diff(wanted, wanted), vec![]);
            prop_assert_eq!(follow(wanted, &turn.new, &turn.new, &turn.wanted_pods), vec![]);
            // Tables that have it already are not told again.
            prop_assert_eq!(follow(wanted, &turn.old, &turn.new, &turn.wanted_pods), vec![]);
        }

        #[test]
        fn nothing_opens_on_the_way(turn in some_turn(), to in proptest::collection::vec(some_address(), 1..12)) {
            let Turn { there, wanted, .. } = &turn;
            let (before, after) = (memory(&diff(&Tables::default(), there)), memory(&diff(&Tables::default(), wanted)));
            let pods: std::collections::HashSet<Cookie> = there.cookies().chain(wanted.cookies()).collect();
            let addresses: Vec<IpAddr> = to.into_iter().chain(wanted.mesh.keys().map(|a| a.ip())).collect();
            for ops in turn.both() {
                let mut now = before.clone();
                for (done, op) in ops.iter().enumerate() {
                    now.apply(&[*op]).expect("room");
                    for (&pod, &to) in pods.iter().flat_map(|pod| addresses.iter().map(move |to| (pod, to))) {
                        let [was, is, will] = [&before, &now, &after].map(|tables| kernel(tables, pod, to));
                        let context = || format!("{pod:?} -> {to}: {was:?}, {is:?}, {will:?} after {:?}", &ops[..=done]);
                        if captured(was) && captured(will) {
                            prop_assert!(captured(is), "{}", context());
                        }
                        // A pod that is announced is captured as it shall be from the first moment.
                        if was == Answer::Unknown && is != Answer::Unknown && captured(will) {
                            prop_assert!(captured(is), "{}", context());
                        }
                        // Its own addresses stay its own.
                        if was == Answer::Local && will == Answer::Local {
                            prop_assert_eq!(is, Answer::Local, "{}", context());
                        }
                    }
                }
            }
        }

        /// The same with tables of any size: they are never full, and nothing opens while some of the mesh is not in them.
        #[test]
        fn nothing_opens_for_want_of_room(
            turn in some_turn(), room in 1usize..10, to in proptest::collection::vec(some_address(), 1..12)
        ) {
            let there = turn.there.clone().within(&Tables::default(), room);
            let wanted = turn.wanted.clone().within(&there, room);
            let ops = ordered_for_room(diff(&there, &wanted), &there, room);
            let small = || Memory::new(Marks::DEFAULT).with_capacity(Map::Mesh, room as u32);
            let (mut now, mut after) = (small(), small());
            now.apply(&diff(&Tables::default(), &there)).expect("room");
            after.apply(&diff(&Tables::default(), &wanted)).expect("room");
            let before = now.clone();
            let pods: std::collections::HashSet<Cookie> = there.cookies().chain(wanted.cookies()).collect();
            let mesh = turn.there.mesh.keys().chain(turn.wanted.mesh.keys()).map(|a| a.ip());
            let addresses: Vec<IpAddr> = to.into_iter().chain(mesh).collect();
            for (done, op) in ops.iter().enumerate() {
                now.apply(&[*op]).expect("room");
                for (&pod, &to) in pods.iter().flat_map(|pod| addresses.iter().map(move |to| (pod, to))) {
                    let [was, is, will] = [&before, &now, &after].map(|tables| kernel(tables, pod, to));
                    if (captured(was) || was == Answer::Unknown) && captured(will) && is != Answer::Unknown {
                        prop_assert!(captured(is), "{:?} -> {}: {:?} after {:?}", pod, to, is, &ops[..=done]);
                    }
                    if was == Answer::Local && will == Answer::Local {
                        prop_assert_eq!(is, Answer::Local, "{:?} -> {} after {:?}", pod, to, &ops[..=done]);
                    }
                }
            }
            prop_assert_eq!(Tables::from_ops(&now.contents()), wanted);
        }

        #[test]
        fn a_pod_is_forgotten_whole_or_kept_without_its_probes(turn in some_turn()) {
            let there = &turn.there;
            for pod in there.cookies() {
                let ops = there.without_pod(pod);
                prop_assert!(ops.is_sorted_by_key(Op::rank), "{ops:?}");
                let mut without = there.clone();
                ops.iter().for_each(|op| without.apply(op));
                prop_assert!(without.mentioned().all(|other| other != pod));
                let mut again = without.clone();
                again.keep_pod(there, pod);
                let mut kept = there.clone();
                kept.probes.retain(|_, of| *of != pod);
                prop_assert_eq!(&again, &kept);
            }
        }
    }
}
