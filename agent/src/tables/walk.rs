//! A random walk of 1,000 changes (pods, labels, namespaces, policies, services, slices, nodes), with connections opened on
//! the way, against an oracle that rebuilds everything from scratch after every one of them: the World, the tables, the
//! verdicts and the open connections are equal, and nothing opens on the way that is closed before and after.
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
    Identity, ObjectKey, Reason, World,
    admit::admit,
    authz::{Peer, Request, Verdict},
    rejudge::{self, Changes, Judged, Over, Way},
    route::{self, Plan},
    testing::walk::{Call, Step, answers, some_call, some_step},
    world::{Addressed, Batch, Change, MeshSettings, Object, Workload},
};

use super::{
    LocalPod, Tables, compile,
    compile::tests::{Answer, captured, kernel, reference},
    diff,
};
use crate::pods::{Action, Actual, Uid, Wanted, plan, wanted};

const AGENTS: [CgroupId; 1] = [CgroupId(7)];
const NODES: [&str; 2] = ["node-1", "node-2"];
/// How many connections are open at most: the oldest end.
const MOST_OPEN: usize = 60;

/// What happens between two Worlds.
#[derive(Clone, Debug)]
struct Turn {
    step: Step,
    calls: Vec<Call>,
    /// The release of pods that leave gets on, where it is true.
    drained: bool,
    /// This pod's sandbox ends, modulo how many there are.
    ends: Option<usize>,
    /// The data path fails after so many operations, and is given all of them again.
    fails: Option<usize>,
}

fn some_turn() -> impl Strategy<Value = Turn> {
    let ends = prop::option::weighted(0.1, any::<usize>());
    let fails = prop::option::weighted(0.2, 0usize..6);
    (some_step(), vec(some_call(), 0..6), any::<bool>(), ends, fails)
        .prop_map(|(step, calls, drained, ends, fails)| Turn { step, calls, drained, ends, fails })
}

/// A connection, as the worker knows it and as the oracle remembers it.
#[derive(Clone, Debug)]
struct Open {
    /// What the worker keeps.
    judged: Judged,
    /// The oracle's: every World since it was opened allows it.
    allowed: bool,
    /// The worker has ended it.
    ended: bool,
}

/// What a walk has met: one that meets nothing shows nothing.
#[derive(Debug, Default)]
struct Seen {
    opened: usize,
    passed_over: usize,
    operations: usize,
    reasons: BTreeSet<&'static str>,
    policies: usize,
}

