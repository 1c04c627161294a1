//! TLS between a node and the control plane (gRPC), of the API server with a webhook, and of a waypoint with the servers of issuers'
//! keys, over anything that carries bytes. Apart from [`session`](super::session) because nothing here is a workload: the client
//! is known by what it sends later (a token), or by nothing, the server by its name, and a connection may cost a copy.
//!
//! What never varies: TLS 1.3, which every peer in the field speaks (ztunnel, Istio's agents, istiod, the API server, issuers);
//! no client certificate; no resumption. gRPC has ALPN `h2`, without which there is no connection; an API server asks its
//! webhooks in HTTP/1.1, and a waypoint the issuers ([`Protocol`]).
//!
//! A server's certificate and a client's roots are exchanged while they are in use: new connections have the new ones,
//! open ones go on.

mod error;

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::{
    RootCertStore, client::Resumption, crypto::CryptoProvider, pki_types::ServerName, server::NoServerSessionStorage,
    time_provider::TimeProvider, version::TLS13,
};
use rustls_native_certs::{CertificateResult, load_native_certs};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use underpass_identity::{Roots, ServingCertificate};

pub use self::error::HandshakeError;
use crate::tls::{
    ConfigError, SessionError, Settings, VerifyError,
    config::{ALPN, own_certificate, provider},
};

/// What a server speaks inside of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2, agreed on by ALPN.
    H2,
    /// HTTP/1.1, also with a client that does not take part in ALPN (RFC 7301, 3.2).
    Http1,
}

impl Protocol {
    pub(super) const fn alpn(self) -> &'static [u8] {
        match self {
            Self::H2 => ALPN,
            Self::Http1 => b"http/1.1",
        }
    }

    fn is_agreed(self, alpn: Option<&[u8]>) -> bool {
        alpn.map_or(self == Self::Http1, |agreed| agreed == self.alpn())
    }
}

/// What the configurations of one end have in common.
struct Base {
    provider: Arc<CryptoProvider>,
    time: Arc<dyn TimeProvider>,
}

impl Base {
    fn new(settings: &Settings) -> Result<Self, ConfigError> {
        Ok(Self { provider: provider(settings.suites())?, time: Arc::clone(&settings.time) })
    }

    fn server(
        &self,
        certificate: &ServingCertificate,
        protocol: Protocol,
    ) -> Result<Arc<rustls::ServerConfig>, ConfigError> {
        let refused = |source| ConfigError::Refused { serial: certificate.serial().clone(), source };
        let own = own_certificate(certificate.key(), certificate.chain()).map_err(refused)?;
        let mut tls = rustls::ServerConfig::builder_with_details(Arc::clone(&self.provider), Arc::clone(&self.time))
            .with_protocol_versions(&[&TLS13])
            .map_err(refused)?
            .with_no_client_auth()
            .with_cert_resolver(own);
        tls.alpn_protocols = vec![protocol.alpn().to_vec()];
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        tls.send_tls13_tickets = 0;
        tls.max_early_data_size = 0;
        tls.ignore_client_order = true;
        Ok(Arc::new(tls))
    }

    /// A client of servers whose chain leads to one of `roots`.
    fn client_of(&self, roots: &Roots, protocol: Protocol) -> Result<Arc<rustls::ClientConfig>, ConfigError> {
        let anchor = |der| {
            webpki::anchor_from_trusted_cert(der).map(|anchor| anchor.to_owned()).map_err(|source| ConfigError::Roots {
                generation: roots.generation(),
                source: VerifyError::Malformed(source),
            })
        };
        let store = RootCertStore { roots: roots.certificates().iter().map(anchor).collect::<Result<_, _>>()? };
        self.client(store, protocol)
    }

    fn client(&self, store: RootCertStore, protocol: Protocol) -> Result<Arc<rustls::ClientConfig>, ConfigError> {
        let mut tls = rustls::ClientConfig::builder_with_details(Arc::clone(&self.provider), Arc::clone(&self.time))
            .with_protocol_versions(&[&TLS13])
            .map_err(ConfigError::Settings)?
            .with_root_certificates(store)
            .with_no_client_auth();
        tls.alpn_protocols = vec![protocol.alpn().to_vec()];
        tls.resumption = Resumption::disabled();
        tls.enable_early_data = false;
        Ok(Arc::new(tls))
    }
}

/// The server's end.
pub struct Acceptor {
    base: Base,
    config: watch::Sender<Arc<rustls::ServerConfig>>,
    handshake: Duration,
    protocol: Protocol,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("handshake", &self.handshake).finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Shows `certificate` to clients of this protocol, each of which has the time `handshake` from [`Acceptor::accept`] on.
    ///
    /// # Errors
    /// The certificate or the settings are unusable.
    pub fn new(
        certificate: &ServingCertificate,
        settings: &Settings,
        handshake: Duration,
        protocol: Protocol,
    ) -> Result<Self, ConfigError> {
        let base = Base::new(settings)?;
        let config = watch::Sender::new(base.server(certificate, protocol)?);
        Ok(Self { base, config, handshake, protocol })
    }

    /// Shows `certificate` to clients from now on. Open connections go on.
    ///
    /// # Errors
    /// The certificate is unusable; the one before stays.
    pub fn exchange(&self, certificate: &ServingCertificate) -> Result<(), ConfigError> {
        self.config.send_replace(self.base.server(certificate, self.protocol)?);
        Ok(())
    }

