//! The input of analyze: directories, files and standard input, as one set of files under the names that the user would
//! open them by.

use std::{
    collections::BTreeSet,
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
};

use underpass_config::{door::Files, yaml::MAX_FILE_BYTES};

use crate::{error::CliError, source};

/// Every file once, sorted by name.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    pub(super) found: Files,
}

impl Inputs {
    /// The bytes of a file.
    pub(super) fn bytes(&self, name: &str) -> Option<&[u8]> {
        let at = self.found.files.binary_search_by(|(n, _)| (**n).cmp(name)).ok()?;
        self.found.files.get(at)?.1.as_deref().ok()
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
                let bytes = standard_input(io::stdin().lock()).map_err(unreadable)?;
                if bytes.trim_ascii().is_empty() {
                    return Err(CliError::NoInput);
                }
                inputs.found.files.push(("<stdin>".into(), Ok(bytes)));
            }
            continue;
        }
        let found = source::files(path)?;
        let is_dir = fs::metadata(path).map_err(unreadable)?.is_dir();
        inputs.found.others = inputs.found.others.saturating_add(found.others);
        for (name, read) in found.files {
            let file = if is_dir { path.join(&*name) } else { path.clone() };
            let real = fs::canonicalize(&file).unwrap_or_else(|_| file.clone());
            if seen.insert(real) {
                let shown = file.strip_prefix(".").unwrap_or(&file).to_string_lossy();
                inputs.found.files.push((shown.into(), read));
            }
        }
    }
    inputs.found.files.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(inputs)
}

/// One byte more than the limit of a file: then the door reports that it is too large.
fn standard_input(from: impl io::Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
