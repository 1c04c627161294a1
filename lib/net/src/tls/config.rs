//! TLS configurations, made of a credential, roots and expected peers, and a cache of them: building one parses keys and
//! roots, a tunnel needs one, and many tunnels need the same. A worker has its own cache, so nothing is shared.
//!
//! What never varies is decided here, once: TLS 1.3, AES-GCM, ALPN `h2`, no server name, client certificates required,
//! no resumption in either role.

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::SystemTime,
};

use rustls::{
    CipherSuite, SupportedCipherSuite,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::{DefaultTimeProvider, TimeProvider},
    version::TLS13,
};
use underpass_core::Identities;
use underpass_identity::{Credential, PrivateKey, Roots, Serial};

use crate::tls::verify::{Accept, TrustDomains, Verifier, VerifyError};

/// The one application protocol: HTTP/2 (RFC 9113, 3.2).
pub const ALPN: &[u8] = b"h2";

/// More configurations than a node's pods and their peers need; above it the cache starts anew.
pub const CACHE_MAX: usize = 4096;

/// A cipher suite of TLS 1.3 that is spoken in the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// `TLS_AES_128_GCM_SHA256`.
    Aes128Gcm,
    /// `TLS_AES_256_GCM_SHA384`.
    Aes256Gcm,
}

impl Cipher {
    const fn suite(self) -> SupportedCipherSuite {
        match self {
            Self::Aes128Gcm => aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            Self::Aes256Gcm => aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        }
    }

    pub(crate) const fn of(suite: CipherSuite) -> Option<Self> {
        match suite {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => Some(Self::Aes128Gcm),
            CipherSuite::TLS13_AES_256_GCM_SHA384 => Some(Self::Aes256Gcm),
            _ => None,
        }
    }
}

/// The TLS settings of a node, the same for all of its connections.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Ciphers on offer, the preferred one first. A server follows its own preference.
    pub ciphers: Vec<Cipher>,
    /// The time against which certificates are checked.
    pub time: Arc<dyn TimeProvider>,
}

impl Settings {
    pub(crate) fn suites(&self) -> Vec<SupportedCipherSuite> {
        self.ciphers.iter().map(|cipher| cipher.suite()).collect()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { ciphers: vec![Cipher::Aes128Gcm, Cipher::Aes256Gcm], time: Arc::new(DefaultTimeProvider) }
    }
}

/// The reason why a configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The setting names no cipher.
    #[error("cannot configure TLS: no cipher is enabled")]
    NoCipher,
    /// A root that cannot stand at the end of a chain.
    #[error("cannot use generation {generation} of the bundle of roots")]
    Roots {
        /// The bundle's.
        generation: u64,
        /// The problem of the root.
        source: VerifyError,
    },
    /// By the roots of this machine no server would be believed.
    #[error("cannot configure TLS: this machine has no root certificates (SSL_CERT_FILE, SSL_CERT_DIR)")]
    NoRoots {
        /// The first file that could not be read; none: there is none.
        source: Option<io::Error>,
    },
    /// The library refuses the settings.
    #[error("cannot configure TLS")]
    Settings(#[source] rustls::Error),
    /// The library refuses the credential or the settings.
    #[error("cannot configure TLS with the certificate {serial}")]
    Refused {
        /// Our certificate's.
        serial: Serial,
        /// The library's error.
        source: rustls::Error,
    },
}

/// A client's configuration. Cheap to clone.
#[derive(Clone)]
pub struct ClientConfig {
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) not_after: SystemTime,
    pub(crate) accept: Accept,
}

/// A server's configuration. Cheap to clone.
#[derive(Clone)]
pub struct ServerConfig {
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) not_after: SystemTime,
    pub(crate) accept: Accept,
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// The name that rustls wants of a server. It is neither sent nor checked: an address never becomes an SNI, and our
/// verifier asks for identities.
pub(crate) fn no_server_name() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into())
}

/// A cache of configurations, by our certificate, the accepted peers, and the generation of the bundle of roots.
pub struct Configs {
    provider: Arc<CryptoProvider>,
    time: Arc<dyn TimeProvider>,
    /// Entries of older bundles are dropped when a newer one is first seen.
    generation: u64,
    clients: HashMap<(Serial, Identities), ClientConfig>,
    servers: HashMap<(Serial, TrustDomains), ServerConfig>,
}

impl fmt::Debug for Configs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Configs")
            .field("generation", &self.generation)
            .field("clients", &self.clients.len())
            .field("servers", &self.servers.len())
            .finish_non_exhaustive()
    }
}

impl Configs {
    /// An empty cache.
    ///
    /// # Errors
    /// [`ConfigError::NoCipher`].
    pub fn new(settings: Settings) -> Result<Self, ConfigError> {
        Self::with_suites(settings.suites(), settings.time)
    }

    pub(crate) fn with_suites(
        cipher_suites: Vec<SupportedCipherSuite>,
        time: Arc<dyn TimeProvider>,
    ) -> Result<Self, ConfigError> {
        let provider = provider(cipher_suites)?;
        Ok(Self { provider, time, generation: 0, clients: HashMap::new(), servers: HashMap::new() })
    }

