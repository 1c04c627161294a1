//! Metrics of traffic by source and destination, under the names that Istio's dashboards and alerts use, and of the reasons for
//! which connections end.
//!
//! ```text
//! OpenConnection: opened, ended -> Recorder (a worker's own, with a cache of series) -> series (Traffic), dry-run denials
//! scrape: each worker folds its running tallies into their series, series of workloads that are gone are dropped, the rest is shown
//! ```
//! A connection takes a lock where its worker meets a series for the first time, and where a dry run would have denied it: none
//! that is held for long. A scrape asks the workers by message.
//! Touched when a connection opens, ends and is scraped, never per byte. What a peer claims in a header is in no label: a
//! workload is known by its address, a principal by its certificate, a service by the World.
//!
//! What must hold: no increment is lost. A series whose workloads or policy are gone goes only after it has been shown unchanged
//! for the whole of [`Settings::keep_gone`], and beyond [`Settings::most_series`] traffic is counted together.

mod dry_run;
mod flow;
mod recorder;
mod response;
mod traffic;

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;
use underpass_core::World;
use underpass_proxy::series::{Alive, PolicyCounts};
use underpass_telemetry::metrics::{Family, Lines, Registry};

use self::{dry_run::DENIALS, traffic::Traffic};

pub(crate) use self::{
    flow::{Folded, OpenCount},
    recorder::Recorder,
};

/// The settings of the metrics of traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The name of the cluster, in `source_cluster` and `destination_cluster`.
    pub cluster: Arc<str>,
    /// Series of traffic: combinations of labels. Beyond it, traffic is counted under `overflow`.
    pub most_series: usize,
    /// Time for which the series of a workload or policy that is gone are still shown.
    pub keep_gone: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { cluster: "Kubernetes".into(), most_series: 10_000, keep_gone: Duration::from_secs(300) }
    }
}

/// The value of every label of traffic beyond the limit of series.
const OVERFLOW: &str = "overflow";

/// The labels of traffic, as Istio's ztunnel has them.
const TRAFFIC_LABELS: &[&str] = &[
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "source_region",
    "source_zone",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_region",
    "destination_zone",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
];

static OPENED: Family = Family::counter(
    "istio_tcp_connections_opened_total",
    "Connections that were opened, refused ones included.",
    TRAFFIC_LABELS,
);
static CLOSED: Family = Family::counter(
    "istio_tcp_connections_closed_total",
    "Connections that ended; response_flags is - for those that were carried, DENY where a policy or the peer's identity \
     refused it, CONNECT where the destination was not reached.",
    TRAFFIC_LABELS,
);
static RECEIVED: Family = Family::counter(
    "istio_tcp_received_bytes_total",
    "Bytes from the source to the destination, of open connections as well.",
    TRAFFIC_LABELS,
);
static SENT: Family = Family::counter(
    "istio_tcp_sent_bytes_total",
    "Bytes from the destination to the source, of open connections as well.",
    TRAFFIC_LABELS,
);
static ENDS: Family = Family::counter(
    "underpass_connection_ends_total",
    "Connections that ended or were refused, by reason, as in the access log.",
    &["direction", "reason"],
);
static OPEN: Family = Family::gauge("underpass_connections_open", "Connections that are open.", &["direction"]);
static SERIES: Family = Family::gauge("underpass_metrics_series", "Series of traffic in memory.", &[]);
static FOLDED: Family = Family::counter(
    "underpass_metrics_folded_total",
    "Connections whose traffic is counted under overflow, because there were too many series.",
    &[],
);

static DROPPED_SOURCES: Family = Family::counter(
    "underpass_named_sources_dropped_total",
    "Connections whose peer named another source and is no waypoint of the called pod alone: the peer itself was judged.",
    &[],
);

/// The metric families of this module.
pub const FAMILIES: &[&Family] =
    &[&OPENED, &CLOSED, &RECEIVED, &SENT, &ENDS, &OPEN, &DENIALS, &DROPPED_SOURCES, &SERIES, &FOLDED];
/// Those of them that are written at a scrape; workers count the others.
const WRITTEN: &[&Family] = &[&OPENED, &CLOSED, &RECEIVED, &SENT, &OPEN, &DENIALS, &SERIES, &FOLDED];

/// The metrics that workers write and a scrape reads.
#[derive(Debug)]
pub(crate) struct Metrics {
    traffic: Mutex<Traffic>,
    dry_runs: Mutex<PolicyCounts>,
    /// The workloads and identities of the World, as of the last scrape.
    alive: Mutex<Option<Alive>>,
    /// The number of sweeps that dropped series.
    dropped: AtomicU64,
}

impl Metrics {
    pub(crate) fn new(settings: &Settings) -> Arc<Self> {
        Arc::new(Self {
            traffic: Mutex::new(Traffic::new(settings)),
            dry_runs: Mutex::new(PolicyCounts::of_dry_runs(settings.most_series, settings.keep_gone)),
            alive: Mutex::default(),
            dropped: AtomicU64::new(0),
        })
    }

    /// Shows them in `registry`. `fold` has the workers fold their open connections, and returns the number of those.
    pub(crate) fn collect(
        self: &Arc<Self>,
        registry: &Registry,
        world: watch::Receiver<Arc<World>>,
        fold: impl Fn() -> OpenCount + Send + Sync + 'static,
    ) {
        let shown = Arc::clone(self);
        registry.write(WRITTEN, move |lines| {
            let open = fold();
            let world = Arc::clone(&world.borrow());
            shown.show(&world, Instant::now(), open, lines);
        });
    }

    /// The number of sweeps that dropped series.
    fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    fn show(&self, world: &Arc<World>, now: Instant, open: OpenCount, lines: &mut Lines) {
        open.show(lines);
        let mut dry_runs = lock(&self.dry_runs);
        dry_runs.sweep(world, now);
        let denials = dry_runs.list();
        drop(dry_runs);
        dry_run::show(&denials, lines);
        let mut alive = lock(&self.alive);
        let alive = alive.get_or_insert_with(|| Alive::new(world));
        alive.follow(world);
        let mut traffic = lock(&self.traffic);
        if traffic.sweep(alive, now) {
            self.dropped.fetch_add(1, Relaxed);
        }
        let (series, folded) = (traffic.list(), traffic.folded());
        drop(traffic);
        lines.family(&SERIES);
        lines.sample(&SERIES, &[], series.len());
        lines.family(&FOLDED);
        lines.sample(&FOLDED, &[], folded);
        traffic::show(&series, lines);
    }
}

/// Every critical section leaves the numbers whole, so that a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
