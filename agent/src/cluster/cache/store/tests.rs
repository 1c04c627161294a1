//! The file: what is there after each step, and what counts for nothing.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

const SCOPE: &str = "node n";

fn changes(text: &str) -> Changes {
    let change = |word: &str| match word.split_once('=') {
        Some((key, value)) => (key.as_bytes().into(), Some(value.as_bytes().into())),
        None => (word.trim_start_matches('-').as_bytes().into(), None),
    };
    text.split_whitespace().map(change).collect()
}

fn show(entries: &Entries) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    entries.iter().map(|(key, value)| format!("{}={}", text(key), text(value))).collect::<Vec<_>>().join(" ")
}

/// A store with the entries that were there; nothing: `-`.
fn load(folder: &Path) -> (Store, String) {
    let (store, found) = Store::load(folder.to_owned(), SCOPE.to_owned());
    let found = found.unwrap();
    (store, found.map_or("-".to_owned(), |found| show(&found.entries)))
}

fn there(folder: &Path) -> String {
    load(folder).1
}

#[test]
fn each_write_is_there_for_the_next_process() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("facts");
    let (mut store, found) = load(&folder);
    assert_eq!(found, "-");
    for (change, state) in [("a=1 b=1", "a=1 b=1"), ("a=2 -b c=1", "a=2 c=1"), ("", "a=2 c=1"), ("d=1", "a=2 c=1 d=1")]
    {
        store.write(&changes(change)).unwrap();
        assert_eq!(there(&folder), state);
    }
    drop(store);
    let (mut next, found) = load(&folder);
    assert_eq!(found, "a=2 c=1 d=1");
    next.write(&changes("-d")).unwrap();
    assert_eq!(there(&folder), "a=2 c=1");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!([mode(&folder), mode(&folder.join(FILE))], [0o700, 0o600]);
}

#[test]
fn the_file_is_written_whole_once_it_has_grown() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("facts");
    let (mut store, _) = load(&folder);
    let size = || fs::metadata(folder.join(FILE)).unwrap().len();
    let large = "x".repeat(100_000);
    let (mut largest, mut last, mut shrunk) = (0, 0, 0);
    for n in 0..60 {
        store.write(&changes(&format!("key={n}{large}"))).unwrap();
        shrunk += u32::from(size() < last);
        last = size();
        largest = largest.max(last);
        assert_eq!(there(&folder).len(), format!("key={n}{large}").len());
    }
    assert!(largest > ROOM && largest < 2 * ROOM && (4..8).contains(&shrunk), "{largest} {shrunk}");
}

#[test]
fn a_file_that_cannot_be_written_whole_does_not_grow_by_the_same_changes_twice() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("facts");
    let (mut store, _) = load(&folder);
    let size = || fs::metadata(folder.join(FILE)).unwrap().len();
    let value = |n: u32| format!("key={n}{}", "x".repeat(500_000));
    store.write(&changes(&value(0))).unwrap();
    let one = size();
    // Nothing can be written in its place.
    fs::create_dir(folder.join(ASIDE)).unwrap();
    for n in 1..10 {
        store.write(&changes(&value(n))).unwrap();
        assert!((u64::from(n) * 500_000..u64::from(n + 1) * one).contains(&size()), "{n}: {}", size());
        assert_eq!(there(&folder), value(n));
    }
    fs::remove_dir(folder.join(ASIDE)).unwrap();
    for n in 10..13 {
        store.write(&changes(&value(n))).unwrap();
    }
    assert!(size() < 4 * one, "it is tried again");
    assert_eq!(there(&folder), value(12));
}

#[test]
fn what_is_aside_is_removed_where_it_cannot_take_the_files_place() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("facts");
    DirBuilder::new().mode(0o700).create(&folder).unwrap();
    let (mut store, _) = load(&folder);
    fs::create_dir(folder.join(FILE)).unwrap();
    assert!(store.write(&changes("a=1")).is_err());
    assert!(!folder.join(ASIDE).exists());
}

#[test]
fn one_process_writes_and_its_successor_continues_its_own_state() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("facts");
    let (mut first, _) = load(&folder);
    first.write(&changes("policy=1 pod=1")).unwrap();
    let (mut successor, found) = load(&folder);
    assert_eq!(found, "pod=1 policy=1");
    assert!(matches!(successor.write(&changes("pod=2")), Err(Error::Busy)));
    // What the first one hears of later, its successor has not served.
    first.write(&changes("-policy")).unwrap();
    assert_eq!(there(&folder), "pod=1");
    drop(first);
    successor.write(&changes("pod=2")).unwrap();
    assert_eq!(there(&folder), "pod=2 policy=1");
}

#[test]
fn what_is_not_whole_is_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("facts");
    let (mut store, _) = load(&folder);
    store.write(&changes("a=1")).unwrap();
    store.write(&changes("b=1")).unwrap();
    let path = folder.join(FILE);
    let whole = fs::read(&path).unwrap();
    // By a write that failed: the next one takes its place.
    fs::write(&path, [&whole[..], &[7; 100]].concat()).unwrap();
    store.write(&changes("c=1")).unwrap();
    assert_eq!(there(&folder), "a=1 b=1 c=1");
    assert!(!fs::read(&path).unwrap().ends_with(&[7; 20]));
    drop(store);
    // By a process that was killed.
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let (mut store, found) = Store::load(folder.clone(), SCOPE.to_owned());
    let found = found.unwrap().unwrap();
    assert!(found.torn > 0);
    assert_eq!(show(&found.entries), "a=1");
    store.write(&changes("d=1")).unwrap();
    assert_eq!(there(&folder), "a=1 d=1");
    store.forget();
    store.write(&changes("e=1")).unwrap();
    assert_eq!(there(&folder), "e=1");
}

#[test]
fn what_others_could_have_written_counts_for_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("facts");
    let (mut store, _) = load(&folder);
    store.write(&changes("a=1")).unwrap();
    drop(store);
    let path = folder.join(FILE);
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let refused = || Store::load(folder.clone(), SCOPE.to_owned()).1.err().map(|error| error.to_string());
    assert_eq!(refused(), None);
    for (what, bad, good) in [(&path, 0o620, 0o600), (&path, 0o602, 0o600), (&folder, 0o770, 0o700)] {
        mode(what, bad);
        let error = refused().unwrap();
        assert!(error.contains(&format!("mode {bad:o}")), "{error}");
        let (mut store, _) = Store::load(folder.clone(), SCOPE.to_owned());
        assert_eq!(store.write(&changes("b=1")).is_err(), what == &folder);
        drop(store);
        mode(what, good);
    }
    // Nor what a link leads to.
    let elsewhere = directory.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert!(refused().is_some());
}

#[test]
fn nothing_is_written_after_the_file_was_removed() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("facts");
    let (mut store, _) = load(&folder);
    store.write(&changes("a=1")).unwrap();
    remove(&folder).unwrap();
    assert!(matches!(store.write(&changes("b=1")), Err(Error::Removed(_))));
    remove(&folder).unwrap();
    assert_eq!(there(&folder), "-");
}
