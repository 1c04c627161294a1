//! A rate-limited warning, logged once a minute at most.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// Shortest time between two warnings.
const EVERY: Duration = Duration::from_secs(60);

/// A rate-limited warning: the time of the last one, and the number of its causes since.
#[derive(Debug, Default)]
pub(crate) struct RateLimitedWarning {
    logged: Cell<Option<Instant>>,
    times: Cell<u64>,
}

impl RateLimitedWarning {
    /// Counts a cause. Where the warning is to be logged: the number of causes since the last one.
    pub(crate) fn due(&self, now: Instant) -> Option<u64> {
        self.times.set(self.times.get() + 1);
        if self.logged.get().is_some_and(|logged| now.saturating_duration_since(logged) < EVERY) {
            return None;
        }
        self.logged.set(Some(now));
        Some(self.times.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_causes_are_logged_once_a_minute() {
        let (warning, start) = (RateLimitedWarning::default(), Instant::now());
        for (after_ms, logged) in
            [(0, Some(1)), (1, None), (59_999, None), (60_000, Some(3)), (60_001, None), (200_000, Some(2))]
        {
            assert_eq!(warning.due(start + Duration::from_millis(after_ms)), logged, "after {after_ms} ms");
        }
    }
}
