//! "Did you mean ...?" for unknown names: the nearest of the known ones, where one is near enough.

/// The known name that `text` was probably meant to be.
#[must_use]
pub fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // More than that is another word. Two letters that changed places count as two.
    let most = match text.len() {
        0..=3 => 1,
        4..=8 => 2,
        _ => 3,
    };
    known
        .into_iter()
        .filter(|k| k.len().abs_diff(text.len()) <= most)
        .map(|k| (distance(&text.to_ascii_lowercase(), &k.to_ascii_lowercase()), k))
        .filter(|(d, _)| *d <= most)
        .min()
        .map(|(_, k)| k)
}

/// Levenshtein distance in bytes. Callers bound the lengths.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i.saturating_add(1);
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (y, cell) in b.bytes().zip(row.iter_mut().skip(1)) {
            let here = (*cell).min(left).saturating_add(1).min(diagonal.saturating_add(usize::from(x != y)));
            diagonal = *cell;
            *cell = here;
            left = here;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, d) in [("", "", 0), ("a", "", 1), ("", "abc", 3), ("kitten", "sitting", 3), ("from", "form", 2)] {
            assert_eq!(distance(a, b), d, "{a} {b}");
        }
    }

    #[test]
    fn only_what_is_near_is_a_hint() {
        let known = ["principals", "notPrincipals", "namespaces", "ipBlocks"];
        assert_eq!(nearest("principal", known), Some("principals"));
        assert_eq!(nearest("Principals", known), Some("principals"));
        assert_eq!(nearest("ipblock", known), Some("ipBlocks"));
        assert_eq!(nearest("form", ["from", "to", "when"]), Some("from"));
        assert_eq!(nearest("sources", known), None);
        assert_eq!(nearest("", known), None);
    }
}
