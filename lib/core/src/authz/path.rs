//! Patterns of request paths. Their own file because a path has two languages: the patterns of all other texts, and
//! Istio's templates, in which `{*}` stands for one whole segment and `{**}` for any number of them.
//!
//! What must hold: a pattern with a brace is a template or an error, never a text with a brace in it. Read as a text it
//! would match no path, and a DENY with it would deny nothing.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Serialize, Serializer};

use super::{StringMatch, truth::Truth};

/// A pattern of a request's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The path as a text.
    Text(StringMatch),
    /// The path by its segments.
    Template(PathTemplate),
}

/// `/a/{*}/b/{**}`: segments, at least one of which stands for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    segments: Arc<[PathSegment]>,
    ends_with_slash: bool,
}

/// One segment of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathSegment {
    /// Exactly this.
    Literal(Arc<str>),
    /// `{*}`: any one.
    One,
    /// `{**}`: any number of them, also none.
    Any,
}

/// The reason why a text with braces is not a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParsePathError {
    /// A name in braces, or something beside them.
    #[error("braces are read as `{{*}}` and `{{**}}` alone, each a whole segment between two `/`")]
    Brace,
    /// Its segments could not be told apart from those before.
    #[error("neither `{{*}}` nor another `{{**}}` can follow `{{**}}`")]
    BehindAny,
    /// Characters that no segment of a path has (RFC 3986, 3.3), or a star, which means something in braces alone.
    #[error("a segment of a template has at least one character, of A-Z, a-z, 0-9 and -._~%!$&'()+,;:@=")]
    Segment,
    /// No path begins so.
    #[error("a template starts with `/`")]
    Start,
}

impl PathTemplate {
    /// Its segments, in order.
    #[must_use]
    pub fn segments(&self) -> &[PathSegment] {
        &self.segments
    }

    /// A `/` follows the last segment.
    #[must_use]
    pub const fn ends_with_slash(&self) -> bool {
        self.ends_with_slash
    }

    /// Whether a path without its query matches. Unknown: it would, but has a character in the place of a `{*}` or
    /// `{**}` that no segment has.
    pub(super) fn matches(&self, path: &str) -> Truth {
        self.holes(path).map_or(Truth::No, |holes| {
            let is_plain = |hole: &str| hole.bytes().all(|b| b == b'/' || is_literal(b));
            if holes.into_iter().all(is_plain) { Truth::Yes } else { Truth::Unknown }
        })
    }

    /// What stands in a path that fits in the place of each `{*}` and of the `{**}`.
    fn holes<'p>(&self, path: &'p str) -> Option<Vec<&'p str>> {
        let (mut rest, mut holes) = (path, Vec::new());
        let mut segments = self.segments.iter();
        for segment in segments.by_ref() {
            rest = rest.strip_prefix('/')?;
            match segment {
                PathSegment::Literal(text) => rest = rest.strip_prefix(&**text)?,
                PathSegment::One => {
                    let (one, after) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                    holes.push(Some(one).filter(|one| !one.is_empty())?);
                    rest = after;
                }
                PathSegment::Any => {
                    holes.push(self.before_end(segments.as_slice(), rest)?);
                    return Some(holes);
                }
            }
        }
        (rest == if self.ends_with_slash { "/" } else { "" }).then_some(holes)
    }

    /// `text` without the template's end, which is these literals.
    fn before_end<'p>(&self, literals: &[PathSegment], text: &'p str) -> Option<&'p str> {
        let rest = if self.ends_with_slash { text.strip_suffix('/')? } else { text };
        literals.iter().rev().try_fold(rest, |rest, segment| match segment {
            PathSegment::Literal(literal) => rest.strip_suffix(&**literal)?.strip_suffix('/'),
            PathSegment::One | PathSegment::Any => None,
        })
    }
}

impl PathMatch {
    /// Whether a path without its query matches. Unknown: it would, were its escapes written as the pattern's are.
    pub(super) fn matches(&self, path: &str) -> Truth {
        match self.compare(path) {
            Truth::No if path.contains('%') => {
                Truth::min(self.with_upper_escapes().compare(&upper_escapes(path)), Truth::Unknown)
            }
            truth => truth,
        }
    }

    fn compare(&self, path: &str) -> Truth {
        match self {
            Self::Text(text) => text.matches(path).into(),
            Self::Template(template) => template.matches(path),
        }
    }

