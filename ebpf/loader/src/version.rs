//! One version's tables and programs after another's: an upgrade, and the way back.
//!
//! ```text
//! forward   own tables <- everything in the earlier ones; listeners; links; ...World...; marker
//!           until the marker is set, every operation is applied to both
//! back      the agent that runs (later) writes the tables of the one that asks (earlier); that one sets links and marker, and
//!           changes its own tables alone, because it does not know the later ones
//! undo      own tables <- additional entries of the other ones, where this build knows them; links; marker
//! ```
//! What must hold: at every moment the tables of every program that is attached are complete, so that programs of two versions may
//! run side by side, and a process may end between any two steps. The tables that count are those that the marker names; one
//! rename changes it. An entry too many captures or refuses; an entry too few lets out. So the additional entries of
//! another version's tables are taken in before its programs go, and taken out again by the World.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::time::Instant;

use aya::maps::MapInfo;
use underpass_abi::{ANY_OTHER, Destination, ListenerKey, Map, Op, Phase, VERSION};

use crate::Settings;
use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::pin::Pins;
use crate::programs::{self, Order, Programs};
use crate::tables::{is_known, open_version};
use crate::{link, tables};

impl Kernel {
    /// Loads the programs, makes or adopts this version's tables, and attaches: alone, where no agent runs. What an earlier agent
    /// left in the tables stays: it is read with [`Self::contents`] and brought up to date by the caller. What is left of an
    /// upgrade or a way back that was not ended is completed or undone.
    ///
    /// # Errors
    /// Nothing is attached or replaced when a program or map is refused. [`Error::UnknownVersion`] where the tables that count are
    /// of a version that this build does not know.
    pub fn attach(settings: &Settings) -> Result<Self> {
        let current = Pins::new(settings).current()?;
        let mut kernel = Self::begin(settings, current, &[], Deadline(None))?;
        kernel.commit()?;
        Ok(kernel)
    }

    /// Whether an upgrade or a way back was not ended: tables of several versions are there, and links of both may be.
    ///
    /// # Errors
    /// The pins cannot be read.
    pub fn is_unfinished(settings: &Settings) -> Result<bool> {
        Ok(Pins::new(settings).versions()?.len() > 1)
    }

