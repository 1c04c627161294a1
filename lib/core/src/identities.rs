//! A set of identities, any of which may answer at an address. Its own file because a plan names it, a tunnel's
//! handshake asks it, a pool of tunnels shares by it, and an open connection is judged again by it: all must mean the
//! same set.

use std::{collections::BTreeSet, fmt, sync::Arc};

use serde::{Serialize, Serializer};

use crate::Identity;

/// Identities, sorted, none twice. One pointer to what all clones share.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identities(Arc<[Identity]>);

impl Identities {
    /// Any of `identities`. An empty set accepts none.
    pub fn new(identities: impl IntoIterator<Item = Identity>) -> Self {
        Self(identities.into_iter().collect::<BTreeSet<_>>().into_iter().collect())
    }

    /// `identity` is one of them.
    #[must_use]
    pub fn contains(&self, identity: &Identity) -> bool {
        self.0.binary_search(identity).is_ok()
    }

    /// The one that must answer, where no other may.
    #[must_use]
    pub fn only(&self) -> Option<&Identity> {
        match &*self.0 {
            [one] => Some(one),
            _ => None,
        }
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Identity> {
        self.0.iter()
    }
}

impl From<Identity> for Identities {
    /// `identity` alone.
    fn from(identity: Identity) -> Self {
        Self(Arc::from([identity]))
    }
}

impl fmt::Display for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            [] => f.write_str("no identity"),
            [first, rest @ ..] => {
                write!(f, "{first}")?;
                rest.iter().try_for_each(|identity| write!(f, " or {identity}"))
            }
        }
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Identities {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TrustDomain;

    fn of(account: &str) -> Identity {
        Identity::new(&TrustDomain::default(), "default", account)
    }

    #[test]
    fn equality_order_and_text() {
        let both = Identities::new([of("b"), of("a"), of("b")]);
        assert_eq!(both, Identities::new([of("a"), of("b")]));
        assert!(both.iter().eq(&[of("a"), of("b")]));
        let has = |set: &Identities| ["a", "b", "c", ""].map(|account| set.contains(&of(account)));
        assert_eq!(has(&both), [true, true, false, false]);
        assert_eq!(both.only(), None);
        let one = Identities::from(of("b"));
        assert_eq!((has(&one), one.only()), ([false, true, false, false], Some(&of("b"))));
        assert_eq!(one, Identities::new([of("b")]));
        let none = Identities::new([]);
        assert_eq!((has(&none), none.only()), ([false; 4], None));
        let written = [none, one, both].map(|set| set.to_string());
        assert_eq!(
            written,
            [
                "no identity",
                "spiffe://cluster.local/ns/default/sa/b",
                "spiffe://cluster.local/ns/default/sa/a or spiffe://cluster.local/ns/default/sa/b",
            ]
        );
    }
}
