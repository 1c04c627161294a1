//! Escaping of the values of a line: bare, quoted, or inside of quotes. Its own file because it protects the log from lines that are forged
//! by a name that an attacker chose.
//!
//! What must hold: no value adds a line, ends a quote, or shows anything on a terminal that is not there. A quoted value is a
//! JSON string in both formats, so one decoder reads both.

use std::fmt::{Display, Write as _};

/// Appends `value` as logfmt: bare where nothing in it could be misread, else quoted.
pub(super) fn push_text(out: &mut String, value: impl Display) {
    let start = out.len();
    let _ = write!(out, "{value}"); // writing to a String cannot fail
    let written = out.get(start..).unwrap_or_default();
    if written.is_empty() || !written.bytes().all(is_bare) {
        quote_from(out, start);
    }
}

/// Appends `value` as a JSON string.
pub(super) fn push_json(out: &mut String, value: impl Display) {
    let start = out.len();
    out.push('"');
    let _ = write!(out, "{value}"); // writing to a String cannot fail
    let written = out.get(start + 1..).unwrap_or_default();
    if written.bytes().all(|b| is_bare(b) || matches!(b, b' ' | b'=')) {
        out.push('"');
    } else {
        out.remove(start);
        quote_from(out, start);
    }
}

/// Appends `value` without quotes, for a place that may have its own: escaped as in a JSON string.
pub(super) fn push_inside(out: &mut String, value: impl Display) {
    let start = out.len();
    let _ = write!(out, "{value}"); // writing to a String cannot fail
    let written = out.get(start..).unwrap_or_default();
    if !written.bytes().all(|b| is_bare(b) || matches!(b, b' ' | b'=')) {
        escape_from(out, start);
    }
}

const fn is_bare(b: u8) -> bool {
    b.is_ascii_graphic() && !matches!(b, b'"' | b'=' | b'\\')
}

/// The slow path: quotes what stands in `out` from `start`.
fn quote_from(out: &mut String, start: usize) {
    out.insert(start, '"');
    escape_from(out, start + 1);
    out.push('"');
}

/// Escapes what stands in `out` from `start`.
fn escape_from(out: &mut String, start: usize) {
    let raw = out.split_off(start);
    for c in raw.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_unseen(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}"); // writing to a String cannot fail
                }
            }
            c => out.push(c),
        }
    }
}

/// Control characters (C0, DEL, C1), separators of lines, and what changes or hides text without a glyph of its own:
/// zero-width and bidirectional marks, the byte order mark, tags (Unicode 16, general categories Cc, Zl, Zp, Cf).
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(value: &str) -> String {
        let mut out = "k=".to_owned();
        push_text(&mut out, value);
        out
    }

    fn json(value: &str) -> String {
        let mut out = String::new();
        push_json(&mut out, value);
        out
    }

    #[test]
    fn bare_only_where_it_cannot_be_misread() {
        let check = |value: &str, want: &str| assert_eq!(text(value), format!("k={want}"), "{value:?}");
        check("reviews", "reviews");
        check("[fd00::1]:80", "[fd00::1]:80");
        check("spiffe://td/ns/a/sa/b", "spiffe://td/ns/a/sa/b");
        check("", r#""""#);
        check("a b", r#""a b""#);
        check("a=b", r#""a=b""#);
        check("a\nsource_workload=admin", r#""a\nsource_workload=admin""#);
        check("a\r\n", r#""a\r\n""#);
        check("\" reason=finished x=\"", r#""\" reason=finished x=\"""#);
        check("a\\", r#""a\\""#);
        check("\u{1b}[2J", r#""\u001b[2J""#);
        check("\0\t\u{7f}\u{85}", r#""\u0000\t\u007f\u0085""#);
        check("\u{2028}\u{202e}\u{200b}\u{feff}", r#""\u2028\u202e\u200b\ufeff""#);
        check("\u{e0041}", r#""\udb40\udc41""#);
        check("größe", r#""größe""#);
    }

    proptest! {
        #[test]
        fn any_value_stays_in_its_place(value in "(.|[\n\r\"\\\\= \u{1b}\u{85}\u{2028}]){0,20}") {
            let line = text(&value);
            prop_assert!(!line.chars().any(is_unseen), "{:?}", line);
            let shown = line.strip_prefix("k=").unwrap();
            let read = if shown.starts_with('"') {
                serde_json::from_str::<String>(shown).unwrap()
            } else {
                prop_assert!(!shown.contains([' ', '=', '"']));
                shown.to_owned()
            };
            prop_assert_eq!(&read, &value);

            let shown = json(&value);
            prop_assert!(!shown.chars().any(is_unseen), "{:?}", shown);
            prop_assert_eq!(&serde_json::from_str::<String>(&shown).unwrap(), &value);

            let mut inside = String::new();
            push_inside(&mut inside, &value);
            prop_assert_eq!(serde_json::from_str::<String>(&format!("\"{inside}\"")).unwrap(), value);
        }
    }
}
