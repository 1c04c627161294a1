//! Regular expressions of routes. Their own file because their language is a promise: it is that of RE2, in which users
//! of Istio write them, read by a crate whose language is nearly the same.
//!
//! What must hold: an expression that the two languages read differently is refused, never read in the other one's
//! sense; a match takes time linear in the text; and neither a long expression nor a large one is compiled.

use std::{fmt, sync::Arc};

use regex::bytes::{Regex, RegexBuilder};
use serde::{Serialize, Serializer};

/// The longest expression, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;
/// The largest compiled one, in bytes of memory.
const MAX_COMPILED_BYTES: usize = 256 * 1024;

/// A regular expression that matches whole texts, as Envoy's matchers do.
#[derive(Clone)]
pub struct Pattern {
    text: Arc<str>,
    compiled: Regex,
}

/// The reason why a text is not an expression that can be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParsePatternError {
    /// It matches nothing but the empty text.
    #[error("it is empty")]
    Empty,
    /// Its text has a limit.
    #[error("it is longer than {MAX_PATTERN_BYTES} bytes")]
    Long,
    /// Its compiled form has a limit.
    #[error("it is too large when it is compiled: repeat less")]
    Large,
    /// RE2 has no such thing, or reads it in another way.
    #[error("`{0}` is not of RE2's language, or means something else in it")]
    Foreign(&'static str),
    /// A syntax error.
    #[error("{0}")]
    Syntax(Arc<str>),
    /// A rewrite names a group that the expression does not have.
    #[error("`\\{0}` is no group of the expression")]
    Group(u8),
    /// A rewrite ends with a backslash, or has one before another character than a digit or a backslash.
    #[error("a backslash stands before a digit, or before another one")]
    Backslash,
}

impl Pattern {
    /// Reads an expression.
    ///
    /// # Errors
    /// Where it is none of RE2's, or too large.
    pub fn parse(text: &str) -> Result<Self, ParsePatternError> {
        // Alone first: a parenthesis too many would else end the group around it.
        compile(text)?;
        Ok(Self { text: text.into(), compiled: build(&format!(r"\A(?:{text})\z"))? })
    }

    /// The whole of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        self.compiled.is_match(text)
    }

    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// An expression, and what stands in the place of each part of a text that it matches: Envoy's `regex_rewrite`.
#[derive(Clone)]
pub struct Substitution {
    text: Arc<str>,
    compiled: Regex,
    rewrite: Arc<str>,
}

impl Substitution {
    /// Reads both: `\1` in `rewrite` is the first group, `\0` all that matched, `\\` a backslash.
    ///
    /// # Errors
    /// Where one of them cannot be served.
    pub fn parse(text: &str, rewrite: &str) -> Result<Self, ParsePatternError> {
        let compiled = compile(text)?;
        for part in parts(rewrite) {
            match part? {
                Part::Group(group) if usize::from(group) >= compiled.captures_len() => {
                    return Err(ParsePatternError::Group(group));
                }
                Part::Group(_) | Part::Text(_) => {}
            }
        }
        Ok(Self { text: text.into(), compiled, rewrite: rewrite.into() })
    }

    /// `text` with every part replaced that matches.
    #[must_use]
    pub fn apply(&self, text: &str) -> String {
        let replaced = self.compiled.replace_all(text.as_bytes(), |found: &regex::bytes::Captures<'_>| {
            let mut out = Vec::new();
            for part in parts(&self.rewrite).flatten() {
                match part {
                    Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                    Part::Group(group) => {
                        out.extend_from_slice(found.get(group.into()).map_or(&[], |group| group.as_bytes()));
                    }
                }
            }
            out
        });
        String::from_utf8_lossy(&replaced).into_owned()
    }
}

/// A piece of a rewrite.
enum Part<'a> {
    Text(&'a str),
    Group(u8),
}

fn parts(rewrite: &str) -> impl Iterator<Item = Result<Part<'_>, ParsePatternError>> {
    let mut rest = rewrite;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some(escaped) = rest.strip_prefix('\\') else {
            let (text, more) = rest.split_at(rest.find('\\').unwrap_or(rest.len()));
            rest = more;
            return Some(Ok(Part::Text(text)));
        };
        let next = escaped.bytes().next();
        rest = escaped.get(1..).unwrap_or_default();
        Some(match next {
            Some(digit @ b'0'..=b'9') => Ok(Part::Group(digit - b'0')),
            Some(b'\\') => Ok(Part::Text("\\")),
            _ => {
                rest = "";
                Err(ParsePatternError::Backslash)
            }
        })
    })
}

fn compile(text: &str) -> Result<Regex, ParsePatternError> {
    if text.is_empty() {
        return Err(ParsePatternError::Empty);
    }
    if text.len() > MAX_PATTERN_BYTES {
        return Err(ParsePatternError::Long);
    }
    foreign(text).map_or(Ok(()), |what| Err(ParsePatternError::Foreign(what)))?;
    build(text)
}

/// Bytes, because a header need not be text, and because the classes of RE2 (`\d`, `\w`, `\s`) are of ASCII alone.
fn build(text: &str) -> Result<Regex, ParsePatternError> {
    RegexBuilder::new(text).unicode(false).size_limit(MAX_COMPILED_BYTES).build().map_err(|e| match e {
        regex::Error::CompiledTooBig(_) => ParsePatternError::Large,
        other => {
            let said = other.to_string();
            let last = said.lines().last().unwrap_or_default();
            ParsePatternError::Syntax(last.strip_prefix("error: ").unwrap_or(last).into())
        }
    })
}

