//! Per-pod limits on sockets and queued bytes, their use, and their metrics. Shared by the workers and the admin API: numbers
//! alone, each written by the worker of its pod.

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

static USED: Family =
    Family::gauge("underpass_budget_used", "Used part of a budget of the node: sockets, or queued bytes.", &["budget"]);
static LIMIT: Family =
    Family::gauge("underpass_budget_limit", "Size of a budget of the node: sockets, or queued bytes.", &["budget"]);
static POD_USED: Family = Family::gauge(
    "underpass_pod_budget_used",
    "Part of a budget that a pod uses: sockets, or queued bytes.",
    &["budget", "namespace", "pod"],
);
static PAUSES: Family = Family::counter(
    "underpass_pod_accept_pauses_total",
    "Pauses of accepting for a pod: its sockets, or the descriptors of the process, were used up.",
    &["namespace", "pod"],
);
static GIVEN_UP: Family = Family::counter(
    "underpass_pod_given_up_total",
    "Connections of a pod that were refused or ended because a budget was used up, by reason: limit, or memory.",
    &["namespace", "pod", "reason"],
);

/// The metric families of this module.
pub const FAMILIES: &[&Family] = &[&USED, &LIMIT, &POD_USED, &PAUSES, &GIVEN_UP];

/// The limits of a node, and of one of its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sockets of connections and tunnels.
    pub sockets: usize,
    /// Sockets of one pod; it never gets more than two thirds of the node's.
    pub pod_sockets: usize,
    /// Queued bytes: they wait for applications and peers.
    pub memory: usize,
    /// Queued bytes of one pod.
    pub pod_memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { sockets: usize::MAX, pod_sockets: usize::MAX, memory: 256 << 20, pod_memory: 64 << 20 }
    }
}

/// Descriptors of an enrolled pod without connections: its listeners, its namespace, its steering.
pub const SOCKETS_PER_POD: usize = 8;

/// Sockets of an accepted connection: itself, and one that it leads on to.
pub const SOCKETS_PER_CONNECTION: usize = 2;

/// Queued bytes that every pod may have, even where others have used up the budget: the early data of one connection.
const QUIET_BYTES: usize = 64 << 10;

/// The budgets of a node's pods.
#[derive(Debug)]
pub struct Budgets {
    limits: Limits,
    sockets: Arc<Budget>,
    memory: Arc<Budget>,
    pods: Mutex<BTreeMap<u64, Arc<PodBudget>>>,
}

/// The budgets of one pod.
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

/// The use of a pod's budgets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodUsage {
    /// namespace/name.
    pub name: ObjectName,
    /// Sockets, used and allowed now.
    pub sockets: (usize, usize),
    /// Queued bytes, used and allowed now.
    pub memory: (usize, usize),
    /// Pauses of accepting.
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

    /// Shows their metrics in `registry`.
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

    /// Adds the budgets of a pod that is served from now on.
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

    /// Removes the budgets of a pod that is no longer served.
    pub(crate) fn remove(&self, cookie: u64) {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).remove(&cookie);
    }

    /// Sockets of the node, used and in total.
    #[must_use]
    pub fn sockets(&self) -> (usize, usize) {
        (self.sockets.used(), self.sockets.total())
    }

    /// Queued bytes of the node, used and in total.
    #[must_use]
    pub fn memory(&self) -> (usize, usize) {
        (self.memory.used(), self.memory.total())
    }

    /// The use of every pod that is served.
    #[must_use]
    pub fn pods(&self) -> Vec<PodUsage> {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.values().map(|pod| pod.usage()).collect()
    }
}

impl PodBudget {
    /// Counts a pause of accepting. Their number.
    pub(crate) fn pauses(&self) -> u64 {
        self.pauses.fetch_add(1, Relaxed) + 1
    }

    /// Counts a connection that ended.
    pub(crate) fn ended(&self, reason: &Reason) {
        match reason {
            Reason::Limit => self.refused.fetch_add(1, Relaxed),
            Reason::Memory => self.given_up.fetch_add(1, Relaxed),
            _ => return,
        };
    }

    fn usage(&self) -> PodUsage {
        PodUsage {
            name: self.name.clone(),
            sockets: (self.sockets.used(), self.sockets.allowed()),
            memory: (self.memory.used(), self.memory.allowed()),
            pauses: self.pauses.load(Relaxed),
            refused: self.refused.load(Relaxed),
            given_up: self.given_up.load(Relaxed),
        }
    }
}
