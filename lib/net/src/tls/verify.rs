//! Verification of the peer of a tunnel. Separate from the session because a connected peer is verified again when the bundle
//! of roots changes.
//!
//! A server must be one of the identities that the World expects behind its address; a client must be of our trust
//! domain or an alias of it. Either has exactly one URI SAN; other names in a certificate mean nothing.

mod reason;

use std::{collections::BTreeSet, fmt, sync::Arc, time::SystemTime};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error as RustlsError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use underpass_core::{Identities, Identity, TrustDomain};
use underpass_identity::{Certificate, Roots};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

pub use reason::VerifyError;
pub(crate) use reason::{system_time, unix_time};

/// The trust domains whose workloads may connect: our own and its aliases. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomains(Arc<BTreeSet<TrustDomain>>);

impl TrustDomains {
    /// Our own trust domain and those that mean the same.
    pub fn new(own: TrustDomain, aliases: impl IntoIterator<Item = TrustDomain>) -> Self {
        Self(Arc::new(aliases.into_iter().chain([own]).collect()))
    }

    /// Workloads of `trust_domain` may connect.
    #[must_use]
    pub fn contains(&self, trust_domain: &TrustDomain) -> bool {
        self.0.contains(trust_domain)
    }
}

impl fmt::Display for TrustDomains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(TrustDomain::as_str).collect();
        f.write_str(&names.join(" or "))
    }
}

/// The roots in the form in which chains are checked, each with its own validity, which path building leaves out.
#[derive(Clone, Debug)]
pub(crate) struct Anchors(Arc<[Anchor]>);

#[derive(Debug)]
struct Anchor {
    anchor: TrustAnchor<'static>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Anchor {
    fn check(&self, now: SystemTime) -> Result<(), webpki::Error> {
        let time = unix_time(now);
        if now > self.not_after {
            return Err(webpki::Error::CertExpired { time, not_after: unix_time(self.not_after) });
        }
        if now < self.not_before {
            return Err(webpki::Error::CertNotValidYet { time, not_before: unix_time(self.not_before) });
        }
        Ok(())
    }
}

impl Anchors {
    pub(crate) fn new(roots: &Roots) -> Result<Self, VerifyError> {
        let read = |der: &CertificateDer<'static>| {
            let anchor = webpki::anchor_from_trusted_cert(der).map_err(VerifyError::Malformed)?.to_owned();
            // A bundle holds nothing that cannot be read.
            let malformed = |_| VerifyError::Malformed(webpki::Error::BadDer);
            let certificate = Certificate::parse(der).map_err(malformed)?;
            Ok(Anchor { anchor, not_before: certificate.not_before(), not_after: certificate.not_after() })
        };
        roots.certificates().iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// The chain leads to a root: leaf and intermediates at `at`, the root at `now`.
    fn check(
        &self,
        chain: &[CertificateDer<'_>],
        end: End,
        at: SystemTime,
        now: SystemTime,
    ) -> Result<(), VerifyError> {
        let [leaf, intermediates @ ..] = chain else {
            return Err(VerifyError::Malformed(webpki::Error::BadDer));
        };
        let leaf = EndEntityCert::try_from(leaf).map_err(VerifyError::Malformed)?;
        let anchors: Vec<_> = self.0.iter().map(|a| a.anchor.clone()).collect();
        // A root that was issued again is there twice, with other dates: one that is valid is enough.
        let root_is_valid = |path: &VerifiedPath<'_>| {
            let mut used = self.0.iter().filter(|a| a.anchor == *path.anchor()).map(|a| a.check(now)).peekable();
            let first = used.peek().cloned().unwrap_or(Err(webpki::Error::UnknownIssuer));
            if used.any(|checked| checked.is_ok()) { Ok(()) } else { first }
        };
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            intermediates,
            unix_time(at),
            end.usage(),
            None,
            Some(&root_is_valid),
        )
        .map(|_| ())
        .map_err(VerifyError::from_webpki)
    }
}

/// The end of the connection that a certificate belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Client,
    Server,
}

impl End {
    fn usage(self) -> KeyUsage {
        match self {
            Self::Client => KeyUsage::client_auth(),
            Self::Server => KeyUsage::server_auth(),
        }
    }
}

/// The peer of a connected session, kept so that it can be verified again.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Its identity.
    pub identity: Identity,
    /// The last second of its leaf certificate.
    pub not_after: SystemTime,
    /// Its chain as it was sent, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    end: End,
    verified_at: SystemTime,
}

impl PeerInfo {
    pub(crate) fn new(
        chain: &[CertificateDer<'static>],
        end: End,
        verified_at: SystemTime,
    ) -> Result<Self, VerifyError> {
        let malformed = || VerifyError::Malformed(webpki::Error::BadDer);
        let leaf = chain.first().and_then(|der| Certificate::parse(der).ok()).ok_or_else(malformed)?;
        let identity = leaf.identity().map_err(|e| VerifyError::Names(e.clone()))?.clone();
        Ok(Self { identity, not_after: leaf.not_after(), chain: chain.to_vec(), end, verified_at })
    }

    /// Verifies its chain against a changed bundle. The expiry of its leaf does not count: a
    /// tunnel takes no new stream then, but those that are open go on.
    ///
    /// # Errors
    /// The reason for which it would be refused today.
    pub fn verify_again(&self, roots: &Roots, now: SystemTime) -> Result<(), VerifyError> {
        Anchors::new(roots)?.check(&self.chain, self.end, self.verified_at, now)
    }
}

/// The peers that a verifier accepts.
#[derive(Clone, Debug)]
pub(crate) enum Accept {
    Servers(Identities),
    Clients(TrustDomains),
}

impl fmt::Display for Accept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Servers(expected) => write!(f, "{expected}"),
            Self::Clients(expected) => write!(f, "trust domain {expected}"),
        }
    }
}

/// The check of one configuration, in the form in which rustls asks for it.
#[derive(Debug)]
pub(crate) struct Verifier {
    anchors: Anchors,
    accept: Accept,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(crate) fn new(
        roots: &Roots,
        accept: Accept,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Self, VerifyError> {
        Ok(Self { anchors: Anchors::new(roots)?, accept, algorithms })
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), VerifyError> {
        let chain: Vec<_> =
            std::iter::once(leaf).chain(intermediates).map(|c| CertificateDer::from(c.as_ref())).collect();
        let end = match self.accept {
            Accept::Servers(_) => End::Server,
            Accept::Clients(_) => End::Client,
        };
        let now = system_time(now);
        self.anchors.check(&chain, end, now, now)?;
        let certificate = Certificate::parse(leaf).map_err(|_| VerifyError::Malformed(webpki::Error::BadDer))?;
        let found = certificate.identity().map_err(|e| VerifyError::Names(e.clone()))?;
        match &self.accept {
            Accept::Servers(expected) if !expected.contains(found) => {
                Err(VerifyError::Unexpected { expected: expected.clone(), found: found.clone() })
            }
            Accept::Clients(expected) if !expected.contains(found.trust_domain()) => {
                Err(VerifyError::ForeignTrustDomain { expected: expected.clone(), found: found.clone() })
            }
            _ => Ok(()),
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

/// The error of every TLS 1.2 signature: that version is not offered; were it negotiated by a fault, no signature would count.
fn no_tls12() -> RustlsError {
    RustlsError::PeerIncompatible(rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        self.check(leaf, intermediates, now).map_err(VerifyError::into_rustls)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A workload has one certificate; hints would only tell the network whom we trust.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, RustlsError> {
        self.check(leaf, intermediates, now).map_err(VerifyError::into_rustls)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
