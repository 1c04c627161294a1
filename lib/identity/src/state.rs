//! The embedded CA's state directory: its files are read and replaced safely by several agents and an operator at the
//! same time. Separate from the CA so that all faults of directories are in one place.
//!
//! ```text
//!   DIR/            0700  made if missing; only its owner may write to it
//!   DIR/ca.lock     0600  locked while the rest is read (shared) or changed (exclusive)
//!   DIR/ca.pem      0600  key and certificate that sign: in one file, which exists whole or not at all
//!   DIR/next.pem    0600  key and certificate that will sign, and are trusted already (see `rotation`)
//!   DIR/old.pem     0600  certificates that signed, and are still trusted
//!   DIR/*.pem.new   0600  a file that a crash kept from getting its name; replaced
//! ```
//! What must hold: an existing file, also a broken one, is never changed by an agent; an operator's steps replace whole
//! files. No caller waits for the lock for long.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use zeroize::Zeroizing;

use crate::{Error, StateFault};

/// The signing CA.
pub(crate) const CA: &str = "ca.pem";
/// The next CA.
pub(crate) const NEXT: &str = "next.pem";
/// The former CAs.
pub(crate) const OLD: &str = "old.pem";
const FILES: [&str; 3] = [CA, NEXT, OLD];
const LOCK: &str = "ca.lock";

/// A key and a certificate in PEM have about 1 KiB.
const FILE_MAX_BYTES: u64 = 64 * 1024;
/// The lock is held for milliseconds; a process that holds it for longer has stopped.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_LOOK_EVERY: Duration = Duration::from_millis(5);

/// The directory, locked until dropped.
pub(crate) struct StateDir {
    path: PathBuf,
    owner: u32,
    _lock: File,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Look,
    Change,
}

impl StateDir {
    /// Makes the directory if it is missing, and takes the lock exclusively.
    pub(crate) fn make(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::State { operation: "make", path: path.to_path_buf(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        Self::lock(path, Access::Change)
    }

    /// Takes the lock exclusively, against readers and writers. The directory must exist.
    pub(crate) fn change(path: &Path) -> Result<Self, Error> {
        Self::lock(path, Access::Change)
    }

    /// Takes the lock shared, against writers. Writes nothing if the lock's file exists: also a directory that cannot
    /// be written, or is on a full disk, can be read.
    pub(crate) fn look(path: &Path) -> Result<Self, Error> {
        Self::lock(path, Access::Look)
    }

    fn lock(path: &Path, access: Access) -> Result<Self, Error> {
        let meta = fs::metadata(path);
        let meta = meta.map_err(|source| Error::State { operation: "inspect", path: path.to_path_buf(), source })?;
        check_mode(path, meta.mode(), 0o755)?;
        let lock_path = path.join(LOCK);
        let failed = |operation, source| Error::State { operation, path: lock_path.clone(), source };
        let mut options = OpenOptions::new();
        options.read(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let lock = match options.open(&lock_path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => options.write(true).create(true).open(&lock_path),
            opened => opened,
        };
        let lock = lock.map_err(|e| failed("open", e))?;
        wait_for(&lock, access).map_err(|e| failed("lock", e))?;
        Ok(Self { path: path.to_path_buf(), owner: meta.uid(), _lock: lock })
    }

    /// The path of one of its files.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// One of its files and when it was written; `None` if it does not exist.
    pub(crate) fn read(&self, name: &str) -> Result<Option<(Zeroizing<String>, SystemTime)>, Error> {
        let path = self.file(name);
        let failed = |operation, source| Error::State { operation, path: path.clone(), source };
        let fault = |fault| Err(Error::StateFault { path: path.clone(), fault });
        let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed("open", e)),
        };
        let meta = file.metadata().map_err(|e| failed("inspect", e))?;
        if !meta.is_file() {
            return fault(StateFault::Kind { expected: "regular file" });
        }
        if meta.uid() != self.owner {
            return fault(StateFault::Owner { found: meta.uid(), expected: self.owner });
        }
        check_mode(&path, meta.mode(), 0o600)?;
        if meta.len() > FILE_MAX_BYTES {
            return fault(StateFault::TooLong { limit: FILE_MAX_BYTES });
        }
        let written = meta.modified().map_err(|e| failed("inspect", e))?;
        // Reserved once: growing would leave copies of the key behind.
        let size = usize::try_from(meta.len()).unwrap_or_default();
        let mut text = Zeroizing::new(String::with_capacity(size + 1));
        match file.take(FILE_MAX_BYTES).read_to_string(&mut text) {
            Ok(_) => Ok(Some((text, written))),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => fault(StateFault::NotText),
            Err(e) => Err(failed("read", e)),
        }
    }

    /// Writes one of its files, or replaces it: whole and on the disk before it has its name.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let new = self.path.join(format!("{name}.new"));
        let failed = |operation, source| Error::State { operation, path: new.clone(), source };
        match fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", e)),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(|e| failed("make", e))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| failed("write", e))?;
        fs::rename(&new, self.file(name)).map_err(|e| failed("rename", e))?;
        self.sync()
    }

