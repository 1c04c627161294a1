//! A node whose power fails, and that comes back: its processes are gone at once, and with them what the kernel kept for
//! them; its disks are as they were.
//!
//! Of the kernel's state, rules and routes of the node's own network stay: kube-proxy would write the same again.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
};

use super::{
    super::cgroup,
    machine::{self, Machine},
};

/// The cgroups of what runs on a node, below its own.
const RUNNING: [&str; 4] = ["kubelet", "kube-proxy", "containerd", "kubepods"];
/// Where the node's programs mount something: files that are gone with the power, and mounts on its disks.
const MOUNTED: [&str; 3] = ["/run/", "/var/lib/kubelet/", "/var/lib/containerd/"];

impl Machine {
    /// Cuts its power and has it start again. Returns when its container runtime answers and its kubelet runs.
    pub fn reboot(&mut self) -> Result<()> {
        self.end_programs();
        for name in RUNNING {
            cgroup::remove(&self.node.cgroup.join(name))?;
        }
        // Of version 1 too, where a hybrid machine has the controllers: their processes are gone by now.
        for (_, own) in &self.node.hierarchies {
            cgroup::remove_empty(&own.join("kubepods"))?;
        }
        self.service("reboot")?.act(forget, ()).with_context(|| format!("the files of {}", self.name()))?;
        self.start_programs()
    }
}

/// In its namespaces: mounts, what was in memory, and the pins of kernel programs.
fn forget((): ()) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut targets: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    // Those on top of others first.
    targets.reverse();
    for target in targets.into_iter().filter(|target| MOUNTED.iter().any(|below| target.starts_with(below))) {
        match umount2(target, MntFlags::MNT_DETACH) {
            // The node's own /run lies over it.
            Err(Errno::ENOENT | Errno::EINVAL) => {}
            unmounted => unmounted.with_context(|| format!("unmount {target}"))?,
        }
    }
    for entry in fs::read_dir("/run")? {
        let path = entry?.path();
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
            .with_context(|| format!("remove {}", path.display()))?;
    }
    fs::create_dir_all("/run/netns")?;
    machine::mount_bpffs(Path::new("/sys/fs/bpf"))
}
