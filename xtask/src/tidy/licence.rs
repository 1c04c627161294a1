//! Licence expressions (SPDX 2.3, annex D): is a package usable under the licences that are allowed?

use std::iter::Peekable;
use std::slice::Iter;

/// True if the expression can be met by allowed licences alone; an error says what is wrong with the expression.
pub(crate) fn allowed(expression: &str, allow: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    // `MIT/Apache-2.0` is how crates said OR before 2015's registry asked for SPDX.
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut words = words.iter().peekable();
    let verdict = any(&mut words, allow)?;
    match words.next() {
        None => Ok(verdict),
        Some(word) => Err(format!("`{word}` is not expected in `{expression}`")),
    }
}

type Words<'a, 'b> = Peekable<Iter<'b, &'a str>>;

fn any(words: &mut Words<'_, '_>, allow: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let mut verdict = all(words, allow)?;
    while words.next_if(|word| **word == "OR").is_some() {
        verdict |= all(words, allow)?;
    }
    Ok(verdict)
}

fn all(words: &mut Words<'_, '_>, allow: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let mut verdict = one(words, allow)?;
    while words.next_if(|word| **word == "AND").is_some() {
        verdict &= one(words, allow)?;
    }
    Ok(verdict)
}

fn one(words: &mut Words<'_, '_>, allow: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    match words.next() {
        Some(&"(") => {
            let verdict = any(words, allow)?;
            words.next_if(|word| **word == ")").map(|_| verdict).ok_or_else(|| "`)` is missing".to_owned())
        }
        Some(word @ (&"AND" | &"OR" | &"WITH" | &")")) => Err(format!("`{word}` where a licence is expected")),
        // An exception is part of the licence's name: allowing the licence does not allow what the exception changes.
        Some(licence) => match words.next_if(|word| **word == "WITH").and_then(|_| words.next()) {
            Some(exception) => Ok(allow(&format!("{licence} WITH {exception}"))),
            // `+` is "or any later version": the version that is named is one of those.
            None => Ok(allow(licence) || licence.strip_suffix('+').is_some_and(allow)),
        },
        None => Err("a licence is missing".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expression: &str, want: Option<bool>) {
        let allow = |licence: &str| ["MIT", "ISC", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].contains(&licence);
        let verdict = allowed(expression, &allow);
        assert_eq!(verdict.clone().ok(), want, "{expression}: {verdict:?}");
    }

    #[test]
    fn expressions_are_judged() {
        check("MIT", Some(true));
        check("GPL-3.0-only", Some(false));
        check("MIT OR GPL-3.0-only", Some(true));
        check("MIT AND GPL-3.0-only", Some(false));
        check("MIT/Apache-2.0", Some(true));
        check("ISC AND (Apache-2.0 OR OpenSSL)", Some(true));
        check("GPL-2.0-only OR MIT AND OpenSSL", Some(false));
        check("(GPL-2.0-only OR MIT) AND ISC", Some(true));
        check("Apache-2.0 WITH LLVM-exception", Some(true));
        check("MIT WITH LLVM-exception", Some(false));
        check("Apache-2.0+", Some(true));
        check("GPL-2.0+", Some(false));
    }

    #[test]
    fn broken_expressions_are_errors() {
        for expression in ["", "MIT OR", "(MIT", "MIT)", "MIT ISC", "AND MIT", "()"] {
            check(expression, None);
        }
    }
}
