//! No Rust file is longer than 500 lines before its tests: small rooms are read, long corridors are walked past.

use super::Finding;
use super::sources::Source;

const MAX_LINES: usize = 500;

pub(crate) fn check(source: &Source) -> Option<Finding> {
    let lines = lines_before_tests(&source.text);
    let long = lines > MAX_LINES && !source.is_test();
    long.then(|| format!("{}: {lines} lines before its tests, the limit is {MAX_LINES}", source.path))
}

/// Tests begin at the first test module with a body: a test-only import, or `mod tests;`, above the code ends nothing.
fn lines_before_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let opens_module = |line: &str| line.contains("mod ") && line.trim_end().ends_with('{');
    let test_module = |at: &usize| {
        lines[*at].starts_with("#[cfg(test)]")
            && lines[at + 1..].iter().find(|line| !line.starts_with("#[")).is_some_and(|line| opens_module(line))
    };
    (0..lines.len()).find(test_module).unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::super::sources::fixture::source;
    use super::*;

    const TESTS: &str = "#[cfg(test)]\nmod tests {\n}\n";

    fn check_lines(path: &str, before: &str, lines: usize, after: &str, passes: bool) {
        let text = format!("{before}{}{after}", "code\n".repeat(lines));
        let finding = check(&source(path, &text));
        assert_eq!(finding.is_none(), passes, "{path}: {before:?}, {lines} lines, {after:?}: {finding:?}");
    }

    #[test]
    fn only_lines_before_the_tests_count() {
        check_lines("a.rs", "", 500, "", true);
        check_lines("a.rs", "", 501, "", false);
        check_lines("a.rs", "", 500, &format!("{TESTS}{}", "test\n".repeat(900)), true);
        check_lines("a.rs", "", 501, TESTS, false);
        check_lines(
            "a.rs",
            "",
            400,
            &format!("#[cfg(test)]\n#[path = \"x.rs\"]\nmod tests {{\n{}", "test\n".repeat(900)),
            true,
        );
    }

    #[test]
    fn a_test_only_import_does_not_end_the_count() {
        check_lines("a.rs", "#[cfg(test)]\nuse x::y;\n", 499, "", false);
        check_lines("a.rs", "#[cfg(test)]\nmod tests;\n", 499, "", false);
    }

    #[test]
    fn files_of_tests_may_be_long() {
        check_lines("lib/net/tests/pool.rs", "", 900, "", true);
        check_lines("tests/src/node.rs", "", 900, "", false);
    }
}
