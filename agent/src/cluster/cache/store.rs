//! The file of the kept facts, `STATE/facts/journal`: read at the start, then written whole by the process that keeps it from now
//! on, appended to, and written whole again once it has grown to twice what is in it.
//!
//! ```text
//! load --its entries--> an agent ... --changes--> write:  whole, aside and renamed    (the first time, and when it has grown)
//!                                                         appended, and on the disk   (else)
//! ```
//! What must hold: one process writes, that which has the folder's lock; an agent that is taken over keeps it until it ends, and what
//! its successor writes is the successor's own state. A file or folder that others than the agent's user can write counts for nothing.
//! A write that fails leaves the state before it. Changes that were appended are written, also where the file cannot be written whole
//! then: that is tried again once it has grown further.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, BufWriter, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use nix::{libc, unistd::geteuid};

use super::journal::{Changes, Encoder, Entries, Journal, Unusable};

/// The file in the folder, and the one that takes its place.
const FILE: &str = "journal";
const ASIDE: &str = "journal.new";
/// The largest file that is read, in bytes: several times the facts of 100,000 pods.
const MOST: u64 = 1 << 30;
/// A file may grow by this before it is written whole again, in bytes, however little is in it.
const ROOM: u64 = 1 << 20;

/// What keeps facts from being read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Another agent of the node has the lock.
    #[error("another agent of this node keeps its facts there until it ends")]
    Busy,
    /// Something else is in the file's place, or nothing.
    #[error("{} was removed or replaced", .0.display())]
    Removed(PathBuf),
    /// Others could have written it.
    #[error("{} is not the agent's own: it has the owner {owner} and the mode {mode:o}", path.display())]
    Foreign {
        /// The file or folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its mode.
        mode: u32,
    },
    /// What is there is no journal of this agent.
    #[error("{}: {source}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: Unusable,
    },
    /// The operating system.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// A verb.
        operation: &'static str,
        /// Its object.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

/// The folder and its file.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    scope: String,
    lock: Option<File>,
    /// What the state of this process is a continuation of; none: of nothing.
    base: Option<Base>,
}

/// An open file, up to some batch. It stays what it is when another one takes its place.
#[derive(Debug)]
struct Base {
    file: File,
    end: u64,
    encoder: Encoder,
    /// The length from which on it is written whole again; none: at once, another process wrote it.
    most: Option<u64>,
}

/// What was found at the start.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) entries: Entries,
    /// When it changed last.
    pub(super) changed: SystemTime,
    /// The number of bytes behind its last whole batch: an agent was killed there, or the file is broken.
    pub(super) torn: u64,
}

impl Store {
    /// The store in this folder, for facts of this scope, and what is there; an error: why that counts for nothing.
    pub(super) fn load(folder: PathBuf, scope: String) -> (Self, Result<Option<Found>, Error>) {
        let mut store = Self { folder, scope, lock: None, base: None };
        let found = store.find();
        (store, found)
    }

    /// What was found counts for nothing: the next write continues nothing.
    pub(super) fn forget(&mut self) {
        self.base = None;
    }

