//! The text files of the checkout, read once for all rules.
//!
//! Walked, not asked of git: an unpacked archive is checked in the same way, and so is a file that is not committed yet.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// A text file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the checkout, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Names of files and folders that programs make.
const SKIPPED: &[&str] = &["target", ".git", "corpus", "artifacts", "node_modules"];

impl Source {
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// A file of tests alone: below a crate's `tests` folder, or the `tests` module of a file. (`tests/` at the top is a crate.)
    pub(crate) fn is_test(&self) -> bool {
        self.path.split('/').skip(1).any(|part| part == "tests" || part == "tests.rs")
    }
}

/// Every UTF-8 file below `root`, in the order of their paths.
pub(crate) fn read(root: &Path) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    walk(root, "", &mut found)?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn walk(folder: &Path, prefix: &str, found: &mut Vec<Source>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().with_context(|| format!("cannot look at {}", entry.path().display()))?;
        if SKIPPED.contains(&name.as_str()) {
            continue; // `.git` is a file in a worktree
        }
        if kind.is_dir() {
            walk(&entry.path(), &format!("{prefix}{name}/"), found)?;
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).with_context(|| format!("cannot read {}", entry.path().display()))?;
            if let Ok(text) = String::from_utf8(bytes) {
                found.push(Source { path: format!("{prefix}{name}"), text });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod fixture {
    use super::Source;

    pub(crate) fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_wrote_is_found() {
        let root = std::env::temp_dir().join(format!("underpass-xtask-sources-{}", std::process::id()));
        for file in ["a.rs", "lib/b.rs", "target/c.rs", "lib/x/fuzz/corpus/d", ".ci/run"] {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "text").unwrap();
        }
        fs::write(root.join("binary"), [0xff, 0xfe]).unwrap();
        let found = read(&root).unwrap();
        assert_eq!(
            found.iter().map(|source| source.path.as_str()).collect::<Vec<_>>(),
            [".ci/run", "a.rs", "lib/b.rs"]
        );
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn tests_are_told_from_the_crate_tests() {
        for (path, want) in [
            ("tests/src/lib.rs", false),
            ("tests/tests/capture.rs", true),
            ("lib/net/tests/pool.rs", true),
            ("lib/core/src/world/tests.rs", true),
            ("lib/core/src/testing.rs", false),
        ] {
            assert_eq!(fixture::source(path, "").is_test(), want, "{path}");
        }
    }
}
