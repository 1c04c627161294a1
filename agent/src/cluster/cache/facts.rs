//! The facts of the mesh as entries: the resources of the control plane as they came, by kind and name, with their versions. A resource
//! that was rejected is kept beside its last good version, so that both lead to the same again: the good version served, or what
//! stands in for a policy that never had one. No IO.

use std::{collections::BTreeSet, sync::Arc};

use underpass_xds::{
    client::Rejected,
    resource::{
        Change,
        ResourceKind::{self, Address, Authorization},
    },
    versions::Applied,
};

use super::journal::{Changes, Entries};

/// The key that says that the facts were complete, and the one of the changes that led to them.
const COMPLETE: &[u8] = b"facts";
const CHANGES: &[u8] = b"facts changes";
/// The first bytes of the keys of resources, before the name.
const APPLIED: [(ResourceKind, &[u8]); 2] = [(Address, b"address "), (Authorization, b"authorization ")];
const REJECTED: [(ResourceKind, &[u8]); 2] =
    [(Address, b"rejected address "), (Authorization, b"rejected authorization ")];

/// What was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeldFacts {
    /// Every resource in its last good version.
    pub(crate) applied: Vec<Change>,
    /// The messages of those that were rejected since, or ever.
    pub(crate) rejected: Vec<Change>,
    /// The changes of the control plane's source that led to them.
    pub(crate) changes: Applied,
}

/// An entry that is none of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an entry of the facts cannot be read")]
pub(super) struct Unreadable;

impl HeldFacts {
    /// Reads them. None: they were never complete.
    pub(super) fn read(entries: &Entries) -> Result<Option<Self>, Unreadable> {
        if !entries.contains_key(COMPLETE) {
            return Ok(None);
        }
        let mut held = Self::default();
        for (key, value) in entries {
            if &**key == CHANGES {
                let text = std::str::from_utf8(value).map_err(|_| Unreadable)?;
                held.changes = text.parse().map_err(|_| Unreadable)?;
            } else if let Some((kind, name)) = resource(&APPLIED, key)? {
                held.applied.push(of_value(kind, name, value)?);
            } else if let Some((kind, name)) = resource(&REJECTED, key)? {
                held.rejected.push(of_value(kind, name, value)?);
            }
        }
        Ok(Some(held))
    }

    /// What a client of a control plane is told that it holds: kind, name and version of each.
    pub(crate) fn names(&self) -> impl Iterator<Item = (ResourceKind, Arc<str>, Arc<str>)> {
        self.applied.iter().map(|change| (change.kind, Arc::clone(&change.name), Arc::clone(&change.version)))
    }
}

/// The changes of a batch that was applied, but for what was rejected; with it those of the source that were applied
/// are `source`, if they are others than before.
pub(crate) fn changes(batch: &[Change], rejected: &[Rejected], source: Option<&Applied>) -> Changes {
    let refused: BTreeSet<_> = rejected.iter().map(|rejected| (rejected.kind, &rejected.name)).collect();
    let mut changes = Changes::new();
    for change in batch {
        let (applied, rejected) = (key(&APPLIED, change), key(&REJECTED, change));
        let value = change.body.as_deref().map(|body| value(&change.version, body));
        if refused.contains(&(change.kind, &change.name)) {
            changes.insert(rejected, value);
        } else {
            changes.insert(applied, value);
            changes.insert(rejected, None);
        }
    }
    if let Some(source) = source {
        changes.insert(CHANGES.into(), Some(source.to_string().into_bytes().into()));
    }
    changes
}

/// The changes so far lead to all facts of the mesh.
pub(crate) fn complete(changes: &mut Changes) {
    changes.insert(COMPLETE.into(), Some(Box::default()));
}

