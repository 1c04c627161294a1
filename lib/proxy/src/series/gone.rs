//! Retention of a series whose object is gone: it is dropped after its last values were shown for a time. No clock: a scrape brings
//! the time.

use std::time::{Duration, Instant};

/// The time since which a series has been shown unchanged, with nothing left that will count in it.
#[derive(Debug, Default)]
pub struct Gone(Option<Instant>);

impl Gone {
    /// Resets it: the series counts again.
    pub const fn end(&mut self) {
        self.0 = None;
    }

    /// True while the series stays. Called by every scrape, before it shows: all counts are in the first scrape that finds the
    /// object gone, and in those of the time after it.
    #[must_use]
    pub fn stays(&mut self, is_alive: bool, keep: Duration, now: Instant) -> bool {
        if is_alive {
            self.end();
            return true;
        }
        let since = *self.0.get_or_insert(now);
        now.saturating_duration_since(since) < keep || since == now
    }
}
