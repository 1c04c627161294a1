//! The report of a benchmark: a list of entries, the same for the terminal, `target/bench/*.json` and the published table. Times
//! are medians with their range; counts are exact.

use serde::{Deserialize, Serialize};

use super::allocations::Allocations;

/// One number, and whether it is as it should be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The work.
    pub work: String,
    /// To how large a cluster, in pods.
    pub size: usize,
    /// `single` or `dual`.
    pub stack: String,
    /// Of the value.
    pub unit: String,
    /// The median; none: not served, so not measured.
    pub value: Option<f64>,
    /// The least and the most of several.
    pub range: Option<[f64; 2]>,
    /// Allocations meanwhile.
    pub allocations: Option<Allocations>,
    /// Operations on the kernel's tables.
    pub operations: Option<u64>,
    /// At most that.
    pub target: Option<f64>,
    /// The value is there, and at most the target; none where there is no target.
    pub reached: Option<bool>,
}

impl Entry {
    /// Without a value yet.
    #[must_use]
    pub fn new(work: &str, size: usize, stack: &str, unit: &str) -> Self {
        Self {
            work: work.into(),
            size,
            stack: stack.into(),
            unit: unit.into(),
            value: None,
            range: None,
            allocations: None,
            operations: None,
            target: None,
            reached: None,
        }
    }

    /// With this value.
    #[must_use]
    pub fn value(self, value: f64) -> Self {
        Self { value: Some(value), ..self }.judged()
    }

    /// With the median of these values, and their range.
    #[must_use]
    pub fn values(self, values: &[f64]) -> Self {
        let (value, range) = median(values).map_or((None, None), |(value, range)| (Some(value), Some(range)));
        Self { value, range, ..self }.judged()
    }

    /// With what was counted.
    #[must_use]
    pub fn counts(self, allocations: Allocations, operations: u64) -> Self {
        Self { allocations: Some(allocations), operations: Some(operations), ..self }
    }

    /// With a target.
    #[must_use]
    pub fn target(self, target: f64) -> Self {
        Self { target: Some(target), ..self }.judged()
    }

    fn judged(self) -> Self {
        let reached = self.target.map(|target| self.value.is_some_and(|value| value <= target));
        Self { reached, ..self }
    }
}

/// The median, and the least and the most; nothing of nothing.
#[must_use]
pub fn median(values: &[f64]) -> Option<(f64, [f64; 2])> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (first, last) = (*sorted.first()?, *sorted.last()?);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some((f64::midpoint(lower, upper), [first, last]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_ends() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some((3.0, [3.0, 3.0])));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some((2.0, [1.0, 9.0])));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some((3.0, [1.0, 9.0])));
    }

    #[test]
    fn a_target_is_reached_by_a_value_alone() {
        let entry = || Entry::new("w", 1000, "single", "ms CPU");
        assert_eq!(entry().value(3.0).reached, None);
        assert_eq!(entry().value(5.0).target(5.0).reached, Some(true));
        assert_eq!(entry().target(5.0).value(5.1).reached, Some(false));
        assert_eq!(entry().target(5.0).reached, Some(false), "not served");
    }
}
