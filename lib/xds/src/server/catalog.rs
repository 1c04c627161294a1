//! All resources at one moment, with an index of their aliases: made once per change, shared by all streams.

use std::{ops::Bound, sync::Arc};

use imbl::{OrdSet, ordmap::DiffItem};
use underpass_core::bulk::alternating;

use crate::{
    resource::{Resource, ResourceKind, Resources},
    wire::PerKind,
};

/// Resources, their aliases, and the place of this catalog among all. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    resources: Resources,
    /// Alias and name of each alias.
    aliases: PerKind<OrdSet<(Arc<str>, Arc<str>)>>,
    number: u64,
}

/// A change of one resource.
pub(crate) struct Change {
    pub(crate) name: Arc<str>,
    /// `None`: it is gone.
    pub(crate) resource: Option<Arc<Resource>>,
}

impl Catalog {
    /// The first catalog: indexes all resources.
    #[must_use]
    pub fn first(resources: Resources) -> Self {
        Self::default().next(resources)
    }

    /// The catalog after this one. Costs what differs.
    #[must_use]
    pub fn next(&self, resources: Resources) -> Self {
        let mut aliases = self.aliases.clone();
        for kind in ResourceKind::ALL {
            let index = aliases.of_mut(kind);
            let mut added = Vec::new();
            for item in self.resources.of(kind).diff(resources.of(kind)) {
                let (old, new) = match item {
                    DiffItem::Add(_, new) => (None, Some(new)),
                    DiffItem::Update { old: (_, old), new: (_, new) } => (Some(old), Some(new)),
                    DiffItem::Remove(_, old) => (Some(old), None),
                };
                for (alias, name) in old.into_iter().flat_map(|old| keys(old)) {
                    index.remove(&(alias, name));
                }
                added.extend(new.into_iter().flat_map(|new| keys(new)));
            }
            index.extend(alternating(added.iter()).cloned());
        }
        Self { resources, aliases, number: self.number.wrapping_add(1) }
    }

    /// The resources.
    #[must_use]
    pub const fn resources(&self) -> &Resources {
        &self.resources
    }

    /// No other catalog came between the two.
    pub(crate) const fn is(&self, other: &Self) -> bool {
        self.number == other.number
    }

    /// The resource of this name.
    pub(crate) fn get(&self, kind: ResourceKind, name: &str) -> Option<&Arc<Resource>> {
        self.resources.of(kind).get(name)
    }

    /// The resources that a subscription to `name` leads to: the one of that name and all with that alias.
    pub(crate) fn resolve(&self, kind: ResourceKind, name: &Arc<str>) -> impl Iterator<Item = &Arc<Resource>> {
        let index = self.aliases.of(kind);
        let start = Bound::Included((name.clone(), Arc::from("")));
        let aliased = index.range((start, Bound::Unbounded)).take_while(move |(alias, _)| alias == name);
        let aliased = aliased.filter(move |(_, other)| other != name);
        self.get(kind, name).into_iter().chain(aliased.filter_map(move |(_, other)| self.get(kind, other)))
    }

    /// What changed from `self` to `newer`, in the order of names. Costs what differs.
    pub(crate) fn changes<'a>(&'a self, newer: &'a Self, kind: ResourceKind) -> impl Iterator<Item = Change> + 'a {
        self.resources.of(kind).diff(newer.resources.of(kind)).map(|item| match item {
            DiffItem::Add(name, new) | DiffItem::Update { new: (name, new), .. } => {
                Change { name: name.clone(), resource: Some(new.clone()) }
            }
            DiffItem::Remove(name, _) => Change { name: name.clone(), resource: None },
        })
    }
}

/// The entries of the index for one resource.
fn keys(resource: &Resource) -> impl Iterator<Item = (Arc<str>, Arc<str>)> {
    resource.aliases.iter().map(|alias| (alias.clone(), resource.name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{resource, resources};

    fn found(catalog: &Catalog, name: &str) -> Vec<String> {
        let name = Arc::from(name);
        catalog.resolve(ResourceKind::Address, &name).map(|found| found.name.to_string()).collect()
    }

    #[test]
    fn names_and_aliases_lead_to_resources() {
        let first = Catalog::first(resources(
            "1",
            [
                resource("a", "1", &["net/1", "net/2"]),
                resource("b", "1", &["net/2"]),
                resource("net/3", "1", &["net/3"]),
            ],
            [],
        ));
        assert_eq!(found(&first, "a"), ["a"]);
        assert_eq!(found(&first, "net/1"), ["a"]);
        assert_eq!(found(&first, "net/2"), ["a", "b"]);
        assert_eq!(found(&first, "net/3"), ["net/3"]);
        assert_eq!(found(&first, "net/"), Vec::<String>::new());
        let second = first.next(resources("2", [resource("a", "2", &["net/4"]), resource("c", "1", &["net/2"])], []));
        assert_eq!(found(&second, "net/1"), Vec::<String>::new());
        assert_eq!(found(&second, "net/2"), ["c"]);
        assert_eq!(found(&second, "net/4"), ["a"]);
        assert_eq!(found(&first, "net/2"), ["a", "b"], "the one before is as it was");
    }
}
