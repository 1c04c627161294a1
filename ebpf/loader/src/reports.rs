//! What the kernel counted.

use aya::maps::{MapData, PerCpuArray};
use underpass_abi::{Counter, Map};

use crate::error::{Error, Result};
use crate::pin::Pins;
use crate::tables::open;

/// The counters of the kernel programs.
pub(crate) struct Counts(PerCpuArray<MapData, u64>);

impl Counts {
    pub(crate) fn open(pins: &Pins) -> Result<Self> {
        open(pins, Map::Counts).map(Self)
    }

    /// Every counter, summed over the CPUs.
    pub(crate) fn read(&self) -> Result<Vec<(Counter, u64)>> {
        let one = |counter: &Counter| {
            let values = self.0.get(&counter.slot(), 0).map_err(Error::map("read", Map::Counts.name()))?;
            Ok((*counter, values.iter().fold(0_u64, |sum, value| sum.wrapping_add(*value))))
        };
        Counter::ALL.iter().map(one).collect()
    }
}
