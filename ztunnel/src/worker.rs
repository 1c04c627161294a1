//! A worker: one thread, one runtime, and everything that its pods' connections need, shared with nobody. World and
//! certificates are exchanged between turns; a connection that began under one World is judged again under the next.
//!
//! A panic in the task of a connection or tunnel ends that one. A panic of the worker's own loop ends the process.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt,
    hash::{BuildHasher as _, RandomState},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, oneshot},
    task::{JoinHandle, LocalSet},
};
use underpass_core::{Connection, Identity, ObjectName, Reason, World, world::Version};
use underpass_identity::{Credential, Serial};
use underpass_net::{
    budget::Held,
    buffer::Buffers,
    netns::Netns,
    pool::Pool,
    tls::{Configs, TrustDomains},
    tunnel::{Charge, Memory, Meter, Tunnel, TunnelEnd},
};
use underpass_telemetry::access_log::Writer;

use crate::{
    Accepting, Budgets, Connections, Credentials, Inputs, Lent, Pod, PodBudget, SOCKETS_PER_POD, Settings, StartError,
    accept::accept,
    inbound,
    metrics::{Metrics, Recorder},
    outbound,
    strangers::Strangers,
    track::Live,
};

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Message {
    Add(Box<Pod>),
    Remove {
        name: ObjectName,
        cookie: u64,
        done: oneshot::Sender<()>,
    },
    CatchUp(oneshot::Sender<Version>),
    /// Answered with true by the worker whose connection it is.
    Close {
        id: u64,
        closed: oneshot::Sender<bool>,
    },
    Drain(Accepting, oneshot::Sender<()>),
    Lend(oneshot::Sender<Vec<Lent>>),
}

/// How often ended tunnels are dropped from the pool.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// A pod that is being served.
pub(crate) struct Served {
    pub(crate) name: ObjectName,
    pub(crate) cookie: u64,
    pub(crate) netns: Arc<Netns>,
    pub(crate) budget: Arc<PodBudget>,
    /// What waits in its tunnels.
    pub(crate) memory: Memory,
    /// Sockets on 15008 whose peers have not proved who they are.
    pub(crate) strangers: Strangers,
    /// What the pod itself counts for.
    _place: Held,
    /// Tunnels of other nodes that end here.
    pub(crate) tunnels: RefCell<Vec<Tunnel>>,
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
        name: ObjectName,
        cookie: u64,
        netns: Arc<Netns>,
        budget: Arc<PodBudget>,
        settings: &Settings,
    ) -> Self {
        Self {
            name,
            cookie,
            netns,
            memory: Memory::new(Arc::clone(&budget.memory)),
            strangers: Strangers::new(settings.most_unauthenticated),
            _place: budget.sockets.hold(SOCKETS_PER_POD),
            budget,
            tunnels: RefCell::default(),
            closed: RefCell::default(),
        }
    }

    /// For one more tunnel of this pod, whose socket is there already.
    pub(crate) fn charge(&self) -> Charge {
        Charge { memory: self.memory.clone(), place: self.budget.sockets.hold(1) }
    }
}

pub(crate) struct Home {
    pub(crate) served: Rc<Served>,
    /// Outbound, inbound; none once another process accepts.
    pub(crate) listeners: Option<[Rc<TcpListener>; 2]>,
    pub(crate) accepting: [JoinHandle<()>; 2],
}

/// What the workers of a node have in common.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) connections: Arc<Connections>,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) metrics: Arc<Metrics>,
}

