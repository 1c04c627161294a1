//! The pins: their paths, and the marker of the version that counts.
//!
//! ```text
//! <bpffs>/underpass/nodes/<instance>/current        a link to v<N>: the version whose tables count
//!                                    v<N>/PODS ...  the tables of one version; of two, while one follows the other
//!                                    aside/v<N>/    those that are being written for an earlier version
//!                                    shared/FLOWS_1 ATTESTED_1   the tables that all versions share
//!                                    links/guard ...
//!                                    pods/<cookie in hex>        the links of `steer`
//! <bpffs>/underpass/locks/<instance>      a directory: its lock is the right to change the pins, of any version
//! ```
//! Tables carry their version, so that a program never meets a table of another layout; links do not, because a link goes from one
//! version's program to another's in one step. The instance keeps the nodes of a test apart that share a machine. What must
//! hold: pins are the only thing that outlives the process; no other state is kept.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::{fs, io};

use underpass_abi::{Cookie, Map, VERSION};

use crate::Settings;
use crate::error::{Error, Result};

const HOUSE: &str = "underpass";
const NODES: &str = "nodes";
const LOCKS: &str = "locks";
const CURRENT: &str = "current";
/// The marker before it is at its place.
const NEXT: &str = "next";
/// Tables that are not filled yet.
const ASIDE: &str = "aside";
const SHARED: &str = "shared";
const LINKS: &str = "links";
const PODS: &str = "pods";

/// The pins of one node.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    house: PathBuf,
    instance: String,
    directory: PathBuf,
}

impl Pins {
    pub(crate) fn new(settings: &Settings) -> Self {
        let house = settings.bpffs.join(HOUSE);
        let instance = encode(&settings.instance);
        let directory = house.join(NODES).join(&instance);
        Self { house, instance, directory }
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.house.join(LOCKS).join(&self.instance)
    }

    /// Whether anything is pinned for this node.
    pub(crate) fn exist(&self) -> bool {
        self.directory.exists()
    }

    /// The tables of one version.
    pub(crate) fn tables(&self, version: u32) -> PathBuf {
        self.directory.join(format!("v{version}"))
    }

    /// The place where tables are filled before they are found: another directory of pins, with nothing but tables in it.
    pub(crate) fn aside(&self) -> Self {
        Self { directory: self.directory.join(ASIDE), ..self.clone() }
    }

    /// Makes the directory of a version's tables, and nothing else.
    pub(crate) fn create_tables(&self, version: u32) -> Result<()> {
        let path = self.tables(version);
        fs::create_dir_all(&path).map_err(Error::system("create", path.display()))
    }

    /// Puts the tables of a version that were filled aside in their place, in one step.
    pub(crate) fn put_in_place(&self, version: u32) -> Result<()> {
        let (from, to) = (self.aside().tables(version), self.tables(version));
        fs::rename(&from, &to).map_err(Error::system("rename", from.display()))?;
        self.clear_aside()
    }

    /// Removes tables that were not put in their place.
    pub(crate) fn clear_aside(&self) -> Result<()> {
        let aside = self.aside();
        aside.versions()?.into_iter().try_for_each(|version| aside.remove_tables(version))?;
        remove_directory(&aside.directory)
    }

    /// A map of this version's, or one that all versions share.
    pub(crate) fn map(&self, version: u32, map: Map) -> PathBuf {
        match map.shared() {
            Some(layout) => self.directory.join(SHARED).join(format!("{}_{layout}", map.name())),
            None => self.tables(version).join(map.name()),
        }
    }

    pub(crate) fn link(&self, program: &str) -> PathBuf {
        self.directory.join(LINKS).join(program)
    }

    pub(crate) fn pod(&self, pod: Cookie) -> PathBuf {
        self.directory.join(PODS).join(format!("{:016x}", pod.0))
    }

    /// Makes the directories, those of a version's tables among them.
    pub(crate) fn create(&self, version: u32) -> Result<()> {
        let shared = [SHARED, LINKS, PODS].map(|folder| self.directory.join(folder));
        for path in shared.into_iter().chain([self.tables(version)]) {
            fs::create_dir_all(&path).map_err(Error::system("create", path.display()))?;
        }
        Ok(())
    }

