//! A random walk of 1,000 changes (pods, labels, namespaces, policies, services, slices, nodes, settings, puts of what is there
//! already), with connections opened on the way, against an oracle that rebuilds everything from scratch after every one of
//! them: the World, the tables, the verdicts and the open connections are equal, and nothing opens on the way that is closed
//! before and after. The tables follow some of the Worlds and skip others.
//!
//! `UNDERPASS_WALK_STEPS` makes it longer, `UNDERPASS_WALK_SEED` another one. A walk that fails is cut down to the turns
//! that are needed, and printed with its seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::{
    collection::vec,
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use underpass_abi::{CgroupId, Cookie, Marks, Phase, memory::Memory};
use underpass_core::{
    Few, Identity, ObjectKey, Reason, World,
    admit::admit,
    authz::{Peer, Request, Verdict},
    objects::{Batch, Change, Object},
    rejudge::{self, Basis, Changes, Judged, OutboundPath},
    resolve::{LocalPod, Model},
    route::{self, Destination, HopKind, Plan},
    testing::walk::{Call, Step, answers, some_call, some_step},
    world::{MeshSettings, Workload},
};

use super::{
    KernelNode, KernelPod, Tables, compile,
    compile::tests::{Answer, captured, is_probe, kernel, reference},
    compile_pods, diff, follow,
};
use crate::pods::{Action, Actual, PodUid, Wanted, plan, probes, wanted};

const AGENT: CgroupId = CgroupId(7);
const NODE: Cookie = Cookie(0xffff);
const NODES: [&str; 2] = ["node-1", "node-2"];
/// The limit of open connections: beyond it the oldest end.
const MOST_OPEN: usize = 60;

/// The events between two Worlds.
#[derive(Clone, Debug)]
struct Turn {
    step: Step,
    /// Other settings come with it.
    mesh: Option<MeshSettings>,
    /// This object is put once more as it is, modulo how many there are.
    again: Option<usize>,
    /// Pods and tables follow this World; else they skip it.
    follows: bool,
    calls: Vec<Call>,
    /// The release of pods that leave gets on, where it is true.
    drained: bool,
    /// This pod's sandbox ends, modulo how many there are.
    ends: Option<usize>,
    /// The kubelet's cgroup.
    kubelet: Option<CgroupId>,
    /// The data path fails after so many operations, and is given all of them again.
    fails: Option<usize>,
}

fn some_turn() -> impl Strategy<Value = Turn> {
    let ends = prop::option::weighted(0.1, any::<usize>());
    let fails = prop::option::weighted(0.2, 0usize..6);
    let kubelet = prop::option::weighted(0.9, prop_oneof![9 => Just(CgroupId(20)), 1 => Just(CgroupId(21))]);
    let brought = (some_step(), prop::option::weighted(0.05, some_mesh()), prop::option::weighted(0.2, any::<usize>()));
    (brought, prop::bool::weighted(0.7), vec(some_call(), 0..6), any::<bool>(), ends, (kubelet, fails)).prop_map(
        |((step, mesh, again), follows, calls, drained, ends, (kubelet, fails))| Turn {
            step,
            mesh,
            again,
            follows,
            calls,
            drained,
            ends,
            kubelet,
            fails,
        },
    )
}

/// Mostly the usual ones.
fn some_mesh() -> impl Strategy<Value = MeshSettings> {
    let usual = MeshSettings::default;
    let domain = || "other.example".parse().expect("a trust domain");
    prop_oneof![
        3 => Just(usual()),
        1 => Just(MeshSettings { sidecar_keys: false, ..usual() }),
        1 => Just(MeshSettings { root_namespace: "other".into(), ..usual() }),
        1 => Just(MeshSettings { trust_domain: domain(), ..usual() }),
        1 => Just(MeshSettings { trust_domain_aliases: vec![domain()], ..usual() }),
        1 => Just(MeshSettings { cluster: "another".into(), ..usual() }),
    ]
}

/// A connection, as the worker knows it and as the oracle remembers it.
#[derive(Clone, Debug)]
struct Open {
    /// The worker's part.
    judged: Judged,
    /// The oracle's: every World since it was opened allows it.
    allowed: bool,
    /// The worker has ended it.
    ended: bool,
}

/// The coverage of a walk: one that meets nothing shows nothing.
#[derive(Debug, Default)]
struct Seen {
    opened: usize,
    passed_over: usize,
    operations: usize,
    probes: usize,
    skipped: usize,
    reasons: BTreeSet<&'static str>,
    policies: usize,
}

