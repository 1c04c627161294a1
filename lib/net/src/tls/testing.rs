//! A clock that tests set. Behind the feature `testing`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use rustls::{pki_types::UnixTime, time_provider::TimeProvider};

/// Stands still until it is set.
#[derive(Debug)]
pub struct ManualTime(AtomicU64);

impl ManualTime {
    /// A clock that shows `now`.
    #[must_use]
    pub fn new(now: SystemTime) -> Arc<Self> {
        let clock = Arc::new(Self(AtomicU64::new(0)));
        clock.set(now);
        clock
    }

    /// Shows `now` from here on.
    pub fn set(&self, now: SystemTime) {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.0.store(since.as_secs(), Ordering::Relaxed);
    }
}

impl TimeProvider for ManualTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
    }
}
