//! Loads, attaches, pins and fills the kernel data path: the only user of aya and of bpf(2).
//!
//! It is a crate of its own so that everything above it deals in pods, tables and counters, never in descriptors, pins and
//! verifiers. Pods and destinations come to it as [`underpass_abi::Op`]s.
//!
//! What must hold: a program is attached only when all have been loaded; `connect` is attached last and taken away first;
//! `guard` is taken away last; everything is pinned, so that no way out opens when this process ends; the tables of one
//! version count, and another takes its place in one step.

mod error;
mod foreign;
mod kernel;
mod kernel_log;
mod link;
mod listeners;
mod object;
mod pin;
mod probe;
mod programs;
mod reports;
mod sys;
mod tables;
mod version;

use std::path::PathBuf;

pub use error::{Error, Result};
pub use foreign::{Effect, Foreign, foreign_programs};
pub use kernel::Kernel;
pub use kernel_log::{Decision, KernelLog, LogRecord, Unreadable};
pub use object::object;
pub use probe::{Missing, Need, probe};
pub use reports::Counts;
pub use tables::is_known;
use underpass_abi::{Map, Marks};

/// The place and size of a node's kernel data path.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A mounted bpf filesystem, usually `/sys/fs/bpf`.
    pub bpffs: PathBuf,
    /// Keeps apart the nodes that share one machine: the node's name.
    pub instance: String,
    /// The cgroup2 directory whose processes are covered: the root, or a node's subtree.
    pub cgroup_root: PathBuf,
    /// The bits of the firewall mark.
    pub marks: Marks,
    /// Entries of the table of the mesh: [`underpass_abi::limits::MESH`], and fewer in a test. A pinned one must have as many.
    pub mesh_entries: u32,
    /// Load the programs that log their decisions: [`Kernel::log`].
    pub log: bool,
}

impl Settings {
    /// The capacity with which a table is made, in entries.
    pub(crate) const fn capacity(&self, map: Map) -> u32 {
        match map {
            Map::Mesh => self.mesh_entries,
            other => other.limit(),
        }
    }
}
