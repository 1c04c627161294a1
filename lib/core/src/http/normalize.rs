//! Normalisation of request paths, before anything reads one. Policy, routes and the application all get the result: a
//! path that policy reads in one way and the application in another is a way around the policy.
//!
//! ```text
//! path --> escaped slashes decoded (DECODE_AND_MERGE_SLASHES) --> backslashes, escapes, dot segments --> slashes merged
//! ```
//! The query is never changed. `;` has no meaning, as in RFC 3986.
//!
//! What must hold: the result of a result is the result; it has no dot segment and no backslash; and what has two
//! readings, or none, is refused.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::Serialize;

/// How far paths are normalised: Istio's `meshConfig.pathNormalization.normalization`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum PathNormalization {
    /// `NONE`: not at all.
    None,
    /// `BASE`, `DEFAULT`: dot segments (RFC 3986, 5.2.4), also escaped ones; `\` is `/`; escapes of letters, digits and
    /// `-_~.` are decoded, and what no path may have is escaped.
    #[default]
    Base,
    /// `MERGE_SLASHES`: several `/` are one, too.
    MergeSlashes,
    /// `DECODE_AND_MERGE_SLASHES`: `%2F` and `%5C` are slashes, too, before all else.
    DecodeAndMergeSlashes,
}

impl PathNormalization {
    /// The words of Istio's setting.
    pub const KNOWN: &[&str] = &["DEFAULT", "NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"];

    /// Istio's word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Base => "BASE",
            Self::MergeSlashes => "MERGE_SLASHES",
            Self::DecodeAndMergeSlashes => "DECODE_AND_MERGE_SLASHES",
        }
    }
}

impl fmt::Display for PathNormalization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is none of [`PathNormalization::KNOWN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is one of {}", PathNormalization::KNOWN.join(", "))]
pub struct UnknownNormalization;

impl FromStr for PathNormalization {
    type Err = UnknownNormalization;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "NONE" => Self::None,
            "DEFAULT" | "BASE" => Self::Base,
            "MERGE_SLASHES" => Self::MergeSlashes,
            "DECODE_AND_MERGE_SLASHES" => Self::DecodeAndMergeSlashes,
            _ => return Err(UnknownNormalization),
        })
    }
}

/// The reason why a path is refused: the request is answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unnormalizable {
    /// It is neither `/...` nor `*`.
    #[error("a path starts with a slash")]
    Start,
    /// A control character or a space.
    #[error("a path has no control character and no space")]
    Character,
    /// `#`.
    #[error("a request has no fragment")]
    Fragment,
    /// `%` without two hexadecimal digits.
    #[error("a `%` stands before two hexadecimal digits")]
    Escape,
    /// `%00`.
    #[error("a path has no NUL, also not as %00")]
    Nul,
}

/// The normalised form of `:path`, with its query as it is.
///
/// # Errors
/// Of a path that cannot be read for certain.
pub fn normalize(path: &str, mode: PathNormalization) -> Result<Cow<'_, str>, Unnormalizable> {
    if path.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return Err(Unnormalizable::Character);
    }
    if path.contains('#') {
        return Err(Unnormalizable::Fragment);
    }
    // Of `OPTIONS` (RFC 9110, 7.1).
    if path == "*" || (mode == PathNormalization::None && path.starts_with('/')) {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err(Unnormalizable::Start);
    }
    let (alone, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    if is_normal(alone, mode) {
        return Ok(Cow::Borrowed(path));
    }
    let mut text = characters(alone, mode)?;
    text = dots(&text);
    if matches!(mode, PathNormalization::MergeSlashes | PathNormalization::DecodeAndMergeSlashes) {
        text = merged(&text);
    }
    text.push_str(query);
    Ok(if text == path { Cow::Borrowed(path) } else { Cow::Owned(text) })
}

/// Nothing in it could change: the usual case, which takes no allocation.
fn is_normal(path: &str, mode: PathNormalization) -> bool {
    let has_slashes = mode != PathNormalization::Base && path.contains("//");
    !has_slashes && !path.contains("/.") && path.bytes().all(|b| b != b'%' && b != b'\\' && !is_escaped(b))
}

/// Characters that stand in a path as escapes alone: those that Envoy's canonical form escapes.
const fn is_escaped(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80..)
}

/// Escapes that mean the same as the character (RFC 3986, 2.3).
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Each character in its one spelling.
fn characters(path: &str, mode: PathNormalization) -> Result<String, Unnormalizable> {
    let decodes_slashes = mode == PathNormalization::DecodeAndMergeSlashes;
    let mut text = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = [bytes.next(), bytes.next()].map(|b| b.map(char::from));
                let [Some(high), Some(low)] = digits else { return Err(Unnormalizable::Escape) };
                let value = |digit: char| digit.to_digit(16).and_then(|n| u8::try_from(n).ok());
                let (Some(first), Some(second)) = (value(high), value(low)) else { return Err(Unnormalizable::Escape) };
                match first << 4 | second {
                    0 => return Err(Unnormalizable::Nul),
                    b'/' | b'\\' if decodes_slashes => text.push('/'),
                    plain if is_unreserved(plain) => text.push(char::from(plain)),
                    // As it is written: the application may tell the two spellings apart.
                    _ => text.extend(['%', high, low]),
                }
            }
            b'\\' => text.push('/'),
            byte if is_escaped(byte) => push_escape(&mut text, byte),
            byte => text.push(char::from(byte)),
        }
    }
    Ok(text)
}

