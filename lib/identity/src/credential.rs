//! Credentials: a key with its certificate chain, which one end of a tunnel presents to the other.

use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use underpass_core::Identity;
use zeroize::Zeroizing;

use crate::{
    Certificate, Error, PrivateKey, Serial, base64,
    certificate::{certificates_from_pem, pem},
};

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

    /// Key and chain as PEM (RFC 7468), for the process that goes on with them; wiped when dropped.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        let key = base64::pem("PRIVATE KEY", self.key.pkcs8_der());
        let chain: Vec<_> = self.chain.iter().map(pem).collect();
        // Reserved once: growing would leave copies of the key behind.
        let bytes = key.len() + chain.iter().map(|text| text.len()).sum::<usize>();
        let mut text = Zeroizing::new(String::with_capacity(bytes));
        std::iter::once(&key).chain(&chain).for_each(|part| text.push_str(part));
        text
    }

    /// The credential in such a text.
    ///
    /// # Errors
    /// As [`Self::new`]; or the text has no key, or one that cannot be read.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(Error::ReadPem)?;
        Self::new(PrivateKey::from_pkcs8_der(key.secret_pkcs8_der())?, certificates_from_pem(text)?)
    }

    /// The private key.
    #[must_use]
    pub const fn key(&self) -> &PrivateKey {
        &self.key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Leaf, TestCa};

    #[test]
    fn survives_its_own_text_and_no_other() {
        let (ca, leaf) =
            (TestCa::new("root").intermediate("below"), Leaf::of("spiffe://cluster.local/ns/default/sa/a"));
        let (one, other) = (ca.credential(&leaf), ca.credential(&leaf));
        let text = one.to_pem();
        let again = Credential::from_pem(&text).unwrap();
        assert_eq!((again.identity(), again.chain()), (one.identity(), one.chain()));
        assert_eq!(again.key().pkcs8_der(), one.key().pkcs8_der());
        assert_eq!(Serial::from_hex(&one.serial().to_string()).as_ref(), Some(one.serial()));
        // Another one's key; no key; no chain.
        let (key, chain) = text.split_at(text.find("-----BEGIN CERTIFICATE").unwrap());
        let others = other.to_pem();
        let other_key = others.split_at(others.find("-----BEGIN CERTIFICATE").unwrap()).0;
        let check = |text: &str, expected: &str| {
            assert_eq!(Credential::from_pem(text).unwrap_err().to_string(), expected);
        };
        check(
            &[other_key, chain].concat(),
            "the certificate of spiffe://cluster.local/ns/default/sa/a does not match the private key",
        );
        check(chain, "cannot read PEM");
        check(key, "no certificate in a chain");
    }

    #[test]
    fn serials_are_hexadecimal_of_whole_bytes() {
        for text in ["", "00", "7f00ff"] {
            assert_eq!(Serial::from_hex(text).map(|serial| serial.to_string()).as_deref(), Some(text));
        }
        for text in ["0", "0g", "é0", "-1"] {
            assert_eq!(Serial::from_hex(text), None, "{text}");
        }
    }
}
