//! One version's tables and programs after another's: an upgrade, and the way back.
//!
//! ```text
//! forward   own tables <- everything in the earlier ones; listeners; links; ...World...; marker
//!           until the marker is set, every operation is applied to both
//! back      the agent that runs (later) writes the tables of the one that asks (earlier); that one sets links and marker
//! undo      own tables <- additional entries of the other ones, where this build knows them; links; marker
//! ```
//! What must hold: at every moment the tables of every program that is attached are complete, so that programs of two versions may
//! run side by side, and a process may end between any two steps. The tables that count are those that the marker names; one
//! rename changes it. An entry too many captures or refuses; an entry too few lets out. So the additional entries of
//! another version's tables are taken in before its programs go, and taken out again by the World.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, BorrowedFd};

use aya::maps::MapInfo;
use underpass_abi::{ListenerKey, Map, Op, Phase, VERSION};

use crate::Settings;
use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::pin::Pins;
use crate::programs::{self, Attached, Programs};
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
        let mut kernel = Self::begin(settings, current, &[])?;
        kernel.commit()?;
        Ok(kernel)
    }

    /// The same as the successor of an agent that runs: `tables` is the version in which it offers everything, and its listeners
    /// take what is captured, whichever version's program steers it. It ends with [`Self::commit`].
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn take_over(settings: &Settings, tables: u32, listeners: &[(ListenerKey, BorrowedFd<'_>)]) -> Result<Self> {
        Self::begin(settings, Some(tables), listeners)
    }

    /// The version of the tables that count, where this build does not know it.
    ///
    /// # Errors
    /// The pins cannot be read.
    pub fn unknown_version(settings: &Settings) -> Result<Option<u32>> {
        Ok(Pins::new(settings).current()?.filter(|version| !is_known(*version)))
    }

    fn begin(settings: &Settings, counts: Option<u32>, listeners: &[(ListenerKey, BorrowedFd<'_>)]) -> Result<Self> {
        let pins = Pins::new(settings);
        if let Some(path) = pins.before_markers()? {
            return Err(Error::TooOld { path });
        }
        let earlier = counts.filter(|version| *version != VERSION);
        let earlier = earlier.map(|version| open_version(&pins, version)).transpose()?;
        if earlier.is_some() {
            pins.remove_tables(VERSION)?; // of an upgrade that was not ended
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
        kernel.install(if counts.is_some() { Attached::Programs } else { Attached::Nothing })?;
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
        self.others()?.into_iter().try_for_each(|version| self.pins.remove_tables(version))
    }

    /// Puts the programs of this process back, where a successor has not come to its end; then nothing is left of its version.
    ///
    /// # Errors
    /// The step that failed; it can be given again.
    pub fn restore(&mut self) -> Result<()> {
        self.add_missing()?;
        self.install(Attached::Programs)?;
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
        self.pins.remove_tables(version)?;
        self.pins.create(version)?;
        tables::create_version(&self.pins, version, self.tables.mesh_entries())?;
        let mut other = open_version(&self.pins, version)?;
        self.tables.contents()?.iter().try_for_each(|op| other.apply(op))
    }

    /// Every pod's program, and then the node's, are those of this process. The pin of a pod goes where its namespace is gone.
    fn install(&mut self, there: Attached) -> Result<()> {
        let Some(programs) = &self.programs else { return Ok(()) };
        for pod in self.pins.pods()? {
            let path = self.pins.pod(pod);
            if !link::update(&path, programs.steer(pod)?.as_fd())? {
                link::remove(&path)?;
            }
        }
        programs.attach(&self.pins, there)
    }

    /// Adds what the tables of other versions have and these have not.
    fn add_missing(&mut self) -> Result<()> {
        for version in self.others()?.into_iter().filter(|version| is_known(*version)) {
            // One that was being made or removed was not in use.
            if Map::ALL.into_iter().any(|map| map.is_filled() && !self.pins.map(version, map).exists()) {
                continue;
            }
            let theirs = open_version(&self.pins, version)?.contents()?;
            missing(&self.tables.contents()?, &theirs).iter().try_for_each(|op| self.tables.apply(op))?;
        }
        Ok(())
    }

    /// The other versions of which there are tables.
    fn others(&self) -> Result<Vec<u32>> {
        Ok(self.pins.versions()?.into_iter().filter(|version| *version != VERSION).collect())
    }
}

/// The entries of `theirs` that `ours` lack. A pod that one of them captures is captured.
fn missing(ours: &[Op], theirs: &[Op]) -> Vec<Op> {
    let same: HashSet<&Op> = ours.iter().collect();
    let present: HashSet<Op> = ours.iter().map(Op::removal).collect();
    let captures = |op: &Op| matches!(op, Op::SetPod(_, pod) if pod.phase == Phase::ENROLLED);
    let is_missing = |op: &&Op| !same.contains(op) && (!present.contains(&op.removal()) || captures(op));
    theirs.iter().filter(is_missing).copied().collect()
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
    use underpass_abi::{Address, CgroupId, Cookie, Destination, Pod};

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
