//! What a table says about a kind or a field, and how a field of a table is found in an object.

use crate::{
    Path, Segment, Severity,
    yaml::{Tree, Value},
};

/// Will it ever be served?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Future {
    /// Yes.
    Later,
    /// No: it is about parts that Underpass does not have.
    Never,
}

/// A field that has no effect, or another one than its author may think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Where: `spec.http[].route[].weight`; `[]` is every entry of a list.
    pub(crate) path: &'static str,
    /// What happens instead.
    pub(crate) says: &'static str,
    /// A warning, where something is less safe than it looks.
    pub(crate) severity: Severity,
}

/// A kind that is known and not served.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    pub(crate) group: &'static str,
    pub(crate) kind: &'static str,
    /// The versions that exist, the one to write first.
    pub(crate) versions: &'static [&'static str],
    pub(crate) future: Future,
    /// What happens to traffic, as if of a field.
    pub(crate) meanwhile: Field,
    /// What to do.
    pub(crate) instead: &'static str,
    /// Fields that several places have: a place, and what is below it.
    pub(crate) below: &'static [(&'static str, &'static [Field])],
    /// Its other fields.
    pub(crate) fields: &'static [Field],
}

pub(crate) const fn note(path: &'static str, says: &'static str) -> Field {
    Field { path, says, severity: Severity::Notice }
}

pub(crate) const fn warn(path: &'static str, says: &'static str) -> Field {
    Field { path, says, severity: Severity::Warning }
}

impl Known {
    /// Does this `apiVersion` exist for it?
    pub(crate) fn has(&self, api_version: &str) -> bool {
        let version = api_version.strip_prefix(self.group).and_then(|rest| rest.strip_prefix('/'));
        self.kind.is_empty() || version.is_some_and(|v| self.versions.contains(&v))
    }

    /// What to write as `apiVersion`.
    pub(crate) fn api_version(&self) -> String {
        format!("{}/{}", self.group, self.versions.first().copied().unwrap_or_default())
    }

    /// Its fields, with the place below which each is.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'static str, &'static Field)> {
        let own = self.fields.iter().map(|f| ("", f));
        self.below.iter().flat_map(|(below, fields)| fields.iter().map(move |f| (*below, f))).chain(own)
    }
}

/// The places in `tree` that `below` and then `path` name, in order; at most `most`.
pub(crate) fn places(tree: &Tree, below: &str, path: &str, most: usize) -> Vec<Path> {
    let mut found = vec![(Vec::new(), tree)];
    for step in below.split('.').chain(path.split('.')).filter(|s| !s.is_empty()) {
        let (name, is_list) = step.strip_suffix("[]").map_or((step, false), |n| (n, true));
        let mut next = Vec::new();
        for (at, tree) in found {
            let Some(inner) = tree.field(name).filter(|t| t.value != Value::Null) else { continue };
            let mut at: Vec<Segment> = at;
            at.push(Segment::Field(name.into()));
            match (&inner.value, is_list) {
                (Value::List(items), true) => next.extend(
                    items
                        .iter()
                        .enumerate()
                        .map(|(i, item)| (at.iter().cloned().chain([Segment::Index(i)]).collect(), item)),
                ),
                (_, true) => {}
                (_, false) => next.push((at, inner)),
            }
        }
        found = next;
    }
    found.into_iter().take(most).map(|(at, _)| at.into_iter().collect()).collect()
}
