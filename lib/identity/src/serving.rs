//! Serving certificates: what a server of the control plane shows to clients that look for it by name. Not a
//! [`Credential`](crate::Credential), which a tunnel presents for the one workload it names: neither can stand for the
//! other by mistake.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use crate::{Certificate, Error, PrivateKey, Serial};

/// A server's key and certificate chain. Neither cloned nor written; gone, key included, when the last user drops it.
#[derive(Debug)]
pub struct ServingCertificate {
    key: PrivateKey,
    chain: Vec<CertificateDer<'static>>,
    leaf: Certificate,
}

impl ServingCertificate {
    /// Puts a key and the answer of a CA together. `chain` is the leaf, then what certifies it.
    ///
    /// # Errors
    /// The chain is empty or unreadable, or the leaf was made for another key.
    pub fn new(key: PrivateKey, chain: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let leaf = Certificate::parse(chain.first().ok_or(Error::NoCertificate { what: "a chain" })?)?;
        if leaf.public_key() != key.public_key() {
            return Err(Error::ServingKeyMismatch { serial: leaf.serial().clone() });
        }
        Ok(Self { key, chain, leaf })
    }

    /// The leaf's serial number: distinct for each certificate of one CA.
    #[must_use]
    pub const fn serial(&self) -> &Serial {
        self.leaf.serial()
    }

    /// The first second at which the leaf is valid.
    #[must_use]
    pub const fn not_before(&self) -> SystemTime {
        self.leaf.not_before()
    }

    /// The last second at which the leaf is valid.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.leaf.not_after()
    }

    /// The chain, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The private key.
    #[must_use]
    pub const fn key(&self) -> &PrivateKey {
        &self.key
    }
}