    /// The handshake with a client that connected by `io`.
    ///
    /// # Errors
    /// The handshake failed; `io` is closed.
    pub async fn accept<IO>(&self, io: IO) -> Result<Stream<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = Arc::clone(&self.config.borrow());
        let done = in_time(self.handshake, TlsAcceptor::from(config).accept(io)).await?;
        Stream::speaking(Some(self.protocol), done.into())
    }
}

/// The client's end.
pub struct Connector {
    base: Base,
    config: watch::Sender<Arc<rustls::ClientConfig>>,
    handshake: Duration,
    protocol: Protocol,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("handshake", &self.handshake).finish_non_exhaustive()
    }
}

impl Connector {
    /// Believes servers whose chain leads to one of `roots`, and gives each the time `handshake` from [`Connector::connect`] on.
    ///
    /// # Errors
    /// A root or the settings are unusable.
    pub fn new(roots: &Roots, settings: &Settings, handshake: Duration) -> Result<Self, ConfigError> {
        let base = Base::new(settings)?;
        let config = watch::Sender::new(base.client_of(roots, Protocol::H2)?);
        Ok(Self { base, config, handshake, protocol: Protocol::H2 })
    }

    /// Asks servers of the web in HTTP/1.1: believes those whose chain leads to one of `roots`, else to one that this machine
    /// believes by now. Of those a root that cannot be read is left out. Blocks where they are read.
    ///
    /// # Errors
    /// A root of `roots` or the settings are unusable, or the machine has no root.
    pub fn web(roots: Option<&Roots>, settings: &Settings, handshake: Duration) -> Result<Self, ConfigError> {
        let (base, protocol) = (Base::new(settings)?, Protocol::Http1);
        let config = match roots {
            Some(roots) => base.client_of(roots, protocol)?,
            None => base.client(machine_roots()?, protocol)?,
        };
        Ok(Self { base, config: watch::Sender::new(config), handshake, protocol })
    }

    /// Believes servers by `roots` from now on. Open connections go on.
    ///
    /// # Errors
    /// A root is unusable; those before stay.
    pub fn exchange(&self, roots: &Roots) -> Result<(), ConfigError> {
        self.config.send_replace(self.base.client_of(roots, self.protocol)?);
        Ok(())
    }

    /// The handshake with the server `name`, a DNS name or an address, which `io` leads to. A DNS name is sent (SNI).
    ///
    /// # Errors
    /// The handshake failed; `io` is closed.
    pub async fn connect<IO>(&self, io: IO, name: &ServerName<'static>) -> Result<Stream<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = Arc::clone(&self.config.borrow());
        let done = in_time(self.handshake, TlsConnector::from(config).connect(name.clone(), io)).await?;
        Stream::speaking(Some(self.protocol), done.into())
    }
}

/// The roots that this machine believes, of its files; one that cannot be read is left out.
pub(super) fn machine_roots() -> Result<RootCertStore, ConfigError> {
    usable_roots(load_native_certs())
}

fn usable_roots(found: CertificateResult) -> Result<RootCertStore, ConfigError> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(found.certs);
    match store.is_empty() {
        true => Err(ConfigError::NoRoots { source: found.errors.into_iter().next().map(io::Error::other) }),
        false => Ok(store),
    }
}

async fn in_time<T>(limit: Duration, handshake: impl Future<Output = io::Result<T>>) -> Result<T, HandshakeError> {
    match timeout(limit, handshake).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(HandshakeError::TimedOut { limit }),
    }
}

/// A connection whose handshake is done. An end of the peer without close_notify is an error of reading, of kind
/// `UnexpectedEof`.
#[derive(Debug)]
pub struct Stream<IO>(TlsStream<IO>);

impl<IO> Stream<IO> {
    /// Neither end of the library refuses a peer that does not take part in ALPN. None: no protocol was to be agreed on.
    pub(super) fn speaking(protocol: Option<Protocol>, stream: TlsStream<IO>) -> Result<Self, HandshakeError> {
        let agreed = stream.get_ref().1.alpn_protocol();
        if protocol.is_some_and(|protocol| !protocol.is_agreed(agreed)) {
            return Err(HandshakeError::Refused(SessionError::Alpn));
        }
        Ok(Self(stream))
    }

    /// What carries it.
    #[must_use]
    pub fn io(&self) -> &IO {
        self.0.get_ref().0
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use underpass_identity::testing::TestCa;

    use super::*;

    #[test]
    fn a_machine_without_roots_says_so() {
        let found = |certs: &[&[u8]]| {
            let mut found = CertificateResult::default();
            found.certs = certs.iter().map(|der| der.to_vec().into()).collect();
            usable_roots(found).map(|store| store.len()).map_err(|error| error.to_string())
        };
        let none = "cannot configure TLS: this machine has no root certificates (SSL_CERT_FILE, SSL_CERT_DIR)";
        let roots = TestCa::new("root").roots(1);
        let root = &roots.certificates()[0];
        assert_eq!(found(&[]), Err(none.to_owned()));
        assert_eq!(found(&[b"no certificate"]), Err(none.to_owned()));
        assert_eq!(found(&[b"no certificate", root]), Ok(1));
    }
}
