//! Constructors of rows of the tables of kinds and fields, and the search for a row's field in an object.

use underpass_door::Field;

use crate::{
    Path, Segment, Severity,
    yaml::{Tree, Value},
};

pub(crate) const fn note(path: &'static str, says: &'static str) -> Field {
    Field { path, says, severity: Severity::Notice }
}

pub(crate) const fn warn(path: &'static str, says: &'static str) -> Field {
    Field { path, says, severity: Severity::Warning }
}

/// The places in `tree` that `below` and then `path` name, in order; at most `most`.
pub(crate) fn places(tree: &Tree, below: &str, path: &str, most: usize) -> Vec<Path> {
    let mut found = vec![(Vec::new(), tree)];
    for step in below.split('.').chain(path.split('.')).filter(|s| !s.is_empty()) {
        let (name, is_list) = step.strip_suffix("[]").map_or((step, false), |n| (n, true));
        let mut next = Vec::new();
        for (at, tree) in found {
            let Some(inner) = tree.field(name).filter(|t| t.value != Value::Null) else { continue };
            let mut at: Vec<Segment> = at;
            at.push(Segment::Field(name.into()));
            match (&inner.value, is_list) {
                (Value::List(items), true) => next.extend(
                    items
                        .iter()
                        .enumerate()
                        .map(|(i, item)| (at.iter().cloned().chain([Segment::Index(i)]).collect(), item)),
                ),
                (_, true) => {}
                (_, false) => next.push((at, inner)),
            }
        }
        found = next;
    }
    found.into_iter().take(most).map(|(at, _)| at.into_iter().collect()).collect()
}
