//! Other owners' connect programs: those that run after ours and may change what was decided.

use std::fs::File;
use std::os::fd::AsFd as _;

use aya::programs::loaded_programs;
use aya_obj::generated::bpf_attach_type;

use crate::Settings;
use crate::error::{Error, Result};
use crate::pin::Pins;
use crate::programs::{CONNECT4, CONNECT6};
use crate::{link, sys};

/// A connect program of another owner that runs after ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The kernel's id of it.
    pub id: u32,
    /// Its name; empty where it has none.
    pub name: String,
    /// `connect4` or `connect6`.
    pub hook: &'static str,
}

/// The foreign programs that run after our connect programs, in our cgroup or above it. A rewrite by one of them is refused
/// just before the SYN where it leads into the mesh.
///
/// # Errors
/// The cgroup cannot be read.
pub fn foreign_connect_programs(settings: &Settings) -> Result<Vec<Foreign>> {
    let pins = Pins::new(settings);
    let root = &settings.cgroup_root;
    let cgroup = File::open(root).map_err(Error::system("open", root.display()))?;
    let mut foreign = Vec::new();
    for (hook, attach_type) in
        [(CONNECT4, bpf_attach_type::BPF_CGROUP_INET4_CONNECT), (CONNECT6, bpf_attach_type::BPF_CGROUP_INET6_CONNECT)]
    {
        let ours = link::program_id(&pins.link(hook))?;
        let ids =
            sys::effective_programs(cgroup.as_fd(), attach_type).map_err(Error::system("query", root.display()))?;
        let after = after_ours(&ids, ours);
        foreign.extend(after.iter().map(|&id| Foreign { id, name: program_name(id), hook }));
    }
    Ok(foreign)
}

/// Where ours does not run, every program counts as running after it.
fn after_ours(ids: &[u32], ours: Option<u32>) -> &[u32] {
    match ids.iter().position(|id| Some(*id) == ours) {
        Some(place) => ids.get(place + 1..).unwrap_or_default(),
        None => ids,
    }
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
    fn programs_after_ours_are_foreign() {
        let check = |ids: &[u32], ours, expected: &[u32]| assert_eq!(after_ours(ids, ours), expected);
        check(&[1, 2, 3], Some(2), &[3]);
        check(&[1, 2], Some(2), &[]);
        check(&[1, 2], None, &[1, 2]);
        check(&[1, 2], Some(9), &[1, 2]);
        check(&[], Some(1), &[]);
    }
}
