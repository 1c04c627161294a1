//! Buffers of a worker, lent while bytes move. An idle connection or tunnel holds none of them: ten thousand idle
//! connections cost their sockets and little more.
//!
//! A worker is one thread, so lending is a pop and giving back a push. Reads are short and borrow a [`Lent`]; what is
//! queued for a socket is kept while it waits, and so is taken and given back by name.

use std::{
    cell::RefCell,
    mem,
    ops::{Deref, DerefMut},
    rc::Rc,
};

use crate::tls::Outgoing;

/// Large enough for many TLS records of one read; what is measured says that more gains nothing.
pub const READ_BYTES: usize = 256 << 10;
/// Buffers of each kind that are kept for the next turn; more are given back to the allocator.
const KEPT: usize = 8;

/// The buffers of one worker.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Rc<Kept>);

#[derive(Debug, Default)]
struct Kept {
    plain: RefCell<Vec<Vec<u8>>>,
    outgoing: RefCell<Vec<Outgoing>>,
}

impl Buffers {
    /// Lends a buffer of at least [`READ_BYTES`]. What is in it means nothing.
    #[must_use]
    pub fn lend(&self) -> Lent {
        Lent { bytes: self.take(), home: self.clone() }
    }

    /// Takes such a buffer until it is given back by [`Buffers::keep`].
    #[must_use]
    pub fn take(&self) -> Vec<u8> {
        self.0.plain.borrow_mut().pop().unwrap_or_else(|| vec![0; READ_BYTES])
    }

    /// Gives a buffer back. One that is too small to be lent is none of ours, and dropped.
    pub fn keep(&self, bytes: Vec<u8>) {
        let mut kept = self.0.plain.borrow_mut();
        if bytes.len() >= READ_BYTES && kept.len() < KEPT {
            kept.push(bytes);
        }
    }

    /// Takes memory for ciphertext.
    pub(crate) fn take_outgoing(&self) -> Outgoing {
        self.0.outgoing.borrow_mut().pop().unwrap_or_default()
    }

    /// Gives it back.
    pub(crate) fn keep_outgoing(&self, outgoing: Outgoing) {
        let mut kept = self.0.outgoing.borrow_mut();
        if kept.len() < KEPT {
            kept.push(outgoing);
        }
    }
}

/// A lent buffer; dropping it gives it back.
#[derive(Debug)]
pub struct Lent {
    bytes: Vec<u8>,
    home: Buffers,
}

impl Deref for Lent {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.keep(mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_comes_back_and_little_is_kept() {
        let buffers = Buffers::default();
        let mut first = buffers.lend();
        first[0] = 7;
        drop(first);
        assert_eq!(buffers.lend()[0], 7, "the same buffer again");
        let many: Vec<_> = (0..20).map(|_| buffers.lend()).collect();
        drop(many);
        assert_eq!(buffers.0.plain.borrow().len(), KEPT);
        let mut own = buffers.take();
        assert_eq!(buffers.0.plain.borrow().len(), KEPT - 1);
        own.truncate(100);
        buffers.keep(own);
        assert_eq!(buffers.0.plain.borrow().len(), KEPT - 1, "too small to be lent");
    }
}
