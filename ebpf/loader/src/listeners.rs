//! The tunnel's listening sockets, to which the kernel hands what it captures.
//!
//! What must hold: one socket per pod and direction; the kernel takes a socket out by itself when its last descriptor is
//! closed, and from then on refuses or holds back what would go there.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya::maps::{MapData, SockHash};
use underpass_abi::{ListenerKey, Map};

use crate::error::{Error, Result};
use crate::pin::Pins;
use crate::tables::{KernelLayout, absent_is_removed, failed, open};

/// The table of listening sockets.
pub(crate) struct Listeners(SockHash<MapData, KernelLayout<ListenerKey>>);

impl Listeners {
    /// The table of one version.
    pub(crate) fn open(pins: &Pins, version: u32) -> Result<Self> {
        open(&pins.map(version, Map::Listeners), Map::Listeners).map(Self)
    }

    /// Replaces the one that was there.
    pub(crate) fn insert(&mut self, key: ListenerKey, socket: BorrowedFd<'_>) -> Result<()> {
        self.0
            .insert(KernelLayout(key), socket.as_raw_fd(), 0)
            .map_err(|source| failed("write", Map::Listeners, source))
    }

    pub(crate) fn remove(&mut self, key: &ListenerKey) -> Result<()> {
        absent_is_removed(self.0.remove(&KernelLayout(*key)), Map::Listeners)
    }

    pub(crate) fn keys(&self) -> Result<Vec<ListenerKey>> {
        self.0.keys().map(|key| key.map(|key| key.0).map_err(Error::map("read", Map::Listeners.name()))).collect()
    }
}
