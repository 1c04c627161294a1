//! Integers with a prefix of a few bits (RFC 7541 section 5.1).

use super::Malformed;

/// More than any length or index that is allowed here; also what keeps the sum below from overflowing.
const MAX: u32 = 1 << 28;

/// Reads an integer whose first byte was `first`, of which `prefix_bits` (1 to 8) belong to it.
pub(super) fn decode(first: u8, prefix_bits: u32, input: &mut &[u8]) -> Result<usize, Malformed> {
    let mask = 0xff_u8.checked_shr(8_u32.saturating_sub(prefix_bits)).unwrap_or(0);
    let mut value = u32::from(first & mask);
    if value < u32::from(mask) {
        return Ok(value as usize);
    }
    // Four further bytes of seven bits reach 2^28; a fifth could only overflow or pad with zeros without end.
    for shift in [0_u32, 7, 14, 21] {
        let (&byte, rest) = input.split_first().ok_or(Malformed)?;
        *input = rest;
        value = value.saturating_add(u32::from(byte & 0x7f).wrapping_shl(shift));
        if byte & 0x80 == 0 {
            return if value <= MAX { Ok(value as usize) } else { Err(Malformed) };
        }
    }
    Err(Malformed)
}

/// Writes `value` with `prefix_bits` (1 to 8) in the first byte, whose other bits are `pattern`.
pub(super) fn encode(value: usize, prefix_bits: u32, pattern: u8, out: &mut Vec<u8>) {
    let mask = 0xff_u8.checked_shr(8_u32.saturating_sub(prefix_bits)).unwrap_or(0);
    let Some(mut rest) = value.checked_sub(usize::from(mask)) else {
        out.push(pattern | (value & 0xff) as u8);
        return;
    };
    out.push(pattern | mask);
    while rest >= 0x80 {
        out.push(0x80 | (rest & 0x7f) as u8);
        rest = rest.wrapping_shr(7);
    }
    out.push((rest & 0x7f) as u8);
}
