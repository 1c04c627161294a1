//! The status of certificates, without keys: for readiness, metrics, logs and the admin API. A plain value, taken after every
//! change.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use underpass_core::Identity;
use underpass_identity::Certificate;
use underpass_telemetry::metrics::{Family, Samples};

use super::book::{Book, State};

/// The certificates of this node, and the trusted roots.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// Every identity that is wanted here, sorted.
    pub certificates: Vec<CertificateStatus>,
    /// Every root that peers are verified against; the one that signs first.
    pub roots: Vec<RootStatus>,
    /// Grows when the roots change.
    pub roots_generation: u64,
    /// The CA.
    pub authority: AuthorityStatus,
}

/// The certificate of one identity. Times are seconds since 1970.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateStatus {
    /// The identity.
    pub identity: String,
    /// `pending`, `valid`, `failing`, `missing`, `not_yet_valid` or `expired`.
    pub state: &'static str,
    /// Hexadecimal.
    pub serial: Option<String>,
    /// The serial number of the root that certifies it.
    pub issuer: Option<String>,
    /// The first second at which it is valid.
    pub not_before_unix_s: Option<u64>,
    /// The last second at which it is valid.
    pub not_after_unix_s: Option<u64>,
    /// The time of its next request.
    pub renewal_due_unix_s: u64,
    /// The time since which requests fail.
    pub failing_since_unix_s: Option<u64>,
    /// The number of failed requests since then.
    pub failures: u32,
    /// The last error of the CA.
    pub error: Option<String>,
}

/// One root.
#[derive(Clone, Debug, Serialize)]
pub struct RootStatus {
    /// Hexadecimal.
    pub serial: String,
    /// Whether its key signs now.
    pub signs: bool,
    /// The first second at which it is valid, since 1970.
    pub not_before_unix_s: u64,
    /// The last second at which it is valid, since 1970.
    pub not_after_unix_s: u64,
}

/// The CA as it was last seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AuthorityStatus {
    /// Whether it could be used when it was last looked at.
    pub reachable: bool,
    /// The time of its last change, in seconds since 1970.
    pub since_unix_s: u64,
    /// The last error, where it is unreachable.
    pub error: Option<String>,
    /// Certificates that were issued since the start.
    pub issued: u64,
    /// Requests that failed since the start.
    pub failed: u64,
}

impl Status {
    pub(super) fn of(book: &Book, now: SystemTime) -> Self {
        let certificate = |(identity, entry): (&Identity, &super::book::Entry)| {
            let own = entry.credential.as_deref();
            CertificateStatus {
                identity: identity.to_string(),
                state: entry.state(now).as_str(),
                serial: own.map(|own| own.serial().to_string()),
                issuer: entry.issuer.as_ref().map(ToString::to_string),
                not_before_unix_s: own.map(|own| unix_s(own.not_before())),
                not_after_unix_s: own.map(|own| unix_s(own.not_after())),
                renewal_due_unix_s: unix_s(entry.renewal.due()),
                failing_since_unix_s: entry.failing.as_ref().map(|(since, _)| unix_s(*since)),
                failures: entry.renewal.failures(),
                error: entry.failing.as_ref().map(|(_, error)| error.clone()),
            }
        };
        // A bundle holds nothing that cannot be read.
        let roots = book.roots.certificates().iter().filter_map(|der| Certificate::parse(der).ok());
        let root = |root: Certificate| RootStatus {
            serial: root.serial().to_string(),
            signs: *root.serial() == book.signer,
            not_before_unix_s: unix_s(root.not_before()),
            not_after_unix_s: unix_s(root.not_after()),
        };
        Self {
            certificates: book.entries.iter().map(certificate).collect(),
            roots: roots.map(root).collect(),
            roots_generation: book.roots.generation(),
            authority: AuthorityStatus {
                reachable: book.ca.error.is_none(),
                since_unix_s: unix_s(book.ca.since),
                error: book.ca.error.clone(),
                issued: book.issued,
                failed: book.failed,
            },
        }
    }
}

fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).as_ref().map_or(0, Duration::as_secs)
}

static CERTIFICATES: Family = Family::gauge(
    "underpass_certificates",
    "Identities of this node by the state of their certificates. Connections are refused where one is missing or expired, and by peers whose clocks find it not yet valid.",
    &["state"],
);
static EXPIRY: Family = Family::gauge(
    "underpass_certificate_expiry_timestamp_seconds",
    "Expiry of the certificate that expires first, in seconds since 1970; absent without certificates.",
    &[],
);
static REQUESTS: Family = Family::counter(
    "underpass_certificate_requests_total",
    "Requests for certificates, by result: issued or failed.",
    &["result"],
);
static REACHABLE: Family = Family::gauge(
    "underpass_certificate_authority_reachable",
    "1 where the certificate authority could be used when it was last looked at, else 0.",
    &[],
);
static ROOTS: Family = Family::gauge("underpass_roots", "Roots that peers are verified against.", &[]);

/// The families of this room.
pub const FAMILIES: &[&Family] = &[&CERTIFICATES, &EXPIRY, &REQUESTS, &REACHABLE, &ROOTS];

impl Status {
    /// Adds the samples of a scrape.
    pub fn measure(&self, samples: &mut Samples) {
        State::ALL.iter().for_each(|state| samples.add(&CERTIFICATES, &[state.as_str()], 0_i64));
        self.certificates.iter().for_each(|own| samples.add(&CERTIFICATES, &[own.state], 1_i64));
        let soonest = self.certificates.iter().filter_map(|own| own.not_after_unix_s).min();
        soonest.into_iter().for_each(|at| samples.add(&EXPIRY, &[], at));
        samples.add(&REQUESTS, &["issued"], self.authority.issued);
        samples.add(&REQUESTS, &["failed"], self.authority.failed);
        samples.add(&REACHABLE, &[], i64::from(self.authority.reachable));
        samples.add(&ROOTS, &[], self.roots.len());
    }
}
