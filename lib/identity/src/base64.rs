//! PEM encoding of a private key. A few lines of its own because the text holds the key: it is built in place, in
//! memory that is wiped when dropped, which no general encoder promises.

use zeroize::Zeroizing;

/// Bytes of the source in one line: 64 characters (RFC 7468, 2).
const LINE_BYTES: usize = 48;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// `der` between `-----BEGIN label-----` and `-----END label-----`.
pub(crate) fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    // Reserved once: growing would leave copies of the key behind.
    let mut out = Zeroizing::new(String::with_capacity(2 * label.len() + 64 + der.len() * 2));
    out.push_str("-----BEGIN ");
    out.push_str(label);
    out.push_str("-----\n");
    for line in der.chunks(LINE_BYTES) {
        for group in line.chunks(3) {
            push_group(&mut out, group);
        }
        out.push('\n');
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    out
}

/// One to three bytes as four characters (RFC 4648, 4).
fn push_group(out: &mut String, group: &[u8]) {
    let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
    let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
    for i in 0..4 {
        let sextet = (bits >> (18 - 6 * i)) & 0x3f;
        let character = if i <= group.len() { ALPHABET.get(sextet as usize).copied().unwrap_or(b'=') } else { b'=' };
        out.push(char::from(character));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};

    use super::*;

    #[test]
    fn known_answers() {
        // RFC 4648, 10.
        for (plain, encoded) in [("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            let want = format!("-----BEGIN X-----\n{encoded}\n-----END X-----\n");
            assert_eq!(*pem("X", plain.as_bytes()), want);
        }
    }

    proptest! {
        #[test]
        fn a_foreign_reader_agrees(der in proptest::collection::vec(any::<u8>(), 1..300)) {
            let text = pem("PRIVATE KEY", &der);
            let read = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).unwrap();
            prop_assert_eq!(read.secret_pkcs8_der(), &der[..]);
            prop_assert!(text.capacity() >= text.len() && text.lines().all(|l| l.len() <= 64));
        }
    }
}
