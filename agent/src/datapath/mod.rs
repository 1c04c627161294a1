//! What carries out decisions: the kernel, or the same decisions over hash maps in memory. Above it no code knows which.
//!
//! What must hold: every operation can be given again after a failure.

mod kernel;
mod memory;

use std::os::fd::BorrowedFd;

use underpass_abi::{Cookie, Full, ListenerKey, Map, Op, VERSION};

pub use memory::InMemory;
pub use underpass_loader::Kernel;

/// Why a data path could not do as told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A table has no room.
    #[error(transparent)]
    Full(#[from] Full),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(underpass_loader::Error),
}

impl From<underpass_loader::Error> for Error {
    fn from(error: underpass_loader::Error) -> Self {
        match error {
            underpass_loader::Error::Full(full) => Self::Full(full),
            other => Self::Kernel(other),
        }
    }
}

/// The result of everything a data path does.
pub type Result<T> = std::result::Result<T, Error>;

/// The tables, the pods' steering programs and the listeners of one node.
pub trait DataPath: Send {
    /// Changes the tables, in the given order; stops at the first failure.
    fn apply(&mut self, ops: &[Op]) -> Result<()>;

    /// How many entries fit into a table.
    fn capacity(&self, map: Map) -> u32 {
        map.limit()
    }

    /// What stands in the tables, as the operations that would make it.
    fn contents(&self) -> Result<Vec<Op>>;

    /// From now on what arrives in this namespace is steered.
    fn attach_pod(&mut self, pod: Cookie, netns: BorrowedFd<'_>) -> Result<()>;

    /// It is steered no longer.
    fn detach_pod(&mut self, pod: Cookie) -> Result<()>;

    /// The pods whose namespaces are steered.
    fn pods(&self) -> Result<Vec<Cookie>>;

    /// Hands a listener to those who steer to it.
    fn insert_listener(&mut self, key: ListenerKey, listener: BorrowedFd<'_>) -> Result<()>;

    /// Takes it back.
    fn remove_listener(&mut self, key: &ListenerKey) -> Result<()>;

    /// Forgets everything of a sandbox that is gone.
    fn purge(&mut self, pod: Cookie) -> Result<()>;

    /// This process alone is the agent: its version of the tables counts.
    fn commit(&mut self) -> Result<()> {
        Ok(())
    }

    /// A successor has not come to its end: this process decides again, by what stands in the tables of both.
    fn restore(&mut self) -> Result<()> {
        Ok(())
    }

    /// Writes everything in the tables of this version, for a successor.
    ///
    /// # Errors
    /// Where it knows this version alone, as in memory.
    fn write_tables(&mut self, version: u32) -> Result<()> {
        let error = underpass_loader::Error::UnknownVersion { version };
        if version == VERSION { Ok(()) } else { Err(error.into()) }
    }
}
