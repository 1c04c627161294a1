//! The state of a worker: everything that its connections and requests need, shared with no other thread but for what has to be
//! exact over all of them ([`SharedClusters`]). Its loop is [`crate::run`].

use std::{
    cell::{Cell, RefCell},
    fmt,
    hash::{BuildHasher as _, RandomState},
    rc::Rc,
    sync::Arc,
    time::SystemTime,
};

use tokio::{sync::Notify, time::Instant};
use underpass_core::{Reason, World, http::Dice};
use underpass_identity::Credential;
use underpass_net::{
    budget::{Budget, Share},
    buffer::Buffers,
    socket::options::{Options, Role},
    tls::Configs,
    tunnel::{Charge, Memory, Meter, Tunnel},
};
use underpass_proxy::{
    credentials::CredentialStore,
    drain::{Group, Guard},
    peers::UnauthenticatedPeers,
    pool::Pool,
};

use crate::{
    Own, Settings,
    access_log::Log,
    authorizer::Failing,
    cluster::Clusters,
    configuration::Configuration,
    judging::Judging,
    metrics::Recorder,
    run::Parts,
    tokens::{Keyring, Verified},
};

/// One worker's state, borrowed only between awaits.
pub(crate) struct Worker {
    pub(crate) own: Own,
    pub(crate) settings: Settings,
    pub(crate) buffers: Buffers,
    /// The tunnels to endpoints.
    pub(crate) pool: Pool,
    pub(crate) credentials: CredentialStore,
    /// The clusters that requests went to, with their connections.
    pub(crate) clusters: Clusters,
    pub(crate) recorder: Recorder,
    /// What is open, to be judged again.
    pub(crate) judging: Judging,
    /// None: no line is written.
    pub(crate) log: Option<Log>,
    /// The keys of tokens.
    pub(crate) keyring: Keyring,
    /// The tokens that were verified lately.
    pub(crate) verified: Verified,
    /// Those that do not answer.
    pub(crate) failing_authorizers: Failing,
    /// Peers in their handshake.
    pub(crate) unauthenticated: UnauthenticatedPeers,
    /// The tunnels of clients.
    pub(crate) tunnels: Group<Tunnel>,
    /// Connections and tunnels that are served.
    pub(crate) serving: Group<()>,
    /// It drains.
    pub(crate) draining: Cell<bool>,
    /// It began to drain.
    pub(crate) drains: Notify,
    configuration: RefCell<Arc<Configuration>>,
    sockets: Arc<Share>,
    memory: Memory,
    /// The moment that times of state machines count from.
    began: Instant,
    random: RandomState,
    rolls: Cell<u64>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

impl Worker {
    pub(crate) fn new(parts: &Parts, configs: Configs) -> Self {
        let Parts { own, settings, configuration, credentials, metrics, registry, shared, log, keyring, .. } = parts;
        let configuration = Arc::clone(&configuration.borrow());
        let world = &configuration.world;
        let credentials = CredentialStore::new(Arc::clone(&credentials.borrow()), configs, world.settings());
        let mut settings = settings.clone();
        settings.tunnel.meter = Meter::new(registry);
        let limits = settings.limits;
        let of_worker = |total: usize| total / settings.workers;
        let share = |total: usize| Share::new(&Budget::new(of_worker(total)), of_worker(total));
        Self {
            own: own.clone(),
            buffers: Buffers::default(),
            pool: Pool::default(),
            credentials,
            clusters: Clusters::new(Arc::clone(shared)),
            recorder: Recorder::new(metrics, registry),
            judging: Judging::default(),
            log: log.as_deref().map(Log::new),
            keyring: keyring.clone(),
            verified: Verified::default(),
            failing_authorizers: Failing::default(),
            unauthenticated: UnauthenticatedPeers::new(limits.unauthenticated),
            tunnels: Group::default(),
            serving: Group::default(),
            draining: Cell::new(false),
            drains: Notify::new(),
            sockets: share(limits.sockets),
            memory: Memory::new(share(limits.waiting_bytes)),
            began: shared.began(),
            random: RandomState::new(),
            rolls: Cell::new(0),
            configuration: RefCell::new(configuration),
            settings,
        }
    }

    /// The configuration of this turn.
    pub(crate) fn configuration(&self) -> Arc<Configuration> {
        Arc::clone(&self.configuration.borrow())
    }

    /// The World of this turn.
    pub(crate) fn world(&self) -> Arc<World> {
        Arc::clone(&self.configuration.borrow().world)
    }

    /// Goes by another configuration from now on; answers the one before.
    pub(crate) fn exchange(&self, configuration: Arc<Configuration>) -> Arc<Configuration> {
        self.configuration.replace(configuration)
    }

    /// The waypoint's own certificate.
    pub(crate) fn credential(&self) -> Result<Arc<Credential>, Reason> {
        self.credentials.credential(&self.own.identity, SystemTime::now()).ok_or(Reason::NoCertificate)
    }

    /// The options of a socket.
    pub(crate) fn options(&self, role: Role) -> Options {
        Options::of(role, self.settings.keepalive)
    }

    /// What one more socket counts against; none: there are too many.
    pub(crate) fn charge(&self) -> Option<Charge> {
        Some(Charge { memory: self.memory.clone(), permit: self.sockets.try_permit(0)? })
    }

    /// Completes when one more socket may be accepted.
    pub(crate) async fn has_room(&self) {
        self.sockets.room(1, || self.pool.drain_idle(|_| true)).await;
    }

    /// A random number. Not for secrets.
    pub(crate) fn dice(&self) -> Dice {
        let n = self.rolls.get().wrapping_add(1);
        self.rolls.set(n);
        Dice(self.random.hash_one(n))
    }

    /// Completes when lines of the access log have been written since it completed before.
    pub(crate) async fn logged(&self) {
        match &self.log {
            Some(log) => log.written().await,
            None => std::future::pending().await,
        }
    }

    /// The time, as the state machines of clusters count it.
    pub(crate) fn now(&self) -> std::time::Duration {
        self.began.elapsed()
    }

    /// Taken by everything that a drain waits for.
    pub(crate) fn serves(self: &Rc<Self>) -> Guard<()> {
        self.serving.enter(())
    }

    /// Completes when it drains and a client without a word has had its time: what one sends that was let in is on its way.
    pub(crate) async fn leaves_silent(&self) {
        self.drained().await;
        tokio::time::sleep(self.settings.first_bytes).await;
    }

    /// Completes when it drains.
    pub(crate) async fn drained(&self) {
        let drains = self.drains.notified();
        tokio::pin!(drains);
        drains.as_mut().enable();
        if !self.draining.get() {
            drains.await;
        }
    }
}
