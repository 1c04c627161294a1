//! The reasons for which key and certificates make no CA, wherever they come from.

use std::{fmt, time::SystemTime};

use crate::Serial;

/// The reason why a CA is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaFault {
    /// Larger than any CA.
    #[error("it is longer than {limit} bytes")]
    TooLong {
        /// In bytes.
        limit: usize,
    },
    /// Bytes that are not text.
    #[error("it is not text")]
    NotText,
    /// No key in it, or none that signs.
    #[error("it has no readable private key (P-256, P-384, or RSA of at least 2048 bits; not encrypted)")]
    Key,
    /// No certificate in it, or none that can be read.
    #[error("it has no readable certificate")]
    Certificate,
    /// One CA signs.
    #[error("it has {found} certificates, not one")]
    Several {
        /// In the text.
        found: usize,
    },
    /// Every one is sent in every handshake, or tried for every peer.
    #[error("it has {found} certificates, more than the limit of {limit}")]
    TooMany {
        /// In the text.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// The certificate of a workload, not of a CA.
    #[error("its certificate is not a CA certificate")]
    NotACa,
    /// A CA certificate whose key usage forbids what a CA does.
    #[error("its certificate has a key usage without keyCertSign")]
    NoCertSign,
    /// A key that verifiers refuse.
    #[error("its RSA key has {bits} bits, fewer than {limit}")]
    WeakKey {
        /// The size of the key.
        bits: usize,
        /// The least size.
        limit: usize,
    },
    /// Key and certificate are not a pair.
    #[error("its key does not match its certificate")]
    Mismatch,
    /// As [`CaFault::Mismatch`], where the two have a text each.
    #[error("it does not belong to {}", CacertsKey::CaCert)]
    OtherKey,
    /// Over.
    #[error("its certificate expired at {} (seconds since 1970)", unix(not_after))]
    Expired {
        /// Its last second.
        not_after: SystemTime,
    },
    /// The clock is wrong, or it was made for later.
    #[error("its certificate is valid from {} (seconds since 1970)", unix(not_before))]
    NotYetValid {
        /// Its first second.
        not_before: SystemTime,
    },
    /// A CA above it allows fewer CAs below.
    #[error("its path length allows {allowed} CAs below it, there are {below}")]
    PathLength {
        /// By its basic constraints.
        allowed: u32,
        /// On the way to a leaf.
        below: u32,
    },
    /// No verifier that trusts the roots alone would accept a leaf.
    #[error("it does not lead to a certificate of {}: {reason:?}", CacertsKey::RootCert)]
    NoRoot {
        /// What a verifier says.
        reason: webpki::Error,
    },
    /// Made for another mesh.
    #[error("it is the CA of trust domain `{found}`, not of `{expected}`")]
    TrustDomain {
        /// In its certificate.
        found: String,
        /// In the settings.
        expected: String,
    },
}

fn unix(time: &SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// One of the four texts of a plugged-in CA; prints as its key in the Secret `cacerts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CacertsKey {
    /// The signing CA's certificate.
    CaCert,
    /// Its private key.
    CaKey,
    /// The certificates between it and a root.
    CertChain,
    /// The roots.
    RootCert,
}

impl CacertsKey {
    /// The key in the Secret: `ca-cert.pem`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CaCert => "ca-cert.pem",
            Self::CaKey => "ca-key.pem",
            Self::CertChain => "cert-chain.pem",
            Self::RootCert => "root-cert.pem",
        }
    }
}

impl fmt::Display for CacertsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A plugged-in CA is refused, and the place of the fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacertsFault {
    /// The text.
    pub key: CacertsKey,
    /// The certificate, where the text has several.
    pub serial: Option<Serial>,
    /// The fault.
    pub fault: CaFault,
}

impl fmt::Display for CacertsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        if let Some(serial) = &self.serial {
            write!(f, " (serial {serial})")?;
        }
        write!(f, ": {}", self.fault)
    }
}
