//! Certificate signing requests (RFC 2986), from a node to a CA, in the same process or remote: writing them at the one
//! end, reading and judging them at the other.

use rcgen::{
    CertificateParams, DistinguishedName, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SignatureAlgorithm,
    string::Ia5String,
};
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
use underpass_core::Identity;
use x509_parser::{
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_X509_EXT_SUBJECT_ALT_NAME},
    prelude::FromDer as _,
};

use crate::{Error, PrivateKey, key::PUBLIC_KEY_BYTES};

/// A request with a P-256 key has about 500 bytes.
pub const REQUEST_MAX_BYTES: usize = 16 * 1024;

/// A request to certify one key for one identity.
#[derive(Debug)]
pub struct CertificateRequest(rcgen::CertificateSigningRequest);

impl CertificateRequest {
    /// A request for `identity`, signed by `key` as proof of possession.
    ///
    /// # Errors
    /// [`Error::NotIssuable`] for names that no certificate can carry.
    pub fn new(key: &PrivateKey, identity: &Identity) -> Result<Self, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri_san(identity)?];
        params
            .serialize_request(key)
            .map(Self)
            .map_err(|source| Error::WriteRequest { identity: identity.clone(), source })
    }

    /// The request in DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        self.0.der()
    }

    /// The request in PEM, as Istio's certificate API wants it.
    ///
    /// # Errors
    /// None in practice; the encoder's signature has one.
    pub fn pem(&self, identity: &Identity) -> Result<String, Error> {
        self.0.pem().map_err(|source| Error::WriteRequest { identity: identity.clone(), source })
    }
}

/// The one name in a workload's certificate.
pub(crate) fn uri_san(identity: &Identity) -> Result<SanType, Error> {
    let not_issuable = || Error::NotIssuable { identity: identity.clone() };
    if !identity.is_issuable() {
        return Err(not_issuable());
    }
    Ia5String::try_from(identity.uri()).map(SanType::URI).map_err(|_| not_issuable())
}

/// The reason to refuse a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestFault {
    /// Larger than any request.
    #[error("it is longer than {REQUEST_MAX_BYTES} bytes")]
    TooLong,
    /// Not a request in PEM.
    #[error("it is not a certificate request in PEM")]
    Pem,
    /// Not a request in DER.
    #[error("it is malformed")]
    Malformed,
    /// RSA, another curve, or something else.
    #[error("its key is not a P-256 key")]
    Key,
    /// The requester has not shown that it has the key.
    #[error("it is not signed by its key")]
    Signature,
    /// A workload has one name.
    #[error("it asks for {found} names")]
    SeveralNames {
        /// The count.
        found: usize,
    },
    /// DNS, IP address, e-mail or something else.
    #[error("it asks for a name that is not a URI")]
    NotAUri,
    /// The name of another workload, or of none.
    #[error("it asks for `{found}`")]
    OtherIdentity {
        /// As found, at most [`underpass_core::spiffe::ID_MAX_BYTES`].
        found: String,
    },
}

impl RequestFault {
    /// The reason in one word, for metrics: `several_names`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Pem => "not_pem",
            Self::Malformed => "malformed",
            Self::Key => "key",
            Self::Signature => "signature",
            Self::SeveralNames { .. } => "several_names",
            Self::NotAUri => "not_a_uri",
            Self::OtherIdentity { .. } => "other_identity",
        }
    }
}

/// The request in a PEM text, in DER: Istio's certificate API carries the text.
///
/// # Errors
/// [`RequestFault::TooLong`], [`RequestFault::Pem`].
pub fn from_pem(text: &str) -> Result<Vec<u8>, RequestFault> {
    if text.len() > REQUEST_MAX_BYTES {
        return Err(RequestFault::TooLong);
    }
    let der = CertificateSigningRequestDer::from_pem_slice(text.as_bytes()).map_err(|_| RequestFault::Pem)?;
    Ok(der.as_ref().to_vec())
}