    /// The version whose tables count; nothing where no agent has come so far.
    ///
    /// # Errors
    /// It cannot be read, or is no version.
    pub(crate) fn current(&self) -> Result<Option<u32>> {
        let path = self.directory.join(CURRENT);
        match fs::read_link(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::system("read", path.display())(error)),
            Ok(target) => {
                let version = target.to_str().and_then(version_of);
                version
                    .map(Some)
                    .ok_or_else(|| Error::system("read", path.display())(io::ErrorKind::InvalidData.into()))
            }
        }
    }

    /// From here on the tables of this version count, in one step.
    pub(crate) fn set_current(&self, version: u32) -> Result<()> {
        let (next, current) = (self.directory.join(NEXT), self.directory.join(CURRENT));
        Self::remove(&next)?;
        symlink(format!("v{version}"), &next).map_err(Error::system("create", next.display()))?;
        fs::rename(&next, &current).map_err(Error::system("replace", current.display()))
    }

    /// The versions of which tables are pinned.
    pub(crate) fn versions(&self) -> Result<Vec<u32>> {
        let mut versions: Vec<_> = names(&self.directory)?.iter().filter_map(|name| version_of(name)).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// Removes the tables of one version, of any layout.
    pub(crate) fn remove_tables(&self, version: u32) -> Result<()> {
        let directory = self.tables(version);
        names(&directory)?.iter().try_for_each(|name| Self::remove(&directory.join(name)))?;
        remove_directory(&directory)
    }

    /// The programs whose link is pinned.
    pub(crate) fn links(&self) -> Result<Vec<String>> {
        names(&self.directory.join(LINKS))
    }

    /// The pods whose program is pinned.
    pub(crate) fn pods(&self) -> Result<Vec<Cookie>> {
        let mut pods: Vec<_> = names(&self.directory.join(PODS))?
            .iter()
            .filter_map(|name| u64::from_str_radix(name, 16).ok())
            .map(Cookie)
            .collect();
        pods.sort_unstable();
        Ok(pods)
    }

    /// The directory with the pins of a version from before markers, if this node has any.
    pub(crate) fn before_markers(&self) -> Result<Option<PathBuf>> {
        let directories = names(&self.house)?.into_iter().filter(|name| version_of(name).is_some());
        Ok(directories.map(|name| self.house.join(name).join(&self.instance)).find(|path| path.exists()))
    }

    /// Removes a pin; one that is not there is removed already.
    pub(crate) fn remove(path: &Path) -> Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::System { operation: "remove", object: path.display().to_string(), source: error })
            }
            _ => Ok(()),
        }
    }

    /// Removes the marker, the maps and the directories; those above the node's only where no other node is in them.
    pub(crate) fn remove_all(&self) -> Result<()> {
        for marker in [CURRENT, NEXT] {
            Self::remove(&self.directory.join(marker))?;
        }
        self.versions()?.into_iter().try_for_each(|version| self.remove_tables(version))?;
        self.clear_aside()?;
        for map in Map::ALL.into_iter().filter(|map| map.shared().is_some()) {
            Self::remove(&self.map(VERSION, map))?;
        }
        for folder in [SHARED, LINKS, PODS, ""] {
            remove_directory(&self.directory.join(folder))?;
        }
        // Another node's pins keep these two; that is no failure.
        let _ = fs::remove_dir(self.house.join(NODES));
        let _ = fs::remove_dir(&self.house);
        Ok(())
    }
}

/// Removes an empty directory; one that is not there is removed already.
fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::System { operation: "remove", object: path.display().to_string(), source: error })
        }
        _ => Ok(()),
    }
}

/// The version that a directory of tables is named after.
fn version_of(name: &str) -> Option<u32> {
    name.strip_prefix('v')?.parse().ok()
}

/// The names in a directory; none where it is missing.
fn names(directory: &Path) -> Result<Vec<String>> {
    let list = || -> io::Result<Vec<String>> {
        fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(Error::system("list", directory.display())),
    }
}

