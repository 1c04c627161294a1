//! Limits on frames that cost this end and carry nothing, against floods (RFC 9113 section 10.5).
//!
//! Its own module so that every flood has one number, in one table. A budget falls with each such frame and is filled
//! up again by the traffic of a living connection (payload, answered streams) and by time, so that a long connection
//! never runs out.

use crate::error::Violation;

/// One kind of frame that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cost {
    /// Each is answered.
    Ping,
    /// Each is answered and may touch every stream.
    Settings,
    /// A stream that was reset by its opener before it was answered: wasted work (CVE-2023-44487).
    Reset,
    /// DATA without payload or end.
    EmptyData,
    /// Unknown types, PRIORITY, 1xx, frames for streams that are gone.
    Nothing,
    /// A stream that this end had to reset.
    StreamError,
}

/// All costs in the order of their declaration, with their full budgets.
const FULL: [(u32, Violation); 6] = [
    (1_000, Violation::PingFlood),
    (100, Violation::SettingsFlood),
    (5_000, Violation::ResetFlood),
    (1_000, Violation::EmptyDataFlood),
    (2_000, Violation::NothingFlood),
    (1_000, Violation::StreamErrorFlood),
];

/// CONTINUATION frames in one block (CVE-2024-27316): the largest allowed list needs a few.
pub(crate) const MOST_CONTINUATIONS: u32 = 64;
/// A field block may be this much larger than the list it holds: padding of the strings, size updates, priority.
pub(crate) const BLOCK_SLACK: usize = 1 << 10;
/// Bytes of answers and credit that may wait for a peer which does not read.
pub(crate) const MOST_UNREAD_CONTROL: usize = 64 << 10;
/// RST_STREAM for streams that were not answered yet, in flight at once: peers count these as an attack, some from 20
/// on.
pub(crate) const MOST_RESETS_IN_FLIGHT: u32 = 10;
/// After so many small DATA frames that were consumed credit is given, however little it is: a sender that waits before
/// it sends many of them sees that they are read.
pub(crate) const CREDITED_SMALL_FRAMES: u32 = 32;
/// Closed streams whose end is remembered, so that frames in flight are not taken for errors.
pub(crate) const REMEMBERED_STREAMS: usize = 1_024;

/// The rest of each budget.
#[derive(Debug)]
pub(crate) struct Budgets {
    spent: [u32; FULL.len()],
}

impl Budgets {
    pub(crate) fn new() -> Self {
        Self { spent: [0; FULL.len()] }
    }

    /// One frame of this cost arrived.
    pub(crate) fn spend(&mut self, cost: Cost) -> Result<(), Violation> {
        let (Some(spent), Some(&(full, violation))) = (self.spent.get_mut(cost as usize), FULL.get(cost as usize))
        else {
            return Ok(());
        };
        *spent = spent.saturating_add(1);
        if *spent > full { Err(violation) } else { Ok(()) }
    }

    /// Payload went either way: PINGs and empty frames beside it are no flood.
    pub(crate) fn payload(&mut self) {
        for cost in [Cost::Ping, Cost::EmptyData, Cost::Nothing] {
            self.refill(cost, u32::MAX);
        }
    }

    /// A stream was answered: the opening of streams is genuine.
    pub(crate) fn answered(&mut self) {
        self.refill(Cost::Reset, 1);
    }

    /// Time has passed: one PING interval.
    pub(crate) fn tick(&mut self) {
        self.spent = [0; FULL.len()];
    }

    fn refill(&mut self, cost: Cost, by: u32) {
        if let Some(spent) = self.spent.get_mut(cost as usize) {
            *spent = spent.saturating_sub(by);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Cost; FULL.len()] =
        [Cost::Ping, Cost::Settings, Cost::Reset, Cost::EmptyData, Cost::Nothing, Cost::StreamError];

    /// The count of frames of a cost that are taken while `relief` comes after every hundredth.
    fn taken(cost: Cost, relief: fn(&mut Budgets)) -> u32 {
        let mut budgets = Budgets::new();
        (1..=20_000)
            .find(|n| {
                if n % 100 == 0 {
                    relief(&mut budgets);
                }
                budgets.spend(cost).is_err()
            })
            .map_or(u32::MAX, |n| n - 1)
    }

    #[test]
    fn each_cost_has_its_number_and_its_relief() {
        for (cost, (full, violation)) in ALL.into_iter().zip(FULL) {
            assert_eq!(taken(cost, |_| {}), full, "{violation}");
            assert_eq!(taken(cost, Budgets::tick), u32::MAX, "time relieves from all");
            let relieved = matches!(cost, Cost::Ping | Cost::EmptyData | Cost::Nothing);
            assert_eq!(taken(cost, Budgets::payload) == u32::MAX, relieved, "{violation}");
            assert_eq!(taken(cost, Budgets::answered) > full, cost == Cost::Reset, "{violation}");
        }
    }
}