/// A remote caller's request (DER), which may be granted for `wanted`: signed by the P-256 key in it, and it asks for no
/// name, or for exactly this one. ztunnel and this crate ask for the URI.
///
/// # Errors
/// The first fault.
pub fn check(request: &[u8], wanted: &Identity) -> Result<(), RequestFault> {
    let request = read(request)?;
    let mut names = Vec::new();
    for attribute in request.certification_request_info.iter_attributes() {
        let extensions = match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(requested) => &requested.extensions,
            _ => continue,
        };
        for extension in extensions {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(found) => names.extend(&found.general_names),
                _ if extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME => return Err(RequestFault::Malformed),
                _ => {}
            }
        }
    }
    match names.as_slice() {
        [] => Ok(()),
        [GeneralName::URI(uri)] if *uri == wanted.uri() => Ok(()),
        [GeneralName::URI(uri)] => {
            let found = uri.chars().take(underpass_core::spiffe::ID_MAX_BYTES / 4).collect();
            Err(RequestFault::OtherIdentity { found })
        }
        [GeneralName::Invalid(..)] => Err(RequestFault::Malformed),
        [_] => Err(RequestFault::NotAUri),
        several => Err(RequestFault::SeveralNames { found: several.len() }),
    }
}

/// A request whose key has proved possession of itself.
fn read(request: &[u8]) -> Result<X509CertificationRequest<'_>, RequestFault> {
    if request.len() > REQUEST_MAX_BYTES {
        return Err(RequestFault::TooLong);
    }
    let (rest, request) = X509CertificationRequest::from_der(request).map_err(|_| RequestFault::Malformed)?;
    if !rest.is_empty() {
        return Err(RequestFault::Malformed);
    }
    let key = &request.certification_request_info.subject_pki;
    let curve = key.algorithm.parameters().and_then(|parameters| parameters.as_oid().ok());
    let is_p256 = *key.algorithm.oid() == OID_KEY_TYPE_EC_PUBLIC_KEY && curve.is_some_and(|oid| oid == OID_EC_P256);
    if !is_p256 || key.subject_public_key.data.len() != PUBLIC_KEY_BYTES {
        return Err(RequestFault::Key);
    }
    request.verify_signature().map_err(|_| RequestFault::Signature)?;
    Ok(request)
}

/// The key of a request: an uncompressed point of P-256.
pub(crate) struct RequestedKey(Vec<u8>);

impl RequestedKey {
    /// The key in a request (DER), and nothing else of it.
    pub(crate) fn read(request: &[u8]) -> Result<Self, RequestFault> {
        read(request).map(|read| Self(read.certification_request_info.subject_pki.subject_public_key.data.to_vec()))
    }
}

