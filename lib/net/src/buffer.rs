//! Buffers of a worker, lent while bytes move. An idle connection or tunnel holds none of them: ten thousand idle
//! connections cost their sockets and little more.
//!
//! A worker is one thread, so lending is a pop and giving back a push.

use std::{cell::RefCell, ops::{Deref, DerefMut}, rc::Rc};

/// Large enough for many TLS records of one read; what is measured says that more gains nothing.
pub const READ_BYTES: usize = 256 << 10;
/// Buffers that are kept for the next turn; more are given back to the allocator.
const KEPT: usize = 4;

/// The buffers of one worker.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Rc<RefCell<Vec<Vec<u8>>>>);

impl Buffers {
    /// Lends a buffer of [`READ_BYTES`]. What is in it means nothing.
    #[must_use]
    pub fn lend(&self) -> Lent {
        let bytes = self.0.borrow_mut().pop().unwrap_or_else(|| vec![0; READ_BYTES]);
        Lent { bytes, home: Rc::clone(&self.0) }
    }
}

/// A lent buffer; dropping it gives it back.
#[derive(Debug)]
pub struct Lent {
    bytes: Vec<u8>,
    home: Rc<RefCell<Vec<Vec<u8>>>>,
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
        let mut home = self.home.borrow_mut();
        if home.len() < KEPT {
            home.push(std::mem::take(&mut self.bytes));
        }
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
        assert_eq!(buffers.0.borrow().len(), KEPT);
    }
}
