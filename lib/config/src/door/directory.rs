//! The files of a directory, each read only when it has changed. The IO of the door, with nothing decided: which files
//! there are and what is in them.
//!
//! Kubernetes mounts a ConfigMap as `file.yaml -> ..data/file.yaml` and `..data -> ..2026_01_31/`, and updates it by
//! swapping `..data`. Names that start with a dot are therefore never entered by themselves, links are followed, and
//! no directory or file is read twice, however many links lead to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::Content;
use crate::{Fault, yaml::MAX_FILE_BYTES};

/// The most manifests of one directory.
pub const MAX_FILES: usize = 20_000;
/// The most levels of nested folders.
pub const MAX_FOLDER_DEPTH: usize = 32;

/// A file that was written less than this before it was read may be written again without looking different: file
/// systems count time in ticks of up to 10 ms (some network file systems in seconds, which a later look catches).
const TICK: Duration = Duration::from_millis(50);

const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// One file, read or not.
pub(super) type Found<'a> = (Arc<str>, Content<'a>);

/// A directory, or one file, and what its files looked like when they were last read.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    /// [`MAX_FILES`], but in tests.
    max_files: usize,
    seen: BTreeMap<Arc<str>, Seen>,
    others: usize,
}

#[derive(Debug)]
struct Seen {
    /// Nothing: it cannot be told whether it changes.
    looks: Option<Looks>,
    bytes: Vec<u8>,
    fault: Option<Fault>,
    is_new: bool,
}

/// The properties of a file that change with its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Looks {
    id: (u64, u64),
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Looks {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            id: (meta.dev(), meta.ino()),
            len: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Written so shortly before `now` that another write could look the same.
    fn is_fresh(meta: &fs::Metadata, now: SystemTime) -> bool {
        let age = |secs: i64, nanos: i64| {
            let since_epoch = Duration::new(u64::try_from(secs).unwrap_or(0), u32::try_from(nanos).unwrap_or(0));
            now.duration_since(SystemTime::UNIX_EPOCH).ok().and_then(|n| n.checked_sub(since_epoch))
        };
        age(meta.ctime(), meta.ctime_nsec()).is_none_or(|age| age < TICK)
    }
}

/// The result of a walk through the folders.
struct Walk<'a> {
    /// The files of the look before: new ones never push them out.
    seen: &'a BTreeMap<Arc<str>, Seen>,
    /// The count of new ones that are kept.
    max_new: usize,
    files: BTreeMap<Arc<str>, PathBuf>,
    new: BTreeMap<Arc<str>, PathBuf>,
    faults: BTreeMap<Arc<str>, Fault>,
    /// More than the limit were found.
    has_too_many: bool,
    /// Files that are no manifests by their name.
    others: usize,
    /// Folders and files that were found before, by device and inode.
    ids: BTreeSet<(u64, u64)>,
}

impl Directory {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, max_files: MAX_FILES, seen: BTreeMap::new(), others: 0 }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The count of files of other types, which the last reading ignored.
    pub(super) const fn others(&self) -> usize {
        self.others
    }

    /// Every file, with its content where that changed since the last reading.
    pub(super) fn look(&mut self) -> Vec<Found<'_>> {
        let Walk { files, faults, has_too_many, others, .. } = walk(&self.root, &self.seen, self.max_files);
        self.others = others;
        // A folder that cannot be listed says nothing about its files: they are still what they were. So are those that
        // are gone while not all are looked at: they may only have another name.
        let hidden = |path: &str| {
            faults.keys().any(|f| f.is_empty() || path.strip_prefix(&**f).is_some_and(|rest| rest.starts_with('/')))
        };
        self.seen
            .retain(|path, _| has_too_many || files.contains_key(path) || (!faults.contains_key(path) && hidden(path)));
        for seen in self.seen.values_mut() {
            (seen.is_new, seen.bytes) = (false, Vec::new());
        }
        for (name, path) in &files {
            let last = self.seen.get(name).and_then(|s| s.looks);
            if let Some(seen) = open(path, last, SystemTime::now()) {
                self.seen.insert(Arc::clone(name), seen);
            }
        }
        let mut found: Vec<Found<'_>> = Vec::new();
        for (name, seen) in &self.seen {
            let content = match &seen.fault {
                _ if !seen.is_new => Content::Unchanged,
                Some(fault) => Content::Unreadable(fault.clone()),
                None => Content::Bytes(&seen.bytes),
            };
            found.push((Arc::clone(name), content));
        }
        let whole: Arc<str> = ".".into();
        let of_whole = |name: Arc<str>| if name.is_empty() { Arc::clone(&whole) } else { name };
        found.extend(faults.into_iter().map(|(name, fault)| (of_whole(name), Content::Unreadable(fault))));
        if has_too_many {
            found.push((whole, Content::Unreadable(Fault::TooManyFiles { max: self.max_files })));
        }
        found
    }
}

/// The file where it looks different than `last`; nothing where it does not.
fn open(path: &Path, last: Option<Looks>, now: SystemTime) -> Option<Seen> {
    let broken = |fault: Fault| Some(Seen { looks: None, bytes: Vec::new(), fault: Some(fault), is_new: true });
    let read = || -> io::Result<Option<(Looks, bool, Vec<u8>)>> {
        let meta = fs::metadata(path)?;
        let looks = Looks::of(&meta);
        if last == Some(looks) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        // one more than is read: then it is too large
        fs::File::open(path)?.take(MAX_FILE_BYTES.saturating_add(1)).read_to_end(&mut bytes)?;
        // Written while it was being read: read it again next time.
        let is_still = Looks::of(&fs::metadata(path)?) == looks && !Looks::is_fresh(&meta, now);
        Ok(Some((looks, is_still, bytes)))
    };
    match read() {
        Ok(None) => None,
        Ok(Some((looks, is_still, bytes))) => {
            Some(Seen { looks: is_still.then_some(looks), bytes, fault: None, is_new: true })
        }
        Err(e) => broken(Fault::Io { kind: e.kind() }),
    }
}

