//! TLS between a node and the control plane: both ends against each other, and either against a foreign one.

#![allow(missing_docs, reason = "tests")]

use std::{sync::Arc, time::Duration};

use rustls::{RootCertStore, crypto::aws_lc_rs, pki_types::PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use underpass_core::{TrustDomain, tls::Alert};
use underpass_identity::{
    Authority, Cacerts, Roots, ServingCertificate,
    rotation::values::Values,
    testing::{Leaf, TestCa, now},
};
use underpass_net::tls::{
    Acceptor, Connector, HandshakeError, Protocol, ServerName, SessionError, Settings, Stream, testing::ManualTime,
};

const NAME: &str = "underpass-control.underpass-system.svc";
const CONTROL: &str = "spiffe://cluster.local/ns/underpass-system/sa/underpass-control";
/// Generous: no test waits for it.
const LIMIT: Duration = Duration::from_secs(60);
const BUFFER_BYTES: usize = 64 * 1024;

fn name(text: &str) -> ServerName<'static> {
    ServerName::try_from(text.to_owned()).unwrap()
}

fn settings() -> Settings {
    Settings { time: ManualTime::new(now()), ..Settings::default() }
}

/// A serving certificate of `ca` for [`NAME`].
fn serving(ca: &TestCa, change: impl FnOnce(&mut Leaf)) -> ServingCertificate {
    let mut leaf = Leaf::of(CONTROL);
    leaf.dns_names = vec![NAME.to_owned()];
    change(&mut leaf);
    let (key, chain) = ca.sign(&leaf);
    ServingCertificate::new(key, chain).unwrap()
}

fn acceptor(certificate: &ServingCertificate) -> Acceptor {
    Acceptor::new(certificate, &settings(), LIMIT, Protocol::H2).unwrap()
}

fn connector(roots: &Roots) -> Connector {
    Connector::new(roots, &settings(), LIMIT).unwrap()
}

type Ended<T> = Result<T, HandshakeError>;

/// A handshake over memory: what the client says of it, and the server.
async fn shake(
    connector: &Connector,
    acceptor: &Acceptor,
    name: &ServerName<'static>,
) -> (Ended<Stream<DuplexStream>>, Ended<Stream<DuplexStream>>) {
    let (near, far) = duplex(BUFFER_BYTES);
    tokio::join!(connector.connect(near, name), acceptor.accept(far))
}

/// `says` arrives at the other end.
async fn carries<R, W>(from: &mut W, to: &mut R, says: &[u8])
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut heard = vec![0; says.len()];
    from.write_all(says).await.unwrap();
    from.flush().await.unwrap();
    to.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, says);
}

#[tokio::test]
async fn both_ends_carry_both_ways_and_close() {
    let ca = TestCa::new("root");
    let below = ca.intermediate("between");
    let (connector, acceptor) = (connector(&ca.roots(1)), acceptor(&serving(&below, |_| {})));
    let (client, server) = shake(&connector, &acceptor, &name(NAME)).await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    carries(&mut client, &mut server, b"question").await;
    carries(&mut server, &mut client, b"answer").await;
    client.shutdown().await.unwrap();
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0, "an announced end");
    drop(server);
    let error = client.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "one that is not announced");
}

#[tokio::test]
async fn a_certificate_of_the_authority_is_accepted() {
    let domain = TrustDomain::default();
    let control = CONTROL.parse().unwrap();
    let rsa = include_str!("../../identity/tests/data/openssl-rsa-pkcs1.pem");
    let plugged = Cacerts { ca_cert: rsa, ca_key: rsa, cert_chain: "", root_cert: rsa };
    let made = Authority::make(&domain, now()).unwrap();
    for authority in [
        Authority::plugged_in("Secret cacerts", &plugged, &domain, now()).unwrap(),
        Authority::from_values("Secret underpass-ca", &Values::alone(made), &domain, now()).unwrap(),
    ] {
        let certificate = authority.serving(&[NAME], &control, LIMIT, now()).unwrap();
        let connector = connector(&authority.roots(1).unwrap());
        let (client, server) = shake(&connector, &acceptor(&certificate), &name(NAME)).await;
        carries(&mut client.unwrap(), &mut server.unwrap(), b"hello").await;
    }
}

/// What the client and the server say of a handshake that fails.
struct Failure {
    client: &'static str,
    alert: u8,
}

