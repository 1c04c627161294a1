//! Wiping of private keys: all of this process' memory is searched for a key, while it is in use and afterwards. A
//! target of its own, because what other tests do meanwhile is in the same memory.

#![allow(missing_docs, reason = "tests")]

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
};

use underpass_core::{Identities, Identity, TrustDomain};
use underpass_identity::{
    PrivateKey,
    testing::{Leaf, TestCa},
};
use underpass_net::tls::{Configs, Settings, TrustDomains};

const ALICE: &str = "spiffe://cluster.local/ns/default/sa/alice";
/// A pattern in disguise, so that it is not found here.
const DISGUISE: u8 = 0xa5;
const SCALAR_BYTES: usize = 32;
const PIECE_BYTES: usize = 1 << 16;

/// The secret number of a key, disguised.
fn secret(key: &PrivateKey) -> Vec<u8> {
    let der = key.pkcs8_der();
    // ECPrivateKey (RFC 5915, 3): version 1, then an octet string of 32 bytes.
    let start = der.windows(5).position(|bytes| bytes == [2, 1, 1, 4, 32]).expect("a P-256 key") + 5;
    der[start..start + SCALAR_BYTES].iter().map(|byte| byte ^ DISGUISE).collect()
}

/// How often it is in memory that this process can write: as it is written in files, and as the library computes with it.
fn found(secret: &[u8]) -> usize {
    let turned: Vec<u8> = secret.iter().rev().copied().collect();
    let memory = File::open("/proc/self/mem").expect("own memory");
    let maps = fs::read_to_string("/proc/self/maps").expect("own maps");
    let mut piece = vec![0_u8; PIECE_BYTES + SCALAR_BYTES];
    let mut count = 0;
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|access| access.starts_with("rw"))) {
        let (from, to) = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let number = |hex| u64::from_str_radix(hex, 16).expect("an address");
        for at in (number(from)..number(to)).step_by(PIECE_BYTES) {
            // What was read before must not be found in here.
            piece.fill(0);
            let size = usize::try_from(number(to) - at).unwrap_or(PIECE_BYTES).min(piece.len());
            // Some pages cannot be read, and hold nothing.
            let Ok(read) = memory.read_at(&mut piece[..size], at) else { continue };
            let is = |window: &&[u8], what: &[u8]| {
                window.iter().zip(what).all(|(found, masked)| found ^ DISGUISE == *masked)
            };
            count += piece[..read].windows(SCALAR_BYTES).filter(|w| is(w, secret) || is(w, &turned)).count();
        }
    }
    piece.fill(0);
    count
}

#[test]
fn a_key_is_wiped_with_the_last_that_uses_it() {
    let key = PrivateKey::generate().expect("key");
    let alone = secret(&key);
    assert!(found(&alone) > 0, "the search finds what is there");
    drop(key);
    assert_eq!(found(&alone), 0, "a key alone");

    let ca = TestCa::new("root");
    let (credential, roots) = (ca.credential(&Leaf::of(ALICE)), ca.roots(1));
    let secret = secret(credential.key());
    let mut configs = Configs::new(Settings::default()).expect("configs");
    let expected = Identities::from(ALICE.parse::<Identity>().expect("identity"));
    let client = configs.client(&credential, &expected, &roots).expect("config");
    let own = TrustDomains::new(TrustDomain::default(), []);
    let server = configs.server(&credential, &own, &roots).expect("config");
    let serial = credential.serial().clone();
    drop(credential);
    assert!(found(&secret) > 0, "the cache has it");
    configs.forget(&serial);
    assert!(found(&secret) > 0, "who connects with it has it");
    drop((client, server));
    assert_eq!(found(&secret), 0);
}
