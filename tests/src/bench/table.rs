//! Entries as people read them: one line each while a benchmark runs, and a table for the published page, in which the sizes
//! stand side by side.

use std::fmt::Write as _;

use super::report::Entry;

/// Above the lines.
#[must_use]
pub fn head() -> String {
    let columns =
        ["WORK", "PODS", "STACK", "VALUE", "UNIT", "RANGE", "ALLOCATIONS", "KIB", "OPERATIONS", "TARGET", "REACHED"];
    row(&columns.map(str::to_owned))
}

/// One entry.
#[must_use]
pub fn line(entry: &Entry) -> String {
    let none = || "-".to_owned();
    let allocations = entry.allocations;
    row(&[
        entry.work.clone(),
        count(entry.size as u64),
        entry.stack.clone(),
        entry.value.map_or_else(|| "not served".to_owned(), number),
        entry.unit.clone(),
        entry.range.map_or_else(none, range),
        allocations.map_or_else(none, |a| count(a.count)),
        allocations.map_or_else(none, |a| count(a.bytes / 1024)),
        entry.operations.map_or_else(none, count),
        entry.target.map_or_else(none, number),
        entry.reached.map_or_else(none, yes),
    ])
}

fn row(cells: &[String; 11]) -> String {
    let [work, size, stack, value, unit, range, allocations, kib, operations, target, reached] = cells;
    let line = format!(
        "{work:31} {size:>7} {stack:6} {value:>10} {unit:26} {range:17} {allocations:>11} {kib:>9} {operations:>10} {target:>7} {reached}"
    );
    line.trim_end().to_owned()
}

fn yes(reached: bool) -> String {
    if reached { "yes" } else { "no" }.to_owned()
}

/// Three digits that count: `0.123`, `4.56`, `78.9`, `1,234`.
#[must_use]
pub fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => count(value.round().max(0.0) as u64),
        v if v >= 9.995 => format!("{value:.1}"),
        v if v >= 1.0 || v == 0.0 => format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned(),
        _ => format!("{value:.3}"),
    }
}

fn range([least, most]: [f64; 2]) -> String {
    format!("{} to {}", number(least), number(most))
}

/// With commas between thousands.
#[must_use]
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A Markdown table of all entries: a row for each work, stack and unit, a column for each size. Counts that belong to an
/// entry have rows of their own below it.
#[must_use]
pub fn markdown(entries: &[Entry]) -> String {
    let mut sizes: Vec<usize> = entries.iter().map(|entry| entry.size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut text = "| work | stack | |".to_owned();
    sizes.iter().for_each(|size| write!(text, " {} pods |", count(*size as u64)).unwrap_or_default());
    text += " target | reached |\n|---|---|---|";
    sizes.iter().for_each(|_| text += "---:|");
    text += "---:|---|\n";
    let mut told: Vec<(&str, &str, &str)> = Vec::new();
    for entry in entries {
        let key = (entry.work.as_str(), entry.stack.as_str(), entry.unit.as_str());
        if told.contains(&key) {
            continue;
        }
        told.push(key);
        let of = |size: usize| {
            entries.iter().find(|e| e.size == size && (e.work.as_str(), e.stack.as_str(), e.unit.as_str()) == key)
        };
        let cells = sizes.iter().map(|size| of(*size).map_or_else(String::new, cell));
        // What a target says counts where the cluster is largest.
        let judged = sizes.iter().rev().find_map(|size| of(*size).filter(|e| e.target.is_some()));
        let target = judged.and_then(|e| e.target).map_or_else(String::new, number);
        let reached = judged.and_then(|e| e.reached).map_or_else(String::new, yes);
        push(&mut text, [&entry.work, &entry.stack, &entry.unit], cells, &target, &reached);
        let counts = |f: fn(&Entry) -> Option<u64>| {
            let cells: Vec<String> =
                sizes.iter().map(|size| of(*size).and_then(f).map_or_else(String::new, count)).collect();
            cells.iter().any(|cell| !cell.is_empty()).then_some(cells)
        };
        let allocations = counts(|e| e.allocations.map(|a| a.count));
        let bytes = counts(|e| e.allocations.map(|a| a.bytes / 1024));
        let operations = counts(|e| e.operations);
        for (what, cells) in [("allocations", allocations), ("KiB allocated", bytes), ("operations", operations)] {
            if let Some(cells) = cells {
                push(&mut text, [&entry.work, &entry.stack, what], cells.into_iter(), "", "");
            }
        }
    }
    text
}

fn push(text: &mut String, head: [&str; 3], cells: impl Iterator<Item = String>, target: &str, reached: &str) {
    let cells: Vec<String> = cells.collect();
    *text += &format!("| {} | {} | {target} | {reached} |\n", head.join(" | "), cells.join(" | "));
}

fn cell(entry: &Entry) -> String {
    let value = entry.value.map_or_else(|| "not served".to_owned(), number);
    match entry.range {
        Some([least, most]) if least < most => format!("{value} ({})", range([least, most])),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::allocations::Allocations, *};

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.1234, "0.123"),
            (1.0, "1"),
            (1.5, "1.5"),
            (12.34, "12.3"),
            (99.96, "100"),
            (1234.5, "1,235"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn sizes_stand_side_by_side() {
        let entry = |size, values: &[f64], count| {
            let entry = Entry::new("w", size, "single", "ms CPU").values(values).target(5.0);
            entry.counts(Allocations { count, bytes: 2048 }, 2)
        };
        let absent = Entry::new("x", 10_000, "dual", "ms CPU").target(5.0);
        let entries = [entry(1000, &[1.0, 2.0, 3.0], 10), entry(10_000, &[20.0], 1000), absent];
        assert_eq!(
            markdown(&entries),
            "\
| work | stack | | 1,000 pods | 10,000 pods | target | reached |
|---|---|---|---:|---:|---:|---|
| w | single | ms CPU | 2 (1 to 3) | 20.0 | 5 | no |
| w | single | allocations | 10 | 1,000 |  |  |
| w | single | KiB allocated | 2 | 2 |  |  |
| w | single | operations | 2 | 2 |  |  |
| x | dual | ms CPU |  | not served | 5 | no |
"
        );
        let lines = [head(), line(&entries[0])];
        assert!(lines[0].starts_with("WORK") && lines[0].ends_with("TARGET REACHED"), "{}", lines[0]);
        assert!(lines[1].contains("1 to 3") && lines[1].ends_with("yes"), "{}", lines[1]);
    }
}
