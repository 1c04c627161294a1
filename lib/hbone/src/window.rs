//! Flow control windows (RFC 9113 section 5.2, 6.9), one type for each direction.
//!
//! Its own module because the sums must always be right: every byte of a receive window is in exactly one of three
//! states, and no input of a peer can make the arithmetic overflow.
//!
//! ```text
//!   size  =  available (the peer may send it)  +  outstanding (delivered, not consumed)  +  unreturned (consumed)
//! ```

use crate::error::Violation;
use crate::frame::MAX_31_BITS;

/// The window for sending. Negative after the peer has lowered its initial window (RFC 9113 6.9.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SendWindow(i64);

impl SendWindow {
    pub(crate) fn new(size: u32) -> Self {
        Self(i64::from(size))
    }

    /// Bytes that may be sent now.
    pub(crate) fn available(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// Bytes were sent.
    pub(crate) fn take(&mut self, bytes: usize) {
        self.0 = self.0.saturating_sub_unsigned(bytes as u64);
    }

    /// Bytes that were counted as sent never left.
    pub(crate) fn give_back(&mut self, bytes: usize) {
        self.0 = self.0.saturating_add_unsigned(bytes as u64);
    }

    /// The peer changes the window, by credit or by its settings.
    pub(crate) fn shift(&mut self, by: i64) -> Result<(), Violation> {
        let sum = self.0.saturating_add(by);
        if sum > i64::from(MAX_31_BITS) {
            return Err(Violation::WindowOverflow);
        }
        self.0 = sum;
        Ok(())
    }
}

/// The window for receiving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecvWindow {
    size: u32,
    /// Negative after our own settings lowered the initial window.
    available: i64,
    unreturned: u32,
    /// Bytes consumed since the window last changed its size.
    consumed_at_size: u32,
}

impl RecvWindow {
    pub(crate) fn new(size: u32) -> Self {
        Self { size, available: i64::from(size), unreturned: 0, consumed_at_size: 0 }
    }

    /// The peer has sent a frame of `bytes`.
    pub(crate) fn receive(&mut self, bytes: u32) -> Result<(), Violation> {
        let left = self.available.saturating_sub(i64::from(bytes));
        if left < 0 {
            return Err(Violation::WindowExceeded);
        }
        self.available = left;
        Ok(())
    }

    /// Bytes delivered and not consumed.
    pub(crate) fn outstanding(&self) -> u32 {
        let others = self.available.saturating_add(i64::from(self.unreturned));
        u32::try_from(i64::from(self.size).saturating_sub(others)).unwrap_or(0)
    }

    /// Bytes were consumed; more than are outstanding count as those. Answers the credit to send to the peer, once a
    /// quarter of the window is due: earlier costs a frame per read, later stalls a sender that is far away. `early`:
    /// any amount.
    ///
    /// A reader keeps up if it has consumed a whole window and has next to nothing left of what was delivered. Then,
    /// where `growth` allows, the window doubles, up to `most`: the sender's distance may be what holds it back.
    pub(crate) fn consume(&mut self, bytes: usize, early: bool, growth: bool, most: u32) -> Option<u32> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.outstanding());
        self.unreturned = self.unreturned.saturating_add(bytes);
        self.consumed_at_size = self.consumed_at_size.saturating_add(bytes);
        let due = if early { 1 } else { (self.size / 4).max(1) };
        if bytes == 0 || self.unreturned < due {
            return None;
        }
        let mut credit = self.unreturned;
        let keeps_up = self.consumed_at_size >= self.size && self.outstanding() <= self.size / 4;
        if growth && keeps_up && self.size < most {
            let size = self.size.saturating_mul(2).min(most);
            credit = credit.saturating_add(size.saturating_sub(self.size));
            self.size = size;
            self.consumed_at_size = 0;
        }
        self.unreturned = 0;
        self.available = self.available.saturating_add(i64::from(credit));
        Some(credit)
    }

    /// Enlarges the window to `size`. Answers the credit to send, if that is larger than it was.
    pub(crate) fn grow(&mut self, size: u32) -> Option<u32> {
        let more = size.min(MAX_31_BITS).checked_sub(self.size).filter(|&more| more > 0)?;
        let credit = more.saturating_add(self.unreturned);
        self.size = self.size.saturating_add(more);
        self.unreturned = 0;
        self.consumed_at_size = 0;
        self.available = self.available.saturating_add(i64::from(credit));
        Some(credit)
    }

    /// Our own settings, now acknowledged, made the window smaller by `by`, without a frame.
    pub(crate) fn shrink(&mut self, by: u32) {
        self.size = self.size.saturating_sub(by);
        self.available = self.available.saturating_sub(i64::from(by));
    }

    /// The whole window in bytes.
    pub(crate) fn size(&self) -> u32 {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_send_window_goes_negative_and_comes_back() {
        let mut window = SendWindow::new(65_535);
        window.take(60_000);
        window.shift(16_384 - 65_535).unwrap();
        assert_eq!(window.available(), 0);
        window.shift(60_000).unwrap();
        assert_eq!(window.available(), 16_384);
        assert_eq!(window.shift(i64::from(MAX_31_BITS) - 16_383), Err(Violation::WindowOverflow));
        window.shift(i64::from(MAX_31_BITS) - 16_384).unwrap();
        assert_eq!(window.available(), MAX_31_BITS as usize);
    }

    #[test]
    fn a_stalled_reader_keeps_its_window_and_a_quick_one_grows() {
        let (mut slow, mut quick) = (RecvWindow::new(1000), RecvWindow::new(1000));
        for _ in 0..40 {
            // The slow one always has half a window waiting.
            slow.receive(250).unwrap();
            if slow.outstanding() > 500 {
                slow.consume(250, false, true, 4000);
            }
            quick.receive(250).unwrap();
            quick.consume(250, false, true, 4000);
        }
        assert_eq!(slow.size(), 1000);
        assert_eq!(quick.size(), 4000);
        let mut held = RecvWindow::new(1000);
        for _ in 0..40 {
            held.receive(250).unwrap();
            held.consume(250, false, false, 4000);
        }
        assert_eq!(held.size(), 1000);
    }

    proptest! {
        /// With any receipt, consumption and growth the bytes that the peer may have in flight never exceed the window,
        /// and all credit that is due is returned.
        #[test]
        fn the_three_states_add_up(size in 1_u32..5000, ops in prop::collection::vec((0_u8..4, 0_u32..6000), 0..200)) {
            let mut window = RecvWindow::new(size);
            let (mut peer_may, mut outstanding) = (i64::from(size), 0_i64);
            for (op, n) in ops {
                match op {
                    0 | 1 => {
                        let fits = i64::from(n) <= peer_may;
                        prop_assert_eq!(window.receive(n).is_ok(), fits);
                        if fits {
                            peer_may -= i64::from(n);
                            outstanding += i64::from(n);
                        }
                    }
                    2 => {
                        outstanding -= i64::from(n).min(outstanding);
                        peer_may += i64::from(window.consume(n as usize, n % 3 == 0, n % 2 == 0, 8000).unwrap_or(0));
                    }
                    _ => peer_may += i64::from(window.grow(n).unwrap_or(0)),
                }
                prop_assert_eq!(i64::from(window.outstanding()), outstanding);
                prop_assert!(peer_may + outstanding <= i64::from(window.size()));
                prop_assert!(peer_may + outstanding > i64::from(window.size()) - i64::from(window.size() / 4).max(1));
            }
        }
    }
}
