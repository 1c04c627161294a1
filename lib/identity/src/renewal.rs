//! The schedule of a certificate's renewal. Pure: the time and random numbers are arguments, the caller sleeps.
//!
//! ```text
//!   first(now) --due--> ask the CA --answer--> issued(now, not_after)  due at half its life, give or take 5 %
//!                          ^   \--failure--> failed(now)  due after a pause that doubles, 1 s to 5 min, half of it random
//!                          '-----due-----------'
//! ```
//! All of it is wall time, because certificates are: a waiting caller has to notice when the clock is set.
//!
//! A failure never makes a certificate unusable: it serves until it expires, and the nearer that is, the shorter the
//! pauses. Where there is a reason to hope (`at_once`), it is due now.

use std::time::{Duration, SystemTime};

/// The shortest pause, where a certificate is about to expire.
pub const PAUSE_FLOOR: Duration = Duration::from_millis(100);
/// The pause after the first failure.
pub const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause.
pub const PAUSE_MAX: Duration = Duration::from_secs(300);

/// The state of one identity's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    due: SystemTime,
    not_after: Option<SystemTime>,
    failures: u32,
}

impl Renewal {
    /// No certificate yet: due at once.
    #[must_use]
    pub const fn first(now: SystemTime) -> Self {
        Self { due: now, not_after: None, failures: 0 }
    }

    /// A certificate arrived at `now`. `random` is uniform; its spread keeps a cluster that started at once from
    /// renewing at once.
    #[must_use]
    pub fn issued(now: SystemTime, not_after: SystemTime, random: u64) -> Self {
        // Counted from its arrival, not from notBefore, which lies in the past on purpose.
        let life = not_after.duration_since(now).unwrap_or_default();
        let due = now + life.mul_f64(0.45 + 0.1 * unit(random));
        Self { due, not_after: Some(not_after), failures: 0 }
    }

    /// The CA issued none.
    #[must_use]
    pub fn failed(&self, now: SystemTime, random: u64) -> Self {
        let doubled = PAUSE_MIN.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(PAUSE_MAX);
        // At least four more tries before it expires.
        let left = self.not_after.and_then(|end| end.duration_since(now).ok()).filter(|left| !left.is_zero());
        let pause = left.map_or(doubled, |left| doubled.min(left / 4)).max(PAUSE_FLOOR);
        let due = now + pause.mul_f64(0.5 + 0.5 * unit(random));
        Self { due, not_after: self.not_after, failures: self.failures.saturating_add(1) }
    }

    /// Makes the renewal due at once: the CA answers again, or signs with another key, or the clock was set back, so
    /// that `due` is further away than it was meant to be. What was counted stays.
    #[must_use]
    pub const fn at_once(&self, now: SystemTime) -> Self {
        Self { due: now, ..*self }
    }

    /// The time of the next request.
    #[must_use]
    pub const fn due(&self) -> SystemTime {
        self.due
    }

    /// Failures since the last answer.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// There is a certificate and it has expired at `now`.
    #[must_use]
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.not_after.is_some_and(|end| now > end)
    }
}

/// 0 to 1, of which 2^53 steps are enough.
fn unit(random: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "the top 53 bits fit the mantissa exactly")]
    let top = (random >> 11) as f64;
    top / 9_007_199_254_740_992.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn renews_around_half_its_life() {
        let now = at(1_000_000);
        let due = |random| Renewal::issued(now, now + DAY, random).due().duration_since(now).unwrap();
        assert_eq!(due(0), DAY.mul_f64(0.45));
        assert!(due(u64::MAX) <= DAY.mul_f64(0.55) && due(u64::MAX) > DAY.mul_f64(0.5499));
        assert!((due(u64::MAX / 2).as_secs_f64() - 43_200.0).abs() < 1.0);
    }

    #[test]
    fn pauses_double_up_to_a_limit() {
        let now = at(1_000_000);
        let mut renewal = Renewal::first(now);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            renewal = renewal.failed(now, u64::MAX);
            pauses.push(renewal.due().duration_since(now).unwrap().as_secs_f64().round());
        }
        assert_eq!(pauses, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 300.0, 300.0, 300.0]);
        assert_eq!(Renewal::issued(now, now + DAY, 0).failures(), 0);
    }

    proptest! {
        #[test]
        fn is_never_late(life_s in 1_u64..200_000, random: u64) {
            let now = at(5_000_000);
            let end = now + Duration::from_secs(life_s);
            let renewal = Renewal::issued(now, end, random);
            prop_assert!(renewal.due() > now && renewal.due() < end && !renewal.is_expired(end));
            prop_assert!(renewal.is_expired(end + Duration::from_secs(1)));
        }

        #[test]
        fn a_failing_ca_is_asked_often_enough(life_s in 4_u64..200_000, dice in proptest::collection::vec(any::<u64>(), 1..400)) {
            let start = at(5_000_000);
            let end = start + Duration::from_secs(life_s);
            let mut renewal = Renewal::issued(start, end, dice[0]);
            let mut tries = 0_usize;
            for random in &dice {
                if renewal.is_expired(renewal.due()) { break; }
                tries += 1;
                let now = renewal.due();
                renewal = renewal.failed(now, *random);
                let pause = renewal.due().duration_since(now).unwrap();
                prop_assert!(pause >= PAUSE_FLOOR / 2 && pause <= PAUSE_MAX);
            }
            prop_assert!(tries >= dice.len().min(5), "{tries} tries in {life_s} s");
        }

        #[test]
        fn many_failures_do_not_overflow(failures in 0_u32..u32::MAX, random: u64) {
            let renewal = Renewal { due: at(1), not_after: None, failures };
            let next = renewal.failed(at(1), random);
            prop_assert!(next.due() <= at(1) + PAUSE_MAX && next.failures() == failures + 1);
        }
    }
}
