//! The series of connections that are no HTTP, under the names that Istio has for them. Bytes are counted while they are
//! carried, so that a scrape sees those of open connections as well.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use underpass_core::ObjectName;
use underpass_proxy::series::{Alive, Book, InUse, Side};
use underpass_telemetry::metrics::{Family, Lines};

use super::{OVERFLOW, REPORTER, Settings, lock};

/// The labels of connections, as Istio's waypoints have them.
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
    "response_flags",
    "connection_security_policy",
];

pub(super) static OPENED: Family = Family::counter(
    "istio_tcp_connections_opened_total",
    "Connections that are no HTTP and were opened, refused ones included.",
    LABELS,
);
pub(super) static CLOSED: Family = Family::counter(
    "istio_tcp_connections_closed_total",
    "Connections that are no HTTP and ended or were refused; response_flags are Envoy's.",
    LABELS,
);
pub(super) static RECEIVED: Family = Family::counter(
    "istio_tcp_received_bytes_total",
    "Bytes of connections that are no HTTP from the source to the destination, of open ones as well.",
    LABELS,
);
pub(super) static SENT: Family = Family::counter(
    "istio_tcp_sent_bytes_total",
    "Bytes of connections that are no HTTP from the destination to the source, of open ones as well.",
    LABELS,
);

/// The families of connections that are no HTTP.
pub const FAMILIES: &[&Family] = &[&OPENED, &CLOSED, &RECEIVED, &SENT];

/// The key of a series.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) source: Arc<Side>,
    pub(super) destination: Arc<Side>,
    /// Its name, and its DNS name.
    pub(super) service: (ObjectName, Arc<str>),
}

impl Key {
    fn labels<'k>(&'k self, cluster: &'k str, flags: &'k str) -> Vec<&'k str> {
        let mut values = vec![REPORTER];
        // Without region and zone, which series of a waypoint have not.
        values.extend(self.source.labels(cluster).into_iter().take(8));
        values.extend(self.destination.labels(cluster).into_iter().take(8));
        let (name, host) = &self.service;
        values.extend([&**host, name.name(), name.namespace()]);
        values.extend(["tcp", flags, "mutual_tls"]);
        values
    }

    /// True if everything that it names is still there.
    fn is_alive(&self, alive: &Alive) -> bool {
        alive.has(&self.source) && alive.has(&self.destination) && alive.has_service(&self.service.0)
    }
}

/// The counts of one series.
#[derive(Debug)]
pub(crate) struct ConnectionSeries {
    /// None: everything beyond the limit.
    key: Option<Key>,
    cluster: Arc<str>,
    opened: InUse,
    /// By flags.
    closed: Mutex<BTreeMap<&'static str, u64>>,
    received: AtomicU64,
    sent: AtomicU64,
}

impl AsRef<InUse> for ConnectionSeries {
    fn as_ref(&self) -> &InUse {
        &self.opened
    }
}

impl ConnectionSeries {
    /// So many bytes more were carried to the endpoint.
    pub(crate) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
    }

    /// So many bytes more were carried to the client.
    pub(crate) fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Relaxed);
    }

    /// A connection that was opened here ends with these flags.
    pub(crate) fn close(&self, flags: &'static str) {
        *lock(&self.closed).entry(flags).or_default() += 1;
        self.opened.end();
    }

    fn labels<'k>(&'k self, flags: &'k str) -> Vec<&'k str> {
        let Some(key) = &self.key else {
            let value = |label: &&'static str| match *label {
                "reporter" => REPORTER,
                "request_protocol" => "tcp",
                "response_flags" => flags,
                _ => OVERFLOW,
            };
            return LABELS.iter().map(value).collect();
        };
        key.labels(&self.cluster, flags)
    }
}

/// All series of connections.
#[derive(Debug)]
pub(super) struct Connections {
    cluster: Arc<str>,
    book: Book<Key, (), ConnectionSeries>,
}

impl Connections {
    pub(super) fn new(settings: &Settings) -> Self {
        let book = Book::new(settings.most_series, settings.keep_gone);
        Self { cluster: Arc::clone(&settings.cluster), book }
    }

    /// Counts a connection as open, until [`ConnectionSeries::close`].
    pub(super) fn open(&mut self, key: &Key) -> Arc<ConnectionSeries> {
        let cluster = Arc::clone(&self.cluster);
        self.book.begin(key, (), |key| ConnectionSeries {
            key: key.cloned(),
            cluster,
            opened: InUse::default(),
            closed: Mutex::default(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        })
    }

    /// Drops those of what is gone; the rest, and the number of connections beyond the limit.
    pub(super) fn sweep(&mut self, alive: &Alive, now: Instant) -> (Vec<Arc<ConnectionSeries>>, u64) {
        self.book.sweep(|key| key.is_alive(alive), now);
        (self.book.list(), self.book.folded())
    }
}

pub(super) fn show(all: &[Arc<ConnectionSeries>], lines: &mut Lines) {
    let mut counts = |family, count: fn(&ConnectionSeries) -> u64| {
        lines.family(family);
        all.iter().for_each(|series| lines.sample(family, &series.labels("-"), count(series)));
    };
    counts(&OPENED, |series| series.opened.total());
    counts(&RECEIVED, |series| series.received.load(Relaxed));
    counts(&SENT, |series| series.sent.load(Relaxed));
    lines.family(&CLOSED);
    for series in all {
        let mut closed = lock(&series.closed).clone();
        closed.entry("-").or_default(); // an increase from nothing is none for Prometheus
        closed.iter().for_each(|(flags, count)| lines.sample(&CLOSED, &series.labels(flags), *count));
    }
}
