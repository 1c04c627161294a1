//! The output buffer of a session. Its own file because workers pool it independently of sessions.

use std::fmt;

/// Ciphertext that waits for the socket. It grows to what a turn needs and keeps that until it is dropped: keep one
/// per worker, and per tunnel only while the socket takes no more.
#[derive(Default)]
pub struct Outgoing {
    /// Initialised up to its length, so that room is not cleared again for each batch.
    storage: Vec<u8>,
    start: usize,
    end: usize,
}

impl Outgoing {
    /// An empty buffer, without memory.
    #[must_use]
    pub const fn new() -> Self {
        Self { storage: Vec::new(), start: 0, end: 0 }
    }

    /// The bytes to send.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        self.storage.get(self.start..self.end).unwrap_or_default()
    }

    /// `n` bytes of [`Outgoing::pending`] were sent.
    pub fn advance(&mut self, n: usize) {
        self.start = self.end.min(self.start + n);
        if self.start == self.end {
            self.clear();
        }
    }

    /// The number of bytes to send.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    /// Memory that it holds.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) const fn held_bytes(&self) -> usize {
        self.storage.len()
    }

    /// True without bytes to send.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Drops the bytes to send; keeps the memory.
    pub const fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// `n` bytes behind what waits, to be filled and then [`Outgoing::commit`]ted.
    pub(super) fn room(&mut self, n: usize) -> &mut [u8] {
        if self.storage.len() - self.end < n && self.start > 0 {
            self.storage.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.storage.len() - self.end < n {
            self.storage.resize((self.end + n).max(self.storage.len().saturating_mul(2).min(self.end + 4 * n)), 0);
        }
        &mut self.storage[self.end..self.end + n]
    }

    pub(super) fn commit(&mut self, n: usize) {
        self.end = self.storage.len().min(self.end + n);
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outgoing({} bytes)", self.len())
    }
}
