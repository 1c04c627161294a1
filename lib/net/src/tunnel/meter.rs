//! Metrics of tunnels and their streams: numbers, handshakes, and the reasons for which tunnels ended.

use std::cell::Cell;

use tokio::time::Instant;
use underpass_telemetry::metrics::{Family, GaugeGuard, Histogram, IntCounter, IntCounterVec, IntGauge, Registry};

use super::TunnelEnd;

/// Bounds from a neighbour's handshake to the limit of ten seconds.
const HANDSHAKE_BOUNDS_S: &[f64] = &[0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

static OPENED: Family = Family::counter(
    "underpass_tunnels_opened_total",
    "Tunnels that were begun: outbound ones to another pod, inbound ones from another pod.",
    &["direction"],
);
static OPEN: Family =
    Family::gauge("underpass_tunnels_open", "Tunnels that are open or in their handshake.", &["direction"]);
static ENDS: Family = Family::counter(
    "underpass_tunnels_closed_total",
    "Tunnels that ended, by reason, as connections have it.",
    &["direction", "reason"],
);
static HANDSHAKE: Family = Family::histogram(
    "underpass_handshake_duration_seconds",
    "Duration of the mutual TLS handshake of a tunnel; for outbound tunnels with the time to connect.",
    &["direction"],
    HANDSHAKE_BOUNDS_S,
);
static FAILED: Family = Family::counter(
    "underpass_handshakes_failed_total",
    "Tunnels that ended before the mutual TLS handshake was done, by reason.",
    &["direction", "reason"],
);
static STREAMS: Family = Family::counter(
    "underpass_streams_opened_total",
    "Streams that were opened on tunnels: one for each connection that a tunnel carries.",
    &["direction"],
);
static STREAMS_OPEN: Family =
    Family::gauge("underpass_streams_open", "Streams that are open on tunnels.", &["direction"]);

/// The metric families of this module.
pub const FAMILIES: &[&Family] = &[&OPENED, &OPEN, &ENDS, &HANDSHAKE, &FAILED, &STREAMS, &STREAMS_OPEN];

/// The metrics of one worker's tunnels. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Meter {
    outbound: Side,
    inbound: Side,
}

impl Meter {
    /// Metrics that `registry` shows.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        Self { outbound: Side::new(registry, "outbound"), inbound: Side::new(registry, "inbound") }
    }

    /// The metrics of tunnels that we open.
    pub(super) const fn outbound(&self) -> &Side {
        &self.outbound
    }

    /// The metrics of tunnels that we accept.
    pub(super) const fn inbound(&self) -> &Side {
        &self.inbound
    }
}

impl Default for Meter {
    /// Metrics that no scrape shows.
    fn default() -> Self {
        Self::new(&Registry::default())
    }
}

/// The tunnels of one direction.
#[derive(Clone, Debug)]
pub(super) struct Side {
    direction: &'static str,
    opened: IntCounter,
    open: IntGauge,
    ends: IntCounterVec,
    handshake: Histogram,
    failed: IntCounterVec,
    streams: IntCounter,
    streams_open: IntGauge,
}

impl Side {
    fn new(registry: &Registry, direction: &'static str) -> Self {
        let own = &[direction];
        Self {
            direction,
            opened: registry.counter(&OPENED).with_label_values(own),
            open: registry.gauge(&OPEN).with_label_values(own),
            ends: registry.counter(&ENDS),
            handshake: registry.histogram(&HANDSHAKE).with_label_values(own),
            failed: registry.counter(&FAILED),
            streams: registry.counter(&STREAMS).with_label_values(own),
            streams_open: registry.gauge(&STREAMS_OPEN).with_label_values(own),
        }
    }

    /// Counts a tunnel that begins.
    pub(super) fn begin(&self) -> TunnelMeter {
        self.opened.inc();
        let open = Cell::new(Some(GaugeGuard::of(&self.open)));
        TunnelMeter { side: self.clone(), began: Instant::now(), authenticated: Cell::new(false), open }
    }
}

/// The metrics of one tunnel.
pub(super) struct TunnelMeter {
    side: Side,
    began: Instant,
    authenticated: Cell<bool>,
    /// None: it has ended.
    open: Cell<Option<GaugeGuard>>,
}

impl TunnelMeter {
    /// Counts the handshake as done. Only the first call counts.
    pub(super) fn authenticated(&self) {
        if !self.authenticated.replace(true) {
            self.side.handshake.observe(self.began.elapsed().as_secs_f64());
        }
    }

    /// A stream, counted as open until the guard is dropped.
    pub(super) fn stream(&self) -> GaugeGuard {
        self.side.streams.inc();
        GaugeGuard::of(&self.side.streams_open)
    }

    /// Counts the end. Only the first reason counts.
    pub(super) fn ended(&self, end: &TunnelEnd) {
        if self.open.take().is_none() {
            return;
        }
        let reason = end.reason();
        let labels = [self.side.direction, reason.as_str()];
        self.side.ends.with_label_values(&labels).inc();
        if !self.authenticated.get() {
            self.side.failed.with_label_values(&labels).inc();
        }
    }
}