    fn with_upper_escapes(&self) -> Self {
        let upper = |text: &str| Arc::from(upper_escapes(text));
        match self {
            Self::Text(StringMatch::Present) => self.clone(),
            Self::Text(StringMatch::Exact(text)) => Self::Text(StringMatch::Exact(upper(text))),
            Self::Text(StringMatch::Prefix(text)) => Self::Text(StringMatch::Prefix(upper(text))),
            Self::Text(StringMatch::Suffix(text)) => Self::Text(StringMatch::Suffix(upper(text))),
            Self::Template(template) => {
                let segments = template.segments.iter().map(|segment| match segment {
                    PathSegment::Literal(text) => PathSegment::Literal(upper(text)),
                    other => other.clone(),
                });
                Self::Template(PathTemplate { segments: segments.collect(), ends_with_slash: template.ends_with_slash })
            }
        }
    }
}

/// `%2F` of `%2f`.
fn upper_escapes(text: &str) -> String {
    let mut left = 0_u8;
    let upper = text.chars().map(|c| {
        left = if c == '%' { 2 } else { left };
        let is_digit = c != '%' && left > 0;
        left = left.saturating_sub(u8::from(is_digit));
        if is_digit { c.to_ascii_uppercase() } else { c }
    });
    upper.collect()
}

impl FromStr for PathMatch {
    type Err = ParsePathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains(['{', '}']) {
            text.parse().map(Self::Template)
        } else {
            Ok(Self::Text(StringMatch::parse(text)))
        }
    }
}

impl FromStr for PathTemplate {
    type Err = ParsePathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let body = text.strip_prefix('/').unwrap_or(text);
        let (body, ends_with_slash) = body.strip_suffix('/').map_or((body, false), |body| (body, true));
        let segments = body.split('/').map(segment).collect::<Result<Arc<[_]>, _>>()?;
        let mut behind_any = segments.iter().skip_while(|s| **s != PathSegment::Any).skip(1);
        if behind_any.any(|s| !matches!(s, PathSegment::Literal(_))) {
            return Err(ParsePathError::BehindAny);
        }
        if !text.starts_with('/') {
            return Err(ParsePathError::Start);
        }
        Ok(Self { segments, ends_with_slash })
    }
}

fn is_literal(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&b)
}

fn segment(text: &str) -> Result<PathSegment, ParsePathError> {
    match text {
        "{*}" => Ok(PathSegment::One),
        "{**}" => Ok(PathSegment::Any),
        _ if text.contains(['{', '}']) => Err(ParsePathError::Brace),
        _ if !text.is_empty() && text.bytes().all(is_literal) => Ok(PathSegment::Literal(text.into())),
        _ => Err(ParsePathError::Segment),
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &*self.segments {
            match segment {
                PathSegment::Literal(text) => write!(f, "/{text}")?,
                PathSegment::One => f.write_str("/{*}")?,
                PathSegment::Any => f.write_str("/{**}")?,
            }
        }
        f.write_str(if self.ends_with_slash { "/" } else { "" })
    }
}

impl Serialize for PathMatch {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => text.serialize(s),
            Self::Template(template) => s.collect_str(template),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_without_braces_are_texts() {
        for text in ["*", "/a", "/a*", "*/a", "/a/*/b", "/a/**", "a", "/?x"] {
            assert_eq!(text.parse(), Ok(PathMatch::Text(StringMatch::parse(text))), "{text}");
        }
    }

    #[test]
    fn templates() {
        use PathSegment::{Any, Literal, One};
        let check = |text: &str, expect: &[PathSegment], slash: bool| {
            let Ok(PathMatch::Template(template)) = text.parse() else { panic!("{text}") };
            assert_eq!((template.segments(), template.ends_with_slash()), (expect, slash), "{text}");
        };
        let literal = |text: &str| Literal(text.into());
        check("/{*}", &[One], false);
        check("/{**}", &[Any], false);
        check("/{**}/", &[Any], true);
        check("/{*}/foo", &[One, literal("foo")], false);
        check("/{*}/foo/", &[One, literal("foo")], true);
        check("/foo/{*}/{*}/{**}", &[literal("foo"), One, One, Any], false);
        check("/foo/{**}/a%20b=c/@.txt", &[literal("foo"), Any, literal("a%20b=c"), literal("@.txt")], false);
    }

