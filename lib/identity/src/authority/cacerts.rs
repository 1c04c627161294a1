//! A CA that its owner plugs in: four texts, the keys of Istio's Secret `cacerts`. Refused whole where a peer that trusts
//! the roots alone would refuse a leaf: known here at once, not by failed handshakes on every node.
//!
//! ```text
//!   root-cert.pem     root(s), trusted by all
//!   cert-chain.pem      `- intermediates, any order; may repeat ca-cert.pem and the root; may be empty
//!   ca-cert.pem              `- the signing CA, whose key is ca-key.pem; may be a root itself
//!                                 `- leaf
//! ```

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls_pki_types::{CertificateDer, UnixTime};
use underpass_core::{Identity, TrustDomain};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use x509_parser::{
    prelude::{FromDer as _, X509Certificate},
    public_key::PublicKey,
};

use super::{Authority, BACKDATE, CaFault, CacertsFault, CacertsKey};
use crate::{
    Certificate, Error, Serial,
    certificate::certificates_from_pem,
    chain::{CHAIN_MAX, TEXT_MAX_BYTES},
    roots::ROOTS_MAX,
    signing::{Signer, SignerKey},
};

/// Smaller keys are refused by every verifier of the field.
const RSA_MIN_BITS: usize = 2048;

/// The values of a Secret `cacerts`, in PEM.
#[derive(Clone, Copy)]
pub struct Cacerts<'a> {
    /// `ca-cert.pem`: the signing CA.
    pub ca_cert: &'a str,
    /// `ca-key.pem`: its key.
    pub ca_key: &'a str,
    /// `cert-chain.pem`: what certifies it; empty where a root does.
    pub cert_chain: &'a str,
    /// `root-cert.pem`: the roots; during a rotation, old and new.
    pub root_cert: &'a str,
}

impl<'a> Cacerts<'a> {
    /// The Secret, in the namespace of the control plane.
    pub const SECRET: &'static str = "cacerts";

    /// The values of the object `name`, by key; an absent one is empty.
    ///
    /// # Errors
    /// [`Error::CacertsFault`]: one of them is not text.
    pub fn read(name: &str, value: impl Fn(&str) -> Option<&'a [u8]>) -> Result<Self, Error> {
        let text = |key: CacertsKey| {
            let not_text = |_| Error::CacertsFault { origin: name.into(), fault: at(key, CaFault::NotText) };
            value(key.as_str()).map_or(Ok(""), |value| str::from_utf8(value).map_err(not_text))
        };
        Ok(Self {
            ca_cert: text(CacertsKey::CaCert)?,
            ca_key: text(CacertsKey::CaKey)?,
            cert_chain: text(CacertsKey::CertChain)?,
            root_cert: text(CacertsKey::RootCert)?,
        })
    }

    /// The roots, each once; the CA below them is not judged.
    ///
    /// # Errors
    /// [`Error::CacertsFault`]: there is none, or one cannot be read.
    pub fn roots(&self, name: &str) -> Result<Vec<Certificate>, Error> {
        let refused = |fault| Error::CacertsFault { origin: name.into(), fault };
        let found = certificates(CacertsKey::RootCert, self.root_cert, ROOTS_MAX).map_err(refused)?;
        let mut roots: Vec<Link<'_>> = Vec::new();
        for root in Link::read_all(CacertsKey::RootCert, &found).map_err(refused)? {
            if roots.iter().all(|known| known.der != root.der) {
                roots.push(root);
            }
        }
        match roots.is_empty() {
            true => Err(refused(at(CacertsKey::RootCert, CaFault::Certificate))),
            false => Ok(roots.into_iter().map(|root| root.certificate).collect()),
        }
    }
}

impl std::fmt::Debug for Cacerts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cacerts")
    }
}

impl Authority {
    /// The CA that its owner plugged in. It names no trust domain: it certifies identities of `trust_domain`, which is
    /// the settings'. `origin` names the object that holds it, for errors: `Secret underpass-system/cacerts`.
    ///
    /// # Errors
    /// [`Error::CacertsFault`].
    pub fn plugged_in(
        origin: &str,
        texts: &Cacerts<'_>,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, Error> {
        let refused = |fault| Error::CacertsFault { origin: origin.into(), fault };
        let mut authority = Self::assemble(origin.into(), texts, trust_domain, now).map_err(refused)?;
        // Nothing shows better what peers will say of its leaves.
        let probe = Identity::new(trust_domain, "default", "default");
        let leaf = authority.credential(&probe, BACKDATE, now)?;
        let root_not_after = verify(leaf.chain(), &authority.trusted, now).map_err(refused)?;
        authority.not_after = authority.not_after.min(root_not_after);
        Ok(authority)
    }

