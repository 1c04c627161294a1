//! KnownKind kinds and fields without effect: the rows of the tables about them. The tables themselves stand where the
//! kinds are read; a [`Fault`](crate::Fault) refers to their rows.

use crate::Severity;

/// Whether a kind will be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It will be.
    Later,
    /// It will not: it configures parts that Underpass does not have.
    Never,
}

/// A field that has no effect, or another one than its author may think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its path: `spec.http[].route[].weight`; `[]` is every entry of a list.
    pub path: &'static str,
    /// The effect instead.
    pub says: &'static str,
    /// A warning, where something is less safe than it looks.
    pub severity: Severity,
}

/// A kind that is known and not served.
#[derive(Debug, PartialEq, Eq)]
pub struct KnownKind {
    /// The API group.
    pub group: &'static str,
    /// The kind; empty for any of the group.
    pub kind: &'static str,
    /// The versions that exist, the one to write first.
    pub versions: &'static [&'static str],
    /// Whether it will be served.
    pub future: Support,
    /// The effect on traffic until then, as if of a field.
    pub meanwhile: Field,
    /// The advice to its author.
    pub instead: &'static str,
    /// Fields that several places have: a place, and what is below it.
    pub below: &'static [(&'static str, &'static [Field])],
    /// Its other fields.
    pub fields: &'static [Field],
}

impl KnownKind {
    /// Whether this `apiVersion` exists for it.
    #[must_use]
    pub fn has(&self, api_version: &str) -> bool {
        let version = api_version.strip_prefix(self.group).and_then(|rest| rest.strip_prefix('/'));
        self.kind.is_empty() || version.is_some_and(|v| self.versions.contains(&v))
    }

    /// The `apiVersion` to write.
    #[must_use]
    pub fn api_version(&self) -> String {
        format!("{}/{}", self.group, self.versions.first().copied().unwrap_or_default())
    }

    /// Its fields, with the place below which each is.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &'static Field)> {
        let own = self.fields.iter().map(|f| ("", f));
        self.below.iter().flat_map(|(below, fields)| fields.iter().map(move |f| (*below, f))).chain(own)
    }
}
