//! TLS of a DestinationRule: against servers of another library, honest and not.

#![allow(missing_docs, reason = "tests")]

use std::sync::Arc;

use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio_rustls::TlsAcceptor;
use underpass_identity::{
    CertificateDer, PrivateKey,
    testing::{Leaf, TestCa, now, pem},
};
use underpass_net::tls::{Originator, Protocol, Rule, ServerName, Settings, testing::ManualTime};

const HOST: &str = "api.example.com";
const URI: &str = "spiffe://other.example/ns/a/sa/b";
const BUFFER_BYTES: usize = 64 * 1024;

/// A server, as another program would set it up.
struct Server {
    key: PrivateKey,
    chain: Vec<CertificateDer<'static>>,
    versions: Vec<&'static SupportedProtocolVersion>,
    alpn: Vec<Vec<u8>>,
    /// It asks clients for a certificate of this one.
    clients_of: Option<CertificateDer<'static>>,
}

impl Server {
    /// Of `ca`, for [`HOST`] and [`URI`].
    fn of(ca: &TestCa) -> Self {
        let (key, chain) = ca.sign(&Leaf { dns_names: vec![HOST.to_owned()], ..Leaf::of(URI) });
        let alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { key, chain, versions: vec![&TLS12, &TLS13], alpn, clients_of: None }
    }

    fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_details(Arc::clone(&provider), ManualTime::new(now()))
            .with_protocol_versions(&self.versions)
            .unwrap();
        let builder = match &self.clients_of {
            None => builder.with_no_client_auth(),
            Some(root) => {
                let mut roots = RootCertStore::empty();
                roots.add(root.clone()).unwrap();
                let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.with_client_cert_verifier(clients)
            }
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.pkcs8_der().to_vec()));
        let mut config = builder.with_single_cert(self.chain.clone(), key).unwrap();
        config.alpn_protocols.clone_from(&self.alpn);
        TlsAcceptor::from(Arc::new(config))
    }
}

/// What a client by this rule finds: the protocol agreed on and the certificates that it showed, or why there is no connection.
async fn connect(rule: &Rule<'_>, server: &Server, name: &str, speaks: Option<Protocol>) -> Result<String, String> {
    let settings = Settings { time: ManualTime::new(now()), ..Settings::default() };
    let originator = Originator::new(rule, &settings).map_err(|error| error.to_string())?;
    let (near, far) = duplex(BUFFER_BYTES);
    let acceptor = server.acceptor();
    let serving = async {
        let mut stream = acceptor.accept(far).await?;
        let (_, session) = stream.get_ref();
        let alpn = String::from_utf8_lossy(session.alpn_protocol().unwrap_or(b"-")).into_owned();
        let shown = session.peer_certificates().map_or(0, <[_]>::len);
        let name = session.server_name().unwrap_or("-").to_owned();
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).await?;
        stream.write_all(&heard).await?;
        stream.shutdown().await?;
        std::io::Result::Ok(format!("{alpn} {name} {shown}"))
    };
    let asking = async {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut stream = originator.connect(near, name, speaks).await.map_err(|error| error.to_string())?;
        stream.write_all(b"hello").await.map_err(|error| error.to_string())?;
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.map_err(|error| error.to_string())?;
        assert_eq!(heard, b"hello");
        Ok(())
    };
    let (served, asked) = tokio::join!(serving, asking);
    asked.and_then(|()| served.map_err(|error| error.to_string()))
}

fn roots(ca: &TestCa) -> Vec<u8> {
    pem("CERTIFICATE", &ca.root()).into_bytes()
}

fn names(all: &[&str]) -> Vec<Arc<str>> {
    all.iter().map(|name| Arc::from(*name)).collect()
}

#[tokio::test]
async fn servers_are_believed_by_authority_and_name() {
    let (ca, other) = (TestCa::new("root"), TestCa::new("other"));
    let (ours, others) = (roots(&ca), roots(&other));
    let server = Server::of(&ca.intermediate("between"));
    let check = async |authorities: &[u8], said: &[&str], called: &str, want: Result<&str, &str>| {
        let names = names(said);
        let rule = Rule { authorities: Some(authorities), names: &names, ..Rule::default() };
        let found = connect(&rule, &server, called, Some(Protocol::Http1)).await;
        // With the names that it has behind it.
        let short = found.as_deref().map_err(|text| text.split(" for name").next().expect("text"));
        assert_eq!(short, want, "{said:?} {called}");
    };
    let good = Ok("http/1.1 api.example.com 0");
    check(&ours, &[], HOST, good).await;
    check(&[others.clone(), ours.clone()].concat(), &[], HOST, good).await;
    let misnamed = Err("the server's certificate was refused: certificate not valid");
    check(&ours, &[], "else.example.com", misnamed).await;
    check(&ours, &[HOST], "else.example.com", Ok("http/1.1 else.example.com 0")).await;
    check(&ours, &["a.example.com", URI], HOST, good).await;
    check(&ours, &["a.example.com", "spiffe://other.example/ns/a/sa/c"], HOST, misnamed).await;
    check(&ours, &["10.0.0.1"], HOST, misnamed).await;
    check(&ours, &[], "10.0.0.1", misnamed).await;
    let stranger = Err("the server's certificate was refused: its chain leads to no authority that is believed");
    check(&others, &[], HOST, stranger).await;
    check(&others, &[HOST], HOST, stranger).await;
}

