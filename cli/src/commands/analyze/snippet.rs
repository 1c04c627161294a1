//! The part of a line that a finding is about. The parser knows lines only; the part is found by the name of the field,
//! else it is the whole line.

use std::{ops::Range, sync::Arc};

use underpass_door::{Path, Segment};

/// The part of a line.
#[derive(Clone, Debug)]
pub(super) enum Mark {
    /// The value of this field, or its key where its value stands further down.
    Field(Path),
    /// This word.
    Text(Arc<str>),
}

impl Mark {
    /// The range of bytes in `line`; the line without its indentation if it is not found.
    pub(super) fn find(&self, line: &str) -> Range<usize> {
        let found = match self {
            Self::Text(text) => line.find(&**text).map(|at| at..at + text.len()),
            Self::Field(path) => field(line, path),
        };
        found.unwrap_or_else(|| whole(line))
    }
}

fn whole(line: &str) -> Range<usize> {
    let text = line.trim_start();
    let text = text.strip_prefix("- ").unwrap_or(text).trim_start();
    let start = line.len() - text.len();
    start..start + text.trim_end().len()
}

fn field(line: &str, path: &Path) -> Option<Range<usize>> {
    let mut last = path.segments().iter().rev();
    match last.next() {
        None => value(line, key(line, "kind")?),
        Some(Segment::Field(name)) => value(line, key(line, name)?),
        Some(Segment::Index(i)) => {
            let Some(Segment::Field(name)) = last.next() else { return None };
            let list = value(line, key(line, name)?)?;
            Some(entry(line, list.clone(), *i).unwrap_or(list))
        }
    }
}

/// The range of key `name` in a line, quoted or not.
fn key(line: &str, name: &str) -> Option<Range<usize>> {
    let mut from = 0;
    while let Some(at) = line.get(from..)?.find(name).map(|at| from + at) {
        let (before, after) = (line[..at].chars().next_back(), line[at + name.len()..].trim_start_matches(['"', '\'']));
        let starts = before.is_none_or(|c| c.is_whitespace() || matches!(c, '{' | ',' | '"' | '\''));
        if starts && after.trim_start().starts_with(':') {
            return Some(at..at + name.len());
        }
        from = at + name.len().max(1);
    }
    None
}

/// The value behind a key, or the key itself where nothing stands behind it.
fn value(line: &str, key: Range<usize>) -> Option<Range<usize>> {
    let colon = key.end + line.get(key.end..)?.find(':')? + 1;
    let rest = line.get(colon..)?;
    let start = colon + rest.len() - rest.trim_start().len();
    let text = rest.trim_start();
    let text = text.split(" #").next().unwrap_or_default();
    let mut depth = 0_usize;
    let mut quote: Option<char> = None;
    let mut end = text.len();
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}' | ',') if depth == 0 => {
                end = i;
                break;
            }
            (None, ']' | '}') => depth -= 1,
            (None, _) => {}
        }
    }
    let text = text[..end].trim_end();
    Some(if text.is_empty() || text.starts_with('#') { key } else { start..start + text.len() })
}

/// The entry of a list that stands in one line.
fn entry(line: &str, list: Range<usize>, index: usize) -> Option<Range<usize>> {
    let inner = line.get(list.clone())?.strip_prefix('[')?.strip_suffix(']')?;
    let mut start = list.start + 1;
    for (i, piece) in inner.split(',').enumerate() {
        let text = piece.trim();
        if i == index && !text.is_empty() {
            let at = start + piece.len() - piece.trim_start().len();
            return Some(at..at + text.len());
        }
        start += piece.len() + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_lines() {
        let check = |line: &str, path: &str, want: &str| {
            let found = Mark::Field(Path::parse(path)).find(line);
            assert_eq!(&line[found], want, "{path} in {line:?}");
        };
        check("  mode: STRICT # for all", "spec.mtls.mode", "STRICT");
        check("  subsets:", "spec.subsets", "subsets");
        check("  subsets: # three", "spec.subsets", "subsets");
        check("- kind: Pod", "", "Pod");
        check("apiVersion: v1", "", "apiVersion: v1");
        check("metadata: {name: a, labels: {x: \"1,2\", y: z}}", "metadata.labels.x", "\"1,2\"");
        check("metadata: {name: a, labels: {x: \"1,2\", y: z}}", "metadata.labels.y", "z");
        check("  sidecar.istio.io/inject: \"true\"", "metadata.annotations[sidecar.istio.io/inject]", "\"true\"");
        check("\"kind\": \"Pod\",", "kind", "\"Pod\"");
        check("  principals: [\"a\", b, c]", "from[0].source.principals[1]", "b");
        check("  principals: [\"a\", b, c]", "from[0].source.principals[9]", "[\"a\", b, c]");
        check("      - cluster.local/ns/a/sa/b", "from[0].source.principals[0]", "cluster.local/ns/a/sa/b");
        check("  hostname: x", "spec.host", "hostname: x");
        check("", "spec.host", "");
        check("ä: ö", "x", "ä: ö");
        let found = Mark::Text("envoy_x".into()).find("sum(envoy_x[5m])");
        assert_eq!(found, 4..11);
    }
}
