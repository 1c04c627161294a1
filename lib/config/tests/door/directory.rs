//! Real directories: nesting, links, ConfigMaps, and files that are not what they were.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use underpass_config::{Door, door};

use crate::lines;

/// A directory of its own that goes away with the test.
pub(crate) struct Temp(PathBuf);

impl Temp {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("underpass-config-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn link(&self, target: &str, path: &str) {
        symlink(target, self.0.join(path)).unwrap();
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}

/// The changes of a batch: `+a -b`.
pub(crate) fn changes(update: &underpass_door::Update) -> String {
    use underpass_core::objects::Change;
    let say = |c: &Change| match c {
        Change::Put(o) => format!("+{}", o.key().name),
        Change::Remove(k) => format!("-{}", k.name),
    };
    update.batch.changes.iter().map(say).collect::<Vec<_>>().join(" ")
}

#[test]
fn folders_and_extensions() {
    let dir = Temp::new();
    for (path, name) in
        [("a.yaml", "a"), ("x/b.yml", "b"), ("x/y/c.YAML", "c"), ("x/d.json", "d"), ("e.txt", "e"), (".f.yaml", "f")]
    {
        dir.write(path, &namespace(name));
    }
    let update = door::read(dir.path());
    assert_eq!((changes(&update).as_str(), lines(&update).as_str()), ("+a +b +c +d", ""));
    let update = door::read(dir.path().join("x/b.yml"));
    assert_eq!((changes(&update).as_str(), lines(&update).as_str()), ("+b", ""), "a single file");
    let update = door::read(dir.path().join("none"));
    assert_eq!(lines(&update), "error: .: cannot be read: entity not found (not served)\n");
}

#[test]
fn links_lead_nowhere_twice() {
    let dir = Temp::new();
    dir.write("a/a.yaml", &namespace("a"));
    dir.link("..", "a/up");
    dir.link("a", "b");
    dir.link("a/a.yaml", "c.yaml");
    dir.link("nowhere.yaml", "d.yaml");
    let update = door::read(dir.path());
    assert_eq!(changes(&update), "+a");
    assert_eq!(lines(&update), "error: d.yaml: cannot be read: entity not found (not served)\n");
}

#[test]
fn a_config_map_is_swapped_in_one_step() {
    let dir = Temp::new();
    dir.write("..1/a.yaml", &namespace("a"));
    dir.write("..1/b.yaml", &namespace("b"));
    dir.link("..1", "..data");
    for file in ["a.yaml", "b.yaml"] {
        dir.link(&format!("..data/{file}"), file);
    }
    let mut door = Door::new(dir.path());
    assert_eq!(changes(&door.look()), "+a +b");
    dir.write("..2/a.yaml", &namespace("a2"));
    dir.write("..2/b.yaml", &namespace("b"));
    dir.link("..2", "..new");
    fs::rename(dir.path().join("..new"), dir.path().join("..data")).unwrap();
    let update = door.look();
    assert_eq!((changes(&update).as_str(), lines(&update).as_str()), ("-a +a2", ""));
}

#[test]
fn a_write_right_behind_a_look_is_seen() {
    let dir = Temp::new();
    let mut door = Door::new(dir.path());
    dir.write("a.yaml", &namespace("n0"));
    door.look();
    // the same length, within the same tick of the file system's clock
    for i in 1..9 {
        dir.write("a.yaml", &namespace(&format!("n{i}")));
        assert_eq!(changes(&door.look()), format!("-n{} +n{i}", i - 1));
        assert_eq!(changes(&door.look()), "");
    }
}

#[test]
fn deleted_and_hidden_files() {
    let dir = Temp::new();
    dir.write("x/a.yaml", &namespace("a"));
    dir.write("b.yaml", &namespace("b"));
    let mut door = Door::new(dir.path());
    assert_eq!(changes(&door.look()), "+a +b");
    fs::rename(dir.path().join("x"), dir.path().join("y")).unwrap();
    assert_eq!(changes(&door.look()), "", "moved");
    // the whole directory is gone: unmounted, most likely; nothing is taken back
    let aside = dir.path().with_extension("aside");
    fs::rename(dir.path(), &aside).unwrap();
    let update = door.look();
    assert_eq!(changes(&update), "");
    assert_eq!(update.errors().count(), 1);
    fs::rename(&aside, dir.path()).unwrap();
    let update = door.look();
    assert_eq!((changes(&update).as_str(), lines(&update).as_str()), ("", ""));
    fs::remove_file(dir.path().join("y/a.yaml")).unwrap();
    assert_eq!(changes(&door.look()), "-a");
}

#[test]
fn limits() {
    let dir = Temp::new();
    dir.write(&format!("{}deep.yaml", "f/".repeat(40)), &namespace("deep"));
    let file = fs::File::create(dir.path().join("large.yaml")).unwrap();
    file.set_len(20 << 20).unwrap();
    dir.write("z.yaml", &namespace("z"));
    let update = door::read(dir.path());
    assert_eq!(changes(&update), "+z");
    let said = lines(&update);
    assert!(said.contains("large.yaml: is larger than 16777216 bytes"), "{said}");
    assert!(said.contains("folders are nested deeper than 32"), "{said}");
}
