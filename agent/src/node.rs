//! One node with its parts wired together: certificates are requested by a new World, then the tunnel's workers catch up with
//! both, then pods are enrolled. In this order, so that a connection that the kernel hands over always meets a tunnel that
//! knows its pod and has its certificate; and all parts of the agent go by the World that is applied.

mod drain;
mod known;
mod sandboxes;
mod stay;
mod take_over;
mod unenrolled;
mod waiting;
mod want;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{mpsc, watch};
use underpass_abi::Cookie;
use underpass_core::{
    Identity,
    resolve::{LocalPod, Sources},
    world::{Account, Uid},
};
use underpass_keeper::{
    Mesh, Snapshot,
    supervision::{SupervisedTask, TaskEnded},
};
use underpass_telemetry::{
    access_log::AccessLog,
    admin::{AdminError, Gate, Limits, Readiness, Router},
    log::Levels,
    metrics::{Registry, routes},
};
use underpass_ztunnel::{Inputs, Ztunnel};

use self::{known::Known, sandboxes::NodeSandboxes, take_over::TakeOver, unenrolled::Unenrolled, waiting::Waiting};
use crate::{
    admin,
    certs::{self, Certs},
    cluster::redirection::{self, Word},
    cni,
    config::Running,
    datapath::DataPath,
    handover, kernel_log, limits, metrics,
    notify::Notify,
    pods::{self, AnnouncedPod, Event, PodUid, Pods},
    preflight::Checked,
    probe,
    signals::Signals,
    surroundings::Surroundings,
    waypoints::{self, Waypoints},
};

