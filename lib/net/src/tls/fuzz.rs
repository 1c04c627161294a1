//! The fuzz target of TLS sessions: bytes that an attacker can send to port 15008 before and after the handshake. One function
//! of bytes, called by the fuzzer and, over the stored corpus, by a test.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "panics are what is looked for")]

use std::sync::{Arc, OnceLock};

use underpass_core::{Identities, TrustDomain};
use underpass_identity::{
    Certificate, CertificateDer,
    testing::{Leaf, TestCa, now},
};

use crate::tls::{
    ClientConfig, Configs, Event, Outgoing, ServerConfig, Session, Settings, TrustDomains, testing::ManualTime,
};

/// Keys are made once: they are the slow part.
struct Mesh {
    client: ClientConfig,
    server: ServerConfig,
}

fn mesh() -> &'static Mesh {
    static MESH: OnceLock<Mesh> = OnceLock::new();
    MESH.get_or_init(|| {
        let ca = TestCa::new("root");
        let leaf = |name| ca.credential(&Leaf::of(&format!("spiffe://cluster.local/ns/fuzz/sa/{name}")));
        let (alice, bob) = (leaf("alice"), leaf("bob"));
        let settings = Settings { time: ManualTime::new(now()), ..Settings::default() };
        let mut configs = Configs::new(settings).unwrap();
        let roots = ca.roots(1);
        let accepted = TrustDomains::new(TrustDomain::default(), []);
        Mesh {
            client: configs.client(&alice, &Identities::from(bob.identity().clone()), &roots).unwrap(),
            server: configs.server(&bob, &accepted, &roots).unwrap(),
        }
    })
}

/// Runs one input: the first byte chooses the case, the second how the rest is cut, the rest is what the attacker sends.
pub fn run(data: &[u8]) {
    let [what, cut, rest @ ..] = data else { return };
    let piece = usize::from(*cut) + 1;
    let mesh = mesh();
    let mut out = Outgoing::new();
    match what % 5 {
        0 => give(&mut Session::server(&mesh.server).unwrap(), rest, piece),
        1 => give(&mut Session::client(&mesh.client, &mut out).unwrap(), rest, piece),
        2 => damaged_handshake(rest, piece),
        3 => {
            let (mut client, mut server) = connected();
            give(&mut server, rest, piece);
            give(&mut client, rest, piece);
        }
        _ => certificate(rest),
    }
}

/// `bytes` piece by piece; between them we try to write.
fn give(session: &mut Session, bytes: &[u8], piece: usize) {
    let mut out = Outgoing::new();
    let before = session.peer().map(Arc::as_ptr);
    for piece in bytes.chunks(piece) {
        let was_connected = session.peer().is_some();
        let mut events = 0;
        let result = session.receive(&mut piece.to_vec(), &mut out, |event| {
            events += 1;
            assert!(was_connected, "a stranger without a key was believed: {event:?}");
            assert!(!matches!(event, Event::Connected(_) | Event::Data(_)), "bytes without a key: {event:?}");
        });
        let written = session.encrypt(b"answer", &mut out);
        if result.is_err() {
            assert!(written.is_err() && session.receive(&mut [], &mut out, |_| panic!("over")).is_err());
            return;
        }
        assert_eq!(written.is_ok(), was_connected);
        assert!(events == 0, "no event without a key");
    }
    assert_eq!(session.peer().map(Arc::as_ptr), before);
}

fn connected() -> (Session, Session) {
    let (mut up, mut down) = (Outgoing::new(), Outgoing::new());
    let mut client = Session::client(&mesh().client, &mut up).unwrap();
    let mut server = Session::server(&mesh().server).unwrap();
    while !up.is_empty() || !down.is_empty() {
        let bytes = &mut take(&mut up);
        server.receive(bytes, &mut down, |_| {}).unwrap();
        let bytes = &mut take(&mut down);
        client.receive(bytes, &mut up, |_| {}).unwrap();
    }
    (client, server)
}

fn take(out: &mut Outgoing) -> Vec<u8> {
    let bytes = out.pending().to_vec();
    out.clear();
    bytes
}

/// A handshake of ours in which one flight is changed at one place: where (3 bytes), then what to write there.
fn damaged_handshake(rest: &[u8], piece: usize) {
    let [flight, high, low, patch @ ..] = rest else { return };
    let at = usize::from(u16::from_be_bytes([*high, *low]));
    let (mut up, mut down) = (Outgoing::new(), Outgoing::new());
    let mut client = Session::client(&mesh().client, &mut up).unwrap();
    let mut server = Session::server(&mesh().server).unwrap();
    for turn in 0..3 {
        let (from, to, back) = match turn % 2 {
            0 => (&mut up, &mut server, &mut down),
            _ => (&mut down, &mut client, &mut up),
        };
        let mut bytes = take(from);
        if turn == flight % 3 {
            for (byte, patch) in bytes.iter_mut().skip(at).zip(patch) {
                *byte ^= patch;
            }
        }
        for piece in bytes.chunks_mut(piece) {
            if to.receive(piece, back, |_| {}).is_err() {
                return;
            }
        }
    }
}

fn certificate(der: &[u8]) {
    if let Ok(certificate) = Certificate::parse(der) {
        let _ = (certificate.identity().map(ToString::to_string), certificate.serial().to_string());
    }
    let chain = [CertificateDer::from(der.to_vec())];
    let _ = crate::tls::verify::PeerInfo::new(&chain, crate::tls::verify::End::Client, now());
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn stored_corpus() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/tls_session");
        let mut files: Vec<_> = fs::read_dir(&corpus).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        assert!(files.len() >= 12, "{} files in {}", files.len(), corpus.display());
        for file in files {
            let data = fs::read(&file).unwrap();
            run(&data);
            // And a few hundred of its relatives, the same every time.
            let mut random = 0x9e37_79b9_7f4a_7c15_u64;
            for _ in 0..60 {
                let mut relative = data.clone();
                for _ in 0..3 {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let at = usize::try_from(random >> 32).unwrap() % relative.len();
                    relative[at] = random.to_le_bytes()[0];
                }
                run(&relative);
            }
        }
    }
}
