//! Judging of a worker's open connections again when its World changes: those that the change may concern, a few in each turn;
//! one that the new World denies is cancelled.
//!
//! ```text
//! exchange --> Changes --> Index: the dependencies that they concern --> Pending --slices of a worker's turn--> judged
//! ```
//! What must hold: once nothing is pending, every registered connection is one that the worker's World allows, or has been
//! cancelled; one that is registered later is checked then. A caller that waits for the worker to catch up is answered
//! only when all that was pending has been judged.

mod index;
mod pending;

use std::{
    cell::{Ref, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, oneshot};
use underpass_core::{
    ObjectName, Reason, World,
    authz::Verdict,
    rejudge::{self, Changes, Judged},
    world::Version,
};

use self::{index::Index, pending::Pending};

/// The longest time of one turn of a worker that is spent on judging again.
const SLICE: Duration = Duration::from_millis(1);
/// The number of connections that are judged between two looks at the clock.
const AT_ONCE: usize = 64;

/// The cancellation of a connection, for an end that neither peer decides: a change of policy, a pod that left, an operator.
#[derive(Debug, Default)]
pub struct Cancel {
    reason: RefCell<Option<(Reason, Option<ObjectName>)>>,
    notify: Notify,
}

impl Cancel {
    /// Cancels it; the first reason stays.
    pub fn cancel(&self, reason: Reason, policy: Option<ObjectName>) {
        self.reason.borrow_mut().get_or_insert((reason, policy));
        self.notify.notify_one();
    }

    /// The reason, and the policy that decided it, once it was cancelled.
    #[must_use]
    pub fn reason(&self) -> Option<(Reason, Option<ObjectName>)> {
        self.reason.borrow().clone()
    }

    /// Completes when it is cancelled.
    pub async fn cancelled(&self) -> (Reason, Option<ObjectName>) {
        loop {
            if let Some(reason) = self.reason() {
                return reason;
            }
            self.notify.notified().await;
        }
    }
}

/// An open connection: its verdict's inputs and its cancellation.
#[derive(Debug)]
struct Open {
    judged: Judged,
    cancel: Rc<Cancel>,
}

/// The World of one worker, and the open connections that are judged by it.
#[derive(Debug)]
pub struct Judging {
    world: RefCell<Arc<World>>,
    /// By number.
    open: RefCell<HashMap<u64, Open>>,
    queue: RefCell<Queue>,
}

/// The connections that are to be judged again, and the callers that wait for it.
#[derive(Debug, Default)]
struct Queue {
    index: Index,
    pending: Pending,
    /// Each is answered once everything up to its position in line is done.
    waiting: Vec<(u64, oneshot::Sender<Version>)>,
}

impl Queue {
    /// Queues the connections that this change may concern.
    fn changed(&mut self, old: &World, new: &World) {
        if self.index.is_empty() {
            return;
        }
        let changes = Changes::new(old, new);
        self.index.concerned(new, &changes).into_iter().for_each(|dependency| self.pending.add(dependency));
    }
}

impl Judging {
    /// Judging by this World, with nothing open.
    #[must_use]
    pub fn new(world: Arc<World>) -> Self {
        Self { world: RefCell::new(world), open: RefCell::default(), queue: RefCell::default() }
    }

    /// The World of this turn. A borrow, so that no connection keeps it: what is needed after an await is copied out before.
    #[must_use]
    pub fn world(&self) -> Ref<'_, World> {
        Ref::map(self.world.borrow(), |world| &**world)
    }

    /// True if this is its World.
    #[must_use]
    pub fn is_by(&self, world: &Arc<World>) -> bool {
        Arc::ptr_eq(&self.world.borrow(), world)
    }

    /// Replaces the World. Returns the one before.
    pub fn exchange(&self, world: Arc<World>) -> Arc<World> {
        let old = self.world.replace(Arc::clone(&world));
        self.queue.borrow_mut().changed(&old, &world);
        self.slice();
        old
    }

    /// Registers an open connection, which is judged again from now on until it is removed. Where the World has changed since its
    /// verdict it is judged at once: a change in between has not seen it.
    pub fn register(&self, id: u64, judged: Judged, cancel: Rc<Cancel>) {
        let world = self.world();
        self.queue.borrow_mut().index.add(&world, id, &judged);
        let mut open = Open { judged, cancel };
        if open.judged.judged_at != world.version() {
            judge(&world, &mut open);
        }
        self.open.borrow_mut().insert(id, open);
    }

    /// Removes a connection that has ended.
    pub fn remove(&self, id: u64) {
        if let Some(open) = self.open.borrow_mut().remove(&id) {
            self.queue.borrow_mut().index.remove(id, &open.judged);
        }
    }

    /// Cancels an open connection. False where none has this number.
    pub fn cancel(&self, id: u64, reason: Reason) -> bool {
        self.open.borrow().get(&id).inspect(|open| open.cancel.cancel(reason, None)).is_some()
    }

    /// The number of open connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// True without open connections.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True while connections are still to be judged: [`Self::slice`] is to be called again.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        !self.queue.borrow().pending.is_empty()
    }

    /// Judges for as long as one turn of the worker may take, or until nothing is pending.
    pub fn slice(&self) {
        let began = Instant::now();
        while self.is_pending() {
            self.judge_some();
            if began.elapsed() >= SLICE {
                break;
            }
        }
        self.answer();
    }

    /// Sends the version of this worker's World to `done`, once no open connection is left that it denies.
    pub fn caught_up(&self, done: oneshot::Sender<Version>) {
        self.wait(done);
        self.slice();
    }

    fn wait(&self, done: oneshot::Sender<Version>) {
        let Queue { pending, waiting, .. } = &mut *self.queue.borrow_mut();
        waiting.push((pending.last(), done));
    }

    fn judge_some(&self) {
        let (world, mut open) = (self.world(), self.open.borrow_mut());
        let Queue { index, pending, .. } = &mut *self.queue.borrow_mut();
        for id in pending.next(index, AT_ONCE) {
            if let Some(open) = open.get_mut(&id) {
                judge(&world, open);
            }
        }
    }

    fn answer(&self) {
        let version = self.world().version();
        let Queue { pending, waiting, .. } = &mut *self.queue.borrow_mut();
        for (_, done) in waiting.extract_if(.., |(position, _)| pending.is_done(*position)) {
            let _ = done.send(version); // the caller may have stopped waiting
        }
    }
}

