//! Every Rust file opens with `//!`: what it is, why it is its own thing, what must hold.

use super::Finding;
use super::sources::Source;

/// Shorter than this says nothing.
const MIN_WORDS: usize = 2;

pub(crate) fn check(source: &Source) -> Option<Finding> {
    match source.text.lines().next().and_then(|line| line.strip_prefix("//!")) {
        None => Some(format!("{}:1: does not open with `//!`", source.path)),
        Some(says) if says.split_whitespace().count() < MIN_WORDS => {
            Some(format!("{}:1: the opening `//!` says nothing", source.path))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::sources::fixture::source;
    use super::*;

    #[test]
    fn a_file_says_what_it_is() {
        for (text, passes) in [
            ("//! The walls of the house.\n", true),
            ("//! The walls.\n#![allow(unsafe_code)]\n", true),
            ("//!\n//! The walls.\n", false),
            ("//! Walls\n", false),
            ("\n//! The walls of the house.\n", false),
            ("// The walls of the house.\n", false),
            ("use std::fs;\n", false),
            ("", false),
        ] {
            assert_eq!(check(&source("a.rs", text)).is_none(), passes, "{text:?}");
        }
    }
}
