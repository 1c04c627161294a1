//! The wait before a waypoint that ended is started again. Pure: what time has passed, and the dice, are arguments.
//!
//! ```text
//! ended before it had served for STEADY: FIRST, twice as long each time, MOST at most
//! ended after that:                      FIRST
//! ```
//! Of each the dice take up to half away, so that what ended together does not start together.

use std::time::Duration;

/// The first wait.
const FIRST: Duration = Duration::from_millis(100);
/// The longest.
const MOST: Duration = Duration::from_secs(30);
/// The time after which one that serves counts as well.
const STEADY: Duration = Duration::from_secs(60);

/// The ends so far, since the last that served for long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    in_a_row: u32,
}

impl Backoff {
    /// The wait after an end. `served`: for how long it had served.
    pub(super) fn ended(&mut self, served: Duration, dice: u64) -> Duration {
        if served >= STEADY {
            self.in_a_row = 0;
        }
        let wait = FIRST.saturating_mul(1_u32.checked_shl(self.in_a_row).unwrap_or(u32::MAX)).min(MOST);
        self.in_a_row = self.in_a_row.saturating_add(1);
        let half = u64::try_from(wait.as_millis() / 2).unwrap_or(u64::MAX);
        wait.saturating_sub(Duration::from_millis(dice % half.saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIEFLY: Duration = Duration::from_secs(59);

    #[test]
    fn it_doubles_up_to_a_limit_and_begins_anew_after_a_while() {
        let mut backoff = Backoff::default();
        let mut waits =
            |served: Duration, n| -> Vec<u128> { (0..n).map(|_| backoff.ended(served, 0).as_millis()).collect() };
        assert_eq!(waits(BRIEFLY, 10), [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000]);
        assert_eq!(waits(BRIEFLY, 100).last(), Some(&30_000));
        assert_eq!(waits(STEADY, 1), [100]);
        assert_eq!(waits(BRIEFLY, 2), [200, 400]);
    }

    #[test]
    fn the_dice_take_up_to_half_away() {
        let wait = |dice| Backoff { in_a_row: 3 }.ended(BRIEFLY, dice).as_millis();
        assert_eq!([0, 1, 400, 401].map(wait), [800, 799, 400, 800]);
        assert!((0..10_000).map(wait).all(|wait| (400..=800).contains(&wait)));
        assert!(Backoff::default().ended(BRIEFLY, u64::MAX) >= FIRST / 2);
    }
}
