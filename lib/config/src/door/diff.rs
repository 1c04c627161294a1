//! The state of a directory, and its changes. Pure: files in, an [`Update`] out.
//!
//! An object is claimed by the first file, by path, in which it stands. The served version is
//! the [`Ledger`]'s business; here is decided which claim counts, and which objects a file that cannot be read may
//! have: those that it claimed last. Beside what files have stands what a cluster's controllers would derive from it
//! ([`provision`]). The whole state is compared, so that moving an object between files is no change.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use underpass_core::{
    ObjectKey, ObjectName,
    objects::{Batch, Change, Object, Pod},
    provision,
};
use underpass_door::{Ledger, Observation, Source, Update};

use crate::{
    Effect, Fault, ObjectId, Problem, Segment, Severity,
    manifest::{self, Claim, Manifest},
};

/// The content of a file, as a reading of the directory found it.
#[derive(Clone, Debug)]
pub enum Content<'a> {
    /// This.
    Bytes(&'a [u8]),
    /// The same as last time.
    Unchanged,
    /// Unreadable.
    Unreadable(Fault),
}

/// The files of a directory as last read, and the ledger of their objects.
#[derive(Clone, Debug, Default)]
pub struct State {
    files: BTreeMap<Arc<str>, Arc<Manifest>>,
    /// The file that last claimed each served object.
    homes: BTreeMap<ObjectKey, Arc<str>>,
    ledger: Ledger,
    /// What follows from the served objects, beside them: instances of waypoints.
    derived: BTreeMap<ObjectKey, Object>,
}

/// The claim that counts for an object, and its file.
type Winners<'m> = BTreeMap<&'m ObjectKey, (&'m Arc<str>, &'m Claim)>;

impl State {
    /// The next state, and the update that leads there. `files` is the whole directory, each path once, in any order.
    #[must_use]
    pub fn next(&self, files: &[(Arc<str>, Content<'_>)]) -> (Self, Update) {
        let files: BTreeMap<Arc<str>, Arc<Manifest>> =
            files.iter().map(|(path, content)| (Arc::clone(path), self.manifest(path, content))).collect();
        let mut problems = Vec::new();
        let winners = winners(&files, &mut problems);
        let kept = self.kept(&files, &winners);
        let claimed = winners.iter().map(|(key, (_, claim))| ((*key).clone(), claim.observed.clone()));
        let unknown = kept.keys().map(|key| ((*key).clone(), Observation::Unknown));
        let mut ledger = self.ledger.clone();
        let mut batch = ledger.replace(claimed.chain(unknown).collect());
        let derived =
            provision::derived(ledger.objects(), |key| winners.contains_key(key) || ledger.get(key).is_some());
        self.derive(&derived, &mut batch);
        let claimed = winners.iter().map(|(key, (file, _))| (*key, *file));
        let homes = claimed.chain(kept.iter().map(|(key, file)| (*key, *file)));
        let homes = homes.filter(|(key, _)| ledger.get(key).is_some());
        let homes = homes.map(|(key, file)| (key.clone(), Arc::clone(file))).collect();
        problems.extend(explain(&files, &kept.into_values().collect(), &ledger));
        let update = Update::new(batch, problems, ignored(&files));
        (Self { files, homes, ledger, derived }, update)
    }

    /// Adds what is derived now, and was not, to the changes of what files have. Of both an object stands in one at most.
    fn derive(&self, derived: &BTreeMap<ObjectKey, Object>, batch: &mut Batch) {
        let gone = self.derived.keys().filter(|key| !derived.contains_key(*key));
        let gone: Vec<_> = gone.map(|key| Change::Remove(key.clone())).collect();
        let new = derived.iter().filter(|(key, object)| self.derived.get(*key) != Some(*object));
        let new: Vec<_> = new.map(|(_, object)| Change::Put(object.clone())).collect();
        // An object that goes over from one to the other is put, and not removed.
        let put: BTreeSet<ObjectKey> = batch.changes.iter().chain(&new).filter_map(put).collect();
        batch.changes.extend(gone);
        batch.changes.retain(|change| !matches!(change, Change::Remove(key) if put.contains(key)));
        batch.changes.extend(new);
    }

    /// The claim that counts for an object, and its file.
    #[must_use]
    pub fn claim(&self, key: &ObjectKey) -> Option<(&Arc<str>, &Claim)> {
        self.files.iter().find_map(|(file, m)| m.claims.iter().find(|c| c.key == *key).map(|c| (file, c)))
    }

    /// Pods that workload kinds of all files will make.
    pub fn templates(&self) -> impl Iterator<Item = &Pod> {
        self.files.values().flat_map(|m| &m.templates)
    }

    /// Service accounts of all files.
    pub fn accounts(&self) -> impl Iterator<Item = &ObjectName> {
        self.files.values().flat_map(|m| &m.accounts)
    }

    /// The count of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ledger.len()
    }

    /// The count of served objects.
    #[must_use]
    pub fn served(&self) -> usize {
        self.homes.len()
    }

    /// Nothing is served.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ledger.is_empty()
    }

