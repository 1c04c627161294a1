//! Every fault of a plugged-in CA, with its place.

use std::{fmt::Write as _, time::SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyUsagePurpose};

use crate::world::{Ca, DAY, Kind, ORIGIN, Texts, now, params};

/// root - upper - lower - ca, all P-256.
struct World {
    root: Ca,
    upper: Ca,
    lower: Ca,
    ca: Ca,
}

impl World {
    /// `change` is asked about the certificate with each serial: 1 root, 2 upper, 3 lower, 4 ca.
    fn new(change: impl Fn(u8, &mut CertificateParams)) -> Self {
        let params = |name, serial| {
            let mut params = params(name, serial);
            change(serial, &mut params);
            params
        };
        let root = Ca::root(Kind::P256, params("root", 1));
        let upper = root.below(Kind::P256, params("upper", 2));
        let lower = upper.below(Kind::P256, params("lower", 3));
        let ca = lower.below(Kind::P256, params("ca", 4));
        Self { root, upper, lower, ca }
    }

    fn texts(&self) -> Texts {
        Texts::of(&self.ca, &[&self.lower, &self.upper], &self.root)
    }
}

fn refused(texts: &Texts) -> String {
    let error = texts.read().map(|_| "accepted").expect_err("refused").to_string();
    error.strip_prefix(&format!("{ORIGIN} is not a usable CA: ")).expect("its origin").to_owned()
}

/// A good CA is refused with `want` once `spoil` has changed its texts.
fn check(spoil: impl FnOnce(&mut Texts), want: &str) {
    let world = World::new(|_, _| {});
    let mut texts = world.texts();
    texts.read().expect("good");
    spoil(&mut texts);
    assert_eq!(refused(&texts), want);
}

/// A CA is refused with `want` because of what stands in one of its certificates.
fn check_made(serial: u8, change: impl Fn(&mut CertificateParams), want: &str) {
    let world = World::new(|found, params| {
        if found == serial {
            change(params);
        }
    });
    assert_eq!(refused(&world.texts()), want);
}

const NO_KEY: &str =
    "ca-key.pem: it has no readable private key (P-256, P-384, or RSA of at least 2048 bits; not encrypted)";

#[test]
fn texts() {
    let long = || "\n".repeat(300_000);
    check(|t| t.ca_cert.clear(), "ca-cert.pem: it has no readable certificate");
    check(|t| t.ca_cert = "hello".into(), "ca-cert.pem: it has no readable certificate");
    check(|t| t.ca_cert = t.ca_cert.replace("-----END", "----"), "ca-cert.pem: it has no readable certificate");
    check(|t| t.ca_cert = t.cert_chain.clone(), "ca-cert.pem: it has 4 certificates, not one");
    check(|t| t.ca_cert = long(), "ca-cert.pem: it is longer than 262144 bytes");
    check(|t| t.ca_key.clear(), NO_KEY);
    check(|t| t.ca_key = t.ca_cert.clone(), NO_KEY);
    check(|t| t.ca_key = t.ca_key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), NO_KEY);
    check(|t| t.ca_key = long(), "ca-key.pem: it is longer than 262144 bytes");
    check(|t| t.cert_chain.truncate(200), "cert-chain.pem: it has no readable certificate");
    check(|t| t.cert_chain = t.ca_cert.repeat(9), "cert-chain.pem: it has 9 certificates, more than the limit of 8");
    check(|t| t.root_cert.clear(), "root-cert.pem: it has no readable certificate");
    check(|t| t.root_cert = t.root_cert.repeat(65), "root-cert.pem: it has 65 certificates, more than the limit of 64");
}

#[test]
fn what_does_not_fit_together() {
    let other = World::new(|_, _| {});
    check(|t| t.ca_key.clone_from(&other.ca.key_pem), "ca-key.pem: it does not belong to ca-cert.pem");
    let foreign = "ca-cert.pem: it does not lead to a certificate of root-cert.pem: ";
    check(|t| t.cert_chain.clear(), &format!("{foreign}UnknownIssuer"));
    check(|t| t.cert_chain = other.texts().cert_chain, &format!("{foreign}UnknownIssuer"));
    // Another key by the same name.
    check(|t| t.root_cert.clone_from(&other.root.pem), &format!("{foreign}InvalidSignatureForPublicKey"));
    let ed25519 = Ca::root(Kind::Ed25519, params("root", 1));
    assert_eq!(refused(&Texts::of(&ed25519, &[], &ed25519)), NO_KEY);
}

