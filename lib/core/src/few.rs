//! A list that has one element in all but rare cases, and takes no allocation then. Its own file because objects, facts and
//! indexes have such lists, a large mesh millions of them: addresses of a pod, claimants of an address.

use std::{fmt, ops::Deref, slice, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A list of few elements, mostly of one, which is never changed in place. Cheap to clone, as far as its elements are.
#[derive(Clone)]
pub struct Few<T>(Elements<T>);

#[derive(Clone)]
enum Elements<T> {
    One(T),
    /// Two or more; none: there is no element. Behind one pointer, so that the many that are one stay small.
    Others(Option<Arc<Vec<T>>>),
}

impl<T> Few<T> {
    /// Without an element.
    #[must_use]
    pub const fn new() -> Self {
        Self(Elements::Others(None))
    }

    /// Of one element.
    #[must_use]
    pub const fn one(element: T) -> Self {
        Self(Elements::One(element))
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Elements::One(one) => slice::from_ref(one),
            Elements::Others(others) => others.as_ref().map_or(&[], |others| others),
        }
    }
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> From<Vec<T>> for Few<T> {
    fn from(mut all: Vec<T>) -> Self {
        match (all.pop(), all.is_empty()) {
            (None, _) => Self::new(),
            (Some(one), true) => Self::one(one),
            (Some(last), false) => {
                all.push(last);
                all.shrink_to_fit();
                Self(Elements::Others(Some(Arc::new(all))))
            }
        }
    }
}

impl<T: Clone> From<&[T]> for Few<T> {
    fn from(all: &[T]) -> Self {
        all.iter().cloned().collect()
    }
}

impl<T, const N: usize> From<[T; N]> for Few<T> {
    fn from(all: [T; N]) -> Self {
        all.into_iter().collect()
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(all: I) -> Self {
        let mut all = all.into_iter();
        match (all.next(), all.next()) {
            (None, _) => Self::new(),
            (Some(one), None) => Self::one(one),
            (Some(first), Some(second)) => [first, second].into_iter().chain(all).collect::<Vec<_>>().into(),
        }
    }
}

impl<'a, T> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = slice::Iter<'a, T>;

    fn into_iter(self) -> slice::Iter<'a, T> {
        self.iter()
    }
}

impl<T: PartialEq> PartialEq for Few<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq> Eq for Few<T> {}

impl<T: fmt::Debug> fmt::Debug for Few<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl<T: Serialize> Serialize for Few<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Vec::deserialize(d)?.into())
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::ObjectName;

    #[test]
    fn few_are_as_many_as_they_were() {
        for count in 0..4 {
            let (all, few) = ((0..count).collect::<Vec<_>>(), (0..count).collect::<Few<_>>());
            assert_eq!(*few, *all);
            assert_eq!(few, all.clone().into());
            assert_eq!(format!("{few:?}"), format!("{all:?}"));
        }
        assert_ne!(Few::from(vec![1]), Few::from(vec![1, 2]));
    }

    #[test]
    fn one_takes_no_more_than_itself() {
        assert_eq!(size_of::<Few<ObjectName>>(), size_of::<ObjectName>());
        assert_eq!(size_of::<Few<IpAddr>>(), 24);
    }
}
