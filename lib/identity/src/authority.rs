//! The embedded CA, for workloads outside a cluster. Its key is the only one that is ever written, to a state directory
//! that all agents of one machine share, so that they trust each other and survive restarts. The next and the former CA
//! are trusted as well ([`rotation`](crate::rotation)).
//!
//! A leaf it signs: one URI SAN, empty subject, digital signature, server and client authentication, valid from two
//! minutes ago for a lifetime that the caller chooses, never longer than the CA itself.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, PublicKeyData as _, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use underpass_core::{Identity, TrustDomain};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    Certificate, CertificateRequest, Credential, Error, PrivateKey, Roots, StateFault, base64,
    certificate::certificates_from_pem,
    key::PUBLIC_KEY_BYTES,
    request::uri_san,
    state::{self, StateDir},
};

/// The default lifetime of a leaf, as in Istio.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The age of a new certificate's notBefore: nodes' clocks differ.
pub const BACKDATE: Duration = Duration::from_secs(120);
/// The lifetime of the CA: ten years, as Istio's.
const CA_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);

/// A certificate authority as it was found in a state directory, with its key.
pub struct Authority {
    path: PathBuf,
    trust_domain: TrustDomain,
    issuer: Issuer<'static, PrivateKey>,
    certificate: Certificate,
    /// The signing CA, the next one, and the former ones.
    trusted: Vec<CertificateDer<'static>>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("path", &self.path).field("trust_domain", &self.trust_domain).finish()
    }
}