/// One worker's state, borrowed only between awaits.
pub(crate) struct Worker {
    pub(crate) settings: Settings,
    pub(crate) buffers: Buffers,
    pub(crate) pool: Pool,
    pub(crate) connections: Arc<Connections>,
    budgets: Arc<Budgets>,
    pub(crate) recorder: Recorder,
    /// Its own open and opening connections, by number.
    pub(crate) live: RefCell<HashMap<u64, Live>>,
    pub(crate) configs: RefCell<Configs>,
    pub(crate) trust_domains: TrustDomains,
    pub(crate) world: RefCell<Arc<World>>,
    credentials: RefCell<Arc<Credentials>>,
    log: RefCell<Writer>,
    logged: Notify,
    pub(crate) homes: RefCell<HashMap<u64, Home>>,
    /// It is about to end: what begins now ends as soon as it may.
    pub(crate) draining: Cell<bool>,
    /// Somebody's last connection may have closed.
    closed: Notify,
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
        number: usize,
        settings: Settings,
        inputs: Inputs,
        shared: Shared,
    ) -> Result<(mpsc::UnboundedSender<Message>, std::thread::JoinHandle<()>), StartError> {
        let configs = Configs::new(settings.tls.clone()).map_err(StartError::Tls)?;
        let log = inputs.access_log.handle();
        let (sender, messages) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            let run = std::panic::AssertUnwindSafe(|| {
                let worker = Rc::new(Self::new(settings, &inputs, shared, configs, log));
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
        inputs: &Inputs,
        Shared { connections, budgets, metrics }: Shared,
        configs: Configs,
        log: Writer,
    ) -> Self {
        let world = Arc::clone(&inputs.world.borrow());
        let mesh = world.settings();
        settings.tunnel.meter = Meter::new(&inputs.metrics);
        Self {
            buffers: Buffers::default(),
            pool: Pool::default(),
            connections,
            budgets,
            recorder: Recorder::new(&metrics, &inputs.metrics),
            live: RefCell::default(),
            configs: RefCell::new(configs),
            trust_domains: TrustDomains::new(mesh.trust_domain.clone(), mesh.trust_domain_aliases.iter().cloned()),
            credentials: RefCell::new(Arc::clone(&inputs.credentials.borrow())),
            log: RefCell::new(log),
            logged: Notify::new(),
            homes: RefCell::default(),
            draining: Cell::new(false),
            closed: Notify::new(),
            random: RandomState::new(),
            rolls: Cell::new(0),
            world: RefCell::new(world),
            settings,
        }
    }

    async fn run(self: Rc<Self>, mut messages: mpsc::UnboundedReceiver<Message>, mut inputs: Inputs) {
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(Message::Add(pod)) => self.add(*pod),
                    Some(Message::Remove { name, cookie, done }) => self.remove(name, cookie, done),
                    Some(Message::CatchUp(done)) => {
                        self.exchange(&mut inputs);
                        let _ = done.send(self.world().version()); // whoever asked may have stopped waiting
                    }
                    Some(Message::Close { id, closed }) => {
                        let _ = closed.send(self.close(id)); // as above
                    }
                    Some(Message::Drain(accepting, done)) => self.drain(accepting, done),
                    Some(Message::Lend(answer)) => drop(answer.send(self.lend())),
                    None => return self.shut_down().await,
                },
                Ok(()) = inputs.world.changed() => self.exchange(&mut inputs),
                Ok(()) = inputs.credentials.changed() => self.exchange(&mut inputs),
                () = self.logged.notified() => {
                    tokio::task::yield_now().await;
                    self.log.borrow_mut().flush();
                }
                _ = sweep.tick() => self.pool.sweep(),
            }
        }
    }

    /// The World of this turn.
    pub(crate) fn world(&self) -> Arc<World> {
        Arc::clone(&self.world.borrow())
    }

    /// The certificates of this turn.
    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.credentials.borrow())
    }

    /// The certificate of an identity of this node; none where it has expired: nothing new begins under it.
    pub(crate) fn credential(&self, identity: &Identity) -> Option<Arc<Credential>> {
        let credentials = self.credentials.borrow();
        credentials.own.get(identity).filter(|own| SystemTime::now() <= own.not_after()).cloned()
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

    /// A connection of this worker has closed.
    pub(crate) fn closed(&self) {
        self.closed.notify_waiters();
    }

    /// From here on this worker goes by what is published now.
    fn exchange(&self, inputs: &mut Inputs) {
        let credentials = Arc::clone(&inputs.credentials.borrow_and_update());
        if !Arc::ptr_eq(&credentials, &self.credentials.borrow()) {
            self.exchange_credentials(credentials);
        }
        let world = Arc::clone(&inputs.world.borrow_and_update());
        if !Arc::ptr_eq(&world, &self.world.borrow()) {
            self.exchange_world(world);
        }
    }

    fn exchange_credentials(&self, credentials: Arc<Credentials>) {
        let old = std::mem::replace(&mut *self.credentials.borrow_mut(), Arc::clone(&credentials));
        for gone in old.own.keys().filter(|identity| !credentials.own.contains_key(*identity)) {
            self.pool.end(|key| key.source == *gone, &TunnelEnd::Closed);
        }
        // A configuration keeps its key alive: it goes with the certificate.
        let current = |serial: &Serial| credentials.own.values().any(|credential| credential.serial() == serial);
        let replaced = old.own.values().map(|credential| credential.serial()).filter(|serial| !current(serial));
        replaced.for_each(|serial| self.configs.borrow_mut().forget(serial));
        if old.roots.generation() != credentials.roots.generation() {
            let now = SystemTime::now();
            self.pool.check_again(&credentials.roots, now);
            for home in self.homes.borrow().values() {
                home.served.tunnels.borrow().iter().for_each(|tunnel| tunnel.check_again(&credentials.roots, now));
            }
        }
    }

    fn add(self: &Rc<Self>, pod: Pod) {
        let budget = self.budgets.add(pod.cookie, &pod.name);
        let served = Rc::new(Served::new(pod.name, pod.cookie, pod.netns, budget, &self.settings));
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
            tokio::task::spawn_local(accept(Rc::clone(self), Rc::clone(&served), outbound, |worker, pod, socket| {
                tokio::task::spawn_local(outbound::serve(worker, pod, socket));
            })),
            tokio::task::spawn_local(accept(Rc::clone(self), Rc::clone(&served), inbound, |worker, pod, socket| {
                tokio::task::spawn_local(inbound::serve(worker, pod, socket));
            })),
        ];
        self.homes.borrow_mut().insert(served.cookie, Home { served, listeners: Some(listeners), accepting });
    }

    fn remove(self: &Rc<Self>, name: ObjectName, cookie: u64, done: oneshot::Sender<()>) {
        let closing = self.close_home(cookie, Reason::PodGone, &TunnelEnd::Closed);
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            closing.await;
            worker.all_closed(Some(cookie)).await;
            tracing::debug!(pod = %name, "no longer serving");
            let _ = done.send(()); // whoever asked may have stopped waiting
        });
    }

    /// Ends everything of a pod now. What it returns completes when its listeners and tunnels are closed.
    fn close_home(&self, cookie: u64, reason: Reason, end: &TunnelEnd) -> impl Future<Output = ()> + use<> {
        let home = self.homes.borrow_mut().remove(&cookie);
        self.budgets.remove(cookie);
        let mut tunnels = self.pool.end(|key| key.netns == cookie, end);
        if let Some(Home { served, accepting, .. }) = &home {
            *served.closed.borrow_mut() = Some(reason.clone());
            accepting.iter().for_each(JoinHandle::abort);
            tunnels.extend_from_slice(&served.tunnels.borrow());
            served.tunnels.borrow().iter().for_each(|tunnel| tunnel.end(end.clone()));
        }
        for live in self.live.borrow().values().filter(|live| live.cookie == cookie) {
            live.cancel.cancel(reason.clone(), None);
        }
        async move {
            for accepting in home.into_iter().flat_map(|home| home.accepting) {
                let _ = accepting.await; // aborted: the listener is closed
            }
            for tunnel in tunnels {
                tunnel.closed().await;
            }
        }
    }

    /// Ends a connection because an operator says so. False: it is not one of this worker's.
    fn close(&self, id: u64) -> bool {
        let live = self.live.borrow();
        let found = live.get(&id);
        found.inspect(|live| live.cancel.cancel(Reason::Operator, None)).is_some()
    }

    /// Completes when no connection (of one pod) is left.
    pub(crate) async fn all_closed(&self, cookie: Option<u64>) {
        loop {
            let closed = self.closed.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            if !self.live.borrow().values().any(|live| cookie.is_none_or(|c| c == live.cookie)) {
                return;
            }
            closed.await;
        }
    }

    async fn shut_down(&self) {
        let cookies: Vec<u64> = self.homes.borrow().keys().copied().collect();
        let homes = cookies.into_iter().map(|cookie| self.close_home(cookie, Reason::Drain, &TunnelEnd::Drained));
        for closing in homes.collect::<Vec<_>>() {
            closing.await;
        }
        self.all_closed(None).await;
    }
}
