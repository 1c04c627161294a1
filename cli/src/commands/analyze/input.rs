//! What is analyzed: directories, files and standard input, as one set of files with the names that the user would open
//! them by.

use std::{
    collections::BTreeSet,
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use underpass_config::{
    door,
    door::{Bytes, Content},
    yaml::MAX_FILE_BYTES,
};

use crate::{error::CliError, source::check_readable};

/// Every file once, sorted by name.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    pub(super) files: Vec<(Arc<str>, Bytes)>,
    /// How many files are of other types.
    pub(super) others: usize,
}

impl Inputs {
    /// As the door wants them.
    pub(super) fn contents(&self) -> Vec<(Arc<str>, Content<'_>)> {
        let files = self.files.iter().map(|(name, read)| match read {
            Ok(bytes) => (Arc::clone(name), Content::Bytes(bytes)),
            Err(fault) => (Arc::clone(name), Content::Unreadable(fault.clone())),
        });
        files.collect()
    }

    /// The bytes of a file.
    pub(super) fn bytes(&self, name: &str) -> Option<&[u8]> {
        let at = self.files.binary_search_by(|(n, _)| (**n).cmp(name)).ok()?;
        self.files.get(at)?.1.as_deref().ok()
    }

    /// The lines of a file; none where it could not be read.
    pub(super) fn lines(&self, name: &str) -> Vec<String> {
        String::from_utf8_lossy(self.bytes(name).unwrap_or_default()).lines().map(str::to_owned).collect()
    }
}

pub(super) fn read<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Result<Inputs, CliError> {
    let mut inputs = Inputs::default();
    let mut seen = BTreeSet::new();
    for path in paths {
        let unreadable = |source| CliError::Manifests { path: path.clone(), source };
        if path == Path::new("-") {
            if seen.insert(PathBuf::from("-")) {
                inputs.files.push(("<stdin>".into(), standard_input(io::stdin().lock()).map_err(unreadable)?));
            }
            continue;
        }
        check_readable(path).map_err(unreadable)?;
        let is_dir = fs::metadata(path).map_err(unreadable)?.is_dir();
        let found = door::files(path);
        inputs.others = inputs.others.saturating_add(found.others);
        for (name, read) in found.files {
            let file = if is_dir { path.join(&*name) } else { path.clone() };
            let real = fs::canonicalize(&file).unwrap_or_else(|_| file.clone());
            if seen.insert(real) {
                let shown = file.strip_prefix(".").unwrap_or(&file).to_string_lossy();
                inputs.files.push((shown.into(), read));
            }
        }
    }
    inputs.files.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(inputs)
}

/// One byte more than a file may have: then the door says that it is too large.
fn standard_input(from: impl io::Read) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    from.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(Ok(bytes))
}
