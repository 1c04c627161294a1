//! What is counted about tunnels and their streams: how many, how the handshakes went, and why tunnels ended.

use std::cell::Cell;

use tokio::time::Instant;
use underpass_telemetry::metrics::{Family, Held, Histogram, IntCounter, IntCounterVec, IntGauge, Registry};

use super::TunnelEnd;

/// From a neighbour's to the limit of ten seconds.
const HANDSHAKE_BOUNDS_S: &[f64] = &[0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

static OPENED: Family = Family::counter(
    "underpass_tunnels_opened_total",
    "Tunnels that were begun; outbound ones lead to another pod.",
    &["direction"],
);
static OPEN: Family =
    Family::gauge("underpass_tunnels_open", "Tunnels that are open, or in their handshake.", &["direction"]);
static ENDS: Family = Family::counter(
    "underpass_tunnels_closed_total",
    "Tunnels that ended, by the reason that their connections would end for.",
    &["direction", "reason"],
);
static HANDSHAKE: Family = Family::histogram(
    "underpass_handshake_duration_seconds",
    "From the begin of a tunnel until mutual TLS was done; for outbound tunnels with the time to connect.",
    &["direction"],
    HANDSHAKE_BOUNDS_S,
);
static FAILED: Family = Family::counter(
    "underpass_handshakes_failed_total",
    "Tunnels that ended before mutual TLS was done, by reason.",
    &["direction", "reason"],
);
static STREAMS: Family =
    Family::counter("underpass_streams_opened_total", "Connections that were put on a tunnel.", &["direction"]);
static STREAMS_OPEN: Family =
    Family::gauge("underpass_streams_open", "Streams that tunnels carry now.", &["direction"]);

/// The families of this room.
pub const FAMILIES: &[&Family] = &[&OPENED, &OPEN, &ENDS, &HANDSHAKE, &FAILED, &STREAMS, &STREAMS_OPEN];

/// What one worker counts about its tunnels. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Meter {
    outbound: Role,
    inbound: Role,
}

impl Meter {
    /// Shown in `registry`.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        Self { outbound: Role::new(registry, "outbound"), inbound: Role::new(registry, "inbound") }
    }

    /// Of tunnels that we open.
    pub(super) const fn outbound(&self) -> &Role {
        &self.outbound
    }

    /// Of tunnels that we accept.
    pub(super) const fn inbound(&self) -> &Role {
        &self.inbound
    }
}

impl Default for Meter {
    /// Counted and shown nowhere.
    fn default() -> Self {
        Self::new(&Registry::default())
    }
}

/// The tunnels of one direction.
#[derive(Clone, Debug)]
pub(super) struct Role {
    direction: &'static str,
    opened: IntCounter,
    open: IntGauge,
    ends: IntCounterVec,
    handshake: Histogram,
    failed: IntCounterVec,
    streams: IntCounter,
    streams_open: IntGauge,
}

impl Role {
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

    /// A tunnel begins.
    pub(super) fn begin(&self) -> Metered {
        self.opened.inc();
        let open = Cell::new(Some(Held::of(&self.open)));
        Metered { role: self.clone(), began: Instant::now(), proved: Cell::new(false), open }
    }
}

/// One tunnel.
pub(super) struct Metered {
    role: Role,
    began: Instant,
    proved: Cell<bool>,
    /// None: it has ended.
    open: Cell<Option<Held>>,
}

impl Metered {
    /// Mutual TLS is done. Said as often as it is true.
    pub(super) fn proved(&self) {
        if !self.proved.replace(true) {
            self.role.handshake.observe(self.began.elapsed().as_secs_f64());
        }
    }

    /// A stream, counted as open until the guard is dropped.
    pub(super) fn stream(&self) -> Held {
        self.role.streams.inc();
        Held::of(&self.role.streams_open)
    }

    /// It ended. Only the first reason counts.
    pub(super) fn ended(&self, end: &TunnelEnd) {
        if self.open.take().is_none() {
            return;
        }
        let reason = end.reason();
        let labels = [self.role.direction, reason.as_str()];
        self.role.ends.with_label_values(&labels).inc();
        if !self.proved.get() {
            self.role.failed.with_label_values(&labels).inc();
        }
    }
}
