//! The reference of all metrics, as Markdown, from the families themselves.

use std::fmt::Write as _;

use super::Family;

/// One table per group: heading, families.
#[must_use]
pub fn markdown(groups: &[(&str, &[&'static Family])]) -> String {
    let mut out = String::new();
    for (heading, families) in groups {
        let mut families = families.to_vec();
        families.sort_by_key(|family| family.name());
        // Writing to a String does not fail.
        let _ = writeln!(out, "\n## {heading}\n\n| name | type | labels | what it tells |\n|---|---|---|---|");
        for family in families {
            let labels: Vec<_> = family.labels().iter().map(|label| format!("`{label}`")).collect();
            let labels = if labels.is_empty() { "-".to_owned() } else { labels.join(" ") };
            let (name, kind, help) = (family.name(), family.kind().as_str(), family.help());
            let _ = writeln!(out, "| `{name}` | {kind} | {labels} | {} |", help.replace('|', "\\|"));
        }
    }
    out
}
