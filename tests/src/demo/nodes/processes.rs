//! Processes of the pods as the machine knows them: the pid that its `ps` shows, and when they started. In a file of
//! its own because the demo runs in a PID namespace, which knows only its own pids.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};
use nix::{
    mount::{MntFlags, umount2},
    sched::{CloneFlags, unshare},
};
use serde::{Deserialize, Serialize};

/// One process; another one that came to its pid differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Its pid outside of the testbed.
    pub(crate) pid: i32,
    /// When it started, in clock ticks since boot.
    pub(crate) started: u64,
}

/// The processes with these pids of our PID namespace. For [`Site::act`](underpass_tests::testbed::Site::act): a
/// process that looks at the /proc of the machine, which is covered by that of the testbed.
pub(crate) fn look(pids: Vec<i32>) -> Result<BTreeMap<i32, Process>> {
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
    umount2("/proc", MntFlags::MNT_DETACH).context("uncover the machine's /proc")?;
    let ours = fs::read_link("/proc/self/ns/pid").context("our PID namespace")?;
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // Any process may be gone by now.
        if fs::read_link(entry.path().join("ns/pid")).ok().as_ref() != Some(&ours) {
            continue;
        }
        let (Ok(status), Ok(stat)) =
            (fs::read_to_string(entry.path().join("status")), fs::read_to_string(entry.path().join("stat")))
        else {
            continue;
        };
        if let (Some(inner), Some(started)) = (innermost_pid(&status), start_time(&stat))
            && pids.contains(&inner)
        {
            found.insert(inner, Process { pid, started });
        }
    }
    Ok(found)
}

/// The last of `NSpid`: the pid in the process's own PID namespace (proc_pid_status(5)).
fn innermost_pid(status: &str) -> Option<i32> {
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    pids.split_whitespace().last()?.parse().ok()
}

/// Field 22 of /proc/pid/stat (proc_pid_stat(5)), counted behind the name, which may contain anything.
fn start_time(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc() {
        assert_eq!(innermost_pid("Name:\tx\nNSpid:\t4242\t17\t3\nNSpgid:\t1\n"), Some(3));
        assert_eq!(innermost_pid("Name:\tx\n"), None);
        let stat = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";
        assert_eq!(start_time(stat), Some(777));
        assert_eq!(start_time("42 (a) S 1"), None);
    }
}