    #[test]
    fn paths_that_fit_templates() {
        let check = |template: &str, path: &str, expect: Truth| {
            let Ok(PathMatch::Template(parsed)) = template.parse() else { panic!("{template}") };
            assert_eq!(parsed.matches(path), expect, "{template} {path}");
        };
        for (template, fits, not) in [
            ("/{*}", &["/a", "/a.b", "/%20"][..], &["/", "/a/", "/a/b", "a", ""][..]),
            ("/{*}/", &["/a/"], &["/a", "//", "/a/b/"]),
            ("/{**}", &["/", "/a", "/a/", "/a/b", "//"], &["", "a"]),
            ("/{**}/", &["//", "/a/", "/a/b/"], &["/", "/a"]),
            ("/a/{*}/c", &["/a/b/c", "/a/;x=1/c"], &["/a//c", "/a/b/b/c", "/a/b/cx", "/a/b/c/", "/x/a/b/c"]),
            ("/a/{**}", &["/a/", "/a/b", "/a/b/c"], &["/a", "/ab", "/b/a/"]),
            ("/a/{**}/c", &["/a//c", "/a/b/c", "/a/b/b/c", "/a/c/c"], &["/a/c", "/a/b/cx", "/a/xc", "/a/b/c/"]),
            ("/a/{*}/{*}/{**}/d.x/e", &["/a/b/c//d.x/e", "/a/b/c/x/y/d.x/e"], &["/a/b/c/d.x/e", "/a/b//x/d.x/e"]),
        ] {
            fits.iter().for_each(|path| check(template, path, Truth::Yes));
            not.iter().for_each(|path| check(template, path, Truth::No));
        }
        check("/{*}/b", "/\"/b", Truth::Unknown);
        check("/{*}/b", "/\"/c", Truth::No);
        check("/a/{**}", "/a/b/*", Truth::Unknown);
    }

    #[test]
    fn escapes_in_two_spellings() {
        let check = |pattern: &str, path: &str, expect: Truth| {
            assert_eq!(pattern.parse::<PathMatch>().unwrap().matches(path), expect, "{pattern} {path}");
        };
        for pattern in ["/a%2fb", "/a%2f*", "*%2fb"] {
            check(pattern, "/a%2fb", Truth::Yes);
            check(pattern, "/a%2Fb", Truth::Unknown);
            check(pattern, "/a/b", Truth::No);
        }
        check("/x%3A/{*}", "/x%3a/y", Truth::Unknown);
        check("/x%3A/{*}", "/X%3a/y", Truth::No);
        check("/a%2fB", "/a%2Fb", Truth::No);
    }

    #[test]
    fn refuses_by_name() {
        use ParsePathError as E;
        let check = |text: &str, want: E| assert_eq!(text.parse::<PathMatch>(), Err(want), "{text}");
        for text in [
            "/{buzz}",
            "/foo/{buzz}/bar",
            "/foo/{}/{*}",
            "/{*}/{buzz=**}",
            "/{*}/foo/{*}.txt",
            "/foo/{**}buzz",
            "/{*}/{temp",
            "/{*}/temp}/bar",
            "{",
            "*}",
            "/a{*",
            "{buzz}*",
            "/{***}",
            "/{{*}}",
        ] {
            check(text, E::Brace);
        }
        for text in ["/{**}/foo/{*}/bar", "/{**}/{**}", "/{*}/{**}/foo/{**}/bar", "{**}/{*}"] {
            check(text, E::BehindAny);
        }
        for text in
            ["/{*}/*", "/foo/{*}/**/bar", "/{*}/a*", "/{*}//foo", "//{*}", "/{*}//", "/{*}/?a", "/{*}/ü", "/{*}/a b"]
        {
            check(text, E::Segment);
        }
        for text in ["{*}", "{*}/foo", "foo/{**}", "foo/{*}/"] {
            check(text, E::Start);
        }
    }

    proptest! {
        #[test]
        fn parsed_templates_print_the_same(text in "/?(([a-z*%?]{0,2}|\\{\\*\\}|\\{\\*\\*\\}|\\{[a*]\\})/?){0,4}") {
            if let Ok(template) = text.parse::<PathTemplate>() {
                prop_assert_eq!(template.to_string(), text);
            }
        }
    }
}
