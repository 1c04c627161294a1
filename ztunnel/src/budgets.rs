//! What the pods of a node may hold, and what became of those that wanted more. Shared by the workers and by whoever asks:
//! numbers alone, each written by the worker whose pod it is about.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use underpass_core::{ObjectName, Reason};
use underpass_net::budget::{Budget, Share};
use underpass_telemetry::metrics::{Family, Registry};

static USED: Family = Family::gauge(
    "underpass_budget_used",
    "What of a budget of the node is held: sockets, or bytes that wait.",
    &["budget"],
);
static LIMIT: Family =
    Family::gauge("underpass_budget_limit", "How much there is of a budget of the node.", &["budget"]);
static POD_USED: Family =
    Family::gauge("underpass_pod_budget_used", "What a pod holds of a budget.", &["budget", "namespace", "pod"]);
static PAUSES: Family = Family::counter(
    "underpass_pod_accept_pauses_total",
    "How often accepting paused for a pod.",
    &["namespace", "pod"],
);
static GIVEN_UP: Family = Family::counter(
    "underpass_pod_given_up_total",
    "Connections of a pod that ended because a budget was used up: limit, or memory.",
    &["namespace", "pod", "reason"],
);

/// The families of this room.
pub const FAMILIES: &[&Family] = &[&USED, &LIMIT, &POD_USED, &PAUSES, &GIVEN_UP];

/// What a node has, and what one of its pods may have of it at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sockets of connections and tunnels.
    pub sockets: usize,
    /// Of these for one pod; it never gets more than two thirds.
    pub pod_sockets: usize,
    /// Bytes that wait for applications and peers.
    pub memory: usize,
    /// Of these for one pod.
    pub pod_memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { sockets: usize::MAX, pod_sockets: usize::MAX, memory: 256 << 20, pod_memory: 64 << 20 }
    }
}

/// Sockets that a pod in the mesh costs before it has a connection: its listeners, its namespace, what steers for it.
pub const SOCKETS_PER_POD: usize = 8;

/// What an accepted connection may come to: itself, and a socket of its own that it leads on to.
pub const SOCKETS_PER_CONNECTION: usize = 2;

/// Bytes that may wait for a pod whatever others hold: what one connection sends before it is answered.
const QUIET_BYTES: usize = 64 << 10;

/// The budgets of a node's pods.
#[derive(Debug)]
pub struct Budgets {
    limits: Limits,
    sockets: Arc<Budget>,
    memory: Arc<Budget>,
    pods: Mutex<BTreeMap<u64, Arc<PodBudget>>>,
}

/// One pod's.
#[derive(Debug)]
pub struct PodBudget {
    /// namespace/name.
    pub name: ObjectName,
    /// Its sockets: those that were accepted, those that were opened to applications, its tunnels.
    pub sockets: Arc<Share>,
    /// Bytes that wait in its tunnels.
    pub memory: Arc<Share>,
    pauses: AtomicU64,
    refused: AtomicU64,
    given_up: AtomicU64,
}

/// How a pod stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodUse {
    /// namespace/name.
    pub name: ObjectName,
    /// Sockets that it holds, and how many it may hold now.
    pub sockets: (usize, usize),
    /// Bytes that wait for it, and how many may.
    pub memory: (usize, usize),
    /// How often accepting was paused.
    pub pauses: u64,
    /// Connections that ended for [`Reason::Limit`].
    pub refused: u64,
    /// Connections that ended for [`Reason::Memory`].
    pub given_up: u64,
}

impl Budgets {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        let (sockets, memory) = (Budget::new(limits.sockets), Budget::with_floor(limits.memory, QUIET_BYTES));
        Arc::new(Self { limits, sockets, memory, pods: Mutex::default() })
    }

    /// Measures them.
    pub(crate) fn measure(self: &Arc<Self>, registry: &Registry) {
        let budgets = Arc::clone(self);
        registry.collect(FAMILIES, move |samples| {
            for (budget, (used, most)) in [("sockets", budgets.sockets()), ("memory", budgets.memory())] {
                samples.add(&USED, &[budget], used);
                samples.add(&LIMIT, &[budget], most);
            }
            for pod in budgets.pods() {
                let (namespace, name) = (pod.name.namespace(), pod.name.name());
                samples.add(&POD_USED, &["sockets", namespace, name], pod.sockets.0);
                samples.add(&POD_USED, &["memory", namespace, name], pod.memory.0);
                samples.add(&PAUSES, &[namespace, name], pod.pauses);
                samples.add(&GIVEN_UP, &[namespace, name, Reason::Limit.as_str()], pod.refused);
                samples.add(&GIVEN_UP, &[namespace, name, Reason::Memory.as_str()], pod.given_up);
            }
        });
    }

    /// For a pod that is served from now on.
    pub(crate) fn add(&self, cookie: u64, name: &ObjectName) -> Arc<PodBudget> {
        let budget = Arc::new(PodBudget {
            name: name.clone(),
            sockets: Share::new(&self.sockets, self.limits.pod_sockets),
            memory: Share::new(&self.memory, self.limits.pod_memory),
            pauses: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
        });
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).insert(cookie, Arc::clone(&budget));
        budget
    }

    /// The pod is not served any more.
    pub(crate) fn remove(&self, cookie: u64) {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).remove(&cookie);
    }

    /// Sockets of the node that are held, and how many there are for connections.
    #[must_use]
    pub fn sockets(&self) -> (usize, usize) {
        (self.sockets.used(), self.sockets.total())
    }

    /// Bytes of the node that wait, and how many may.
    #[must_use]
    pub fn memory(&self) -> (usize, usize) {
        (self.memory.used(), self.memory.total())
    }

    /// Every pod that is served.
    #[must_use]
    pub fn pods(&self) -> Vec<PodUse> {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.values().map(|pod| pod.look()).collect()
    }
}

impl PodBudget {
    /// Accepting pauses. How often it has.
    pub(crate) fn pauses(&self) -> u64 {
        self.pauses.fetch_add(1, Relaxed) + 1
    }

    /// A connection of the pod ended.
    pub(crate) fn ended(&self, reason: &Reason) {
        match reason {
            Reason::Limit => self.refused.fetch_add(1, Relaxed),
            Reason::Memory => self.given_up.fetch_add(1, Relaxed),
            _ => return,
        };
    }

    fn look(&self) -> PodUse {
        PodUse {
            name: self.name.clone(),
            sockets: (self.sockets.used(), self.sockets.allowed()),
            memory: (self.memory.used(), self.memory.allowed()),
            pauses: self.pauses.load(Relaxed),
            refused: self.refused.load(Relaxed),
            given_up: self.given_up.load(Relaxed),
        }
    }
}