/// The client refuses the server: it knows why, the server gets an alert.
async fn check(ca: &TestCa, certificate: &ServingCertificate, called: &str, want: Failure) {
    let (client, server) = shake(&connector(&ca.roots(1)), &acceptor(certificate), &name(called)).await;
    let (client, server) = (client.unwrap_err(), server.unwrap_err());
    let text = client.to_string();
    assert!(matches!(client, HandshakeError::Certificate(_)), "{client:?}");
    assert!(text.contains(want.client) && !text.contains('\n'), "{text}");
    let HandshakeError::Refused(SessionError::PeerAlert(alert)) = server else { panic!("{server:?}") };
    assert_eq!(alert, Alert(want.alert), "{text}");
    let text = HandshakeError::Refused(SessionError::PeerAlert(alert)).to_string();
    assert_eq!(text, format!("TLS handshake failed: peer refused: {}", alert.name()));
}

#[tokio::test]
async fn servers_that_are_refused() {
    // RFC 8446, 6.2.
    const BAD_CERTIFICATE: u8 = 42;
    const UNSUPPORTED_CERTIFICATE: u8 = 43;
    const CERTIFICATE_EXPIRED: u8 = 45;
    const UNKNOWN_CA: u8 = 48;
    let (ca, other) = (TestCa::new("root"), TestCa::new("other"));
    let good = || serving(&ca, |_| {});
    let day = Duration::from_secs(24 * 3600);
    let failure = |client, alert| Failure { client, alert };
    let wrong = failure("not valid for name \"istiod.istio-system.svc\"", BAD_CERTIFICATE);
    check(&ca, &good(), "istiod.istio-system.svc", wrong).await;
    check(&ca, &good(), "10.0.0.1", failure("not valid for name \"10.0.0.1\"", BAD_CERTIFICATE)).await;
    check(&other, &good(), NAME, failure("no authority that is believed", UNKNOWN_CA)).await;
    let expired = serving(&ca, |leaf| leaf.not_after = now() - Duration::from_secs(1));
    check(&ca, &expired, NAME, failure("certificate expired", CERTIFICATE_EXPIRED)).await;
    let early = serving(&ca, |leaf| leaf.not_before = now() + day);
    check(&ca, &early, NAME, failure("not valid yet", CERTIFICATE_EXPIRED)).await;
    let nameless = serving(&ca, |leaf| leaf.dns_names.clear());
    check(&ca, &nameless, NAME, failure("not valid for name", BAD_CERTIFICATE)).await;
    let client_only = serving(&ca, |leaf| leaf.server_auth = false);
    check(&ca, &client_only, NAME, failure("server authentication", UNSUPPORTED_CERTIFICATE)).await;
}

#[tokio::test]
async fn an_exchanged_certificate_is_shown_to_new_clients_and_open_connections_go_on() {
    let (old, new) = (TestCa::new("old"), TestCa::new("new"));
    let acceptor = acceptor(&serving(&old, |_| {}));
    let connector = connector(&old.roots(1));
    let (client, server) = shake(&connector, &acceptor, &name(NAME)).await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());

    acceptor.exchange(&serving(&new, |_| {})).unwrap();
    let (refused, _) = shake(&connector, &acceptor, &name(NAME)).await;
    assert!(matches!(refused, Err(HandshakeError::Certificate(_))), "the new one, of another root");
    carries(&mut client, &mut server, b"still here").await;

    connector.exchange(&new.roots(2)).unwrap();
    let (again, answered) = shake(&connector, &acceptor, &name(NAME)).await;
    carries(&mut again.unwrap(), &mut answered.unwrap(), b"hello").await;
    carries(&mut server, &mut client, b"still here").await;
}

