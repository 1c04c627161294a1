//! The Huffman code of RFC 7541 appendix B, decoded by table.
//!
//! The code is canonical: codes of one length are consecutive, in the order of their symbols. Its lengths are therefore all
//! that has to be written down; the tables are computed from them when this is compiled.

use super::Malformed;

const SYMBOLS: usize = 257;
/// End of string: may only appear as padding (RFC 7541 5.2).
const EOS: u16 = 256;
const LONGEST: usize = 30;
/// All symbols of names and values that are common have at most this many bits.
const SHORT: usize = 8;

/// Bits per symbol, RFC 7541 appendix B.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// Codes of one length: their first code, and where their symbols stand in [`Tables::by_code`].
#[derive(Clone, Copy)]
struct Row {
    first_code: u32,
    count: u32,
    offset: u32,
}

struct Tables {
    rows: [Row; LONGEST + 1],
    /// Symbols ordered by length, then by value: the order of the codes.
    by_code: [u16; SYMBOLS],
    /// For the next eight bits: symbol and length of the code they begin with; length 0 where it is longer.
    short: [(u16, u8); 1 << SHORT],
}

static TABLES: Tables = build();

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated by the compiler only: a mistake does not compile"
)]
const fn build() -> Tables {
    let mut tables = Tables {
        rows: [Row { first_code: 0, count: 0, offset: 0 }; LONGEST + 1],
        by_code: [0; SYMBOLS],
        short: [(0, 0); 1 << SHORT],
    };
    let (mut length, mut code, mut next) = (1, 0_u32, 0_usize);
    while length <= LONGEST {
        code <<= 1;
        let (first_code, offset) = (code, next);
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                tables.by_code[next] = symbol as u16;
                if length <= SHORT {
                    let spread = 1 << (SHORT - length);
                    let mut low = 0;
                    while low < spread {
                        tables.short[((code as usize) << (SHORT - length)) + low] = (symbol as u16, length as u8);
                        low += 1;
                    }
                }
                next += 1;
                code += 1;
            }
            symbol += 1;
        }
        tables.rows[length] = Row { first_code, count: code - first_code, offset: offset as u32 };
        length += 1;
    }
    assert!(code == 1 << LONGEST, "the lengths make a complete code");
    tables
}

/// Appends what `input` stands for to `out`.
pub(super) fn decode(input: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    // The shortest code has five bits.
    out.reserve(input.len().saturating_mul(8) / 5);
    // Left-aligned bits that are not decoded yet, and how many they are.
    let (mut bits, mut have) = (0_u64, 0_u32);
    let mut bytes = input.iter();
    loop {
        while have <= 56 {
            let Some(&byte) = bytes.next() else { break };
            bits |= u64::from(byte).wrapping_shl(56_u32.wrapping_sub(have));
            have = have.wrapping_add(8);
        }
        if have == 0 {
            return Ok(());
        }
        let Some((symbol, length)) = next_symbol(bits, have) else {
            // What remains is padding: fewer than eight bits, the first ones of EOS (RFC 7541 5.2).
            let ones = bits.leading_ones();
            return if have < 8 && ones >= have { Ok(()) } else { Err(Malformed) };
        };
        if symbol == EOS {
            return Err(Malformed);
        }
        out.push((symbol & 0xff) as u8);
        bits = bits.wrapping_shl(length);
        have = have.wrapping_sub(length);
    }
}

/// The symbol that `bits` begin with and its length, if it ends within the first `have` bits.
fn next_symbol(bits: u64, have: u32) -> Option<(u16, u32)> {
    let &(symbol, length) = TABLES.short.get(bits.wrapping_shr(56) as usize)?;
    if length != 0 {
        let length = u32::from(length);
        return (length <= have).then_some((symbol, length));
    }
    let rows = TABLES.rows.iter().zip(0_u32..).skip(SHORT.saturating_add(1));
    for (row, length) in rows {
        if length > have {
            return None;
        }
        let code = bits.wrapping_shr(64_u32.wrapping_sub(length)) as u32;
        let nth = code.wrapping_sub(row.first_code);
        if code >= row.first_code && nth < row.count {
            let at = row.offset.wrapping_add(nth);
            return TABLES.by_code.get(at as usize).map(|&symbol| (symbol, length));
        }
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Code and length of a symbol.
    pub(in crate::hpack) fn code_of(symbol: u8) -> (u32, u32) {
        let at = TABLES.by_code.iter().position(|&other| other == u16::from(symbol)).unwrap() as u32;
        let found = TABLES.rows.iter().zip(0..).find(|(row, _)| row.offset <= at && at < row.offset + row.count);
        let (row, length) = found.unwrap();
        (row.first_code + at - row.offset, length)
    }

    #[test]
    fn some_codes_of_appendix_b() {
        for (symbol, code, length) in [
            (b'0', 0x0, 5),
            (b'a', 0x3, 5),
            (b' ', 0x14, 6),
            (b'z', 0x7b, 7),
            (b'X', 0xfc, 8),
            (b'!', 0x3f8, 10),
            (b'\\', 0x7fff0, 19),
            (0, 0x1ff8, 13),
            (22, 0x3ffffffe, 30),
            (255, 0x3ffffee, 26),
        ] {
            assert_eq!(code_of(symbol), (code, length), "{symbol}");
        }
    }
}