/// Judges a connection, and cancels it where it is denied.
fn judge(world: &World, open: &mut Open) {
    match rejudge::check(world, &open.judged) {
        Verdict::Allow { .. } => open.judged.judged_at = world.version(),
        Verdict::Deny { policy, reason } => open.cancel.cancel(reason, policy),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::SocketAddr};

    use underpass_core::{
        authz::Rule,
        objects::{Batch, Object, Service},
        rejudge::Basis,
        resolve::Model,
        testing::{ambient, labels, model, name, peer_authentication, policy, service},
        world::{Action, AuthorizationPolicy, Scope},
    };

    use super::{index::testing::connections, *};

    const Z: &str = "10.0.0.9:9";
    const B: &str = "10.0.0.2:80";

    /// A connection in plaintext that was judged by the World of this turn.
    fn judged(judging: &Judging) -> Judged {
        let (peer, to): (SocketAddr, SocketAddr) = (Z.parse().unwrap(), B.parse().unwrap());
        let basis = Basis::Inbound { address: to.ip(), port: to.port(), peer: peer.ip(), identity: None, named: None };
        let pod = judging.world().pod(&name("default/b")).unwrap().uid.clone();
        Judged { pod, basis, judged_at: judging.world().version() }
    }

    fn change(judging: &Judging, model: &mut Model, object: impl Into<Object>) {
        exchange(judging, model, &[object.into()].into_iter().collect());
    }

    fn exchange(judging: &Judging, model: &mut Model, batch: &Batch) {
        model.apply(batch);
        judging.exchange(Arc::new(model.world().clone()));
    }

    /// The reason for which a connection was cancelled, and the policy.
    fn cancelled(cancel: &Cancel) -> Option<(Reason, String)> {
        cancel.reason().map(|(reason, policy)| (reason, policy.map_or_else(String::new, |p| p.to_string())))
    }

    fn of(model: &Model) -> Judging {
        Judging::new(Arc::new(model.world().clone()))
    }

    #[test]
    fn a_change_between_verdict_and_registration_is_not_missed() {
        let mut model = model([ambient("default/b", "10.0.0.2", "").into()]);
        let judging = of(&model);
        let refused = Some((Reason::PlaintextRefused, "default/strict".to_owned()));
        for (object, expect) in [
            (Object::from(peer_authentication("default/other app=other STRICT")), None),
            (peer_authentication("default/strict - STRICT").into(), refused.clone()),
        ] {
            let (cancel, judged) = (Rc::<Cancel>::default(), judged(&judging));
            change(&judging, &mut model, object);
            assert_eq!(cancelled(&cancel), None, "it is not registered yet");
            judging.register(1, judged, Rc::clone(&cancel));
            assert_eq!(cancelled(&cancel), expect);
            judging.remove(1);
        }
        // A registered one is cancelled by the exchange, and keeps the first reason.
        let mut batch = Batch::default();
        batch.remove(Object::from(peer_authentication("default/strict - STRICT")).key());
        exchange(&judging, &mut model, &batch);
        let cancel = Rc::<Cancel>::default();
        judging.register(2, judged(&judging), Rc::clone(&cancel));
        change(&judging, &mut model, policy("other/p", Action::Deny, vec![Rule::default()]));
        assert_eq!(cancelled(&cancel), None);
        change(&judging, &mut model, peer_authentication("default/strict - STRICT"));
        assert_eq!(cancelled(&cancel), refused);
        change(&judging, &mut model, policy("default/p", Action::Deny, vec![Rule::default()]));
        assert_eq!(cancelled(&cancel), refused);
        judging.remove(2);
        assert!(judging.is_empty());
    }

    #[test]
    fn an_operator_ends_an_open_connection() {
        let judging = of(&model([ambient("default/b", "10.0.0.2", "").into()]));
        let cancel = Rc::<Cancel>::default();
        judging.register(1, judged(&judging), Rc::clone(&cancel));
        assert!(!judging.cancel(2, Reason::Operator));
        assert_eq!(cancelled(&cancel), None);
        assert!(judging.cancel(1, Reason::Operator));
        assert_eq!(cancelled(&cancel), Some((Reason::Operator, String::new())));
        judging.remove(1);
        assert!(!judging.cancel(1, Reason::Operator));
    }

    /// A queue with `each` times every connection that this World allows, and their number.
    fn filed(world: &World, each: usize) -> (Queue, usize) {
        let mut queue = Queue::default();
        let mut id = 0;
        for _ in 0..each {
            for judged in connections(world, Z.parse::<SocketAddr>().unwrap().ip(), "10.96.0.1:80".parse().unwrap()) {
                id += 1;
                queue.index.add(world, id, &judged);
            }
        }
        (queue, usize::try_from(id).unwrap())
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
            let (mut queue, open) = filed(model.world(), EACH);
            assert_eq!(open, PODS * EACH * 3);
            let before = model.world().clone();
            model.apply(&[object].into_iter().collect());
            queue.changed(&before, model.world());
            let Queue { index, pending, .. } = &mut queue;
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
    fn a_caller_that_waits_is_answered_when_everything_has_been_judged() {
        let mut model = model([ambient("default/b", "10.0.0.2", "").into()]);
        let judging = of(&model);
        let open = |id| {
            let cancel = Rc::<Cancel>::default();
            judging.register(id, judged(&judging), Rc::clone(&cancel));
            cancel
        };
        let cancels: Vec<Rc<Cancel>> = (0..AT_ONCE as u64 * 3).map(open).collect();
        let all_cancelled = || cancels.iter().filter(|cancel| cancelled(cancel).is_some()).count();
        model.apply(&[peer_authentication("default/strict - STRICT").into()].into_iter().collect());
        let old = judging.world.replace(Arc::new(model.world().clone()));
        judging.queue.borrow_mut().changed(&old, model.world());
        let (done, mut answered) = oneshot::channel();
        judging.wait(done);
        for slice in 0..3 {
            judging.answer();
            assert_eq!((all_cancelled(), answered.try_recv().ok()), (AT_ONCE * slice, None));
            // One that begins meanwhile is judged by the newest, and one that ends is not missed.
            let begun = Rc::<Cancel>::default();
            let before = Judged { judged_at: old.version(), ..judged(&judging) };
            judging.register(u64::MAX, before, Rc::clone(&begun));
            assert!(cancelled(&begun).is_some());
            judging.remove(u64::MAX);
            judging.judge_some();
        }
        judging.slice();
        assert_eq!((all_cancelled(), answered.try_recv().ok()), (AT_ONCE * 3, Some(model.world().version())));
        (0..AT_ONCE as u64 * 3).for_each(|id| judging.remove(id));
        assert!(judging.is_empty() && judging.queue.borrow().index.is_empty());
    }
}
