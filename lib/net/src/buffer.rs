//! The buffer pool of a worker, from which buffers are borrowed while bytes move. An idle connection or tunnel has none of
//! them: ten thousand idle connections cost their sockets and little more.
//!
//! A worker is one thread, so borrowing is a pop and giving back a push. Reads are short and borrow a [`BorrowedBuffer`];
//! a buffer of bytes that are queued for a socket outlives the turn, and so is taken and put back explicitly.

use std::{
    cell::RefCell,
    mem,
    ops::{Deref, DerefMut},
    rc::Rc,
};

use crate::tls::Outgoing;

/// Size of a buffer: many TLS records of one read. Measured, more gains nothing.
pub const READ_BYTES: usize = 256 << 10;
/// Pooled buffers of each kind; more are given back to the allocator.
const POOLED_MAX: usize = 8;

/// The buffer pool of one worker. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Rc<Pool>);

#[derive(Debug, Default)]
struct Pool {
    plain: RefCell<Vec<Vec<u8>>>,
    outgoing: RefCell<Vec<Outgoing>>,
}

impl Buffers {
    /// Lends a buffer of at least [`READ_BYTES`], with arbitrary content.
    #[must_use]
    pub fn lend(&self) -> BorrowedBuffer {
        BorrowedBuffer { bytes: self.take(), home: self.clone() }
    }

    /// Takes such a buffer out of the pool, until [`Buffers::put_back`].
    #[must_use]
    pub fn take(&self) -> Vec<u8> {
        self.0.plain.borrow_mut().pop().unwrap_or_else(|| vec![0; READ_BYTES])
    }

    /// Puts a buffer back. One that is too small to be lent is not of this pool, and dropped.
    pub fn put_back(&self, bytes: Vec<u8>) {
        let mut pooled = self.0.plain.borrow_mut();
        if bytes.len() >= READ_BYTES && pooled.len() < POOLED_MAX {
            pooled.push(bytes);
        }
    }

    /// Takes memory for ciphertext.
    pub(crate) fn take_outgoing(&self) -> Outgoing {
        self.0.outgoing.borrow_mut().pop().unwrap_or_default()
    }

    /// Puts it back.
    pub(crate) fn put_back_outgoing(&self, outgoing: Outgoing) {
        let mut pooled = self.0.outgoing.borrow_mut();
        if pooled.len() < POOLED_MAX {
            pooled.push(outgoing);
        }
    }
}

/// A buffer that is borrowed from the pool; dropping it puts it back.
#[derive(Debug)]
pub struct BorrowedBuffer {
    bytes: Vec<u8>,
    home: Buffers,
}

impl Deref for BorrowedBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for BorrowedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for BorrowedBuffer {
    fn drop(&mut self) {
        self.home.put_back(mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_borrowed_buffer_comes_back_and_the_pool_is_limited() {
        let buffers = Buffers::default();
        let mut first = buffers.lend();
        first[0] = 7;
        drop(first);
        assert_eq!(buffers.lend()[0], 7, "the same buffer again");
        let many: Vec<_> = (0..20).map(|_| buffers.lend()).collect();
        drop(many);
        assert_eq!(buffers.0.plain.borrow().len(), POOLED_MAX);
        let mut own = buffers.take();
        assert_eq!(buffers.0.plain.borrow().len(), POOLED_MAX - 1);
        own.truncate(100);
        buffers.put_back(own);
        assert_eq!(buffers.0.plain.borrow().len(), POOLED_MAX - 1, "too small to be lent");
    }
}
