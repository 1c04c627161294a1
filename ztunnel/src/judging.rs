//! Open connections after a change of World: those that it may concern are judged again, and end where it denies them. Its
//! own file because everything about the race of a change with a connection being opened is here and in
//! [`Track::open`](crate::track::Track::open).
//!
//! ```text
//! exchange_world --> what differs --> Index: the groups that it concerns --> Pending --slices of a worker's turn--> judged
//! ```
//! What must hold: once nothing is pending, every connection that is registered is one that the worker's World allows, or has
//! been told to end; one that is registered later is checked then. Whoever waits for the worker to catch up is answered only
//! when all that was pending has been judged.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use underpass_core::{
    World,
    authz::Verdict,
    rejudge::{self, Changes},
    world::Version,
};

use crate::{
    index::Index,
    pending::Pending,
    track::Live,
    worker::{Worker, trust_domains},
};

/// How long connections are judged again in one turn of a worker, before others have theirs.
const SLICE: Duration = Duration::from_millis(1);
/// So many are judged between two looks at the clock.
const AT_ONCE: usize = 64;

/// Which connections of a worker are judged again, and who waits until they have been.
#[derive(Debug, Default)]
pub(crate) struct Judging {
    pub(crate) index: Index,
    pending: Pending,
    /// Each is told once everything up to its place is done.
    waiting: Vec<(u64, oneshot::Sender<Version>)>,
}

impl Judging {
    /// Whatever this change may concern is to be judged again.
    fn changed(&mut self, old: &World, new: &World) {
        if self.index.is_empty() {
            return;
        }
        let changes = Changes::new(old, new);
        self.index.concerned(new, &changes).into_iter().for_each(|group| self.pending.add(group));
    }

    fn wait(&mut self, done: oneshot::Sender<Version>) {
        self.waiting.push((self.pending.last(), done));
    }
}

impl Worker {
    /// From here on this worker goes by `world`.
    pub(crate) fn exchange_world(&self, world: Arc<World>) {
        let old = self.world.replace(Arc::clone(&world));
        if old.settings() != world.settings() {
            self.trust_domains.replace(trust_domains(world.settings()));
        }
        self.judging.borrow_mut().changed(&old, &world);
        self.judge_slice();
    }

    /// Some connections are still to be judged: [`Self::judge_slice`] is to be called again.
    pub(crate) fn is_judging(&self) -> bool {
        !self.judging.borrow().pending.is_empty()
    }

    /// Judges for as long as one turn of the worker may take, or until nothing is pending.
    pub(crate) fn judge_slice(&self) {
        let began = Instant::now();
        while self.is_judging() {
            self.judge_some();
            if began.elapsed() >= SLICE {
                break;
            }
        }
        self.answer();
    }

    /// Tells `done` the World that this worker goes by, once no open connection is left that it denies.
    pub(crate) fn caught_up(&self, done: oneshot::Sender<Version>) {
        self.judging.borrow_mut().wait(done);
        self.judge_slice();
    }

    fn judge_some(&self) {
        let (world, mut live) = (self.world(), self.live.borrow_mut());
        let Judging { index, pending, .. } = &mut *self.judging.borrow_mut();
        for id in pending.next(index, AT_ONCE) {
            if let Some(live) = live.get_mut(&id) {
                judge(&world, live);
            }
        }
    }

    fn answer(&self) {
        let version = self.world().version();
        let Judging { pending, waiting, .. } = &mut *self.judging.borrow_mut();
        for (_, done) in waiting.extract_if(.., |(place, _)| pending.is_done(*place)) {
            let _ = done.send(version); // whoever asked may have stopped waiting
        }
    }

    /// Judges a connection that has just been registered, where the World has changed since it was judged.
    pub(crate) fn judge_again(&self, id: u64) {
        let world = self.world();
        let mut live = self.live.borrow_mut();
        let changed = |live: &&mut Live| live.judged.as_ref().is_some_and(|judged| judged.judged_at != world.version());
        if let Some(live) = live.get_mut(&id).filter(changed) {
            judge(&world, live);
        }
    }
}

