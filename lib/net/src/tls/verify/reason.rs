//! The reasons for which a peer is refused: with all details as an error, and in one word for logs and metrics.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{CertificateError, Error as RustlsError, OtherError, pki_types::UnixTime};
use underpass_core::Identity;
use underpass_identity::SanError;

use super::{Expected, TrustDomains};

/// Why a peer's certificate was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The leaf, or a certificate above it, is over.
    #[error("a certificate expired at {not_after}, it is {now} (seconds since 1970)", not_after = unix(not_after), now = unix(now))]
    Expired {
        /// The certificate's end.
        not_after: SystemTime,
        /// The time of the check.
        now: SystemTime,
    },
    /// Clocks differ by more than the CA allows for.
    #[error("a certificate is valid from {not_before}, it is {now} (seconds since 1970)", not_before = unix(not_before), now = unix(now))]
    NotYetValid {
        /// The certificate's begin.
        not_before: SystemTime,
        /// The time of the check.
        now: SystemTime,
    },
    /// No root of ours stands behind it.
    #[error("its chain does not lead to a root of ours")]
    Untrusted(#[source] webpki::Error),
    /// It cannot be read.
    #[error("it has a malformed certificate")]
    Malformed(#[source] webpki::Error),
    /// It is good for something else.
    #[error("its certificate may not be used for this")]
    Purpose(#[source] webpki::Error),
    /// It names no workload, or several.
    #[error("its certificate does not name one workload")]
    Names(#[source] SanError),
    /// Somebody else answers at this address.
    #[error("expected {expected}, found {found}")]
    Unexpected {
        /// Who may answer.
        expected: Expected,
        /// Who did.
        found: Identity,
    },
    /// A workload of another mesh.
    #[error("expected an identity of trust domain {expected}, found {found}")]
    ForeignTrustDomain {
        /// Whose workloads may connect.
        expected: TrustDomains,
        /// Who did.
        found: Identity,
    },
}

fn unix(time: &SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Why a session ended or never began, in one word: for logs and metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// The peer's certificate is over.
    Expired,
    /// The peer's certificate begins later.
    NotYetValid,
    /// The peer's chain leads to no root of ours.
    Untrusted,
    /// The peer's certificate is for other uses.
    WrongPurpose,
    /// Another workload than expected.
    WrongIdentity,
    /// No workload, or several, in the peer's certificate.
    NotOneIdentity,
    /// A workload of another mesh.
    ForeignTrustDomain,
    /// The peer showed no certificate.
    NoCertificate,
    /// The peer's certificate cannot be read.
    MalformedCertificate,
    /// The peer does not speak `h2`.
    Alpn,
    /// No version, cipher or key exchange in common.
    Incompatible,
    /// The peer refused us, by an alert.
    PeerRefused,
    /// Bytes that the peer's key did not make.
    Tampered,
    /// The stream ended without close_notify.
    Truncated,
    /// The peer broke the protocol.
    Protocol,
    /// The session is over.
    Closed,
    /// Our own fault: no randomness, no clock.
    Local,
}

impl Refusal {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Untrusted => "untrusted",
            Self::WrongPurpose => "wrong_purpose",
            Self::WrongIdentity => "wrong_identity",
            Self::NotOneIdentity => "not_one_identity",
            Self::ForeignTrustDomain => "foreign_trust_domain",
            Self::NoCertificate => "no_certificate",
            Self::MalformedCertificate => "malformed_certificate",
            Self::Alpn => "alpn",
            Self::Incompatible => "incompatible",
            Self::PeerRefused => "peer_refused",
            Self::Tampered => "tampered",
            Self::Truncated => "truncated",
            Self::Protocol => "protocol",
            Self::Closed => "closed",
            Self::Local => "local",
        }
    }
}

impl VerifyError {
    /// The reason in one word.
    #[must_use]
    pub const fn refusal(&self) -> Refusal {
        match self {
            Self::Expired { .. } => Refusal::Expired,
            Self::NotYetValid { .. } => Refusal::NotYetValid,
            Self::Untrusted(_) => Refusal::Untrusted,
            Self::Malformed(_) => Refusal::MalformedCertificate,
            Self::Purpose(_) => Refusal::WrongPurpose,
            Self::Names(_) => Refusal::NotOneIdentity,
            Self::Unexpected { .. } => Refusal::WrongIdentity,
            Self::ForeignTrustDomain { .. } => Refusal::ForeignTrustDomain,
        }
    }

    pub(super) fn from_webpki(error: webpki::Error) -> Self {
        match error {
            webpki::Error::CertExpired { time, not_after } => {
                Self::Expired { not_after: system_time(not_after), now: system_time(time) }
            }
            webpki::Error::CertNotValidYet { time, not_before } => {
                Self::NotYetValid { not_before: system_time(not_before), now: system_time(time) }
            }
            e @ (webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::TrailingData(_)) => {
                Self::Malformed(e)
            }
            e @ webpki::Error::RequiredEkuNotFoundContext(_) => Self::Purpose(e),
            e => Self::Untrusted(e),
        }
    }

    /// What rustls is told: it chooses the alert by the variant, and hands the error back to the session.
    pub(super) fn into_rustls(self) -> RustlsError {
        RustlsError::InvalidCertificate(match self {
            Self::Expired { not_after, now } => {
                CertificateError::ExpiredContext { time: unix_time(now), not_after: unix_time(not_after) }
            }
            Self::NotYetValid { not_before, now } => {
                CertificateError::NotValidYetContext { time: unix_time(now), not_before: unix_time(not_before) }
            }
            Self::Untrusted(webpki::Error::UnknownIssuer) => CertificateError::UnknownIssuer,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }

    /// The way back; `None` for what did not come from here.
    pub(crate) fn from_rustls(error: &CertificateError) -> Option<Self> {
        Some(match error {
            CertificateError::ExpiredContext { time, not_after } => {
                Self::Expired { not_after: system_time(*not_after), now: system_time(*time) }
            }
            CertificateError::NotValidYetContext { time, not_before } => {
                Self::NotYetValid { not_before: system_time(*not_before), now: system_time(*time) }
            }
            CertificateError::UnknownIssuer => Self::Untrusted(webpki::Error::UnknownIssuer),
            CertificateError::Other(OtherError(other)) => other.downcast_ref::<Self>()?.clone(),
            _ => return None,
        })
    }
}

pub(crate) fn system_time(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

pub(crate) fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}