struct Walk {
    model: Model,
    /// The oracle's memory.
    mesh: MeshSettings,
    objects: BTreeMap<ObjectKey, Object>,
    pods: BTreeMap<PodUid, KernelPod>,
    cookies: u64,
    memory: Memory,
    there: Tables,
    /// The World that the tables followed last.
    finished: World,
    open: Vec<Open>,
    seen: Seen,
}

/// Which turn, and what was wrong.
type Fault = (usize, String);

fn ensure(holds: bool, says: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(says()) }
}

fn walk(turns: &[Turn]) -> Result<Seen, Fault> {
    let mut walk = Walk {
        model: Model::empty(MeshSettings::default()),
        mesh: MeshSettings::default(),
        objects: BTreeMap::new(),
        pods: BTreeMap::new(),
        cookies: 0,
        memory: Memory::new(Marks::DEFAULT),
        there: Tables::default(),
        finished: World::empty(MeshSettings::default()),
        open: Vec::new(),
        seen: Seen::default(),
    };
    for (n, turn) in turns.iter().enumerate() {
        walk.turn(turn).map_err(|says| (n, says))?;
    }
    Ok(walk.seen)
}

impl Walk {
    fn turn(&mut self, turn: &Turn) -> Result<(), String> {
        let mut batch = turn.step.batch(self.model.sources());
        let again = turn.again.and_then(|n| self.model.sources().objects().nth(n % self.model.sources().len().max(1)));
        let again = again.map(|(_, object)| Change::Put(object.clone()));
        batch.changes.splice(0..0, again);
        let old = self.model.world().clone();
        if let Some(mesh) = &turn.mesh {
            self.mesh = mesh.clone();
            self.model.set_settings(mesh.clone());
        }
        self.model.apply(&batch);
        let fresh = self.rebuilt(&batch);
        let is_same = *self.model.world() == *fresh.world() && answers(&self.model) == answers(&fresh);
        ensure(is_same, || "the World remembers how it came about".into())?;
        self.judge_again(&old, fresh.world())?;
        if turn.follows {
            self.sandboxes(&fresh, turn);
            self.tables(&fresh, turn)?;
        } else {
            self.seen.skipped += 1;
        }
        turn.calls.iter().try_for_each(|call| self.call(call, fresh.world()))
    }

    /// Everything from scratch, from all objects at once.
    fn rebuilt(&mut self, batch: &Batch) -> Model {
        for change in &batch.changes {
            match change {
                Change::Put(object) => drop(self.objects.insert(object.key(), object.clone())),
                Change::Remove(key) => drop(self.objects.remove(key)),
            }
        }
        let mut model = Model::empty(self.mesh.clone());
        model.apply(&self.objects.values().cloned().collect());
        model
    }

    /// Judges as a worker does: only connections that the change may concern.
    fn judge_again(&mut self, old: &World, fresh: &World) -> Result<(), String> {
        let next = self.model.world();
        let changes = Changes::new(old, next);
        for open in self.open.iter_mut().filter(|open| !open.ended) {
            if changes.may_concern(&open.judged) {
                match rejudge::check(next, &open.judged) {
                    Verdict::Allow { .. } => open.judged.judged_at = next.version(),
                    Verdict::Deny { policy, reason } => {
                        open.ended = true;
                        self.seen.reasons.insert(reason.as_str());
                        self.seen.policies += usize::from(policy.is_some());
                    }
                }
            } else {
                self.seen.passed_over += 1;
                open.judged.judged_at = next.version();
            }
            let (says, anew) = (rejudge::check(next, &open.judged), rejudge::check(fresh, &open.judged));
            ensure(says == anew, || format!("{says:?}, from scratch {anew:?}: {open:?}"))?;
            open.allowed &= stands(fresh, &open.judged);
            ensure(open.allowed != open.ended, || format!("{anew:?}, but {open:?}"))?;
        }
        self.open.retain(|open| !open.ended);
        Ok(())
    }