    fn manifest(&self, path: &Arc<str>, content: &Content<'_>) -> Arc<Manifest> {
        match content {
            Content::Bytes(bytes) => Arc::new(manifest::read(path, bytes)),
            Content::Unreadable(fault) => Arc::new(manifest::unreadable(path, fault.clone())),
            Content::Unchanged => match self.files.get(path) {
                Some(manifest) => Arc::clone(manifest),
                // a caller that says so without an earlier content: nothing is known about it
                None => Arc::new(manifest::unreadable(path, Fault::Io { kind: std::io::ErrorKind::NotFound })),
            },
        }
    }

    /// The objects that no file claims, and that an unreadable file had before.
    fn kept<'s>(
        &'s self,
        files: &BTreeMap<Arc<str>, Arc<Manifest>>,
        winners: &Winners<'_>,
    ) -> BTreeMap<&'s ObjectKey, &'s Arc<str>> {
        let is_unreadable = |file: &Arc<str>| files.get(file).is_some_and(|m| m.has_unreadable);
        self.homes.iter().filter(|(key, file)| !winners.contains_key(key) && is_unreadable(file)).collect()
    }
}

fn put(change: &Change) -> Option<ObjectKey> {
    match change {
        Change::Put(object) => Some(object.key()),
        Change::Remove(_) => None,
    }
}

/// The counts of objects of other kinds in all files.
fn ignored(files: &BTreeMap<Arc<str>, Arc<Manifest>>) -> BTreeMap<String, usize> {
    let mut ignored: BTreeMap<String, usize> = BTreeMap::new();
    for (kind, count) in files.values().flat_map(|m| &m.ignored) {
        let all = ignored.entry(kind.clone()).or_default();
        *all = all.saturating_add(*count);
    }
    ignored
}

/// The problems of the files, each error with its effect. `keeping` are the files whose former objects stay served.
fn explain(files: &BTreeMap<Arc<str>, Arc<Manifest>>, keeping: &BTreeSet<&Arc<str>>, ledger: &Ledger) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (file, manifest) in files {
        let bad: BTreeMap<(u32, ObjectId), &ObjectKey> = (manifest.claims.iter())
            .filter(|c| matches!(c.observed, Observation::Bad { .. }))
            .map(|c| ((c.document, ObjectId::from(&c.key)), &c.key))
            .collect();
        let keeps = keeping.contains(file);
        for problem in &manifest.problems {
            let mut problem = problem.clone();
            // It stands where objects stood: not a file of another kind, but a mistake.
            match problem.reason {
                Fault::NoObject { .. } if keeps => {
                    problem.field = ["apiVersion"].into_iter().map(|f| Segment::Field(f.into())).collect();
                    problem.reason = Fault::Missing;
                }
                Fault::Empty { .. } => problem.reason = Fault::Empty { gave: keeps },
                _ => {}
            }
            if problem.severity() == Severity::Error {
                let place = document(&problem.source).zip(problem.object.clone());
                let key = place.and_then(|place| bad.get(&place));
                let of_file = if keeps { Effect::LastGood } else { Effect::Absent };
                problem.effect = Some(key.map_or(of_file, |key| ledger.effect(key)));
            }
            problems.push(problem);
        }
    }
    problems
}

/// The document of a problem in its file.
const fn document(source: &Source) -> Option<u32> {
    match source {
        Source::File { document, .. } => *document,
        Source::ApiServer { .. } | Source::ControlPlane { .. } => None,
    }
}

/// The first claim of every object, by path, document and position; every other one is a problem.
fn winners<'m>(files: &'m BTreeMap<Arc<str>, Arc<Manifest>>, problems: &mut Vec<Problem>) -> Winners<'m> {
    let mut winners = Winners::new();
    for (file, manifest) in files {
        for claim in &manifest.claims {
            let Some((first_file, first)) = winners.get(&claim.key) else {
                winners.insert(&claim.key, (file, claim));
                continue;
            };
            let line = |claim: &Claim| Some(claim.line).filter(|l| *l > 0);
            let source = Source::File { file: Arc::clone(file), document: Some(claim.document), line: line(claim) };
            let reason = Fault::DuplicateObject { file: Arc::clone(first_file), line: line(first) };
            problems.push(Problem { object: Some(ObjectId::from(&claim.key)), ..Problem::new(source, reason) });
        }
    }
    winners
}
