//! Support of the TLS tests: a small mesh, two ends without sockets, and a foreign peer.

mod foreign;
mod handshake;
mod traffic;
mod verify;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use rustls::{
    CipherSuiteCommon, ConnectionTrafficSecrets, SupportedCipherSuite, Tls13CipherSuite,
    crypto::{
        aws_lc_rs,
        cipher::{
            AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
            OutboundOpaqueMessage, OutboundPlainMessage, Tls13AeadAlgorithm, UnsupportedOperationError,
        },
    },
};
use underpass_core::{
    Identities, Identity, TrustDomain,
    tls::{Alert, Refusal},
};
use underpass_identity::{
    Credential,
    testing::{Leaf, TestCa, now},
};

use super::{testing::ManualTime, *};

pub(super) const ALICE: &str = "spiffe://cluster.local/ns/default/sa/alice";
pub(super) const BOB: &str = "spiffe://cluster.local/ns/default/sa/bob";

pub(super) fn id(uri: &str) -> Identity {
    uri.parse().unwrap()
}

/// A CA, a clock, alice who connects and bob who accepts.
pub(super) struct Mesh {
    pub(super) ca: TestCa,
    pub(super) time: Arc<ManualTime>,
    pub(super) suites: Vec<SupportedCipherSuite>,
    pub(super) alice: Credential,
    pub(super) bob: Credential,
}

impl Mesh {
    pub(super) fn new() -> Self {
        let ca = TestCa::new("root");
        let (alice, bob) = (ca.credential(&Leaf::of(ALICE)), ca.credential(&Leaf::of(BOB)));
        let suites =
            vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256, aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384];
        Self { ca, time: ManualTime::new(now()), suites, alice, bob }
    }

    pub(super) fn configs(&self) -> Configs {
        Configs::with_suites(self.suites.clone(), Arc::<ManualTime>::clone(&self.time)).unwrap()
    }

    /// Alice expects bob.
    pub(super) fn client(&self) -> ClientConfig {
        self.configs().client(&self.alice, &Identities::from(id(BOB)), &self.ca.roots(1)).unwrap()
    }

    /// Bob accepts the mesh.
    pub(super) fn server(&self) -> ServerConfig {
        self.configs().server(&self.bob, &TrustDomains::new(TrustDomain::default(), []), &self.ca.roots(1)).unwrap()
    }

    pub(super) fn pair(&self) -> Pair {
        Pair::new(&self.client(), &self.server())
    }

    pub(super) fn connected(&self) -> Pair {
        let mut pair = self.pair();
        pair.run().unwrap();
        assert!(pair.client.connected && pair.server.connected);
        pair
    }
}

/// One end with its wire and what it was told.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) session: Session,
    pub(super) out: Outgoing,
    pub(super) data: Vec<u8>,
    pub(super) connected: bool,
    pub(super) peer_closed: bool,
}

impl Side {
    pub(super) fn new(session: Session, out: Outgoing) -> Self {
        Self { session, out, data: Vec::new(), connected: false, peer_closed: false }
    }

    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        let (data, connected, peer_closed) = (&mut self.data, &mut self.connected, &mut self.peer_closed);
        self.session.receive(&mut bytes.to_vec(), &mut self.out, |event| match event {
            Event::Connected(_) => {
                assert!(!*connected && data.is_empty() && !*peer_closed, "connected once, and first");
                *connected = true;
            }
            Event::Data(plain) => {
                assert!(*connected && !*peer_closed && !plain.is_empty());
                data.extend_from_slice(plain);
            }
            Event::PeerClosed => {
                assert!(*connected && !*peer_closed);
                *peer_closed = true;
            }
        })
    }

    pub(super) fn send(&mut self, plain: &[u8]) {
        self.session.encrypt(plain, &mut self.out).unwrap();
    }

    /// What is to be sent, taken.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let bytes = self.out.pending().to_vec();
        self.out.advance(bytes.len());
        bytes
    }
}

/// Both ends of ours.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) client: Side,
    pub(super) server: Side,
}

