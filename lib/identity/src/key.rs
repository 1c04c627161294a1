//! Private keys: P-256, made here, wiped when dropped. A file of its own so that the life
//! of key bytes is in one place.

use std::fmt;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use zeroize::Zeroizing;

use crate::Error;

/// An uncompressed point of P-256: 0x04, x, y (SEC 1, 2.3.3).
pub(crate) const PUBLIC_KEY_BYTES: usize = 65;

/// A private key. Neither cloned nor printed; its bytes are wiped when it is dropped.
pub struct PrivateKey {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
    rng: SystemRandom,
}

impl PrivateKey {
    /// A new key.
    ///
    /// # Errors
    /// [`Error::MakeKey`] where the system's entropy source fails.
    pub fn generate() -> Result<Self, Error> {
        let rng = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &rng).map_err(Error::MakeKey)?;
        Self::from_pkcs8_der(document.as_ref())
    }

    /// The key in a PKCS#8 document (RFC 5958).
    ///
    /// # Errors
    /// [`Error::ReadKey`] for anything but a P-256 key.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, Error> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der).map_err(Error::ReadKey)?;
        Ok(Self { pair, pkcs8: Zeroizing::new(der.to_vec()), rng: SystemRandom::new() })
    }

    /// The key as a PKCS#8 document, lent to the TLS library, which keeps its own form of it.
    #[must_use]
    pub fn pkcs8_der(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public key as an uncompressed point.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

impl rcgen::PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        self.public_key()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.pair.sign(&self.rng, message).map_err(|_| rcgen::Error::RemoteKeyError)?;
        Ok(signature.as_ref().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_its_own_encoding_and_no_other() {
        let key = PrivateKey::generate().unwrap();
        assert_eq!(key.public_key().len(), PUBLIC_KEY_BYTES);
        let again = PrivateKey::from_pkcs8_der(key.pkcs8_der()).unwrap();
        assert_eq!(key.public_key(), again.public_key());
        assert_ne!(key.public_key(), PrivateKey::generate().unwrap().public_key());
        for end in 0..key.pkcs8_der().len() {
            let cut = key.pkcs8_der().get(..end).unwrap();
            assert!(matches!(PrivateKey::from_pkcs8_der(cut), Err(Error::ReadKey(_))), "cut at {end}");
        }
    }

    #[test]
    fn printing_shows_nothing() {
        assert_eq!(format!("{:?}", PrivateKey::generate().unwrap()), "PrivateKey");
    }
}
