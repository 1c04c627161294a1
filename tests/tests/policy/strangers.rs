//! Strangers at the tunnel's port: no TLS, a broken handshake, no certificate, a flood.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error as TlsError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::TLS13,
};
use underpass_tests::{
    apps::{remote::Sockets, socket::PATIENCE},
    testbed::{
        Lab,
        wait::{slowness, wait_until},
    },
};

use super::setup::{mesh, passes, pod_name};

/// Writes to the tunnel's port and returns what comes back until the connection ends, in order or by a reset.
fn write_and_read((to, bytes, then_end): (SocketAddr, Vec<u8>, bool)) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE * slowness()))?;
    let mut answer = Vec::new();
    let mut talk = || {
        stream.write_all(&bytes)?;
        if then_end {
            stream.shutdown(std::net::Shutdown::Write)?;
        }
        stream.read_to_end(&mut answer)
    };
    match talk() {
        Ok(_) => Ok(answer),
        Err(e) if e.raw_os_error().is_some_and(|e| [libc::ECONNRESET, libc::EPIPE, libc::ENOTCONN].contains(&e)) => {
            Ok(answer)
        }
        Err(e) => bail!("not closed: {e}"),
    }
}

/// Takes every certificate: these tests are about the client's.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("not TLS 1.3".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Speaks TLS without a certificate of its own; what it is told.
fn without_a_certificate(to: SocketAddr) -> Result<String> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting));
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut tls = ClientConnection::new(Arc::new(config), ServerName::from(to.ip()))?;
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE * slowness()))?;
    let mut tls = rustls::Stream::new(&mut tls, &mut stream);
    // A client of TLS 1.3 is done before the server has seen its certificate, and learns what it thinks when it reads.
    let talked = tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").and_then(|()| tls.read(&mut [0; 1024]));
    match talked {
        Ok(n) => bail!("answered with {n} bytes"),
        Err(e) => Ok(e.to_string()),
    }
}

pub(crate) fn strangers_at_the_tunnel_port(lab: &Lab) -> Result<()> {
    let (mut mesh, _servers) = mesh(lab)?;
    passes(&mesh, "mesh/a", "mesh/b", true)?;
    let pid = mesh.agent("node-2")?.pid();
    // A record header of TLS that promises 512 bytes, and a few of them.
    let hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[7; 40]].concat();
    let noise: Vec<u8> = (0..20_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let table: [(&str, Vec<u8>, bool, &[&str]); 6] = [
        ("garbage", noise, false, &["tls_protocol"]),
        ("plain HTTP/1.1", b"GET / HTTP/1.1\r\nhost: b\r\n\r\n".to_vec(), false, &["tls_protocol"]),
        ("plain HTTP/2", preface, false, &["tls_protocol"]),
        ("a truncated record", hello.clone(), true, &["tunnel_closed", "tls_protocol"]),
        ("a handshake that ends", hello, true, &["tunnel_closed", "tls_protocol"]),
        ("nothing", Vec::new(), true, &["tunnel_closed"]),
    ];
    for (what, bytes, then_end, reasons) in table {
        // From the other node, from this one, and from within the mesh.
        for (from, ipv4) in [("out/o1", true), ("out/o2", false), ("out/o2", true)] {
            let lines = mesh.log("node-2")?.len();
            let to = mesh.at("mesh/b", ipv4, 15008)?;
            let answer = mesh.bed.app(from)?.act(write_and_read, (to, bytes.clone(), then_end)).context(what)?;
            ensure!(answer.len() < 64, "{what}: {} bytes of answer", answer.len());
            let to = to.to_string();
            let of =
                [("source_workload", pod_name(from)), ("destination_address", to.as_str()), ("direction", "inbound")];
            let line = mesh.logged_after("node-2", lines, &of).context(what)?;
            let reason = line["reason"].as_str().unwrap_or_default();
            ensure!(reasons.contains(&reason) && line["source_identity"].is_null(), "{what}: {line:#}");
            passes(&mesh, "mesh/a", "mesh/b", ipv4).with_context(|| format!("after {what}"))?;
        }
    }
    for ipv4 in [true, false] {
        let lines = mesh.log("node-2")?.len();
        let to = mesh.at("mesh/b", ipv4, 15008)?;
        let told = mesh.bed.app("out/o1")?.act(without_a_certificate, to)?;
        ensure!(told.contains("CertificateRequired"), "{told}");
        mesh.logged_after(
            "node-2",
            lines,
            &[("source_workload", "o1"), ("reason", "tls_no_certificate"), ("source_identity", "-")],
        )?;
        passes(&mesh, "mesh/a2", "mesh/b", ipv4)?;
    }
    // An enrolled pod that speaks to the port itself is captured, and CONNECT to our own port is refused.
    let to = mesh.at("mesh/b", true, 15008)?;
    let answer = mesh.bed.app("mesh/a")?.act(write_and_read, (to, b"hello".to_vec(), false))?;
    ensure!(answer.is_empty());
    mesh.logged(
        "node-2",
        &[("source_workload", "a"), ("destination_address", &to.to_string()), ("reason", "not_served_here")],
    )?;
    ensure!(mesh.agent("node-2")?.ended()?.is_none() && mesh.agent("node-2")?.pid() == pid);
    wait_until("no connection", || Ok(mesh.connections("node-2", &[])?.is_empty()))
}

pub(crate) fn a_flood_of_strangers_does_not_keep_friends_out(lab: &Lab) -> Result<()> {
    /// As many as one pod takes.
    const MOST: usize = 256;
    let (mesh, _servers) = mesh(lab)?;
    passes(&mesh, "mesh/a", "mesh/b", true)?;
    let to = mesh.at("mesh/b", true, 15008)?;
    let mut flood = Sockets::start(&mesh.bed.app("out/o2")?)?;
    let mut silent = (0..MOST).map(|_| flood.connect(to)).collect::<Result<Vec<_>>>()?;
    // One more takes the place of the first.
    silent.push(flood.connect(to)?);
    let told = flood.receive(silent.remove(0), 1)?;
    ensure!(told.as_ref().map_or_else(|e| e.errno == libc::ECONNRESET, Vec::is_empty), "{told:?}");
    mesh.logged("node-2", &[("source_workload", "o2"), ("reason", "limit")])?;
    // Who has a tunnel goes on using it, who needs one gets it, other pods are as they were, and so is plaintext.
    passes(&mesh, "mesh/a", "mesh/b", true)?;
    passes(&mesh, "mesh/a2", "mesh/b", false)?;
    passes(&mesh, "mesh/a", "mesh/b2", true)?;
    passes(&mesh, "out/o1", "mesh/b", true)?;
    for id in silent {
        flood.close(id)??;
    }
    wait_until("the last of them to be forgotten", || {
        Ok(mesh.log("node-2")?.iter().filter(|line| line["source_workload"] == "o2").count() > MOST)
    })?;
    passes(&mesh, "mesh/a2", "mesh/b", true)?;
    let mut still = mesh.pair("mesh/a2", "mesh/b", false)?;
    still.patience(Duration::from_secs(10))?;
    still.exchange()
}
