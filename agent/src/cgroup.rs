//! The agent's own cgroup: the kernel programs know the agent's sockets by it, so no other process may be in it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// The cgroup that the agent moves into where it would share one.
const OWN: &str = "underpass-agent";

/// Why the cgroup cannot be found out.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file of the kernel's.
    #[error("{operation} {path}")]
    Io {
        /// What was done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// No cgroup2 file system is mounted.
    #[error("find cgroup2 in {0}: it is not mounted")]
    NotMounted(PathBuf),
    /// The process is in no cgroup2 cgroup.
    #[error("find the own cgroup in /proc/self/cgroup: there is no line `0::`")]
    NoCgroup,
}

/// Where cgroup2 is mounted, by a file like /proc/self/mounts.
///
/// # Errors
/// Where it is not, or the file cannot be read.
pub fn mount(mounts: &Path) -> Result<PathBuf, CgroupError> {
    let text = read(mounts)?;
    let mut found = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let path = found.find_map(|f| match f[..] {
        [_, path, "cgroup2", ..] => Some(PathBuf::from(path)),
        _ => None,
    });
    path.ok_or_else(|| CgroupError::NotMounted(mounts.to_owned()))
}

/// The id of the agent's own cgroup, after moving into one of its own where others share it.
///
/// # Errors
/// Where it cannot be found, or not moved into.
pub fn of_own() -> Result<u64, CgroupError> {
    let root = mount(Path::new("/proc/self/mounts"))?;
    let text = read(Path::new("/proc/self/cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).ok_or(CgroupError::NoCgroup)?;
    let mut own = root.join(path.trim_start_matches('/'));
    let me = std::process::id().to_string();
    let shared = own == root || read(&own.join("cgroup.procs"))?.lines().any(|pid| pid != me);
    if shared {
        own = own.join(OWN);
        match fs::create_dir(&own) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed("create", &own)(e)),
            _ => {}
        }
        let procs = own.join("cgroup.procs");
        fs::write(&procs, &me).map_err(failed("move into", &procs))?;
    }
    // What bpf_get_current_cgroup_id() answers is the inode number of the cgroup's directory.
    fs::metadata(&own).map(|m| m.ino()).map_err(failed("read", &own))
}

fn read(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(failed("read", path))
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    move |source| CgroupError::Io { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mount_in_hybrid_and_unified_layouts() {
        let file = std::env::temp_dir().join(format!("underpass-mounts-{}", std::process::id()));
        for (mounts, expect) in [
            ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", Some("/sys/fs/cgroup")),
            ("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\nx /sys/fs/cgroup/unified cgroup2 rw 0 0\n", Some("/sys/fs/cgroup/unified")),
            ("proc /proc proc rw 0 0\n", None),
        ] {
            fs::write(&file, mounts).unwrap();
            assert_eq!(mount(&file).ok(), expect.map(PathBuf::from), "{mounts}");
        }
        fs::remove_file(&file).unwrap();
        assert!(matches!(mount(&file), Err(CgroupError::Io { .. })));
    }
}
