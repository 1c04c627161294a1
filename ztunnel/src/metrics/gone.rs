//! When a series goes whose object is gone: not before it was shown as it is. No clock: a scrape brings the time.

use std::time::{Duration, Instant};

/// Since when a series has been shown, unchanged, with nothing left that will count in it.
#[derive(Debug, Default)]
pub(super) struct Gone(Option<Instant>);

impl Gone {
    /// It counts again.
    pub(super) const fn end(&mut self) {
        self.0 = None;
    }

    /// Does the series stay? Asked by every scrape, before it shows: whatever was counted before is in the first scrape
    /// that finds the series gone, and in those of the time after it.
    pub(super) fn stays(&mut self, is_alive: bool, keep: Duration, now: Instant) -> bool {
        if is_alive {
            self.end();
            return true;
        }
        let since = *self.0.get_or_insert(now);
        now.saturating_duration_since(since) < keep || since == now
    }
}
