//! The labels of one series, written once: what a series is told apart by is the text that a scrape shows.

use std::sync::Arc;

use super::Family;

/// The labels of one series as the formats write them, without braces: `direction="inbound",reason="closed"`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Arc<str>);

impl Labels {
    /// `values` in the order of the family's labels; a missing one is empty, which is the same as no label.
    #[must_use]
    pub fn new(family: &Family, values: &[&str]) -> Self {
        debug_assert_eq!(family.labels().len(), values.len(), "{}: a value for each label", family.name());
        let mut text = String::new();
        for (name, value) in family.labels().iter().zip(values) {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(name);
            text.push_str("=\"");
            escape(&mut text, value);
            text.push('"');
        }
        Self(text.into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Both formats escape the backslash, the quote and the line feed of a value, and nothing else.
fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}
