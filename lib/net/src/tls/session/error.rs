//! The errors of a session, and their mapping from the library's.

use std::error::Error;

use rustls::{Error as RustlsError, PeerIncompatible};
use underpass_core::tls::{Alert, Refusal, TlsFailure};

use super::Session;
use crate::tls::verify::VerifyError;

/// The error that ended a session.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SessionError {
    /// Its certificate.
    #[error("the peer's certificate was refused")]
    Peer(#[source] VerifyError),
    /// It showed none.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// No `h2`.
    #[error("the peer did not agree to speak h2")]
    Alpn,
    /// No version, cipher, key exchange or signature scheme in common.
    #[error("no TLS parameters in common with the peer: {0:?}")]
    Incompatible(PeerIncompatible),
    /// It refused us.
    #[error("peer refused: {}", .0.name())]
    PeerAlert(Alert),
    /// A record that the peer's key did not make.
    #[error("a record of the peer was forged or damaged")]
    Tampered,
    /// The connection ended, and the peer had not announced it.
    #[error("the connection ended without close_notify")]
    Truncated,
    /// The peer broke the protocol.
    #[error("the peer broke the protocol")]
    Protocol(#[source] RustlsError),
    /// A handshake message that grows beyond the limit.
    #[error("a handshake message of the peer is longer than {limit} bytes")]
    MessageTooLong {
        /// In bytes, record headers included.
        limit: usize,
    },
    /// Data before [`Event::Connected`](super::Event::Connected).
    #[error("cannot encrypt before the handshake is done")]
    NotConnected,
    /// After [`Session::close`](super::Session::close), or after an error.
    #[error("the TLS session is over")]
    Closed,
    /// This end has no time, no randomness or no key.
    #[error("TLS failed on this end")]
    Local(#[source] RustlsError),
}

impl SessionError {
    /// The reason in one word.
    #[must_use]
    pub const fn reason(&self) -> Refusal {
        match self {
            Self::Peer(e) => e.refusal(),
            Self::NoCertificate => Refusal::NoCertificate,
            Self::Alpn => Refusal::NoCommonProtocol,
            Self::Incompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled,
            ) => Refusal::NoCommonVersion,
            Self::Incompatible(PeerIncompatible::NoCipherSuitesInCommon) => Refusal::NoCommonCipher,
            Self::Incompatible(_) => Refusal::Incompatible,
            Self::PeerAlert(alert) => Refusal::Alert(*alert),
            Self::Tampered => Refusal::Tampered,
            Self::Truncated => Refusal::Truncated,
            Self::Protocol(_) | Self::MessageTooLong { .. } => Refusal::Protocol,
            Self::NotConnected | Self::Local(_) => Refusal::Local,
            Self::Closed => Refusal::Closed,
        }
    }

    /// The failure that the connections of this session end with. `expected`, the identities that may answer, is part of
    /// it where the peer's identity is the reason.
    #[must_use]
    pub fn failure(&self, expected: Option<String>) -> TlsFailure {
        let refusal = self.reason();
        let causes = std::iter::successors(self.source(), |e| (*e).source());
        let says = causes.fold(self.to_string(), |text, cause| format!("{text}: {cause}"));
        let found = if let Self::Peer(refused) = self { refused.found() } else { None };
        TlsFailure::new(refusal, says, found, expected.filter(|_| refusal.is_about_the_peer()))
    }
}

impl Session {
    /// The failure that the connections of this session end with, where it ended by `error`.
    #[must_use]
    pub fn failure(&self, error: &SessionError) -> TlsFailure {
        error.failure(Some(self.accept.to_string()))
    }
}

impl From<RustlsError> for SessionError {
    fn from(error: RustlsError) -> Self {
        match error {
            RustlsError::InvalidCertificate(ref e) => {
                VerifyError::from_rustls(e).map_or(Self::Protocol(error.clone()), Self::Peer)
            }
            RustlsError::NoCertificatesPresented => Self::NoCertificate,
            RustlsError::NoApplicationProtocol => Self::Alpn,
            RustlsError::AlertReceived(alert) => Self::PeerAlert(Alert(alert.into())),
            RustlsError::PeerIncompatible(e) => Self::Incompatible(e),
            RustlsError::DecryptError => Self::Tampered,
            RustlsError::FailedToGetCurrentTime | RustlsError::FailedToGetRandomBytes | RustlsError::EncryptError => {
                Self::Local(error)
            }
            _ => Self::Protocol(error),
        }
    }
}
