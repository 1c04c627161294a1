//! What a command finds in a cluster: values, with what to do about each. The shape is shared by `check` and `verify`, which look at
//! different times.

use std::fmt::Write as _;

use serde::Serialize;
use underpass_kube::client::Error;
use underpass_telemetry::admin::view::Level;

use crate::{
    args::Format,
    error::CliError,
    output::{self, Colour, Output, one_line},
    show::Style,
    table::few,
};

/// The subjects of one finding that a line names.
const NAMED: usize = 6;

/// Something that is not as it should be, or to know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// `node NAME`, `Namespace NAME`, `Deployment NAMESPACE/NAME` ...
    pub(crate) subject: String,
    pub(crate) found: String,
    pub(crate) remedy: String,
}

impl Finding {
    pub(crate) fn new(level: Level, subject: impl Into<String>, found: impl Into<String>, remedy: &str) -> Self {
        Self { level, subject: subject.into(), found: found.into(), remedy: remedy.to_owned() }
    }

    pub(crate) fn error(subject: impl Into<String>, found: impl Into<String>, remedy: &str) -> Self {
        Self::new(Level::Error, subject, found, remedy)
    }

    pub(crate) fn warning(subject: impl Into<String>, found: impl Into<String>, remedy: &str) -> Self {
        Self::new(Level::Warning, subject, found, remedy)
    }

    pub(crate) fn info(subject: impl Into<String>, found: impl Into<String>, remedy: &str) -> Self {
        Self::new(Level::Info, subject, found, remedy)
    }

    /// A part that gave no answer: nothing is known of it, which is no good news. `right`: `list nodes`.
    pub(crate) fn unasked(subject: impl Into<String>, error: &Error, right: &str) -> Self {
        let remedy = match error.status() {
            Some(401 | 403) => format!("this needs the right to {right}"),
            _ => "ask again; nothing is known about it".to_owned(),
        };
        Self::error(subject, format!("could not be asked: {error}"), &remedy)
    }
}

/// What was asked, or nothing and a finding that says so.
pub(crate) fn or_unasked<T: Default>(
    asked: Result<T, Error>,
    subject: &str,
    right: &str,
    findings: &mut Vec<Finding>,
) -> T {
    asked.unwrap_or_else(|e| {
        findings.push(Finding::unasked(subject, &e, right));
        T::default()
    })
}

/// All findings, and their sums.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// What was looked at.
    looked_at: String,
    errors: usize,
    warnings: usize,
    findings: Vec<Finding>,
}

impl Report {
    /// The worst first.
    pub(crate) fn new(looked_at: String, mut findings: Vec<Finding>) -> Self {
        findings.sort();
        let count = |level| findings.iter().filter(|finding| finding.level == level).count();
        Self { looked_at, errors: count(Level::Error), warnings: count(Level::Warning), findings }
    }

    /// The answer: negative where there are errors.
    pub(crate) fn output(&self, format: Format) -> Result<Output, CliError> {
        let code = if self.errors == 0 { output::OK } else { output::NO };
        Ok(Output { code, ..Style::new(format).render(self, |_, colour| self.text(colour))? })
    }

    /// Each finding once, with everything that it is about; then the sums.
    fn text(&self, colour: Colour) -> String {
        let mut out = String::new();
        let mut left: Vec<&Finding> = self.findings.iter().collect();
        while let Some(first) = left.first().copied() {
            let is_same = |f: &&Finding| (f.level, &f.found, &f.remedy) == (first.level, &first.found, &first.remedy);
            let (same, others): (Vec<_>, Vec<_>) = left.into_iter().partition(is_same);
            left = others;
            let subjects: Vec<&str> = same.iter().map(|f| f.subject.as_str()).collect();
            let line = format!("{}: {}", few(&subjects, NAMED), first.found);
            // A String takes all.
            let _ = writeln!(out, "{}: {}", level(first.level, colour), one_line(&line));
            if !first.remedy.is_empty() {
                let _ = writeln!(out, "  {} {}", colour.faint("= help:"), one_line(&first.remedy));
            }
        }
        let _ = writeln!(out, "{}: {}", one_line(&self.looked_at), self.sums(colour));
        out
    }

    fn sums(&self, colour: Colour) -> String {
        let counted = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let all = format!("{}, {}", counted(self.errors, "error"), counted(self.warnings, "warning"));
        match (self.errors, self.warnings) {
            (0, 0) => colour.green("nothing is wrong"),
            (0, _) => all,
            _ => colour.red(&all),
        }
    }
}

fn level(level: Level, colour: Colour) -> String {
    match level {
        Level::Error => colour.red("error"),
        Level::Warning => colour.yellow("warning"),
        Level::Info => colour.blue("info"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn each_finding_stands_once_and_the_worst_first() {
        let of = |n: usize| Finding::warning(format!("node n-{n}"), "an old kernel\n", "a newer one");
        let mut findings: Vec<Finding> = (1..9).map(of).collect();
        findings.push(Finding::info("the cluster", "to know", ""));
        findings.push(Finding::error("Namespace a", "wrong", "mend it"));
        let report = Report::new("8 nodes".to_owned(), findings);
        expect![[r#"
            error: Namespace a: wrong
              = help: mend it
            warning: node n-1, node n-2, node n-3, node n-4, node n-5, node n-6 and 2 more: an old kernel\n
              = help: a newer one
            info: the cluster: to know
            8 nodes: 1 error, 8 warnings
        "#]]
        .assert_eq(&report.text(Colour::Never));
        assert_eq!(report.output(Format::Json).unwrap().code, output::NO);
    }

    #[test]
    fn warnings_alone_are_no_negative_answer() {
        let report = Report::new("x".to_owned(), vec![Finding::warning("a", "b", "c")]);
        assert_eq!(report.output(Format::Text).unwrap().code, output::OK);
        assert_eq!(Report::new("x".to_owned(), Vec::new()).text(Colour::Never), "x: nothing is wrong\n");
    }
}