    /// Gives one of its files the name of another, which it replaces.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let failed = |source| Error::State { operation: "rename", path: self.file(from), source };
        fs::rename(self.file(from), self.file(to)).map_err(failed)?;
        self.sync()
    }

    /// Removes one of its files.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Error> {
        let failed = |source| Error::State { operation: "remove", path: self.file(name), source };
        fs::remove_file(self.file(name)).map_err(failed)?;
        self.sync()
    }

    fn sync(&self) -> Result<(), Error> {
        let failed = |source| Error::State { operation: "sync", path: self.path.clone(), source };
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(failed)
    }

    /// It is empty, except for remains of a CA whose making was interrupted.
    pub(crate) fn must_be_empty(&self) -> Result<(), Error> {
        let failed = |source| Error::State { operation: "list", path: self.path.clone(), source };
        let unfinished = FILES.map(|name| format!("{name}.new"));
        let mut foreign = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if name != LOCK && !unfinished.iter().any(|u| name == **u) {
                foreign.push(name.to_string_lossy().into_owned());
            }
        }
        match foreign.into_iter().min() {
            Some(entry) => Err(Error::StateFault { path: self.path.clone(), fault: StateFault::Foreign { entry } }),
            None => Ok(()),
        }
    }
}

/// The wait for the lock is limited: a process that stopped must not stop the others.
fn wait_for(lock: &File, access: Access) -> io::Result<()> {
    let mut waited = Duration::ZERO;
    loop {
        let tried = if access == Access::Look { lock.try_lock_shared() } else { lock.try_lock() };
        match tried {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(e)) => return Err(e),
            Err(TryLockError::WouldBlock) if waited >= LOCK_WAIT => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "another process holds the lock"));
            }
            Err(TryLockError::WouldBlock) => {}
        }
        thread::sleep(LOCK_LOOK_EVERY);
        waited += LOCK_LOOK_EVERY;
    }
}

/// The metadata of a state directory's files: as long as two stamps are equal, nothing in it has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp([Option<Seen>; 4]);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    inode: u64,
    size: u64,
    mode: u32,
    owner: u32,
    changed: (i64, i64),
}

impl Stamp {
    /// Takes the stamp of a directory.
    #[must_use]
    pub fn of(dir: &Path) -> Self {
        let directory = fs::metadata(dir).ok();
        // Its times change with the lock's file, its mode and owner only on purpose.
        let directory = directory.map(|meta| Seen { changed: (0, 0), size: 0, ..seen(&meta) });
        let [ca, next, old] = FILES.map(|name| fs::symlink_metadata(dir.join(name)).ok().as_ref().map(seen));
        Self([directory, ca, next, old])
    }
}

fn seen(meta: &fs::Metadata) -> Seen {
    Seen {
        inode: meta.ino(),
        size: meta.len(),
        mode: meta.mode(),
        owner: meta.uid(),
        changed: (meta.ctime(), meta.ctime_nsec()),
    }
}

fn check_mode(path: &Path, mode: u32, allowed: u32) -> Result<(), Error> {
    let mode = mode & 0o777;
    if mode & !allowed == 0 {
        return Ok(());
    }
    Err(Error::StateFault { path: path.to_path_buf(), fault: StateFault::Mode { mode, allowed } })
}