    /// Enrols and releases as `pods` would, with sandboxes that are there at once.
    fn sandboxes(&mut self, fresh: &Model, turn: &Turn) {
        let now = Instant::now();
        let ends = turn.ends.and_then(|n| self.pods.keys().nth(n % self.pods.len().max(1)).cloned());
        let local: Vec<LocalPod> = NODES.iter().flat_map(|node| fresh.local_pods(node)).collect();
        let wanted: BTreeMap<PodUid, Wanted> = wanted(&local);
        for _ in 0..3 {
            let actual = self.pods.iter().map(|(uid, pod)| {
                let (addresses, ended) = (pod.addresses.clone(), ends.as_ref() == Some(uid));
                let again = if turn.drained { now } else { now + Duration::from_secs(1) };
                let actual = match pod.phase {
                    Phase::RELEASING => Actual::Releasing { addresses, ended, torn: false, halfway: false, again },
                    _ => Actual::Enrolled { addresses, ended },
                };
                (Arc::clone(uid), actual)
            });
            for action in plan(&wanted, &actual.collect(), false, now) {
                self.act(action, &local);
            }
        }
        let probes = probes(&local);
        for (uid, pod) in &mut self.pods {
            pod.probes = probes.get(uid).map(|ports| Few::from(*ports)).unwrap_or_default();
        }
    }

    fn act(&mut self, action: Action, local: &[LocalPod]) {
        match action {
            Action::Enrol(uid) => {
                let Some(known) = local.iter().find(|pod| pod.pod_uid == uid) else { return };
                self.cookies += 1;
                let pod = KernelPod {
                    cookie: Cookie(self.cookies),
                    addresses: known.addresses.clone(),
                    namespace_addresses: known.addresses.to_vec(),
                    probes: known.probes.clone(),
                    cgroup: CgroupId(self.cookies + 1000),
                    phase: Phase::ENROLLED,
                };
                self.pods.insert(uid, pod);
            }
            Action::Release(uid) => self.phase(&uid, Phase::RELEASING),
            Action::Keep(uid) => self.phase(&uid, Phase::ENROLLED),
            Action::Continue(uid) | Action::Purge(uid) => drop(self.pods.remove(&uid)),
            Action::Adopt(_) | Action::Forget(_) => {}
        }
    }

    fn phase(&mut self, uid: &PodUid, phase: Phase) {
        self.pods.entry(Arc::clone(uid)).and_modify(|pod| pod.phase = phase);
    }

    /// Operation by operation to what is compiled from scratch: from the World that was finished last, after a failure from
    /// what is there.
    fn tables(&mut self, model: &Model, turn: &Turn) -> Result<(), String> {
        let fresh = model.world();
        let pods: Vec<KernelPod> = self.pods.values().cloned().collect();
        let node = KernelNode { agents: vec![AGENT], kubelet: turn.kubelet.map(|cgroup| (cgroup, NODE)) };
        let wanted = compile(fresh, &pods, &node);
        let mut ops = follow(&self.there, &self.finished, self.model.world(), &compile_pods(&pods, &node));
        self.seen.operations += ops.len();
        let mut after = Memory::new(Marks::DEFAULT);
        after.apply(&diff(&Tables::default(), &wanted)).map_err(|e| e.to_string())?;
        let before = self.memory.clone();
        let pods: BTreeSet<Cookie> = self.there.cookies().chain(wanted.cookies()).collect();
        let addresses: BTreeSet<IpAddr> = self.finished.addresses().chain(fresh.addresses()).collect();
        let watched: Vec<_> = (pods.iter().flat_map(|pod| addresses.iter().map(move |to| (*pod, *to))))
            .map(|(pod, to)| (pod, to, kernel(&before, pod, to), kernel(&after, pod, to)))
            .filter(|(_, _, was, will)| captured(*will) && (captured(*was) || *was == Answer::Unknown))
            .collect();
        let mut left = turn.fails;
        let there = loop {
            for op in ops.iter().take(left.unwrap_or(usize::MAX)) {
                self.memory.apply(&[*op]).map_err(|e| e.to_string())?;
                for (pod, to, was, will) in &watched {
                    let is = kernel(&self.memory, *pod, *to);
                    let closed = captured(is) || (*was == Answer::Unknown && is == Answer::Unknown);
                    ensure(closed, || format!("{pod:?} -> {to}: {was:?}, {is:?}, {will:?} after {op:?} of {ops:?}"))?;
                }
            }
            // After a failure what is there is read back.
            let there = Tables::from_ops(&self.memory.contents());
            if left.take().is_none() {
                break there;
            }
            ops = diff(&there, &wanted);
        };
        ensure(there == wanted, || format!("the tables are {there:?}, from scratch {wanted:?}"))?;
        (self.there, self.finished) = (there, self.model.world().clone());
        for known in NODES.iter().flat_map(|node| model.local_pods(node)) {
            let Some(pod) = self.pods.get(&known.pod_uid).filter(|pod| pod.phase == Phase::ENROLLED) else { continue };
            let Some(w) = fresh.workload(&known.uid).filter(|w| w.is_enrolled()) else { continue };
            for to in fresh.addresses().filter(|_| pod.addresses == w.addresses) {
                let (is, core) = (kernel(&self.memory, pod.cookie, to), reference(fresh, w, to));
                ensure(is == core, || format!("{} -> {to}: {is:?}, core says {core:?}", w.name))?;
            }
        }
        self.probed(model, turn.kubelet)
    }

