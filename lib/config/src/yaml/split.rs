//! The documents of a file, cut without parsing them, at lines that start with `---`. YAML allows no such line inside a
//! document (1.2, 9.1.4: "c-forbidden"), so this cannot cut a valid one in two.

/// The text of one document.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    /// With its `---` line, if it has one.
    pub(super) text: &'a str,
    /// The line of the file in which `text` starts, from 1.
    pub(super) line: u32,
    /// The line of the file in which its content starts.
    pub(super) content_line: u32,
    /// Only white space and comments.
    pub(super) is_blank: bool,
}

/// The documents of `text`. Text before the first `---` is a document unless it is blank.
pub(super) fn split(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut start, mut start_line) = (0_usize, 1_u32);
    let (mut at, mut line) = (0_usize, 1_u32);
    let mut push = |from: usize, to: usize, line: u32| {
        let piece = piece(text.get(from..to).unwrap_or_default(), line);
        if !piece.is_blank || is_marker(piece.text, "---") {
            pieces.push(piece);
        }
    };
    for l in text.split_inclusive('\n') {
        let next = at.saturating_add(l.len());
        if is_marker(l, "---") && at > start {
            push(start, at, start_line);
            (start, start_line) = (at, line);
        } else if is_marker(l, "...") {
            push(start, next, start_line);
            (start, start_line) = (next, line.saturating_add(1));
        }
        (at, line) = (next, line.saturating_add(1));
    }
    push(start, at, start_line);
    pieces
}

/// The line is a document marker: followed by white space or nothing.
fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn piece(text: &str, line: u32) -> Piece<'_> {
    let says = |l: &str| {
        let l = if is_marker(l, "---") || is_marker(l, "...") { l.get(3..).unwrap_or_default() } else { l };
        let l = l.trim_start();
        !l.is_empty() && !l.starts_with('#')
    };
    let first = text.lines().position(says);
    let skipped = u32::try_from(first.unwrap_or(0)).unwrap_or(u32::MAX);
    Piece { text, line, content_line: line.saturating_add(skipped), is_blank: first.is_none() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &[(&str, u32, u32, bool)]) {
        let got: Vec<_> = split(text).into_iter().map(|p| (p.text, p.line, p.content_line, p.is_blank)).collect();
        assert_eq!(got, expect, "{text:?}");
    }

    #[test]
    fn documents() {
        check("", &[]);
        check("# nothing\n\n", &[]);
        check("a: 1", &[("a: 1", 1, 1, false)]);
        check("---\na: 1\n---\nb: 2\n", &[("---\na: 1\n", 1, 2, false), ("---\nb: 2\n", 3, 4, false)]);
        check("# licence\n---\na: 1\n", &[("---\na: 1\n", 2, 3, false)]);
        check("a: 1\r\n---\r\nb: 2\r\n", &[("a: 1\r\n", 1, 1, false), ("---\r\nb: 2\r\n", 2, 3, false)]);
        check("a: 1\n--- # two\n\nb: 2\n", &[("a: 1\n", 1, 1, false), ("--- # two\n\nb: 2\n", 2, 4, false)]);
        check("--- {a: 1}\n", &[("--- {a: 1}\n", 1, 1, false)]);
        // an explicit document counts, even when it says nothing
        check("---\n---\na: 1\n---\n", &[("---\n", 1, 1, true), ("---\na: 1\n", 2, 3, false), ("---\n", 4, 4, true)]);
        check("a: 1\n...\n# end\n", &[("a: 1\n...\n", 1, 1, false)]);
        check("a: 1\n...\nb: 2\n", &[("a: 1\n...\n", 1, 1, false), ("b: 2\n", 3, 3, false)]);
    }

    #[test]
    fn lines_that_are_no_separator() {
        for text in ["a: 1\n ---\n", "a: ---\n", "a: 1\n---b: 2\n", "----\n"] {
            assert_eq!(split(text).len(), 1, "{text:?}");
        }
    }
}
