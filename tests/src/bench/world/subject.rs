//! The subject of measurement: the parts of an agent that a change of the World passes through, wired as `agent::node` wires them, with
//! tables in memory. The seam of this benchmark: it touches the product here alone, in the terms that
//! [`Subject`] offers; scenarios, counting and tables know nothing else.
//!
//! ```text
//! hand -> keeper: resolve, World -> certificates wanted -> workers -> pods: plan, follow what differs -> tables in memory
//! ```
//! No pod of the cluster is on this node: a pod of its own needs a network namespace, and enrolment is measured elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    hint::black_box,
    net::{Ipv4Addr, SocketAddr},
    os::fd::BorrowedFd,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use tokio::sync::{oneshot, watch};
use underpass_abi::{CgroupId, Cookie, ListenerKey, Marks, Op};
use underpass_agent::{
    datapath::{self, DataPath, InMemory},
    pods::{self, Event, Handle, Meter, Pods},
};
use underpass_core::{
    Identity, ObjectName, TrustDomain, World,
    rejudge::{Basis, OutboundPath},
    resolve::LocalPod,
    route::HopKind,
    world::{Action, AuthorizationPolicy, MeshSettings, PolicyTarget, Scope, TargetKind, Version},
};
use underpass_door::Update;
use underpass_identity::Authority;
use underpass_keeper::{Feed, Keeper, Mesh, Snapshot};
use underpass_net::socket::options::Keepalive;
use underpass_proxy::credentials::Credentials;
use underpass_telemetry::{
    access_log::{self, AccessLog, Target},
    admin::{Limits, Listener, Readiness, Router},
    metrics::Registry,
};
use underpass_ztunnel::{Inputs, Ztunnel, testing::Idle};

use super::{
    layout::{Change, Connection, Name},
    objects::{object, object_name},
};

/// The name of the thread that keeps the World.
pub const KEEPER: &str = "keeper";
/// The name of a worker's thread, with its number.
pub const WORKER: &str = "worker-";
/// The node that this is. No pod of the cluster is on it.
const NODE: &str = "here";
/// Within this, or never.
const DEADLINE: Duration = Duration::from_secs(600);

/// The policy by whose target the newest World tells what was handed over. It judges nothing: its target is a waypoint.
const MARK: (&str, &str) = ("bench-mark", "mark");

/// Changes, ready to be handed to the keeper.
#[derive(Debug)]
pub struct Batch {
    objects: underpass_core::objects::Batch,
    settings: Option<MeshSettings>,
}

/// Translates changes into the product's.
///
/// # Panics
/// Where an alias is no trust domain.
#[must_use]
pub fn batch(changes: impl IntoIterator<Item = Change>) -> Batch {
    let (mut objects, mut settings) = (underpass_core::objects::Batch::default(), None);
    for change in changes {
        match change {
            Change::Put(thing) => objects.put(object(thing)),
            Change::Remove(thing) => objects.remove(object(thing).key()),
            Change::Alias(alias) => {
                let trust_domain_aliases = vec![alias.parse().expect("a trust domain")];
                settings = Some(MeshSettings { trust_domain_aliases, ..MeshSettings::default() });
            }
        }
    }
    Batch { objects, settings }
}

/// Says in a World that everything up to this batch is in it.
fn mark(turn: u64) -> AuthorizationPolicy {
    AuthorizationPolicy {
        name: ObjectName::new(MARK.0, MARK.1),
        scope: Scope::Targets(vec![PolicyTarget::new(TargetKind::Gateway, turn.to_string())]),
        action: Action::Allow,
        provider: None,
        rules: Vec::new(),
        dry_run: false,
    }
}

/// Up to which batch a World has everything.
fn marked(world: &World) -> u64 {
    let mark = world.policy(&ObjectName::new(MARK.0, MARK.1));
    match mark.map(|mark| &mark.scope) {
        Some(Scope::Targets(turn)) => turn.first().and_then(|turn| turn.name.parse().ok()).unwrap_or(0),
        _ => 0,
    }
}

