//! Failures of mutual TLS with a peer: the refusing end, the word for the reason, and the identities. Beside
//! [`crate::reason`] because it is a closed list of its own; here and not where TLS is spoken because the log line, the
//! metric label and the CLI say it.
//!
//! What must hold: a word is one of a fixed list, independent of the peer's bytes, because it labels a metric. What a
//! peer has chosen (names, dates) stands in the details alone.

use std::{fmt, sync::Arc};

/// The end that refused the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedBy {
    /// This end.
    Us,
    /// The other end, which says no more than an alert.
    Peer,
}

impl RefusedBy {
    /// As logged.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Us => "us",
            Self::Peer => "peer",
        }
    }
}

/// The reason why a session was refused, or broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// The peer's certificate, or one above it, is over.
    Expired,
    /// The peer's certificate, or one above it, begins later.
    NotYetValid,
    /// The peer's chain leads to no root of ours.
    UnknownIssuer,
    /// The peer's certificate is for other uses.
    WrongPurpose,
    /// Another workload than expected.
    UnexpectedIdentity,
    /// No URI among the names in the peer's certificate.
    NoUriSan,
    /// More than one URI among them.
    SeveralUriSans,
    /// The one URI in the peer's certificate names no workload: `spiffe:///ns/a/sa/b`.
    NotAnIdentity,
    /// A workload of another mesh.
    OtherTrustDomain,
    /// The peer showed no certificate.
    NoCertificate,
    /// The peer's certificate cannot be read.
    MalformedCertificate,
    /// The peer does not speak `h2`.
    NoCommonProtocol,
    /// The peer does not speak TLS 1.3.
    NoCommonVersion,
    /// No cipher suite in common.
    NoCommonCipher,
    /// No key exchange, signature scheme or extension in common.
    Incompatible,
    /// The peer refused us.
    Alert(Alert),
    /// Bytes that the peer's key did not make.
    Tampered,
    /// The stream ended without close_notify.
    Truncated,
    /// The peer broke the protocol, or speaks another one.
    Protocol,
    /// The session is over.
    Closed,
    /// A fault of this end: no randomness, no clock, no key.
    Local,
}

impl Refusal {
    /// A stable word: metric label, log field.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "tls_certificate_expired",
            Self::NotYetValid => "tls_certificate_not_yet_valid",
            Self::UnknownIssuer => "tls_unknown_issuer",
            Self::WrongPurpose => "tls_wrong_purpose",
            Self::UnexpectedIdentity => "tls_unexpected_identity",
            Self::NoUriSan => "tls_no_uri_san",
            Self::SeveralUriSans => "tls_several_uri_sans",
            Self::NotAnIdentity => "tls_not_an_identity",
            Self::OtherTrustDomain => "tls_other_trust_domain",
            Self::NoCertificate => "tls_no_certificate",
            Self::MalformedCertificate => "tls_malformed_certificate",
            Self::NoCommonProtocol => "tls_no_common_protocol",
            Self::NoCommonVersion => "tls_no_common_version",
            Self::NoCommonCipher => "tls_no_common_cipher",
            Self::Incompatible => "tls_incompatible",
            Self::Alert(alert) => alert.word(),
            Self::Tampered => "tls_tampered",
            Self::Truncated => "tls_truncated",
            Self::Protocol => "tls_protocol",
            Self::Closed => "tls_closed",
            Self::Local => "tls_local",
        }
    }

    /// Which end refused.
    #[must_use]
    pub const fn by(self) -> RefusedBy {
        if matches!(self, Self::Alert(_)) { RefusedBy::Peer } else { RefusedBy::Us }
    }

    /// This end refused the peer for its identity or its certificate.
    #[must_use]
    pub const fn is_about_the_peer(self) -> bool {
        matches!(
            self,
            Self::Expired
                | Self::NotYetValid
                | Self::UnknownIssuer
                | Self::WrongPurpose
                | Self::UnexpectedIdentity
                | Self::NoUriSan
                | Self::SeveralUriSans
                | Self::NotAnIdentity
                | Self::OtherTrustDomain
                | Self::NoCertificate
                | Self::MalformedCertificate
        )
    }
}

