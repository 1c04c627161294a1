//! Interoperability with another TLS stack: rustls' buffered API with its defaults, with small fragments, tickets, TLS 1.2, no
//! ALPN, and over a real socket.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
};

use rustls::{
    Connection, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme, SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use underpass_identity::{PrivateKey, testing::Leaf};

use super::*;

/// Believes everything.
#[derive(Debug)]
struct Gullible;

impl Gullible {
    fn schemes() -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Gullible {
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
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Gullible {
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
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

/// The peer that is not ours.
pub(super) struct Foreign {
    connection: Connection,
}

type Versions<'a> = &'a [&'static SupportedProtocolVersion];

impl Foreign {
    pub(super) fn client(
        own: Option<(&PrivateKey, Vec<CertificateDer<'static>>)>,
        alpn: &[&[u8]],
        versions: Versions<'_>,
    ) -> Self {
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible));
        let mut config = match own {
            Some((key, chain)) => builder.with_client_auth_cert(chain, der(key)).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|a| a.to_vec()).collect();
        Self::connecting(config)
    }

    fn connecting(config: rustls::ClientConfig) -> Self {
        let name = ServerName::try_from("bob.example").unwrap();
        let client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        Self { connection: client.into() }
    }

    pub(super) fn server(
        key: &PrivateKey,
        chain: Vec<CertificateDer<'static>>,
        alpn: &[&[u8]],
        versions: Versions<'_>,
    ) -> Self {
        Self::accepting(Self::server_config(key, chain, alpn, versions))
    }

    fn server_config(
        key: &PrivateKey,
        chain: Vec<CertificateDer<'static>>,
        alpn: &[&[u8]],
        versions: Versions<'_>,
    ) -> rustls::ServerConfig {
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_client_cert_verifier(Arc::new(Gullible))
            .with_single_cert(chain, der(key))
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|a| a.to_vec()).collect();
        config
    }

    fn accepting(config: rustls::ServerConfig) -> Self {
        let server = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        Self { connection: server.into() }
    }

    /// Carries bytes both ways until nothing moves; our end's verdict.
    pub(super) fn talk(&mut self, ours: &mut Side) -> Result<(), SessionError> {
        loop {
            let from_foreign = self.take();
            if !from_foreign.is_empty() {
                ours.receive(&from_foreign)?;
            }
            if ours.out.is_empty() {
                return Ok(());
            }
            let from_ours = ours.take();
            self.give(&from_ours);
        }
    }

    fn take(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    fn give(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.connection.read_tls(&mut bytes).unwrap();
            // Its verdict on us is not what is tested; its alert travels with what it writes next.
            if self.connection.process_new_packets().is_err() {
                return;
            }
        }
    }

    fn read(&mut self) -> Vec<u8> {
        let mut plain = Vec::new();
        match self.connection.reader().read_to_end(&mut plain) {
            Ok(_) => {}
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
        }
        plain
    }
}

fn der(key: &PrivateKey) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8_der().to_vec()))
}

fn our_client(mesh: &Mesh) -> Side {
    let mut out = Outgoing::new();
    let session = Session::client(&mesh.client(), &mut out).unwrap();
    Side::new(session, out)
}

/// A server whose records hold 16 bytes each: every handshake message spans many.
fn fragmenting_server(mesh: &Mesh, tickets: usize) -> Foreign {
    let (key, chain) = mesh.ca.sign(&Leaf::of(BOB));
    let mut config = Foreign::server_config(&key, chain, &[b"h2"], &[&rustls::version::TLS13]);
    // The least that rustls allows: header, overhead and 32.
    config.max_fragment_size = Some(32);
    config.send_tls13_tickets = tickets;
    Foreign::accepting(config)
}

#[test]
fn handshake_messages_may_span_records() {
    let mesh = Mesh::new();
    let mut server = fragmenting_server(&mesh, 0);
    let mut client = our_client(&mesh);
    server.talk(&mut client).unwrap();
    assert!(client.connected);
    client.send(b"ping");
    server.talk(&mut client).unwrap();
    assert_eq!(server.read(), b"ping");
}

#[test]
fn writing_goes_on_while_a_message_of_the_peer_is_incomplete() {
    let mesh = Mesh::new();
    let mut server = fragmenting_server(&mesh, 2);
    let mut client = our_client(&mesh);
    let hello = client.take();
    server.give(&hello);
    let flight = server.take();
    client.receive(&flight).unwrap();
    assert!(client.connected);
    server.give(&client.take());
    // Now the tickets, each in several records: stop behind every byte, and write.
    let tickets = server.take();
    assert!(tickets.len() > 200, "{} bytes of tickets", tickets.len());
    server.connection.writer().write_all(b"behind the tickets").unwrap();
    for (i, byte) in tickets.iter().enumerate() {
        client.receive(&[*byte]).unwrap();
        if i % 7 == 0 {
            client.send(&[b'x'; 5]);
            let bytes = client.take();
            server.give(&bytes);
        }
    }
    let rest = server.take();
    client.receive(&rest).unwrap();
    assert_eq!(client.data, b"behind the tickets");
    assert_eq!(server.read(), vec![b'x'; tickets.len().div_ceil(7) * 5]);
}

