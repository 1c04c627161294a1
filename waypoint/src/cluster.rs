//! The clusters that requests go to: their endpoints, as a worker sees them, and the limits and ejected endpoints that all
//! workers have in common.
//!
//! What must hold: a count that was begun is ended, by a guard; and what was counted under one policy stays counted under the
//! next one.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, hash_map::Entry},
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use http::uri::Scheme;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use underpass_core::{
    Identity, World,
    http::{
        Ask, Balancer, Breaker, Cluster, ClusterKey, ClusterPolicy, Counted, Dice, EndpointId, Health, Limits,
        NoEndpoint, OutlierRules, Outliers, Overflow, Viewpoint,
    },
    world::{Distribution, Uid, Workload},
};

use crate::{
    Own,
    configuration::Configuration,
    upstream::{Connections, Origination},
};

/// The clusters of all workers.
#[derive(Debug)]
pub(crate) struct SharedClusters {
    began: Instant,
    clusters: Mutex<HashMap<Place, Weak<Shared>>>,
    /// Changes when requests of one worker wait for a place that an idle connection of another one may have.
    wanted: watch::Sender<()>,
}

/// A cluster, by address family: `true` for IPv4.
type Place = (ClusterKey, bool);

impl Default for SharedClusters {
    fn default() -> Self {
        Self { began: Instant::now(), clusters: Mutex::default(), wanted: watch::channel(()).0 }
    }
}

impl SharedClusters {
    /// The moment that all times count from.
    pub(crate) const fn began(&self) -> Instant {
        self.began
    }

    /// Changes when a worker is to look for idle connections that are in the way ([`Clusters::give_way`]).
    pub(crate) fn wanted(&self) -> watch::Receiver<()> {
        self.wanted.subscribe()
    }

    /// The clusters that are in use, by address family, and what was counted of them.
    pub(crate) fn counts(&self) -> Vec<(ClusterKey, Counts)> {
        let all = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        let in_use = all.iter().filter_map(|((key, _), shared)| Some((key.clone(), shared.upgrade()?)));
        let now = self.began.elapsed();
        in_use.map(|(key, shared)| (key, shared.counts(now))).collect()
    }

    fn cluster(&self, place: &Place) -> Arc<Shared> {
        let mut all = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(place).and_then(Weak::upgrade) {
            return known;
        }
        all.retain(|_, shared| shared.strong_count() > 0);
        let shared = Shared {
            state: Mutex::default(),
            freed: Notify::new(),
            waiting: AtomicU32::new(0),
            wanted: self.wanted.clone(),
        };
        let shared = Arc::new(shared);
        all.insert(place.clone(), Arc::downgrade(&shared));
        shared
    }
}

/// What all workers count together.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// A connection was closed, or has room for another request.
    pub(crate) freed: Notify,
    /// Requests of all workers that wait for a place.
    waiting: AtomicU32,
    wanted: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    breaker: Breaker,
    /// Connections by endpoint.
    connections: HashMap<SocketAddr, u32>,
    outliers: Option<(OutlierRules, Outliers<SocketAddr>)>,
    /// Counts changes of what is ejected.
    ejections: u64,
    counts: Counts,
}

/// What is counted of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Requests and connections that wanted a new connection and met the limit, each once.
    pub(crate) connections_overflow: u64,
    /// Requests that met a limit: of those that wait, and of all.
    pub(crate) requests_overflow: u64,
    /// Tries beside the first ones.
    pub(crate) retries: u64,
    /// Requests that met the limit of retries.
    pub(crate) retries_overflow: u64,
    /// Requests that had no try left.
    pub(crate) retries_limit: u64,
    /// Requests that had a response worth it in a later try.
    pub(crate) retries_success: u64,
    /// Endpoints that are ejected.
    pub(crate) ejected: u64,
    /// Ejections so far.
    pub(crate) ejections: u64,
}

