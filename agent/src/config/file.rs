//! The file of settings: YAML, one mapping from the names of the flags to their values. Its own room because problems of a file
//! have a line.

use std::path::Path;

use underpass_config::yaml::{self, Key, Tree, Value};

use super::problem::{Origin, Problem};

/// One key of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) line: u32,
    /// More than one for a list.
    pub(super) values: Vec<String>,
    /// Whether YAML reads one of them as true or false: `no` and `n` as well.
    pub(super) has_truth: bool,
}

/// Parses a file. An entry that cannot be read is a problem of its own, and keeps no other one from being read.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> (Vec<Entry>, Vec<Problem>) {
    let origin = |line: Option<u32>| Origin::File { path: path.to_owned(), line };
    let bad = |line: Option<u32>, reason: String| Problem::File { origin: origin(line), reason };
    let (mut entries, mut problems) = (Vec::new(), Vec::new());
    let documents = match yaml::documents(bytes) {
        Ok(documents) => documents,
        Err(fault) => return (entries, vec![bad(None, fault.to_string())]),
    };
    for (n, document) in documents.into_iter().enumerate() {
        match document.tree {
            Err(e) => problems.push(bad(e.line, e.message.to_string())),
            Ok(None) => {}
            Ok(Some(tree)) if n > 0 => {
                problems.push(bad(Some(tree.line), "a second document: settings are one mapping".to_owned()));
            }
            Ok(Some(Tree { value: Value::Map(map), .. })) => {
                for (key, tree) in map {
                    match entry(key, &tree) {
                        Err((line, reason)) => problems.push(bad(Some(line), reason)),
                        Ok(entry) => match entries.iter().find(|e: &&Entry| e.name == entry.name) {
                            Some(first) => {
                                let reason = format!("{} is set twice: first in line {}", entry.name, first.line);
                                problems.push(bad(Some(entry.line), reason));
                            }
                            None => entries.push(entry),
                        },
                    }
                }
            }
            Ok(Some(tree)) => {
                problems.push(bad(Some(tree.line), "settings are a mapping, such as `node: node-1`".to_owned()));
            }
        }
    }
    (entries, problems)
}

fn entry(Key { name, line }: Key, tree: &Tree) -> Result<Entry, (u32, String)> {
    let values = match &tree.value {
        Value::List(items) => items.iter().map(scalar).collect::<Option<Vec<_>>>(),
        _ => scalar(tree).map(|value| vec![value]),
    };
    match values {
        Some(values) => Ok(Entry { name, line, values, has_truth: has_truth(tree) }),
        None => Err((line, format!("{name}: a value, or a list of values: remove the line for the default"))),
    }
}

fn has_truth(tree: &Tree) -> bool {
    match &tree.value {
        Value::List(items) => items.iter().any(has_truth),
        value => matches!(value, Value::Bool(_)),
    }
}

fn scalar(tree: &Tree) -> Option<String> {
    match &tree.value {
        Value::Bool(b) => Some(b.to_string()),
        Value::Int(n) => Some(n.to_string()),
        Value::Float(n) => Some(n.to_string()),
        Value::Text(text) => Some(text.clone()),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    }
}