/// A running agent, as far as the World goes.
#[derive(Debug)]
pub struct Subject {
    manifests: Option<Feed>,
    mesh: Mesh,
    handed: AtomicU64,
    world: watch::Receiver<Arc<World>>,
    progress: Arc<Progress>,
    ztunnel: Arc<Ztunnel>,
    registry: Registry,
    readiness: SocketAddr,
    /// Dropped, the thread ends.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    _credentials: watch::Sender<Arc<Credentials>>,
    _access_log: Arc<AccessLog>,
}

/// The progress of the tables.
#[derive(Debug, Default)]
struct Progress {
    turns: Mutex<Turns>,
    changed: Condvar,
    operations: AtomicU64,
}

/// How far what was handed over is.
#[derive(Debug, Default)]
struct Turns {
    /// Worlds that are on their way to the tables, each with the batch up to which it has everything.
    handed_on: BTreeMap<Version, u64>,
    /// The batch up to which everything is applied.
    applied: u64,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This World is about to be applied.
    fn hands_on(&self, world: &World) {
        self.lock().handed_on.insert(world.version(), marked(world));
    }

    fn applied(&self, version: Version) {
        let mut turns = self.lock();
        let later = turns.handed_on.split_off(&version);
        let applied = later.first_key_value().filter(|(first, _)| **first == version).map_or(0, |(_, turn)| *turn);
        turns.applied = turns.applied.max(applied);
        turns.handed_on = later;
        self.changed.notify_all();
    }
}

impl Subject {
    /// An agent that has heard of nothing yet, with so many workers.
    ///
    /// # Errors
    /// The failure of a start.
    pub fn start(workers: usize) -> Result<Self> {
        let registry = Registry::default();
        let (progress, ready) = (Arc::new(Progress::default()), Readiness::new());
        let mut keeper = Keeper::new(MeshSettings::default(), NODE, &registry);
        let manifests = keeper.door("manifests", ready.gate("manifests", "nothing is handed over yet"));
        let (world, mesh) = (keeper.world(), keeper.mesh());
        let log = access_log::Settings { target: Target::File("/dev/null".into()), ..access_log::Settings::default() };
        let access_log = Arc::new(AccessLog::start(&log)?);
        let (credentials, newest) = watch::channel(Arc::new(credentials()?));
        let mut settings = underpass_ztunnel::Settings::new(Marks::DEFAULT.inbound());
        settings.workers = workers.try_into().context("at least one worker")?;
        let (access, metrics) = (Arc::clone(&access_log), registry.clone());
        let inputs = Inputs { world: keeper.world(), credentials: newest, access_log: access, metrics };
        let ztunnel = Arc::new(Ztunnel::start(&settings, &inputs)?);

        let pods = pods(&progress, &ready, &registry)?;
        let listener = Listener::any(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let readiness = listener.target().address().context("no address")?;
        let (stop, stopped) = oneshot::channel();
        let (ztunnel_too, progress_too) = (Arc::clone(&ztunnel), Arc::clone(&progress));
        let agent = Agent { keeper, ztunnel: ztunnel_too, pods, progress: progress_too };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new()
            .name("agent".into())
            .spawn(move || runtime.block_on(agent.run(listener, ready, stopped)))?;
        Ok(Self {
            manifests: Some(manifests),
            mesh,
            handed: AtomicU64::new(0),
            world,
            progress,
            ztunnel,
            registry,
            readiness,
            stop: Some(stop),
            thread: Some(thread),
            _credentials: credentials,
            _access_log: access_log,
        })
    }

    /// Hands changes to the keeper. They become visible together.
    ///
    /// # Errors
    /// Where the keeper is gone.
    pub fn hand(&self, Batch { mut objects, settings }: Batch) -> Result<()> {
        if let Some(settings) = settings {
            self.mesh.set(settings);
        }
        objects.put(mark(self.handed.fetch_add(1, Relaxed) + 1));
        let update = Update { batch: objects, ..Update::default() };
        self.manifests.as_ref().context("ended")?.send(update);
        Ok(())
    }

    /// Waits until the tables are as everything that was handed over wants them.
    ///
    /// # Errors
    /// Where they never are.
    pub fn wait(&self) -> Result<()> {
        let (wanted, began) = (self.handed.load(Relaxed), Instant::now());
        let mut turns = self.progress.lock();
        while turns.applied < wanted {
            let left = DEADLINE.checked_sub(began.elapsed()).context("a World that is never applied")?;
            let waited = self.progress.changed.wait_timeout(turns, left);
            turns = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Changes that were handed over and are in no World yet.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.handed.load(Relaxed).saturating_sub(marked(&self.world.borrow()))
    }

    /// Operations on the tables so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.progress.operations.load(Relaxed)
    }

    /// Where `GET /healthz/ready` is answered.
    #[must_use]
    pub const fn readiness(&self) -> SocketAddr {
        self.readiness
    }

    /// Opens these connections, and waits until they are registered.
    pub fn open(&self, connections: impl IntoIterator<Item = Connection>) {
        let mut of_pods = BTreeMap::<Name, Vec<_>>::new();
        for connection in connections {
            let pod = connection.pod.clone();
            of_pods.entry(pod).or_default().push(ends(&connection));
        }
        for (cookie, (pod, connections)) in (1..).zip(of_pods) {
            let opened = self.ztunnel.open_idle(Idle { pod: object_name(&pod), cookie, connections });
            block_on(opened);
        }
    }

    /// Connections that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.ztunnel.connections().len()
    }

