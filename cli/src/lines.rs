//! Where a field of an object stands: its file and line. Core knows objects and fields only.

use std::{collections::BTreeMap, sync::Arc};

use underpass_config::{
    door::{Content, State},
    yaml::{self, Document},
};
use underpass_core::ObjectKey;
use underpass_door::Path;

/// The lookup of lines in files that were read.
pub(crate) struct Lines<'a> {
    state: &'a State,
    contents: Vec<(Arc<str>, Content<'a>)>,
    /// Files that were asked for, parsed once.
    parsed: BTreeMap<Arc<str>, Vec<Document<'a>>>,
}

impl<'a> Lines<'a> {
    /// Of `contents`, from which `state` is.
    pub(crate) const fn new(state: &'a State, contents: Vec<(Arc<str>, Content<'a>)>) -> Self {
        Self { state, contents, parsed: BTreeMap::new() }
    }

    /// The file of an object and the line of its field, as near as it is known; none: it is of no file.
    pub(crate) fn of(&mut self, object: &ObjectKey, field: &Path) -> Option<(&'a Arc<str>, u32)> {
        let (file, claim) = self.state.claim(object)?;
        let contents = &self.contents;
        let documents = self.parsed.entry(Arc::clone(file)).or_insert_with(|| {
            let bytes = contents.iter().find_map(|(name, content)| match content {
                Content::Bytes(bytes) if name == file => Some(*bytes),
                _ => None,
            });
            bytes.and_then(|bytes| yaml::documents(bytes).ok()).unwrap_or_default()
        });
        let document = documents.iter().find(|d| d.number == claim.document);
        let tree = document.and_then(|d| d.tree.as_ref().ok()?.as_ref());
        Some(match tree {
            Some(tree) if !field.is_empty() => (file, tree.line_of(&field.clone().inside(&claim.place))),
            _ => (file, claim.line),
        })
    }
}
