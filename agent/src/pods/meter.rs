//! Metrics of pods by state and of the fill of the kernel's tables: set by the pods' own thread after every turn, so that a
//! scrape never waits for it.

use std::collections::BTreeMap;

use underpass_abi::Map;
use underpass_telemetry::metrics::{Family, IntCounter, IntGauge, Registry};

use super::State;
use crate::{datapath::DataPath, tables::Tables};

static PODS: Family = Family::gauge(
    "underpass_pods",
    "Pods of this node by state: waiting to be enrolled, enrolled, or releasing.",
    &["state"],
);
static LATE: Family = Family::counter(
    "underpass_pods_captured_late_total",
    "Pods whose processes had started before they were captured, though they were in the mesh from their beginning: connections \
     that they opened before are outside the mesh.",
    &[],
);

static ENTRIES: Family = Family::gauge(
    "underpass_kernel_table_entries",
    "Entries of a table that the agent fills for the kernel programs.",
    &["table"],
);
static CAPACITY: Family = Family::gauge(
    "underpass_kernel_table_capacity",
    "Capacity of a table that the agent fills for the kernel programs. A full table of the mesh captures connections to unlisted \
     destinations: event `unlisted` of `underpass_kernel_events_total`.",
    &["table"],
);

/// The families of this room.
pub const FAMILIES: &[&Family] = &[&PODS, &LATE, &ENTRIES, &CAPACITY];

/// The gauges of pods and tables.
#[derive(Debug)]
pub struct Meter {
    waiting: IntGauge,
    enrolled: IntGauge,
    releasing: IntGauge,
    late: IntCounter,
    entries: BTreeMap<Map, IntGauge>,
    capacity: BTreeMap<Map, IntGauge>,
}

impl Meter {
    /// Shown in `registry`.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let pods = registry.gauge(&PODS);
        let [waiting, enrolled, releasing] =
            ["waiting", "enrolled", "releasing"].map(|state| pods.with_label_values(&[state]));
        let by_table = |family| {
            let gauges = registry.gauge(family);
            Tables::default().sizes().map(|(map, _)| (map, gauges.with_label_values(&[map.name()]))).into()
        };
        let late = registry.counter(&LATE).with_label_values::<&str>(&[]);
        Self { waiting, enrolled, releasing, late, entries: by_table(&ENTRIES), capacity: by_table(&CAPACITY) }
    }

    pub(super) fn fill(&self, tables: &Tables, path: &impl DataPath) {
        let set = |gauges: &BTreeMap<Map, IntGauge>, map, to: usize| {
            if let Some(gauge) = gauges.get(&map) {
                gauge.set(i64::try_from(to).unwrap_or(i64::MAX));
            }
        };
        for (map, entries) in tables.sizes() {
            set(&self.entries, map, entries);
            set(&self.capacity, map, path.capacity(map) as usize);
        }
    }

    /// `late`: how many were enrolled late since the start.
    pub(super) fn count<'a>(&self, pods: impl Iterator<Item = &'a State>, late: u64) {
        self.late.inc_by(late.saturating_sub(self.late.get()));
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

#[cfg(test)]
mod tests {
    use underpass_abi::{Address, Destination, Marks, Op};

    use super::*;
    use crate::datapath::InMemory;

    #[test]
    fn the_fill_of_the_tables_is_measured() {
        let path = InMemory::new(Marks::DEFAULT).with_capacity(Map::Mesh, 4);
        let tables = Tables::from_ops(&[Op::SetDestination(Address::UNSPECIFIED, Destination::TUNNEL)]);
        let meter = Meter::new(&Registry::default());
        meter.fill(&tables, &path);
        let of = |map| [&meter.entries, &meter.capacity].map(|gauges| gauges[&map].get());
        assert_eq!(of(Map::Mesh), [1, 4]);
        assert_eq!(of(Map::Pods), [0, i64::from(underpass_abi::limits::PODS)]);
    }
}
