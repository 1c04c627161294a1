//! The objects of all kinds as they are handed on, and what is wrong with them. Pure: outputs of the kinds in, updates
//! out. A ledger for each kind decides what is served; what has been touched since the last update is remembered with
//! what was served then, so that an update is a difference, however often an object changed in between.
//!
//! What must hold: nothing is handed on before every kind has been heard; and the changes of an update take exactly
//! what was handed on before to what is served now.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use underpass_config::{convert::FieldFault, json::Claim};
use underpass_core::{
    Kind, ObjectKey,
    objects::{Batch, Change, Object},
};
use underpass_door::{Effect, Fault, Ledger, ObjectId, Observation, Problem, Severity, Source, Update};

use super::list_watch::Output;

/// Everything that a door has to hand on.
#[derive(Debug)]
pub(super) struct Contents {
    kinds: BTreeMap<Kind, Shelf>,
    /// Since the last update: what had been handed on of each object then.
    touched: BTreeMap<ObjectKey, Option<Object>>,
    /// The problems are others than those of the last update.
    has_news: bool,
    /// There has been an update.
    has_begun: bool,
}

/// The objects of one kind.
#[derive(Debug, Default)]
struct Shelf {
    ledger: Ledger,
    /// Of the objects that have any: the version that had them first, and its faults.
    faults: BTreeMap<ObjectKey, (Arc<str>, Vec<FieldFault>)>,
    heard: Heard,
    /// What keeps the API server from being read.
    error: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Heard {
    #[default]
    Nothing,
    Objects,
    Absence,
}

impl Contents {
    pub(super) fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        let kinds = kinds.into_iter().map(|kind| (kind, Shelf::default())).collect();
        Self { kinds, touched: BTreeMap::new(), has_news: false, has_begun: false }
    }

    /// Takes what is new of a kind. Whether something is served otherwise than before.
    pub(super) fn take(&mut self, kind: Kind, output: Output<Claim>) -> bool {
        let Some(shelf) = self.kinds.get_mut(&kind) else { return false };
        let heard = match &output {
            Output::Replaced(_) => Heard::Objects,
            Output::Absent => Heard::Absence,
            Output::Put(_) | Output::Removed(_) => shelf.heard,
        };
        self.has_news |= std::mem::replace(&mut shelf.heard, heard) != heard;
        match output {
            Output::Put(claim) => self.put(claim),
            Output::Removed(name) => self.remove(&ObjectKey::new(kind, name)),
            Output::Absent => self.keep(kind, &BTreeSet::new()),
            Output::Replaced(claims) => {
                let keys = claims.iter().map(|claim| claim.key.clone()).collect();
                let mut changed = self.keep(kind, &keys);
                claims.into_iter().for_each(|claim| changed |= self.put(claim));
                changed
            }
        }
    }

    /// Takes the state of a kind: what keeps it from being read, if anything does. Whether that is to be said otherwise,
    /// because no update can say it yet.
    pub(super) fn fail(&mut self, kind: Kind, error: Option<Arc<str>>) -> bool {
        let Some(shelf) = self.kinds.get_mut(&kind) else { return false };
        let is_new = shelf.error != error;
        self.has_news |= is_new;
        shelf.error = error;
        is_new && shelf.error.is_some() && !self.has_begun
    }

    /// The next update; none: there is nothing new, or not every kind has been heard.
    pub(super) fn update(&mut self) -> Option<Update> {
        let is_whole = self.kinds.values().all(|shelf| shelf.heard != Heard::Nothing);
        if !is_whole || (self.has_begun && !self.has_news && self.touched.is_empty()) {
            return None;
        }
        let batch = self.batch();
        let has_news = std::mem::take(&mut self.has_news);
        if self.has_begun && !has_news && batch.is_empty() {
            return None;
        }
        self.has_begun = true;
        Some(self.with_problems(batch))
    }

    /// An update without a difference; none: there has been none with all of them.
    pub(super) fn repeated(&self) -> Option<Update> {
        self.has_begun.then(|| self.with_problems(Batch::default()))
    }