impl Counts {
    /// Adds those of the same cluster in another address family.
    pub(crate) const fn add(&mut self, other: &Self) {
        self.connections_overflow += other.connections_overflow;
        self.requests_overflow += other.requests_overflow;
        self.retries += other.retries;
        self.retries_overflow += other.retries_overflow;
        self.retries_limit += other.retries_limit;
        self.retries_success += other.retries_success;
        self.ejected += other.ejected;
        self.ejections += other.ejections;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_policy(&self, policy: &ClusterPolicy, endpoints: impl Iterator<Item = SocketAddr>, now: Duration) {
        let mut state = self.state();
        state.breaker.set_limits(Limits::of(policy));
        let rules = policy.port.outlier_detection.as_ref().map(OutlierRules::from);
        match (rules, &mut state.outliers) {
            (Some(rules), Some((known, outliers))) if rules == *known => outliers.set_hosts(endpoints),
            (Some(rules), outliers) => *outliers = Some((rules, Outliers::new(rules, endpoints, now))),
            (None, outliers) => *outliers = None,
        }
    }

    /// Counts one more, or that there may not be one more. Connections: [`Self::begin_connection`].
    pub(crate) fn begin(self: &Arc<Self>, what: Counted) -> Result<CountGuard, Overflow> {
        let state = &mut *self.state();
        state.breaker.begin(what).inspect_err(|_| match what {
            Counted::Pending | Counted::Request => state.counts.requests_overflow += 1,
            Counted::Retry => state.counts.retries_overflow += 1,
            Counted::Connection => {}
        })?;
        Ok(CountGuard { shared: Arc::clone(self), what, endpoint: None })
    }

    /// One more connection to this endpoint, whose first one is above every limit. `is_first`: of the request that wants it no
    /// refusal was counted before.
    pub(crate) fn begin_connection(
        self: &Arc<Self>,
        endpoint: SocketAddr,
        is_first: bool,
    ) -> Result<CountGuard, Overflow> {
        let state = &mut *self.state();
        let of_endpoint = state.connections.entry(endpoint).or_default();
        let begun = state.breaker.begin_connection(*of_endpoint);
        begun.inspect_err(|_| state.counts.connections_overflow += u64::from(is_first))?;
        *of_endpoint = of_endpoint.saturating_add(1);
        Ok(CountGuard { shared: Arc::clone(self), what: Counted::Connection, endpoint: Some(endpoint) })
    }

    /// What was counted; those whose time is over are ejected no longer.
    fn counts(&self, now: Duration) -> Counts {
        let state = &mut *self.state();
        let Some((_, outliers)) = &mut state.outliers else { return state.counts };
        if outliers.sweep(now) {
            state.ejections = state.ejections.wrapping_add(1);
        }
        Counts { ejected: outliers.ejected().count() as u64, ..state.counts }
    }

    /// Counts what came of the tries of a request.
    pub(crate) fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.state().counts);
    }

    /// Requests of all workers that wait for a place.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }

    /// One more waits, or one less. More: other workers look for what is in its way.
    pub(crate) fn waits(&self, is_more: bool) {
        if is_more {
            self.waiting.fetch_add(1, Relaxed);
            self.ask();
        } else {
            self.waiting.fetch_sub(1, Relaxed);
        }
    }

    /// Has all workers look for idle connections of theirs that are in the way.
    pub(crate) fn ask(&self) {
        self.wanted.send_replace(());
    }
}

/// One that is counted, until it is dropped.
#[derive(Debug)]
pub(crate) struct CountGuard {
    shared: Arc<Shared>,
    what: Counted,
    endpoint: Option<SocketAddr>,
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.breaker.end(self.what);
        if let Some(endpoint) = self.endpoint
            && let Entry::Occupied(mut open) = state.connections.entry(endpoint)
        {
            *open.get_mut() = open.get().saturating_sub(1);
            if *open.get() == 0 {
                open.remove();
            }
        }
        drop(state);
        if self.what == Counted::Connection {
            self.shared.freed.notify_waiters();
        }
    }
}

/// An endpoint, as far as calls of it depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    pub(crate) target: SocketAddr,
    pub(crate) workload: Uid,
    /// Who must answer; none: it is not in the mesh, and called in plaintext.
    pub(crate) identity: Option<Identity>,
}

/// One cluster of a worker.
#[derive(Debug)]
pub(crate) struct WorkerCluster {
    pub(crate) key: ClusterKey,
    pub(crate) shared: Arc<Shared>,
    pub(crate) connections: Connections,
    /// TLS that its policy asks for.
    pub(crate) origination: Origination,
    balancer: RefCell<Balancer>,
    endpoints: RefCell<HashMap<EndpointId, Rc<Endpoint>>>,
    policy: RefCell<Rc<ClusterPolicy>>,
    /// The ejections that the balancer knows.
    ejections: Cell<u64>,
    /// The endpoints are those of this number, and the policy that of this.
    seen: Cell<Option<u64>>,
    compiled: RefCell<Option<Cluster>>,
    /// By the configuration of this number.
    configured: Cell<u64>,
    used: Cell<Duration>,
}

