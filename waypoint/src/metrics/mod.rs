//! Metrics of a waypoint's requests by source, destination and answer, under the names that Istio's dashboards and alerts use;
//! of their ends, in our words; and of the limits of clusters that were met, under Envoy's names.
//!
//! ```text
//! Exchange: Record --ends--> Recorder (a worker's own, with a cache of series) -> series (Traffic)
//! scrape: series of workloads that are gone are dropped, the rest is shown
//! ```
//! A request is counted once, where it ends; it takes a lock only where its worker meets a series for the first time. What a
//! header claims is in no label: a workload is known by its address, a principal by its certificate, a Service by its route.
//!
//! What must hold: no request is lost or counted twice. A series whose workloads or Service are gone goes only after it has been
//! shown unchanged for the whole of [`Settings::keep_gone`], and beyond [`Settings::most_series`] requests are counted together.

mod clusters;
mod connections;
mod flags;
mod histogram;
mod policies;
mod record;
mod recorder;
mod series;

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;
use underpass_core::World;
use underpass_proxy::series::{Alive, PolicyCounts};
use underpass_telemetry::metrics::{Family, Lines, Registry};

pub use self::connections::FAMILIES as CONNECTION_FAMILIES;
pub(crate) use self::{
    connections::ConnectionSeries,
    record::{Received, Record},
    recorder::Recorder,
};
use self::{
    histogram::BOUNDS,
    policies::{AUDITS, DENIALS},
    series::Traffic,
};
use crate::{cluster::SharedClusters, configuration::Configuration};

/// The settings of the metrics of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The name of the cluster, in `source_cluster` and `destination_cluster`.
    pub cluster: Arc<str>,
    /// Series of requests: combinations of labels, each with three histograms; and as many of connections. Beyond it, they are
    /// counted under `overflow`.
    pub most_series: usize,
    /// Time for which the series of a workload or Service that is gone are still shown.
    pub keep_gone: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { cluster: "Kubernetes".into(), most_series: 2_000, keep_gone: Duration::from_secs(300) }
    }
}

/// The value of every label but two, beyond the limit of series.
const OVERFLOW: &str = "overflow";
/// The value of the label `reporter`.
const REPORTER: &str = "waypoint";

/// The labels of requests, as Istio's waypoints have them.
const LABELS: &[&str] = &[
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "request_protocol",
    "response_code",
    "response_flags",
    "grpc_response_status",
    "connection_security_policy",
];

static REQUESTS: Family = Family::counter(
    "istio_requests_total",
    "Requests that ended; response_code is 0 where the client went away before the answer, response_flags are Envoy's.",
    LABELS,
);
static DURATION: Family = Family::histogram(
    "istio_request_duration_milliseconds",
    "Time from the head of a request to the end of its answer.",
    LABELS,
    BOUNDS,
);
static REQUEST_BYTES: Family =
    Family::histogram("istio_request_bytes", "Bytes of the bodies of requests.", LABELS, BOUNDS);
static RESPONSE_BYTES: Family =
    Family::histogram("istio_response_bytes", "Bytes of the bodies of answers.", LABELS, BOUNDS);
static ENDS: Family = Family::counter(
    "underpass_waypoint_requests_total",
    "Requests that ended, by why: `finished` had the response of an endpoint or of their route.",
    &["end"],
);
static DENIED: Family = Family::counter(
    "underpass_waypoint_connections_denied_total",
    "Open connections that ended because a policy denies them since a change: WebSockets, and those that are no HTTP.",
    &[],
);
static MIRRORED: Family = Family::counter(
    "underpass_waypoint_mirrored_requests_total",
    "Copies of requests for mirrors, by their end: `lost` were read more slowly than their originals, or those broke off.",
    &["end"],
);
static CHECKS: Family = Family::counter(
    "underpass_waypoint_authorizer_checks_total",
    "Questions to external authorizers, by what came of them: `failed` had no answer and refused its request, `failed_open` let it pass, `unknown` names one that the MeshConfig does not have.",
    &["provider", "result"],
);
static SERIES: Family =
    Family::gauge("underpass_waypoint_series", "Series of requests and connections in memory.", &[]);
