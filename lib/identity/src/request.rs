//! Certificate signing requests (RFC 2986), from a node to a CA, embedded or remote.

use rcgen::{CertificateParams, DistinguishedName, SanType, string::Ia5String};
use underpass_core::Identity;

use crate::{Error, PrivateKey};

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

#[cfg(test)]
mod tests {
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
}
