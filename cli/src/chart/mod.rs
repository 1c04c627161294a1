//! The Helm chart in the command, and Helm that runs it.
//!
//! * [`values`]: what a user asks for (profile, files, `--set`) as layers of the chart's values; [`operator`] and [`set`] read
//!   Istio's ways to write them.
//! * [`profiles`]: the chart's profiles.
//! * [`helm`]: the program, and the arguments that it gets; [`release`]: what it says is installed.
//! * [`rendered`]: what it renders, as manifests for kubectl.
//!
//! What must hold: nothing of the chart is written but into a private directory, which goes with its guard.

mod error;
pub(crate) mod helm;
mod merge;
mod operator;
mod places;
pub(crate) mod profiles;
pub(crate) mod release;
pub(crate) mod rendered;
mod set;
pub(crate) mod values;

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

pub(crate) use error::ChartError;

/// The chart's files: path and text.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/chart.rs"));

/// The version of the chart, and of what it installs.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The name of the release.
pub(crate) const RELEASE: &str = "underpass";
/// The label by which a namespace says what its pods may do, and the value that agents need.
pub(crate) const POD_SECURITY: [&str; 2] = ["pod-security.kubernetes.io/enforce", "privileged"];

/// A file of the chart.
fn file(path: &str) -> Option<&'static str> {
    FILES.iter().find(|(name, _)| *name == path).map(|(_, text)| *text)
}

/// The chart in a directory of its own. A guard: dropped, the directory goes.
#[derive(Debug)]
pub(crate) struct Unpacked {
    directory: TempDir,
}

impl Unpacked {
    pub(crate) fn new() -> Result<Self, ChartError> {
        let unwritten = |source| ChartError::Unpack { path: std::env::temp_dir(), source };
        // Of this user alone: values may be secrets.
        let private = fs::Permissions::from_mode(0o700);
        let directory = tempfile::Builder::new().prefix("underpass-chart-").permissions(private).tempdir();
        let directory = directory.map_err(unwritten)?;
        let it = Self { directory };
        for (name, text) in FILES {
            it.write(&Path::new(RELEASE).join(name), text)?;
        }
        Ok(it)
    }

    /// The chart's directory.
    pub(crate) fn chart(&self) -> PathBuf {
        self.directory.path().join(RELEASE)
    }

    /// Writes the layers of values beside the chart: their paths, in order.
    pub(crate) fn layers(&self, texts: &[String]) -> Result<Vec<PathBuf>, ChartError> {
        let numbered = texts.iter().enumerate();
        numbered.map(|(n, text)| self.write(Path::new(&format!("values-{n}.yaml")), text)).collect()
    }

    fn write(&self, name: &Path, text: &str) -> Result<PathBuf, ChartError> {
        let path = self.directory.path().join(name);
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(&path))?;
            fs::File::create(&path)?.write_all(text.as_bytes())
        };
        write().map_err(|source| ChartError::Unpack { path: path.clone(), source })?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// All files of the checkout, and what is written is what they say.
    #[test]
    fn the_chart_is_whole() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/underpass");
        let unpacked = Unpacked::new().unwrap();
        let (mut left, mut seen) = (vec![root.clone()], BTreeSet::new());
        while let Some(path) = left.pop() {
            if path.is_dir() {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                continue;
            }
            let name = path.strip_prefix(&root).unwrap();
            if name.to_string_lossy().starts_with('.') {
                continue;
            }
            let written = fs::read_to_string(unpacked.chart().join(name)).unwrap();
            assert_eq!(written, fs::read_to_string(&path).unwrap(), "{}", name.display());
            seen.insert(name.to_owned());
        }
        assert_eq!(seen.len(), FILES.len());
        assert!(seen.len() > 15, "{seen:?}");
    }

    #[test]
    fn the_directory_is_private_and_goes_with_its_guard() {
        let unpacked = Unpacked::new().unwrap();
        let directory = unpacked.directory.path().to_owned();
        let layers = unpacked.layers(&["a: 1".to_owned(), "a: 2".to_owned()]).unwrap();
        assert_eq!(fs::read_to_string(&layers[1]).unwrap(), "a: 2");
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o077, 0);
        drop(unpacked);
        assert!(!directory.exists());
    }

    /// What a question names is what the chart installs.
    #[test]
    fn the_version_is_the_charts() {
        let chart: serde_json::Value = serde_saphyr::from_str(file("Chart.yaml").unwrap()).unwrap();
        assert_eq!((&chart["version"], &chart["appVersion"]), (&VERSION.into(), &VERSION.into()));
    }
}
