//! The data path: the kernel, or the same decisions over hash maps in memory. Above it no code knows which.
//!
//! What must hold: every operation can be given again after a failure.

mod kernel;
mod memory;

use std::os::fd::BorrowedFd;

use underpass_abi::{Cookie, Full, ListenerKey, Map, Op, VERSION};

pub use memory::InMemory;
pub use underpass_loader::Kernel;

/// An operation of the data path that failed.
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

/// The result of an operation of the data path.
pub type Result<T> = std::result::Result<T, Error>;

/// The tables, the pods' steering programs and the listeners of one node.
pub trait DataPath: Send {
    /// Changes the tables, in the given order; stops at the first failure.
    fn apply(&mut self, ops: &[Op]) -> Result<()>;

    /// The capacity of a table, in entries.
    fn capacity(&self, map: Map) -> u32 {
        map.limit()
    }

    /// The contents of the tables, as the operations that would make them.
    fn contents(&self) -> Result<Vec<Op>>;

    /// Steers connections that arrive in this namespace.
    fn attach_pod(&mut self, pod: Cookie, netns: BorrowedFd<'_>) -> Result<()>;

    /// Ends the steering of a pod.
    fn detach_pod(&mut self, pod: Cookie) -> Result<()>;

    /// The pods whose namespaces are steered.
    fn pods(&self) -> Result<Vec<Cookie>>;

    /// Adds a listener, as a target of steering.
    fn insert_listener(&mut self, key: ListenerKey, listener: BorrowedFd<'_>) -> Result<()>;

    /// Removes a listener.
    fn remove_listener(&mut self, key: &ListenerKey) -> Result<()>;

    /// Removes everything of a sandbox that is gone.
    fn purge(&mut self, pod: Cookie) -> Result<()>;

    /// Lets the tables of this process's version count: it alone is the agent.
    fn commit(&mut self) -> Result<()> {
        Ok(())
    }

    /// Restores the programs of this process after a failed successor; they go by the tables of both.
    fn restore(&mut self) -> Result<()> {
        Ok(())
    }

    /// Fills the tables of this version, for a successor.
    ///
    /// # Errors
    /// Where it knows this version alone, as in memory.
    fn write_tables(&mut self, version: u32) -> Result<()> {
        let error = underpass_loader::Error::UnknownVersion { version };
        if version == VERSION { Ok(()) } else { Err(error.into()) }
    }
}
