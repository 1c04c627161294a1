//! The CA's own key and name, and certificates signed with them. A file of its own because a plugged-in CA has keys
//! and names that this crate would never make: RSA or P-384, several values of one attribute.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256,
        RsaKeyPair,
    },
};
use rcgen::{
    CertificateParams, DistinguishedName, Issuer, KeyIdMethod, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_RSA_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use x509_parser::prelude::{ParsedExtension, X509Certificate};
use zeroize::Zeroize as _;

/// A CA's private key. Its bytes are in the cryptographic library alone, which wipes them.
pub(crate) enum SignerKey {
    Ec(EcdsaKeyPair, &'static SignatureAlgorithm),
    Rsa(RsaKeyPair),
}

impl SignerKey {
    /// The first private key in a PEM text: P-256, P-384 or RSA of at least 2048 bits; PKCS#8, SEC 1 or PKCS#1, not
    /// encrypted.
    pub(crate) fn from_pem(text: &str) -> Option<Self> {
        let mut der = PrivateKeyDer::from_pem_slice(text.as_bytes()).ok()?;
        let key = Self::from_der(&der);
        der.zeroize();
        key
    }

    fn from_der(der: &PrivateKeyDer<'_>) -> Option<Self> {
        let bytes = der.secret_der();
        let curves = [
            (&ECDSA_P256_SHA256_ASN1_SIGNING, &PKCS_ECDSA_P256_SHA256),
            (&ECDSA_P384_SHA384_ASN1_SIGNING, &PKCS_ECDSA_P384_SHA384),
        ];
        let ec = || {
            curves.into_iter().find_map(|(curve, algorithm)| {
                EcdsaKeyPair::from_private_key_der(curve, bytes).ok().map(|pair| Self::Ec(pair, algorithm))
            })
        };
        match der {
            PrivateKeyDer::Pkcs1(_) => RsaKeyPair::from_der(bytes).ok().map(Self::Rsa),
            PrivateKeyDer::Sec1(_) => ec(),
            _ => ec().or_else(|| RsaKeyPair::from_pkcs8(bytes).ok().map(Self::Rsa)),
        }
    }

    const fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self {
            Self::Ec(_, algorithm) => algorithm,
            Self::Rsa(_) => &PKCS_RSA_SHA256,
        }
    }

    /// The bits of the public key as they stand in a certificate.
    fn public_key(&self) -> &[u8] {
        match self {
            Self::Ec(pair, _) => pair.public_key().as_ref(),
            Self::Rsa(pair) => pair.public_key().as_ref(),
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let rng = SystemRandom::new();
        match self {
            Self::Ec(pair, _) => pair.sign(&rng, message).map(|signature| signature.as_ref().to_vec()),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &rng, message, &mut signature).map(|()| signature)
            }
        }
        .map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// A CA that can sign: its key, its name byte by byte, and the identifier of its key if it has one.
pub(crate) struct Signer {
    key: SignerKey,
    subject: Box<[u8]>,
    key_id: Option<Vec<u8>>,
}

impl Signer {
    /// `key` with the name in the CA's `certificate`; `None` where that is another key's.
    pub(crate) fn new(key: SignerKey, certificate: &X509Certificate<'_>) -> Option<Self> {
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_key() {
            return None;
        }
        let key_id = certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        Some(Self { key, subject: certificate.subject().as_raw().into(), key_id })
    }

    /// Signs a certificate of `public_key`.
    ///
    /// rcgen writes names from its own form of them, which loses what it does not know; a verifier wants the CA's name
    /// to the byte. Therefore its certificate is a draft without issuer and signature, and both are put in here.
    pub(crate) fn sign(
        &self,
        mut params: CertificateParams,
        public_key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, rcgen::Error> {
        let mut issuer = CertificateParams::default();
        issuer.distinguished_name = DistinguishedName::new();
        params.use_authority_key_identifier_extension = self.key_id.is_some();
        issuer.key_identifier_method = KeyIdMethod::PreSpecified(self.key_id.clone().unwrap_or_default());
        let draft = params.signed_by(public_key, &Issuer::new(issuer, Unsigned(&self.key)))?;
        let (body, algorithm) =
            with_issuer(draft.der(), &self.subject).ok_or(rcgen::Error::CouldNotParseCertificate)?;
        let signature = self.key.sign(&body)?;
        // A bit string without unused bits.
        let signature = element(0x03, &[&[0], &signature]);
        Ok(element(SEQUENCE, &[&body, algorithm, &signature]).into())
    }
}

/// Stands in for the key while a draft is written.
struct Unsigned<'a>(&'a SignerKey);

impl PublicKeyData for Unsigned<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for Unsigned<'_> {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(Vec::new())
    }
}

const SEQUENCE: u8 = 0x30;

/// The part of a certificate that is signed, with another issuer, and the algorithm that stands behind it (RFC 5280,
/// 4.1).
fn with_issuer<'a>(certificate: &'a [u8], issuer: &[u8]) -> Option<(Vec<u8>, &'a [u8])> {
    let (certificate, _) = content(certificate)?;
    let (body, rest) = content(certificate)?;
    let (algorithm, _) = first(rest)?;
    // Version, serial number, algorithm; then the issuer.
    let (_, rest) = first(body)?;
    let (_, rest) = first(rest)?;
    let (_, from_issuer) = first(rest)?;
    let (_, behind) = first(from_issuer)?;
    let before = body.get(..body.len() - from_issuer.len())?;
    Some((element(SEQUENCE, &[before, issuer, behind]), algorithm))
}

/// The first element of a DER text, header included, and what stands behind it.
fn first(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, rest) = content(der)?;
    der.split_at_checked(der.len() - rest.len())
}

/// The content of the first element of a DER text, and what stands behind the element.
fn content(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[_tag, length], rest) = der.split_first_chunk()?;
    let (length, rest) = match length {
        short @ ..0x80 => (usize::from(short), rest),
        long => {
            let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            (digits.iter().try_fold(0_usize, |sum, digit| Some(sum.checked_mul(256)? | usize::from(*digit)))?, rest)
        }
    };
    rest.split_at_checked(length)
}

/// An element in DER (X.690, 10.1: the shortest form of its length).
fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let digits: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|digit| *digit == 0).collect();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short @ ..0x80) => out.push(short),
        _ => {
            // At most eight digits.
            out.push(0x80 | u8::try_from(digits.len()).unwrap_or(8));
            out.extend_from_slice(&digits);
        }
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn elements_are_read_as_they_were_written(len in prop_oneof![0_usize..300, 65_400_usize..65_700], tail in 0_usize..5) {
            let parts = [vec![7; len], vec![8; 3]];
            let mut der = element(SEQUENCE, &[&parts[0], &parts[1]]);
            let whole = der.len();
            der.resize(whole + tail, 9);
            let (inner, rest) = content(&der).unwrap();
            prop_assert_eq!(inner, parts.concat());
            prop_assert_eq!(rest.len(), tail);
            prop_assert_eq!(first(&der).unwrap().0.len(), whole);
            // The shortest form, as a foreign reader demands it.
            let (foreign_rest, any) = <x509_parser::asn1_rs::Any<'_> as x509_parser::prelude::FromDer<'_, _>>::from_der(&der).unwrap();
            prop_assert_eq!((foreign_rest.len(), any.data.len()), (tail, inner.len()));
        }

        #[test]
        fn damaged_elements_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some((inner, rest)) = content(&bytes) {
                prop_assert!(inner.len() + rest.len() < bytes.len());
            }
            with_issuer(&bytes, &[0x30, 0]);
        }
    }
}
