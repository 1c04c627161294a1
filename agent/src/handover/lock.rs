//! The lock of a node's agent: a directory on the bpf file system, beside the pins that it protects. So each process that would
//! change the same pins meets the same lock, with any other settings. (A bpf file system holds no plain files; flock(2)
//! takes a directory as well.)
//!
//! What must hold: the lock is one open file, whose owner is the process with a descriptor of it; a directory that is not at its
//! path any more locks nothing.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

use nix::libc;

use super::{Error, HandoverAddress};

/// The lock of the node: the process that has it is the agent, and no other.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes the lock at `path`, which is made where it is missing; nothing where another process has it.
    ///
    /// # Errors
    /// Where it cannot be made, opened or locked.
    pub(super) fn take(path: &Path) -> Result<Option<Self>, Error> {
        loop {
            // Only its owner can open it, so no other user can hold it.
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(HandoverAddress::failed("create", path))?;
            let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
            let file = match File::options().read(true).custom_flags(flags).open(path) {
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => continue, // a cleanup has ended
                opened => opened.map_err(HandoverAddress::failed("open", path))?,
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(source)) => return Err(HandoverAddress::failed("lock", path)(source)),
            }
            if is_at(&file, path).map_err(HandoverAddress::failed("inspect", path))? {
                return Ok(Some(Self(file)));
            }
        }
    }

    /// A copy of its descriptor, for another process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> io::Result<File> {
        self.0.try_clone()
    }

    /// Removes the directory, with those above it that are empty then. A process that has opened it finds out.
    pub(crate) fn remove(self, path: &Path) {
        // Other nodes' pins and locks may be there.
        let _ = path.ancestors().take(3).try_for_each(fs::remove_dir);
    }
}

impl From<OwnedFd> for Lock {
    /// From the process that had it.
    fn from(fd: OwnedFd) -> Self {
        Self(File::from(fd))
    }
}

/// Whether the path names this file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (own.dev(), own.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_has_it_and_none_has_one_that_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("underpass/locks/n");
        let first = Lock::take(&path).unwrap().expect("free");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert!(Lock::take(&path).unwrap().is_none());
        let copy = first.try_clone().unwrap();
        drop(first);
        assert!(Lock::take(&path).unwrap().is_none(), "another process has it");
        drop(copy);

        // A process that opened it before a cleanup removed it.
        let last = Lock::take(&path).unwrap().expect("free");
        let late = File::open(&path).unwrap();
        last.remove(&path);
        assert!(!folder.path().join("underpass").exists());
        assert!(!is_at(&late, &path).unwrap());
        let next = Lock::take(&path).unwrap().expect("free");
        assert!(!is_at(&late, &path).unwrap(), "it is another directory");
        drop(next);

        // Where it leads elsewhere, it is none.
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink(folder.path(), &path).unwrap();
        assert!(Lock::take(&path).is_err());
    }
}
