//! A worker: one thread, one runtime, and everything that its pods' connections need, shared with nobody. World and
//! certificates are exchanged between turns; a connection that began under one World is judged again under the next.
//!
//! A panic in the task of a connection or tunnel ends that one. A panic of the worker's own loop ends the process.

use std::{
    cell::{Cell, Ref, RefCell},
    collections::HashMap,
    fmt,
    hash::{BuildHasher as _, RandomState},
    io,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, oneshot},
    task::{JoinHandle, LocalSet},
};
use underpass_core::{
    Connection, ObjectName, Reason, World,
    world::{Account, Uid, Version, Workload},
};
use underpass_net::{
    budget::Held,
    buffer::Buffers,
    netns::Netns,
    tls::Configs,
    tunnel::{Charge, Memory, Meter, Tunnel, TunnelEnd},
};
use underpass_proxy::{
    credentials::{CredentialStore, Credentials},
    drain::{Group, Guard},
    judging::{Cancel, Judging},
    peers::UnauthenticatedPeers,
    pool::Pool,
};
use underpass_telemetry::access_log::Writer;

use crate::{
    Accepting, Budgets, Inputs, Lent, Pod, PodBudget, SOCKETS_PER_CONNECTION, SOCKETS_PER_POD, Settings, StartError,
    accept::{Seldom, accept},
    connections::{Numbers, OpenConnections},
    inbound,
    metrics::{Metrics, Recorder},
    outbound,
    refusals::Refusals,
};

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Message {
    Add(Box<Pod>),
    Rename {
        cookie: u64,
        account: Account,
    },
    Remove {
        name: ObjectName,
        cookie: u64,
        done: oneshot::Sender<()>,
    },
    CatchUp(oneshot::Sender<Version>),
    /// The open connections after this number, a few.
    Page {
        after: u64,
        answer: oneshot::Sender<Vec<Connection>>,
    },
    /// Answered with true where the connection is open.
    Close {
        id: u64,
        closed: oneshot::Sender<bool>,
    },
    Drain(Accepting, oneshot::Sender<()>),
    Lend(oneshot::Sender<Vec<io::Result<Lent>>>),
    #[cfg(any(test, feature = "testing"))]
    Idle(Box<crate::testing::Idle>, oneshot::Sender<()>),
}

/// How often ended tunnels are dropped from the pool.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// A pod that is being served.
pub(crate) struct Served {
    pub(crate) name: ObjectName,
    pub(crate) uid: Uid,
    /// As its node knows them, as is its account.
    addresses: Vec<IpAddr>,
    account: RefCell<Account>,
    pub(crate) cookie: u64,
    pub(crate) netns: Arc<Netns>,
    pub(crate) budget: Arc<PodBudget>,
    /// What waits in its tunnels.
    pub(crate) memory: Memory,
    /// Sockets on 15008 whose peers have not proved who they are.
    pub(crate) unauthenticated: UnauthenticatedPeers,
    /// What the pod itself counts for.
    _place: Held,
    /// Tunnels of other nodes that end here.
    pub(crate) tunnels: Group<Tunnel>,
    /// Its connections, open or about to be.
    pub(crate) connections: Group<Rc<Cancel>>,
    /// What was accepted for it, until it has ended.
    serving: Group<()>,
    /// Its listeners, while they wait for room to accept.
    pub(crate) waiting: Group<()>,
    /// It is not served any more, and why.
    pub(crate) closed: RefCell<Option<Reason>>,
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

impl Served {
    pub(crate) fn new(
        (name, uid): (ObjectName, Uid),
        (addresses, account): (Vec<IpAddr>, Account),
        cookie: u64,
        netns: Arc<Netns>,
        budget: Arc<PodBudget>,
        settings: &Settings,
    ) -> Self {
        Self {
            name,
            uid,
            addresses,
            account: RefCell::new(account),
            cookie,
            netns,
            memory: Memory::new(Arc::clone(&budget.memory)),
            unauthenticated: UnauthenticatedPeers::new(settings.most_unauthenticated),
            _place: budget.sockets.hold(SOCKETS_PER_POD),
            budget,
            tunnels: Group::default(),
            connections: Group::default(),
            serving: Group::default(),
            waiting: Group::default(),
            closed: RefCell::default(),
        }
    }