    fn with_problems(&self, batch: Batch) -> Update {
        let told = self.kinds.iter().flat_map(|(kind, shelf)| shelf.problems(*kind));
        Update::new(batch, told.collect(), BTreeMap::new())
    }

    /// The differences since the last update: removals first, and in both the order of the keys.
    fn batch(&mut self) -> Batch {
        let (mut changes, mut puts) = (Vec::new(), Vec::new());
        for (key, before) in std::mem::take(&mut self.touched) {
            let now = self.kinds.get(&key.kind).and_then(|shelf| shelf.ledger.get(&key));
            match now {
                Some(now) if before.as_ref() != Some(now) => puts.push(Change::Put(now.clone())),
                None if before.is_some() => changes.push(Change::Remove(key)),
                _ => {}
            }
        }
        changes.extend(puts);
        Batch { changes }
    }

    fn put(&mut self, claim: Claim) -> bool {
        let Claim { key, resource_version, observed, faults } = claim;
        let Some(shelf) = self.kinds.get_mut(&key.kind) else { return false };
        // The same faults in another version, as after a write of its status, are no news.
        let known = shelf.faults.get(&key).map(|(_, known)| known.as_slice()).unwrap_or_default();
        if known != faults {
            self.has_news = true;
            match faults.is_empty() {
                true => drop(shelf.faults.remove(&key)),
                false => drop(shelf.faults.insert(key.clone(), (resource_version, faults))),
            }
        }
        self.observe(&key, observed)
    }

    fn remove(&mut self, key: &ObjectKey) -> bool {
        let Some(shelf) = self.kinds.get_mut(&key.kind) else { return false };
        self.has_news |= shelf.faults.remove(key).is_some();
        self.observe(key, Observation::Gone)
    }

    /// Removes all of a kind but these.
    fn keep(&mut self, kind: Kind, keys: &BTreeSet<ObjectKey>) -> bool {
        let Some(shelf) = self.kinds.get(&kind) else { return false };
        let known = shelf.ledger.keys().chain(shelf.faults.keys());
        let gone: BTreeSet<_> = known.filter(|key| !keys.contains(key)).cloned().collect();
        let mut changed = false;
        gone.iter().for_each(|key| changed |= self.remove(key));
        changed
    }

    fn observe(&mut self, key: &ObjectKey, observed: Observation) -> bool {
        let Some(shelf) = self.kinds.get_mut(&key.kind) else { return false };
        let before = shelf.ledger.get(key);
        // Equal to the served one, which is kept in its place: one copy is enough.
        if matches!((&observed, before), (Observation::Good(new), Some(old)) if new == old)
            && shelf.ledger.effect(key) == Effect::LastGood
        {
            return false;
        }
        let before = before.cloned();
        let is_touched = shelf.ledger.apply(key, observed).is_some();
        if is_touched {
            self.touched.entry(key.clone()).or_insert(before);
        }
        is_touched
    }
}

impl Shelf {
    fn problems(&self, kind: Kind) -> Vec<Problem> {
        let mut told = Vec::new();
        for (key, (version, faults)) in &self.faults {
            for FieldFault { field, fault } in faults {
                let source = Source::ApiServer { resource_version: Arc::clone(version) };
                let is_error = fault.severity() == Severity::Error;
                told.push(Problem {
                    object: Some(ObjectId::from(key)),
                    field: field.clone(),
                    effect: is_error.then(|| self.ledger.effect(key)),
                    ..Problem::new(source, fault.clone())
                });
            }
        }
        let (source, kind) = (Source::ApiServer { resource_version: "".into() }, kind.as_str());
        if let Some(cause) = &self.error {
            let effect = Some(if self.heard == Heard::Objects { Effect::LastGood } else { Effect::Absent });
            let reason = Fault::KindUnreadable { kind, cause: Arc::clone(cause) };
            told.push(Problem { effect, ..Problem::new(source.clone(), reason) });
        }
        if self.heard == Heard::Absence {
            told.push(Problem::new(source, Fault::KindAbsent { kind }));
        }
        told
    }
}

#[cfg(test)]
mod tests;
