//! Other owners' programs at the hooks of ours: those that forbid a second one, and connect programs beside ours, which may change
//! what was decided. Read from the kernel; nothing is loaded or attached.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use aya::programs::loaded_programs;
use aya_obj::generated::bpf_attach_type;

use crate::Settings;
use crate::error::{Error, Result};
use crate::pin::Pins;
use crate::programs::{CONNECT4, CONNECT6, hooks};
use crate::{link, sys};

/// `BPF_F_ALLOW_OVERRIDE` (linux/bpf.h): a cgroup below may have another program in its place.
const ALLOW_OVERRIDE: u32 = 1;
/// `BPF_F_ALLOW_MULTI` (linux/bpf.h): others may be attached beside it. So is ours.
const ALLOW_MULTI: u32 = 2;

/// A program of another owner at a hook of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The kernel's id of it.
    pub id: u32,
    /// Its name; empty where it has none.
    pub name: String,
    /// The name of our program at the hook, such as `connect4`.
    pub hook: &'static str,
    /// What it means for ours.
    pub effect: Effect,
}

/// What a program of another owner means for ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is attached to this cgroup so that the kernel attaches no second one beside or below it.
    Excludes(PathBuf),
    /// A connect program that runs before ours: what it makes of a destination is what ours decides about.
    RunsBefore,
    /// A connect program that runs after ours. A rewrite by it is refused just before the SYN where it leads into the mesh.
    RunsAfter,
}

/// The programs of other owners that matter at the hooks of ours, in our cgroup and above it. Where ours are not attached yet, those
/// that are there will run before them.
///
/// # Errors
/// The cgroup cannot be read.
pub fn foreign_programs(settings: &Settings) -> Result<Vec<Foreign>> {
    let pins = Pins::new(settings);
    let mut foreign = Vec::new();
    for (hook, attach_type) in hooks() {
        let ours = link::program_id(&pins.link(hook))?;
        foreign.extend(exclusive(&settings.cgroup_root, hook, attach_type)?);
        if ![CONNECT4, CONNECT6].contains(&hook) {
            continue;
        }
        let root = &settings.cgroup_root;
        let ids = sys::effective_programs(open(root)?.as_fd(), attach_type);
        let ids = ids.map_err(Error::system("query", root.display()))?;
        foreign.extend(beside(&ids, ours).map(|(id, effect)| Foreign { id, name: program_name(id), hook, effect }));
    }
    Ok(foreign)
}

/// The program that keeps ours from being attached to this cgroup.
fn exclusive(root: &Path, hook: &'static str, attach_type: bpf_attach_type) -> Result<Option<Foreign>> {
    let (mut levels, mut cgroups) = (Vec::new(), Vec::new());
    for cgroup in root.ancestors().take_while(|path| sys::is_cgroup2(path)) {
        let attached = sys::attached_programs(open(cgroup)?.as_fd(), attach_type);
        levels.push(attached.map_err(Error::system("query", cgroup.display()))?);
        cgroups.push(cgroup);
    }
    let Some(level) = excluding(&levels) else { return Ok(None) };
    let (Some((ids, _)), Some(cgroup)) = (levels.get(level), cgroups.get(level)) else { return Ok(None) };
    let id = ids.first().copied().unwrap_or_default();
    let effect = Effect::Excludes(cgroup.to_path_buf());
    Ok(Some(Foreign { id, name: program_name(id), hook, effect }))
}

/// The level whose program excludes ours, of a cgroup and those above it: the programs of each, and their flags. As the kernel decides
/// (`hierarchy_allows_attach` and `__cgroup_bpf_attach` of kernel/bpf/cgroup.c).
fn excluding(levels: &[(Vec<u32>, u32)]) -> Option<usize> {
    let (own, above) = levels.split_first()?;
    if !own.0.is_empty() && own.1 & ALLOW_MULTI == 0 {
        return Some(0);
    }
    for (level, (ids, flags)) in (1..).zip(above) {
        if flags & ALLOW_MULTI != 0 {
            return None;
        }
        if !ids.is_empty() {
            return (flags & ALLOW_OVERRIDE == 0).then_some(level);
        }
    }
    None
}

/// The others, in the order in which all of them run.
fn beside(ids: &[u32], ours: Option<u32>) -> impl Iterator<Item = (u32, Effect)> {
    let place = ids.iter().position(|id| Some(*id) == ours).unwrap_or(ids.len());
    let effect = move |at| if at < place { Effect::RunsBefore } else { Effect::RunsAfter };
    ids.iter().enumerate().filter(move |(at, _)| *at != place).map(move |(at, id)| (*id, effect(at)))
}

fn open(cgroup: &Path) -> Result<File> {
    File::open(cgroup).map_err(Error::system("open", cgroup.display()))
}

fn program_name(id: u32) -> String {
    loaded_programs()
        .flatten()
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_run_before_ours_or_after() {
        use Effect::{RunsAfter, RunsBefore};
        let check = |ids: &[u32], ours, expected: &[(u32, Effect)]| {
            assert_eq!(beside(ids, ours).collect::<Vec<_>>(), expected, "{ids:?} {ours:?}");
        };
        check(&[1, 2, 3], Some(2), &[(1, RunsBefore), (3, RunsAfter)]);
        check(&[2], Some(2), &[]);
        check(&[1, 2], None, &[(1, RunsBefore), (2, RunsBefore)]);
        check(&[1], Some(9), &[(1, RunsBefore)]);
        check(&[], Some(1), &[]);
    }

    #[test]
    fn a_program_that_allows_no_other_excludes() {
        let check = |levels: &[(&[u32], u32)], expected| {
            let levels: Vec<_> = levels.iter().map(|(ids, flags)| (ids.to_vec(), *flags)).collect();
            assert_eq!(excluding(&levels), expected, "{levels:?}");
        };
        check(&[], None);
        check(&[(&[], 0), (&[], 0)], None);
        check(&[(&[1], 0)], Some(0));
        check(&[(&[1], ALLOW_OVERRIDE)], Some(0)); // beside it, neither
        check(&[(&[1, 2], ALLOW_MULTI), (&[], 0)], None);
        check(&[(&[], 0), (&[1], 0)], Some(1));
        check(&[(&[], 0), (&[1], ALLOW_OVERRIDE)], None);
        check(&[(&[], 0), (&[], 0), (&[1], 0)], Some(2));
        check(&[(&[], 0), (&[1], ALLOW_MULTI), (&[2], 0)], None); // the kernel looks no further
    }
}
