//! TLS that a DestinationRule begins towards servers which are no workloads: whom to believe, and what to show, are its own.
//! Apart from [`stream`](super::stream), whose servers are known by one name and speak TLS 1.3 alone.
//!
//! What must hold: a server is believed by the authorities of the rule, or of this machine where it names none, and by a
//! name; never because a rule says nothing. No connection is resumed, because that would skip all of it.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, Error as RustlsError, OtherError, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, TrustAnchor, UnixTime,
        pem::{self, PemObject},
    },
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use webpki::{CertRevocationList, EndEntityCert, KeyUsage, OwnedCertRevocationList, RevocationOptionsBuilder};

use crate::tls::{ConfigError, HandshakeError, Protocol, Settings, Stream, stream::machine_roots};

/// What a rule says, its files as they were read.
#[derive(Clone, Copy, Default)]
pub struct Rule<'r> {
    /// `caCertificates`, PEM. None: the authorities of this machine.
    pub authorities: Option<&'r [u8]>,
    /// `caCrl`, PEM: every certificate of a chain has to have a list here, and not to be in it.
    pub revoked: Option<&'r [u8]>,
    /// `clientCertificate` and `privateKey`, PEM.
    pub own: Option<(&'r [u8], &'r [u8])>,
    /// `subjectAltNames`: DNS names, addresses and URIs, one of which the server has to have. None: the name that is connected to.
    pub names: &'r [Arc<str>],
    /// `insecureSkipVerify`: any server is believed.
    pub skips_verification: bool,
}

impl fmt::Debug for Rule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule").field("names", &self.names).finish_non_exhaustive()
    }
}

/// The reason why a rule's TLS cannot be begun. Fields are named as in a DestinationRule.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// The file has nothing of its kind.
    #[error("{field} has none in PEM")]
    Empty {
        /// The field.
        field: &'static str,
    },
    /// The file is no PEM.
    #[error("{field} is no PEM: {source}")]
    Pem {
        /// The field.
        field: &'static str,
        /// The problem.
        source: pem::Error,
    },
    /// One of the file cannot be used.
    #[error("{field} has one that cannot be used: {source}")]
    Malformed {
        /// The field.
        field: &'static str,
        /// The problem.
        source: webpki::Error,
    },
    /// The rule has no caCertificates, and this machine believes nothing.
    #[error("without caCertificates: {0}")]
    Machine(#[source] ConfigError),
    /// Certificate and key do not belong together, or are of a kind that is not supported.
    #[error("clientCertificate and privateKey: {0}")]
    Own(#[source] RustlsError),
    /// A name that is no DNS name, no address and no URI.
    #[error("subjectAltNames: {0:?} is no DNS name, no address and no URI")]
    Name(Arc<str>),
    /// The library refuses the settings.
    #[error("cannot configure TLS: {0}")]
    Settings(#[source] RustlsError),
}

/// Begins the TLS of one rule.
pub struct Originator {
    /// Without ALPN, for what is no HTTP.
    bytes: Arc<rustls::ClientConfig>,
    http1: Arc<rustls::ClientConfig>,
    h2: Arc<rustls::ClientConfig>,
}

impl fmt::Debug for Originator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Originator").finish_non_exhaustive()
    }
}

impl Originator {
    /// By this rule. Reads the authorities of the machine where the rule has none, which are files and many.
    ///
    /// # Errors
    /// A part of the rule is unusable.
    pub fn new(rule: &Rule<'_>, settings: &Settings) -> Result<Self, RuleError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let servers = Servers::new(rule, &provider)?;
        let builder = rustls::ClientConfig::builder_with_details(provider, Arc::clone(&settings.time))
            .with_safe_default_protocol_versions()
            .map_err(RuleError::Settings)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(servers));
        let mut bytes = match rule.own {
            Some((chain, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| unread("privateKey", source))?;
                let chain = all::<CertificateDer<'static>>("clientCertificate", chain)?;
                builder.with_client_auth_cert(chain, key).map_err(RuleError::Own)?
            }
            None => builder.with_no_client_auth(),
        };
        bytes.resumption = Resumption::disabled();
        let speaking = |protocol: Protocol| {
            let mut config = bytes.clone();
            config.alpn_protocols = vec![protocol.alpn().to_vec()];
            Arc::new(config)
        };
        Ok(Self { http1: speaking(Protocol::Http1), h2: speaking(Protocol::H2), bytes: Arc::new(bytes) })
    }

    /// The handshake with the server `name`, a DNS name or an address, which `io` leads to. A DNS name is sent (SNI).
    /// `speaks`: what follows; none: no HTTP.
    ///
    /// # Errors
    /// The handshake failed; `io` is closed.
    pub async fn connect<IO>(
        &self,
        io: IO,
        name: ServerName<'static>,
        speaks: Option<Protocol>,
    ) -> Result<Stream<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = match speaks {
            None => &self.bytes,
            Some(Protocol::Http1) => &self.http1,
            Some(Protocol::H2) => &self.h2,
        };
        let connected = TlsConnector::from(Arc::clone(config)).connect(name, io).await?;
        Stream::speaking(speaks, connected.into())
    }
}

