//! Reverse indexes: from an object to those that depend on it, for when it changes. Updated, not rebuilt: a change
//! costs what it touches.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use crate::{Few, ObjectKey, ObjectName, labels::Labels, world::Locality};

/// A multimap: from keys to sets of values, ordered.
#[derive(Clone, Debug)]
pub(super) struct MultiMap<K, V>(BTreeMap<K, Few<V>>);

impl<K, V> Default for MultiMap<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, V: Ord + Clone> MultiMap<K, V> {
    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> &[V]
    where
        K: std::borrow::Borrow<Q>,
    {
        self.0.get(key).map_or(&[], |few| few)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        match self.0.get_mut(&key) {
            None => drop(self.0.insert(key, Few::one(value))),
            Some(few) => {
                let mut all = few.to_vec();
                if let Err(at) = all.binary_search(&value) {
                    all.insert(at, value);
                    *few = all.into();
                }
            }
        }
    }

    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q, value: &V)
    where
        K: std::borrow::Borrow<Q>,
    {
        let Some(few) = self.0.get_mut(key) else { return };
        let rest: Few<V> = few.iter().filter(|other| *other != value).cloned().collect();
        match rest.is_empty() {
            true => drop(self.0.remove(key)),
            false => *few = rest,
        }
    }

    /// The keys with more than one value.
    pub(super) fn shared(&self) -> impl Iterator<Item = K> + '_
    where
        K: Copy,
    {
        self.0.iter().filter(|(_, few)| few.len() > 1).map(|(key, _)| *key)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Sets that may be large and change by one element: pods of a node, slices of a service.
#[derive(Clone, Debug)]
pub(super) struct SetMap<K>(BTreeMap<K, std::collections::BTreeSet<ObjectName>>);

impl<K> Default for SetMap<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> SetMap<K> {
    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> impl Iterator<Item = &ObjectName>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.0.get(key).into_iter().flatten()
    }

    pub(super) fn has<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: std::borrow::Borrow<Q>,
    {
        self.0.contains_key(key)
    }

    pub(super) fn insert(&mut self, key: K, member: ObjectName) {
        self.0.entry(key).or_default().insert(member);
    }

    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q, member: &ObjectName)
    where
        K: std::borrow::Borrow<Q>,
    {
        if let Some(group) = self.0.get_mut(key) {
            group.remove(member);
            if group.is_empty() {
                self.0.remove(key);
            }
        }
    }
}

/// Sets of objects of several kinds that may be large and change by one element.
#[derive(Clone, Debug, Default)]
pub(super) struct KeysMap(BTreeMap<ObjectName, std::collections::BTreeSet<ObjectKey>>);

impl KeysMap {
    pub(super) fn get(&self, of: &ObjectName) -> impl Iterator<Item = &ObjectKey> {
        self.0.get(of).into_iter().flatten()
    }

    pub(super) fn insert(&mut self, of: ObjectName, member: ObjectKey) {
        self.0.entry(of).or_default().insert(member);
    }

    pub(super) fn remove(&mut self, of: &ObjectName, member: &ObjectKey) {
        if let Some(group) = self.0.get_mut(of) {
            group.remove(member);
            if group.is_empty() {
                self.0.remove(of);
            }
        }
    }
}

/// Objects with a selector, by namespace and by one pair of it: a pod asks with its labels which of them may select it.
#[derive(Clone, Debug, Default)]
pub(super) struct Selectors(BTreeMap<Arc<str>, OfNamespace>);

#[derive(Clone, Debug, Default)]
struct OfNamespace {
    /// By the selector's first pair.
    by_pair: MultiMap<Box<str>, ObjectName>,
    /// Those with an empty selector.
    everything: MultiMap<(), ObjectName>,
}

impl Selectors {
    pub(super) fn insert(&mut self, object: &ObjectName, selector: &Labels) {
        let of = self.0.entry(object.namespace().into()).or_default();
        match selector.pairs().next() {
            Some(first) => of.by_pair.insert(first.into(), object.clone()),
            None => of.everything.insert((), object.clone()),
        }
    }

