//! The embedded CA on a real directory: made once, shared, kept, and refused whole where anything about it is wrong.

#![allow(missing_docs, reason = "tests")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::{Arc, Barrier},
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use underpass_core::{Identity, TrustDomain};
use underpass_identity::{
    Authority, CaFault, Certificate, CertificateRequest, Credential, Error, PrivateKey, RequestFault, SanError,
    StateFault,
    authority::{BACKDATE, LEAF_LIFETIME},
    certificate::certificates_from_pem,
    rotation::values::Values,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> SystemTime {
    // 2026-01-01, whole seconds: what a certificate can say.
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

fn dir() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state/ca");
    (temp, path)
}

fn open(path: &Path) -> Result<Authority, Error> {
    Authority::open(path, &TrustDomain::default(), now())
}

fn alice() -> Identity {
    "spiffe://cluster.local/ns/default/sa/alice".parse().unwrap()
}

/// Every file of the directory with its content and mode.
fn snapshot(path: &Path) -> Vec<(String, u32, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|e| e.unwrap())
        .filter(|e| e.file_name() != "ca.lock")
        .map(|e| {
            let meta = fs::symlink_metadata(e.path()).unwrap();
            let content = if meta.is_file() { fs::read(e.path()).unwrap() } else { Vec::new() };
            (e.file_name().into_string().unwrap(), meta.permissions().mode(), content)
        })
        .collect();
    all.sort();
    all
}

#[test]
fn a_new_directory_gets_a_ca_that_survives() {
    let (_temp, path) = dir();
    let first = open(&path).unwrap();
    let before = snapshot(&path);
    let second = open(&path).unwrap();
    assert_eq!(first.root_certificates(), second.root_certificates());
    assert_eq!(before, snapshot(&path));
    assert_eq!(before.len(), 1);
    assert_eq!(before[0].0, "ca.pem");
    assert_eq!(before[0].1 & 0o777, 0o600);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    let root = Certificate::parse(&first.root_certificates()[0]).unwrap();
    assert!(root.is_ca());
    assert_eq!(root.organization(), Some("cluster.local"));
    assert_eq!(root.not_before(), now() - BACKDATE);
    assert_eq!(root.identity(), Err(&SanError::None));
}

#[test]
fn agents_that_start_together_share_one_ca() {
    let (_temp, path) = dir();
    let start = Arc::new(Barrier::new(8));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (path, start) = (path.clone(), Arc::clone(&start));
            std::thread::spawn(move || {
                start.wait();
                open(&path).unwrap().root_certificates()
            })
        })
        .collect();
    let roots: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    assert!(roots.windows(2).all(|w| w[0] == w[1]));
    assert_eq!(snapshot(&path).len(), 1);
}

#[test]
fn a_crash_while_making_it_leaves_nothing_behind() {
    let (_temp, path) = dir();
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("ca.pem.new"), "-----BEGIN PRIVATE KEY-----\nhalf").unwrap();
    open(&path).unwrap();
    assert_eq!(snapshot(&path).len(), 1);
}

#[test]
fn a_leaf_is_as_the_contract_says() {
    let (_temp, path) = dir();
    let ca = open(&path).unwrap();
    let credential = ca.credential(&alice(), LEAF_LIFETIME, now()).unwrap();
    assert_eq!(credential.identity(), &alice());
    assert_eq!(credential.not_before(), now() - BACKDATE);
    assert_eq!(credential.not_after(), now() + DAY);
    assert_ne!(credential.serial(), ca.credential(&alice(), LEAF_LIFETIME, now()).unwrap().serial());
    assert_eq!(credential.chain().len(), 1);

    let (_, x509) = x509_parser::parse_x509_certificate(&credential.chain()[0]).unwrap();
    assert!(x509.subject().iter().next().is_none());
    assert!(!x509.is_ca());
    assert_eq!(x509.key_usage().unwrap().unwrap().value.flags, 1, "digitalSignature alone");
    let usage = x509.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !usage.any && usage.other.is_empty());
    let names = x509.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "RFC 5280, 4.2.1.6: critical where the subject is empty");
    assert_eq!(names.value.general_names.len(), 1);
    let root = ca.root_certificates();
    let (_, root) = x509_parser::parse_x509_certificate(&root[0]).unwrap();
    x509.verify_signature(Some(root.public_key())).unwrap();
    root.verify_signature(None).unwrap();
}

