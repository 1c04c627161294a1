//! The time between attempts: doubled by every failure in a row, up to a limit, and never the same for two clients, so
//! that an API server that comes back is not asked by all at once.

use std::time::Duration;

/// After the first failure.
const FIRST: Duration = Duration::from_millis(500);
/// At most.
pub(super) const LONGEST: Duration = Duration::from_secs(30);

/// A number from 0 to `most` out of any number.
pub(super) fn below(random: u64, most: u64) -> u64 {
    random.checked_rem(most.saturating_add(1)).unwrap_or(random)
}

/// The time to wait after this many failures in a row; `random` is any number, and takes up to half of it away. None is
/// no time.
pub(super) fn delay(failures: u32, random: u64) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
    let whole = FIRST.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST);
    let half = whole.div_f32(2.0);
    let most = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
    half.saturating_add(Duration::from_micros(below(random, most)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays() {
        let check = |failures, least: u64, most: u64| {
            let all = [0, 1, 12_345, u64::MAX].map(|random| delay(failures, random));
            assert!(all.iter().all(|d| (least..=most).contains(&(d.as_millis() as u64))), "{failures}: {all:?}");
        };
        check(0, 0, 0);
        check(1, 250, 500);
        check(2, 500, 1_000);
        check(7, 15_000, 30_000);
        check(u32::MAX, 15_000, 30_000);
        assert_ne!(delay(3, 1), delay(3, 2));
    }
}