impl Authority {
    /// The CA in `dir`, a directory of its own; a new one where `dir` is empty or missing.
    ///
    /// # Errors
    /// The directory cannot be used, has other content, is readable or writable by others, its CA is broken,
    /// expired or another trust domain's. Nothing that was there is changed.
    pub fn open(dir: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, Error> {
        let state = StateDir::make(dir)?;
        if state.read(state::CA)?.is_none() {
            state.must_be_empty()?;
            state.write(state::CA, &make(trust_domain, now)?)?;
        }
        Self::read(&state, trust_domain, now)
    }

    /// The CA that is in `dir` now. Never makes one: a CA that has gone is an error, not replaced.
    ///
    /// # Errors
    /// As [`Authority::open`], and where there is none.
    pub fn load(dir: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, Error> {
        Self::read(&StateDir::look(dir)?, trust_domain, now)
    }

    pub(crate) fn read(state: &StateDir, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, Error> {
        let file = |name: &str| Ok::<_, Error>(state.read(name)?.map(|(text, _)| text));
        let missing = || Error::StateFault { path: state.file(state::CA), fault: StateFault::Missing };
        let mut authority = Self::parse(&state.file(state::CA), &file(state::CA)?.ok_or_else(missing)?, trust_domain)?;
        authority.must_be_valid(now)?;
        if let Some(text) = file(state::NEXT)? {
            authority.trusted.extend(Self::parse(&state.file(state::NEXT), &text, trust_domain)?.trusted);
        }
        if let Some(text) = file(state::OLD)? {
            let fault = |fault| Error::StateFault { path: state.file(state::OLD), fault };
            let old = certificates_from_pem(&text).map_err(|_| fault(StateFault::Certificate))?;
            Roots::new(0, old.clone()).map_err(|_| fault(StateFault::NotACa))?;
            authority.trusted.extend(old);
        }
        // Duplicates and the limit are checked here, where the directory can be named.
        authority.trusted = authority.roots(0)?.certificates().to_vec();
        Ok(authority)
    }

    /// A key and its certificate.
    fn parse(path: &Path, text: &str, trust_domain: &TrustDomain) -> Result<Self, Error> {
        let fault = |fault| Error::StateFault { path: path.to_path_buf(), fault };
        let mut key_der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|_| fault(StateFault::Key))?;
        let key = PrivateKey::from_pkcs8_der(key_der.secret_pkcs8_der());
        key_der.zeroize();
        let key = key.map_err(|_| fault(StateFault::Key))?;
        let mut certificates = certificates_from_pem(text).map_err(|_| fault(StateFault::Certificate))?;
        let (1, Some(der)) = (certificates.len(), certificates.pop()) else {
            return Err(fault(StateFault::Certificate));
        };
        let certificate = Certificate::parse(&der).map_err(|_| fault(StateFault::Certificate))?;
        if !certificate.is_ca() {
            return Err(fault(StateFault::NotACa));
        }
        if certificate.public_key() != key.public_key() {
            return Err(fault(StateFault::Mismatch));
        }
        let found = certificate.organization().unwrap_or_default();
        if found != trust_domain.as_str() {
            let (found, expected) = (found.to_owned(), trust_domain.to_string());
            return Err(fault(StateFault::TrustDomain { found, expected }));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|_| fault(StateFault::Certificate))?;
        let trusted = vec![der];
        Ok(Self { path: path.to_path_buf(), trust_domain: trust_domain.clone(), issuer, certificate, trusted })
    }

    fn must_be_valid(&self, now: SystemTime) -> Result<(), Error> {
        if now < self.certificate.not_before() || now > self.certificate.not_after() {
            return Err(Error::AuthorityNotValid { path: self.path.clone() });
        }
        Ok(())
    }

    /// Certifies the key in `request` (DER) for `identity`; the names in the request are ignored. The caller decides
    /// whether the requester may have this identity. Returns the chain, leaf first, without the root.
    ///
    /// # Errors
    /// The request is unreadable or not signed by its key, the key is no P-256 key, the identity cannot stand in a
    /// certificate or is another trust domain's, or the CA has expired.
    pub fn issue(
        &self,
        request: &[u8],
        identity: &Identity,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, Error> {
        self.must_be_valid(now)?;
        if identity.trust_domain() != &self.trust_domain {
            let trust_domain = self.trust_domain.clone();
            return Err(Error::OtherTrustDomain { identity: identity.clone(), trust_domain });
        }
        let read = CertificateSigningRequestParams::from_der(&request.into())
            .map_err(|source| Error::ReadRequest { identity: identity.clone(), source })?;
        let public_key = read.public_key;
        if public_key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 || public_key.der_bytes().len() != PUBLIC_KEY_BYTES
        {
            return Err(Error::RequestKey { identity: identity.clone() });
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri_san(identity)?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial_number()?);
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + lifetime).min(self.certificate.not_after()).into();
        let leaf = params
            .signed_by(&public_key, &self.issuer)
            .map_err(|source| Error::WriteCertificate { subject: identity.to_string(), source })?;
        Ok(vec![leaf.der().clone()])
    }

    /// A new key for `identity`, certified.
    ///
    /// # Errors
    /// As [`Authority::issue`], and [`Error::MakeKey`].
    pub fn credential(&self, identity: &Identity, lifetime: Duration, now: SystemTime) -> Result<Credential, Error> {
        let key = PrivateKey::generate()?;
        let request = CertificateRequest::new(&key, identity)?;
        let chain = self.issue(request.der(), identity, lifetime, now)?;
        Credential::new(key, chain)
    }

    /// The certificates that peers need to trust: the signing CA first, then the next and the former ones.
    #[must_use]
    pub fn root_certificates(&self) -> Vec<CertificateDer<'static>> {
        self.trusted.clone()
    }

    /// The signing CA's certificate.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// [`Authority::root_certificates`] as a bundle.
    ///
    /// # Errors
    /// There are too many.
    pub fn roots(&self, generation: u64) -> Result<Roots, Error> {
        Roots::new(generation, self.root_certificates())
    }

    /// The trust domain of the identities that it certifies.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
}

/// A new CA as the text of its file.
pub(crate) fn make(trust_domain: &TrustDomain, now: SystemTime) -> Result<Zeroizing<String>, Error> {
    let key = PrivateKey::generate()?;
    let serial = serial_number()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str());
    // Distinct names let a verifier that trusts an old and a new CA find the right one.
    let tag: String = serial.to_bytes().iter().take(4).map(|b| format!("{b:02x}")).collect();
    params.distinguished_name.push(DnType::CommonName, format!("Underpass CA {tag}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial);
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + CA_LIFETIME).into();
    let certificate = params
        .self_signed(&key)
        .map_err(|source| Error::WriteCertificate { subject: format!("the CA of {trust_domain}"), source })?;
    let key_pem = base64::pem("PRIVATE KEY", key.pkcs8_der());
    let certificate_pem = certificate.pem();
    // Reserved once: growing would leave copies of the key behind.
    let mut text = Zeroizing::new(String::with_capacity(key_pem.len() + certificate_pem.len()));
    text.push_str(&key_pem);
    text.push_str(&certificate_pem);
    Ok(text)
}

/// 127 unpredictable bits, positive (RFC 5280, 4.1.2.2: at most 20 octets).
fn serial_number() -> Result<SerialNumber, Error> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(Error::MakeKey)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}