#[test]
fn a_leaf_never_outlives_the_ca() {
    let (_temp, path) = dir();
    let ca = open(&path).unwrap();
    let root = Certificate::parse(&ca.root_certificates()[0]).unwrap();
    let late = root.not_after() - Duration::from_secs(60);
    assert_eq!(ca.credential(&alice(), DAY, late).unwrap().not_after(), root.not_after());
    let over = root.not_after() + Duration::from_secs(1);
    assert!(matches!(ca.credential(&alice(), DAY, over), Err(Error::AuthorityNotValid { .. })));
    assert!(matches!(Authority::open(&path, &TrustDomain::default(), over), Err(Error::AuthorityNotValid { .. })));
}

#[test]
fn the_request_decides_nothing_but_the_key() {
    let (_temp, path) = dir();
    let ca = open(&path).unwrap();
    let key = PrivateKey::generate().unwrap();
    let mallory: Identity = "spiffe://cluster.local/ns/default/sa/mallory".parse().unwrap();
    let request = CertificateRequest::new(&key, &mallory).unwrap();
    let chain = ca.issue(request.der(), &alice(), DAY, now()).unwrap();
    assert_eq!(Credential::new(key, chain).unwrap().identity(), &alice());

    let mut greedy = CertificateParams::new(vec!["example.com".to_owned()]).unwrap();
    greedy.is_ca = IsCa::ExplicitNoCa;
    greedy.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let request = greedy.serialize_request(&PrivateKey::generate().unwrap()).unwrap();
    let chain = ca.issue(request.der(), &alice(), DAY, now()).unwrap();
    let (_, x509) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    assert!(!x509.is_ca());
    assert_eq!(x509.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
    assert!(!x509.extended_key_usage().unwrap().unwrap().value.code_signing);
}

#[test]
fn requests_that_are_refused() {
    let (_temp, path) = dir();
    let ca = open(&path).unwrap();
    let key = PrivateKey::generate().unwrap();
    let good = CertificateRequest::new(&key, &alice()).unwrap();

    let mut forged = good.der().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let refused = |request: &[u8]| match ca.issue(request, &alice(), DAY, now()) {
        Err(Error::Request { identity, source }) if identity == alice() => source,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&forged), RequestFault::Signature);
    assert_eq!(refused(b""), RequestFault::Malformed);

    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let other = CertificateParams::default().serialize_request(&p384).unwrap();
    assert_eq!(refused(other.der()), RequestFault::Key);

    let elsewhere: Identity = "spiffe://elsewhere/ns/default/sa/alice".parse().unwrap();
    assert!(matches!(ca.issue(good.der(), &elsewhere, DAY, now()), Err(Error::OtherTrustDomain { .. })));
    let unnameable = Identity::new(&TrustDomain::default(), "a/b", "c");
    assert!(matches!(ca.issue(good.der(), &unnameable, DAY, now()), Err(Error::NotIssuable { .. })));
}

/// `spoil` a good state directory; it is refused with `want` and stays as it was.
fn check_refused(what: &str, spoil: impl Fn(&Path), want: impl Fn(&Error) -> bool) {
    let (_temp, path) = dir();
    open(&path).unwrap();
    spoil(&path);
    let before = snapshot(&path);
    let error = open(&path).expect_err(what);
    assert!(want(&error), "{what}: {error:?}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{what}: {error}");
    assert_eq!(before, snapshot(&path), "{what}");
}

fn rewrite(path: &Path, change: impl Fn(&str) -> String) {
    let text = fs::read_to_string(path.join("ca.pem")).unwrap();
    fs::write(path.join("ca.pem"), change(&text)).unwrap();
}

