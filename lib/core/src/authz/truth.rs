//! The result of a condition about a request. Its own file because there is a third one beside yes and no: what cannot be
//! known. It goes up through a rule, and only there becomes a decision, so that a `not` never turns it into a yes.

use super::value::Match;
use crate::world::Action;

/// Whether something holds, ordered: all of several things hold as far as the least of them, any as far as the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Truth {
    /// It does not.
    No,
    /// It is not to be known.
    Unknown,
    /// It does.
    Yes,
}

impl Truth {
    /// All of them; of none yes.
    pub(super) fn all(parts: impl IntoIterator<Item = Self>) -> Self {
        fold(parts, Self::Yes, Self::No, Self::min)
    }

    /// Any of them; of none no.
    pub(super) fn any(parts: impl IntoIterator<Item = Self>) -> Self {
        fold(parts, Self::No, Self::Yes, Self::max)
    }

    /// The opposite; of what is unknown it is unknown as well.
    pub(super) const fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Unknown => Self::Unknown,
            Self::Yes => Self::No,
        }
    }

    /// A rule of a policy with this action matches: what is unknown denies, is asked about and counted, and allows nothing.
    pub(super) fn counts(self, action: Action) -> bool {
        match self {
            Self::No => false,
            Self::Unknown => action != Action::Allow,
            Self::Yes => true,
        }
    }
}

impl From<bool> for Truth {
    fn from(is: bool) -> Self {
        if is { Self::Yes } else { Self::No }
    }
}

/// Stops where nothing can change the result.
fn fold(
    parts: impl IntoIterator<Item = Truth>,
    start: Truth,
    end: Truth,
    join: impl Fn(Truth, Truth) -> Truth,
) -> Truth {
    let mut all = start;
    for part in parts {
        all = join(all, part);
        if all == end {
            break;
        }
    }
    all
}

impl<T> Match<T> {
    /// As [`Match::matches`], of a test that may not know.
    pub(super) fn truth(&self, test: impl Fn(&T) -> Truth) -> Truth {
        let is = if self.values.is_empty() { Truth::Yes } else { Truth::any(self.values.iter().map(&test)) };
        Truth::all([is, Truth::any(self.not_values.iter().map(&test)).not()])
    }
}

#[cfg(test)]
mod tests {
    use super::{Truth::*, *};

    #[test]
    fn what_is_unknown_never_widens() {
        let m = |values: &[Truth], not_values: &[Truth]| Match { values: values.into(), not_values: not_values.into() };
        for (m, expect) in [
            (m(&[], &[]), Yes),
            (m(&[Unknown], &[]), Unknown),
            (m(&[Unknown, Yes], &[]), Yes),
            (m(&[Unknown, No], &[]), Unknown),
            (m(&[], &[Unknown]), Unknown),
            (m(&[], &[Unknown, Yes]), No),
            (m(&[No], &[Unknown]), No),
            (m(&[Yes], &[Unknown]), Unknown),
        ] {
            assert_eq!(m.truth(|t| *t), expect, "{m:?}");
        }
        assert_eq!([No, Unknown, Yes].map(|t| t.counts(Action::Allow)), [false, false, true]);
        assert_eq!([No, Unknown, Yes].map(|t| t.counts(Action::Deny)), [false, true, true]);
    }
}
