//! A histogram that many threads count in, with the bounds of Envoy. Its own, because one of the crate `prometheus` is found by
//! the text of all its labels.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use underpass_telemetry::metrics::{Family, Lines};

/// The upper bounds, in ms or bytes, as Istio's dashboards know them.
pub(super) const BOUNDS: &[f64] = &[
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// Counts of observations. `UNIT` of what is added are one of its bounds' unit.
#[derive(Debug, Default)]
pub(super) struct Histogram<const UNIT: u64> {
    /// Those up to each bound, and above all of them.
    counts: [AtomicU64; BOUNDS.len() + 1],
    sum: AtomicU64,
}

impl<const UNIT: u64> Histogram<UNIT> {
    pub(super) fn observe(&self, value: u64) {
        let scaled = value as f64 / UNIT as f64;
        let at = BOUNDS.partition_point(|bound| *bound < scaled);
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(value, Relaxed);
    }

    pub(super) fn show(&self, family: &Family, labels: &[&str], lines: &mut Lines) {
        let counts = self.counts.each_ref().map(|count| count.load(Relaxed));
        lines.histogram(family, labels, &counts, self.sum.load(Relaxed) as f64 / UNIT as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_counts_up_to_its_bound() {
        let check = |micros: u64, expect: usize| {
            let histogram = Histogram::<1000>::default();
            histogram.observe(micros);
            let at = histogram.counts.iter().position(|count| count.load(Relaxed) == 1);
            assert_eq!(at, Some(expect), "{micros}");
        };
        check(0, 0);
        check(500, 0);
        check(501, 1);
        check(1000, 1);
        check(1001, 2);
        check(3_600_000_000, BOUNDS.len() - 1);
        check(3_600_000_001, BOUNDS.len());
    }
}
