//! Bulk data that tells where it is wrong: a block that repeats at a length that divides no buffer, so that a byte
//! that is lost, doubled or moved shows at once. Comparing with what was meant is faster than any checksum, also in a
//! build without optimisation, and says where the first difference is.

use std::{
    io::{Read, Write},
    sync::LazyLock,
    time::Duration,
};

use anyhow::{Result, bail, ensure};

/// The largest prime below 2^16.
const BLOCK: usize = 65_521;

static DOUBLE_BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_u32;
    let block: Vec<u8> = (0..BLOCK)
        .map(|_| {
            // xorshift32 (Marsaglia 2003): any sequence without short repetitions does.
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_be_bytes()[0]
        })
        .collect();
    block.repeat(2)
});

/// At most one block of the pattern from `offset` on.
#[must_use]
pub fn at(offset: u64, length: usize) -> &'static [u8] {
    let start = (offset % BLOCK as u64) as usize;
    DOUBLE_BLOCK.get(start..start + length.min(BLOCK)).unwrap_or_default()
}

/// Writes `length` bytes of the pattern.
pub fn write(to: &mut impl Write, length: u64) -> std::io::Result<()> {
    let mut done = 0;
    while done < length {
        let piece = at(done, usize::try_from(length - done).unwrap_or(BLOCK));
        to.write_all(piece)?;
        done += piece.len() as u64;
    }
    Ok(())
}

/// Checks that what is read is the pattern; how many bytes have come so far.
#[derive(Debug, Default)]
pub struct Checker {
    offset: u64,
}

impl Checker {
    /// The next bytes.
    pub fn check(&mut self, bytes: &[u8]) -> Result<()> {
        for piece in bytes.chunks(BLOCK) {
            if let Some(n) = (piece != at(self.offset, piece.len()))
                .then(|| piece.iter().zip(at(self.offset, piece.len())).position(|(a, b)| a != b))
                .flatten()
            {
                bail!("byte {} of the pattern is wrong", self.offset + n as u64);
            }
            self.offset += piece.len() as u64;
        }
        Ok(())
    }

    /// The number of right bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.offset
    }
}

/// Reads exactly `length` bytes and checks them, at most `piece` at a time with `pause` after each: a slow reader.
pub fn read(from: &mut impl Read, length: u64, piece: usize, pause: Duration) -> Result<()> {
    let (mut checker, mut buffer) = (Checker::default(), vec![0; piece]);
    while checker.length() < length {
        let room = usize::try_from(length - checker.length()).unwrap_or(piece).min(piece);
        let n = from.read(buffer.get_mut(..room).unwrap_or_default())?;
        ensure!(n > 0, "end of file after {} of {length} bytes", checker.length());
        checker.check(buffer.get(..n).unwrap_or_default())?;
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_lost_doubled_or_changed() {
        fn check(damage: impl Fn(&mut Vec<u8>), wrong_at: Option<&str>) {
            let mut bytes = Vec::new();
            write(&mut bytes, 200_000).expect("memory");
            damage(&mut bytes);
            let result = read(&mut bytes.as_slice(), 200_000, 1000, Duration::ZERO);
            let said = result.as_ref().err().map(ToString::to_string);
            assert_eq!(said.as_deref(), wrong_at);
        }
        check(|_| {}, None);
        check(|b| b[70_000] ^= 1, Some("byte 70000 of the pattern is wrong"));
        check(|b| b.truncate(199_999), Some("end of file after 199999 of 200000 bytes"));
        check(|b| drop(b.drain(1000..2000)), Some("byte 1000 of the pattern is wrong"));
        check(|b| drop(b.drain(65_000..130_521)), Some("end of file after 134479 of 200000 bytes"));
    }
}
