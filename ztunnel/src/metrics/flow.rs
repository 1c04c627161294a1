//! Byte counting of a worker's open connections, by their tallies: a scrape folds the bytes since the last one into their series,
//! a page of connections at a time, and the end of a connection the rest.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
};

use underpass_core::connection::Direction;
use underpass_net::tunnel::Tally;
use underpass_telemetry::metrics::Lines;

use super::{OPEN, response::Flag, traffic::Series};
use crate::open_connections::carried;

/// One open connection.
#[derive(Debug)]
struct Flow {
    series: Arc<Series>,
    tally: Arc<Tally>,
    direction: Direction,
    /// Received and sent, as far as they are in the series.
    counted: (u64, u64),
}

impl Flow {
    fn fold(&mut self) {
        let (received, sent) = carried(self.direction, &self.tally);
        let (before_received, before_sent) = std::mem::replace(&mut self.counted, (received, sent));
        self.series.add_bytes(received.wrapping_sub(before_received), sent.wrapping_sub(before_sent));
    }
}

/// Connections that are folded in one page.
const PAGE: usize = 1024;

/// The number of open connections, by direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OpenCount {
    outbound: i64,
    inbound: i64,
}

impl OpenCount {
    pub(crate) const fn add(&mut self, other: Self) {
        self.outbound += other.outbound;
        self.inbound += other.inbound;
    }

    pub(super) fn show(self, lines: &mut Lines) {
        lines.family(&OPEN);
        lines.sample(&OPEN, &[Direction::Outbound.as_str()], self.outbound);
        lines.sample(&OPEN, &[Direction::Inbound.as_str()], self.inbound);
    }
}

/// The result of folding a page of connections into their series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Folded {
    /// Their number.
    pub(crate) open: OpenCount,
    /// The number of the last of them; none: there were no more.
    pub(crate) last: Option<u64>,
    /// The highest number of all that are open.
    pub(crate) newest: u64,
}

/// The open connections of one worker, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Flows(BTreeMap<u64, Flow>);

impl Flows {
    pub(super) fn begin(&mut self, id: u64, direction: Direction, tally: Arc<Tally>, series: Arc<Series>) {
        self.0.insert(id, Flow { series, tally, direction, counted: (0, 0) });
    }

    /// Ends a connection. False where there is no such one.
    pub(super) fn end(&mut self, id: u64, flag: Flag) -> bool {
        let Some(mut flow) = self.0.remove(&id) else { return false };
        flow.fold();
        flow.series.close(flag);
        true
    }

    /// Folds the next page of connections after this number.
    pub(super) fn fold(&mut self, after: u64) -> Folded {
        let newest = self.0.last_key_value().map_or(0, |(id, _)| *id);
        let mut folded = Folded { newest, ..Folded::default() };
        for (id, flow) in self.0.range_mut((Excluded(after), Unbounded)).take(PAGE) {
            flow.fold();
            match flow.direction {
                Direction::Outbound => folded.open.outbound += 1,
                Direction::Inbound => folded.open.inbound += 1,
            }
            folded.last = Some(*id);
        }
        folded
    }
}