/// A chosen endpoint: it counts as busy until this is dropped.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) id: EndpointId,
    pub(crate) endpoint: Rc<Endpoint>,
    cluster: Rc<WorkerCluster>,
}

impl Drop for Chosen {
    fn drop(&mut self) {
        self.cluster.balancer.borrow_mut().end(self.id);
    }
}

impl WorkerCluster {
    fn new(key: ClusterKey, shared: Arc<Shared>, began: Instant, viewpoint: Viewpoint) -> Self {
        let balancer = Balancer::new(&ClusterPolicy::default(), Distribution::default(), viewpoint);
        Self {
            key,
            connections: Connections::new(Arc::clone(&shared), began),
            shared,
            origination: Origination::default(),
            balancer: RefCell::new(balancer),
            endpoints: RefCell::default(),
            policy: RefCell::default(),
            ejections: Cell::new(0),
            seen: Cell::new(None),
            compiled: RefCell::default(),
            configured: Cell::new(0),
            used: Cell::new(Duration::ZERO),
        }
    }

    pub(crate) fn policy(&self) -> Rc<ClusterPolicy> {
        Rc::clone(&self.policy.borrow())
    }

    /// The scheme of requests to its endpoints.
    pub(crate) fn scheme(&self) -> Scheme {
        if self.policy.borrow().origination().is_some() { Scheme::HTTPS } else { Scheme::HTTP }
    }

    /// Goes by the endpoints and the policy of this configuration.
    fn refresh(&self, at: &At<'_>, cluster: Option<&Cluster>) {
        self.used.set(at.now);
        let Some(cluster) = cluster else { return };
        let service = cluster.service.as_ref().ok();
        let number = service.map(|service| at.configuration.endpoints_of(service));
        // A request that began before may come later.
        if at.configuration.number() < self.configured.get() {
            return;
        }
        self.configured.set(at.configuration.number());
        let is_same = self.compiled.borrow().as_ref() == Some(cluster);
        if is_same && self.seen.get() == number && number.is_some() {
            return;
        }
        self.seen.set(number);
        self.compiled.replace(Some(cluster.clone()));
        let world: &World = &at.configuration.world;
        let mut balancer = self.balancer.borrow_mut();
        if **self.policy.borrow() != cluster.policy {
            let before = self.policy.replace(Rc::new(cluster.policy.clone()));
            if before.port.tls != cluster.policy.port.tls {
                self.connections.retain(|_| false);
            }
            self.connections.set_rules(&cluster.policy);
        }
        let distribution = service.and_then(|service| world.service(service)).map(|service| service.distribution);
        balancer.set_policy(&cluster.policy, distribution.unwrap_or_default());
        let labels = |workload: &Workload| at.configuration.labels(workload);
        let all = cluster.endpoints(world, self.key.port, at.is_ipv4, labels);
        balancer.update(&all, labels, at.now, at.dice.0);
        self.shared.set_policy(&cluster.policy, all.iter().map(|endpoint| endpoint.target), at.now);
        // A pod that is gone may be listed beside the one that has its address now.
        let mut by_target: HashMap<SocketAddr, Vec<Rc<Endpoint>>> = HashMap::new();
        for one in &all {
            by_target.entry(one.target).or_default().push(Rc::new(Endpoint::of(world, one.workload, one.target)));
        }
        let is_left =
            |known: &Endpoint| by_target.get(&known.target).is_some_and(|all| all.iter().any(|e| **e == *known));
        self.connections.retain(is_left);
        let each = balancer.endpoints().filter_map(|(id, target)| Some((id, by_target.get_mut(&target)?.pop()?)));
        self.endpoints.replace(each.collect());
        self.ejections.set(u64::MAX);
    }

