//! The count of passed and failed tests over all levels, from the summary lines of the test binaries.

use std::fmt;

/// Passed and failed tests and checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Tally {
    /// Counts one check.
    pub(crate) fn count(&mut self, passes: bool) {
        if passes { self.passed += 1 } else { self.failed += 1 }
    }

    /// Counts the summary line of a test binary, if this line is one.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(other) = parse(line) {
            self.add(other);
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// The number of tests.
    pub(crate) fn total(self) -> u64 {
        self.passed + self.failed
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// libtest ends with `test result: ok. 3 passed; 0 failed; 0 ignored; ...` (or `FAILED.`).
fn parse(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut counts = counts.split("; ");
    let passed = counts.next()?.strip_suffix(" passed")?.parse().ok()?;
    let failed = counts.next()?.strip_suffix(" failed")?.parse().ok()?;
    Some(Tally { passed, failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, want: Option<(u64, u64)>) {
        assert_eq!(parse(line), want.map(|(passed, failed)| Tally { passed, failed }), "{line}");
    }

    #[test]
    fn summary_lines_are_read() {
        check(
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            Some((12, 0)),
        );
        check(
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.01s",
            Some((1, 2)),
        );
        check("test result: ok", None);
        check("test a::b ... ok", None);
        check("running 12 tests", None);
        check("  test result: ok. 12 passed; 0 failed;", None);
    }

    #[test]
    fn tallies_add_up() {
        let mut tally = Tally::default();
        tally.read("test result: ok. 2 passed; 0 failed; 0 ignored");
        tally.read("test result: FAILED. 1 passed; 3 failed; 0 ignored");
        tally.count(true);
        tally.count(false);
        assert_eq!((tally.to_string().as_str(), tally.total()), ("4 passed, 4 failed", 8));
    }
}
