//! Words that do not belong into the project: macros and attributes of what is not built, and pronouns that name nothing.
//!
//! What is not built is absent, what is tested runs: clippy warns of some of that as well, but not in code that this
//! machine's configuration leaves out, nor in doc tests. And a reader who meets the project at night needs the noun
//! (docs/glossary.md), not a pronoun that leaves open what is meant.

use super::Finding;
use super::sources::Source;

/// What is unfinished or switched off. Written in halves, so that this file does not break its own rule.
const UNFINISHED: &[(&str, &str)] = &[
    (concat!("todo", "!("), "build it, or leave it out"),
    (concat!("unimplemented", "!("), "refuse it by name"),
    (concat!("dbg", "!("), "was for one afternoon"),
    (concat!("#[", "ignore"), "a test runs or is deleted"),
    (concat!("```", "ignore"), "a doc test runs, or is `text`"),
];

/// Pronouns that name nothing, in halves as well.
const VAGUE: &[&str] = &[
    concat!("no", "body"),
    concat!("some", "body"),
    concat!("any", "body"),
    concat!("every", "body"),
    concat!("who", "ever"),
    concat!("what", "ever"),
];

/// Files whose text is written by people for people.
const TEXTS: &[&str] = &[".rs", ".md", ".toml", ".yaml"];

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = if source.is_rust() { unfinished(source) } else { Vec::new() };
    if TEXTS.iter().any(|end| source.path.ends_with(end)) {
        findings.extend(vague(source));
    }
    findings
}

fn unfinished(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().zip(1..);
    let pairs = lines.flat_map(|(line, number)| UNFINISHED.iter().map(move |word| (line, number, word)));
    let hits = pairs.filter(|(line, _, (word, _))| line.contains(word));
    hits.map(|(_, number, (word, instead))| format!("{}:{number}: `{word}`: {instead}", source.path)).collect()
}

/// Whole words in any case; those of a `snake_case` name count as words.
fn vague(source: &Source) -> Vec<Finding> {
    let words = source.text.lines().zip(1..).flat_map(|(line, number)| {
        line.split(|letter: char| !letter.is_alphanumeric()).map(move |word| (word, number))
    });
    let hits = words.filter(|(word, _)| VAGUE.iter().any(|vague| word.eq_ignore_ascii_case(vague)));
    hits.map(|(word, number)| {
        format!("{}:{number}: `{word}` names nothing: write the noun (docs/glossary.md) or drop it", source.path)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::sources::fixture::source;
    use super::*;

    #[test]
    fn every_unfinished_part_is_found_with_its_line() {
        for (word, _) in UNFINISHED {
            let findings = check(&source("a.rs", &format!("fn a() {{\n    {word}\n}}\n")));
            assert_eq!(findings.len(), 1, "{word}: {findings:?}");
            assert!(findings[0].starts_with("a.rs:2: "), "{findings:?}");
        }
    }

    #[test]
    fn every_vague_pronoun_is_found_with_its_line() {
        for word in VAGUE {
            let capital = format!("{}{}", word[..1].to_uppercase(), &word[1..]);
            for text in [format!("// {word}.\n"), format!("/// {capital}'s\n"), format!("fn {word}_waits() {{}}\n")] {
                for file in ["a.rs", "a.md", "a.toml", "a.yaml"] {
                    let findings = check(&source(file, &format!("\n{text}")));
                    assert_eq!(findings.len(), 1, "{file}: {text}: {findings:?}");
                    assert!(findings[0].starts_with(&format!("{file}:2: `")), "{findings:?}");
                }
            }
        }
        assert_eq!(check(&source("a.rs", &format!("{0} {0}\n", VAGUE[0]))).len(), 2, "each on a line of two");
    }

    #[test]
    fn other_words_pass() {
        for (path, text) in [
            ("a.rs", "// to do: nothing; ignore this; debug!(x)\n#[test]\n".to_owned()),
            ("a.rs", format!("// {}y, un{}\nstruct A{};\n", VAGUE[0], VAGUE[1], VAGUE[2])),
            ("a.txt", VAGUE[0].to_owned()),
        ] {
            assert_eq!(check(&source(path, &text)), Vec::<Finding>::new(), "{text}");
        }
    }
}