/// Timeout of the threads at the end of the process.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// A node that cannot run, or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel data path.
    #[error("kernel data path")]
    Kernel(#[from] underpass_loader::Error),
    /// Pods.
    #[error("pods of this node")]
    Pods(#[from] pods::Error),
    /// Certificates.
    #[error("certificates")]
    Certs(#[from] certs::StartError),
    /// The tunnel.
    #[error("tunnel")]
    Tunnel(#[from] underpass_ztunnel::StartError),
    /// The admin API or readiness.
    #[error("admin API")]
    Admin(#[from] AdminError),
    /// A take-over, or the address for the next one.
    #[error("hand-over")]
    Handover(#[from] handover::Error),
    /// A supervised task.
    #[error(transparent)]
    Task(#[from] TaskEnded),
    /// A thread, or watching the manifests.
    #[error("{operation}")]
    Io {
        /// A verb and its object.
        operation: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// A pod that the tunnel serves.
struct Serving {
    uid: Uid,
    pod_uid: PodUid,
    account: Account,
    /// What arrives is steered to the tunnel. No longer at the end of its release.
    steered: bool,
}

/// A running node.
struct Node {
    settings: watch::Receiver<Arc<Running>>,
    mesh: Mesh,
    /// The World, and the pods of this node.
    snapshot: watch::Receiver<Snapshot>,
    certs: Certs,
    /// Those that this node runs.
    waypoints: Waypoints,
    pods: Arc<pods::Handle>,
    events: mpsc::UnboundedReceiver<Event>,
    ztunnel: Ztunnel,
    /// The pods that the tunnel serves, by cookie: those that leave the mesh keep their account until they are gone.
    serving: BTreeMap<Cookie, Serving>,
    /// The objects behind the World and the pods of this node.
    sources: watch::Receiver<Sources>,
    /// What says which pods are captured; none: there is no API server.
    word: Option<Word>,
    /// New pods, by their sandboxes.
    sandboxes: NodeSandboxes,
    /// Of a successor: closed until its predecessor has left.
    succession: Option<Gate>,
    /// A World was applied: what is not captured now is not, and nothing has to wait for it.
    applied: bool,
    /// The identities with certificates.
    wanted: BTreeSet<Identity>,
    applying: Waiting<Snapshot>,
    enrolling: Gate,
    unenrolled: Unenrolled,
    known: Known,
    take_over: TakeOver,
    /// For the probes of this process.
    succeeded: probe::Succeeded,
    notify: Notify,
}

/// Runs the node until `stop` asks for its end, and drains. What is captured stays captured: the kernel data path outlives
/// the process.
///
/// # Errors
/// Where a part cannot be started, or has ended.
pub async fn run(
    running: &watch::Receiver<Arc<Running>>,
    checked: Checked,
    levels: &Levels,
    stop: &mut Signals,
) -> Result<(), Error> {
    let surroundings = Surroundings::kernel(&checked.kernel, &checked.claim)?;
    run_in(surroundings, running, checked, levels, stop).await
}

/// Runs the node in any surroundings.
///
/// # Errors
/// Where a part cannot be started, or has ended.
pub async fn run_in<D: DataPath + 'static>(
    surroundings: Surroundings<D>,
    running: &watch::Receiver<Arc<Running>>,
    checked: Checked,
    levels: &Levels,
    stop: &mut Signals,
) -> Result<(), Error> {
    let Checked { source, servers, access_log, own_cgroup, claim, kernel } = checked;
    let Surroundings {
        path,
        counters,
        kernel_log: decisions,
        mut tunnel,
        cgroup_root,
        marks,
        events: (sender, events),
    } = surroundings;
    let config = &*Arc::clone(&running.borrow().config);
    let sockets = servers.sockets().map_err(failed("copy the sockets of the admin API, readiness and metrics"))?;
    let (mut take_over, inherited, certificates, networks) = TakeOver::new(claim, own_cgroup, sockets);
    let is_successor = take_over.is_successor();
    let registry = Registry::default();
    let access_log = Arc::new(access_log);

    let ready = Readiness::new();
    let (keeper, doors, ca) = source.keeper(config, &ready, &registry);
    let certified = ready.gate("certificates", "the certificate authority is not open yet");
    let certs = Certs::start(ca, certificates, config.certificate_lifetime, certified)?;
    metrics::measure(&registry);
    counters.measure(&registry);
    access_log.measure(&registry);
    let certificates = certs.status();
    registry.collect(certs::FAMILIES, move |samples| certificates.borrow().measure(samples));
    let inputs = Inputs {
        world: keeper.world(),
        credentials: certs.subscribe(),
        access_log: Arc::clone(&access_log),
        metrics: registry.clone(),
    };
    tunnel.workers = config.workers.unwrap_or(tunnel.workers);
    tunnel.keepalive = config.keepalive();
    tunnel.limits = limits::of(config);
    tunnel.metrics = metrics::traffic(config);
    let ztunnel = Ztunnel::start(&tunnel, &inputs)?;

    let sink = Box::new(move |event| drop(sender.send(event)));
    let of_node = pods::Settings {
        node: config.node.as_str().into(),
        cgroup_root,
        agents: take_over.agents(),
        kubelet_cgroup: config.kubelet_cgroup.clone(),
        marks,
        drain: config.release_drain,
        keepalive: tunnel.keepalive,
    };
    let mut pods = Pods::adopt(of_node, path, Instant::now(), sink)?;
    pods.inherit(inherited, take_over.until());
    let pods =
        Arc::new(pods::spawn(pods, pods::Meter::new(&registry)).map_err(failed("start the thread of the pods"))?);

    let enrolling = ready.gate("pods", "no World is applied yet");
    let known = Known::new(&ready);
    let succession = is_successor.then(|| ready.gate("take-over", "the predecessor serves this node"));
    let succeeded = probe::Succeeded::default();
    let probes = probe::routes(&ready, &succeeded);
    let _probe = servers.probe.map(|probe| probe.serve(probes, Limits::default())).transpose()?;
    let view = admin::View {
        node: config.node.as_str().into(),
        started: SystemTime::now(),
        settings: running.clone(),
        readiness: ready.clone(),
        world: keeper.world(),
        sources: keeper.sources(),
        reports: keeper.reports(),
        control_plane: doors.control_plane(),
        certificates: certs.status(),
        connections: ztunnel.connections().clone(),
        budgets: Arc::clone(ztunnel.budgets()),
        counters,
        pods: Arc::clone(&pods),
        waypoints: waypoints::Board::new(&registry),
    };
    let mut waypoints = Waypoints::new(config, certs.subscribe(), view.waypoints.clone(), networks);
    if !is_successor {
        waypoints.start();
    }
    take_over.serves(
        vec![
            (servers.admin_socket, admin::routes(&view, levels)),
            (servers.admin, admin::routes(&view, levels)),
            (servers.readiness, ready.routes(Router::new())),
            (servers.metrics, routes(Router::new(), &registry)),
        ],
        servers.unpublished,
    )?;
    take_over.listen(handover::HandoverAddress::new(&config.state, &kernel))?;
    let (snapshot, sources, mesh) = (keeper.snapshot(), keeper.sources(), keeper.mesh());
    let keeper = keeper.start().map_err(failed("start the keeper's thread"))?;
    let mut keeping = SupervisedTask::spawn("the keeper of the World", keeper);
    decisions.map(kernel_log::start).transpose().map_err(failed("start the thread of the kernel log"))?;
    let open = doors.open(config).map_err(failed("open the doors of the mesh"))?;

    let sandboxes = NodeSandboxes::load(config, &pods, &ready);
    let listing = config.cni_socket.as_ref().map(|_| {
        let (path, sources, world) = (cni::list_file(&config.state), view.sources.clone(), view.world.clone());
        SupervisedTask::spawn("the list of namespaces for the CNI plugin", cni::list::keep(path, sources, world))
    });
    let mut node = Node {
        settings: running.clone(),
        mesh,
        snapshot,
        certs,
        waypoints,
        pods,
        events,
        ztunnel,
        serving: BTreeMap::new(),
        sources,
        word: open.word(),
        sandboxes,
        succession,
        applied: false,
        wanted: BTreeSet::new(),
        applying: Waiting::default(),
        enrolling,
        unenrolled: Unenrolled::new(&ready, config.cni_config_dir.is_some()),
        known,
        take_over,
        succeeded,
        notify: Notify::new(std::env::var_os("NOTIFY_SOCKET").as_deref()),
    };
    tracing::info!(node = %config.node, version = env!("CARGO_PKG_VERSION"), "agent started");
    let mut asked = false;
    while !node.take_over.is_succeeded() {
        tokio::select! {
            () = stop.next() => {
                asked = true;
                break;
            }
            turned = node.turn() => turned?,
            ended = keeping.ended() => return Err(ended.into()),
        }
    }
    node.notify.stopping();
    // A turn that the signal interrupted may have left this undone.
    node.ztunnel.caught_up().await;
    node.certs.applied();
    let accepting = node.hold().await;
    let stays = config.stay && node.take_over.is_succeeded() && !asked;
    let drained = node.drain(accepting, config.drain, stop, &mut asked).await?;
    tracing::info!(?drained, cut = node.ztunnel.connections().len(), "agent stopping");
    drop(open);
    drop(listing);
    drop(keeping);
    node.end(access_log).await;
    if stays && !asked {
        tracing::info!("staying: another agent serves this node");
        let left = stay::stay(&config.admin_socket, stop, stay::LOOK, stay::PATIENCE).await;
        tracing::info!(?left, "agent leaving");
    }
    Ok(())
}

/// Sleeps until this time; none: for ever.
async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { operation, source }
}

impl Node {
    /// Handles the next event of any part.
    async fn turn(&mut self) -> Result<(), Error> {
        let (sandboxes_wait, sandboxes_due) =
            (self.sandboxes.is_waiting(), self.sandboxes.due(self.take_over.is_agent()));
        tokio::select! {
            Ok(()) = self.snapshot.changed() => self.apply_soon(),
            Some(event) = self.events.recv() => self.pod(event),
            Ok(()) = self.settings.changed() => {
                let now = Arc::clone(&self.settings.borrow_and_update().config);
                self.certs.set_lifetime(now.certificate_lifetime);
                self.pods.set_drain(now.release_drain);
                self.set_mesh(now.mesh());
            }
            Some(event) = self.take_over.next_event() => self.on_take_over(event).await?,
            () = sleep_until(self.applying.until()) => {}
            asked = self.sandboxes.request() => if self.sandboxes.take(asked, &self.pods, &self.ztunnel) {
                self.apply_soon();
            },
            Ok(()) = self.sources.changed(), if sandboxes_wait || self.word.is_none() => self.place(),
            () = self.waypoints.turn() => self.want(),
            () = sleep_until(sandboxes_due) => {}
            changed = self.certs.turn() => if changed {
                self.ztunnel.caught_up().await;
                self.certs.applied();
            }
        }
        if let Some(Snapshot { world, local }) = self.applying.take(self.certs.is_pending(), Instant::now()) {
            self.ztunnel.caught_up().await;
            self.pods.set_world(world, local);
        }
        if self.take_over.is_agent() {
            self.sandboxes.open(&self.settings.borrow().config, &self.pods);
        }
        self.answer_sandboxes();
        Ok(())
    }

    /// The pods of this node: those of the snapshot, and new ones by their sandboxes.
    fn local(&self, snapshot: &Snapshot) -> Arc<[LocalPod]> {
        self.sandboxes.placed(&snapshot.local, &self.sources.borrow(), snapshot.world.settings())
    }

    fn answer_sandboxes(&mut self) {
        if !self.sandboxes.is_waiting() {
            return;
        }
        let world = Arc::clone(&self.snapshot.borrow().world);
        let captured = |cookie| self.serving.get(&cookie).is_some_and(|pod| pod.steered);
        let of = (&*self.sources.borrow_and_update(), world.settings());
        self.sandboxes.answer(of, world.version().0 > 0, captured, self.word.is_some(), &self.pods);
    }

    /// Queues the newest World and the pods of this node: they are applied once their identities have certificates.
    fn apply_soon(&mut self) {
        let snapshot = self.snapshot.borrow_and_update().clone();
        if snapshot.world.version().0 == 0 {
            return;
        }
        self.place();
        self.known.set(&snapshot);
        let local = self.local(&snapshot);
        let world = snapshot.world;
        let local = if self.word.is_some() { redirection::held(&world, &local) } else { local };
        self.applying.put(Snapshot { world, local }, Instant::now());
        self.say();
    }

    /// Says which pods of this node are captured, once it is known.
    fn say(&self) {
        let Some(word) = self.word.as_ref().filter(|_| self.applied) else { return };
        let steered = self.serving.values().filter(|pod| pod.steered);
        let captured = steered.map(|pod| Arc::clone(&pod.pod_uid)).collect();
        let snapshot = self.snapshot.borrow();
        let (local, sources) = (self.local(&snapshot), self.sources.borrow());
        word.say(redirection::due(&sources, &local, &captured));
        word.report(self.unenrolled.events(&sources, snapshot.world.settings()));
    }

    fn pod(&mut self, event: Event) {
        match event {
            Event::Added(pod) => {
                let AnnouncedPod { pod, cookie, netns, outbound, inbound, late } = *pod;
                let LocalPod { pod_uid, name, uid, addresses, account, .. } = pod;
                self.unenrolled.added(&pod_uid, late);
                let serving = Serving { uid: uid.clone(), pod_uid, account: account.clone(), steered: true };
                self.serving.insert(cookie, serving);
                let expected_within = self.sandboxes.expected_within(cookie);
                let cookie = cookie.0;
                let pod = underpass_ztunnel::Pod {
                    name,
                    uid,
                    addresses,
                    account,
                    cookie,
                    netns,
                    outbound,
                    inbound,
                    expected_within,
                };
                self.ztunnel.add(pod);
                self.want(); // its account may be another one by now
                self.say();
            }
            Event::Steered { cookie, steered } => {
                self.serving.entry(cookie).and_modify(|pod| pod.steered = steered);
                self.say();
            }
            Event::Removed { name, cookie } => {
                if let Some(pod) = self.serving.remove(&cookie) {
                    self.unenrolled.removed(&pod.pod_uid);
                }
                drop(self.ztunnel.remove(&name, cookie.0));
                self.want();
                self.say();
            }
            Event::Waiting(pods) => {
                self.unenrolled.set_waiting(pods);
                self.say();
            }
            Event::Applied(version) => {
                tracing::info!(%version, "World applied");
                self.applied = true;
                self.certs.forget_inherited();
                self.say();
                if self.take_over.is_serving() {
                    self.enrolling.open();
                    self.notify.ready();
                    self.take_over.applied();
                }
            }
        }
    }

    async fn end(self, access_log: Arc<AccessLog>) {
        let Self { pods, ztunnel, waypoints, .. } = self;
        let killed = tokio::time::timeout(SHUTDOWN, waypoints.shut_down());
        let _ = killed.await; // a process that cannot be killed is left alone
        let ended = tokio::task::spawn_blocking(move || {
            drop(pods);
            ztunnel.shut_down();
            Arc::into_inner(access_log).map(|log| log.stop(SHUTDOWN))
        });
        if tokio::time::timeout(SHUTDOWN, ended).await.is_err() {
            tracing::warn!(timeout_s = SHUTDOWN.as_secs(), "shutdown timed out");
        }
    }
}