/// The end that failed, and its error.
pub(super) type Failure = (&'static str, SessionError);

impl Pair {
    pub(super) fn new(client: &ClientConfig, server: &ServerConfig) -> Self {
        let mut out = Outgoing::new();
        let client = Session::client(client, &mut out).unwrap();
        let server = Session::server(server).unwrap();
        Self { client: Side::new(client, out), server: Side::new(server, Outgoing::new()) }
    }

    /// Carries bytes both ways until nothing moves.
    pub(super) fn run(&mut self) -> Result<(), Failure> {
        self.run_cut(&mut |bytes| vec![bytes.to_vec()])
    }

    /// The same, with every flight cut as `cut` says.
    pub(super) fn run_cut(&mut self, cut: &mut impl FnMut(&[u8]) -> Vec<Vec<u8>>) -> Result<(), Failure> {
        while !self.client.out.is_empty() || !self.server.out.is_empty() {
            for piece in cut(&self.client.take()) {
                self.server.receive(&piece).map_err(|e| ("server", e))?;
            }
            for piece in cut(&self.server.take()) {
                self.client.receive(&piece).map_err(|e| ("client", e))?;
            }
        }
        Ok(())
    }
}

/// The events of the keys of a [`limited`] suite.
#[derive(Debug, Default)]
pub(super) struct KeyUse {
    /// Keys that encrypted, handshakes' included.
    pub(super) encrypters: AtomicU64,
    /// The highest sequence number that a key was used for.
    pub(super) highest: AtomicU64,
}

/// AES-128-GCM whose keys are good for `limit` records, and the record of how they were used.
pub(super) fn limited(limit: u64) -> (SupportedCipherSuite, Arc<KeyUse>) {
    let SupportedCipherSuite::Tls13(original) = aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256 else {
        panic!("a TLS 1.3 suite");
    };
    let used = Arc::new(KeyUse::default());
    let aead = Box::leak(Box::new(CountingAead { original: original.aead_alg, used: Arc::clone(&used) }));
    let suite = Box::leak(Box::new(Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: original.common.suite,
            hash_provider: original.common.hash_provider,
            confidentiality_limit: limit,
        },
        hkdf_provider: original.hkdf_provider,
        aead_alg: aead,
        quic: None,
    }));
    (SupportedCipherSuite::Tls13(suite), used)
}

struct CountingAead {
    original: &'static dyn Tls13AeadAlgorithm,
    used: Arc<KeyUse>,
}

impl Tls13AeadAlgorithm for CountingAead {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        self.used.encrypters.fetch_add(1, Ordering::Relaxed);
        Box::new(CountingEncrypter { original: self.original.encrypter(key, iv), used: Arc::clone(&self.used) })
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(PlainDecrypter(self.original.decrypter(key, iv)))
    }

    fn key_len(&self) -> usize {
        self.original.key_len()
    }

    fn extract_keys(&self, key: AeadKey, iv: Iv) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.original.extract_keys(key, iv)
    }
}

struct CountingEncrypter {
    original: Box<dyn MessageEncrypter>,
    used: Arc<KeyUse>,
}

impl MessageEncrypter for CountingEncrypter {
    fn encrypt(&mut self, msg: OutboundPlainMessage<'_>, seq: u64) -> Result<OutboundOpaqueMessage, rustls::Error> {
        self.used.highest.fetch_max(seq, Ordering::Relaxed);
        self.original.encrypt(msg, seq)
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        self.original.encrypted_payload_len(payload_len)
    }
}

struct PlainDecrypter(Box<dyn MessageDecrypter>);

impl MessageDecrypter for PlainDecrypter {
    fn decrypt<'a>(
        &mut self,
        msg: InboundOpaqueMessage<'a>,
        seq: u64,
    ) -> Result<InboundPlainMessage<'a>, rustls::Error> {
        self.0.decrypt(msg, seq)
    }
}

/// Bytes that differ from one another, so that an order that is wrong shows.
pub(super) fn pattern(n: usize) -> Vec<u8> {
    (0_u32..).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).take(n).collect()
}

pub(super) fn later(time: SystemTime, seconds: u64) -> SystemTime {
    time + std::time::Duration::from_secs(seconds)
}