fn walk<'a>(root: &Path, seen: &'a BTreeMap<Arc<str>, Seen>, max_files: usize) -> Walk<'a> {
    let mut walk = Walk {
        seen,
        max_new: max_files,
        files: BTreeMap::new(),
        new: BTreeMap::new(),
        faults: BTreeMap::new(),
        has_too_many: false,
        others: 0,
        ids: BTreeSet::new(),
    };
    match fs::metadata(root) {
        Err(e) => walk.fail("", &e),
        Ok(meta) if meta.is_dir() => walk.folder(root, "", &meta, 0),
        Ok(_) => {
            let name = root.file_name().unwrap_or(root.as_os_str()).to_string_lossy();
            walk.files.insert(name.into(), root.to_owned());
        }
    }
    walk.has_too_many |= walk.files.len().saturating_add(walk.new.len()) > max_files;
    let room = if walk.has_too_many { max_files.saturating_sub(seen.len()) } else { max_files };
    walk.files.extend(std::mem::take(&mut walk.new).into_iter().take(room));
    walk
}

impl Walk<'_> {
    fn fail(&mut self, name: &str, e: &io::Error) {
        self.faults.insert(name.into(), Fault::Io { kind: e.kind() });
    }

    fn folder(&mut self, path: &Path, name: &str, meta: &fs::Metadata, depth: usize) {
        if depth > MAX_FOLDER_DEPTH {
            self.faults.insert(name.into(), Fault::FoldersTooDeep { max: MAX_FOLDER_DEPTH });
            return;
        }
        if !self.ids.insert((meta.dev(), meta.ino())) {
            return;
        }
        let entries = fs::read_dir(path)
            .and_then(|dir| dir.map(|e| e.map(|e| e.file_name())).collect::<io::Result<BTreeSet<_>>>());
        let entries = match entries {
            Ok(entries) => entries,
            Err(e) => return self.fail(name, &e),
        };
        for entry in entries {
            let text = entry.to_string_lossy();
            if !text.starts_with('.') {
                let inner = if name.is_empty() { text.into_owned() } else { format!("{name}/{text}") };
                self.entry(&path.join(&entry), &inner, depth);
            }
        }
    }

    fn entry(&mut self, path: &Path, name: &str, depth: usize) {
        let is_manifest = path.extension().is_some_and(|e| EXTENSIONS.iter().any(|x| e.eq_ignore_ascii_case(x)));
        match fs::metadata(path) {
            // A link to nothing, or a file that went away meanwhile: only a manifest's is worth a word.
            Err(e) if is_manifest => self.fail(name, &e),
            Err(_) => {}
            Ok(meta) if meta.is_dir() => self.folder(path, name, &meta, depth.saturating_add(1)),
            Ok(meta) if is_manifest && meta.is_file() && self.ids.insert((meta.dev(), meta.ino())) => {
                if self.seen.contains_key(name) {
                    self.files.insert(name.into(), path.to_owned());
                } else if self.new.len() < self.max_new {
                    self.new.insert(name.into(), path.to_owned());
                } else {
                    self.has_too_many = true;
                }
            }
            Ok(meta) if !is_manifest && meta.is_file() => self.others = self.others.saturating_add(1),
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of its own that goes away with the test.
    struct Temp(PathBuf);

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn new_files_push_none_out() {
        let dir = Temp(std::env::temp_dir().join(format!("underpass-config-limit-{}", std::process::id())));
        fs::create_dir_all(&dir.0).unwrap();
        let write = |name: &str| fs::write(dir.0.join(name), name).unwrap();
        let remove = |name: &str| fs::remove_file(dir.0.join(name)).unwrap();
        let mut directory = Directory { max_files: 3, ..Directory::new(dir.0.clone()) };
        let mut look = || {
            let found = directory.look();
            let (files, whole): (Vec<_>, Vec<_>) = found.iter().partition(|(name, _)| &**name != ".");
            let names: Vec<_> = files.iter().map(|(name, _)| name.trim_end_matches(".yaml")).collect();
            let full = whole.iter().any(|(_, c)| matches!(c, Content::Unreadable(Fault::TooManyFiles { max: 3 })));
            (names.join(" "), full)
        };
        ["x.yaml", "y.yaml", "z.yaml"].into_iter().for_each(write);
        assert_eq!(look(), ("x y z".to_owned(), false));
        ["a.yaml", "b.yaml", "c.yaml", "d.yaml"].into_iter().for_each(write);
        assert_eq!(look(), ("x y z".to_owned(), true), "those that were there first");
        assert_eq!(look(), ("x y z".to_owned(), true));
        // A missing file may have another name now: its objects stay until all files are read.
        remove("y.yaml");
        fs::rename(dir.0.join("z.yaml"), dir.0.join("zz.yaml")).unwrap();
        assert_eq!(look(), ("x y z".to_owned(), true));
        ["a.yaml", "b.yaml", "c.yaml"].into_iter().for_each(remove);
        assert_eq!(look(), ("d x zz".to_owned(), false));
        remove("x.yaml");
        assert_eq!(look(), ("d zz".to_owned(), false));
    }
}
