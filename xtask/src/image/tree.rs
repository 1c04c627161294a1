//! The files of an image before they are in it: a tree in memory, whose tar is the same bytes for the same files.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tar::{Builder, EntryType, Header};

/// Folders and files by their paths, without a leading `/`. Everything belongs to root.
#[derive(Default)]
pub(crate) struct Tree {
    /// A folder sorts before what is in it.
    nodes: BTreeMap<String, Node>,
}

struct Node {
    mode: u32,
    /// Absent for a folder.
    content: Option<Vec<u8>>,
}

impl Tree {
    /// Adds a folder, and the folders that it is in.
    pub(crate) fn folder(&mut self, path: &str, mode: u32) {
        self.insert(path, Node { mode, content: None });
    }

    /// Adds a file, and the folders that it is in.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) {
        self.insert(path, Node { mode, content: Some(content.into()) });
    }

    fn insert(&mut self, path: &str, node: Node) {
        let path = path.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            self.nodes.entry(path[..end].to_owned()).or_insert(Node { mode: 0o755, content: None });
        }
        self.nodes.insert(path.to_owned(), node);
    }

    /// Bytes of all files.
    pub(crate) fn size(&self) -> usize {
        self.nodes.values().filter_map(|node| node.content.as_ref()).map(Vec::len).sum()
    }

    /// A tar: sorted, without times and names of users.
    pub(crate) fn tar(&self) -> Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::with_capacity(self.size()));
        for (path, node) in &self.nodes {
            let mut header = Header::new_gnu();
            header.set_mode(node.mode);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            let content = node.content.as_deref();
            header.set_entry_type(if content.is_some() { EntryType::Regular } else { EntryType::Directory });
            header.set_size(content.map_or(0, <[u8]>::len) as u64);
            let name = if content.is_some() { path.clone() } else { format!("{path}/") };
            tar.append_data(&mut header, name, content.unwrap_or_default())
                .with_context(|| format!("cannot put {path} into a tar"))?;
        }
        tar.into_inner().context("cannot end a tar")
    }

    /// Writes the files below a folder that is empty or not there. They belong to the user of this process.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut present = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
        ensure!(present.next().is_none(), "{} is not empty", folder.display());
        for (path, node) in &self.nodes {
            let at = folder.join(path);
            let written = match &node.content {
                Some(content) => fs::write(&at, content),
                None => fs::create_dir(&at),
            };
            // By its own step, because the umask has a say in the first one.
            written
                .and_then(|()| fs::set_permissions(&at, Permissions::from_mode(node.mode)))
                .with_context(|| format!("cannot write {}", at.display()))?;
        }
        Ok(())
    }
}

/// Writes a file aside and renames it into place, so that a reader finds a whole one.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}", std::process::id()));
    let written = fs::File::create(&aside).and_then(|mut file| file.write_all(content));
    written.with_context(|| format!("cannot write {}", Path::new(&aside).display()))?;
    fs::rename(&aside, path).with_context(|| format!("cannot replace {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.file("/usr/bin/a", 0o755, *b"program");
        tree.folder("tmp", 0o1777);
        tree
    }

    #[test]
    fn the_tar_is_the_same_in_whichever_order_files_were_added() {
        let mut other = Tree::default();
        other.folder("/tmp", 0o1777);
        other.file("usr/bin/a", 0o755, *b"program");
        assert!(tree().tar().unwrap() == other.tar().unwrap());
        other.file("usr/bin/a", 0o755, *b"another");
        assert!(tree().tar().unwrap() != other.tar().unwrap());
    }

    #[test]
    fn the_tar_says_whose_and_which_way() {
        let tar = tree().tar().unwrap();
        let mut archive = tar::Archive::new(&tar[..]);
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            let [uid, gid, mtime] = [header.uid(), header.gid(), header.mtime()].map(Result::unwrap);
            assert_eq!([uid, gid, mtime], [0, 0, 0]);
            format!("{} {:o}", entry.path().unwrap().display(), header.mode().unwrap())
        });
        assert_eq!(entries.collect::<Vec<_>>(), ["tmp/ 1777", "usr/ 755", "usr/bin/ 755", "usr/bin/a 755"]);
    }

    #[test]
    fn the_tree_is_written_into_an_empty_folder_only() {
        let folder = std::env::temp_dir().join(format!("underpass-xtask-tree-{}", std::process::id()));
        tree().write(&folder).unwrap();
        assert_eq!(fs::read(folder.join("usr/bin/a")).unwrap(), b"program");
        assert_eq!(fs::metadata(folder.join("tmp")).unwrap().permissions().mode() & 0o7777, 0o1777);
        assert!(tree().write(&folder).unwrap_err().to_string().contains("is not empty"));
        fs::remove_dir_all(folder).unwrap();
    }
}