    fn assemble(
        origin: Arc<str>,
        texts: &Cacerts<'_>,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, CacertsFault> {
        let signing = certificates(CacertsKey::CaCert, texts.ca_cert, ROOTS_MAX)?;
        // The leaf and the signing CA are sent as well.
        let chain = certificates(CacertsKey::CertChain, texts.cert_chain, CHAIN_MAX - 2)?;
        let roots = certificates(CacertsKey::RootCert, texts.root_cert, ROOTS_MAX)?;
        let [signing] = signing.as_slice() else {
            let fault =
                if signing.is_empty() { CaFault::Certificate } else { CaFault::Several { found: signing.len() } };
            return Err(at(CacertsKey::CaCert, fault));
        };
        let ca = Link::read(CacertsKey::CaCert, signing, None)?;
        let chain = Link::read_all(CacertsKey::CertChain, &chain)?;
        let roots = Link::read_all(CacertsKey::RootCert, &roots)?;
        ca.must_sign()?;
        ca.must_be_valid(now)?;
        if roots.is_empty() {
            return Err(at(CacertsKey::RootCert, CaFault::Certificate));
        }
        if texts.ca_key.len() > TEXT_MAX_BYTES {
            return Err(at(CacertsKey::CaKey, CaFault::TooLong { limit: TEXT_MAX_BYTES }));
        }
        let key = SignerKey::from_pem(texts.ca_key).ok_or_else(|| at(CacertsKey::CaKey, CaFault::Key))?;
        let signer = Signer::new(key, &ca.x509).ok_or_else(|| at(CacertsKey::CaKey, CaFault::OtherKey))?;
        let mut trusted = Vec::new();
        for root in &roots {
            if !root.certificate.is_ca() {
                return Err(root.fault(CaFault::NotACa));
            }
            if !trusted.contains(root.der) {
                trusted.push(root.der.clone());
            }
        }
        let sent = if trusted.contains(ca.der) { Vec::new() } else { climb(&ca, &chain, &roots, now)? };
        let validity = |link: &&Link<'_>| (link.certificate.not_before(), link.certificate.not_after());
        let own = validity(&&ca);
        let (not_before, not_after) =
            sent.iter().map(validity).fold(own, |(from, to), (begin, end)| (from.max(begin), to.min(end)));
        Ok(Self {
            origin,
            trust_domain: trust_domain.clone(),
            signer,
            certificate: ca.certificate.clone(),
            intermediates: sent.iter().map(|link| link.der.clone()).collect(),
            trusted,
            not_before,
            not_after,
        })
    }
}

/// The certificates in one of the texts.
fn certificates(key: CacertsKey, text: &str, limit: usize) -> Result<Vec<CertificateDer<'static>>, CacertsFault> {
    if text.len() > TEXT_MAX_BYTES {
        return Err(at(key, CaFault::TooLong { limit: TEXT_MAX_BYTES }));
    }
    let found = certificates_from_pem(text).map_err(|_| at(key, CaFault::Certificate))?;
    if found.len() > limit {
        return Err(at(key, CaFault::TooMany { found: found.len(), limit }));
    }
    Ok(found)
}

const fn at(key: CacertsKey, fault: CaFault) -> CacertsFault {
    CacertsFault { key, serial: None, fault }
}

/// One certificate of the texts.
struct Link<'a> {
    key: CacertsKey,
    /// Where the text has several.
    serial: Option<Serial>,
    der: &'a CertificateDer<'static>,
    certificate: Certificate,
    x509: X509Certificate<'a>,
}

impl<'a> Link<'a> {
    fn read_all(key: CacertsKey, all: &'a [CertificateDer<'static>]) -> Result<Vec<Self>, CacertsFault> {
        let serial = |der| Certificate::parse(der).ok().filter(|_| all.len() > 1).map(|read| read.serial().clone());
        all.iter().map(|der| Self::read(key, der, serial(der))).collect()
    }

    fn read(key: CacertsKey, der: &'a CertificateDer<'static>, serial: Option<Serial>) -> Result<Self, CacertsFault> {
        let unreadable = || at(key, CaFault::Certificate);
        let certificate = Certificate::parse(der).map_err(|_| unreadable())?;
        let (_, x509) = X509Certificate::from_der(der).map_err(|_| unreadable())?;
        Ok(Self { key, serial, der, certificate, x509 })
    }

    fn fault(&self, fault: CaFault) -> CacertsFault {
        CacertsFault { key: self.key, serial: self.serial.clone(), fault }
    }

    /// It may sign certificates, and verifiers accept what it signs.
    fn must_sign(&self) -> Result<(), CacertsFault> {
        if !self.certificate.is_ca() {
            return Err(self.fault(CaFault::NotACa));
        }
        match self.x509.key_usage() {
            Ok(Some(usage)) if !usage.value.key_cert_sign() => return Err(self.fault(CaFault::NoCertSign)),
            Ok(_) => {}
            Err(_) => return Err(self.fault(CaFault::Certificate)),
        }
        match self.x509.public_key().parsed() {
            Ok(PublicKey::RSA(key)) if key.key_size() < RSA_MIN_BITS => {
                Err(self.fault(CaFault::WeakKey { bits: key.key_size(), limit: RSA_MIN_BITS }))
            }
            _ => Ok(()),
        }
    }

    fn must_be_valid(&self, now: SystemTime) -> Result<(), CacertsFault> {
        let (not_before, not_after) = (self.certificate.not_before(), self.certificate.not_after());
        if now < not_before {
            return Err(self.fault(CaFault::NotYetValid { not_before }));
        }
        if now > not_after {
            return Err(self.fault(CaFault::Expired { not_after }));
        }
        Ok(())
    }

    /// Its path length (RFC 5280, 4.2.1.9) allows `below` CAs between it and a leaf.
    fn must_allow(&self, below: u32) -> Result<(), CacertsFault> {
        let constraints = self.x509.basic_constraints().ok().flatten();
        match constraints.and_then(|constraints| constraints.value.path_len_constraint) {
            Some(allowed) if allowed < below => Err(self.fault(CaFault::PathLength { allowed, below })),
            _ => Ok(()),
        }
    }

    fn is_self_issued(&self) -> bool {
        self.x509.issuer().as_raw() == self.x509.subject().as_raw()
    }

    fn has_name_of_issuer(&self, subject: &Self) -> bool {
        self.x509.subject().as_raw() == subject.x509.issuer().as_raw()
    }

    fn has_signed(&self, subject: &Self) -> bool {
        subject.x509.verify_signature(Some(self.x509.public_key())).is_ok()
    }
}

