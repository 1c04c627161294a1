//! The CA: made here once ([`Authority::make`]), kept in a state directory of one machine ([`Authority::open`]) or in
//! an object of the cluster ([`Authority::from_values`]), or plugged in by its owner ([`Authority::plugged_in`]). Its
//! key is the only one that is ever written.
//!
//! A leaf it signs: one URI SAN, empty subject, digital signature, server and client authentication, valid from two
//! minutes ago for a lifetime that the caller chooses, never longer than any certificate of its chain. A serving
//! certificate has DNS names besides.

mod cacerts;
mod directory;
mod fault;
mod values;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, string::Ia5String,
};
use rustls_pki_types::{CertificateDer, DnsName};
use underpass_core::{Identity, TrustDomain};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

pub use self::{
    cacerts::Cacerts,
    fault::{CaFault, CacertsFault, CacertsKey},
};
use crate::{
    Certificate, CertificateRequest, Credential, Error, PrivateKey, Roots, ServingCertificate, base64,
    certificate::certificates_from_pem,
    request::{RequestedKey, uri_san},
    signing::{Signer, SignerKey},
};

/// The default lifetime of a leaf, as in Istio.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The age of a new certificate's notBefore: nodes' clocks differ.
pub const BACKDATE: Duration = Duration::from_secs(120);
/// The lifetime of the CA: ten years, as Istio's.
const CA_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);

/// A certificate authority with its key.
pub struct Authority {
    /// The file or the object in the cluster, for errors.
    origin: Arc<str>,
    trust_domain: TrustDomain,
    signer: Signer,
    certificate: Certificate,
    /// The certificates between a leaf and the root, the signing one first; empty where that is a root.
    intermediates: Vec<CertificateDer<'static>>,
    /// Where the signing CA is a root: that, the next one, and the former ones.
    trusted: Vec<CertificateDer<'static>>,
    /// The times at which every certificate between a leaf and the root, both included, is valid.
    not_before: SystemTime,
    not_after: SystemTime,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("origin", &self.origin)
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// A new CA of `trust_domain`, a root: its key and its certificate in PEM.
    ///
    /// # Errors
    /// The system's entropy source fails.
    pub fn make(trust_domain: &TrustDomain, now: SystemTime) -> Result<Zeroizing<String>, Error> {
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

    /// A key and its certificate, a root of `trust_domain`.
    fn parse(origin: Arc<str>, text: &str, trust_domain: &TrustDomain) -> Result<Self, CaFault> {
        let key = SignerKey::from_pem(text).ok_or(CaFault::Key)?;
        let certificates = certificates_from_pem(text).map_err(|_| CaFault::Certificate)?;
        let [der] = certificates.as_slice() else { return Err(CaFault::Certificate) };
        let certificate = Certificate::parse(der).map_err(|_| CaFault::Certificate)?;
        let (_, x509) = X509Certificate::from_der(der).map_err(|_| CaFault::Certificate)?;
        if !certificate.is_ca() {
            return Err(CaFault::NotACa);
        }
        let signer = Signer::new(key, &x509).ok_or(CaFault::Mismatch)?;
        let found = certificate.organization().unwrap_or_default();
        if found != trust_domain.as_str() {
            return Err(CaFault::TrustDomain { found: found.to_owned(), expected: trust_domain.to_string() });
        }
        let (not_before, not_after) = (certificate.not_before(), certificate.not_after());
        Ok(Self {
            origin,
            trust_domain: trust_domain.clone(),
            signer,
            certificate,
            intermediates: Vec::new(),
            trusted: certificates,
            not_before,
            not_after,
        })
    }

    fn must_be_valid(&self, now: SystemTime) -> Result<(), Error> {
        if now < self.not_before || now > self.not_after {
            return Err(Error::AuthorityNotValid { origin: Arc::clone(&self.origin) });
        }
        Ok(())
    }

    fn must_be_ours(&self, identity: &Identity) -> Result<(), Error> {
        if identity.trust_domain() != &self.trust_domain {
            let trust_domain = self.trust_domain.clone();
            return Err(Error::OtherTrustDomain { identity: identity.clone(), trust_domain });
        }
        Ok(())
    }

    /// Certifies the key in `request` (DER) for `identity`; the names in the request are ignored
    /// ([`request::check`](crate::request::check) is for a caller that must not ask for others). The caller decides
    /// whether the requester may have this identity. Returns the chain, leaf first, then the CA and what certifies
    /// it, without the root.
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
        self.must_be_ours(identity)?;
        let key =
            RequestedKey::read(request).map_err(|source| Error::Request { identity: identity.clone(), source })?;
        self.certify(&key, vec![uri_san(identity)?], identity, lifetime, now)
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

    /// A new key for a server of the control plane that clients find by one of `names` (DNS), certified. It names
    /// `identity` as well, the server's own.
    ///
    /// # Errors
    /// A name is not a DNS name, and as [`Authority::credential`].
    pub fn serving(
        &self,
        names: &[&str],
        identity: &Identity,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<ServingCertificate, Error> {
        self.must_be_valid(now)?;
        self.must_be_ours(identity)?;
        let dns_san = |name: &&str| {
            let refused = || Error::NotADnsName { name: (*name).to_owned() };
            let valid = DnsName::try_from(*name).map_err(|_| refused())?;
            Ia5String::try_from(valid.as_ref()).map(SanType::DnsName).map_err(|_| refused())
        };
        let mut sans = names.iter().map(dns_san).collect::<Result<Vec<_>, _>>()?;
        sans.push(uri_san(identity)?);
        let key = PrivateKey::generate()?;
        let chain = self.certify(&key, sans, identity, lifetime, now)?;
        ServingCertificate::new(key, chain)
    }

    fn certify(
        &self,
        key: &impl PublicKeyData,
        names: Vec<SanType>,
        subject: &Identity,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(serial_number()?);
        params.not_before = (now - BACKDATE).into();
        // A remote caller asks for any lifetime.
        let wanted = now.checked_add(lifetime).unwrap_or(self.not_after);
        params.not_after = wanted.min(self.not_after).into();
        let leaf = self
            .signer
            .sign(params, key)
            .map_err(|source| Error::WriteCertificate { subject: subject.to_string(), source })?;
        Ok(std::iter::once(leaf).chain(self.intermediates.iter().cloned()).collect())
    }

    /// The certificates that peers need to trust. Of a CA that was made here: the signing one first, then the next and
    /// the former ones; of a plugged-in one: its roots.
    #[must_use]
    pub fn root_certificates(&self) -> Vec<CertificateDer<'static>> {
        self.trusted.clone()
    }

    /// The signing CA's certificate.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The last second at which it can sign: one of the certificates between a leaf and the root ends then.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
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

/// 127 unpredictable bits, positive (RFC 5280, 4.1.2.2: at most 20 octets).
fn serial_number() -> Result<SerialNumber, Error> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(Error::MakeKey)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}