struct Walk {
    world: World,
    /// The oracle's memory.
    objects: BTreeMap<ObjectKey, Object>,
    pods: BTreeMap<Uid, LocalPod>,
    cookies: u64,
    memory: Memory,
    there: Tables,
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
        world: World::empty(MeshSettings::default()),
        objects: BTreeMap::new(),
        pods: BTreeMap::new(),
        cookies: 0,
        memory: Memory::new(Marks::DEFAULT),
        there: Tables::default(),
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
        let batch = turn.step.batch(&self.world);
        let next = self.world.apply(&batch);
        let fresh = self.rebuilt(&batch);
        ensure(next == fresh && answers(&next) == answers(&fresh), || "the World remembers how it came about".into())?;
        self.judge_again(&next, &fresh)?;
        self.sandboxes(&fresh, turn);
        self.tables(&fresh, turn.fails)?;
        self.world = next;
        turn.calls.iter().try_for_each(|call| self.call(call, &fresh))
    }

    /// The World from scratch, from all objects at once.
    fn rebuilt(&mut self, batch: &Batch) -> World {
        for change in &batch.changes {
            match change {
                Change::Put(object) => drop(self.objects.insert(object.key(), object.clone())),
                Change::Remove(key) => drop(self.objects.remove(key)),
            }
        }
        World::empty(MeshSettings::default()).apply(&self.objects.values().cloned().collect())
    }

    /// As a worker does: only what the change may concern.
    fn judge_again(&mut self, next: &World, fresh: &World) -> Result<(), String> {
        let mut changes = Changes::new(&self.world, next);
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

    /// What `pods` would do, with sandboxes that are there at once.
    fn sandboxes(&mut self, world: &World, turn: &Turn) {
        let now = Instant::now();
        let ends = turn.ends.and_then(|n| self.pods.keys().nth(n % self.pods.len().max(1)).cloned());
        let wanted: BTreeMap<Uid, Wanted> = NODES.iter().flat_map(|node| wanted(world, node)).collect();
        for _ in 0..3 {
            let actual = self.pods.iter().map(|(uid, pod)| {
                let (addresses, ended) = (pod.addresses.clone(), ends.as_ref() == Some(uid));
                let again = if turn.drained { now } else { now + Duration::from_secs(1) };
                let actual = match pod.phase {
                    Phase::RELEASING => Actual::Releasing { addresses, ended, torn: false, again },
                    _ => Actual::Enrolled { addresses, ended },
                };
                (Arc::clone(uid), actual)
            });
            for action in plan(&wanted, &actual.collect(), false, now) {
                self.act(action, world);
            }
        }
    }

    fn act(&mut self, action: Action, world: &World) {
        match action {
            Action::Enrol(uid) => {
                let Some(w) = world.workloads().find(|w| w.uid == uid) else { return };
                self.cookies += 1;
                let pod = LocalPod {
                    cookie: Cookie(self.cookies),
                    addresses: w.addresses.clone(),
                    held: w.addresses.clone(),
                    cgroup: CgroupId(self.cookies + 1000),
                    phase: Phase::ENROLLED,
                };
                self.pods.insert(uid, pod);
            }
            Action::Release(uid) => self.phase(&uid, Phase::RELEASING),
            Action::Resume(uid) => self.phase(&uid, Phase::ENROLLED),
            Action::Continue(uid) | Action::Purge(uid) => drop(self.pods.remove(&uid)),
            Action::Adopt(_) | Action::Forget(_) => {}
        }
    }

    fn phase(&mut self, uid: &Uid, phase: Phase) {
        self.pods.entry(Arc::clone(uid)).and_modify(|pod| pod.phase = phase);
    }

    /// Operation by operation to what is compiled from scratch.
    fn tables(&mut self, fresh: &World, fails: Option<usize>) -> Result<(), String> {
        let local: Vec<LocalPod> = self.pods.values().cloned().collect();
        let wanted = compile(fresh, &local, &AGENTS);
        let mut after = Memory::new(Marks::DEFAULT);
        after.apply(&diff(&Tables::default(), &wanted)).map_err(|e| e.to_string())?;
        let before = self.memory.clone();
        let pods: BTreeSet<Cookie> = self.there.cookies().chain(wanted.cookies()).collect();
        let addresses: BTreeSet<IpAddr> = self.world.addresses().chain(fresh.addresses()).collect();
        let watched: Vec<_> = (pods.iter().flat_map(|pod| addresses.iter().map(move |to| (*pod, *to))))
            .map(|(pod, to)| (pod, to, kernel(&before, pod, to), kernel(&after, pod, to)))
            .filter(|(_, _, was, will)| captured(*will) && (captured(*was) || *was == Answer::Unknown))
            .collect();
        let mut there = self.there.clone();
        let mut left = fails;
        loop {
            let ops = diff(&there, &wanted);
            for op in ops.iter().take(left.unwrap_or(usize::MAX)) {
                self.memory.apply(&[*op]).map_err(|e| e.to_string())?;
                self.seen.operations += 1;
                for (pod, to, was, will) in &watched {
                    let is = kernel(&self.memory, *pod, *to);
                    let closed = captured(is) || (*was == Answer::Unknown && is == Answer::Unknown);
                    ensure(closed, || format!("{pod:?} -> {to}: {was:?}, {is:?}, {will:?} after {op:?} of {ops:?}"))?;
                }
            }
            // After a failure what is there is read back.
            there = Tables::from_ops(&self.memory.contents());
            if left.take().is_none() {
                break;
            }
        }
        ensure(there == wanted, || format!("the tables are {there:?}, from scratch {wanted:?}"))?;
        self.there = there;
        for w in fresh.workloads().filter(|w| fresh.is_enrolled(w)) {
            let Some(pod) = self.pods.get(&w.uid).filter(|pod| pod.phase == Phase::ENROLLED) else { continue };
            for to in fresh.addresses().filter(|_| pod.addresses == w.addresses) {
                let (is, core) = (kernel(&self.memory, pod.cookie, to), reference(fresh, w, to));
                ensure(is == core, || format!("{} -> {to}: {is:?}, core says {core:?}", w.name))?;
            }
        }
        Ok(())
    }

    /// Opens what a call opens, by the newest World; the oracle says whether it may.
    fn call(&mut self, call: &Call, fresh: &World) -> Result<(), String> {
        let world = &self.world;
        let count = world.workloads().count();
        let Some(source) = world.workloads().nth(call.from % count.max(1)) else { return Ok(()) };
        let Some(to) = world.addresses().nth(call.to % world.addresses().count().max(1)) else { return Ok(()) };
        let from = source.addresses.iter().copied().find(|a| a.is_ipv4() == to.is_ipv4());
        let Some(from) = from.filter(|from| *from != to) else { return Ok(()) };
        let to = SocketAddr::new(to, call.port);
        let judged = |pod: &Workload, way| Judged { pod: pod.name.clone(), way, judged_at: world.version() };
        let arrives = |at: &Workload, to: SocketAddr, identity: Option<Identity>| {
            judged(at, Way::Inbound { address: to.ip(), port: to.port(), peer: from, identity })
        };
        let mut opened = Vec::new();
        if !world.is_enrolled(source) {
            let called = world.workload_at(to.ip()).filter(|w| world.is_enrolled(w) && w.name != source.name);
            opened.extend(called.map(|w| arrives(w, to, None)));
        } else {
            let service = match world.addressed(to.ip()) {
                Addressed::Service(s) => Some(s.name.clone()),
                _ => None,
            };
            let own = source.identity(&world.settings().trust_domain);
            let leaves = |target, over| judged(source, Way::Outbound { from, service: service.clone(), target, over });
            match route::plan(world, source, to, call.roll, &mut ()) {
                Plan::Hbone { hop, identity, .. } => {
                    let at = hop.workload.as_ref().ok_or("a tunnel to nobody")?;
                    opened.push(leaves(hop.target, Over::Tunnel { own: own.clone(), peer: identity }));
                    opened.push(arrives(at, hop.target, Some(own)));
                }
                Plan::Plain { hop } => opened.push(leaves(hop.target, Over::Plain)),
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
        let peer = Peer { address: peer, identity };
        admit(world, &Request { peer, workload: at, address, port }, &mut ()).is_allow()
    };
    match &judged.way {
        Way::Inbound { address, port, peer, identity } => {
            pod.addresses.contains(address) && admitted(pod, *address, *port, *peer, identity.as_ref())
        }
        Way::Outbound { from, service, target, over } => {
            let waypoint = |labels: &underpass_core::world::Labels| labels.get("istio.io/use-waypoint").cloned();
            let wanted = match service.as_ref().map(|name| world.service(name)) {
                Some(Some(s)) if !s.waypoint_optional => {
                    waypoint(&s.labels).or_else(|| waypoint(&world.namespace(s.name.namespace())?.labels))
                }
                Some(_) => None,
                None => world.workload_at(target.ip()).and_then(|w| waypoint(&w.labels)),
            };
            let there = world.workload_at(target.ip());
            let is = |w: &Workload, identity: &Identity| w.identity(&world.settings().trust_domain) == *identity;
            pod.addresses.contains(from)
                && wanted.is_none_or(|name| &*name == "none")
                && match (over, there) {
                    (Over::Tunnel { own, peer }, there) => is(pod, own) && there.is_none_or(|w| is(w, peer)),
                    (Over::Plain, Some(w)) if world.is_enrolled(w) && w.name != pod.name => {
                        admitted(w, target.ip(), target.port(), *from, None)
                    }
                    (Over::Plain, _) => true,
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
    let some = [seen.opened, seen.passed_over, seen.operations, seen.policies * 20].into_iter().min();
    assert!(some >= Some(steps / 4), "{seen:?}");
    let met = [Reason::PodGone, Reason::NotAllowed, Reason::Denied, Reason::PlaintextRefused, Reason::Identity]
        .map(|reason| reason.as_str());
    assert!(steps < 1000 || met.iter().all(|reason| seen.reasons.contains(reason)), "{seen:?}");
}