fn push_escape(text: &mut String, byte: u8) {
    let digit = |n: u8| char::from_digit(n.into(), 16).unwrap_or_default().to_ascii_uppercase();
    text.extend(['%', digit(byte >> 4), digit(byte & 0xf)]);
}

/// Without `.` and `..` (RFC 3986, 5.2.4). Above the root there is the root.
fn dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    kept.iter().fold(String::with_capacity(path.len()), |text, segment| text + "/" + segment)
}

fn merged(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !text.ends_with('/') {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{PathNormalization as Mode, Unnormalizable as E, *};

    const MODES: [Mode; 4] = [Mode::None, Mode::Base, Mode::MergeSlashes, Mode::DecodeAndMergeSlashes];

    /// What becomes of a path in each mode; empty: as in the one before.
    fn check(path: &str, expect: [&str; 4]) {
        let mut last = path;
        for (mode, expect) in MODES.into_iter().zip(expect) {
            last = if expect.is_empty() { last } else { expect };
            assert_eq!(normalize(path, mode).as_deref(), Ok(last), "{path} {mode:?}");
        }
    }

    #[test]
    fn paths_by_mode() {
        for same in
            ["/", "/a", "/a/b/", "/a;x=1/b;y", "/.a/..b/...", "/a?x=/../%zz//\\", "*", "/a%20b", "/[a]:@!$&'()*+,="]
        {
            check(same, [""; 4]);
        }
        // Dot segments, as they are and escaped; above the root; at the end.
        check("/a/./b", ["", "/a/b", "", ""]);
        check("/a/../b", ["", "/b", "", ""]);
        check("/a/%2e%2e/b", ["", "/b", "", ""]);
        check("/a/.%2E/b", ["", "/b", "", ""]);
        check("/a/%2e/b", ["", "/a/b", "", ""]);
        check("/../../a", ["", "/a", "", ""]);
        check("/a/..", ["", "/", "", ""]);
        check("/a/.", ["", "/a/", "", ""]);
        check("/a/b/..?x=..", ["", "/a/?x=..", "", ""]);
        check("/a/..;/b", [""; 4]);
        // Slashes: several, back, escaped.
        check("//a///b//", ["", "", "/a/b/", ""]);
        check("/a//../b", ["", "/a/b", "", ""]);
        check("/a\\b\\..\\c", ["", "/a/c", "", ""]);
        check("/a%2Fb", ["", "", "", "/a/b"]);
        check("/a%2fb", ["", "", "", "/a/b"]);
        check("/a%5Cb", ["", "", "", "/a/b"]);
        check("/a%2f..%2fb", ["", "", "", "/b"]);
        check("/a/%2e%2e%2fb", ["", "/a/..%2fb", "", "/b"]);
        check("/a/%2f/b", ["", "", "", "/a/b"]);
        // Escapes: once, and in one spelling.
        check("/%61%2D%7e", ["", "/a-~", "", ""]);
        check("/%252e%252e/a", [""; 4]);
        check("/a%3b%3B", [""; 4]);
        check("/ü\"{x}", ["", "/%C3%BC%22%7Bx%7D", "", ""]);
    }

    #[test]
    fn refuses_by_name() {
        let check = |path: &str, expect: E| {
            for mode in MODES {
                let expect = match (mode, expect) {
                    (Mode::None, E::Escape | E::Nul) => Ok(Cow::Borrowed(path)),
                    _ => Err(expect),
                };
                assert_eq!(normalize(path, mode), expect, "{path} {mode:?}");
            }
        };
        for path in ["", "a", "?x", "..", "http://a/b", "\\a", "*/a"] {
            check(path, E::Start);
        }
        for path in ["/a b", "/a\0", "/a\tb", "/a\r\nb", "/a?b c", "/\x7f"] {
            check(path, E::Character);
        }
        for path in ["/%", "/%2", "/a%zz", "/%2%65", "/%u0041", "/%é"] {
            check(path, E::Escape);
        }
        check("/a%00b", E::Nul);
        check("/a#b", E::Fragment);
    }

    #[test]
    fn words_of_the_setting() {
        let known: Vec<_> = Mode::KNOWN.iter().map(|word| word.parse::<Mode>().unwrap()).collect();
        assert_eq!(known, [&[Mode::default()], &MODES[..]].concat());
        assert_eq!("base".parse::<Mode>(), Err(UnknownNormalization));
    }

    proptest! {
        #[test]
        fn a_result_is_its_own(path in "/(a|/|\\\\|\\.|%2[efEF5]|%5[cC]|%61|;|ü|\\?){0,12}") {
            for mode in MODES {
                let once = normalize(&path, mode).unwrap().into_owned();
                let twice = normalize(&once, mode);
                prop_assert_eq!(twice.as_deref(), Ok(&*once), "{:?} {}", mode, path);
                let alone = once.split('?').next().unwrap();
                let is_clean = alone.split('/').all(|segment| segment != "." && segment != "..") && !alone.contains('\\');
                prop_assert!(mode == Mode::None || is_clean, "{mode:?} {path} {once}");
                let merges = matches!(mode, Mode::MergeSlashes | Mode::DecodeAndMergeSlashes);
                prop_assert!(!merges || !alone.contains("//"), "{mode:?} {path} {once}");
            }
        }
    }
}
