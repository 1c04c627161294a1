//! The embedded CA's directory: how its one file is read, and made exactly once although several agents may start at
//! the same time. Separate from the CA so that everything that can go wrong with a directory is in one place.
//!
//! ```text
//!   DIR/            0700  made if missing; nobody but its owner may write to it
//!   DIR/ca.lock     0600  locked while the rest is looked at or made
//!   DIR/ca.pem      0600  key and certificate in one file: it exists whole or not at all
//!   DIR/ca.pem.new  0600  a file that a crash kept from becoming ca.pem; replaced
//! ```
//! What must hold: a file that is there is never changed, whatever is wrong with it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::{Error, StateFault};

pub(crate) const FILE: &str = "ca.pem";
const NEW_FILE: &str = "ca.pem.new";
const LOCK: &str = "ca.lock";

/// A key and a certificate in PEM have about 1 KiB.
const FILE_MAX_BYTES: u64 = 64 * 1024;

/// The directory, locked against other agents until dropped.
pub(crate) struct StateDir {
    path: PathBuf,
    owner: u32,
    _lock: File,
}

impl StateDir {
    /// Makes the directory if it is missing, checks it and waits for its lock, which others hold for milliseconds.
    pub(crate) fn lock(path: &Path) -> Result<Self, Error> {
        let state = |operation, source| Error::State { operation, path: path.to_path_buf(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| state("make", e))?;
        let meta = fs::metadata(path).map_err(|e| state("inspect", e))?;
        check_mode(path, meta.mode(), 0o755)?;
        let lock_path = path.join(LOCK);
        let failed = |operation, source| Error::State { operation, path: lock_path.clone(), source };
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&lock_path)
            .map_err(|e| failed("open", e))?;
        lock.lock().map_err(|e| failed("lock", e))?;
        Ok(Self { path: path.to_path_buf(), owner: meta.uid(), _lock: lock })
    }

    /// The path of the CA's file.
    pub(crate) fn file(&self) -> PathBuf {
        self.path.join(FILE)
    }

    /// The CA's file, or `None` in a directory that is empty.
    pub(crate) fn read(&self) -> Result<Option<Zeroizing<String>>, Error> {
        let path = self.file();
        let failed = |operation, source| Error::State { operation, path: path.clone(), source };
        let fault = |fault| Err(Error::StateFault { path: path.clone(), fault });
        let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return self.must_be_empty().map(|()| None),
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
        // Reserved once: growing would leave copies of the key behind.
        let size = usize::try_from(meta.len()).unwrap_or_default();
        let mut text = Zeroizing::new(String::with_capacity(size + 1));
        match file.take(FILE_MAX_BYTES).read_to_string(&mut text) {
            Ok(_) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => fault(StateFault::Key),
            Err(e) => Err(failed("read", e)),
        }
    }

    /// Writes the CA's file, which must not exist: whole and on the disk before it has its name.
    pub(crate) fn create(&self, text: &str) -> Result<(), Error> {
        let new = self.path.join(NEW_FILE);
        let failed = |operation, source| Error::State { operation, path: new.clone(), source };
        match fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", e)),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(|e| failed("make", e))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| failed("write", e))?;
        fs::rename(&new, self.file()).map_err(|e| failed("rename", e))?;
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(|e| failed("sync the directory of", e))
    }

    fn must_be_empty(&self) -> Result<(), Error> {
        let failed = |source| Error::State { operation: "list", path: self.path.clone(), source };
        let mut foreign = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if name != LOCK && name != NEW_FILE {
                foreign.push(name.to_string_lossy().into_owned());
            }
        }
        match foreign.into_iter().min() {
            Some(entry) => Err(Error::StateFault { path: self.path.clone(), fault: StateFault::Foreign { entry } }),
            None => Ok(()),
        }
    }
}

fn check_mode(path: &Path, mode: u32, allowed: u32) -> Result<(), Error> {
    let mode = mode & 0o777;
    if mode & !allowed == 0 {
        return Ok(());
    }
    Err(Error::StateFault { path: path.to_path_buf(), fault: StateFault::Mode { mode, allowed } })
}
