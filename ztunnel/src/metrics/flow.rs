//! Open connections, whose bytes are counted by their tallies: a scrape folds what was carried since the last one into
//! their series, and the end what is left.

use std::{collections::HashMap, sync::Arc};

use underpass_core::connection::Direction;
use underpass_net::tunnel::Tally;
use underpass_telemetry::metrics::Samples;

use super::{OPEN, response::Flag, traffic::Series};
use crate::open::carried;

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

/// How many connections are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Open {
    outbound: i64,
    inbound: i64,
}

impl Open {
    pub(super) const fn add(&mut self, other: Self) {
        self.outbound += other.outbound;
        self.inbound += other.inbound;
    }

    pub(super) fn show(self, samples: &mut Samples) {
        samples.add(&OPEN, &[Direction::Outbound.as_str()], self.outbound);
        samples.add(&OPEN, &[Direction::Inbound.as_str()], self.inbound);
    }
}

/// The open connections of one worker, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Flows(HashMap<u64, Flow>);

impl Flows {
    pub(super) fn begin(&mut self, id: u64, direction: Direction, tally: Arc<Tally>, series: Arc<Series>) {
        self.0.insert(id, Flow { series, tally, direction, counted: (0, 0) });
    }

    /// False: there is no such connection.
    pub(super) fn end(&mut self, id: u64, flag: Flag) -> bool {
        let Some(mut flow) = self.0.remove(&id) else { return false };
        flow.fold();
        flow.series.close(flag);
        true
    }

    pub(super) fn fold(&mut self) -> Open {
        let mut open = Open::default();
        for flow in self.0.values_mut() {
            flow.fold();
            match flow.direction {
                Direction::Outbound => open.outbound += 1,
                Direction::Inbound => open.inbound += 1,
            }
        }
        open
    }
}
