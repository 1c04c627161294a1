//! The embedded CA's root replaced in three steps, on a real directory.

#![allow(missing_docs, reason = "tests")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use underpass_core::{Identity, TrustDomain};
use underpass_identity::{
    Authority, CertificateDer, Error, RotationFault, Stamp, StateFault,
    rotation::{
        Phase, Role, Status,
        directory::{activate, prepare, retire, status},
    },
};

const LIFETIME: Duration = Duration::from_secs(24 * 3600);

fn domain() -> TrustDomain {
    TrustDomain::default()
}

fn now() -> SystemTime {
    // Files are as old as they really are.
    SystemTime::now()
}

fn dir() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("ca");
    Authority::open(&path, &domain(), now()).unwrap();
    (temp, path)
}

fn load(path: &Path) -> Authority {
    Authority::load(path, &domain(), now()).unwrap()
}

/// The issuer of the CA's new certificates.
fn issuer(path: &Path, roots: &[CertificateDer<'static>]) -> usize {
    let alice: Identity = "spiffe://cluster.local/ns/default/sa/alice".parse().unwrap();
    let credential = load(path).credential(&alice, LIFETIME, now()).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&credential.chain()[0]).unwrap();
    let signed = |root: &CertificateDer<'static>| {
        let (_, root) = x509_parser::parse_x509_certificate(root).unwrap();
        leaf.verify_signature(Some(root.public_key())).is_ok()
    };
    roots.iter().position(signed).expect("one of them")
}

fn roles(status: &Status) -> Vec<Role> {
    status.roots.iter().map(|(role, _)| *role).collect()
}

#[test]
fn old_then_both_then_new() {
    let (_temp, path) = dir();
    let old = load(&path).root_certificates();
    let first = status(&path, &domain(), now()).unwrap();
    assert_eq!((first.phase, roles(&first)), (Phase::Steady, vec![Role::Signs]));

    let prepared = prepare(&path, &domain(), now()).unwrap();
    assert_eq!((prepared.phase, roles(&prepared)), (Phase::Prepared, vec![Role::Signs, Role::Next]));
    let both = load(&path).root_certificates();
    assert_eq!((both.len(), &both[0]), (2, &old[0]));
    assert_eq!(issuer(&path, &both), 0, "the old one signs");

    let activated = activate(&path, &domain(), now(), Duration::ZERO).unwrap();
    assert_eq!((activated.phase, roles(&activated)), (Phase::Activated, vec![Role::Signs, Role::Old]));
    let swapped = load(&path).root_certificates();
    assert_eq!(swapped, [both[1].clone(), both[0].clone()]);
    assert_eq!(issuer(&path, &both), 1, "the new one signs");

    let retired = retire(&path, &domain(), now(), Duration::ZERO).unwrap();
    assert_eq!((retired.phase, roles(&retired)), (Phase::Steady, vec![Role::Signs]));
    assert_eq!(load(&path).root_certificates(), [both[1].clone()]);
    // And once more from there.
    prepare(&path, &domain(), now()).unwrap();
    assert_eq!(load(&path).root_certificates()[0], both[1]);
    let mut files: Vec<_> =
        fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["ca.lock", "ca.pem", "next.pem"]);
}

#[test]
fn no_step_is_taken_out_of_turn() {
    let (_temp, path) = dir();
    let check = |result: Result<Status, Error>, want: RotationFault| match result {
        Err(Error::Rotation { fault, .. }) => assert_eq!(fault, want),
        other => panic!("{want:?}: {other:?}"),
    };
    let none = Duration::ZERO;
    check(activate(&path, &domain(), now(), none), RotationFault::NotSoFar(Phase::Steady));
    check(retire(&path, &domain(), now(), none), RotationFault::NotSoFar(Phase::Steady));
    prepare(&path, &domain(), now()).unwrap();
    check(prepare(&path, &domain(), now()), RotationFault::UnderWay(Phase::Prepared));
    check(retire(&path, &domain(), now(), none), RotationFault::NotSoFar(Phase::Prepared));
    activate(&path, &domain(), now(), none).unwrap();
    check(prepare(&path, &domain(), now()), RotationFault::UnderWay(Phase::Activated));
    check(activate(&path, &domain(), now(), none), RotationFault::NotSoFar(Phase::Activated));
}

