//! Output: exit codes, colours, and the escaping of texts from manifests and users, so that none can control the
//! terminal.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use crate::error::CliError;

/// The command did what it was asked for; of `explain`: the connection is allowed.
pub(crate) const OK: u8 = 0;
/// There is no answer.
pub(crate) const FAILED: u8 = 1;
/// There is an answer, and it is negative: of `explain`, the connection is denied; of `status`, there are problems.
pub(crate) const NO: u8 = 2;

/// The output of a command, and its exit code.
pub(crate) struct Output {
    pub(crate) text: String,
    pub(crate) code: u8,
}

impl Output {
    /// The command did what it was asked for.
    pub(crate) fn ok(text: String) -> Self {
        Self { text, code: OK }
    }
}

/// Writes a command's output, or its error.
pub(crate) fn finish(result: Result<Output, CliError>) -> ExitCode {
    let written = result.and_then(|output| match io::stdout().lock().write_all(output.text.as_bytes()) {
        // `underpass explain ... | head -1`: the reader that stopped has what it wanted.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(output.code),
        Err(source) => Err(CliError::Write { source }),
        Ok(()) => Ok(output.code),
    });
    ExitCode::from(written.unwrap_or_else(|e| {
        complain(&format!("error: {e}"));
        FAILED
    }))
}

/// One line to standard error.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{}", one_line(line)); // standard error is closed
}

/// Equal JSON without characters that control a terminal: in JSON such characters stand in strings alone,
/// where they can be written as escapes (RFC 8259, 7). The ends of lines between values stay.
pub(crate) fn safe_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && is_unsafe(c) {
            let _ = c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}")); // a String takes all
        } else {
            out.push(c);
        }
    }
    out
}

/// `text` without anything that starts a line or a terminal's escape sequence.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// A character other than the end of a line controls a terminal.
pub(crate) fn has_unsafe(text: &str) -> bool {
    text.chars().any(|c| c != '\n' && is_unsafe(c))
}

/// Control characters, separators of lines and marks that reorder what is shown.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Colours, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    /// Plain.
    Never,
    /// ANSI (ECMA-48, 8.3.117).
    Always,
}

impl Colour {
    /// Only on a terminal that shows them, and not where <https://no-color.org> says no.
    pub(crate) fn of_stdout() -> Self {
        let set = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        let no = !io::stdout().is_terminal() || set("NO_COLOR").is_some() || set("TERM").is_none_or(|t| t == "dumb");
        if no { Self::Never } else { Self::Always }
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.paint("32;1", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.paint("31;1", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.paint("33;1", text)
    }

    pub(crate) fn blue(self, text: &str) -> String {
        self.paint("34;1", text)
    }

    pub(crate) fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Always if !text.is_empty() => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            _ => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_line() {
        let check = |text: &str, want: &str| assert_eq!(one_line(text), want);
        check("reviews \"größe\"", "reviews \"größe\"");
        check("a\nallowed", "a\\nallowed");
        check("\u{1b}[32mallowed", "\\u{1b}[32mallowed");
        check("\u{202e}x\u{85}\u{7f}", "\\u{202e}x\\u{85}\\u{7f}");
    }

    #[test]
    fn json_says_the_same_without_acting() {
        let value = serde_json::json!({ "\u{9b}2J": ["\u{1b}[2J", "\u{7f}\n", "\u{202e}größe \u{1f600}", "\\u001b"] });
        let text = serde_json::to_string_pretty(&value).unwrap();
        let safe = safe_json(&text);
        assert!(safe.lines().all(|line| one_line(line) == line), "{safe}");
        assert_eq!(safe.lines().count(), text.lines().count());
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
    }

    #[test]
    fn no_colour_leaves_no_trace() {
        assert_eq!(Colour::Never.red("denied"), "denied");
        assert_eq!(Colour::Always.red("denied"), "\u{1b}[31;1mdenied\u{1b}[0m");
        assert_eq!(Colour::Always.faint(""), "");
    }
}
