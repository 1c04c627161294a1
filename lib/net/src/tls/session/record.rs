//! Framing of TLS records in a stream of bytes (RFC 8446, 5.1): parsed here, so that the library is given whole records only.

/// Content type, version, length (RFC 8446, 5.1).
pub(super) const HEADER_BYTES: usize = 5;
/// Plaintext in one record at most (RFC 8446, 5.1).
pub(super) const RECORD_PLAIN_MAX: usize = 16 * 1024;
/// Header, content type and tag around it, with the ciphers we have (RFC 8446, 5.2).
pub(super) const RECORD_OVERHEAD: usize = HEADER_BYTES + 1 + 16;

/// The length of the record at the front of `bytes`, header included; 0 where it is not whole. What cannot be a
/// record's beginning counts as whole, so that the library sees and refuses it at once.
pub(super) fn first_record(bytes: &[u8]) -> usize {
    let Some(&[kind, major, _, high, low]) = bytes.first_chunk::<HEADER_BYTES>() else {
        // TLS begins with a content type of 20 to 23, then 3.
        return 0;
    };
    let length = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
    let is_possible = (20..=23).contains(&kind) && major == 3 && length <= HEADER_BYTES + RECORD_PLAIN_MAX + 2048;
    match bytes.len() {
        all if !is_possible => all,
        all if length <= all => length,
        _ => 0,
    }
}

/// The length of all whole records at the front of `bytes`.
pub(super) fn records(bytes: &[u8]) -> usize {
    let mut whole = 0;
    loop {
        match first_record(bytes.get(whole..).unwrap_or_default()) {
            0 => return whole,
            length => whole += length,
        }
    }
}

/// Moves from the front of `incoming` what `partial` lacks to a whole record, and returns how much that was.
pub(super) fn fill(partial: &mut Vec<u8>, incoming: &[u8]) -> usize {
    let mut taken = 0;
    let mut take = |partial: &mut Vec<u8>, upto: usize| {
        let n = upto.saturating_sub(partial.len()).min(incoming.len() - taken);
        partial.extend_from_slice(&incoming[taken..taken + n]);
        taken += n;
    };
    take(partial, HEADER_BYTES);
    if let (Some(&[_, _, _, high, low]), 0) = (partial.first_chunk::<HEADER_BYTES>(), first_record(partial)) {
        take(partial, HEADER_BYTES + usize::from(u16::from_be_bytes([high, low])));
    }
    taken
}