static FOLDED: Family = Family::counter(
    "underpass_waypoint_folded_total",
    "Requests and connections that are counted under overflow, because there were too many series.",
    &[],
);
/// The families of requests and clusters.
pub const FAMILIES: &[&Family] = &[
    &REQUESTS,
    &DURATION,
    &REQUEST_BYTES,
    &RESPONSE_BYTES,
    &ENDS,
    &DENIED,
    &MIRRORED,
    &CHECKS,
    &DENIALS,
    &AUDITS,
    &SERIES,
    &FOLDED,
    &clusters::CONNECTIONS_OVERFLOW,
    &clusters::PENDING_OVERFLOW,
    &clusters::RETRIES,
    &clusters::RETRIES_OVERFLOW,
    &clusters::RETRIES_LIMIT,
    &clusters::RETRIES_SUCCESS,
    &clusters::EJECTED,
    &clusters::EJECTIONS,
];
/// Those of them that are written at a scrape.
const WRITTEN: &[&Family] = &[
    &REQUESTS,
    &DURATION,
    &REQUEST_BYTES,
    &RESPONSE_BYTES,
    &connections::OPENED,
    &connections::CLOSED,
    &connections::RECEIVED,
    &connections::SENT,
    &DENIALS,
    &AUDITS,
    &SERIES,
    &FOLDED,
];

/// The metrics that workers write and a scrape reads.
#[derive(Debug)]
pub(crate) struct Metrics {
    traffic: Mutex<Traffic>,
    connections: Mutex<connections::Connections>,
    dry_runs: Mutex<PolicyCounts>,
    audits: Mutex<PolicyCounts>,
    /// The workloads and identities of the World, as of the last scrape.
    alive: Mutex<Option<Alive>>,
    /// The number of sweeps that dropped series.
    dropped: AtomicU64,
    most_series: usize,
}

impl Metrics {
    pub(crate) fn new(settings: &Settings) -> Arc<Self> {
        Arc::new(Self {
            traffic: Mutex::new(Traffic::new(settings)),
            connections: Mutex::new(connections::Connections::new(settings)),
            dry_runs: Mutex::new(PolicyCounts::of_dry_runs(settings.most_series, settings.keep_gone)),
            audits: Mutex::new(PolicyCounts::of_audits(settings.most_series, settings.keep_gone)),
            alive: Mutex::default(),
            dropped: AtomicU64::new(0),
            most_series: settings.most_series,
        })
    }

    /// Shows them in `registry`.
    pub(crate) fn collect(
        self: &Arc<Self>,
        registry: &Registry,
        world: watch::Receiver<Arc<World>>,
        configuration: watch::Receiver<Arc<Configuration>>,
        clusters: &Arc<SharedClusters>,
    ) {
        let shown = Arc::clone(self);
        registry.write(WRITTEN, move |lines| {
            let world = Arc::clone(&world.borrow());
            shown.show(&world, Instant::now(), lines);
        });
        clusters::collect(registry, configuration, clusters);
    }

    /// The number of sweeps that dropped series.
    fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    fn show(&self, world: &Arc<World>, now: Instant, lines: &mut Lines) {
        for (family, counts) in [(&DENIALS, &self.dry_runs), (&AUDITS, &self.audits)] {
            let mut counts = lock(counts);
            counts.sweep(world, now);
            let list = counts.list();
            drop(counts);
            policies::show(family, &list, lines);
        }
        let mut alive = lock(&self.alive);
        let alive = alive.get_or_insert_with(|| Alive::new(world));
        alive.follow(world);
        let mut traffic = lock(&self.traffic);
        if traffic.sweep(alive, now) {
            self.dropped.fetch_add(1, Relaxed);
        }
        let (series, folded) = (traffic.list(), traffic.folded());
        drop(traffic);
        let (open, folded_connections) = lock(&self.connections).sweep(alive, now);
        lines.family(&SERIES);
        lines.sample(&SERIES, &[], series.len() + open.len());
        lines.family(&FOLDED);
        lines.sample(&FOLDED, &[], folded + folded_connections);
        series::show(&series, lines);
        connections::show(&open, lines);
    }
}

/// Every critical section leaves the numbers whole, so that a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