    /// The same as the successor of an agent that runs: `tables` is the version in which it offers everything, and its listeners
    /// take what is captured, whichever version's program steers it. It ends with [`Self::commit`].
    ///
    /// # Errors
    /// As [`Self::attach`]; [`Error::Late`] before the first link that would be changed after `until`: the predecessor may go on
    /// then, and would not look at it again.
    pub fn take_over(
        settings: &Settings,
        tables: u32,
        listeners: &[(ListenerKey, BorrowedFd<'_>)],
        until: Instant,
    ) -> Result<Self> {
        Self::begin(settings, Some(tables), listeners, Deadline(Some(until)))
    }

    /// The version of the tables that count, where this build does not know it.
    ///
    /// # Errors
    /// The pins cannot be read.
    pub fn unknown_version(settings: &Settings) -> Result<Option<u32>> {
        Ok(Pins::new(settings).current()?.filter(|version| !is_known(*version)))
    }

    /// `counts`: the version whose tables count, or are offered; none where no agent has come so far.
    fn begin(
        settings: &Settings,
        counts: Option<u32>,
        listeners: &[(ListenerKey, BorrowedFd<'_>)],
        deadline: Deadline,
    ) -> Result<Self> {
        let pins = Pins::new(settings);
        if let Some(path) = pins.before_markers()? {
            return Err(Error::TooOld { path });
        }
        let earlier = counts.filter(|version| *version != VERSION);
        let earlier = earlier.map(|version| open_version(&pins, version)).transpose()?;
        if earlier.is_some() {
            pins.remove_tables(VERSION)?; // of an upgrade that was not ended
        }
        // Made anew they would be empty, and let every pod out.
        if counts == Some(VERSION)
            && let Some(path) = missing_table(&pins, VERSION)
        {
            return Err(Error::NoTable { path });
        }
        pins.create(VERSION)?;
        check_layouts(settings, &pins)?;
        let (programs, log) = Programs::load(settings, &pins)?;
        let mut kernel = Self::of_version(pins, VERSION)?;
        (kernel.programs, kernel.log, kernel.earlier) = (Some(programs), log, earlier);
        match &kernel.earlier {
            Some(earlier) => earlier.contents()?.iter().try_for_each(|op| kernel.tables.apply(op))?,
            None => kernel.add_missing()?,
        }
        for (key, listener) in listeners {
            kernel.insert_listener(*key, *listener)?;
        }
        kernel.install(if counts.is_some() { Order::Swap } else { Order::First }, deadline)?;
        Ok(kernel)
    }

    /// From here on the tables of this version count, and nothing is left of others.
    ///
    /// # Errors
    /// The step that failed; it can be given again.
    pub fn commit(&mut self) -> Result<()> {
        if self.pins.current()? != Some(VERSION) {
            self.pins.set_current(VERSION)?;
        }
        self.earlier = None;
        programs::detach_unknown(&self.pins)?;
        self.others()?.into_iter().try_for_each(|version| self.pins.remove_tables(version))?;
        self.pins.clear_aside()
    }

    /// Puts the programs of this process back, where a successor has not come to its end; then nothing is left of its version.
    ///
    /// # Errors
    /// The step that failed; it can be given again.
    pub fn restore(&mut self) -> Result<()> {
        self.add_missing()?;
        self.install(Order::Swap, Deadline(None))?;
        self.commit()
    }

    /// Writes the tables of another version, with everything that is in those of this one: for a successor of that version.
    /// Nothing may be changed here until it has taken over, or [`Self::restore`] has undone it.
    ///
    /// # Errors
    /// [`Error::UnknownVersion`], or a table cannot be written.
    pub fn write_tables(&self, version: u32) -> Result<()> {
        if version == VERSION {
            return Ok(());
        }
        if !is_known(version) {
            return Err(Error::UnknownVersion { version });
        }
        // Aside, so that tables that are found are whole.
        let aside = self.pins.aside();
        aside.remove_tables(version)?;
        aside.create_tables(version)?;
        tables::create_version(&aside, version, self.tables.mesh_entries())?;
        let mut other = open_version(&aside, version)?;
        self.tables.contents()?.iter().try_for_each(|op| other.apply(op))?;
        self.pins.remove_tables(version)?;
        self.pins.put_in_place(version)
    }

    /// Every pod's program, and then the node's, are those of this process. The pin of a pod goes where its namespace is gone.
    fn install(&mut self, order: Order, deadline: Deadline) -> Result<()> {
        let Some(programs) = &self.programs else { return Ok(()) };
        for pod in self.pins.pods()? {
            let path = self.pins.pod(pod);
            deadline.check()?;
            if !link::update(&path, programs.steer(pod)?.as_fd())? {
                link::remove(&path)?;
            }
        }
        programs.attach(&self.pins, order, deadline)
    }

    /// Adds what the tables of other versions have and these have not.
    fn add_missing(&mut self) -> Result<()> {
        for version in self.others()?.into_iter().filter(|version| is_known(*version)) {
            // They were being removed: another version counts already.
            if missing_table(&self.pins, version).is_some() {
                continue;
            }
            let theirs = open_version(&self.pins, version)?.contents()?;
            missing(&self.tables.contents()?, &theirs).iter().try_for_each(|op| self.add(op))?;
        }
        Ok(())
    }

    /// Adds an entry, where there is room. Where there is none the whole mesh is captured instead of an address; what is missing of
    /// a pod is the World's to report.
    fn add(&mut self, op: &Op) -> Result<()> {
        match (self.tables.apply(op), op) {
            (Err(Error::Full(_)), Op::SetDestination(..)) => {
                self.tables.apply(&Op::SetDestination(ANY_OTHER, Destination::TUNNEL))
            }
            (Err(Error::Full(_)), _) => Ok(()),
            (applied, _) => applied,
        }
    }

    /// The other versions of which there are tables.
    fn others(&self) -> Result<Vec<u32>> {
        Ok(self.pins.versions()?.into_iter().filter(|version| *version != VERSION).collect())
    }
}

/// The entries of `theirs` that `ours` lack. A pod that one of them captures is captured.
fn missing(ours: &[Op], theirs: &[Op]) -> Vec<Op> {
    let present: HashMap<Op, &Op> = ours.iter().map(|op| (op.removal(), op)).collect();
    let captures = |op: &Op| matches!(op, Op::SetPod(_, pod) if pod.phase == Phase::ENROLLED);
    let is_missing = |op: &&Op| present.get(&op.removal()).is_none_or(|ours| captures(op) && !captures(ours));
    theirs.iter().filter(is_missing).copied().collect()
}

/// The first table that user space fills and that is not pinned.
fn missing_table(pins: &Pins, version: u32) -> Option<PathBuf> {
    let filled = Map::ALL.into_iter().filter(|map| map.is_filled());
    filled.map(|map| pins.map(version, map)).find(|path| !path.exists())
}

/// The end of the time in which links may be changed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// # Errors
    /// [`Error::Late`].
    pub(crate) fn check(self) -> Result<()> {
        if self.0.is_some_and(|until| until <= Instant::now()) { Err(Error::Late) } else { Ok(()) }
    }
}

/// A pinned map is adopted only where it is what the programs expect: aya takes any.
fn check_layouts(settings: &Settings, pins: &Pins) -> Result<()> {
    for map in Map::ALL {
        let path = pins.map(VERSION, map);
        if !path.exists() {
            continue;
        }
        let info = MapInfo::from_pin(&path).map_err(Error::map("open", map.name()))?;
        let found = (info.key_size() as usize, info.value_size() as usize);
        if found != map.sizes() || info.max_entries() != settings.capacity(map) {
            return Err(Error::OtherLayout { path });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use underpass_abi::{Address, CgroupId, Cookie, Pod};

    use super::*;

    #[test]
    fn what_the_others_have_besides_is_missing() {
        let pod = |phase| Pod::new(Address::UNSPECIFIED, Address::from_v4_word(1), phase);
        let (enrolled, releasing) = (pod(Phase::ENROLLED), pod(Phase::RELEASING));
        let address = Address::from_v4_word(9);
        let check = |ours: &[Op], theirs: &[Op], expected: &[Op]| assert_eq!(missing(ours, theirs), expected);
        let both = [Op::SetAgent(CgroupId(1)), Op::SetPod(Cookie(1), enrolled)];
        check(&both, &both, &[]);
        check(&both, &[], &[]);
        check(&[], &both, &both);
        check(&both[..1], &both, &both[1..]);
        // Of two that capture, ours stays.
        let (tunnel, refuse) = (Destination::TUNNEL, Destination::REFUSE);
        check(&[Op::SetDestination(address, tunnel)], &[Op::SetDestination(address, refuse)], &[]);
        let (captured, released) = ([Op::SetPod(Cookie(1), enrolled)], [Op::SetPod(Cookie(1), releasing)]);
        check(&captured, &released, &[]);
        check(&released, &captured, &captured);
    }
}