#[test]
fn a_broken_directory_is_refused_and_left_alone() {
    fn fault(want: StateFault) -> impl Fn(&Error) -> bool {
        move |e| matches!(e, Error::StateFault { fault, .. } if *fault == want)
    }
    let mode = |file: &'static str, mode: u32| {
        move |p: &Path| fs::set_permissions(p.join(file), fs::Permissions::from_mode(mode)).unwrap()
    };
    let certificate_of = |text: &str| text[text.find("-----BEGIN CERTIFICATE").unwrap()..].to_owned();
    let key_of = |text: &str| text[..text.find("-----BEGIN CERTIFICATE").unwrap()].to_owned();
    let other_ca = || {
        let (_temp, path) = dir();
        open(&path).unwrap();
        fs::read_to_string(path.join("ca.pem")).unwrap()
    };

    check_refused("empty", |p| rewrite(p, |_| String::new()), fault(StateFault::Ca(CaFault::Key)));
    check_refused("garbage", |p| rewrite(p, |_| "hello".into()), fault(StateFault::Ca(CaFault::Key)));
    check_refused("not text", |p| fs::write(p.join("ca.pem"), [0xff; 9]).unwrap(), fault(StateFault::NotText));
    check_refused(
        "cut",
        |p| rewrite(p, |t| t[..t.len() / 2].into()),
        |e| matches!(e, Error::StateFault { fault: StateFault::Ca(CaFault::Certificate | CaFault::Key), .. }),
    );
    check_refused("no key", |p| rewrite(p, certificate_of), fault(StateFault::Ca(CaFault::Key)));
    check_refused("no certificate", |p| rewrite(p, key_of), fault(StateFault::Ca(CaFault::Certificate)));
    check_refused(
        "two certificates",
        |p| rewrite(p, |t| t.to_owned() + &certificate_of(t)),
        fault(StateFault::Ca(CaFault::Certificate)),
    );
    check_refused(
        "another key",
        |p| rewrite(p, |t| key_of(&other_ca()) + &certificate_of(t)),
        fault(StateFault::Ca(CaFault::Mismatch)),
    );
    check_refused(
        "a leaf instead of a CA",
        |p| {
            let key = PrivateKey::generate().unwrap();
            let leaf = CertificateParams::default().self_signed(&key).unwrap();
            let ca = fs::read_to_string(p.join("ca.pem")).unwrap();
            fs::write(p.join("ca.pem"), key_of(&ca) + &leaf.pem()).unwrap();
        },
        fault(StateFault::Ca(CaFault::NotACa)),
    );
    check_refused(
        "too long",
        |p| rewrite(p, |t| t.to_owned() + &"\n".repeat(70_000)),
        fault(StateFault::TooLong { limit: 65_536 }),
    );
    check_refused("world-readable key", mode("ca.pem", 0o644), fault(StateFault::Mode { mode: 0o644, allowed: 0o600 }));
    check_refused("group-writable dir", mode("", 0o775), fault(StateFault::Mode { mode: 0o775, allowed: 0o755 }));
    check_refused(
        "a link",
        |p| {
            fs::rename(p.join("ca.pem"), p.join("real.pem")).unwrap();
            symlink("real.pem", p.join("ca.pem")).unwrap();
        },
        |e| matches!(e, Error::State { operation: "open", .. }),
    );
    check_refused(
        "a directory",
        |p| {
            fs::remove_file(p.join("ca.pem")).unwrap();
            fs::create_dir(p.join("ca.pem")).unwrap();
        },
        fault(StateFault::Kind { expected: "regular file" }),
    );
    check_refused(
        "a directory with other content",
        |p| fs::rename(p.join("ca.pem"), p.join("holiday.jpg")).unwrap(),
        fault(StateFault::Foreign { entry: "holiday.jpg".into() }),
    );
}

#[test]
fn another_trust_domain_is_refused() {
    let (_temp, path) = dir();
    open(&path).unwrap();
    let before = snapshot(&path);
    let error = Authority::open(&path, &"prod.example".parse().unwrap(), now()).unwrap_err();
    let want = CaFault::TrustDomain { found: "cluster.local".into(), expected: "prod.example".into() };
    let want = StateFault::Ca(want);
    assert!(matches!(&error, Error::StateFault { fault, .. } if *fault == want), "{error:?}");
    assert_eq!(before, snapshot(&path));
}

