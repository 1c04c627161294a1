//! A manual clock, and configurations with short-lived keys. Behind the feature `testing`.

#![allow(clippy::missing_panics_doc, reason = "tests alone use it, and want to panic")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use rustls::{
    CipherSuiteCommon, SupportedCipherSuite, Tls13CipherSuite, crypto::aws_lc_rs::cipher_suite, pki_types::UnixTime,
    time_provider::TimeProvider,
};

use super::Configs;

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

/// Configurations whose keys are good for `records` records: they change in bulk.
#[must_use]
pub fn short_lived_keys(records: u64, time: Arc<ManualTime>) -> Configs {
    #[allow(irrefutable_let_patterns, reason = "TLS 1.2 is there only where tests of this crate are built")]
    let SupportedCipherSuite::Tls13(original) = cipher_suite::TLS13_AES_128_GCM_SHA256 else {
        panic!("a TLS 1.3 suite");
    };
    let common = CipherSuiteCommon {
        suite: original.common.suite,
        hash_provider: original.common.hash_provider,
        confidentiality_limit: records,
    };
    let suite =
        Tls13CipherSuite { common, hkdf_provider: original.hkdf_provider, aead_alg: original.aead_alg, quic: None };
    // The library wants its suites to live for ever; a test makes one.
    let suite = SupportedCipherSuite::Tls13(Box::leak(Box::new(suite)));
    Configs::with_suites(vec![suite], time).expect("one suite")
}