    /// All metrics, as a scrape has them. Answers how many connections they say are open.
    #[must_use]
    pub fn scrape(&self) -> usize {
        let text = self.registry.text();
        let open = text.lines().filter(|line| line.starts_with("underpass_connections_open{"));
        open.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
    }

    /// The open connections, as an operator lists them. Answers how many they are.
    #[must_use]
    pub fn list(&self) -> usize {
        block_on(self.ztunnel.connections().list()).len()
    }

    /// Asks every worker for an answer, again and again, while `meanwhile` runs on a thread of its own: the longest that one took.
    ///
    /// # Panics
    /// Where `meanwhile` does.
    #[must_use]
    pub fn longest_answer(&self, meanwhile: impl FnOnce() + Send) -> Duration {
        std::thread::scope(|scope| {
            let running = scope.spawn(meanwhile);
            let mut longest = Duration::ZERO;
            while !running.is_finished() {
                let answered = async {
                    let asked = Instant::now();
                    self.ztunnel.caught_up().await;
                    asked.elapsed()
                };
                longest = longest.max(block_on(answered));
            }
            running.join().expect("no panic");
            longest
        })
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        drop(self.stop.take());
        drop(self.manifests.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic was printed
        }
    }
}

/// The tasks on the agent's own thread.
struct Agent {
    keeper: Keeper,
    ztunnel: Arc<Ztunnel>,
    pods: Handle,
    progress: Arc<Progress>,
}

impl Agent {
    /// As `agent::node` turns: certificates, then the workers, then the pods.
    async fn run(self, listener: Listener, ready: Readiness, mut stopped: oneshot::Receiver<()>) {
        let Self { keeper, ztunnel, pods, progress } = self;
        let mut snapshot = keeper.snapshot();
        let _answers = listener.serve(ready.routes(Router::new()), Limits::default()).expect("served");
        let keeping = keeper.start().expect("a thread");
        tokio::pin!(keeping);
        loop {
            tokio::select! {
                Ok(()) = snapshot.changed() => {
                    let Snapshot { world, local } = snapshot.borrow_and_update().clone();
                    black_box(identities(&world, &local));
                    ztunnel.caught_up().await;
                    progress.hands_on(&world);
                    pods.set_world(world, local);
                }
                () = &mut keeping => return,
                _ = &mut stopped => return,
            }
        }
    }
}

/// The identities whose certificates this node wants.
fn identities(world: &World, local: &[LocalPod]) -> BTreeSet<Identity> {
    let trust_domain = &world.settings().trust_domain;
    local.iter().map(|pod| Identity::new(trust_domain, &pod.account.namespace, &pod.account.name)).collect()
}

