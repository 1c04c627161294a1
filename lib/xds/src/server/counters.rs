//! Numbers of a server, for the program to put among its metrics.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{Notice, Phase};
use crate::{contract::envoy::service::discovery::v3::DeltaDiscoveryResponse, resource::ResourceKind, wire::PerKind};

/// Numbers of all delta streams of a server.
#[derive(Debug, Default)]
pub struct Counters {
    opening: AtomicU64,
    behind: AtomicU64,
    current: AtomicU64,
    opened: AtomicU64,
    turned_away: AtomicU64,
    unanswered: AtomicU64,
    malformed: AtomicU64,
    kinds: PerKind<OfKind>,
}

#[derive(Debug, Default)]
struct OfKind {
    responses: AtomicU64,
    resources: AtomicU64,
    removals: AtomicU64,
    bytes: AtomicU64,
    refused: AtomicU64,
}

/// What was sent of one kind, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Responses.
    pub responses: u64,
    /// Resources in them.
    pub resources: u64,
    /// Removals in them.
    pub removals: u64,
    /// Their encoded bytes.
    pub bytes: u64,
    /// Responses that were refused (NACK).
    pub refused: u64,
}

impl Counters {
    /// Open streams in this phase.
    #[must_use]
    pub fn streams(&self, phase: Phase) -> u64 {
        self.gauge(phase).load(Relaxed)
    }

    /// Streams that were opened.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// Streams that were refused: no permission, or too many.
    #[must_use]
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Relaxed)
    }

    /// Streams that were closed because a response was not answered in time, or nothing was asked for.
    #[must_use]
    pub fn unanswered(&self) -> u64 {
        self.unanswered.load(Relaxed)
    }

    /// Streams that were closed because of a malformed request.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.malformed.load(Relaxed)
    }

    /// What was sent of this kind.
    #[must_use]
    pub fn sent(&self, kind: ResourceKind) -> Sent {
        let of = self.kinds.of(kind);
        Sent {
            responses: of.responses.load(Relaxed),
            resources: of.resources.load(Relaxed),
            removals: of.removals.load(Relaxed),
            bytes: of.bytes.load(Relaxed),
            refused: of.refused.load(Relaxed),
        }
    }

    pub(super) fn count_turned_away(&self) {
        self.turned_away.fetch_add(1, Relaxed);
    }

    pub(super) fn count_unanswered(&self) {
        self.unanswered.fetch_add(1, Relaxed);
    }

    pub(super) fn count_malformed(&self) {
        self.malformed.fetch_add(1, Relaxed);
    }

    pub(super) fn count_notice(&self, notice: &Notice) {
        if let Notice::Refused { kind, .. } = notice {
            self.kinds.of(*kind).refused.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn count_response(&self, response: &DeltaDiscoveryResponse) {
        let Some(kind) = ResourceKind::of(&response.type_url) else { return };
        let of = self.kinds.of(kind);
        let number = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        of.responses.fetch_add(1, Relaxed);
        of.resources.fetch_add(number(response.resources.len()), Relaxed);
        of.removals.fetch_add(number(response.removed_resources.len()), Relaxed);
        of.bytes.fetch_add(number(prost::Message::encoded_len(response)), Relaxed);
    }

    const fn gauge(&self, phase: Phase) -> &AtomicU64 {
        match phase {
            Phase::Opening => &self.opening,
            Phase::Behind => &self.behind,
            Phase::Current => &self.current,
        }
    }
}

/// One open stream among the counters. Dropped, it is gone from them.
pub(super) struct Counted {
    counters: Arc<Counters>,
    phase: Phase,
}

impl Counted {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        counters.opened.fetch_add(1, Relaxed);
        counters.gauge(Phase::Opening).fetch_add(1, Relaxed);
        Self { counters, phase: Phase::Opening }
    }

    pub(super) fn is_in(&mut self, phase: Phase) {
        if self.phase != phase {
            self.counters.gauge(self.phase).fetch_sub(1, Relaxed);
            self.counters.gauge(phase).fetch_add(1, Relaxed);
            self.phase = phase;
        }
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counters.gauge(self.phase).fetch_sub(1, Relaxed);
    }
}