    /// The configuration with which the owner of `credential` connects to one of `expected`.
    ///
    /// # Errors
    /// The roots or the credential are unusable.
    pub fn client(
        &mut self,
        credential: &Credential,
        expected: &Identities,
        roots: &Roots,
    ) -> Result<ClientConfig, ConfigError> {
        let is_current = self.enter(roots.generation());
        let key = (credential.serial().clone(), expected.clone());
        if let Some(config) = self.clients.get(&key).filter(|_| is_current) {
            return Ok(config.clone());
        }
        let config = self.make_client(credential, expected, roots)?;
        if is_current {
            if self.clients.len() >= CACHE_MAX {
                self.clients.clear();
            }
            self.clients.insert(key, config.clone());
        }
        Ok(config)
    }

    /// The configuration with which the owner of `credential` accepts workloads of `accepted`.
    ///
    /// # Errors
    /// The roots or the credential are unusable.
    pub fn server(
        &mut self,
        credential: &Credential,
        accepted: &TrustDomains,
        roots: &Roots,
    ) -> Result<ServerConfig, ConfigError> {
        let is_current = self.enter(roots.generation());
        let key = (credential.serial().clone(), accepted.clone());
        if let Some(config) = self.servers.get(&key).filter(|_| is_current) {
            return Ok(config.clone());
        }
        let config = self.make_server(credential, accepted, roots)?;
        if is_current {
            if self.servers.len() >= CACHE_MAX {
                self.servers.clear();
            }
            self.servers.insert(key, config.clone());
        }
        Ok(config)
    }

    /// Drops the configurations of the certificate `serial`, and with them the last copies of its key here.
    pub fn forget(&mut self, serial: &Serial) {
        self.clients.retain(|(own, _), _| own != serial);
        self.servers.retain(|(own, _), _| own != serial);
    }

    /// The number of cached configurations.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clients.len() + self.servers.len()
    }

    /// True without cached configurations.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A newer bundle empties the cache. Returns whether `generation` is the newest: others are served, not kept.
    fn enter(&mut self, generation: u64) -> bool {
        if generation > self.generation {
            self.generation = generation;
            self.clients.clear();
            self.servers.clear();
        }
        generation == self.generation
    }

    fn verifier(&self, roots: &Roots, accept: Accept) -> Result<Arc<Verifier>, ConfigError> {
        Verifier::new(roots, accept, self.provider.signature_verification_algorithms)
            .map(Arc::new)
            .map_err(|source| ConfigError::Roots { generation: roots.generation(), source })
    }

    fn make_client(
        &self,
        credential: &Credential,
        expected: &Identities,
        roots: &Roots,
    ) -> Result<ClientConfig, ConfigError> {
        let refused = |source| ConfigError::Refused { serial: credential.serial().clone(), source };
        let accept = Accept::Servers(expected.clone());
        let verifier = self.verifier(roots, accept.clone())?;
        let mut tls = rustls::ClientConfig::builder_with_details(Arc::clone(&self.provider), Arc::clone(&self.time))
            .with_protocol_versions(&[&TLS13])
            .map_err(refused)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(own_certificate(credential.key(), credential.chain()).map_err(refused)?);
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls.resumption = Resumption::disabled();
        tls.enable_sni = false;
        tls.enable_early_data = false;
        Ok(ClientConfig { tls: Arc::new(tls), not_after: credential.not_after(), accept })
    }

    fn make_server(
        &self,
        credential: &Credential,
        accepted: &TrustDomains,
        roots: &Roots,
    ) -> Result<ServerConfig, ConfigError> {
        let refused = |source| ConfigError::Refused { serial: credential.serial().clone(), source };
        let accept = Accept::Clients(accepted.clone());
        let verifier = self.verifier(roots, accept.clone())?;
        let mut tls = rustls::ServerConfig::builder_with_details(Arc::clone(&self.provider), Arc::clone(&self.time))
            .with_protocol_versions(&[&TLS13])
            .map_err(refused)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(own_certificate(credential.key(), credential.chain()).map_err(refused)?);
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        tls.send_tls13_tickets = 0;
        tls.max_early_data_size = 0;
        tls.ignore_client_order = true;
        Ok(ServerConfig { tls: Arc::new(tls), not_after: credential.not_after(), accept })
    }
}

/// The cryptography of a configuration with these ciphers.
pub(crate) fn provider(cipher_suites: Vec<SupportedCipherSuite>) -> Result<Arc<CryptoProvider>, ConfigError> {
    if cipher_suites.is_empty() {
        return Err(ConfigError::NoCipher);
    }
    Ok(Arc::new(CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() }))
}

/// The key is lent to the library, which keeps it in a form of its own that is wiped when the last configuration goes.
pub(crate) fn own_certificate(
    key: &PrivateKey,
    chain: &[CertificateDer<'static>],
) -> Result<Arc<SingleCertAndKey>, rustls::Error> {
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8_der()));
    let key = aws_lc_rs::sign::any_ecdsa_type(&der)?;
    Ok(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain.to_vec(), key))))
}
