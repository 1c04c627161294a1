//! Pauses between streams. Pure: random numbers are arguments.

use std::time::Duration;

/// The shortest pause. It spreads the nodes of a cluster whose control plane ended all streams at once.
const SHORTEST: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(15);

/// How often streams failed since the last response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// A response arrived.
    pub(super) const fn answered(&mut self) {
        self.failures = 0;
    }

    /// A stream ended: the pause before the next one, which doubles from 200 ms to 15 s and of which a random part
    /// remains. `random` is uniform.
    pub(super) fn ended(&mut self, random: u64) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        let pause = SHORTEST.saturating_mul(factor).min(LONGEST);
        let half = pause.checked_div(2).unwrap_or_default();
        let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        half.saturating_add(Duration::from_nanos(random.checked_rem(nanos).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..9).map(|_| backoff.ended(0).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 6_400, 7_500, 7_500]);
        backoff.answered();
        assert_eq!(backoff.ended(0).as_millis(), 100);
        for random in [0, 1, 12_345_678_901, u64::MAX] {
            let pause = Backoff { failures: 40 }.ended(random);
            assert!(pause >= LONGEST / 2 && pause <= LONGEST, "{pause:?}");
        }
    }
}
