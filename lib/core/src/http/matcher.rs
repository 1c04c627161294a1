//! The search for the first rule that a request matches, among many: exact paths by hash, prefixes by their longest, and
//! the rest one by one. Its own file because it knows nothing of requests but the path: whether the rest of a rule holds
//! is asked.
//!
//! What must hold: the answer is that of asking every rule in its order.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasherDefault, DefaultHasher},
    sync::Arc,
};

/// The condition of a rule on the path, as far as rules can be found by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PathKey {
    /// Only this path.
    Exact(Arc<str>),
    /// Only paths that start so.
    Prefix(Arc<str>),
    /// Any path may match.
    Any,
}

/// Rules by their paths. Numbers are positions, ascending in each list.
#[derive(Clone, Debug, Default)]
pub(super) struct Matcher {
    /// The keys are those of configuration, not of requests: one fixed hash does.
    exact: HashMap<Arc<str>, Vec<u32>, BuildHasherDefault<DefaultHasher>>,
    prefixes: Vec<Prefix>,
    rest: Vec<u32>,
}

/// The rules of one prefix. In order of the texts.
#[derive(Clone, Debug)]
struct Prefix {
    text: Arc<str>,
    rules: Vec<u32>,
    /// The longest of the others that this one starts with.
    within: Option<usize>,
}

impl Matcher {
    /// Of rules in their order.
    pub(super) fn new(rules: impl IntoIterator<Item = PathKey>) -> Self {
        let mut matcher = Self::default();
        let mut prefixes: BTreeMap<Arc<str>, Vec<u32>> = BTreeMap::new();
        for (number, key) in (0_u32..).zip(rules) {
            match key {
                PathKey::Exact(path) => matcher.exact.entry(path).or_default().push(number),
                PathKey::Prefix(text) => prefixes.entry(text).or_default().push(number),
                PathKey::Any => matcher.rest.push(number),
            }
        }
        let mut open: Vec<usize> = Vec::new();
        for (text, rules) in prefixes {
            // Sorted texts: those that this one starts with are the ones still open.
            while open.last().and_then(|at| matcher.prefixes.get(*at)).is_some_and(|p| !text.starts_with(&*p.text)) {
                open.pop();
            }
            let within = open.last().copied();
            open.push(matcher.prefixes.len());
            matcher.prefixes.push(Prefix { text, rules, within });
        }
        matcher
    }

    /// The first rule whose path matches and that `holds` otherwise.
    pub(super) fn first(&self, path: &str, mut holds: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut best = None;
        let mut look = |rules: &[u32]| {
            let before = rules.iter().copied().take_while(|number| best.is_none_or(|best| *number < best));
            if let Some(found) = before.into_iter().find(|number| holds(*number)) {
                best = Some(found);
            }
        };
        look(self.exact.get(path).map_or(&[], Vec::as_slice));
        let mut at = self.longest(path);
        while let Some(prefix) = at.and_then(|at| self.prefixes.get(at)) {
            look(&prefix.rules);
            at = prefix.within;
        }
        look(&self.rest);
        best
    }

    /// The longest prefix of `path`.
    fn longest(&self, path: &str) -> Option<usize> {
        // Texts between a prefix of the path and the path start with that prefix as well.
        let mut at = self.prefixes.partition_point(|p| &*p.text <= path).checked_sub(1);
        while let Some(prefix) = at.and_then(|at| self.prefixes.get(at)) {
            if path.starts_with(&*prefix.text) {
                return at;
            }
            at = prefix.within;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn some_path() -> impl Strategy<Value = String> {
        "[/ab]{0,5}"
    }

    fn some_key() -> impl Strategy<Value = PathKey> {
        prop_oneof![
            3 => some_path().prop_map(|p| PathKey::Exact(p.into())),
            4 => some_path().prop_map(|p| PathKey::Prefix(p.into())),
            1 => Just(PathKey::Any),
        ]
    }

    proptest! {
        #[test]
        fn the_first_is_that_of_asking_each(keys in vec(some_key(), 0..24), path in some_path(), holds in any::<u32>()) {
            let holds = |number: u32| holds & (1 << (number % 32)) != 0;
            let matches = |key: &PathKey| match key {
                PathKey::Exact(exact) => **exact == *path,
                PathKey::Prefix(prefix) => path.starts_with(&**prefix),
                PathKey::Any => true,
            };
            let naive = keys.iter().enumerate().map(|(i, key)| (u32::try_from(i).unwrap(), key)).find(|(i, key)| matches(key) && holds(*i));
            prop_assert_eq!(Matcher::new(keys.clone()).first(&path, holds), naive.map(|(i, _)| i));
        }
    }

    #[test]
    fn many_rules_cost_a_few_questions() {
        let keys = (0..10_000).map(|n| PathKey::Prefix(format!("/service-{n}/").into()));
        let keys = keys.chain((0..10_000).map(|n| PathKey::Exact(format!("/exact-{n}").into()))).chain([PathKey::Any]);
        let matcher = Matcher::new(keys);
        for (path, expect) in [("/service-7777/x", 7777), ("/exact-42", 10_042), ("/none", 20_000)] {
            let mut asked = 0;
            let found = matcher.first(path, |_| {
                asked += 1;
                true
            });
            assert_eq!(found, Some(expect), "{path}");
            assert!(asked <= 2, "{path}: {asked} rules asked");
        }
    }
}