    /// The kubelet's connections are probes where the object of exactly one pod that has the address names the port, and
    /// those of any other process nowhere.
    fn probed(&mut self, model: &Model, kubelet: Option<CgroupId>) -> Result<(), String> {
        let local: Vec<LocalPod> = NODES.iter().flat_map(|node| model.local_pods(node)).collect();
        let names = |uid: &PodUid, port| local.iter().any(|pod| pod.pod_uid == *uid && pod.probes.contains(&port));
        for (to, port) in model.world().addresses().flat_map(|to| [80, 8080, 443].map(|port| (to, port))) {
            let at = |(uid, pod): &(&PodUid, &KernelPod)| pod.addresses.contains(&to) && names(uid, port);
            let is_probed = self.pods.iter().filter(at).count() == 1;
            for cgroup in [20, 21, 22].map(CgroupId) {
                let (is, expected) =
                    (is_probe(&self.memory, NODE, cgroup, (to, port)), is_probed && kubelet == Some(cgroup));
                ensure(is == expected, || format!("{cgroup:?} probes {to}:{port}: {is}, the oracle {expected}"))?;
                self.seen.probes += usize::from(is);
            }
        }
        Ok(())
    }

    /// Opens what a call opens, by the newest World; the oracle says whether it may.
    fn call(&mut self, call: &Call, fresh: &World) -> Result<(), String> {
        let world = self.model.world();
        let count = world.workloads().count();
        let Some(source) = world.workloads().nth(call.from % count.max(1)) else { return Ok(()) };
        let Some(to) = world.addresses().nth(call.to % world.addresses().count().max(1)) else { return Ok(()) };
        let from = source.addresses.iter().copied().find(|a| a.is_ipv4() == to.is_ipv4());
        let Some(from) = from.filter(|from| *from != to) else { return Ok(()) };
        let to = SocketAddr::new(to, call.port);
        let judged = |pod: &Workload, basis| Judged { pod: pod.uid.clone(), basis, judged_at: world.version() };
        let arrives = |at: &Workload, to: SocketAddr, identity: Option<Identity>| {
            judged(at, Basis::Inbound { address: to.ip(), port: to.port(), peer: from, identity, named: None })
        };
        let mut opened = Vec::new();
        if !source.is_enrolled() {
            let called = world.workload_at(to.ip()).filter(|w| w.is_enrolled() && w.uid != source.uid);
            opened.extend(called.map(|w| arrives(w, to, None)));
        } else {
            let own = world.identity(source).ok_or("a caller without identity")?.clone();
            let leaves = |to: &Destination, path| {
                judged(source, Basis::Outbound { from, service: to.service.clone(), target: to.target, path })
            };
            match route::plan(world, source, to, call.roll, &mut ()) {
                Plan::Hbone { destination, hop } if hop.kind == HopKind::Waypoint => {
                    opened.push(leaves(&destination, OutboundPath::tunnel(own, &hop)));
                }
                Plan::Hbone { destination, hop } => {
                    let at = destination.workload.as_ref().ok_or("a tunnel without a workload")?;
                    opened.push(leaves(&destination, OutboundPath::tunnel(own.clone(), &hop)));
                    opened.push(arrives(at, destination.target, Some(own)));
                }
                Plan::Plain { destination } => opened.push(leaves(&destination, OutboundPath::Plain)),
                Plan::Refuse { .. } => {}
            }
        }
        // The destination's verdict decides about both ends.
        let says: Vec<_> = opened.iter().map(|judged| rejudge::check(world, judged).is_allow()).collect();
        let anew: Vec<_> = opened.iter().map(|judged| stands(fresh, judged)).collect();
        ensure(says == anew, || format!("{says:?}, the oracle {anew:?}: {opened:?}"))?;
        if says.iter().all(|allowed| *allowed) {
            self.seen.opened += opened.len();
            self.open.extend(opened.into_iter().map(|judged| Open { judged, allowed: true, ended: false }));
        }
        let old = self.open.len().saturating_sub(MOST_OPEN);
        self.open.drain(..old);
        Ok(())
    }
}

