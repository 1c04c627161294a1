//! The namespaces whose pods wait for an agent: by this list the plugin decides where no agent answers. The agent writes it as a
//! whole, by a rename, on each change.
//!
//! What must hold: without a list every pod waits but those of exempt namespaces, because what nothing is known of may be in the
//! mesh.

use std::{collections::BTreeSet, fs, io, path::Path};

use serde::{Deserialize, Serialize};

/// The list of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Their pods are in the mesh, or some of them.
    pub enrolled: BTreeSet<String>,
}

impl Namespaces {
    /// Reads the list; none where there is none.
    ///
    /// # Errors
    /// The file system's, or InvalidData for a file that is no list.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(text) => {
                Ok(Some(serde_json::from_slice(&text).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Replaces the list in the file.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        // Of this process alone: around a take-over two agents write.
        let aside = path.with_extension(format!("{}.new", std::process::id()));
        fs::write(&aside, serde_json::to_vec(self)?)?;
        fs::rename(&aside, path)
    }
}

/// Whether a pod of this namespace waits for the agent; none: there is no list.
#[must_use]
pub fn waits(list: Option<&Namespaces>, exempt: &BTreeSet<String>, namespace: &str) -> bool {
    !exempt.contains(namespace) && list.is_none_or(|list| list.enrolled.contains(namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn without_a_list_all_but_exempt_ones_wait() {
        let (list, exempt) = (Namespaces { enrolled: set(&["shop", "kube-system"]) }, set(&["kube-system"]));
        for (namespace, with_list, without) in
            [("shop", true, true), ("other", false, true), ("kube-system", false, false)]
        {
            assert_eq!(waits(Some(&list), &exempt, namespace), with_list, "{namespace}");
            assert_eq!(waits(None, &exempt, namespace), without, "{namespace}");
        }
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("namespaces.json");
        assert_eq!(Namespaces::read(&path).unwrap(), None);
        for list in [Namespaces { enrolled: set(&["a"]) }, Namespaces::default()] {
            list.write(&path).unwrap();
            assert_eq!(Namespaces::read(&path).unwrap(), Some(list));
        }
        fs::write(&path, "[").unwrap();
        assert_eq!(Namespaces::read(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