/// The thread of the pods, above counted tables.
fn pods(progress: &Arc<Progress>, ready: &Readiness, registry: &Registry) -> Result<Handle> {
    let settings = pods::Settings {
        node: NODE.into(),
        cgroup_root: "/nonexistent/underpass".into(),
        agents: vec![CgroupId(7)],
        kubelet_cgroup: None,
        marks: Marks::DEFAULT,
        drain: Duration::ZERO,
        keepalive: Keepalive::default(),
    };
    let gate = ready.gate("pods", "nothing is applied yet");
    let told = Arc::clone(progress);
    let sink = move |event| {
        if let Event::Applied(version) = event {
            gate.open();
            told.applied(version);
        }
    };
    let path = Counted { path: InMemory::new(Marks::DEFAULT), progress: Arc::clone(progress) };
    let pods = Pods::adopt(settings, path, Instant::now(), Box::new(sink))?;
    Ok(pods::spawn(pods, Meter::new(registry))?)
}

/// Roots that nothing is verified by, and no certificate.
fn credentials() -> Result<Credentials> {
    let folder = std::env::temp_dir().join(format!("underpass-bench-{}", std::process::id()));
    let roots = Authority::open(&folder, &TrustDomain::default(), SystemTime::now()).and_then(|ca| ca.roots(1));
    let removed = std::fs::remove_dir_all(&folder);
    let roots = Arc::new(roots.context("make a CA")?);
    removed.with_context(|| format!("remove {}", folder.display()))?;
    Ok(Credentials { roots, own: Default::default() })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(future)
}

/// Counts what it passes on.
#[derive(Debug)]
struct Counted {
    path: InMemory,
    progress: Arc<Progress>,
}

impl DataPath for Counted {
    fn apply(&mut self, ops: &[Op]) -> datapath::Result<()> {
        self.path.apply(ops)?;
        self.progress.operations.fetch_add(ops.len() as u64, Relaxed);
        Ok(())
    }

    fn contents(&self) -> datapath::Result<Vec<Op>> {
        self.path.contents()
    }

    fn attach_pod(&mut self, pod: Cookie, netns: BorrowedFd<'_>) -> datapath::Result<()> {
        self.path.attach_pod(pod, netns)
    }

    fn detach_pod(&mut self, pod: Cookie) -> datapath::Result<()> {
        self.path.detach_pod(pod)
    }

    fn pods(&self) -> datapath::Result<Vec<Cookie>> {
        self.path.pods()
    }

    fn insert_listener(&mut self, key: ListenerKey, listener: BorrowedFd<'_>) -> datapath::Result<()> {
        self.path.insert_listener(key, listener)
    }

    fn remove_listener(&mut self, key: &ListenerKey) -> datapath::Result<()> {
        self.path.remove_listener(key)
    }

    fn purge(&mut self, pod: Cookie) -> datapath::Result<()> {
        self.path.purge(pod)
    }
}

/// Source, destination, and what the verdict about it rests on.
fn ends(connection: &Connection) -> (SocketAddr, SocketAddr, Basis) {
    let Connection { pod, address, account, peer, peer_account, inbound } = connection;
    let identity = |account: &str| Identity::new(&TrustDomain::default(), &pod.namespace, account);
    let (own, other) = (SocketAddr::new(*address, 8080), SocketAddr::new(*peer, 8080));
    if *inbound {
        let identity = Some(identity(peer_account));
        (
            SocketAddr::new(*peer, 40_000),
            own,
            Basis::Inbound { address: *address, port: 8080, peer: *peer, identity, named: None },
        )
    } else {
        let (hop, identities) = (HopKind::Workload, identity(peer_account).into());
        let path = OutboundPath::Tunnel { own: identity(account), hop, identities };
        let basis = Basis::Outbound { from: *address, service: None, target: other, path };
        (SocketAddr::new(*address, 40_000), other, basis)
    }
}
