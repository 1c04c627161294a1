//! The report for people: each finding with the line it is about, then one line of sums.

use std::{collections::BTreeMap, fmt::Write as _};

use underpass_door::Severity;

use super::{Report, findings::Finding, input::Inputs};
use crate::output::{Colour, one_line};

/// The most characters of a line that are shown.
const MAX_WIDTH: usize = 120;

pub(super) fn write(report: &Report, inputs: &Inputs, colour: Colour) -> String {
    let mut out = String::new();
    let mut texts: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for f in &report.findings {
        let lines = texts.entry(&f.file).or_insert_with(|| inputs.lines(&f.file));
        let line = f.line.and_then(|l| lines.get(usize::try_from(l).ok()?.checked_sub(1)?));
        finding(&mut out, f, line.map(String::as_str), colour);
    }
    sums(&mut out, report, colour);
    out
}

fn paint(colour: Colour, severity: Severity, text: &str) -> String {
    match severity {
        Severity::Error => colour.red(text),
        Severity::Warning => colour.yellow(text),
        Severity::Notice => colour.blue(text),
    }
}

fn finding(out: &mut String, f: &Finding, line: Option<&str>, colour: Colour) {
    let severity = paint(colour, f.severity, &f.severity.to_string());
    let _ = writeln!(out, "{severity}: {}", one_line(&f.says));
    let number = f.line.map(|l| l.to_string()).unwrap_or_default();
    let pad = " ".repeat(number.len());
    let place = match (f.line, f.column) {
        (Some(line), Some(column)) => format!("{}:{line}:{column}", one_line(&f.file)),
        (Some(line), None) => format!("{}:{line}", one_line(&f.file)),
        _ => one_line(&f.file).into_owned(),
    };
    let _ = writeln!(out, "{pad}{} {place}", colour.faint("-->"));
    let bar = colour.faint("|");
    if let Some(line) = line {
        let (shown, before, width) = window(line, &f.mark.find(line));
        let carets = paint(colour, f.severity, &"^".repeat(width.max(1)));
        let _ = writeln!(out, "{pad} {bar}\n{} {bar} {shown}", colour.faint(&number));
        let _ = writeln!(out, "{pad} {bar} {}{carets}", " ".repeat(before));
    }
    let field = if f.field.is_empty() { String::new() } else { format!(": {}", f.field) };
    let object = f.object.as_deref().map(|o| format!("{o}{field}"));
    let notes = [
        ("in", object.as_deref().or(Some(f.field.as_str()).filter(|t| !t.is_empty()))),
        ("effect", f.effect.as_deref()),
        ("help", f.help),
    ];
    for (name, text) in notes.into_iter().filter_map(|(name, text)| text.map(|t| (name, t))) {
        let _ = writeln!(out, "{pad} {} {name}: {}", colour.faint("="), one_line(text));
    }
    out.push('\n');
}

/// The shown part of a line, with begin and width of the marked part, in characters. Tabs are one blank.
fn window(line: &str, mark: &std::ops::Range<usize>) -> (String, usize, usize) {
    let safe = |text: &str| one_line(&text.replace('\t', " ")).into_owned();
    let (before, marked, after) = (safe(&line[..mark.start]), safe(&line[mark.clone()]), safe(&line[mark.end..]));
    let count = |text: &str| text.chars().count();
    // A long line is cut before the mark first, then behind it.
    let (dots, before) = if count(&before) + count(&marked).min(MAX_WIDTH / 2) > MAX_WIDTH {
        ("... ", before.chars().skip(count(&before).saturating_sub(MAX_WIDTH / 4)).collect())
    } else {
        ("", before)
    };
    let lead = count(dots) + count(&before);
    let width = count(&marked).min(MAX_WIDTH.saturating_sub(lead).max(1));
    let all = format!("{dots}{before}{marked}{after}");
    let shown: String = all.chars().take(MAX_WIDTH).collect();
    let cut = if count(&all) > MAX_WIDTH { " ..." } else { "" };
    (format!("{}{cut}", shown.trim_end()), lead, width)
}

fn sums(out: &mut String, r: &Report, colour: Colour) {
    let many = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    if !r.ignored.is_empty() {
        let kinds = r.ignored.iter().map(|(kind, n)| format!("{n} {}", one_line(kind))).collect::<Vec<_>>();
        let _ = writeln!(out, "ignored objects of other kinds: {}", kinds.join(", "));
    }
    if r.other_files > 0 {
        let _ = writeln!(out, "ignored, neither YAML nor JSON: {}", many(r.other_files, "file"));
    }
    let worst = if r.errors > 0 {
        colour.red("not clean")
    } else if r.warnings > 0 {
        colour.yellow("clean, with warnings")
    } else {
        colour.green("clean")
    };
    let live = r.live.map(|n| format!("{} of the cluster", many(n, "object")));
    let has_files = r.live.is_none() || r.files + r.other_files > 0;
    let files = has_files.then(|| format!("{} read, {} served", many(r.files, "file"), many(r.served, "object")));
    let _ = writeln!(
        out,
        "{worst}: {}; {}, {}, {}",
        live.into_iter().chain(files).collect::<Vec<_>>().join(", "),
        many(r.errors, "error"),
        many(r.warnings, "warning"),
        many(r.notices, "notice")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_around_the_mark() {
        let line = format!("{}MARK{}", "a".repeat(5_000), "b".repeat(5_000));
        let (shown, before, width) = window(&line, &(5_000..5_004));
        assert!(shown.chars().count() <= MAX_WIDTH + 4, "{shown}");
        assert_eq!(shown.chars().skip(before).take(width).collect::<String>(), "MARK");
        let (shown, before, width) = window("\ta: \u{1b}[31m", &(4..9));
        assert_eq!((shown.as_str(), before, width), (" a: \\u{1b}[31m", 4, 10));
    }
}