/// What a leaf is sent with: `ca`, then what certifies it, nearest first, without roots. Where a certificate is
/// cross-signed, all of them: peers may trust either root. What has no part in it is left out.
fn climb<'a>(
    ca: &'a Link<'a>,
    chain: &'a [Link<'a>],
    roots: &[Link<'_>],
    now: SystemTime,
) -> Result<Vec<&'a Link<'a>>, CacertsFault> {
    let is_root = |link: &Link<'_>| link.is_self_issued() || roots.iter().any(|root| root.der == link.der);
    let mut sent = vec![(ca, 0)];
    let mut next = 0;
    while let Some(&(subject, below)) = sent.get(next) {
        next += 1;
        let below = below + 1;
        for root in roots.iter().filter(|root| root.has_name_of_issuer(subject)) {
            root.must_sign()?;
            if root.has_signed(subject) {
                root.must_allow(below)?;
            }
        }
        for issuer in chain.iter().filter(|issuer| issuer.has_name_of_issuer(subject) && !is_root(issuer)) {
            issuer.must_sign()?;
            if issuer.has_signed(subject) && !sent.iter().any(|(known, _)| known.der == issuer.der) {
                issuer.must_be_valid(now)?;
                issuer.must_allow(below)?;
                sent.push((issuer, below));
            }
        }
    }
    Ok(sent.into_iter().map(|(link, _)| link).collect())
}

/// Verifies a leaf as a peer does that trusts `roots` alone. Returns the last second of the root that it leads to.
fn verify(
    chain: &[CertificateDer<'static>],
    roots: &[CertificateDer<'static>],
    now: SystemTime,
) -> Result<SystemTime, CacertsFault> {
    let unreadable = || at(CacertsKey::RootCert, CaFault::Certificate);
    let mut anchors = Vec::new();
    let mut valid = Vec::new();
    for root in roots {
        let read = Certificate::parse(root).map_err(|_| unreadable())?;
        let anchor = webpki::anchor_from_trusted_cert(root).map_err(|_| unreadable())?;
        valid.push((anchor.clone(), read.not_before(), read.not_after()));
        anchors.push(anchor);
    }
    let unix =
        |time: SystemTime| UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let system_time = |time: UnixTime| SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs());
    // Path building leaves out when the roots are valid. One that was issued again is there twice, with other dates.
    let root_is_valid = |path: &VerifiedPath<'_>| {
        let used = || valid.iter().filter(|(anchor, ..)| anchor == path.anchor());
        if used().any(|(_, from, to)| (*from..=*to).contains(&now)) {
            return Ok(());
        }
        let expired = used().map(|(_, _, to)| *to).filter(|to| *to < now).max();
        let begins = used().map(|(_, from, _)| *from).min().unwrap_or(now);
        Err(match expired {
            Some(to) => webpki::Error::CertExpired { time: unix(now), not_after: unix(to) },
            None => webpki::Error::CertNotValidYet { time: unix(now), not_before: unix(begins) },
        })
    };
    let fault = |reason| match reason {
        webpki::Error::CertExpired { not_after, .. } => {
            at(CacertsKey::RootCert, CaFault::Expired { not_after: system_time(not_after) })
        }
        webpki::Error::CertNotValidYet { not_before, .. } => {
            at(CacertsKey::RootCert, CaFault::NotYetValid { not_before: system_time(not_before) })
        }
        reason => at(CacertsKey::CaCert, CaFault::NoRoot { reason }),
    };
    let [leaf, intermediates @ ..] = chain else { return Err(fault(webpki::Error::BadDer)) };
    let leaf = EndEntityCert::try_from(leaf).map_err(fault)?;
    let path = leaf
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            intermediates,
            unix(now),
            KeyUsage::server_auth(),
            None,
            Some(&root_is_valid),
        )
        .map_err(fault)?;
    let ends = valid.iter().filter(|(anchor, from, _)| anchor == path.anchor() && *from <= now).map(|(_, _, to)| *to);
    ends.max().ok_or_else(unreadable)
}
