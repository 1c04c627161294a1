//! The state of a worker: everything that its pods' connections need, shared with no other thread. Its loop is `run`.

use std::{
    cell::{Cell, Ref, RefCell},
    collections::HashMap,
    fmt,
    hash::{BuildHasher as _, RandomState},
    rc::Rc,
    sync::Arc,
    time::SystemTime,
};

use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};
use underpass_core::{Connection, World};
use underpass_net::{buffer::Buffers, tls::Configs, tunnel::Meter};
use underpass_proxy::{
    credentials::CredentialStore,
    drain::{Group, Guard},
    judging::Judging,
    pool::Pool,
};
use underpass_telemetry::access_log::Writer;

use crate::{
    Budgets, Inputs, Settings,
    metrics::{Metrics, Recorder},
    open_connections::{ConnectionIds, OpenConnections},
    refusals::Refusals,
    warning::RateLimitedWarning,
    worker_pod::WorkerPod,
};

/// The guard of a connection or tunnel that is being served.
#[derive(Debug)]
pub(crate) struct ServingGuard(#[allow(dead_code, reason = "guards")] [Guard<()>; 2]);

pub(crate) struct Home {
    pub(crate) pod: Rc<WorkerPod>,
    /// Outbound, inbound; none once another process accepts.
    pub(crate) listeners: Option<[Rc<TcpListener>; 2]>,
    pub(crate) accepting: [JoinHandle<()>; 2],
}

/// The state that the workers of a node share.
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
    /// Its World, and the open connections that are judged by it.
    pub(crate) judging: Judging,
    pub(crate) credentials: CredentialStore,
    /// World or certificates may be others than before.
    pub(crate) exchanged: Notify,
    log: RefCell<Writer>,
    logged: Notify,
    pub(crate) homes: RefCell<HashMap<u64, Home>>,
    /// It drains: a new tunnel is drained at once.
    pub(crate) draining: Cell<bool>,
    /// The warning that accepting paused because the process is out of descriptors or memory.
    pub(crate) exhausted: RateLimitedWarning,
    /// Accepted connections and tunnels of its pods, including pods that are gone, until they have ended.
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
    pub(crate) fn new(
        mut settings: Settings,
        numbers: ConnectionIds,
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
            exchanged: Notify::new(),
            log: RefCell::new(log),
            logged: Notify::new(),
            homes: RefCell::default(),
            draining: Cell::new(false),
            exhausted: RateLimitedWarning::default(),
            serving: Group::default(),
            random: RandomState::new(),
            rolls: Cell::new(0),
            settings,
        }
    }

    /// The World of this turn.
    pub(crate) fn world(&self) -> Ref<'_, World> {
        self.judging.world()
    }

    /// Completes when the mesh knows the pod and its certificate is there.
    pub(crate) async fn knows(&self, pod: &WorkerPod) {
        loop {
            let exchanged = self.exchanged.notified();
            if self.is_known(pod) {
                return;
            }
            exchanged.await;
        }
    }

    fn is_known(&self, pod: &WorkerPod) -> bool {
        let world = self.world();
        let identity = pod.workload(&world).ok().and_then(|workload| world.identity(workload));
        identity.is_some_and(|identity| self.credentials.credential(identity, SystemTime::now()).is_some())
    }

    /// A random number, for choices among equals. Not for secrets.
    pub(crate) fn roll(&self) -> u64 {
        let n = self.rolls.get().wrapping_add(1);
        self.rolls.set(n);
        self.random.hash_one(n)
    }

    /// Logs a connection's record. Lines leave together, at the end of the turn.
    pub(crate) fn log(&self, record: &Connection) {
        self.log.borrow_mut().record(record);
        self.logged.notify_one();
    }

    /// Completes when records have been logged since it completed before.
    pub(crate) async fn logged(&self) {
        self.logged.notified().await;
    }

    /// Hands the logged lines to the access log's thread.
    pub(crate) fn flush_log(&self) {
        self.log.borrow_mut().flush();
    }

    /// The guard of an accepted connection or tunnel of `pod`, taken before its task runs: a drain waits for it from the moment
    /// that it is accepted.
    pub(crate) fn begin_serving(&self, pod: &WorkerPod) -> ServingGuard {
        ServingGuard([self.serving.enter(()), pod.serving.enter(())])
    }

    /// Completes when no accepted connection or tunnel is left.
    pub(crate) async fn all_closed(&self) {
        self.serving.emptied().await;
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::{collections::BTreeMap, time::Duration};

    use tokio::sync::watch;
    use underpass_core::{
        Few, TrustDomain,
        testing::name,
        world::{Account, Uid},
    };
    use underpass_identity::Authority;
    use underpass_net::netns::Netns;
    use underpass_proxy::credentials::Credentials;
    use underpass_telemetry::access_log::{self, AccessLog, Target};

    use super::*;

    /// A worker of this World, without a thread.
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
        let metrics = Metrics::new(&settings.metrics);
        let shared = Shared { refusals: Arc::default(), budgets: Budgets::new(settings.limits), metrics };
        Rc::new(Worker::new(settings, ConnectionIds::new(0, 1), &inputs, shared, configs, log))
    }

    /// The pod `default/b`, whose cookie is 1.
    pub(crate) fn served(worker: &Worker) -> Rc<WorkerPod> {
        expected(worker, None)
    }

    /// The same, whose connections wait so long for the mesh to know it.
    pub(crate) fn expected(worker: &Worker, within: Option<Duration>) -> Rc<WorkerPod> {
        let name = name("default/b");
        let budget = worker.budgets.add(1, &name);
        let uid = Uid::of_pod(&worker.world().settings().cluster, &name);
        let address = "10.0.0.2".parse().expect("address");
        let local = (Few::one(address), Account { namespace: "default".into(), name: "b".into() });
        let netns = Arc::new(Netns::own().expect("own namespace"));
        Rc::new(WorkerPod::new((name, uid), local, 1, netns, budget, within, &worker.settings))
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

    use underpass_core::{Reason, connection::Direction, testing::world};

    use super::testing::{served, worker};
    use crate::open_connection::OpenConnection;

    #[test]
    fn an_accepted_connection_is_waited_for_before_its_task_runs() {
        let worker = worker(world([]));
        let (pod, same_cookie) = (served(&worker), served(&worker));
        let mut context = Context::from_waker(Waker::noop());
        let (mut drained, mut removed) = (pin!(worker.all_closed()), pin!(pod.serving.emptied()));
        let (of_another, accepted) = (worker.begin_serving(&same_cookie), worker.begin_serving(&pod));
        assert_eq!(removed.as_mut().poll(&mut context), Poll::Pending);
        drop(accepted);
        assert_eq!(removed.as_mut().poll(&mut context), Poll::Ready(()));
        assert_eq!(drained.as_mut().poll(&mut context), Poll::Pending, "one of another pod");
        drop(of_another);
        assert_eq!(drained.as_mut().poll(&mut context), Poll::Ready(()));
    }

    #[test]
    fn a_panic_while_the_end_is_logged_leaves_nothing_open() {
        let worker = worker(world([]));
        let [from, to] = ["10.0.0.9:9", "10.0.0.2:80"].map(|address| address.parse::<SocketAddr>().unwrap());
        let pod = served(&worker);
        let connection = OpenConnection::begin(&worker, &pod, Direction::Inbound, from, to);
        assert!(!pod.connections.is_empty());
        let in_use = worker.log.borrow_mut();
        assert!(catch_unwind(AssertUnwindSafe(|| connection.finish(Reason::Finished))).is_err(), "the log is in use");
        drop(in_use);
        assert_eq!((pod.connections.is_empty(), worker.connections.len()), (true, 0));
    }
}
