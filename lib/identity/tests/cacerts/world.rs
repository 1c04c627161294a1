//! CAs of users, in the form of the Secret `cacerts`, and a peer that trusts roots alone.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, RsaKeySize, SerialNumber, SignatureAlgorithm,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use underpass_core::{Identity, TrustDomain};
use underpass_identity::{Authority, Cacerts, Error};
use webpki::{EndEntityCert, KeyUsage};

pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);
pub(crate) const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
pub(crate) const ORIGIN: &str = "Secret underpass-system/cacerts";

pub(crate) fn now() -> SystemTime {
    // 2026-01-01, whole seconds: what a certificate can say.
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

pub(crate) fn alice() -> Identity {
    "spiffe://cluster.local/ns/default/sa/alice".parse().unwrap()
}

/// The kind of a CA's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    P256,
    P384,
    Rsa2048,
    /// As Istio's Makefile makes them.
    Rsa4096,
    /// Signs nothing that a verifier of the field accepts.
    Ed25519,
}

impl Kind {
    fn key(self) -> KeyPair {
        // One key of each size: making them takes seconds.
        static RSA: LazyLock<[String; 2]> = LazyLock::new(|| {
            [RsaKeySize::_2048, RsaKeySize::_4096]
                .map(|size| KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, size).unwrap().serialize_pem())
        });
        let new = |algorithm: &'static SignatureAlgorithm| KeyPair::generate_for(algorithm).unwrap();
        match self {
            Self::P256 => new(&PKCS_ECDSA_P256_SHA256),
            Self::P384 => new(&PKCS_ECDSA_P384_SHA384),
            Self::Rsa2048 => KeyPair::from_pem(&RSA[0]).unwrap(),
            Self::Rsa4096 => KeyPair::from_pem(&RSA[1]).unwrap(),
            Self::Ed25519 => new(&rcgen::PKCS_ED25519),
        }
    }
}

/// A CA with its key in PEM.
pub(crate) struct Ca {
    pub(crate) key_pem: String,
    pub(crate) pem: String,
    pub(crate) der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// The contents of a CA certificate called `name`: valid for ten years around now, without a path length. `serial` is in
/// the texts of errors.
pub(crate) fn params(name: &str, serial: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Istio");
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(&[serial]));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    params.use_authority_key_identifier_extension = true;
    params.not_before = (now() - 5 * YEAR).into();
    params.not_after = (now() + 5 * YEAR).into();
    params
}

impl Ca {
    pub(crate) fn root(kind: Kind, params: CertificateParams) -> Self {
        let key = kind.key();
        let certificate = params.self_signed(&key).unwrap();
        Self::new(key, params, &certificate)
    }

    /// A CA below this one.
    pub(crate) fn below(&self, kind: Kind, params: CertificateParams) -> Self {
        let key = kind.key();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self::new(key, params, &certificate)
    }

    /// The certificate of `other`'s key and name, signed by this one.
    pub(crate) fn cross_sign(&self, other: &Self, params: &CertificateParams) -> String {
        params.signed_by(other.issuer.key(), &self.issuer).unwrap().pem()
    }

    /// This root, issued again.
    pub(crate) fn again(&self, params: &CertificateParams) -> String {
        params.self_signed(self.issuer.key()).unwrap().pem()
    }

    fn new(key: KeyPair, params: CertificateParams, certificate: &rcgen::Certificate) -> Self {
        let (key_pem, pem, der) = (key.serialize_pem(), certificate.pem(), certificate.der().clone());
        Self { key_pem, pem, der, issuer: Issuer::new(params, key) }
    }
}

/// The values of a Secret.
#[derive(Clone)]
pub(crate) struct Texts {
    pub(crate) ca_cert: String,
    pub(crate) ca_key: String,
    pub(crate) cert_chain: String,
    pub(crate) root_cert: String,
}

impl Texts {
    /// As Istio's Makefile writes them: the chain repeats signing CA and root.
    pub(crate) fn of(ca: &Ca, between: &[&Ca], root: &Ca) -> Self {
        let chain = [&[ca], between, &[root]].concat();
        Self {
            ca_cert: ca.pem.clone(),
            ca_key: ca.key_pem.clone(),
            cert_chain: chain.iter().map(|ca| ca.pem.as_str()).collect(),
            root_cert: root.pem.clone(),
        }
    }

    pub(crate) fn read_at(&self, now: SystemTime) -> Result<Authority, Error> {
        let Self { ca_cert, ca_key, cert_chain, root_cert } = self;
        let texts = Cacerts { ca_cert, ca_key, cert_chain, root_cert };
        Authority::plugged_in(ORIGIN, &texts, &TrustDomain::default(), now)
    }

    pub(crate) fn read(&self) -> Result<Authority, Error> {
        self.read_at(now())
    }
}

/// Verifies `chain` as a peer that trusts `roots` alone; for a server also by `name`.
pub(crate) fn verify(
    chain: &[CertificateDer<'static>],
    roots: &[CertificateDer<'static>],
    name: Option<&str>,
) -> Result<(), webpki::Error> {
    let anchors: Vec<_> = roots.iter().map(|root| webpki::anchor_from_trusted_cert(root).unwrap()).collect();
    let time = UnixTime::since_unix_epoch(now().duration_since(SystemTime::UNIX_EPOCH).unwrap());
    let leaf = EndEntityCert::try_from(&chain[0])?;
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &chain[1..], time, usage, None, None)?;
    }
    match name {
        Some(name) => leaf.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap()),
        None => Ok(()),
    }
}
