//! What is served of each object, whatever its door says about it. Pure: what the door says now in, the changes out.
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
//! What must hold: a mistake takes away no version that was good; a stand-in never outlives what it stands in for and never
//! takes the place of a good version; and nothing is left of the past but the version that is served.

use std::collections::BTreeMap;

use underpass_core::{
    ObjectKey,
    objects::{Batch, Change, Object},
};

use crate::Effect;

/// What a door says about an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Says {
    /// It is this.
    Good(Object),
    /// It is there, and cannot be served as it is; a problem says why.
    Bad {
        /// What serves where nothing better is known.
        stand_in: Option<Object>,
    },
    /// It may be there: where it was cannot be read.
    Unknown,
    /// It is not there.
    Gone,
}

/// What is served of the objects of one door.
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

    /// What is served after `last`, when the door says this.
    fn next(last: Option<Self>, says: Says) -> Option<Self> {
        match (says, last) {
            (Says::Good(object), _) => Some(Self::Good(object)),
            (Says::Bad { .. } | Says::Unknown, Some(Self::Good(last))) => Some(Self::Good(last)),
            (Says::Bad { stand_in }, Some(Self::StandIn(_)) | None) => stand_in.map(Self::StandIn),
            (Says::Unknown, last) => last,
            (Says::Gone, _) => None,
        }
    }
}

impl Ledger {
    /// The door says this about one object: what changes by it. An equal version is no change.
    pub fn apply(&mut self, key: &ObjectKey, says: Says) -> Option<Change> {
        let last = self.serving.remove(key);
        let before = last.as_ref().map(|served| served.object().clone());
        let Some(served) = Served::next(last, says) else {
            return before.map(|_| Change::Remove(key.clone()));
        };
        let object = served.object().clone();
        self.serving.insert(key.clone(), served);
        (before.as_ref() != Some(&object)).then_some(Change::Put(object))
    }

    /// The door says this about all of its objects; others are gone. What goes is taken away first.
    pub fn replace(&mut self, mut all: BTreeMap<ObjectKey, Says>) -> Batch {
        for key in self.serving.keys() {
            if !all.contains_key(key) {
                all.insert(key.clone(), Says::Gone);
            }
        }
        let changes = all.into_iter().filter_map(|(key, says)| self.apply(&key, says));
        let (mut changes, puts): (Vec<_>, Vec<_>) = changes.partition(|c| matches!(c, Change::Remove(_)));
        changes.extend(puts);
        Batch { changes }
    }

    /// What an error of this object leads to.
    #[must_use]
    pub fn effect(&self, key: &ObjectKey) -> Effect {
        match self.serving.get(key) {
            Some(Served::Good(_)) => Effect::LastGood,
            Some(Served::StandIn(_)) => Effect::Closed,
            None => Effect::Absent,
        }
    }

    /// What is served of this object.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<&Object> {
        self.serving.get(key).map(Served::object)
    }

    /// The objects of which something is served, in order.
    pub fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.serving.keys()
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
}

#[cfg(test)]
mod tests;
