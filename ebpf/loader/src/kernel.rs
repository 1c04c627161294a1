//! The node's kernel data path: its tables, listeners and pods; opened, changed, taken away. Its beginning, and the take-over from
//! another version, are in [`crate::version`].

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;

use aya_obj::generated::bpf_attach_type;
use underpass_abi::{Cookie, Counter, ListenerKey, Map, Op, VERSION};

use crate::Settings;
use crate::error::{Error, Result};
use crate::kernel_log::KernelLog;
use crate::link::{self, Target};
use crate::listeners::Listeners;
use crate::pin::Pins;
use crate::programs::{self, Programs};
use crate::reports::Counts;
use crate::tables::{Attested, Tables, open_version};

/// The kernel data path of one node.
pub struct Kernel {
    pub(crate) pins: Pins,
    /// The loaded programs; none where it was opened to read and to take away.
    pub(crate) programs: Option<Programs>,
    pub(crate) log: Option<KernelLog>,
    pub(crate) tables: Box<dyn Tables>,
    /// The tables of the version before, until this one is committed.
    pub(crate) earlier: Option<Box<dyn Tables>>,
    attested: Attested,
    listeners: Listeners,
    counts: Counts,
}

impl Kernel {
    /// The log of the programs, once; none where they are the silent ones. It must be read: records that find the ring full
    /// are lost.
    pub fn log(&mut self) -> Option<KernelLog> {
        self.log.take()
    }

    /// Opens the pins of this version or an earlier one, to read and to take away: programs are not loaded, pods cannot be
    /// attached.
    ///
    /// # Errors
    /// Where nothing is pinned; [`Error::UnknownVersion`].
    pub fn open(settings: &Settings) -> Result<Self> {
        let pins = Pins::new(settings);
        let version = pins.current()?.unwrap_or(VERSION);
        Self::of_version(pins, version)
    }

    /// The directory on the bpf file system whose lock is the right to change this node's pins, those of any version. It may be
    /// missing.
    #[must_use]
    pub fn lock(settings: &Settings) -> PathBuf {
        Pins::new(settings).lock()
    }

    /// Whether anything is pinned for this node.
    #[must_use]
    pub fn is_pinned(settings: &Settings) -> bool {
        Pins::new(settings).exist()
    }

    /// Whether an agent has come so far that it could enrol pods.
    ///
    /// # Errors
    /// The pins cannot be read.
    pub fn has_tables(settings: &Settings) -> Result<bool> {
        Ok(Pins::new(settings).current()?.is_some())
    }

    /// The pins of a version without take-over, if this node has any.
    ///
    /// # Errors
    /// The pins cannot be listed.
    pub fn too_old(settings: &Settings) -> Result<Option<PathBuf>> {
        Pins::new(settings).before_markers()
    }

    pub(crate) fn of_version(pins: Pins, version: u32) -> Result<Self> {
        Ok(Self {
            programs: None,
            log: None,
            tables: open_version(&pins, version)?,
            earlier: None,
            attested: Attested::open(&pins)?,
            listeners: Listeners::open(&pins, version)?,
            counts: Counts::of_version(&pins, version)?,
            pins,
        })
    }

    /// The capacity of a table, in entries.
    #[must_use]
    pub fn capacity(&self, map: Map) -> u32 {
        match map {
            Map::Mesh => {
                let earlier = self.earlier.iter().map(|tables| tables.mesh_entries());
                earlier.fold(self.tables.mesh_entries(), u32::min)
            }
            other => other.limit(),
        }
    }

    /// Applies operations in the given order. Applying them again changes nothing more.
    ///
    /// # Errors
    /// The first that failed; those before it have been applied. [`Error::Full`] where a table has no room.
    pub fn apply(&mut self, ops: &[Op]) -> Result<()> {
        for op in ops {
            if let Some(earlier) = &mut self.earlier {
                earlier.apply(op)?; // whose programs may be put back
            }
            self.tables.apply(op)?;
        }
        Ok(())
    }

    /// The contents of the tables, as the operations that would make them, by [`Op::rank`].
    ///
    /// # Errors
    /// A table cannot be read.
    pub fn contents(&self) -> Result<Vec<Op>> {
        self.tables.contents()
    }

    /// The pods whose program is attached or was: they are pinned.
    ///
    /// # Errors
    /// The pins cannot be listed.
    pub fn pods(&self) -> Result<Vec<Cookie>> {
        self.pins.pods()
    }

    /// Attaches the pod's program to its network namespace, which `netns` is. One that is attached is replaced.
    ///
    /// # Errors
    /// The program is refused, or the descriptor is no network namespace.
    pub fn attach_pod(&mut self, pod: Cookie, netns: BorrowedFd<'_>) -> Result<()> {
        let program = self.programs.as_ref().ok_or(Error::NotAttached { pod })?.steer(pod)?;
        let target = Target { at: netns, attach_type: bpf_attach_type::BPF_SK_LOOKUP, cgroup_id: None };
        link::ensure(&self.pins.pod(pod), program.as_fd(), &target)
    }

    /// Takes the pod's program away: connections that arrive in its namespace go to the application that listens there.
    ///
    /// # Errors
    /// It cannot be detached, or the pin cannot be removed.
    pub fn detach_pod(&mut self, pod: Cookie) -> Result<()> {
        link::remove(&self.pins.pod(pod))
    }

    /// The tunnel listens: from now on captured connections reach this socket.
    ///
    /// # Errors
    /// The table is full, or the socket does not listen.
    pub fn insert_listener(&mut self, key: ListenerKey, socket: BorrowedFd<'_>) -> Result<()> {
        self.listeners.insert(key, socket)
    }

    /// The tunnel listens no longer.
    ///
    /// # Errors
    /// The table cannot be changed.
    pub fn remove_listener(&mut self, key: &ListenerKey) -> Result<()> {
        self.listeners.remove(key)
    }

    /// The keys of the listeners in the table.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn listeners(&self) -> Result<Vec<ListenerKey>> {
        self.listeners.keys()
    }

    /// Every counter, summed over the CPUs.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn counts(&self) -> Result<Vec<(Counter, u64)>> {
        self.counts.read()
    }

    /// The number of hand-offs that are attested at the moment.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn attested(&self) -> Result<usize> {
        self.attested.len()
    }

    /// Removes the remains of a pod whose network namespace is gone. Not for a living one: its open connections
    /// would continue in the clear.
    ///
    /// # Errors
    /// The first step that failed; what follows is left for another try.
    pub fn purge(&mut self, pod: Cookie) -> Result<()> {
        self.apply(&[Op::RemovePod(pod)])?;
        self.detach_pod(pod)?;
        for key in self.listeners()?.iter().filter(|key| key.pod == pod) {
            self.remove_listener(key)?;
        }
        self.attested.forget(pod)?;
        let ops = self.tables.of_pod(pod)?;
        self.apply(&ops)
    }

    /// Takes everything of this node away. Every pod must have been released or purged.
    ///
    /// # Errors
    /// [`Error::PodsRemain`], or the first step that failed; what follows is left for another try.
    pub fn remove(settings: &Settings) -> Result<()> {
        if Self::has_tables(settings)? {
            let contents = Self::open(settings)?.contents()?;
            let pods = contents.iter().filter(|op| matches!(op, Op::SetPod(..))).count();
            if pods > 0 {
                return Err(Error::PodsRemain { pods });
            }
        }
        let pins = Pins::new(settings);
        programs::detach_all(&pins)?;
        pins.remove_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The agent keeps it in a task that may move between threads.
    #[test]
    fn it_can_be_sent() {
        fn check<T: Send>() {}
        check::<Kernel>();
    }
}
