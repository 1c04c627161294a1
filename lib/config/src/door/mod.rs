//! The manifests door: a directory of YAML and JSON files becomes [`Update`]s. [`read`] reads it once; a
//! [`Door`] reads it repeatedly and answers the changes; [`Door::watch`] does so whenever a file changes.
//!
//! ```text
//! Directory (IO)  --files that changed-->  State::next (pure)  --Batch, problems-->  the keeper
//! ```
//!
//! What must hold: a batch takes the World from the directory's former content to the present one, in one step (a
//! renamed file is no change); an object that is broken keeps its last good version; of a file that is broken all
//! former objects stay served; nothing depends on the order in which files are found.

mod diff;
mod directory;
mod watch;

use std::{path::PathBuf, sync::Arc};

use underpass_door::Update;

use self::directory::Directory;
pub use self::{
    diff::{Content, State},
    directory::{MAX_FILES, MAX_FOLDER_DEPTH},
};
use crate::Fault;

/// Reads a directory (or a single file) once: all of its objects, as one batch.
#[must_use]
pub fn read(path: impl Into<PathBuf>) -> Update {
    Door::new(path).look()
}

/// The bytes of a file, or the reason why it could not be read.
pub type Bytes = Result<Vec<u8>, Fault>;

/// The files of a directory, or a single file, in order: for callers that need their text.
#[derive(Debug, Default)]
pub struct Files {
    /// Each by its path below the directory, with its content.
    pub files: Vec<(Arc<str>, Bytes)>,
    /// The count of files that are neither YAML nor JSON.
    pub others: usize,
}

impl Files {
    /// As [`State::next`] wants them.
    #[must_use]
    pub fn contents(&self) -> Vec<(Arc<str>, Content<'_>)> {
        let files = self.files.iter().map(|(name, read)| match read {
            Ok(bytes) => (Arc::clone(name), Content::Bytes(bytes)),
            Err(fault) => (Arc::clone(name), Content::Unreadable(fault.clone())),
        });
        files.collect()
    }
}

/// Reads the files that [`read`] would.
#[must_use]
pub fn files(path: impl Into<PathBuf>) -> Files {
    let mut directory = Directory::new(path.into());
    let found = directory.look().into_iter().map(|(file, content)| match content {
        Content::Bytes(bytes) => (file, Ok(bytes.to_vec())),
        Content::Unreadable(fault) => (file, Err(fault)),
        Content::Unchanged => (file, Ok(Vec::new())),
    });
    let files = found.collect();
    Files { files, others: directory.others() }
}

/// A directory with the state of its last reading.
#[derive(Debug)]
pub struct Door {
    directory: Directory,
    state: State,
}

impl Door {
    /// The door at `path`: a directory, or one file. Nothing is read yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { directory: Directory::new(path.into()), state: State::default() }
    }

    /// Reads it again; the first reading gives everything. Files that have not changed are not read again.
    pub fn look(&mut self) -> Update {
        let found = self.directory.look();
        let (state, update) = self.state.next(&found);
        self.state = state;
        update
    }
}