    /// What the World says of it.
    ///
    /// # Errors
    /// What it says is about another pod, or nothing: then nothing is to be judged by it.
    pub(crate) fn workload<'a>(&self, world: &'a World) -> Result<&'a Arc<Workload>, Reason> {
        let is_it = |workload: &&Arc<Workload>| workload.is_of(&self.addresses, &self.account.borrow());
        world.workload(&self.uid).filter(is_it).ok_or(Reason::UnknownPod)
    }

    /// For where a stream of another node leads, which takes one place; nothing where there is none. A listener that waits
    /// for two is before it: otherwise streams would take each that becomes free.
    pub(crate) fn place(&self) -> Option<Held> {
        let before = if self.waiting.is_empty() { 0 } else { SOCKETS_PER_CONNECTION };
        self.budget.sockets.take(before)
    }

    /// For one more tunnel of this pod, whose socket is there already.
    pub(crate) fn charge(&self) -> Charge {
        Charge { memory: self.memory.clone(), place: self.budget.sockets.hold(1) }
    }
}

/// A connection or tunnel that is being served.
#[derive(Debug)]
pub(crate) struct Serving(#[allow(dead_code, reason = "guards")] [Guard<()>; 2]);

pub(crate) struct Home {
    pub(crate) served: Rc<Served>,
    /// Outbound, inbound; none once another process accepts.
    pub(crate) listeners: Option<[Rc<TcpListener>; 2]>,
    pub(crate) accepting: [JoinHandle<()>; 2],
}

/// What the workers of a node have in common.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) metrics: Arc<Metrics>,
}

/// One worker's state, borrowed only between awaits.
pub(crate) struct Worker {
    pub(crate) settings: Settings,
    pub(crate) buffers: Buffers,
    pub(crate) pool: Pool,
    pub(crate) connections: OpenConnections,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) recorder: Recorder,
    /// Its World, and its open connections, which are judged by it.
    pub(crate) judging: Judging,
    pub(crate) credentials: CredentialStore,
    log: RefCell<Writer>,
    logged: Notify,
    pub(crate) homes: RefCell<HashMap<u64, Home>>,
    /// It is about to end: what begins now ends as soon as it may.
    pub(crate) draining: Cell<bool>,
    /// Accepting paused for want of descriptors or memory of the process.
    pub(crate) exhausted: Seldom,
    /// What was accepted for its pods, those that are gone among them, until it has ended.
    serving: Group<()>,
    random: RandomState,
    rolls: Cell<u64>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

