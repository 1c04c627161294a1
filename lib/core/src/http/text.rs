//! Conditions on texts in routes: Istio's `StringMatch`. Not that of policies, whose stars stand in the text itself.

use std::sync::Arc;

use serde::Serialize;

use super::pattern::Pattern;

/// A condition on one text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum TextMatch {
    /// Exactly this.
    Exact(Arc<str>),
    /// Anything that starts so: `/api` also matches `/apix`.
    Prefix(Arc<str>),
    /// A path that begins with these elements: `/api` matches `/api` and `/api/x`, not `/apix`. Without a
    /// slash at its end, unless it is all of it.
    Elements(Arc<str>),
    /// All of it matches.
    Regex(Pattern),
}

impl TextMatch {
    /// Whether `text` matches.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => text == exact.as_bytes(),
            Self::Prefix(prefix) => text.starts_with(prefix.as_bytes()),
            Self::Elements(first) => &**first == "/" || text.strip_prefix(first.as_bytes()).is_some_and(ends_element),
            Self::Regex(pattern) => pattern.matches(text),
        }
    }

    /// The same, where the case of ASCII letters makes no difference; an expression says that itself.
    #[must_use]
    pub fn matches_ignoring_case(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => text.eq_ignore_ascii_case(exact.as_bytes()),
            Self::Prefix(prefix) => {
                text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
            }
            Self::Elements(first) => text.split_at_checked(first.len()).is_some_and(|(start, rest)| {
                start.eq_ignore_ascii_case(first.as_bytes()) && (&**first == "/" || ends_element(rest))
            }),
            Self::Regex(pattern) => pattern.matches(text),
        }
    }
}

/// What follows an element of a path.
fn ends_element(rest: &[u8]) -> bool {
    matches!(rest.first(), None | Some(b'/'))
}

/// A condition on a header or a query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ValueMatch {
    /// It is there, with any value.
    Present,
    /// Its value matches.
    Value(TextMatch),
}

impl ValueMatch {
    /// Whether a value matches; none: it is not there.
    #[must_use]
    pub fn matches(&self, value: Option<&[u8]>) -> bool {
        match (self, value) {
            (_, None) => false,
            (Self::Present, Some(_)) => true,
            (Self::Value(text), Some(value)) => text.matches(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_paths() {
        for (first, text, expect) in [
            ("/api", "/api", true),
            ("/api", "/api/", true),
            ("/api", "/api/x", true),
            ("/api", "/apix", false),
            ("/api", "/ap", false),
            ("/api", "/API", false),
            ("/a/b", "/a/b/c", true),
            ("/a/b", "/a", false),
            ("/", "/", true),
            ("/", "/x", true),
            ("/", "*", true),
        ] {
            let elements = TextMatch::Elements(first.into());
            assert_eq!(elements.matches(text.as_bytes()), expect, "{first} {text}");
            let ignoring = expect || text == "/API";
            assert!(text == "*" || elements.matches_ignoring_case(text.as_bytes()) == ignoring, "{first} {text}");
        }
    }

    #[test]
    fn conditions() {
        let (exact, prefix) = (TextMatch::Exact("/Api".into()), TextMatch::Prefix("/Api".into()));
        let regex = TextMatch::Regex(Pattern::parse("/A.*").unwrap());
        for (text, expect, ignoring) in [
            ("/Api", [true, true, true], [true, true, true]),
            ("/Apix", [false, true, true], [false, true, true]),
            ("/api", [false, false, false], [true, true, false]),
            ("/apix", [false, false, false], [false, true, false]),
            ("/Ap", [false, false, true], [false, false, true]),
            ("x/Api", [false; 3], [false; 3]),
        ] {
            assert_eq!([&exact, &prefix, &regex].map(|m| m.matches(text.as_bytes())), expect, "{text}");
            let got = [&exact, &prefix, &regex].map(|m| m.matches_ignoring_case(text.as_bytes()));
            assert_eq!(got, ignoring, "{text}");
        }
        let empty = ValueMatch::Value(TextMatch::Exact("".into()));
        for (value, expect) in [(None, [false, false]), (Some(""), [true, true]), (Some("a"), [true, false])] {
            let value = value.map(str::as_bytes);
            assert_eq!([&ValueMatch::Present, &empty].map(|m| m.matches(value)), expect, "{value:?}");
        }
    }
}
