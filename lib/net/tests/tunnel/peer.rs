//! Foreign peers: TLS by rustls' other API, which accepts every certificate, and HTTP/2 by the h2 crate on it.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use underpass_identity::testing::{Leaf, TestCa};

/// Foreign TLS: shows a certificate, and accepts any.
#[derive(Debug)]
pub(crate) struct Tls {
    provider: Arc<CryptoProvider>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    pub(crate) alpn: Vec<u8>,
}

impl Tls {
    pub(crate) fn new(ca: &TestCa, leaf: &Leaf) -> Self {
        let (key, chain) = ca.sign(leaf);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8_der().to_vec()));
        Self { provider: Arc::new(aws_lc_rs::default_provider()), chain, key, alpn: b"h2".to_vec() }
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let accept_all = Arc::new(AcceptAll(Arc::clone(&self.provider)));
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("versions")
            .with_client_cert_verifier(accept_all)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .expect("certificate");
        config.alpn_protocols = vec![self.alpn.clone()];
        TlsAcceptor::from(Arc::new(config))
    }

    pub(crate) async fn accept(&self, socket: TcpStream) -> server::TlsStream<TcpStream> {
        self.acceptor().accept(socket).await.expect("handshake")
    }

    pub(crate) async fn connect(&self, socket: TcpStream) -> std::io::Result<client::TlsStream<TcpStream>> {
        let accept_all = Arc::new(AcceptAll(Arc::clone(&self.provider)));
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(accept_all)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .expect("certificate");
        config.alpn_protocols = vec![self.alpn.clone()];
        let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        TlsConnector::from(Arc::new(config)).connect(name, socket).await
    }
}

/// Verifies that the peer has the key of its certificate, and nothing else.
#[derive(Debug)]
struct AcceptAll(Arc<CryptoProvider>);

impl AcceptAll {
    fn signed(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }
}

impl ServerCertVerifier for AcceptAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for AcceptAll {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