impl PublicKeyData for RequestedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use underpass_core::TrustDomain;

    use super::*;

    #[test]
    fn carries_the_identity_and_nothing_else() {
        let identity: Identity = "spiffe://td/ns/a/sa/b".parse().unwrap();
        let key = PrivateKey::generate().unwrap();
        let request = CertificateRequest::new(&key, &identity).unwrap();
        let read = rcgen::CertificateSigningRequestParams::from_der(&request.der().into()).unwrap();
        assert_eq!(read.params.subject_alt_names, [uri_san(&identity).unwrap()]);
        assert_eq!(read.params.distinguished_name, DistinguishedName::new());
        assert!(request.pem(&identity).unwrap().starts_with("-----BEGIN CERTIFICATE REQUEST-----"));
    }

    #[test]
    fn refuses_names_that_no_certificate_can_carry() {
        let identity = Identity::new(&TrustDomain::default(), "a/b", "c");
        let key = PrivateKey::generate().unwrap();
        assert!(matches!(CertificateRequest::new(&key, &identity), Err(Error::NotIssuable { .. })));
    }

    fn alice() -> Identity {
        "spiffe://td/ns/a/sa/alice".parse().unwrap()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    /// A request of a remote caller for `names`, who may have alice's certificate.
    fn judge(names: Vec<SanType>) -> Result<(), RequestFault> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        // Names in the subject are not read: Go's agents put an organization there, rcgen a common name.
        let request = params.serialize_request(&PrivateKey::generate().unwrap()).unwrap();
        check(request.der(), &alice())
    }

    #[test]
    fn a_remote_caller_asks_for_its_own_name_or_for_none() {
        let own = CertificateRequest::new(&PrivateKey::generate().unwrap(), &alice()).unwrap();
        let der = from_pem(&own.pem(&alice()).unwrap()).unwrap();
        assert_eq!((der.as_slice(), check(&der, &alice())), (own.der(), Ok(())));
        assert_eq!(judge(vec![]), Ok(()));
        assert_eq!(judge(vec![uri(alice().uri())]), Ok(()));

        let other = |found: &str| Err(RequestFault::OtherIdentity { found: found.to_owned() });
        for found in ["spiffe://td/ns/a/sa/bob", "spiffe://TD/ns/a/sa/alice", "spiffe://td/ns/a/sa/alice/", "x"] {
            assert_eq!(judge(vec![uri(found)]), other(found));
        }
        let long = "a".repeat(4000);
        assert_eq!(judge(vec![uri(&long)]), other(&"a".repeat(512)));
        let foreign = [
            SanType::DnsName("example.com".try_into().unwrap()),
            SanType::IpAddress("10.0.0.1".parse().unwrap()),
            SanType::Rfc822Name("a@example.com".try_into().unwrap()),
        ];
        for name in foreign {
            assert_eq!(judge(vec![name.clone()]), Err(RequestFault::NotAUri), "{name:?}");
            assert_eq!(judge(vec![uri(alice().uri()), name]), Err(RequestFault::SeveralNames { found: 2 }));
        }
        let twice = vec![uri(alice().uri()), uri(alice().uri())];
        assert_eq!(judge(twice), Err(RequestFault::SeveralNames { found: 2 }));
    }

    #[test]
    fn names_in_a_second_extension_are_found() {
        let second = |content: &[u8]| {
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![uri(alice().uri())];
            params.custom_extensions =
                vec![rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], content.to_vec())];
            let request = params.serialize_request(&PrivateKey::generate().unwrap()).unwrap();
            check(request.der(), &alice())
        };
        // A sequence of one DNS name, `x`.
        assert_eq!(second(&[0x30, 3, 0x82, 1, b'x']), Err(RequestFault::SeveralNames { found: 2 }));
        assert_eq!(second(&[0xff]), Err(RequestFault::Malformed));
    }

    #[test]
    fn keys_and_signatures() {
        let mut forged = CertificateRequest::new(&PrivateKey::generate().unwrap(), &alice()).unwrap().der().to_vec();
        assert_eq!(check(&[forged.as_slice(), &[0]].concat(), &alice()), Err(RequestFault::Malformed));
        assert_eq!(check(&forged[..forged.len() - 1], &alice()), Err(RequestFault::Malformed));
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(check(&forged, &alice()), Err(RequestFault::Signature));
        let others = [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519, &rcgen::PKCS_RSA_SHA256];
        for algorithm in others {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let request = CertificateParams::default().serialize_request(&key).unwrap();
            assert_eq!(check(request.der(), &alice()), Err(RequestFault::Key), "{algorithm:?}");
        }
        assert_eq!(check(&[0; REQUEST_MAX_BYTES + 1], &alice()), Err(RequestFault::TooLong));
        assert_eq!(from_pem(&"x".repeat(REQUEST_MAX_BYTES + 1)), Err(RequestFault::TooLong));
        assert_eq!(from_pem("hello"), Err(RequestFault::Pem));
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(from_pem(certificate), Err(RequestFault::Pem));
    }

    proptest! {
        #[test]
        fn a_damaged_request_is_refused(at: proptest::sample::Index, flip in 1_u8..=255, end: proptest::sample::Index) {
            let mut der = CertificateRequest::new(&PrivateKey::generate().unwrap(), &alice()).unwrap().der().to_vec();
            prop_assert!(check(&der[..end.index(der.len())], &alice()).is_err());
            // Key and names: what is signed.
            let signed = read(&der).unwrap().certification_request_info.raw;
            let at = signed.as_ptr().addr() - der.as_ptr().addr() + at.index(signed.len());
            der[at] ^= flip;
            prop_assert!(check(&der, &alice()).is_err());
            prop_assert!(RequestedKey::read(&der).is_err());
        }

        #[test]
        fn garbage_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(check(&bytes, &alice()).is_err());
        }
    }
}