#[tokio::test]
async fn any_server_where_the_rule_says_so() {
    let ca = TestCa::new("root");
    let rule = Rule { skips_verification: true, ..Rule::default() };
    let found = connect(&rule, &Server::of(&ca), "else.example.com", None).await;
    assert_eq!(found.as_deref(), Ok("- else.example.com 0"));
}

#[tokio::test]
async fn protocols_and_versions() {
    let ca = TestCa::new("root");
    let authorities = roots(&ca);
    let rule = Rule { authorities: Some(&authorities), ..Rule::default() };
    let mut server = Server::of(&ca);
    for version in [&TLS12, &TLS13] {
        server.versions = vec![version];
        for (speaks, want) in [(None, "-"), (Some(Protocol::Http1), "http/1.1"), (Some(Protocol::H2), "h2")] {
            let found = connect(&rule, &server, HOST, speaks).await;
            assert_eq!(found, Ok(format!("{want} {HOST} 0")), "{version:?}");
        }
    }
    // One that does not take part in ALPN speaks HTTP/1.1, if it does.
    server.alpn.clear();
    assert_eq!(connect(&rule, &server, HOST, Some(Protocol::Http1)).await, Ok(format!("- {HOST} 0")));
    let refused = connect(&rule, &server, HOST, Some(Protocol::H2)).await.unwrap_err();
    assert!(refused.starts_with("TLS handshake failed: "), "{refused}");
}

#[tokio::test]
async fn a_certificate_is_shown_where_the_rule_has_one() {
    let (ca, clients) = (TestCa::new("root"), TestCa::new("clients"));
    let authorities = roots(&ca);
    let (key, chain) = clients.sign(&Leaf::of("spiffe://cluster.local/ns/a/sa/egress"));
    let (key, chain) = (pem("PRIVATE KEY", key.pkcs8_der()), pem("CERTIFICATE", &chain[0]));
    let mut server = Server::of(&ca);
    server.clients_of = Some(clients.root());
    let without = Rule { authorities: Some(&authorities), ..Rule::default() };
    let with = Rule { own: Some((chain.as_bytes(), key.as_bytes())), ..without };
    assert_eq!(connect(&with, &server, HOST, None).await, Ok(format!("- {HOST} 1")));
    assert!(connect(&without, &server, HOST, None).await.is_err());
}

#[tokio::test]
async fn revoked_servers_are_refused() {
    let (ca, other) = (TestCa::new("root"), TestCa::new("other"));
    let authorities = roots(&ca);
    let (server, revoked) = (Server::of(&ca), Server::of(&ca));
    let (list, foreign) = (ca.revoked(&[&revoked.chain[0]]), other.revoked(&[]));
    let check = async |list: &str, server: &Server, want: Result<(), &str>| {
        let rule = Rule { authorities: Some(&authorities), revoked: Some(list.as_bytes()), ..Rule::default() };
        let found = connect(&rule, server, HOST, None).await;
        let short = |text: &String| text.trim_start_matches("the server's certificate was refused: ").to_owned();
        assert_eq!(found.map(|_| ()).map_err(|text| short(&text)), want.map_err(str::to_owned));
    };
    check(&list, &server, Ok(())).await;
    check(&list, &revoked, Err("it is revoked")).await;
    check(&foreign, &server, Err("no list of revoked certificates covers it")).await;
}

#[test]
fn rules_that_are_of_no_use() {
    let ca = TestCa::new("root");
    let (authorities, (key, chain), (other, _)) = (roots(&ca), ca.sign(&Leaf::of(URI)), ca.sign(&Leaf::of(URI)));
    let key_of = |key: &PrivateKey| pem("PRIVATE KEY", key.pkcs8_der());
    let (key, other, chain) = (key_of(&key), key_of(&other), pem("CERTIFICATE", &chain[0]));
    let check = |rule: Rule<'_>, want: &str| {
        let error = Originator::new(&rule, &Settings::default()).unwrap_err().to_string();
        assert!(error.starts_with(want) && !error.contains('\n'), "{error}");
    };
    let good = Rule { authorities: Some(&authorities), ..Rule::default() };
    check(Rule { authorities: Some(b"nonsense"), ..good }, "caCertificates has none in PEM");
    check(Rule { authorities: Some(key.as_bytes()), ..good }, "caCertificates has none in PEM");
    let garbage = pem("CERTIFICATE", b"garbage");
    check(Rule { authorities: Some(garbage.as_bytes()), ..good }, "caCertificates has one that cannot be used: ");
    check(Rule { authorities: Some(b"-----BEGIN CERTIFICATE-----\n?"), ..good }, "caCertificates is no PEM: ");
    check(Rule { revoked: Some(&authorities), ..good }, "caCrl has none in PEM");
    check(Rule { own: Some((chain.as_bytes(), b"")), ..good }, "privateKey has none in PEM");
    check(Rule { own: Some((b"", key.as_bytes())), ..good }, "clientCertificate has none in PEM");
    check(Rule { own: Some((chain.as_bytes(), other.as_bytes())), ..good }, "clientCertificate and privateKey: ");
    let names = names(&["a name"]);
    check(Rule { names: &names, ..good }, "subjectAltNames: \"a name\" is no DNS name, no address and no URI");
    assert!(
        Originator::new(&Rule { own: Some((chain.as_bytes(), key.as_bytes())), ..good }, &Settings::default()).is_ok()
    );
}