/// An alert as it was received, by its number (RFC 8446, section 6). Numbers without a name share one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Alert(pub u8);

/// From one table the name of an alert and the word of a connection that it ended.
macro_rules! alerts {
    ($($number:literal $name:literal)*) => {
        impl Alert {
            /// As IANA registered it: `unknown_ca`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self.0 { $($number => $name,)* _ => "unknown" }
            }

            const fn word(self) -> &'static str {
                match self.0 { $($number => concat!("tls_alert_", $name),)* _ => "tls_alert_unknown" }
            }
        }

        /// Every number that has a name.
        #[cfg(test)]
        const NUMBERS: &[u8] = &[$($number),*];
    };
}

// IANA, TLS Alerts: what TLS 1.3 has (RFC 8446, appendix B.2), and the older ones that peers may still send.
alerts! {
    0 "close_notify"
    10 "unexpected_message"
    20 "bad_record_mac"
    21 "decryption_failed"
    22 "record_overflow"
    30 "decompression_failure"
    40 "handshake_failure"
    41 "no_certificate"
    42 "bad_certificate"
    43 "unsupported_certificate"
    44 "certificate_revoked"
    45 "certificate_expired"
    46 "certificate_unknown"
    47 "illegal_parameter"
    48 "unknown_ca"
    49 "access_denied"
    50 "decode_error"
    51 "decrypt_error"
    70 "protocol_version"
    71 "insufficient_security"
    80 "internal_error"
    86 "inappropriate_fallback"
    90 "user_canceled"
    109 "missing_extension"
    110 "unsupported_extension"
    112 "unrecognized_name"
    113 "bad_certificate_status_response"
    115 "unknown_psk_identity"
    116 "certificate_required"
    120 "no_application_protocol"
}

/// A session that was refused, or broke: the word, and what a reader of the log wants to know. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFailure {
    refusal: Refusal,
    details: Arc<Details>,
}

#[derive(Debug, PartialEq, Eq)]
struct Details {
    says: String,
    found: Option<String>,
    expected: Option<String>,
}

impl TlsFailure {
    /// For `refusal`; `says` it in a sentence. `found` and `expected` as far as they are known.
    #[must_use]
    pub fn new(refusal: Refusal, says: String, found: Option<String>, expected: Option<String>) -> Self {
        Self { refusal, details: Arc::new(Details { says, found, expected }) }
    }

    /// Why.
    #[must_use]
    pub const fn refusal(&self) -> Refusal {
        self.refusal
    }

    /// The URI that the peer's certificate named, where its chain led to a root of ours: a workload's identity, or what
    /// stands in its place.
    #[must_use]
    pub fn found(&self) -> Option<&str> {
        self.details.found.as_deref()
    }

    /// Which identities, or trust domains, would have been taken.
    #[must_use]
    pub fn expected(&self) -> Option<&str> {
        self.details.expected.as_deref()
    }
}

/// The sentence.
impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.details.says)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn an_alert_has_one_word_and_there_are_few() {
        let words: BTreeSet<_> = (0..=u8::MAX).map(|number| Refusal::Alert(Alert(number)).as_str()).collect();
        assert_eq!(words.len(), NUMBERS.len() + 1);
        for number in 0..=u8::MAX {
            let (alert, is_known) = (Alert(number), NUMBERS.contains(&number));
            assert_eq!(alert.word(), format!("tls_alert_{}", alert.name()));
            assert_eq!(alert.name() == "unknown", !is_known, "{number}");
        }
        assert_eq!(Alert(48).name(), "unknown_ca");
    }

    #[test]
    fn an_alert_is_the_peers_word_and_says_nothing_about_the_peer() {
        let check = |refusal: Refusal, by, about| {
            assert_eq!((refusal.by(), refusal.is_about_the_peer()), (by, about), "{refusal:?}");
        };
        check(Refusal::Expired, RefusedBy::Us, true);
        check(Refusal::NoCertificate, RefusedBy::Us, true);
        check(Refusal::NoCommonCipher, RefusedBy::Us, false);
        check(Refusal::Protocol, RefusedBy::Us, false);
        check(Refusal::Alert(Alert(45)), RefusedBy::Peer, false);
    }
}