    /// The endpoint of a try.
    pub(crate) fn pick(self: &Rc<Self>, ask: &Ask<'_>) -> Result<Chosen, NoEndpoint> {
        let mut balancer = self.balancer.borrow_mut();
        if self.policy.borrow().port.outlier_detection.is_some() {
            self.learn_ejections(&mut balancer, ask);
        }
        let id = balancer.pick(ask)?;
        let endpoint = self.endpoints.borrow().get(&id).cloned().ok_or(NoEndpoint::Nowhere)?;
        balancer.begin(id);
        Ok(Chosen { id, endpoint, cluster: Rc::clone(self) })
    }

    /// Tells the balancer which endpoints are ejected by now.
    fn learn_ejections(&self, balancer: &mut Balancer, ask: &Ask<'_>) {
        let state = &mut *self.shared.state();
        let Some((_, outliers)) = &mut state.outliers else { return };
        if outliers.sweep(ask.now) {
            state.ejections = state.ejections.wrapping_add(1);
        }
        if self.ejections.replace(state.ejections) != state.ejections {
            let ends = self.endpoints.borrow();
            let is_ejected = |id| ends.get(&id).is_some_and(|endpoint| !outliers.is_in_use(&endpoint.target));
            balancer.set_ejected(is_ejected, ask.now, ask.dice);
        }
    }

    /// A request to an endpoint has ended so.
    pub(crate) fn ended(&self, target: SocketAddr, health: Health, now: Duration) {
        if self.policy.borrow().port.outlier_detection.is_none() {
            return;
        }
        let state = &mut *self.shared.state();
        let Some((_, outliers)) = &mut state.outliers else { return };
        if outliers.ended(&target, health, now) {
            state.ejections = state.ejections.wrapping_add(1);
            state.counts.ejections += 1;
            tracing::info!(cluster = %self.key, endpoint = %target, "endpoint ejected: too many failures in a row");
        }
    }
}

impl Endpoint {
    /// This address and port of a workload.
    pub(crate) fn of(world: &World, workload: &Workload, target: SocketAddr) -> Self {
        let identity = world.identity(workload).filter(|_| workload.is_enrolled()).cloned();
        Self { target, workload: workload.uid.clone(), identity }
    }
}

/// Where and when a cluster is looked up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'c> {
    pub(crate) configuration: &'c Configuration,
    pub(crate) is_ipv4: bool,
    pub(crate) now: Duration,
    pub(crate) dice: Dice,
}

/// The clusters of one worker.
#[derive(Debug)]
pub(crate) struct Clusters {
    shared: Arc<SharedClusters>,
    all: RefCell<HashMap<Place, Rc<WorkerCluster>>>,
}

/// What is near is near to the waypoint, as in Istio.
fn viewpoint(own: &Own, configuration: &Configuration) -> Viewpoint {
    let workload = own.addresses.iter().find_map(|address| configuration.world.workload_at(*address));
    workload.map_or_else(Viewpoint::default, |workload| Viewpoint::of(workload, configuration.labels(workload)))
}

/// A cluster to which no request went for so long is forgotten, with its idle connections.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

impl Clusters {
    pub(crate) fn new(shared: Arc<SharedClusters>) -> Self {
        Self { shared, all: RefCell::default() }
    }

    /// The cluster of this name, as this configuration has it; none: it stays as it is known.
    pub(crate) fn get(
        &self,
        own: &Own,
        at: &At<'_>,
        key: &ClusterKey,
        configured: Option<&Cluster>,
    ) -> Rc<WorkerCluster> {
        let place = (key.clone(), at.is_ipv4);
        let known = self.all.borrow().get(&place).cloned();
        let cluster = known.unwrap_or_else(|| {
            let viewpoint = viewpoint(own, at.configuration);
            let new =
                Rc::new(WorkerCluster::new(key.clone(), self.shared.cluster(&place), self.shared.began(), viewpoint));
            self.all.borrow_mut().insert(place, Rc::clone(&new));
            new
        });
        cluster.refresh(at, configured);
        cluster
    }

    /// Closes idle connections whose places are waited for by other workers.
    pub(crate) fn give_way(&self) {
        self.all.borrow().values().for_each(|cluster| cluster.connections.give_way());
    }

    /// Closes connections that were idle or open for too long, and forgets clusters that nothing goes to.
    pub(crate) fn sweep(&self, now: Duration) {
        self.all.borrow_mut().retain(|_, cluster| {
            cluster.connections.sweep(now);
            Rc::strong_count(cluster) > 1 || now.saturating_sub(cluster.used.get()) < FORGOTTEN_AFTER
        });
    }
}
