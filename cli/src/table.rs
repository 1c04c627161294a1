//! Tables for people: columns as wide as their widest cell, measured as a terminal shows them. No text of an
//! object can control the terminal or begin a line.

use unicode_width::UnicodeWidthStr as _;

use crate::output::{Colour, one_line};

/// The tone of a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it is.
    #[default]
    Plain,
    /// Healthy.
    Good,
    /// Needs attention.
    Bad,
    /// Of little interest.
    Faint,
}

impl Tone {
    pub(crate) fn paint(self, colour: Colour, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Good => colour.green(text),
            Self::Bad => colour.red(text),
            Self::Faint => colour.faint(text),
        }
    }
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// `-` for nothing.
    pub(crate) fn new(text: impl AsRef<str>, tone: Tone) -> Self {
        let text = one_line(text.as_ref()).into_owned();
        if text.is_empty() { Self { text: "-".to_owned(), tone: Tone::Faint } } else { Self { text, tone } }
    }

    fn painted(&self, colour: Colour) -> String {
        self.tone.paint(colour, &self.text)
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// `yes` or `no`.
pub(crate) fn yes(is: bool) -> Cell {
    if is { Cell::new("yes", Tone::Good) } else { Cell::new("no", Tone::Faint) }
}

/// Several values in one cell.
pub(crate) fn list<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(", ")
}

/// The first of these names, `most` at most, and how many more there are.
pub(crate) fn few<T: AsRef<str>>(names: &[T], most: usize) -> String {
    let first = list(names.iter().take(most).map(AsRef::as_ref));
    match names.len().saturating_sub(most) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// A head, and rows.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<Cell>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { head: head.iter().map(|title| Cell::new(title, Tone::Faint)).collect(), rows: Vec::new() }
    }

    /// A row has as many cells as the head.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.head.len());
        self.rows.push(cells);
    }

    /// One line for each row; `nothing` if there is none.
    pub(crate) fn text(&self, colour: Colour, nothing: &str) -> String {
        if self.rows.is_empty() {
            return format!("{nothing}\n");
        }
        let all = || std::iter::once(&self.head).chain(&self.rows);
        let widths: Vec<usize> = (0..self.head.len())
            .map(|column| all().filter_map(|row| row.get(column)).map(|cell| cell.text.width()).max().unwrap_or(0))
            .collect();
        all().map(|row| line(row, &widths, colour)).collect()
    }
}

fn line(row: &[Cell], widths: &[usize], colour: Colour) -> String {
    let mut out = String::new();
    for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
        out.push_str(&cell.painted(colour));
        if at + 1 < row.len() {
            out.push_str(&" ".repeat(width.saturating_sub(cell.text.width()) + 2));
        }
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "READY", "LAST"]);
        table.row(vec!["größe".into(), yes(true), "x".into()]);
        table.row(vec!["日本語".into(), yes(false), "".into()]);
        table.row(vec!["a\u{1b}[2Jb\nc".into(), Cell::new("late", Tone::Bad), "y".into()]);
        table
    }

    #[test]
    fn columns_are_as_wide_as_they_are_shown() {
        let want = "\
            NAME            READY  LAST\n\
            größe           yes    x\n\
            日本語          no     -\n\
            a\\u{1b}[2Jb\\nc  late   y\n";
        assert_eq!(table().text(Colour::Never, "none"), want);
    }

    #[test]
    fn colours_move_nothing() {
        let coloured = table().text(Colour::Always, "none");
        assert!(coloured.contains("\u{1b}[31;1mlate\u{1b}[0m"), "{coloured}");
        let mut plain = coloured;
        for code in ["\u{1b}[31;1m", "\u{1b}[32;1m", "\u{1b}[2m", "\u{1b}[0m"] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, table().text(Colour::Never, "none"));
    }

    #[test]
    fn many_names_are_few() {
        assert_eq!(few(&["a", "b", "c", "d"], 2), "a, b and 2 more");
        assert_eq!(few(&["a", "b"], 2), "a, b");
        assert_eq!(few::<&str>(&[], 2), "");
    }

    #[test]
    fn nothing_is_said_in_words() {
        assert_eq!(Table::new(&["A"]).text(Colour::Always, "no pods"), "no pods\n");
    }
}