#[test]
fn certificates_that_may_not_sign() {
    let leaf = |p: &mut CertificateParams| p.is_ca = IsCa::ExplicitNoCa;
    check_made(4, leaf, "ca-cert.pem: its certificate is not a CA certificate");
    check_made(3, leaf, "cert-chain.pem (serial 03): its certificate is not a CA certificate");
    check_made(1, leaf, "root-cert.pem: its certificate is not a CA certificate");
    let usage = |p: &mut CertificateParams| p.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    check_made(4, usage, "ca-cert.pem: its certificate has a key usage without keyCertSign");
    check_made(2, usage, "cert-chain.pem (serial 02): its certificate has a key usage without keyCertSign");
    check_made(1, usage, "root-cert.pem: its certificate has a key usage without keyCertSign");
    // Nothing in them forbids it.
    let world = World::new(|_, p| p.key_usages.clear());
    world.texts().read().unwrap();
}

#[test]
fn path_lengths() {
    let length = |allowed| move |p: &mut CertificateParams| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(allowed));
    let good = World::new(|serial, p| length(4 - serial)(p));
    good.texts().read().unwrap();
    check_made(3, length(0), "cert-chain.pem (serial 03): its path length allows 0 CAs below it, there are 1");
    check_made(2, length(1), "cert-chain.pem (serial 02): its path length allows 1 CAs below it, there are 2");
    check_made(1, length(2), "root-cert.pem: its path length allows 2 CAs below it, there are 3");
}

#[test]
fn dates() {
    let unix = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let (past, future) = (now() - DAY, now() + DAY);
    let over = |p: &mut CertificateParams| p.not_after = past.into();
    let early = |p: &mut CertificateParams| p.not_before = future.into();
    for (serial, place) in
        [(4, "ca-cert.pem"), (3, "cert-chain.pem (serial 03)"), (2, "cert-chain.pem (serial 02)"), (1, "root-cert.pem")]
    {
        let expired = format!("{place}: its certificate expired at {} (seconds since 1970)", unix(past));
        check_made(serial, over, &expired);
        let begins = format!("{place}: its certificate is valid from {} (seconds since 1970)", unix(future));
        check_made(serial, early, &begins);
    }
}

#[test]
fn weak_keys() {
    let weak = include_str!("../data/openssl-rsa-1024.pem");
    let text = "its RSA key has 1024 bits, fewer than 2048";
    check(|t| weak.clone_into(&mut t.ca_cert), &format!("ca-cert.pem: {text}"));
    // What a weak key has signed, by its name.
    let mut weak_root = params("weak", 1);
    weak_root.distinguished_name.remove(DnType::OrganizationName);
    let root = Ca::root(Kind::P256, weak_root);
    let ca = root.below(Kind::P256, params("ca", 2));
    let mut texts = Texts::of(&ca, &[], &root);
    texts.read().unwrap();
    weak.clone_into(&mut texts.root_cert);
    assert_eq!(refused(&texts), format!("root-cert.pem: {text}"));
    texts.root_cert = format!("{weak}{}", root.pem);
    assert_eq!(refused(&texts), format!("root-cert.pem (serial 08): {text}"));
}

#[test]
fn nothing_prints_a_key() {
    let texts = World::new(|_, _| {}).texts();
    let mut shown = String::new();
    let Texts { ca_cert, ca_key, cert_chain, root_cert } = &texts;
    let cacerts = underpass_identity::Cacerts { ca_cert, ca_key, cert_chain, root_cert };
    write!(shown, "{cacerts:?} {:?}", texts.read().unwrap()).unwrap();
    for line in ca_key.lines().filter(|line| !line.starts_with('-')) {
        assert!(!shown.contains(line));
    }
}