type Prefixes = [(ResourceKind, &'static [u8]); 2];

fn key(prefixes: &Prefixes, change: &Change) -> Box<[u8]> {
    let prefix = prefixes.iter().find_map(|(kind, prefix)| (*kind == change.kind).then_some(*prefix));
    [prefix.unwrap_or_default(), change.name.as_bytes()].concat().into()
}

fn resource<'a>(prefixes: &Prefixes, key: &'a [u8]) -> Result<Option<(ResourceKind, &'a str)>, Unreadable> {
    let found = prefixes.iter().find_map(|(kind, prefix)| Some((*kind, key.strip_prefix(*prefix)?)));
    found.map(|(kind, name)| Ok((kind, std::str::from_utf8(name).map_err(|_| Unreadable)?))).transpose()
}

/// The length of the version, a u32, the version, the message.
fn value(version: &str, body: &[u8]) -> Box<[u8]> {
    let length = u32::try_from(version.len()).unwrap_or_default();
    let version = version.get(..length as usize).unwrap_or_default();
    [&length.to_le_bytes(), version.as_bytes(), body].concat().into()
}

fn of_value(kind: ResourceKind, name: &str, value: &[u8]) -> Result<Change, Unreadable> {
    let read = || {
        let (length, rest) = value.split_first_chunk()?;
        let (version, body) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        let (version, body) = (std::str::from_utf8(version).ok()?.into(), Some(body.to_vec().into()));
        Some(Change { kind, name: name.into(), version, body })
    };
    read().ok_or(Unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: ResourceKind, name: &str, version: &str, body: Option<&str>) -> Change {
        let body = body.map(|body| body.as_bytes().to_vec().into());
        Change { kind, name: name.into(), version: version.into(), body }
    }

    fn apply(entries: &mut Entries, changes: Changes) {
        for (key, value) in changes {
            match value {
                Some(value) => drop(entries.insert(key, value)),
                None => drop(entries.remove(&key)),
            }
        }
    }

    fn rejected(kind: ResourceKind, name: &str) -> Rejected {
        Rejected { kind, name: name.into(), reason: "broken".into() }
    }

    #[test]
    fn resources_come_back_as_they_came() {
        let mut entries = Entries::new();
        let source: Applied = [("Pod", 7), ("Service", 3)].into_iter().collect();
        let (a, p) = (change(Address, "a", "1", Some("A")), change(Authorization, "mesh/p", "1", Some("")));
        // One name in both kinds, and one that reads as a prefix.
        let (b, same) = (change(Address, "address ", "", Some("B")), change(Authorization, "a", "7", Some("P")));
        apply(&mut entries, changes(&[a.clone(), b.clone(), p.clone(), same.clone()], &[], Some(&source)));
        assert_eq!(HeldFacts::read(&entries), Ok(None), "they are not complete");
        let mut last = changes(&[change(Authorization, "mesh/p", "", None)], &[], None);
        complete(&mut last);
        apply(&mut entries, last);
        let held = HeldFacts::read(&entries).unwrap().unwrap();
        assert_eq!(held, HeldFacts { applied: vec![a, b, same], rejected: Vec::new(), changes: source });
        let names: Vec<_> = held.names().map(|(kind, name, version)| format!("{kind:?} {name}={version}")).collect();
        assert_eq!(names, ["Address a=1", "Address address =", "Authorization a=7"]);
    }

    #[test]
    fn a_rejected_one_is_beside_its_last_good_version() {
        let mut entries = Entries::new();
        let of = |entries: &Entries| {
            let HeldFacts { applied, rejected, .. } = HeldFacts::read(entries).unwrap().unwrap();
            let show = |all: Vec<Change>| all.iter().map(|c| format!("{}={}", c.name, c.version)).collect::<Vec<_>>();
            (show(applied).join(" "), show(rejected).join(" "))
        };
        let (p, q) = (|v: &str| change(Authorization, "p", v, Some("P")), change(Authorization, "q", "1", Some("Q")));
        let mut first = changes(&[p("1"), q], &[rejected(Authorization, "q"), rejected(Address, "p")], None);
        complete(&mut first);
        apply(&mut entries, first);
        assert_eq!(of(&entries), ("p=1".into(), "q=1".into()));
        apply(&mut entries, changes(&[p("2")], &[rejected(Authorization, "p")], None));
        assert_eq!(of(&entries), ("p=1".into(), "p=2 q=1".into()));
        apply(&mut entries, changes(&[p("3"), change(Authorization, "q", "", None)], &[], None));
        assert_eq!(of(&entries), ("p=3".into(), String::new()));
    }

    #[test]
    fn an_entry_that_cannot_be_read_spoils_them_all() {
        for (key, value) in [(&b"address a"[..], &b"\x09\0\0\0x"[..]), (b"address \xff", b"\0\0\0\0"), (CHANGES, b"x")]
        {
            let entries = [(COMPLETE, &b""[..]), (key, value)].map(|(key, value)| (key.into(), value.into()));
            assert_eq!(HeldFacts::read(&Entries::from(entries)), Err(Unreadable), "{key:?}");
        }
    }
}
