//! The errors of a handshake with a server that is known by its name. One line each: who refused, and why.

use std::{io, time::Duration};

use rustls::{CertificateError, Error as RustlsError, InvalidMessage};

use crate::tls::SessionError;

/// The reason why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// This end, a client, does not believe the server.
    #[error("the server's certificate was refused: {}", words(.0))]
    Certificate(CertificateError),
    /// The two ends do not agree, or the other end refused this one.
    #[error("TLS handshake failed: {0}")]
    Refused(SessionError),
    /// Another protocol, or none.
    #[error("the peer does not speak TLS")]
    NotTls,
    /// The peer closed the connection without an alert.
    #[error("the peer ended the connection in the middle of the TLS handshake")]
    Ended,
    /// The peer is slow, or silent.
    #[error("TLS handshake not done after {} ms", limit.as_millis())]
    TimedOut {
        /// The limit.
        limit: Duration,
    },
    /// The connection below failed.
    #[error("the connection failed in the middle of the TLS handshake: {0}")]
    Io(#[source] io::Error),
}

/// What the library has in one word of its own, in words.
fn words(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => "its chain leads to no authority that is believed".into(),
        CertificateError::Revoked => "it is revoked".into(),
        CertificateError::UnknownRevocationStatus => "no list of revoked certificates covers it".into(),
        other => other.to_string(),
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<RustlsError>()) else {
            return if error.kind() == io::ErrorKind::UnexpectedEof { Self::Ended } else { Self::Io(error) };
        };
        match tls {
            RustlsError::InvalidCertificate(refused) => Self::Certificate(refused.clone()),
            RustlsError::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => Self::NotTls,
            other => Self::Refused(other.clone().into()),
        }
    }
}
