//! The newest snapshot that waits for the certificates of its identities, for a limited time. Its own file because the time is an
//! argument: identities that are ever new must not keep a policy from being applied.

use std::time::Instant;

use crate::certs::LONGEST_WAIT;

/// The newest value that waits, and the time of the oldest change in it.
#[derive(Debug)]
pub(super) struct Waiting<T>(Option<(T, Instant)>);

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Waiting<T> {
    /// Lets this wait in place of what did.
    pub(super) fn put(&mut self, newest: T, now: Instant) {
        let since = self.0.as_ref().map_or(now, |(_, since)| *since);
        self.0 = Some((newest, since));
    }

    /// The end of the wait.
    pub(super) fn until(&self) -> Option<Instant> {
        self.0.as_ref().map(|(_, since)| *since + LONGEST_WAIT)
    }

    /// Takes what is to be applied now; `pending`: an identity has no certificate yet.
    pub(super) fn take(&mut self, pending: bool, now: Instant) -> Option<T> {
        let due = !pending || self.until().is_some_and(|until| until <= now);
        self.0.take_if(|_| due).map(|(newest, _)| newest)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_oldest_change_counts() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut waiting = Waiting::default();
        assert_eq!((waiting.until(), waiting.take(false, began)), (None, None));
        // Every second another identity that has no certificate.
        for second in 0..3 {
            waiting.put(second, at(second));
            assert_eq!((waiting.until(), waiting.take(true, at(second))), (Some(at(3)), None));
        }
        waiting.put(3, at(3));
        assert_eq!(waiting.take(true, at(3)), Some(3));
        // The next one begins anew, and waits only for a certificate.
        waiting.put(4, at(4));
        assert_eq!((waiting.until(), waiting.take(true, at(6))), (Some(at(7)), None));
        assert_eq!((waiting.take(false, at(6)), waiting.take(false, at(6))), (Some(4), None));
    }
}
