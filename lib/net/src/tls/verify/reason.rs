//! The reasons to refuse a peer's certificate, with all details, and their conversion from and to the library's errors.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{CertificateError, Error as RustlsError, OtherError, pki_types::UnixTime};
use underpass_core::{Identities, Identity, tls::Refusal};
use underpass_identity::SanError;

use super::TrustDomains;

/// The reason to refuse a peer's certificate.
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
    #[error("its chain does not lead to a root of the bundle")]
    Untrusted(#[source] webpki::Error),
    /// It cannot be read.
    #[error("its chain has a malformed certificate")]
    Malformed(#[source] webpki::Error),
    /// Its key usage is another one.
    #[error("its certificate may not be used for this end of a TLS connection")]
    Purpose(#[source] webpki::Error),
    /// It names no workload, or several.
    #[error("its certificate does not name one workload")]
    Names(#[source] SanError),
    /// Another workload answers at this address.
    #[error("expected {expected}, found {found}")]
    Unexpected {
        /// The identities that may answer.
        expected: Identities,
        /// The identity that did.
        found: Identity,
    },
    /// A workload of another mesh.
    #[error("expected an identity of trust domain {expected}, found {found}")]
    ForeignTrustDomain {
        /// The trust domains whose workloads may connect.
        expected: TrustDomains,
        /// The identity that did.
        found: Identity,
    },
}

fn unix(time: &SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl VerifyError {
    /// The reason in one word.
    #[must_use]
    pub const fn refusal(&self) -> Refusal {
        match self {
            Self::Expired { .. } => Refusal::Expired,
            Self::NotYetValid { .. } => Refusal::NotYetValid,
            Self::Untrusted(_) => Refusal::UnknownIssuer,
            Self::Malformed(_) => Refusal::MalformedCertificate,
            Self::Purpose(_) => Refusal::WrongPurpose,
            Self::Names(SanError::None) => Refusal::NoUriSan,
            Self::Names(SanError::Several { .. }) => Refusal::SeveralUriSans,
            Self::Names(SanError::NotAnIdentity { .. }) => Refusal::NotAnIdentity,
            Self::Names(SanError::Malformed) => Refusal::MalformedCertificate,
            Self::Unexpected { .. } => Refusal::UnexpectedIdentity,
            Self::ForeignTrustDomain { .. } => Refusal::OtherTrustDomain,
        }
    }

    /// The one URI that the certificate names. None of a chain that leads to no root of ours: it proves nothing.
    pub(crate) fn found(&self) -> Option<String> {
        match self {
            Self::Unexpected { found, .. } | Self::ForeignTrustDomain { found, .. } => Some(found.to_string()),
            Self::Names(SanError::NotAnIdentity { uri, .. }) => Some(uri.clone()),
            _ => None,
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

    /// The error for rustls, which chooses the alert by the variant and hands the error back to the session.
    pub(super) fn into_rustls(self) -> RustlsError {
        RustlsError::InvalidCertificate(match self {
            Self::Expired { not_after, now } => {
                CertificateError::ExpiredContext { time: unix_time(now), not_after: unix_time(not_after) }
            }
            Self::NotYetValid { not_before, now } => {
                CertificateError::NotValidYetContext { time: unix_time(now), not_before: unix_time(not_before) }
            }
            // The latter is what a root of the same name comes to: to the peer it is the same, an unknown CA.
            Self::Untrusted(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => {
                CertificateError::UnknownIssuer
            }
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }

    /// The error out of rustls' one; `None` where it was not made by [`Self::into_rustls`].
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