/// A foreign client without our rules: any ALPN, any version.
fn foreign_client(ca: &TestCa, alpn: &[&str], version: &'static rustls::SupportedProtocolVersion) -> TlsConnector {
    let mut store = RootCertStore::empty();
    store.add(ca.root()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_details(provider, settings().time)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    tls.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(tls).into()
}

#[tokio::test]
async fn clients_that_are_refused() {
    let ca = TestCa::new("root");
    let acceptor = acceptor(&serving(&ca, |_| {}));
    let (tls13, tls12) = (&rustls::version::TLS13, &rustls::version::TLS12);
    for (alpn, version, want) in [
        (&["h2"] as &[_], tls13, None),
        (&["http/1.1", "h2"], tls13, None),
        (&[], tls13, Some("the peer did not agree to speak h2")),
        (&["http/1.1"], tls13, Some("the peer did not agree to speak h2")),
        (&["h2"], tls12, Some("no TLS parameters in common with the peer: Tls12NotOfferedOrEnabled")),
    ] {
        let client = foreign_client(&ca, alpn, version);
        let (near, far) = duplex(BUFFER_BYTES);
        let (_client, server) = tokio::join!(client.connect(name(NAME), near), acceptor.accept(far));
        let says = server.err().map(|error| error.to_string());
        assert_eq!(says, want.map(|want| format!("TLS handshake failed: {want}")), "{alpn:?}");
    }
}

#[tokio::test]
async fn a_server_of_http_1_has_clients_of_http_1() {
    let ca = TestCa::new("root");
    let acceptor = Acceptor::new(&serving(&ca, |_| {}), &settings(), LIMIT, Protocol::Http1).unwrap();
    for (alpn, is_accepted) in
        [(&["http/1.1"] as &[_], true), (&["h2", "http/1.1"], true), (&[], true), (&["h2"], false)]
    {
        let client = foreign_client(&ca, alpn, &rustls::version::TLS13);
        let (near, far) = duplex(BUFFER_BYTES);
        let (_client, server) = tokio::join!(client.connect(name(NAME), near), acceptor.accept(far));
        assert_eq!(server.is_ok(), is_accepted, "{alpn:?}: {server:?}");
    }
}

#[tokio::test]
async fn a_server_without_h2_is_refused() {
    let ca = TestCa::new("root");
    let certificate = serving(&ca, |_| {});
    for (alpn, is_accepted) in [(&[b"h2".to_vec()] as &[_], true), (&[], false)] {
        let key = PrivatePkcs8KeyDer::from(certificate.key().pkcs8_der().to_vec()).into();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_details(provider, settings().time)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certificate.chain().to_vec(), key)
            .unwrap();
        tls.alpn_protocols = alpn.to_vec();
        let (near, far) = duplex(BUFFER_BYTES);
        let (connector, called) = (connector(&ca.roots(1)), name(NAME));
        let (client, _server) =
            tokio::join!(connector.connect(near, &called), TlsAcceptor::from(Arc::new(tls)).accept(far));
        match client {
            Ok(_) => assert!(is_accepted),
            Err(error) => assert!(!is_accepted && matches!(error, HandshakeError::Refused(SessionError::Alpn))),
        }
    }
}

#[tokio::test]
async fn what_is_not_tls() {
    let ca = TestCa::new("root");
    let (acceptor, connector) = (acceptor(&serving(&ca, |_| {})), connector(&ca.roots(1)));
    for garbage in ["GET / HTTP/1.1\r\nHost: control\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let (mut near, far) = duplex(BUFFER_BYTES);
        near.write_all(garbage.as_bytes()).await.unwrap();
        let error = acceptor.accept(far).await.unwrap_err();
        assert_eq!(error.to_string(), "the peer does not speak TLS", "{error:?}");
        let (near, mut far) = duplex(BUFFER_BYTES);
        far.write_all(garbage.as_bytes()).await.unwrap();
        let error = connector.connect(near, &name(NAME)).await.unwrap_err();
        assert_eq!(error.to_string(), "the peer does not speak TLS", "{error:?}");
    }
    let (near, far) = duplex(BUFFER_BYTES);
    drop(near);
    assert!(matches!(acceptor.accept(far).await, Err(HandshakeError::Ended)));
}

#[tokio::test]
async fn a_silent_peer_has_a_limit() {
    let ca = TestCa::new("root");
    let limit = Duration::from_millis(20);
    let acceptor = Acceptor::new(&serving(&ca, |_| {}), &settings(), limit, Protocol::H2).unwrap();
    let connector = Connector::new(&ca.roots(1), &settings(), limit).unwrap();
    let (_silent, far) = duplex(BUFFER_BYTES);
    let error = acceptor.accept(far).await.unwrap_err();
    assert_eq!(error.to_string(), "TLS handshake not done after 20 ms");
    let (near, _silent) = duplex(BUFFER_BYTES);
    let error = connector.connect(near, &name(NAME)).await.unwrap_err();
    assert!(matches!(error, HandshakeError::TimedOut { limit: found } if found == limit));
}
