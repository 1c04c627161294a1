//! The counters of the kernel programs.

use aya::maps::{MapData, PerCpuArray};
use underpass_abi::{Counter, Map, VERSION};

use crate::Settings;
use crate::error::{Error, Result};
use crate::pin::Pins;
use crate::tables::open;

/// The counters of one version's kernel programs.
pub struct Counts(PerCpuArray<MapData, u64>);

impl Counts {
    /// The counters of this version, through a pinned map of their own.
    ///
    /// # Errors
    /// Where nothing is pinned.
    pub fn open(settings: &Settings) -> Result<Self> {
        Self::of_version(&Pins::new(settings), VERSION)
    }

    pub(crate) fn of_version(pins: &Pins, version: u32) -> Result<Self> {
        open(&pins.map(version, Map::Counts), Map::Counts).map(Self)
    }

    /// Every counter, summed over the CPUs.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn read(&self) -> Result<Vec<(Counter, u64)>> {
        let one = |counter: &Counter| {
            let values = self.0.get(&counter.slot(), 0).map_err(Error::map("read", Map::Counts.name()))?;
            Ok((*counter, values.iter().fold(0_u64, |sum, value| sum.wrapping_add(*value))))
        };
        Counter::ALL.iter().map(one).collect()
    }
}
