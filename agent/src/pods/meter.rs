//! How many pods stand how: set by the pods' own thread after every turn, so that a scrape never waits for it.

use underpass_telemetry::metrics::{Family, IntGauge, Registry};

use super::State;

static PODS: Family = Family::gauge(
    "underpass_pods",
    "Pods of this node: waiting for what cannot be done yet, enrolled, or releasing.",
    &["state"],
);

/// The families of this room.
pub const FAMILIES: &[&Family] = &[&PODS];

/// Where pods are counted.
#[derive(Debug)]
pub struct Meter {
    waiting: IntGauge,
    enrolled: IntGauge,
    releasing: IntGauge,
}

impl Meter {
    /// Shown in `registry`.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let pods = registry.gauge(&PODS);
        let [waiting, enrolled, releasing] =
            ["waiting", "enrolled", "releasing"].map(|state| pods.with_label_values(&[state]));
        Self { waiting, enrolled, releasing }
    }

    pub(super) fn count<'a>(&self, pods: impl Iterator<Item = &'a State>) {
        let (mut waiting, mut enrolled, mut releasing) = (0, 0, 0);
        for state in pods {
            match state {
                State::Waiting { .. } => waiting += 1,
                State::Enrolled(_) => enrolled += 1,
                State::Releasing { .. } => releasing += 1,
            }
        }
        self.waiting.set(waiting);
        self.enrolled.set(enrolled);
        self.releasing.set(releasing);
    }
}
