//! Patterns of request paths. Their own file because a path has two languages: the patterns of all other texts, and
//! Istio's templates, in which `{*}` stands for one whole segment and `{**}` for any number of them.
//!
//! What must hold: a pattern with a brace is a template or an error, never a text with a brace in it. Read as a text it
//! would match no path, and a DENY with it would deny nothing.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Serialize, Serializer};

use super::StringMatch;

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

fn segment(text: &str) -> Result<PathSegment, ParsePathError> {
    let is_literal = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&b);
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
