//! Labels and selectors, which objects have and a policy's scope shows. Its own file because objects and facts share
//! it.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Ends every key and every value. Before every other character, so that texts of pairs are ordered as pairs are.
const END: char = '\0';

/// Labels or annotations, ordered by key, each key once. One text with all of them: every pod has some, and few are ever
/// asked for. Cheap to clone. No label has a NUL; where an annotation has one, it stands as U+FFFD.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Labels(Option<Arc<str>>);

impl Labels {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self(None)
    }

    /// There is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == key).map(|(_, value)| value)
    }

    /// All keys with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = self.text();
        std::iter::from_fn(move || {
            let (key, more) = rest.split_once(END)?;
            let (value, more) = more.split_once(END)?;
            rest = more;
            Some((key, value))
        })
    }

    /// All keys with their values, each pair as a text that is equal to another one's if and only if both are.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = &str> {
        let mut rest = self.text();
        self.iter().filter_map(move |(key, value)| {
            let (pair, more) = rest.split_at_checked(key.len() + value.len() + END.len_utf8())?;
            rest = more.strip_prefix(END)?;
            Some(pair)
        })
    }

    fn text(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// Sets the value of a key.
    pub fn insert(&mut self, key: Arc<str>, value: Arc<str>) {
        self.extend([(key, value)].into_iter().collect());
    }

    /// Sets the values of several keys.
    pub fn extend(&mut self, more: Self) {
        *self = self.iter().chain(more.iter()).collect();
    }

    /// Removes a key, and answers its value.
    pub fn remove(&mut self, key: &str) -> Option<Arc<str>> {
        let value = self.get(key).map(Arc::from);
        *self = self.iter().filter(|(known, _)| *known != key).collect();
        value
    }
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for Labels {
    /// Of two values of a key the later counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let known = |text: &str| text.replace(END, "\u{FFFD}");
        let sorted: BTreeMap<_, _> = pairs.into_iter().map(|(k, v)| (known(k.as_ref()), known(v.as_ref()))).collect();
        let text: String = sorted.iter().flat_map(|(key, value)| [key, "\0", value, "\0"]).collect();
        Self((!text.is_empty()).then(|| text.into()))
    }
}

impl<const N: usize> From<[(Arc<str>, Arc<str>); N]> for Labels {
    fn from(pairs: [(Arc<str>, Arc<str>); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(BTreeMap::<String, String>::deserialize(d)?.into_iter().collect())
    }
}

/// Whether `labels` has every pair of `selector`. An empty selector selects everything.
#[must_use]
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.pairs().all(|wanted| labels.pairs().any(|pair| pair == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_a_map() {
        let mut labels: Labels = [("b", "2"), ("a", "x"), ("a", "1"), ("empty", "")].into_iter().collect();
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "2"), ("empty", "")]);
        assert_eq!(
            ["a", "b", "empty", "", "1"].map(|key| labels.get(key)),
            [Some("1"), Some("2"), Some(""), None, None]
        );
        labels.insert("a".into(), "3".into());
        assert_eq!([labels.remove("b").as_deref(), labels.remove("b").as_deref()], [Some("2"), None]);
        assert_eq!(format!("{labels:?}"), r#"{"a": "3", "empty": ""}"#);
        ["a", "empty"].into_iter().for_each(|key| drop(labels.remove(key)));
        assert!(labels.is_empty() && labels == Labels::new());
    }

    #[test]
    fn no_pair_reads_as_another() {
        let labels = |key, value| Labels::from_iter([(key, value)]);
        let (a, b) = (labels("a\0b", "c"), labels("a", "b\0c"));
        assert_ne!(a, b);
        assert_eq!((a.iter().next(), b.iter().next()), (Some(("a\u{FFFD}b", "c")), Some(("a", "b\u{FFFD}c"))));
        assert!(!selects(&labels("a", ""), &labels("a", "b")) && !selects(&labels("a", "b"), &labels("a", "bc")));
    }
}
