//! Text to trees, as kubectl reads it: YAML 1.1 scalars (`yes` and `on` are booleans, `010` is 8), merge keys, keys
//! that are always text, documents separated by `---` lines. A document that cannot be parsed loses itself only:
//! the text is cut into documents before it is parsed, as kubectl does.
//!
//! Trees rather than typed values, because a mistake in one field must not hide which object it is in, and because
//! duplicate keys, lines and the difference between `80` and `"80"` have to survive until a shape asks.

mod de;
mod split;
mod tree;

use std::sync::Arc;

pub use de::{ShapeError, UnknownField, from_tree, with_unknown_fields};
pub use tree::{Duplicate, Key, Tree, Value};

use crate::Fault;

/// The largest file that is read. A cluster's 10,000 pods are about 40 MiB as `kubectl get -o yaml` prints them, and
/// are not kept in one file by hand.
pub const MAX_FILE_BYTES: u64 = 16 << 20;
/// The most documents of one file.
pub const MAX_DOCUMENTS: usize = 10_000;
/// The deepest nesting of one document. Schemas of CustomResourceDefinitions reach 40.
pub const MAX_DEPTH: usize = 100;
/// Enough for [`MAX_DEPTH`]: a level takes 40 KiB in a build without optimisation.
const STACK_BYTES: usize = 16 << 20;
/// The most scalars, lists and mappings of one document, aliases expanded.
pub const MAX_NODES: usize = 1_000_000;
/// The most scalars, lists and mappings that aliases may add to one document.
pub const MAX_ALIAS_NODES: usize = 10_000;

/// One document of a file.
#[derive(Clone, Debug)]
pub struct Document<'a> {
    /// Its position among the documents of its file, from 1.
    pub number: u32,
    /// The line of the file in which it starts, from 1.
    pub line: u32,
    /// The line of the file in which its text starts, its `---` line and comments included.
    pub text_line: u32,
    /// Its text.
    pub text: &'a str,
    /// Its tree; none: it is empty (comments only).
    pub tree: Result<Option<Tree>, SyntaxError>,
}

/// The reason why a document is not YAML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// The line in the file, where the parser knows.
    pub line: Option<u32>,
    /// The message of the parser.
    pub message: Arc<str>,
}

impl From<SyntaxError> for Fault {
    fn from(e: SyntaxError) -> Self {
        Self::Syntax { message: e.message }
    }
}

/// The documents of a file, in order.
///
/// # Errors
/// When the file is no text, too large, or has too many documents: then nothing of it is read.
pub fn documents(bytes: &[u8]) -> Result<Vec<Document<'_>>, Fault> {
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
        return Err(Fault::FileTooLarge { max: MAX_FILE_BYTES });
    }
    let text = std::str::from_utf8(bytes).map_err(|e| Fault::NotUtf8 { at: e.valid_up_to() })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let pieces = split::split(text);
    if pieces.len() > MAX_DOCUMENTS {
        return Err(Fault::TooManyDocuments { max: MAX_DOCUMENTS });
    }
    // The parser recurses: its stack must not depend on the calling thread.
    std::thread::scope(|scope| {
        let parse_all = || pieces.into_iter().zip(1..).map(|(piece, number)| document(&piece, number)).collect();
        let thread = std::thread::Builder::new().name("yaml".into()).stack_size(STACK_BYTES);
        let parsing = thread.spawn_scoped(scope, parse_all).map_err(|e| Fault::Io { kind: e.kind() })?;
        parsing.join().or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The texts of a file's documents, each with its number and the line in which it starts, both from 1.
pub(crate) fn texts(text: &str) -> impl Iterator<Item = (u32, u32, &str)> {
    split::split(text).into_iter().zip(1..).map(|(piece, number)| (number, piece.content_line, piece.text))
}

fn document<'a>(piece: &split::Piece<'a>, number: u32) -> Document<'a> {
    let tree = if piece.is_blank { Ok(None) } else { parse(piece.text, piece.line) };
    Document { number, line: piece.content_line, text_line: piece.line, text: piece.text, tree }
}

/// One document, which starts in line `line` of its file.
fn parse(text: &str, line: u32) -> Result<Option<Tree>, SyntaxError> {
    let before = line.saturating_sub(1);
    match serde_saphyr::from_str_with_options::<Tree>(text, options()) {
        Ok(mut tree) => {
            tree.move_down(before);
            Ok(if tree.value == Value::Null { None } else { Some(tree) })
        }
        Err(e) => {
            let line = e.location().and_then(|l| u32::try_from(l.line()).ok()).filter(|l| *l > 0);
            let message = describe(&e).into();
            Err(SyntaxError { line: line.map(|l| l.saturating_add(before)), message })
        }
    }
}

/// The parser's message without the position in the document, which would contradict the line in the file.
fn describe(e: &serde_saphyr::Error) -> String {
    let text = e.without_snippet().to_string();
    let text = text.split('\n').next().unwrap_or_default();
    let text = text.split(" at line ").next().unwrap_or_default();
    match text.trim() {
        "" => "is not valid YAML".to_owned(),
        said => format!("is not valid YAML: {said}"),
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: MAX_NODES.saturating_mul(2),
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_ALIAS_NODES.saturating_mul(2),
            max_replay_stack_depth: 16,
        },
        // The tree keeps both, so that the object can still be named.
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough,
        legacy_octal_numbers: true,
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    }
}

#[cfg(test)]
mod tests;
