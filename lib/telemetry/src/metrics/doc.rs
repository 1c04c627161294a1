//! The reference of all metrics, as Markdown, from the families themselves.

use std::fmt::Write as _;

use super::Family;

/// The most labels in a cell: more are listed below the table, once for all families that have them.
const MOST_IN_A_CELL: usize = 8;

/// One table per group: heading, families.
#[must_use]
pub fn markdown(groups: &[(&str, &[&'static Family])]) -> String {
    let mut out = String::new();
    for (heading, families) in groups {
        let mut families = families.to_vec();
        families.sort_by_key(|family| family.name());
        // Writing to a String does not fail.
        let _ = writeln!(out, "\n## {heading}\n\n| name | type | labels | meaning |\n|---|---|---|---|");
        let mut long: Option<&[&str]> = None;
        for family in families {
            let labels = match family.labels() {
                [] => "-".to_owned(),
                all if all.len() > MOST_IN_A_CELL => {
                    long = Some(all);
                    "as below".to_owned()
                }
                all => quoted(all),
            };
            let (name, kind, help) = (family.name(), family.kind().as_str(), family.help());
            let _ = writeln!(out, "| `{name}` | {kind} | {labels} | {} |", help.replace('|', "\\|"));
        }
        if let Some(all) = long {
            let _ = writeln!(out, "\nLabels: {}.", quoted(all));
        }
    }
    out
}

fn quoted(labels: &[&str]) -> String {
    labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(" ")
}