/// The oracle: may this connection stand in this World? Said once more, in the plainest way, from the World's answers alone.
fn stands(world: &World, judged: &Judged) -> bool {
    let Some(pod) = world.workload(&judged.pod) else { return false };
    let admitted = |at: &Workload, address: IpAddr, port: u16, peer: IpAddr, identity: Option<&Identity>| {
        let peer = Peer::itself(peer, identity);
        admit(world, &Request { peer, workload: at, address, port }, &mut ()).is_allow()
    };
    match &judged.basis {
        Basis::Inbound { address, port, peer, identity, .. } => {
            pod.addresses.contains(address) && admitted(pod, *address, *port, *peer, identity.as_ref())
        }
        Basis::Outbound { from, service, target, path } => {
            let wanted = match service.as_ref().map(|name| world.service(name)) {
                Some(Some(s)) if !s.waypoint_optional => s.waypoint.as_ref(),
                Some(_) => None,
                None => world.workload_at(target.ip()).and_then(|w| w.waypoint.as_ref()),
            };
            let there = world.workload_at(target.ip());
            let passes = matches!(path, OutboundPath::Tunnel { hop: HopKind::Waypoint, .. });
            pod.addresses.contains(from)
                && (passes || wanted.is_none_or(|waypoint| world.is_instance(waypoint, pod)))
                && match (path, there) {
                    (OutboundPath::Tunnel { own, .. }, _) if passes => world.identity(pod) == Some(own),
                    (OutboundPath::Tunnel { own, identities, .. }, there) => {
                        let may_answer = |w: &Workload| identities.iter().any(|i| world.identity(w) == Some(i));
                        world.identity(pod) == Some(own) && there.is_none_or(|w| may_answer(w))
                    }
                    (OutboundPath::Plain, Some(w)) if w.is_enrolled() && w.uid != pod.uid => {
                        admitted(w, target.ip(), target.port(), *from, None)
                    }
                    (OutboundPath::Plain, _) => true,
                }
        }
    }
}

/// Takes away what is not needed for the walk to fail, in halves, quarters and so on.
fn shrink(mut turns: Vec<Turn>) -> Vec<Turn> {
    let mut size = turns.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at + size <= turns.len() {
            let mut fewer = turns.clone();
            fewer.drain(at..at + size);
            match walk(&fewer) {
                Err((last, _)) => {
                    fewer.truncate(last + 1);
                    turns = fewer;
                }
                Ok(_) => at += size,
            }
        }
        size /= 2;
    }
    turns
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

#[test]
fn a_walk_of_a_thousand_changes() {
    let (steps, seed) = (setting("UNDERPASS_WALK_STEPS", 1000), setting("UNDERPASS_WALK_SEED", 7));
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(seed.to_le_bytes()).for_each(|(byte, of_seed)| *byte = of_seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let turns: Vec<Turn> = (0..steps).map(|_| some_turn().new_tree(&mut runner).expect("a turn").current()).collect();
    let seen = walk(&turns).unwrap_or_else(|(at, says)| {
        let needed = shrink(turns[..=at].to_vec());
        let again = walk(&needed).err();
        panic!("seed {seed}, change {at}: {says}\nwith {} changes: {again:#?}\n{needed:#?}", needed.len());
    });
    println!("{steps} changes, seed {seed}: {seen:?}");
    // A walk that meets nothing shows nothing.
    let some = [seen.opened, seen.passed_over, seen.operations, seen.probes, seen.skipped * 2, seen.policies * 20]
        .into_iter()
        .min();
    assert!(some >= Some(steps / 4), "{seen:?}");
    let met = [Reason::PodGone, Reason::NotAllowed, Reason::Denied, Reason::PlaintextRefused, Reason::Identity]
        .map(|reason| reason.as_str());
    assert!(steps < 1000 || met.iter().all(|reason| seen.reasons.contains(reason)), "{seen:?}");
}
