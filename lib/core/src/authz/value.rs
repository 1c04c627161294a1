//! Matching of one field of a policy with one value: Istio's string patterns, and positive and negative lists.

use std::sync::Arc;

use serde::{Serialize, Serializer};

/// `*` presence, `x*` prefix, `*x` suffix, else exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringMatch {
    /// Any value, but there must be one.
    Present,
    /// Exactly this.
    Exact(Arc<str>),
    /// Anything that starts so.
    Prefix(Arc<str>),
    /// Anything that ends so.
    Suffix(Arc<str>),
}

impl StringMatch {
    /// From its form in a policy. Every text is a pattern; a further star is an ordinary character, which the
    /// doors refuse in what L4 judges.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if text == "*" {
            Self::Present
        } else if let Some(suffix) = text.strip_prefix('*') {
            Self::Suffix(suffix.into())
        } else if let Some(prefix) = text.strip_suffix('*') {
            Self::Prefix(prefix.into())
        } else {
            Self::Exact(text.into())
        }
    }

    /// Whether `value` matches.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Present => !value.is_empty(),
            Self::Exact(t) => value == &**t,
            Self::Prefix(t) => value.starts_with(&**t),
            Self::Suffix(t) => value.ends_with(&**t),
        }
    }

    /// Whether a header with this value matches: `*` is any header that is there, also an empty one, as in Envoy.
    #[must_use]
    pub fn matches_header(&self, value: &[u8]) -> bool {
        match self {
            Self::Present => true,
            Self::Exact(t) => value == t.as_bytes(),
            Self::Prefix(t) => value.starts_with(t.as_bytes()),
            Self::Suffix(t) => value.ends_with(t.as_bytes()),
        }
    }

    /// Whether `value` matches where the case of ASCII letters makes no difference.
    #[must_use]
    pub fn matches_ignoring_case(&self, value: &str) -> bool {
        let value = value.as_bytes();
        let end = |t: &str| value.len().checked_sub(t.len()).and_then(|at| value.get(at..));
        match self {
            Self::Present => !value.is_empty(),
            Self::Exact(t) => value.eq_ignore_ascii_case(t.as_bytes()),
            Self::Prefix(t) => value.get(..t.len()).is_some_and(|start| start.eq_ignore_ascii_case(t.as_bytes())),
            Self::Suffix(t) => end(t).is_some_and(|end| end.eq_ignore_ascii_case(t.as_bytes())),
        }
    }
}

impl Serialize for StringMatch {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Present => s.serialize_str("*"),
            Self::Exact(t) => s.serialize_str(t),
            Self::Prefix(t) => s.collect_str(&format_args!("{t}*")),
            Self::Suffix(t) => s.collect_str(&format_args!("*{t}")),
        }
    }
}

/// `field` and `notField` of a policy: any of the values, and none of the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Match<T> {
    /// One of these must match; none given: anything does.
    pub values: Vec<T>,
    /// None of these may match.
    pub not_values: Vec<T>,
}

impl<T> Default for Match<T> {
    fn default() -> Self {
        Self { values: Vec::new(), not_values: Vec::new() }
    }
}

impl<T> Match<T> {
    /// Nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.not_values.is_empty()
    }

    /// `test` says whether one value matches. A missing property (no identity) must fail every test: then a positive
    /// list is false and a negative one true.
    pub fn matches(&self, test: impl Fn(&T) -> bool) -> bool {
        self.matches_or(test, |_| false)
    }

    /// The same, where a value of the positive list matches as well if `also` says so. Of the negative one it says nothing.
    pub fn matches_or(&self, test: impl Fn(&T) -> bool, also: impl Fn(&T) -> bool) -> bool {
        (self.values.is_empty() || self.values.iter().any(|value| test(value) || also(value)))
            && !self.not_values.iter().any(&test)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, value, expect) in [
            ("*", "x", true),
            ("*", "", false),
            ("a*", "abc", true),
            ("a*", "ba", false),
            ("*c", "abc", true),
            ("*c", "cb", false),
            ("a", "a", true),
            ("a", "ab", false),
            ("a*c", "a*c", true),
            ("a*c", "abc", false),
            ("", "", true),
            ("", "a", false),
        ] {
            let m = StringMatch::parse(pattern);
            assert_eq!(m.matches(value), expect, "{pattern:?} {value:?}");
            assert_eq!(m.matches_header(value.as_bytes()), expect || pattern == "*", "{pattern:?} {value:?}");
            assert_eq!(m.matches_ignoring_case(&value.to_uppercase()), expect, "{pattern:?} {value:?}");
        }
    }

    #[test]
    fn positive_and_negative_lists() {
        let m = |values: &[u16], not_values: &[u16]| Match { values: values.into(), not_values: not_values.into() };
        for (m, expect) in [
            (m(&[], &[]), true),
            (m(&[80], &[]), true),
            (m(&[81], &[]), false),
            (m(&[81, 80], &[]), true),
            (m(&[], &[80]), false),
            (m(&[], &[81]), true),
            (m(&[80], &[80]), false),
        ] {
            assert_eq!(m.matches(|p| *p == 80), expect, "{m:?}");
        }
    }
}