impl Worker {
    /// Starts a worker's thread.
    pub(crate) fn spawn(
        index: usize,
        numbers: Numbers,
        settings: Settings,
        inputs: Inputs,
        shared: Shared,
    ) -> Result<(mpsc::UnboundedSender<Message>, std::thread::JoinHandle<()>), StartError> {
        let configs = Configs::new(settings.tls.clone()).map_err(StartError::Tls)?;
        let log = inputs.access_log.handle();
        let (sender, messages) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let run = std::panic::AssertUnwindSafe(|| {
                let worker = Rc::new(Self::new(settings, numbers, &inputs, shared, configs, log));
                LocalSet::new().block_on(&runtime, worker.run(messages, inputs));
            });
            if std::panic::catch_unwind(run).is_err() {
                // Half a worker serves nobody: the next process adopts what is pinned.
                std::process::abort();
            }
        });
        Ok((sender, thread.map_err(StartError::Thread)?))
    }

    pub(crate) fn new(
        mut settings: Settings,
        numbers: Numbers,
        inputs: &Inputs,
        Shared { refusals, budgets, metrics }: Shared,
        configs: Configs,
        log: Writer,
    ) -> Self {
        let world = Arc::clone(&inputs.world.borrow());
        let credentials = CredentialStore::new(Arc::clone(&inputs.credentials.borrow()), configs, world.settings());
        settings.tunnel.meter = Meter::new(&inputs.metrics);
        Self {
            buffers: Buffers::default(),
            pool: Pool::default(),
            connections: OpenConnections::new(numbers),
            refusals,
            budgets,
            recorder: Recorder::new(&metrics, &inputs.metrics),
            judging: Judging::new(world),
            credentials,
            log: RefCell::new(log),
            logged: Notify::new(),
            homes: RefCell::default(),
            draining: Cell::new(false),
            exhausted: Seldom::default(),
            serving: Group::default(),
            random: RandomState::new(),
            rolls: Cell::new(0),
            settings,
        }
    }

    async fn run(self: Rc<Self>, mut messages: mpsc::UnboundedReceiver<Message>, mut inputs: Inputs) {
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(Message::Add(pod)) => self.add(*pod),
                    Some(Message::Rename { cookie, account }) => self.rename(cookie, account),
                    Some(Message::Remove { name, cookie, done }) => self.remove(name, cookie, done),
                    Some(Message::CatchUp(done)) => {
                        self.exchange(&mut inputs);
                        self.judging.caught_up(done);
                    }
                    Some(Message::Page { after, answer }) => {
                        let _ = answer.send(self.connections.page(after, Instant::now())); // as below
                    }
                    Some(Message::Close { id, closed }) => {
                        let _ = closed.send(self.judging.cancel(id, Reason::Operator)); // whoever asked may have stopped waiting
                    }
                    Some(Message::Drain(accepting, done)) => self.drain(accepting, done),
                    Some(Message::Lend(answer)) => drop(answer.send(self.lend())),
                    #[cfg(any(test, feature = "testing"))]
                    Some(Message::Idle(idle, opened)) => {
                        idle.open(&self);
                        let _ = opened.send(()); // as above
                    }
                    None => return self.shut_down().await,
                },
                Ok(()) = inputs.world.changed() => self.exchange(&mut inputs),
                Ok(()) = inputs.credentials.changed() => self.exchange(&mut inputs),
                () = tokio::task::yield_now(), if self.judging.is_pending() => self.judging.slice(),
                () = self.logged.notified() => {
                    tokio::task::yield_now().await;
                    self.log.borrow_mut().flush();
                }
                _ = sweep.tick() => self.pool.sweep(),
            }
        }
    }

    /// The World of this turn.
    pub(crate) fn world(&self) -> Ref<'_, World> {
        self.judging.world()
    }

    /// A random number, for choices among equals. Not for secrets.
    pub(crate) fn roll(&self) -> u64 {
        let n = self.rolls.get().wrapping_add(1);
        self.rolls.set(n);
        self.random.hash_one(n)
    }

    /// Writes a connection down. Lines leave together, at the end of the turn.
    pub(crate) fn log(&self, record: &Connection) {
        self.log.borrow_mut().record(record);
        self.logged.notify_one();
    }

    /// A connection or tunnel of `pod` has been accepted. Held until it has ended: whoever waits for that waits for those
    /// as well that nobody has looked at yet.
    pub(crate) fn begins(&self, pod: &Served) -> Serving {
        Serving([self.serving.enter(()), pod.serving.enter(())])
    }

    /// From here on this worker goes by what is published now.
    fn exchange(&self, inputs: &mut Inputs) {
        let credentials = Arc::clone(&inputs.credentials.borrow_and_update());
        if !self.credentials.is(&credentials) {
            self.exchange_credentials(&credentials);
        }
        let world = Arc::clone(&inputs.world.borrow_and_update());
        if !self.judging.is_by(&world) {
            self.exchange_world(world);
        }
    }

    pub(crate) fn exchange_world(&self, world: Arc<World>) {
        let old = self.judging.exchange(world);
        if old.settings() != self.world().settings() {
            self.credentials.accept(self.world().settings());
        }
    }

    fn exchange_credentials(&self, credentials: &Arc<Credentials>) {
        let change = self.credentials.exchange(credentials);
        for gone in &change.gone {
            self.pool.end(|key| key.source == *gone, &TunnelEnd::Closed);
        }
        if let Some(roots) = change.roots {
            let now = SystemTime::now();
            self.pool.check_again(&roots, now);
            for home in self.homes.borrow().values() {
                home.served.tunnels.each(|tunnel| tunnel.check_again(&roots, now));
            }
        }
    }

    fn add(self: &Rc<Self>, pod: Pod) {
        if self.homes.borrow().contains_key(&pod.cookie) {
            // Its owner has listeners for one pod twice: the newer ones serve, and nothing of the others is left behind.
            tracing::error!(pod = %pod.name, "served already: begins anew");
            drop(self.close_home(pod.cookie, Reason::PodGone, &TunnelEnd::Closed)); // nobody waits for its end
        }
        let budget = self.budgets.add(pod.cookie, &pod.name);
        let (names, local) = ((pod.name, pod.uid), (pod.addresses, pod.account));
        let served = Rc::new(Served::new(names, local, pod.cookie, pod.netns, budget, &self.settings));
        let listeners = (TcpListener::from_std(pod.outbound), TcpListener::from_std(pod.inbound));
        let (Ok(outbound), Ok(inbound)) = listeners else {
            // Out of descriptors. The pod's listeners are closed by this, and its connections refused, not let past.
            tracing::error!(pod = %served.name, "cannot serve: listeners not registered");
            return;
        };
        tracing::debug!(pod = %served.name, "serving");
        let listeners = [Rc::new(outbound), Rc::new(inbound)];
        let [outbound, inbound] = listeners.clone();
        let accepting = [
            tokio::task::spawn_local(accept(Rc::clone(self), Rc::clone(&served), outbound, outbound::serve)),
            tokio::task::spawn_local(accept(Rc::clone(self), Rc::clone(&served), inbound, inbound::serve)),
        ];
        self.homes.borrow_mut().insert(served.cookie, Home { served, listeners: Some(listeners), accepting });
    }

    fn rename(&self, cookie: u64, account: Account) {
        let served = self.homes.borrow().get(&cookie).map(|home| Rc::clone(&home.served));
        let Some(served) = served else { return };
        *served.account.borrow_mut() = account;
    }

    fn remove(self: &Rc<Self>, name: ObjectName, cookie: u64, done: oneshot::Sender<()>) {
        let closing = self.close_home(cookie, Reason::PodGone, &TunnelEnd::Closed);
        tokio::task::spawn_local(async move {
            closing.await;
            tracing::debug!(pod = %name, "no longer serving");
            let _ = done.send(()); // whoever asked may have stopped waiting
        });
    }

    /// Ends everything of a pod now. What it returns completes when nothing of it is open: not of another one that has the
    /// same namespace later.
    fn close_home(&self, cookie: u64, reason: Reason, end: &TunnelEnd) -> impl Future<Output = ()> + use<> {
        let home = self.homes.borrow_mut().remove(&cookie);
        self.budgets.remove(cookie);
        let mut tunnels = self.pool.end(|key| key.netns == cookie, end);
        if let Some(Home { served, accepting, .. }) = &home {
            *served.closed.borrow_mut() = Some(reason.clone());
            accepting.iter().for_each(JoinHandle::abort);
            served.tunnels.each(|tunnel| {
                tunnel.end(end.clone());
                tunnels.push(tunnel.clone());
            });
            served.connections.each(|connection| connection.cancel(reason.clone(), None));
        }
        async move {
            for tunnel in tunnels {
                tunnel.closed().await;
            }
            let Some(Home { served, accepting, .. }) = home else { return };
            for accepting in accepting {
                let _ = accepting.await; // aborted: the listener is closed
            }
            served.serving.emptied().await;
        }
    }

    /// Completes when nothing is open, nor accepted and about to be.
    pub(crate) async fn all_closed(&self) {
        self.serving.emptied().await;
    }

    async fn shut_down(&self) {
        let cookies: Vec<u64> = self.homes.borrow().keys().copied().collect();
        let homes = cookies.into_iter().map(|cookie| self.close_home(cookie, Reason::Drain, &TunnelEnd::Drained));
        for closing in homes.collect::<Vec<_>>() {
            closing.await;
        }
        self.all_closed().await;
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::collections::BTreeMap;

    use tokio::sync::watch;
    use underpass_core::{TrustDomain, testing::name};
    use underpass_identity::Authority;
    use underpass_telemetry::access_log::{self, AccessLog, Target};

    use super::*;

    /// A worker that nobody runs, by this World.
    pub(crate) fn worker(world: World) -> Rc<Worker> {
        let folder = tempfile::tempdir().expect("folder");
        let authority = Authority::open(&folder.path().join("ca"), &TrustDomain::default(), SystemTime::now());
        let roots = Arc::new(authority.expect("CA").roots(1).expect("roots"));
        let log = access_log::Settings { target: Target::File(folder.path().join("log")), ..Default::default() };
        let inputs = Inputs {
            world: watch::channel(Arc::new(world)).1,
            credentials: watch::channel(Arc::new(Credentials { roots, own: BTreeMap::new() })).1,
            access_log: Arc::new(AccessLog::start(&log).expect("log")),
            metrics: Default::default(),
        };
        let settings = Settings::new(0);
        let configs = Configs::new(settings.tls.clone()).expect("configs");
        let log = inputs.access_log.handle();
        let metrics = Metrics::new(&settings.metrics, &inputs.metrics, inputs.world.clone());
        let shared = Shared { refusals: Arc::default(), budgets: Budgets::new(settings.limits), metrics };
        Rc::new(Worker::new(settings, Numbers::new(0, 1), &inputs, shared, configs, log))
    }

    /// The pod `default/b`, whose cookie is 1.
    pub(crate) fn served(worker: &Worker) -> Rc<Served> {
        let name = name("default/b");
        let budget = worker.budgets.add(1, &name);
        let uid = Uid::of_pod(&worker.world().settings().cluster, &name);
        let local =
            (vec!["10.0.0.2".parse().expect("address")], Account { namespace: "default".into(), name: "b".into() });
        let netns = Arc::new(Netns::own().expect("own namespace"));
        Rc::new(Served::new((name, uid), local, 1, netns, budget, &worker.settings))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        panic::{AssertUnwindSafe, catch_unwind},
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use underpass_core::{connection::Direction, testing::world};

    use super::{
        testing::{served, worker},
        *,
    };
    use crate::track::Track;

    #[test]
    fn what_was_accepted_is_waited_for_before_anybody_has_looked_at_it() {
        let worker = worker(world([]));
        let (pod, same_cookie) = (served(&worker), served(&worker));
        let mut context = Context::from_waker(Waker::noop());
        let (mut drained, mut removed) = (pin!(worker.all_closed()), pin!(pod.serving.emptied()));
        let (of_another, accepted) = (worker.begins(&same_cookie), worker.begins(&pod));
        assert_eq!(removed.as_mut().poll(&mut context), Poll::Pending);
        drop(accepted);
        assert_eq!(removed.as_mut().poll(&mut context), Poll::Ready(()));
        assert_eq!(drained.as_mut().poll(&mut context), Poll::Pending, "one of another pod");
        drop(of_another);
        assert_eq!(drained.as_mut().poll(&mut context), Poll::Ready(()));
    }

    #[test]
    fn a_panic_while_the_end_is_written_down_leaves_nothing_open() {
        let worker = worker(world([]));
        let [from, to] = ["10.0.0.9:9", "10.0.0.2:80"].map(|address| address.parse::<SocketAddr>().unwrap());
        let pod = served(&worker);
        let track = Track::begin(&worker, &pod, Direction::Inbound, from, to);
        assert!(!pod.connections.is_empty());
        let in_use = worker.log.borrow_mut();
        assert!(catch_unwind(AssertUnwindSafe(|| track.finish(Reason::Finished))).is_err(), "the log is in use");
        drop(in_use);
        assert_eq!((pod.connections.is_empty(), worker.connections.len()), (true, 0));
    }
}