/// One that is denied ends.
fn judge(world: &World, live: &mut Live) {
    let Some(judged) = &mut live.judged else { return };
    match rejudge::check(world, judged) {
        Verdict::Allow { .. } => judged.judged_at = world.version(),
        Verdict::Deny { policy, reason } => live.cancel.cancel(reason, policy),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::SocketAddr, rc::Rc};

    use underpass_core::{
        Reason,
        authz::Rule,
        connection::Direction,
        objects::{Batch, Object, Service},
        rejudge::{Judged, Way},
        resolve::Model,
        testing::{ambient, labels, model, name, peer_authentication, policy, service},
        world::{Action, AuthorizationPolicy, Scope},
    };

    use super::*;
    use crate::{
        index::testing::connections,
        track::Track,
        worker::testing::{served, worker},
    };

    const Z: &str = "10.0.0.9:9";
    const B: &str = "10.0.0.2:80";

    /// A connection in plaintext that was judged by the World of this turn.
    fn judged(worker: &Worker) -> Judged {
        let (peer, to): (SocketAddr, SocketAddr) = (Z.parse().unwrap(), B.parse().unwrap());
        let way = Way::Inbound { address: to.ip(), port: to.port(), peer: peer.ip(), identity: None };
        let pod = worker.world().pod(&name("default/b")).unwrap().uid.clone();
        Judged { pod, way, judged_at: worker.world().version() }
    }

    fn begin(worker: &Rc<Worker>) -> Track {
        Track::begin(worker, &served(worker), Direction::Inbound, Z.parse().unwrap(), B.parse().unwrap())
    }

    fn change(worker: &Worker, model: &mut Model, object: impl Into<Object>) {
        let mut batch = Batch::default();
        batch.put(object);
        exchange(worker, model, &batch);
    }

    fn exchange(worker: &Worker, model: &mut Model, batch: &Batch) {
        model.apply(batch);
        worker.exchange_world(Arc::new(model.world().clone()));
    }

    /// Why a connection was told to end, in plain words.
    fn told(track: &Track) -> Option<(Reason, String)> {
        track.cancel.told().map(|(reason, policy)| (reason, policy.map_or_else(String::new, |p| p.to_string())))
    }

    #[test]
    fn a_change_between_verdict_and_registration_is_not_missed() {
        let mut model = model([ambient("default/b", "10.0.0.2", "").into()]);
        let worker = worker(model.world().clone());
        let refused = Some((Reason::PlaintextRefused, "default/strict".to_owned()));
        for (object, expect) in [
            (Object::from(peer_authentication("default/other app=other STRICT")), None),
            (peer_authentication("default/strict - STRICT").into(), refused.clone()),
        ] {
            let (track, judged) = (begin(&worker), judged(&worker));
            change(&worker, &mut model, object);
            assert_eq!(told(&track), None, "it is not registered yet");
            track.open(judged);
            assert_eq!(told(&track), expect);
            track.finish(Reason::Finished);
        }
        // One that is registered is told by the exchange, and keeps the first reason.
        let mut batch = Batch::default();
        batch.remove(Object::from(peer_authentication("default/strict - STRICT")).key());
        exchange(&worker, &mut model, &batch);
        let track = begin(&worker);
        track.open(judged(&worker));
        change(&worker, &mut model, policy("other/p", Action::Deny, vec![Rule::default()]));
        assert_eq!(told(&track), None);
        change(&worker, &mut model, peer_authentication("default/strict - STRICT"));
        assert_eq!(told(&track), refused);
        change(&worker, &mut model, policy("default/p", Action::Deny, vec![Rule::default()]));
        assert_eq!(told(&track), refused);
        track.finish(Reason::PlaintextRefused);
        assert!(worker.live.borrow().is_empty());
    }

    /// So many times every connection that this World lets happen, and how many those are.
    fn filed(world: &World, each: usize) -> (Judging, usize) {
        let mut judging = Judging::default();
        let mut id = 0;
        for _ in 0..each {
            for judged in connections(world, Z.parse::<SocketAddr>().unwrap().ip(), "10.96.0.1:80".parse().unwrap()) {
                id += 1;
                judging.index.add(world, id, &judged);
            }
        }
        (judging, usize::try_from(id).unwrap())
    }

    #[test]
    fn a_change_visits_the_connections_that_it_concerns_alone() {
        const PODS: usize = 40;
        const EACH: usize = 84; // 10,080: each is called with an identity and without, and calls itself
        let space = |n: usize| if n < 30 { "default" } else { "back" };
        let pod = |n: usize| ambient(&format!("{}/p{n}", space(n)), &format!("10.0.1.{n}"), "");
        let objects = (0..PODS).map(|n| Object::from(pod(n)));
        let start = model(objects.chain([service("default/s app=p0 10.96.0.1 80").into()]));
        let visited = |object: Object| {
            let mut model = start.clone();
            let (mut judging, open) = filed(model.world(), EACH);
            assert_eq!(open, PODS * EACH * 3);
            let before = model.world().clone();
            model.apply(&[object].into_iter().collect());
            judging.changed(&before, model.world());
            let Judging { index, pending, .. } = &mut judging;
            let mut visited = BTreeSet::new();
            while !pending.is_empty() {
                visited.extend(pending.next(index, AT_ONCE));
            }
            visited.len()
        };
        let deny = |name: &str| policy(name, Action::Deny, Vec::new());
        let selects = |policy: AuthorizationPolicy, who: &str| {
            let scope = Scope::Selector(labels(who));
            Object::from(AuthorizationPolicy { scope, ..policy })
        };
        let optional = Service { waypoint_optional: true, ..service("default/s app=p0 10.96.0.1 80") };
        for (what, object, expect) in [
            ("a pod elsewhere", ambient("other/new", "10.0.2.1", "").into(), 0),
            ("a service elsewhere", service("other/s app=none 10.96.0.2 80").into(), 0),
            ("a policy elsewhere", deny("other/p").into(), 0),
            ("STRICT elsewhere", peer_authentication("other/s - STRICT").into(), 0),
            ("a policy of their namespace that selects others", selects(deny("default/p"), "app=none"), 0),
            // As source and destination; p0 as the target of all as well.
            ("a pod", ambient("default/p1", "10.0.1.1", "version=2").into(), 3 * EACH),
            ("the pod that all call", ambient("default/p0", "10.0.1.0", "version=2").into(), (2 + PODS) * EACH),
            ("the service that all call", optional.into(), PODS * EACH),
            ("STRICT", peer_authentication("back/s - STRICT").into(), 10 * 2 * EACH),
            ("a policy", deny("back/p").into(), 10 * 2 * EACH),
            ("a policy that selects one", selects(deny("back/p"), "app=p31"), 3 * EACH),
            ("one of the mesh", selects(deny("istio-system/p"), "app=p31"), 3 * EACH),
            // And what p0 calls, itself: plain.
            ("the mesh", deny("istio-system/p").into(), (PODS * 2 + 1) * EACH),
        ] {
            assert_eq!(visited(object), expect, "{what}");
        }
    }

    #[test]
    fn who_waits_is_answered_when_everything_has_been_judged() {
        let mut model = model([ambient("default/b", "10.0.0.2", "").into()]);
        let worker = worker(model.world().clone());
        let open = |_| {
            let track = begin(&worker);
            track.open(judged(&worker));
            track
        };
        let tracks: Vec<Track> = (0..AT_ONCE * 3).map(open).collect();
        let all_told = || tracks.iter().filter(|track| told(track).is_some()).count();
        model.apply(&[peer_authentication("default/strict - STRICT").into()].into_iter().collect());
        let old = worker.world.replace(Arc::new(model.world().clone()));
        worker.judging.borrow_mut().changed(&old, model.world());
        let (done, mut answered) = oneshot::channel();
        worker.judging.borrow_mut().wait(done);
        for slice in 0..3 {
            worker.answer();
            assert_eq!((all_told(), answered.try_recv().ok()), (AT_ONCE * slice, None));
            // One that begins meanwhile is judged by the newest, and one that ends is not missed.
            let begun = begin(&worker);
            let before = Judged { judged_at: old.version(), ..judged(&worker) };
            begun.open(before);
            assert!(told(&begun).is_some());
            begun.finish(Reason::PlaintextRefused);
            worker.judge_some();
        }
        worker.judge_slice();
        assert_eq!((all_told(), answered.try_recv().ok()), (AT_ONCE * 3, Some(model.world().version())));
        tracks.into_iter().for_each(|track| track.finish(Reason::PlaintextRefused));
        assert!(worker.judging.borrow().index.is_empty());
    }
}
