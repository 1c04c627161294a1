//! What one agent keeps and the next one finds.

use clap::Parser as _;

use super::*;

impl Records {
    /// Without a writer: what is noted is read by [`Self::noted`].
    pub(crate) fn unwritten() -> Self {
        Self(Some(Arc::default()))
    }

    /// Everything that was noted since.
    pub(crate) fn noted(&self) -> Changes {
        self.0.as_ref().map(|shared| std::mem::take(&mut shared.lock().pending)).unwrap_or_default()
    }
}

/// The facts that are read of these changes, one after the other.
pub(crate) fn held(all: &[Changes]) -> Option<HeldFacts> {
    let mut entries = journal::Entries::new();
    for (key, value) in all.iter().flatten() {
        match value {
            Some(value) => drop(entries.insert(key.clone(), value.clone())),
            None => drop(entries.remove(key)),
        }
    }
    HeldFacts::read(&entries).unwrap()
}

fn config(state: &Path, more: &[&str]) -> Config {
    let state = state.to_str().unwrap();
    Config::parse_from([&["underpass-agent", "--node", "n", "--manifests", "/m", "--state", state], more].concat())
}

fn roots(names: &[&str]) -> Vec<CertificateDer<'static>> {
    names.iter().map(|name| CertificateDer::from(name.as_bytes().to_vec())).collect()
}

fn objects_of(cached: &Cached) -> Option<Vec<String>> {
    cached.objects.as_ref().map(|all| all.iter().map(|object| object.key().name.to_string()).collect())
}

fn put(name: &str) -> Changes {
    objects::changes(&[underpass_core::testing::pod(name, "").into()].into_iter().collect())
}

#[test]
fn the_next_agent_has_what_was_noted_last() {
    let state = tempfile::tempdir().unwrap();
    let open = |more: &[&str]| open(&config(state.path(), more), &roots(&["r"])).unwrap();
    let (cached, records, writer) = open(&[]);
    assert_eq!((objects_of(&cached), cached.facts.is_some(), cached.changed), (None, false, None));
    records.note(put("a/one"));
    records.note(put("a/two"));
    // The rest is written at the end, and nothing afterwards.
    drop(writer);
    records.note(put("a/three"));
    let (cached, _, writer) = open(&[]);
    assert_eq!(objects_of(&cached).unwrap(), ["a/one", "a/two"]);
    assert!(cached.changed.is_some() && cached.facts.is_none());
    drop(writer);
    // Of another cluster it counts for nothing, and what that keeps is not mixed with it.
    let (cached, records, writer) = open(&["--cluster", "other"]);
    assert_eq!(objects_of(&cached), None);
    records.note(put("b/four"));
    drop(writer);
    assert_eq!(objects_of(&open(&["--cluster", "other"]).0).unwrap(), ["b/four"]);
    assert_eq!(objects_of(&open(&[]).0), None);
    assert_eq!(objects_of(&open(&["--cluster", "other", "--facts-cache", "false"]).0), None);
    assert_eq!(objects_of(&open(&["--cluster", "other"]).0), None, "it is forgotten");
}

#[test]
fn of_another_cluster_of_this_name_nothing_counts() {
    let state = tempfile::tempdir().unwrap();
    let open = |names: &[&str]| open(&config(state.path(), &[]), &roots(names)).unwrap();
    let (_, records, writer) = open(&["first"]);
    records.note(put("a/one"));
    drop(writer);
    // Both are trusted while a root is replaced.
    for names in [&["first"][..], &["first", "second"], &["second"]] {
        assert_eq!(objects_of(&open(names).0).unwrap(), ["a/one"], "{names:?}");
    }
    let (cached, records, writer) = open(&["first"]);
    assert_eq!((objects_of(&cached), cached.facts.is_some(), cached.changed), (None, false, None));
    records.note(put("a/two"));
    drop(writer);
    assert_eq!(objects_of(&open(&["first"]).0).unwrap(), ["a/two"], "they are not mixed");
}

#[test]
fn what_is_found_as_it_is_trusted_is_not_written_anew() {
    let state = tempfile::tempdir().unwrap();
    let open = || open(&config(state.path(), &[]), &roots(&["b", "a"])).unwrap();
    let (_, records, writer) = open();
    records.note(put("a/one"));
    drop(writer);
    let changed = || std::fs::metadata(state.path().join("facts/journal")).unwrap().modified().unwrap();
    let before = changed();
    drop(open());
    assert_eq!(changed(), before);
}

/// A fact: complete, or one that cannot be read.
fn fact(key: &str, value: &str) -> Changes {
    Changes::from([(key.as_bytes().into(), Some(value.as_bytes().into()))])
}

#[test]
fn a_fact_that_cannot_be_read_is_not_kept_beside_others() {
    let state = tempfile::tempdir().unwrap();
    let open = || open(&config(state.path(), &[]), &roots(&["r"])).unwrap();
    let (_, records, writer) = open();
    records.note(put("a/one"));
    records.note(fact("facts", ""));
    records.note(fact("authorization a/broken", "x"));
    drop(writer);
    let (cached, records, writer) = open();
    assert_eq!((objects_of(&cached), cached.facts.is_some()), (None, false));
    records.note(put("a/two"));
    drop(writer);
    let (cached, ..) = open();
    assert_eq!((objects_of(&cached).unwrap(), cached.facts.is_some()), (vec!["a/two".to_owned()], false));
}

#[test]
fn an_object_that_cannot_be_read_spoils_the_objects_alone() {
    let state = tempfile::tempdir().unwrap();
    let open = || open(&config(state.path(), &[]), &roots(&["r"])).unwrap();
    let (_, records, writer) = open();
    records.note(put("a/one"));
    records.note(fact("facts", ""));
    records.note(fact("pod a/broken", "{}"));
    drop(writer);
    let (cached, records, writer) = open();
    assert_eq!((objects_of(&cached), cached.facts.is_some()), (None, true));
    records.note(put("a/two"));
    drop(writer);
    let (cached, ..) = open();
    assert_eq!((objects_of(&cached).unwrap(), cached.facts.is_some()), (vec!["a/two".to_owned()], true));
}

#[test]
fn what_could_not_be_written_waits_and_the_later_change_counts() {
    let state = tempfile::tempdir().unwrap();
    let config = config(state.path(), &[]);
    // An agent that ends later.
    let (_, first_records, first) = open(&config, &roots(&["r"])).unwrap();
    first_records.note(put("a/first"));
    let shared = Shared::default();
    let key = |text: &str| Box::<[u8]>::from(text.as_bytes());
    shared.lock().pending = Changes::from([(key("b"), Some(key("later"))), (key("c"), None)]);
    shared.give_back(Changes::from([
        (key("a"), Some(key("1"))),
        (key("b"), Some(key("1"))),
        (key("c"), Some(key("1"))),
    ]));
    let expected = Changes::from([(key("a"), Some(key("1"))), (key("b"), Some(key("later"))), (key("c"), None)]);
    assert_eq!(shared.lock().pending, expected);
    drop(first);
    assert_eq!(objects_of(&open(&config, &roots(&["r"])).unwrap().0).unwrap(), ["a/first"]);
}
