//! The source ports of the tunnel's connections to the applications of one pod, whose source address is the client's.
//!
//! What must hold: none of them is an ephemeral port.

use std::{
    io::ErrorKind,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{netns::Netns, system::SystemError};

/// Ports below this one are left alone: services listen there.
const FIRST_PORT: u16 = 10_000;

/// A pool of source ports, used in turn. They are outside of the range of ephemeral ports: the client's own kernel then hardly
/// ever has the same one in use, and so the application's half-open connection does not meet packets of the client itself.
#[derive(Debug)]
pub struct PortPool {
    first: u16,
    pub(super) count: u32,
    turn: AtomicU32,
}

impl PortPool {
    /// The pool of one pod, by the settings of its namespace.
    pub fn of(netns: &Netns) -> Result<Self, SystemError> {
        let name = "net.ipv4.ip_local_port_range";
        let text = netns.sysctl(name)?;
        let mut bounds = text.split_ascii_whitespace().map(str::parse);
        match (bounds.next(), bounds.next()) {
            (Some(Ok(low)), Some(Ok(high))) => Ok(Self::outside(low, high)),
            _ => Err(SystemError::Sysctl {
                operation: "parse",
                object: format!("{name} = {text}"),
                source: ErrorKind::InvalidData.into(),
            }),
        }
    }

    /// The pool of the wider range beside the ephemeral ports `low..=high`; everything from 10000 on where they leave none.
    #[must_use]
    pub fn outside(low: u16, high: u16) -> Self {
        let below = u32::from(low.saturating_sub(FIRST_PORT));
        let above = u32::from(u16::MAX - high);
        let (first, count) = match (below, above) {
            (0, 0) => (FIRST_PORT, u32::from(u16::MAX - FIRST_PORT) + 1),
            _ if below >= above => (FIRST_PORT, below),
            _ => (high + 1, above),
        };
        Self { first, count, turn: AtomicU32::new(0) }
    }

    /// The next port.
    #[must_use]
    pub fn take(&self) -> u16 {
        let offset = self.turn.fetch_add(1, Ordering::Relaxed) % self.count;
        self.first.saturating_add(u16::try_from(offset).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_beside_the_ephemeral_ones() {
        let check = |low, high, first, last| {
            let pool = PortPool::outside(low, high);
            let taken: Vec<_> = (0..pool.count).map(|_| pool.take()).collect();
            assert_eq!((taken.iter().min(), taken.iter().max()), (Some(&first), Some(&last)), "{low}-{high}");
            assert_eq!(pool.take(), first, "{low}-{high}: round again");
        };
        check(32_768, 60_999, 10_000, 32_767);
        check(10_000, 50_000, 50_001, 65_535);
        check(1024, 65_535, 10_000, 65_535);
        check(1024, 65_534, 65_535, 65_535);
        let own = PortPool::of(&Netns::own().expect("own namespace")).expect("sysctl");
        assert!(own.take() >= FIRST_PORT);
    }
}