#[test]
fn tickets_are_not_used() {
    let mesh = Mesh::new();
    let (key, chain) = mesh.ca.sign(&Leaf::of(BOB));
    let config = Foreign::server_config(&key, chain, &[b"h2"], &[&rustls::version::TLS13]);
    assert!(config.send_tls13_tickets > 0);
    let config = Arc::new(config);
    let ours = mesh.client();
    for _ in 0..3 {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut server = Foreign { connection: connection.into() };
        let mut out = Outgoing::new();
        let mut client = Side::new(Session::client(&ours, &mut out).unwrap(), out);
        server.talk(&mut client).unwrap();
        assert_eq!(server.connection.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn a_foreign_client_cannot_resume() {
    let mesh = Mesh::new();
    let (key, chain) = mesh.ca.sign(&Leaf::of(ALICE));
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_client_auth_cert(chain, der(&key))
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::in_memory_sessions(16);
    let ours = mesh.server();
    for _ in 0..3 {
        let mut client = Foreign::connecting(config.clone());
        let mut server = Side::new(Session::server(&ours).unwrap(), Outgoing::new());
        client.talk(&mut server).unwrap();
        assert!(server.connected);
        assert_eq!(client.connection.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn its_keys_change_as_well() {
    let mesh = Mesh::new();
    let (key, chain) = mesh.ca.sign(&Leaf::of(BOB));
    let (suite, used) = limited(64);
    let provider = rustls::crypto::CryptoProvider { cipher_suites: vec![suite], ..aws_lc_rs::default_provider() };
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(Gullible))
        .with_single_cert(chain, der(&key))
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut server = Foreign::accepting(config);
    server.connection.set_buffer_limit(None);
    let mut client = our_client(&mesh);
    server.talk(&mut client).unwrap();
    let plain = pattern(100_000);
    for i in 0..60 {
        server.connection.writer().write_all(&plain).unwrap();
        client.send(&plain[..i * 10]);
        server.talk(&mut client).unwrap();
        assert_eq!(server.read().len(), i * 10);
    }
    assert!(client.data == plain.repeat(60));
    assert!(used.encrypters.load(Ordering::Relaxed) > 6);
}

/// Our end on a blocking socket: sends `plain`, reads to the peer's close_notify, and closes.
fn exchange(session: Session, out: Outgoing, mut socket: TcpStream, plain: &[u8]) -> Side {
    let mut side = Side::new(session, out);
    let mut buffer = vec![0; 64 * 1024];
    let mut sending: Option<thread::JoinHandle<()>> = None;
    let mut sent = false;
    while !side.peer_closed {
        if side.connected && !sent {
            side.send(plain);
            sent = true;
        }
        let bytes = side.take();
        if !bytes.is_empty() {
            let mut writer = socket.try_clone().unwrap();
            let before = sending.take();
            // Both ends have more to say than the sockets hold: one end must read meanwhile.
            sending = Some(thread::spawn(move || {
                before.map(thread::JoinHandle::join).transpose().unwrap();
                writer.write_all(&bytes).unwrap();
            }));
        }
        let n = socket.read(&mut buffer).unwrap();
        if n == 0 {
            side.session.end_of_input().unwrap();
        }
        side.receive(&buffer[..n]).unwrap();
    }
    sending.map(thread::JoinHandle::join).transpose().unwrap();
    side.session.close(&mut side.out).unwrap();
    socket.write_all(&side.take()).unwrap();
    side
}

#[test]
fn over_loopback_in_both_roles() {
    let mesh = Mesh::new();
    let plain = pattern(4 << 20);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();

    let foreign = |mut connection: Connection, mut socket: TcpStream, plain: Vec<u8>| {
        thread::spawn(move || {
            let mut writer = socket.try_clone().unwrap();
            while connection.is_handshaking() {
                connection.complete_io(&mut socket).unwrap();
            }
            connection.set_buffer_limit(None);
            connection.writer().write_all(&plain).unwrap();
            connection.send_close_notify();
            let mut bytes = Vec::new();
            while connection.wants_write() {
                connection.write_tls(&mut bytes).unwrap();
            }
            let sending = thread::spawn(move || writer.write_all(&bytes).unwrap());
            let mut got = Vec::new();
            let mut chunk = vec![0; 1 << 16];
            loop {
                match connection.reader().read(&mut chunk) {
                    Ok(0) => break,
                    Ok(n) => got.extend_from_slice(&chunk[..n]),
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                        assert_ne!(connection.read_tls(&mut socket).unwrap(), 0, "close_notify comes first");
                        connection.process_new_packets().unwrap();
                    }
                    Err(e) => panic!("{e}"),
                }
            }
            sending.join().unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            got
        })
    };

    let (key, chain) = mesh.ca.sign(&Leaf::of(BOB));
    let server = Foreign::server(&key, chain, &[b"h2"], &[&rustls::version::TLS13]);
    let connecting = TcpStream::connect(address).unwrap();
    let peer = foreign(server.connection, listener.accept().unwrap().0, plain.clone());
    let client = our_client(&mesh);
    let side = exchange(client.session, client.out, connecting, &plain);
    assert!(side.data == plain);
    assert!(peer.join().unwrap() == plain);

    let (key, chain) = mesh.ca.sign(&Leaf::of(ALICE));
    let client = Foreign::client(Some((&key, chain)), &[b"h2"], &[&rustls::version::TLS13]);
    let connecting = TcpStream::connect(address).unwrap();
    let peer = foreign(client.connection, connecting, plain.clone());
    let session = Session::server(&mesh.server()).unwrap();
    let side = exchange(session, Outgoing::new(), listener.accept().unwrap().0, &plain);
    assert!(side.data == plain);
    assert!(peer.join().unwrap() == plain);
}