/// A name that the bpf filesystem takes: it has no dots, which node names have, and of course no slashes. Different names
/// stay different.
fn encode(name: &str) -> String {
    name.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => out.push(char::from(byte)),
            _ => out.push_str(&format!("_{byte:02x}")),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(instance: &str) -> Settings {
        Settings {
            bpffs: PathBuf::from("/bpf"),
            instance: instance.to_owned(),
            cgroup_root: PathBuf::from("/cgroup"),
            marks: underpass_abi::Marks::DEFAULT,
            mesh_entries: underpass_abi::limits::MESH,
            log: false,
        }
    }

    #[test]
    fn names_have_no_dots_and_stay_different() {
        let check = |name: &str, expected: &str| assert_eq!(encode(name), expected);
        check("node-1", "node-1");
        check("ip-10-0-0-1.ec2.internal", "ip-10-0-0-1_2eec2_2einternal");
        check("a_2eb", "a_5f2eb");
        check("../up", "_2e_2e_2fup");
        check("", "");
    }

    #[test]
    fn tables_carry_their_version_and_links_none() {
        let pins = Pins::new(&settings("a.b"));
        let check = |path: PathBuf, expected: &str| {
            assert_eq!(path, Path::new("/bpf/underpass/nodes/a_2eb").join(expected));
        };
        check(pins.map(7, Map::Pods), "v7/PODS");
        check(pins.map(7, Map::Attested), "shared/ATTESTED_1");
        check(pins.link("guard"), "links/guard");
        check(pins.pod(Cookie(0x1f)), "pods/000000000000001f");
    }

    /// Pins in a directory of their own; for a file system the difference to a bpffs is none.
    fn pinned(instance: &str, bpffs: &Path) -> Pins {
        Pins::new(&Settings { bpffs: bpffs.to_owned(), ..settings(instance) })
    }

    #[test]
    fn removal_leaves_neighbours_and_says_what_is_left() -> Result<()> {
        let bpffs = Bpffs::new("removal");
        let (one, two) = (pinned("one", &bpffs.0), pinned("two", &bpffs.0));
        assert!(one.pods()?.is_empty() && !one.exist());
        one.create(3)?;
        two.create(3)?;
        for pin in [one.pod(Cookie(0xab)), one.pod(Cookie(3)), one.map(3, Map::Mesh), one.map(3, Map::Flows)] {
            fs::write(pin, "").map_err(Error::system("write", "pin"))?;
        }
        one.set_current(3)?;
        assert_eq!(one.pods()?, [Cookie(3), Cookie(0xab)]);
        assert!(one.remove_all().is_err(), "a pod's program is still pinned");
        Pins::remove(&one.pod(Cookie(3)))?;
        Pins::remove(&one.pod(Cookie(3)))?;
        Pins::remove(&one.pod(Cookie(0xab)))?;
        one.remove_all()?;
        assert!(!one.exist() && two.exist());
        fs::create_dir_all(one.lock()).map_err(Error::system("create", "directory"))?;
        two.remove_all()?;
        assert!(bpffs.0.join(HOUSE).exists(), "a lock is in it");
        Ok(())
    }

    #[test]
    fn one_version_counts_and_every_version_can_be_removed() -> Result<()> {
        let bpffs = Bpffs::new("versions");
        let pins = pinned("n", &bpffs.0);
        assert_eq!((pins.current()?, pins.versions()?), (None, Vec::new()));
        for version in [3, 12] {
            pins.create(version)?;
            fs::write(pins.tables(version).join("OF_ANY_NAME"), "").map_err(Error::system("write", "pin"))?;
            pins.set_current(version)?;
            assert_eq!(pins.current()?, Some(version));
        }
        // Killed between the two steps: the next one is made anew.
        symlink("v99", pins.directory.join(NEXT)).map_err(Error::system("create", "marker"))?;
        assert_eq!(pins.current()?, Some(12));
        pins.set_current(3)?;
        assert_eq!((pins.current()?, pins.versions()?), (Some(3), vec![3, 12]));
        // Tables are found when they are in their place.
        pins.aside().create_tables(13)?;
        assert_eq!(pins.versions()?, [3, 12]);
        pins.put_in_place(13)?;
        assert_eq!(pins.versions()?, [3, 12, 13]);
        pins.aside().create_tables(14)?;
        pins.clear_aside()?;
        pins.remove_tables(13)?;
        pins.remove_tables(12)?;
        pins.remove_tables(12)?;
        assert_eq!(pins.versions()?, [3]);
        Pins::remove(&pins.directory.join(CURRENT))?;
        symlink("elsewhere", pins.directory.join(CURRENT)).map_err(Error::system("create", "marker"))?;
        assert!(pins.current().is_err_and(|error| error.to_string().contains("current")));
        Ok(())
    }

    #[test]
    fn pins_of_the_versions_before_markers_are_seen() -> Result<()> {
        let bpffs = Bpffs::new("before");
        let (one, two) = (pinned("one", &bpffs.0), pinned("two", &bpffs.0));
        one.create(3)?;
        assert_eq!(one.before_markers()?, None);
        let old = bpffs.0.join(HOUSE).join("v2").join("two");
        fs::create_dir_all(&old).map_err(Error::system("create", "directory"))?;
        assert_eq!(two.before_markers()?, Some(old));
        assert_eq!(one.before_markers()?, None, "another node's");
        Ok(())
    }

    /// A directory in the place of a bpffs, removed with the test.
    struct Bpffs(PathBuf);

    impl Bpffs {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("underpass-pin-{test}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a directory");
            Self(path)
        }
    }

    impl Drop for Bpffs {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