fn unread(field: &'static str, source: pem::Error) -> RuleError {
    match source {
        pem::Error::NoItemsFound => RuleError::Empty { field },
        source => RuleError::Pem { field, source },
    }
}

/// All of a kind that a file has, one at least.
fn all<T: PemObject>(field: &'static str, text: &[u8]) -> Result<Vec<T>, RuleError> {
    let all = T::pem_slice_iter(text).collect::<Result<Vec<_>, _>>().map_err(|source| unread(field, source))?;
    if all.is_empty() { Err(RuleError::Empty { field }) } else { Ok(all) }
}

/// The servers that are believed.
#[derive(Debug)]
struct Servers {
    /// None: all.
    trust: Option<Trust>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct Trust {
    anchors: Vec<TrustAnchor<'static>>,
    revoked: Vec<CertRevocationList<'static>>,
    names: Vec<Name>,
}

#[derive(Debug)]
enum Name {
    Server(ServerName<'static>),
    Uri(Arc<str>),
}

impl Name {
    fn parse(text: &Arc<str>) -> Result<Self, RuleError> {
        if text.contains("://") {
            return Ok(Self::Uri(Arc::clone(text)));
        }
        let name = ServerName::try_from(&**text).map_err(|_| RuleError::Name(Arc::clone(text)))?;
        Ok(Self::Server(name.to_owned()))
    }

    fn is_of(&self, leaf: &EndEntityCert<'_>) -> bool {
        match self {
            Self::Server(name) => leaf.verify_is_valid_for_subject_name(name).is_ok(),
            Self::Uri(uri) => leaf.valid_uri_names().any(|name| name == &**uri),
        }
    }
}

impl Servers {
    fn new(rule: &Rule<'_>, provider: &CryptoProvider) -> Result<Self, RuleError> {
        let algorithms = provider.signature_verification_algorithms;
        if rule.skips_verification {
            return Ok(Self { trust: None, algorithms });
        }
        let anchors = match rule.authorities {
            Some(text) => {
                let field = "caCertificates";
                let anchor = |der: CertificateDer<'static>| {
                    let anchor = webpki::anchor_from_trusted_cert(&der);
                    anchor.map(|anchor| anchor.to_owned()).map_err(|source| RuleError::Malformed { field, source })
                };
                all(field, text)?.into_iter().map(anchor).collect::<Result<_, _>>()?
            }
            None => machine_roots().map_err(RuleError::Machine)?.roots,
        };
        let list = |der: CertificateRevocationListDer<'static>| {
            let list = OwnedCertRevocationList::from_der(&der);
            list.map(Into::into).map_err(|source| RuleError::Malformed { field: "caCrl", source })
        };
        let revoked = match rule.revoked {
            Some(text) => all("caCrl", text)?.into_iter().map(list).collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        let names = rule.names.iter().map(Name::parse).collect::<Result<_, _>>()?;
        Ok(Self { trust: Some(Trust { anchors, revoked, names }), algorithms })
    }
}

impl Trust {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let leaf = EndEntityCert::try_from(leaf).map_err(refused)?;
        let lists: Vec<_> = self.revoked.iter().collect();
        // Without a list nothing is asked of one.
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| options.build());
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &self.anchors,
            intermediates,
            now,
            KeyUsage::server_auth(),
            revocation,
            None,
        )
        .map_err(refused)?;
        let is_named = if self.names.is_empty() {
            leaf.verify_is_valid_for_subject_name(name).is_ok()
        } else {
            self.names.iter().any(|one| one.is_of(&leaf))
        };
        if is_named {
            return Ok(());
        }
        let presented = leaf.valid_dns_names().chain(leaf.valid_uri_names()).map(str::to_owned).collect();
        Err(CertificateError::NotValidForNameContext { expected: name.to_owned(), presented })
    }
}

fn refused(error: webpki::Error) -> CertificateError {
    use webpki::Error as E;
    match error {
        E::CertExpired { .. } => CertificateError::Expired,
        E::CertNotValidYet { .. } => CertificateError::NotValidYet,
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::CertRevoked => CertificateError::Revoked,
        E::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        error => CertificateError::Other(OtherError(Arc::new(error))),
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        if let Some(trust) = &self.trust {
            trust.verify(leaf, intermediates, name, now)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
