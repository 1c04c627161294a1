//! What changed between two states of a directory. Pure: files in, a [`Batch`] and problems out.
//!
//! An object is served from the first file, by path, that claims it. Is what that file says about it broken, then its
//! last good version goes on; is there none, a policy is replaced by one that refuses ([`crate::convert`]) and
//! anything else is absent. The whole state is compared, so that moving an object between files is no change.

use std::{collections::BTreeMap, sync::Arc};

use underpass_core::{
    ObjectKey, ObjectName,
    objects::{Batch, Object, Pod},
};
use underpass_door::Source;

use super::Update;
use crate::{
    Effect, Fault, ObjectId, Problem, Segment, Severity,
    manifest::{self, Claim, Manifest, Says},
};

/// What the directory has to say about a file.
#[derive(Clone, Debug)]
pub enum Content<'a> {
    /// It says this.
    Bytes(&'a [u8]),
    /// What it said last time.
    Unchanged,
    /// It is there and cannot be read.
    Unreadable(Fault),
}

/// What a directory said, and what is served because of it.
#[derive(Clone, Debug, Default)]
pub struct State {
    files: BTreeMap<Arc<str>, Arc<Manifest>>,
    serving: BTreeMap<ObjectKey, Served>,
}

#[derive(Clone, Debug)]
struct Served {
    object: Object,
    /// Where it was last claimed.
    file: Arc<str>,
    /// It was good once; otherwise it stands in for one that never was.
    was_good: bool,
}

/// The claim that counts for an object, and where it stands.
type Winners<'m> = BTreeMap<&'m ObjectKey, (&'m Arc<str>, &'m Claim)>;

impl State {
    /// The next state, and how the World gets there. `files` is the whole directory, each path once, in any order.
    #[must_use]
    pub fn next(&self, files: &[(Arc<str>, Content<'_>)]) -> (Self, Update) {
        let files: BTreeMap<Arc<str>, Arc<Manifest>> =
            files.iter().map(|(path, content)| (Arc::clone(path), self.manifest(path, content))).collect();
        let mut problems = Vec::new();
        let winners = winners(&files, &mut problems);
        let serving = self.serve(&files, &winners);
        let batch = self.changes(&serving);
        problems.extend(self.explain(&files, &winners, &serving));
        problems.sort_by(Problem::order);
        let (notices, problems) = problems.into_iter().partition(|p| p.severity() == Severity::Notice);
        let mut ignored: BTreeMap<String, usize> = BTreeMap::new();
        for (kind, count) in files.values().flat_map(|m| &m.ignored) {
            let all = ignored.entry(kind.clone()).or_default();
            *all = all.saturating_add(*count);
        }
        (Self { files, serving }, Update { batch, problems, notices, ignored })
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

    /// How many objects are served.
    #[must_use]
    pub fn len(&self) -> usize {
        self.serving.len()
    }

    /// Nothing is served.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.serving.is_empty()
    }

    fn manifest(&self, path: &Arc<str>, content: &Content<'_>) -> Arc<Manifest> {
        match content {
            Content::Bytes(bytes) => Arc::new(manifest::read(path, bytes)),
            Content::Unreadable(fault) => Arc::new(manifest::unreadable(path, fault.clone())),
            Content::Unchanged => match self.files.get(path) {
                Some(manifest) => Arc::clone(manifest),
                // a shell that says so without having read it: nothing is known about it
                None => Arc::new(manifest::unreadable(path, Fault::Io { kind: std::io::ErrorKind::NotFound })),
            },
        }
    }

    fn serve(&self, files: &BTreeMap<Arc<str>, Arc<Manifest>>, winners: &Winners<'_>) -> BTreeMap<ObjectKey, Served> {
        let mut serving = BTreeMap::new();
        for (key, (file, claim)) in winners {
            let last_good = self.serving.get(*key).filter(|s| s.was_good);
            let (object, was_good) = match (&claim.says, last_good) {
                (Says::Good(object), _) => (object.clone(), true),
                (Says::Bad { .. }, Some(last)) => (last.object.clone(), true),
                (Says::Bad { stand_in: Some(object) }, None) => (object.clone(), false),
                (Says::Bad { stand_in: None }, None) => continue,
            };
            serving.insert((*key).clone(), Served { object, file: Arc::clone(file), was_good });
        }
        // What cannot be read may be about any object that the file gave before.
        for (key, last) in &self.serving {
            let is_unreadable = files.get(&last.file).is_some_and(|m| m.has_unreadable);
            if is_unreadable && !winners.contains_key(key) {
                serving.insert(key.clone(), last.clone());
            }
        }
        serving
    }

    fn changes(&self, serving: &BTreeMap<ObjectKey, Served>) -> Batch {
        let mut batch = Batch::default();
        for key in self.serving.keys().filter(|k| !serving.contains_key(*k)) {
            batch.remove(key.clone());
        }
        for (key, served) in serving {
            if self.serving.get(key).is_none_or(|last| last.object != served.object) {
                batch.put(served.object.clone());
            }
        }
        batch
    }

    /// The problems of the files, each error with what it leads to.
    fn explain(
        &self,
        files: &BTreeMap<Arc<str>, Arc<Manifest>>,
        winners: &Winners<'_>,
        serving: &BTreeMap<ObjectKey, Served>,
    ) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (file, manifest) in files {
            let bad: BTreeMap<(u32, ObjectId), &ObjectKey> = (manifest.claims.iter())
                .filter(|c| matches!(c.says, Says::Bad { .. }))
                .map(|c| ((c.document, ObjectId::from(&c.key)), &c.key))
                .collect();
            // what an unreadable part of the file keeps alive
            let keeps = serving.iter().any(|(key, s)| s.file == *file && !winners.contains_key(key));
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
                    let served = place.and_then(|place| bad.get(&place)).map(|key| serving.get(*key));
                    problem.effect = Some(match served {
                        Some(Some(s)) if s.was_good => Effect::LastGood,
                        Some(Some(_)) => Effect::Closed,
                        None if keeps => Effect::LastGood,
                        Some(None) | None => Effect::Absent,
                    });
                }
                problems.push(problem);
            }
        }
        problems
    }
}

/// In which document of its file something was found.
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
