//! Credentials: a key with its certificate chain, which one end of a tunnel presents to the other.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use underpass_core::Identity;

use crate::{Certificate, Error, PrivateKey, Serial};

/// A workload's key and certificate chain. Neither cloned nor written: shared as `Arc<Credential>`, and gone, key
/// included, when the last user drops it.
#[derive(Debug)]
pub struct Credential {
    key: PrivateKey,
    chain: Vec<CertificateDer<'static>>,
    leaf: Certificate,
    identity: Identity,
}

impl Credential {
    /// Puts a key and the answer of a CA together. `chain` is the leaf, then what certifies it, roots optional.
    ///
    /// # Errors
    /// The chain is empty or unreadable, the leaf does not name one workload, or it was made for another key.
    pub fn new(key: PrivateKey, chain: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let leaf = Certificate::parse(chain.first().ok_or(Error::NoCertificate { what: "a chain" })?)?;
        let identity = match leaf.identity() {
            Ok(identity) => identity.clone(),
            Err(source) => return Err(Error::NoIdentity { serial: leaf.serial().clone(), source: source.clone() }),
        };
        if leaf.public_key() != key.public_key() {
            return Err(Error::KeyMismatch { identity });
        }
        Ok(Self { key, chain, leaf, identity })
    }

    /// The identity.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
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