    fn find(&mut self) -> Result<Option<Found>, Error> {
        let path = self.folder.join(FILE);
        let folder = match open(&self.folder, libc::O_DIRECTORY) {
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed("open", &self.folder))?,
        };
        check_own(&folder, &self.folder)?;
        let mut file = match open(&path, 0) {
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed("open", &path))?,
        };
        let about = check_own(&file, &path)?;
        let changed = about.modified().map_err(failed("inspect", &path))?;
        let journal = read(&mut file, MOST, &path, &self.scope)?;
        let end = journal.end as u64;
        self.base = Some(Base { file, end, encoder: journal.encoder, most: None });
        Ok(Some(Found { entries: journal.entries, changed, torn: about.len().saturating_sub(end) }))
    }

    /// Writes changes; afterwards they are on the disk.
    pub(super) fn write(&mut self, changes: &Changes) -> Result<(), Error> {
        if self.lock.is_none() {
            self.lock = Some(lock(&self.folder)?);
        }
        match &mut self.base {
            Some(base) if base.most.is_some() => {
                let path = self.folder.join(FILE);
                if !is_at(&base.file, &path).map_err(failed("inspect", &path))? {
                    return Err(Error::Removed(path));
                }
                base.append(changes).map_err(failed("append to", &path))?;
                if base.has_grown() {
                    self.compact();
                }
                Ok(())
            }
            _ => self.write_whole(changes),
        }
    }

    /// Writes what is there whole, for its length alone.
    fn compact(&mut self) {
        if let Err(error) = self.write_whole(&Changes::new()) {
            tracing::warn!(%error, "the journal of kept facts cannot be shortened: it is tried again once it has grown");
            if let Some(base) = &mut self.base {
                base.most = Some(base.end.saturating_add(ROOM));
            }
        }
    }

    /// Writes the state of this process with these changes aside, and has it take the file's place.
    fn write_whole(&mut self, changes: &Changes) -> Result<(), Error> {
        let (path, aside) = (self.folder.join(FILE), self.folder.join(ASIDE));
        let mut entries = match &mut self.base {
            Some(base) => read(&mut base.file, base.end, &path, &self.scope)?.entries,
            None => Entries::new(),
        };
        for (key, value) in changes {
            match value {
                Some(value) => drop(entries.insert(key.clone(), value.clone())),
                None => drop(entries.remove(key)),
            }
        }
        match fs::remove_file(&aside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &aside)(e)),
            _ => {}
        }
        let base = self.write_aside(&entries, &aside).and_then(|base| {
            fs::rename(&aside, &path).map_err(failed("rename", &aside))?;
            Ok(base)
        });
        // Half a file fills the disk.
        self.base = Some(base.inspect_err(|_| drop(fs::remove_file(&aside)))?);
        if let Some(folder) = &self.lock {
            folder.sync_all().map_err(failed("write", &self.folder))?;
        }
        Ok(())
    }

    fn write_aside(&self, entries: &Entries, aside: &Path) -> Result<Base, Error> {
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(aside);
        let mut out = BufWriter::new(file.map_err(failed("create", aside))?);
        let written = Encoder::begin(&self.scope, &mut out).and_then(|mut encoder| {
            encoder.batch(entries.iter().map(|(key, value)| (&**key, Some(&**value))), &mut out)?;
            out.flush()?;
            let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            let end = file.stream_position()?;
            let most = end.saturating_mul(2).saturating_add(ROOM);
            Ok(Base { file, end, encoder, most: Some(most) })
        });
        written.map_err(failed("write", aside))
    }
}

impl Base {
    fn append(&mut self, changes: &Changes) -> io::Result<()> {
        let (mut bytes, mut encoder) = (Vec::new(), self.encoder);
        encoder.batch(changes.iter().map(|(key, value)| (&**key, value.as_deref())), &mut bytes)?;
        // What a write has left that failed.
        if self.file.metadata()?.len() > self.end {
            self.file.set_len(self.end)?;
        }
        self.file.write_all_at(&bytes, self.end)?;
        self.file.sync_data()?;
        self.end += bytes.len() as u64;
        self.encoder = encoder;
        Ok(())
    }

    fn has_grown(&self) -> bool {
        self.most.is_some_and(|most| self.end > most)
    }
}

/// Removes the folder of kept facts. That there is none is no error.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Reads the first bytes of a file, so many.
fn read(file: &mut File, bytes: u64, path: &Path, scope: &str) -> Result<Journal, Error> {
    let mut text = Vec::new();
    file.rewind().and_then(|()| file.take(bytes).read_to_end(&mut text)).map_err(failed("read", path))?;
    Journal::read(&text, scope).map_err(|source| Error::Unusable { path: path.to_owned(), source })
}

fn open(path: &Path, flags: i32) -> io::Result<File> {
    File::options().read(true).custom_flags(flags | libc::O_NOFOLLOW).open(path)
}

/// The folder, locked; it is made where it is missing.
fn lock(folder: &Path) -> Result<File, Error> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed("make", folder)(e)),
        _ => {}
    }
    let file = open(folder, libc::O_DIRECTORY).map_err(failed("open", folder))?;
    check_own(&file, folder)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Busy),
        Err(TryLockError::Error(source)) => Err(failed("lock", folder)(source)),
    }
}

/// The agent's user alone can have written it.
fn check_own(file: &File, path: &Path) -> Result<fs::Metadata, Error> {
    let about = file.metadata().map_err(failed("inspect", path))?;
    let (owner, mode) = (about.uid(), about.mode() & 0o7777);
    match owner == geteuid().as_raw() && mode & 0o077 == 0 {
        true => Ok(about),
        false => Err(Error::Foreign { path: path.to_owned(), owner, mode }),
    }
}

/// The file is the one at this path.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::symlink_metadata(path) {
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(false),
        found => found.map(|found| (found.dev(), found.ino()) == (own.dev(), own.ino())),
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { operation, path, source }
}

#[cfg(test)]
mod tests;