#[test]
fn a_ca_is_kept_in_an_object_of_the_cluster_as_well() {
    const ORIGIN: &str = "Secret underpass-system/underpass-ca";
    let domain = TrustDomain::default();
    let text = Authority::make(&domain, now()).unwrap();
    let values = |text: &str| Values::alone(text.to_owned().into());
    let ca = Authority::from_values(ORIGIN, &values(&text), &domain, now()).unwrap();
    assert_eq!(ca.root_certificates(), certificates_from_pem(&text).unwrap());
    let credential = ca.credential(&alice(), DAY, now()).unwrap();
    assert_eq!((credential.identity(), credential.chain().len()), (&alice(), 1));

    let check = |text: &str, domain: &str, now: SystemTime, want: &str| {
        let error = Authority::from_values(ORIGIN, &values(text), &domain.parse().unwrap(), now).unwrap_err();
        assert_eq!(error.to_string(), format!("{ORIGIN}, ca.pem is not a usable CA: {want}"));
    };
    let other = "it is the CA of trust domain `cluster.local`, not of `prod.example`";
    check(&text, "prod.example", now(), other);
    let (key, certificate) = text.split_at(text.find("-----BEGIN CERTIFICATE").unwrap());
    check(key, "cluster.local", now(), "it has no readable certificate");
    let another = Authority::make(&domain, now()).unwrap();
    let (another_key, _) = another.split_at(another.find("-----BEGIN CERTIFICATE").unwrap());
    check(&format!("{another_key}{certificate}"), "cluster.local", now(), "its key does not match its certificate");
    let over = now() + 3651 * DAY;
    let error = Authority::from_values(ORIGIN, &values(&text), &domain, over).unwrap_err();
    assert!(matches!(&error, Error::AuthorityNotValid { origin } if **origin == *ORIGIN), "{error}");
}

#[test]
fn a_credential_needs_its_own_key_and_one_identity() {
    let (_temp, path) = dir();
    let ca = open(&path).unwrap();
    let (key, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let request = CertificateRequest::new(&key, &alice()).unwrap();
    let chain = ca.issue(request.der(), &alice(), DAY, now()).unwrap();
    assert!(matches!(Credential::new(other, chain), Err(Error::KeyMismatch { .. })));
    assert!(matches!(Credential::new(key, vec![]), Err(Error::NoCertificate { .. })));

    let key = PrivateKey::generate().unwrap();
    let nameless = CertificateParams::default().self_signed(&key).unwrap();
    assert!(matches!(
        Credential::new(key, vec![nameless.der().clone()]),
        Err(Error::NoIdentity { source: SanError::None, .. })
    ));
}

#[test]
fn bundles() {
    use underpass_identity::Roots;
    let (_temp, path) = dir();
    let (_temp2, path2) = dir();
    let (one, two) = (open(&path).unwrap().root_certificates(), open(&path2).unwrap().root_certificates());
    let both: Vec<_> = one.iter().chain(&two).cloned().collect();
    let reversed: Vec<_> = both.iter().rev().cloned().collect();

    let first = Roots::new(7, one.clone()).unwrap();
    assert!(first.successor(one.clone()).unwrap().is_none());
    let second = first.successor(both.clone()).unwrap().unwrap();
    assert_eq!((second.generation(), second.certificates().len()), (8, 2));
    assert!(second.successor(reversed).unwrap().is_none());
    assert_eq!(second.successor(two).unwrap().unwrap().generation(), 9);
    let repeated = Roots::new(0, [one.clone(), one.clone()].concat()).unwrap();
    assert_eq!(repeated.certificates().len(), 1);

    let text = fs::read_to_string(path.join("ca.pem")).unwrap();
    assert_eq!(Roots::from_pem(1, &text).unwrap().certificates(), one);
    assert!(matches!(Roots::from_pem(1, "nothing"), Err(Error::NoCertificate { .. })));
    let cut = text.replace("-----END CERTIFICATE-----", "");
    assert!(matches!(Roots::from_pem(1, &cut), Err(Error::ReadPem(_))));
    let leaf = open(&path).unwrap().credential(&alice(), DAY, now()).unwrap().chain().to_vec();
    assert!(matches!(Roots::new(1, leaf), Err(Error::RootIsNoCa { .. })));
    assert!(matches!(Roots::new(1, vec![b"x".to_vec().into()]), Err(Error::ReadCertificate { .. })));
    assert_eq!(certificates_from_pem("").unwrap(), []);
}