/// The first part that RE2 does not have, or reads as something else.
fn foreign(text: &str) -> Option<&'static str> {
    let mut rest = text;
    let mut in_class = false;
    while let Some(first) = rest.chars().next() {
        let after = rest.get(first.len_utf8()..).unwrap_or_default();
        let begins = |with: &str| rest.starts_with(with);
        let mut skip = 0;
        match first {
            '\\' => {
                let word_ends = [("\\<", "\\<"), ("\\>", "\\>"), ("\\b{", "\\b{"), ("\\u", "\\u"), ("\\U", "\\U")];
                if let Some((_, what)) = word_ends.into_iter().find(|(with, _)| begins(with)) {
                    return Some(what);
                }
                skip = after.chars().next().map_or(0, char::len_utf8);
            }
            '[' if in_class && begins("[:") => skip = after.find(":]").map_or(0, |at| at.saturating_add(2)),
            '[' if in_class => return Some("[ in a class"),
            '[' => {
                in_class = true;
                let negated = after.strip_prefix('^').unwrap_or(after);
                // A bracket that comes first is one of the class.
                let literal = negated.strip_prefix(']').unwrap_or(negated);
                skip = after.len().saturating_sub(literal.len());
            }
            ']' => in_class = false,
            _ if in_class => {
                let operators = [("&&", "&&"), ("--", "--"), ("~~", "~~")];
                if let Some((_, what)) = operators.into_iter().find(|(with, _)| begins(with)) {
                    return Some(what);
                }
            }
            '(' if begins("(?") => {
                let flags = after.trim_start_matches('?').split([':', ')', '<', 'P']).next().unwrap_or_default();
                if flags.contains(['x', 'u', 'R']) {
                    return Some("(?x), (?u) or (?R)");
                }
            }
            _ => {}
        }
        rest = after.get(skip..).unwrap_or_default();
    }
    None
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

impl PartialEq for Substitution {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, &self.rewrite) == (&other.text, &other.rewrite)
    }
}

impl Eq for Substitution {}

impl fmt::Debug for Substitution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/{}/", self.text, self.rewrite)
    }
}

impl Serialize for Substitution {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        [&self.text, &self.rewrite].serialize(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_text_must_match() {
        for (pattern, text, expect) in [
            ("a.c", "abc", true),
            ("a.c", "xabc", false),
            ("a.c", "abcx", false),
            ("a|b", "b", true),
            ("a|b", "ab", false),
            ("^/v[0-9]+$", "/v12", true),
            ("^/v[0-9]+$", "/v12\n", false),
            ("(?i)jason", "JaSon", true),
            ("jason", "Jason", false),
            (r"\d+", "12", true),
            (r"\d+", "١٢", false),
            ("[[:alpha:]]+", "ab", true),
            ("[]a]+", "a]", true),
            ("[^]a]+", "bc", true),
            ("a.b", "a\nb", false),
            ("(?s)a.b", "a\nb", true),
            (r"\[a", "[a", true),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(text.as_bytes()), expect, "{pattern:?} {text:?}");
        }
        assert!(Pattern::parse(".*").unwrap().matches(b"\xff"), "headers need not be text");
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        let why = |text: &str| Pattern::parse(text).unwrap_err();
        assert_eq!(why(""), ParsePatternError::Empty);
        assert_eq!(why(&"a".repeat(MAX_PATTERN_BYTES + 1)), ParsePatternError::Long);
        assert_eq!(why("(((a{100}){100}){100})"), ParsePatternError::Large);
        // a parenthesis too many ends no group around the expression
        for bad in ["a)|(b", "(a", "a)", "[a", "*", "a**b)", "(?=a)", r"(a)\1", r"\C", r"\Qa\E"] {
            assert!(matches!(why(bad), ParsePatternError::Syntax(_)), "{bad}: {:?}", why(bad));
        }
        for foreign in [
            "[a[b]]",
            "[a-z&&[^b]]",
            "[a--b]",
            "[a~~b]",
            "(?x)a b",
            "(?iu)a",
            "(?R)a",
            r"\<a",
            r"\b{start}a",
            r"\u{61}",
        ] {
            assert!(matches!(why(foreign), ParsePatternError::Foreign(_)), "{foreign}: {:?}", why(foreign));
        }
        assert!(Pattern::parse("(?P<ux>a)(?:x)").is_ok(), "names and groups are no flags");
    }

    #[test]
    fn substitutions() {
        for (pattern, rewrite, text, expect) in [
            ("^/service/([^/]+)(/.*)$", r"\2/instance/\1", "/service/foo/v1/api", "/v1/api/instance/foo"),
            ("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"),
            ("^(.*?)one(.*)$", r"\1two\2", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/one/zzz"),
            ("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
            ("a", r"\\\0$1", "ab", r"\a$1b"),
            ("(a)|(b)", r"<\2>", "ab", "<><b>"),
            ("x", "y", "/none", "/none"),
        ] {
            assert_eq!(Substitution::parse(pattern, rewrite).unwrap().apply(text), expect, "{pattern} {rewrite}");
        }
        let why = |rewrite: &str| Substitution::parse("(a)", rewrite).unwrap_err();
        assert_eq!(why(r"\2"), ParsePatternError::Group(2));
        assert_eq!([why("a\\"), why(r"\x")], [ParsePatternError::Backslash, ParsePatternError::Backslash]);
    }
}
