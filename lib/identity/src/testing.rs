//! Certificates that no honest CA signs, for tests of code that must refuse them: expired, without a name, with
//! two, for the wrong use, from an intermediate. Behind the feature `testing`.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests alone use it, and want to panic")]

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;

use crate::{Certificate, Credential, PrivateKey, Roots, base64};

/// Seconds since 1970 at which tests take place unless they say otherwise: 2026-01-01.
pub const NOW_UNIX_S: u64 = 1_767_225_600;

/// [`NOW_UNIX_S`] as a time.
#[must_use]
pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_UNIX_S)
}

/// `der` in PEM, as a file of certificates or of a key has it.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    base64::pem(label, der).to_string()
}

/// The contents of a leaf. The default is that of an honest CA, without a name yet.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// URI SANs.
    pub uris: Vec<String>,
    /// DNS SANs.
    pub dns_names: Vec<String>,
    /// First second of validity.
    pub not_before: SystemTime,
    /// Last second of validity.
    pub not_after: SystemTime,
    /// Good for servers.
    pub server_auth: bool,
    /// Good for clients.
    pub client_auth: bool,
}

impl Leaf {
    /// An honest leaf for the identity `uri`, valid for a day.
    #[must_use]
    pub fn of(uri: &str) -> Self {
        Self {
            uris: vec![uri.to_owned()],
            dns_names: Vec::new(),
            not_before: now() - Duration::from_secs(120),
            not_after: now() + Duration::from_secs(24 * 3600),
            server_auth: true,
            client_auth: true,
        }
    }
}

/// A CA in memory that signs any leaf.
pub struct TestCa {
    issuer: Issuer<'static, PrivateKey>,
    /// The certificates between its leaves and the root, its own first; empty for a root.
    above: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
}

impl TestCa {
    /// A root called `name`, valid for ten years around [`now`].
    #[must_use]
    pub fn new(name: &str) -> Self {
        let years = Duration::from_secs(5 * 365 * 24 * 3600);
        Self::valid(name, now() - years, now() + years)
    }

    /// A root called `name`.
    #[must_use]
    pub fn valid(name: &str, not_before: SystemTime, not_after: SystemTime) -> Self {
        let key = PrivateKey::generate().unwrap();
        let params = ca_params(name, not_before, not_after);
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), above: Vec::new(), root }
    }

    /// The same key and name in a certificate with other dates: a root that was issued again.
    #[must_use]
    pub fn reissued_root(&self, name: &str, not_before: SystemTime, not_after: SystemTime) -> CertificateDer<'static> {
        ca_params(name, not_before, not_after).self_signed(self.issuer.key()).unwrap().der().clone()
    }

    /// A CA below this one.
    #[must_use]
    pub fn intermediate(&self, name: &str) -> Self {
        let key = PrivateKey::generate().unwrap();
        let year = Duration::from_secs(365 * 24 * 3600);
        let params = ca_params(name, now() - year, now() + year);
        let own = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let above = std::iter::once(own).chain(self.above.iter().cloned()).collect();
        Self { issuer: Issuer::new(params, key), above, root: self.root.clone() }
    }

    /// A key and the chain for `leaf`, honest or not.
    #[must_use]
    pub fn sign(&self, leaf: &Leaf) -> (PrivateKey, Vec<CertificateDer<'static>>) {
        let key = PrivateKey::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = leaf.uris.iter().map(|u| SanType::URI(u.as_str().try_into().unwrap())).collect();
        params
            .subject_alt_names
            .extend(leaf.dns_names.iter().map(|d| SanType::DnsName(d.as_str().try_into().unwrap())));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let usages = [
            (leaf.server_auth, ExtendedKeyUsagePurpose::ServerAuth),
            (leaf.client_auth, ExtendedKeyUsagePurpose::ClientAuth),
        ];
        params.extended_key_usages = usages.into_iter().filter_map(|(on, usage)| on.then_some(usage)).collect();
        params.not_before = leaf.not_before.into();
        params.not_after = leaf.not_after.into();
        let own = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        (key, std::iter::once(own).chain(self.above.iter().cloned()).collect())
    }

    /// A credential for `leaf`, which must name one workload.
    #[must_use]
    pub fn credential(&self, leaf: &Leaf) -> Credential {
        let (key, chain) = self.sign(leaf);
        Credential::new(key, chain).unwrap()
    }

    /// Its list of revoked certificates, of a day, in PEM.
    #[must_use]
    pub fn revoked(&self, leaves: &[&CertificateDer<'static>]) -> String {
        let revoked = |der: &&CertificateDer<'static>| {
            let serial = Certificate::parse(der).unwrap().serial().to_string();
            let digits = (0..serial.len()).step_by(2).map(|at| u8::from_str_radix(&serial[at..at + 2], 16).unwrap());
            let serial_number = SerialNumber::from_slice(&digits.collect::<Vec<_>>());
            RevokedCertParams { serial_number, revocation_time: now().into(), reason_code: None, invalidity_date: None }
        };
        let list = CertificateRevocationListParams {
            this_update: (now() - Duration::from_secs(120)).into(),
            next_update: (now() + Duration::from_secs(24 * 3600)).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: leaves.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> CertificateDer<'static> {
        self.root.clone()
    }

    /// A bundle of this root alone.
    #[must_use]
    pub fn roots(&self, generation: u64) -> Roots {
        Roots::new(generation, vec![self.root()]).unwrap()
    }
}

fn ca_params(name: &str, not_before: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params
}