    pub(super) fn remove(&mut self, object: &ObjectName, selector: &Labels) {
        let Some(of) = self.0.get_mut(object.namespace()) else { return };
        match selector.pairs().next() {
            Some(first) => of.by_pair.remove(first, object),
            None => of.everything.remove(&(), object),
        }
        if of.by_pair.is_empty() && of.everything.is_empty() {
            self.0.remove(object.namespace());
        }
    }

    /// Every object of the namespace whose selector may select these labels, in no order: the caller checks the whole
    /// selector.
    pub(super) fn candidates<'a>(
        &'a self,
        namespace: &str,
        labels: &'a Labels,
    ) -> impl Iterator<Item = &'a ObjectName> + use<'a> {
        let of = self.0.get(namespace).into_iter();
        of.flat_map(move |of| labels.pairs().flat_map(|pair| of.by_pair.get(pair)).chain(of.everything.get(&())))
    }
}

/// All reverse indexes.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// By node: its pods.
    pub(super) pods_on: SetMap<Arc<str>>,
    /// By node: its locality, in one copy for all that is there.
    pub(super) localities: BTreeMap<Arc<str>, Arc<Locality>>,
    /// By node: slices with an endpoint there.
    pub(super) slices_on: SetMap<Arc<str>>,
    /// By address: the pods that have it for themselves.
    pub(super) owners: MultiMap<IpAddr, ObjectName>,
    /// By address: the services that have it as VIP.
    pub(super) vips: MultiMap<IpAddr, ObjectName>,
    /// By address: the services that say it is theirs, and have it not as VIP.
    pub(super) external: MultiMap<IpAddr, ObjectName>,
    /// By address: the nodes, and the pods of the host's network, that have it.
    pub(super) hosts: MultiMap<IpAddr, ObjectKey>,
    /// By address: the slices that list it.
    pub(super) listed_by: MultiMap<IpAddr, ObjectName>,
    /// By service: its slices.
    pub(super) slices_of: SetMap<ObjectName>,
    /// Services with a selector.
    pub(super) services: Selectors,
    /// By Gateway: the Services, pods and namespaces whose own label names it as their waypoint.
    pub(super) naming: KeysMap,
    /// AuthorizationPolicies with a selector.
    pub(super) policies: Selectors,
    /// PeerAuthentications with a selector that counts.
    pub(super) peer_authentications: Selectors,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{labels, name};

    #[test]
    fn sets_of_few() {
        let mut multi = MultiMap::<u8, u8>::default();
        for value in [3, 1, 2, 1] {
            multi.insert(7, value);
        }
        assert_eq!(multi.get(&7), [1, 2, 3]);
        for (value, left) in [(9, &[1, 2, 3][..]), (2, &[1, 3]), (1, &[3]), (3, &[]), (3, &[])] {
            multi.remove(&7, &value);
            assert_eq!(multi.get(&7), left);
        }
        assert!(multi.is_empty());
    }

    #[test]
    fn selectors_that_may_select() {
        let mut selectors = Selectors::default();
        for (object, selector) in [("a/one", "app=x"), ("a/two", "app=x tier=y"), ("a/all", ""), ("b/one", "app=x")] {
            selectors.insert(&name(object), &labels(selector));
        }
        let check = |selectors: &Selectors, namespace, asked: &str, expect: &[&str]| {
            let asked = labels(asked);
            let mut found: Vec<_> = selectors.candidates(namespace, &asked).map(ToString::to_string).collect();
            found.sort();
            assert_eq!(found, expect, "{namespace} {asked:?}");
        };
        check(&selectors, "a", "app=x", &["a/all", "a/one", "a/two"]);
        check(&selectors, "a", "app=z other=x", &["a/all"]);
        check(&selectors, "b", "app=x", &["b/one"]);
        check(&selectors, "c", "app=x", &[]);
        for (object, selector) in [("a/one", "app=x"), ("a/all", ""), ("b/one", "app=x")] {
            selectors.remove(&name(object), &labels(selector));
        }
        check(&selectors, "a", "app=x", &["a/two"]);
        check(&selectors, "b", "app=x", &[]);
        assert_eq!(selectors.0.len(), 1, "nothing of what is gone stays");
    }
}