#[test]
fn no_step_is_taken_too_early() {
    let (_temp, path) = dir();
    let early = |result: Result<Status, Error>| match result {
        Err(Error::Rotation { fault: RotationFault::TooEarly { left }, .. }) => left,
        other => panic!("{other:?}"),
    };
    let (minute, second) = (Duration::from_secs(60), Duration::from_secs(1));
    let later = |passed: Duration| now() + passed;
    prepare(&path, &domain(), now()).unwrap();
    let left = early(activate(&path, &domain(), now(), minute));
    assert!(left <= minute && left > minute / 2, "{left:?}");
    early(activate(&path, &domain(), later(minute / 2), minute));
    early(activate(&path, &domain(), now() - minute, minute));
    activate(&path, &domain(), later(minute + second), minute).unwrap();
    early(retire(&path, &domain(), later(LIFETIME - minute), LIFETIME));
    assert_eq!(load(&path).root_certificates().len(), 2, "refused, and nothing changed");
    retire(&path, &domain(), later(LIFETIME + second), LIFETIME).unwrap();
}

#[test]
fn a_crash_in_the_middle_of_a_step_leaves_both_roots_trusted() {
    // As it is after old.pem was written, before next.pem became ca.pem.
    let (_temp, path) = dir();
    prepare(&path, &domain(), now()).unwrap();
    let mine = load(&path).root_certificates();
    let pem = fs::read_to_string(path.join("ca.pem")).unwrap();
    let certificate = &pem[pem.find("-----BEGIN CERTIFICATE").unwrap()..];
    write(&path.join("old.pem"), certificate.as_bytes());
    let found = status(&path, &domain(), now()).unwrap();
    assert_eq!((found.phase, roles(&found)), (Phase::Prepared, vec![Role::Signs, Role::Next]));
    assert_eq!(load(&path).root_certificates(), mine);
    assert_eq!(activate(&path, &domain(), now(), Duration::ZERO).unwrap().phase, Phase::Activated);
    assert_eq!(load(&path).root_certificates(), [mine[1].clone(), mine[0].clone()]);

    // A file that did not get its name is not looked at.
    write(&path.join("next.pem.new"), b"half of it");
    assert_eq!(load(&path).root_certificates().len(), 2);
}

fn write(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_ca_that_has_gone_is_missed_and_never_replaced() {
    let (_temp, path) = dir();
    let away = path.with_extension("away");
    let before = Stamp::of(&path);
    assert_eq!(Stamp::of(&path), before);
    fs::rename(path.join("ca.pem"), &away).unwrap();
    assert_ne!(Stamp::of(&path), before);
    let fault = |error: Error| match error {
        Error::StateFault { fault, .. } => fault,
        other => panic!("{other:?}"),
    };
    assert_eq!(fault(Authority::load(&path, &domain(), now()).unwrap_err()), StateFault::Missing);
    assert!(!path.join("ca.pem").exists());
    // With what a rotation leaves, not even an agent that starts makes a new one.
    fs::rename(&away, path.join("ca.pem")).unwrap();
    prepare(&path, &domain(), now()).unwrap();
    fs::remove_file(path.join("ca.pem")).unwrap();
    let foreign = StateFault::Foreign { entry: "next.pem".into() };
    assert_eq!(fault(Authority::open(&path, &domain(), now()).unwrap_err()), foreign);
    fs::remove_dir_all(&path).unwrap();
    assert!(matches!(Authority::load(&path, &domain(), now()), Err(Error::State { operation: "inspect", .. })));
    assert!(!path.exists());
}

#[test]
fn a_held_lock_stops_others_only_for_a_time() {
    let (_temp, path) = dir();
    let held = File::open(path.join("ca.lock")).unwrap();
    held.lock().unwrap();
    let error = Authority::load(&path, &domain(), now()).unwrap_err();
    assert!(error.to_string().contains("lock") && error.to_string().contains("ca.lock"), "{error}");
    held.unlock().unwrap();
    load(&path);
    // Readers do not wait for each other; a writer waits for them.
    held.lock_shared().unwrap();
    load(&path);
    assert!(matches!(prepare(&path, &domain(), now()), Err(Error::State { operation: "lock", .. })));
}
