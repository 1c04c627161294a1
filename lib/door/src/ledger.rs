//! The served version of each object of a door. Pure: observations in, changes out.
//!
//! By row what the door observes, by column what was served before; the cells are what is served from then on:
//!
//! ```text
//!                  nothing              a stand-in             a good version
//! good             it: good             it: good               it: good
//! bad, stand-in    that: stand-in       that: stand-in         the last one: good
//! bad              nothing              nothing                the last one: good
//! unknown          nothing              the last: stand-in     the last one: good
//! gone             nothing              nothing                nothing
//! ```
//!
//! What must hold: a mistake takes away no version that was good; a stand-in never outlives what it stands in for and
//! never takes the place of a good version; and nothing is left of the past but the version that is served.

use std::collections::BTreeMap;

use underpass_core::{
    ObjectKey,
    objects::{Batch, Change, Object},
};

use crate::Effect;

/// The state of an object, as its door observes it.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// It is this.
    Good(Object),
    /// It exists, and cannot be served as it is; a problem has the reason.
    Bad {
        /// Served where there is no good version.
        stand_in: Option<Object>,
    },
    /// Unknown: the file that it was in cannot be read.
    Unknown,
    /// It does not exist.
    Gone,
}

/// The served versions of the objects of one door.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    serving: BTreeMap<ObjectKey, Served>,
}

#[derive(Clone, Debug, PartialEq)]
enum Served {
    /// The last good version.
    Good(Object),
    /// In the place of an object that never was good.
    StandIn(Object),
}

impl Served {
    const fn object(&self) -> &Object {
        match self {
            Self::Good(object) | Self::StandIn(object) => object,
        }
    }

    /// The served version after `last`, given this observation.
    fn next(last: Option<Self>, says: Observation) -> Option<Self> {
        match (says, last) {
            (Observation::Good(object), _) => Some(Self::Good(object)),
            (Observation::Bad { .. } | Observation::Unknown, Some(Self::Good(last))) => Some(Self::Good(last)),
            (Observation::Bad { stand_in }, Some(Self::StandIn(_)) | None) => stand_in.map(Self::StandIn),
            (Observation::Unknown, last) => last,
            (Observation::Gone, _) => None,
        }
    }
}

impl Ledger {
    /// Takes the observation of one object, and answers the change. An equal version is no change.
    pub fn apply(&mut self, key: &ObjectKey, says: Observation) -> Option<Change> {
        let last = self.serving.remove(key);
        let before = last.as_ref().map(|served| served.object().clone());
        let Some(served) = Served::next(last, says) else {
            return before.map(|_| Change::Remove(key.clone()));
        };
        let object = served.object().clone();
        self.serving.insert(key.clone(), served);
        (before.as_ref() != Some(&object)).then_some(Change::Put(object))
    }

    /// Takes the observations of all objects of the door; others are gone. Removals come first.
    pub fn replace(&mut self, mut all: BTreeMap<ObjectKey, Observation>) -> Batch {
        for key in self.serving.keys() {
            if !all.contains_key(key) {
                all.insert(key.clone(), Observation::Gone);
            }
        }
        let changes = all.into_iter().filter_map(|(key, says)| self.apply(&key, says));
        let (mut changes, puts): (Vec<_>, Vec<_>) = changes.partition(|c| matches!(c, Change::Remove(_)));
        changes.extend(puts);
        Batch { changes }
    }

    /// The effect of an error of this object.
    #[must_use]
    pub fn effect(&self, key: &ObjectKey) -> Effect {
        match self.serving.get(key) {
            Some(Served::Good(_)) => Effect::LastGood,
            Some(Served::StandIn(_)) => Effect::Closed,
            None => Effect::Absent,
        }
    }

    /// The served version of this object.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<&Object> {
        self.serving.get(key).map(Served::object)
    }

    /// The served versions, in order.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.serving.values().map(Served::object)
    }

    /// The served objects, in order.
    pub fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.serving.keys()
    }

    /// The count of served objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.serving.len()
    }

    /// Nothing is served.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.serving.is_empty()
    }
}

#[cfg(test)]
mod tests;
