//! Why a session is over, and what the library's errors mean to us.

use rustls::{AlertDescription, Error as RustlsError};

use crate::tls::verify::{Refusal, VerifyError};

/// Why a session is over.
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
    #[error("nothing in common with the peer: {0:?}")]
    Incompatible(rustls::PeerIncompatible),
    /// It refused us.
    #[error("the peer ended the session with alert {0:?}")]
    PeerAlert(AlertDescription),
    /// A record that the peer's key did not make.
    #[error("a record was forged or damaged")]
    Tampered,
    /// The stream ended, and the peer did not say that it would.
    #[error("the stream ended without close_notify")]
    Truncated,
    /// The peer broke the protocol.
    #[error("the peer broke the protocol")]
    Protocol(#[source] RustlsError),
    /// A handshake message that grows and grows.
    #[error("a handshake message is longer than {limit} bytes")]
    MessageTooLong {
        /// In bytes, record headers included.
        limit: usize,
    },
    /// Data before [`Event::Connected`](super::Event::Connected).
    #[error("cannot encrypt before the handshake is done")]
    NotConnected,
    /// After [`Session::close`](super::Session::close), or after an error.
    #[error("the session is over")]
    Closed,
    /// We have no time, no randomness, no key.
    #[error("this end cannot do TLS")]
    Local(#[source] RustlsError),
}

impl SessionError {
    /// The reason in one word.
    #[must_use]
    pub const fn reason(&self) -> Refusal {
        match self {
            Self::Peer(e) => e.refusal(),
            Self::NoCertificate => Refusal::NoCertificate,
            Self::Alpn => Refusal::Alpn,
            Self::Incompatible(_) => Refusal::Incompatible,
            Self::PeerAlert(_) => Refusal::PeerRefused,
            Self::Tampered => Refusal::Tampered,
            Self::Truncated => Refusal::Truncated,
            Self::Protocol(_) | Self::MessageTooLong { .. } => Refusal::Protocol,
            Self::NotConnected | Self::Local(_) => Refusal::Local,
            Self::Closed => Refusal::Closed,
        }
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
            // What a server answers where its ALPN has no `h2` (RFC 7301, 3.2).
            RustlsError::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::Alpn,
            RustlsError::AlertReceived(alert) => Self::PeerAlert(alert),
            RustlsError::PeerIncompatible(e) => Self::Incompatible(e),
            RustlsError::DecryptError => Self::Tampered,
            RustlsError::FailedToGetCurrentTime | RustlsError::FailedToGetRandomBytes | RustlsError::EncryptError => {
                Self::Local(error)
            }
            _ => Self::Protocol(error),
        }
    }
}
