//! What an agent needs mounted, where its container or its node has it otherwise: a bpf file system, and settings of network
//! namespaces that can be written. Its own file because nothing else of the agent changes mounts.

use std::{
    io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::{
        statfs::{BPF_FS_MAGIC, statfs},
        statvfs::{FsFlags, statvfs},
    },
};

/// The settings of the kernel; those of network namespaces are the namespace's that a thread is in.
pub(crate) const SYSCTLS: &str = "/proc/sys";

/// A mount that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct Error {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(Errno) -> Error {
    let path = path.to_owned();
    move |errno| Error { operation, path, source: errno.into() }
}

/// Mounts a bpf file system at `path`, for root alone, unless there is one; answers whether it did.
///
/// # Errors
/// `path` is no directory, or nothing may be mounted there.
pub fn mount_bpffs(path: &Path) -> Result<bool, Error> {
    let found = statfs(path).map_err(failed("inspect", path))?;
    if found.filesystem_type() == BPF_FS_MAGIC {
        return Ok(false);
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mounted = mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=700"));
    mounted.map_err(failed("mount a bpf file system at", path)).map(|()| true)
}

/// Makes the settings of pods' network namespaces writable for this process, where its container has them read-only: by a
/// remount in the container's own mount namespace. Which settings can be written still follows from the process's capabilities.
///
/// # Errors
/// The capability CAP_SYS_ADMIN is missing, or a security profile forbids mounts.
pub fn make_sysctls_writable() -> Result<(), Error> {
    let path = Path::new(SYSCTLS);
    let found = statvfs(path).map_err(failed("inspect", path))?;
    if !found.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>).map_err(failed("remount, writable,", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_place_for_a_mount_is_named() {
        let error = anyhow::Error::new(mount_bpffs(Path::new("/nonexistent/bpf")).unwrap_err());
        let text = format!("{error:#}");
        assert!(text.starts_with("cannot inspect /nonexistent/bpf: No such file"), "{text}");
    }
}
