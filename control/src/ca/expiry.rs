//! The end of the CA, told in time: no certificate outlives it.

use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use super::source::Newest;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// The time before the end from which it is told.
const IN_TIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// Says so in the log once a day, from a month before the end, for as long as it is polled.
pub async fn tell(mut authority: Newest) {
    loop {
        let not_after = authority.borrow_and_update().not_after();
        if let Some(days) = days_left(not_after, SystemTime::now()) {
            tracing::warn!(
                days,
                "certificate authority ends in so many days, and no certificate outlives it: see underpass ca status"
            );
        }
        tokio::select! {
            changed = authority.changed() => if changed.is_err() { return },
            () = sleep(DAY) => {}
        }
    }
}

/// Whole days until the end, where it is near.
fn days_left(not_after: SystemTime, now: SystemTime) -> Option<u64> {
    let left = not_after.duration_since(now).unwrap_or_default();
    (left <= IN_TIME).then(|| left.as_secs() / DAY.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_a_month_before() {
        let now = SystemTime::UNIX_EPOCH + 1000 * DAY;
        for (days, told) in [(31, None), (30, Some(30)), (1, Some(1)), (0, Some(0))] {
            assert_eq!(days_left(now + days * DAY, now), told, "{days}");
        }
        assert_eq!(days_left(now - DAY, now), Some(0));
    }
}
