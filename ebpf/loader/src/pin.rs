//! Where things are pinned.
//!
//! ```text
//! <bpffs>/underpass/v<VERSION>/<instance>/maps/PODS ...
//!                                         links/guard ...
//!                                         pods/<cookie in hex>
//! <bpffs>/underpass/locks/<instance>      a directory: whoever has it locked may change the pins, of any version
//! ```
//! The version is in the path, so that a program never meets a table of another layout; the instance, so that the nodes of
//! a test share a machine. What must hold: pins are the only thing that outlives the process; no other state is kept.

use std::path::{Path, PathBuf};
use std::{fs, io};

use underpass_abi::{Cookie, Map, VERSION};

use crate::Settings;
use crate::error::{Error, Result};

const HOUSE: &str = "underpass";
const LOCKS: &str = "locks";

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
        let directory = house.join(format!("v{VERSION}")).join(&instance);
        Self { house, instance, directory }
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.house.join(LOCKS).join(&self.instance)
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.directory.join("maps")
    }

    pub(crate) fn map(&self, map: Map) -> PathBuf {
        self.maps().join(map.name())
    }

    pub(crate) fn link(&self, program: &str) -> PathBuf {
        self.directory.join("links").join(program)
    }

    pub(crate) fn pod(&self, pod: Cookie) -> PathBuf {
        self.directory.join("pods").join(format!("{:016x}", pod.0))
    }

    /// Makes the directories.
    pub(crate) fn create(&self) -> Result<()> {
        for folder in ["maps", "links", "pods"] {
            let path = self.directory.join(folder);
            fs::create_dir_all(&path).map_err(Error::system("create", path.display()))?;
        }
        Ok(())
    }

    /// The pods whose program is pinned.
    pub(crate) fn pods(&self) -> Result<Vec<Cookie>> {
        let mut pods: Vec<_> = names(&self.directory.join("pods"))?
            .iter()
            .filter_map(|name| u64::from_str_radix(name, 16).ok())
            .map(Cookie)
            .collect();
        pods.sort_unstable();
        Ok(pods)
    }

    /// What another version has pinned for this node.
    pub(crate) fn of_other_version(&self) -> Result<Option<PathBuf>> {
        let own = format!("v{VERSION}");
        Ok(names(&self.house)?
            .into_iter()
            .filter(|name| *name != own && name != LOCKS)
            .map(|name| self.house.join(name).join(&self.instance))
            .find(|path| path.exists()))
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

    /// Removes the maps and the directories; those above the node's only where nobody else is in them.
    pub(crate) fn remove_all(&self) -> Result<()> {
        for map in Map::ALL {
            Self::remove(&self.map(map))?;
        }
        for folder in ["maps", "links", "pods", ""] {
            let path = self.directory.join(folder);
            match fs::remove_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::System {
                        operation: "remove",
                        object: path.display().to_string(),
                        source: error,
                    });
                }
                _ => {}
            }
        }
        // Another node's pins keep these two; that is no failure.
        let _ = fs::remove_dir(self.house.join(format!("v{VERSION}")));
        let _ = fs::remove_dir(&self.house);
        Ok(())
    }
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
    fn paths_carry_version_and_instance() {
        let pins = Pins::new(&settings("a.b"));
        assert_eq!(pins.map(Map::Pods), Path::new(&format!("/bpf/underpass/v{VERSION}/a_2eb/maps/PODS")));
        assert_eq!(pins.link("guard"), Path::new(&format!("/bpf/underpass/v{VERSION}/a_2eb/links/guard")));
        assert_eq!(
            pins.pod(Cookie(0x1f)),
            Path::new(&format!("/bpf/underpass/v{VERSION}/a_2eb/pods/000000000000001f"))
        );
    }

    #[test]
    fn pins_of_another_version_are_seen_and_removal_leaves_neighbours() -> Result<()> {
        let bpffs = std::env::temp_dir().join(format!("underpass-pin-{}", std::process::id()));
        let of = |instance: &str| Settings { bpffs: bpffs.clone(), ..settings(instance) };
        let (one, two) = (Pins::new(&of("one")), Pins::new(&of("two")));
        assert!(one.pods()?.is_empty() && one.of_other_version()?.is_none());
        one.create()?;
        two.create()?;
        fs::write(one.pod(Cookie(0xab)), "").map_err(Error::system("write", "pin"))?;
        fs::write(one.pod(Cookie(3)), "").map_err(Error::system("write", "pin"))?;
        fs::write(one.map(Map::Mesh), "").map_err(Error::system("write", "pin"))?;
        assert_eq!(one.pods()?, [Cookie(3), Cookie(0xab)]);
        assert!(one.remove_all().is_err(), "a pod's program is still pinned");
        Pins::remove(&one.pod(Cookie(3)))?;
        Pins::remove(&one.pod(Cookie(3)))?;
        Pins::remove(&one.pod(Cookie(0xab)))?;
        one.remove_all()?;
        assert!(!one.directory.exists() && two.directory.exists());

        let other = bpffs.join(HOUSE).join("v0").join("two");
        fs::create_dir_all(&other).map_err(Error::system("create", "directory"))?;
        fs::create_dir_all(one.lock()).map_err(Error::system("create", "directory"))?;
        assert_eq!(two.of_other_version()?, Some(other.clone()));
        assert!(one.of_other_version()?.is_none(), "another node's");
        fs::remove_dir(&other).map_err(Error::system("remove", "directory"))?;
        fs::remove_dir(bpffs.join(HOUSE).join("v0")).map_err(Error::system("remove", "directory"))?;
        fs::remove_dir_all(bpffs.join(HOUSE).join(LOCKS)).map_err(Error::system("remove", "directory"))?;
        two.remove_all()?;
        assert!(!bpffs.join(HOUSE).exists());
        fs::remove_dir(&bpffs).map_err(Error::system("remove", "directory"))?;
        Ok(())
    }
}
