//! Nothing is left undone and no test is switched off: what is not built is absent, what is tested runs.
//!
//! Clippy warns of some of these as well, but not in code that this machine's configuration leaves out, nor in doc tests.

use super::Finding;
use super::sources::Source;

/// Written in halves, so that this file does not break its own rule.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("todo", "!("), "build it, or leave it out"),
    (concat!("unimplemented", "!("), "refuse it by name"),
    (concat!("dbg", "!("), "was for one afternoon"),
    (concat!("#[", "ignore"), "a test runs or is deleted"),
    (concat!("```", "ignore"), "a doc test runs, or is `text`"),
];

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().zip(1..);
    let pairs = lines.flat_map(|(line, number)| FORBIDDEN.iter().map(move |word| (line, number, word)));
    let hits = pairs.filter(|(line, _, (word, _))| line.contains(word));
    hits.map(|(_, number, (word, instead))| format!("{}:{number}: `{word}`: {instead}", source.path)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::sources::fixture::source;
    use super::*;

    #[test]
    fn every_forbidden_word_is_found_with_its_line() {
        for (word, _) in FORBIDDEN {
            let findings = check(&source("a.rs", &format!("fn a() {{\n    {word}\n}}\n")));
            assert_eq!(findings.len(), 1, "{word}: {findings:?}");
            assert!(findings[0].starts_with("a.rs:2: "), "{findings:?}");
        }
    }

    #[test]
    fn other_words_pass() {
        assert_eq!(
            check(&source("a.rs", "// to do: nothing; ignore this; debug!(x)\n#[test]\n")),
            Vec::<Finding>::new()
        );
    }
}
