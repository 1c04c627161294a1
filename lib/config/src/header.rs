//! The header (apiVersion, kind, name) of a document that cannot be parsed, found line by line. Its name makes the
//! message clear, and a security policy must close what it selects also while it cannot be read, unless it is a dry
//! run.

use underpass_core::ObjectKey;

use crate::{
    ObjectId,
    convert::is_dry_run,
    kinds,
    manifest::{id, named},
};

/// The values of these lines, as people and programs write them: YAML in blocks, with `metadata` in one line
/// too, or JSON with a line for each key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header<'t> {
    api_version: Option<&'t str>,
    kind: &'t str,
    namespace: Option<&'t str>,
    name: &'t str,
    /// It is a dry run: it closes nothing.
    is_dry_run: bool,
}

impl<'t> Header<'t> {
    pub(crate) fn of(text: &'t str) -> Option<Self> {
        let (mut api_version, mut kind) = (None, None);
        let (mut name, mut namespace) = (None, None);
        let mut dry_run = false;
        let mut outer = None; // how far the object's fields are indented
        let mut inside: Option<Option<usize>> = None; // in metadata, and how far its fields are
        for line in text.lines() {
            dry_run |= inside.is_some() && is_dry_run(line);
            let Some((key, value)) = pair(line) else { continue };
            let indent = line.len().saturating_sub(line.trim_start_matches(' ').len());
            let note = |first: &mut Option<&'t str>, of: &str, key: &str, value: &'t str| {
                *first = first.or(Some(value).filter(|v| key == of && !v.is_empty()));
            };
            if indent <= *outer.get_or_insert(indent) {
                // A plain value opens nothing: a stray line in the middle of metadata.
                if value.is_empty() || value.starts_with(['{', '[', '|', '>']) {
                    inside = (key == "metadata").then_some(None);
                }
                dry_run |= key == "metadata" && is_dry_run(value);
                note(&mut api_version, "apiVersion", key, value);
                note(&mut kind, "kind", key, value);
                for (key, value) in flow(value).filter(|_| key == "metadata") {
                    note(&mut name, "name", key, value);
                    note(&mut namespace, "namespace", key, value);
                }
            } else if let Some(level) = inside
                && *inside.insert(Some(level.unwrap_or(indent))) == Some(indent)
            {
                note(&mut name, "name", key, value);
                note(&mut namespace, "namespace", key, value);
            }
        }
        let (kind, name) = kind.zip(name)?;
        // A misspelled kind is reported under the one that was probably meant.
        let kind = kinds::meant(api_version, kind).map_or(kind, |meant| meant.as_str());
        Some(Self { api_version, kind, namespace, name, is_dry_run: dry_run })
    }

    pub(crate) fn id(&self) -> ObjectId {
        id(self.kind, self.namespace, self.name)
    }

    /// Of a kind that is served, where it decides something.
    pub(crate) fn key(&self) -> Option<ObjectKey> {
        if self.is_dry_run {
            return None;
        }
        named(kinds::meant(self.api_version, self.kind)?, self.namespace, self.name)
    }
}

/// `key: value`, without quotes, a comment and a comma behind it.
fn pair(text: &str) -> Option<(&str, &str)> {
    let (key, value) = text.split_once(':')?;
    let key = key.trim().trim_matches(['"', '\'']);
    let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric());
    let value = value.split(" #").next().unwrap_or_default().trim().trim_end_matches(',');
    is_key.then(|| (key, value.trim_matches(['"', '\''])))
}

/// The pairs of `{key: value, ...}` itself, not of what is nested.
fn flow(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut depth = 0_usize;
    let is_end = move |c: char| {
        depth = match c {
            '{' | '[' => depth.saturating_add(1),
            '}' | ']' => depth.saturating_sub(1),
            _ => depth,
        };
        depth == 0 || (c == ',' && depth == 1)
    };
    let parts = text.strip_prefix('{').map(|_| text.split(is_end)).into_iter().flatten();
    parts.filter_map(|part| pair(part.strip_prefix('{').unwrap_or(part)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_run_is_seen() {
        let check = |rest: &str, expect: bool| {
            let text = format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n{rest}\n");
            assert_eq!(Header::of(&text).map(|g| g.key().is_none()), Some(expect), "{text}");
        };
        let block = |value: &str| format!("metadata:\n  name: a\n  annotations:\n    {value}\nspec: [");
        check(&block("istio.io/dry-run: \"true\""), true);
        check(&block("'istio.io/dry-run': true # for now"), true);
        check(&block("istio.io/dry-run: T"), true);
        check(&block("\"istio.io/dry-run\": \"1\","), true);
        check(&block("istio.io/dry-run: \"false\""), false);
        check(&block("istio.io/dry-run: truely"), false);
        check(&block("note: istio.io/dry-run true"), false);
        check(&block("# istio.io/dry-run: true"), false);
        check("metadata: {name: a, annotations: {x: y, istio.io/dry-run: 'true'}}\nspec: [", true);
        // not where annotations stand
        check("metadata: {name: a}\nspec: [\n  istio.io/dry-run: 'true'", false);
    }

    #[test]
    fn headers_of_broken_documents() {
        let check = |text: &str, expect: Option<&str>| {
            let seen = Header::of(text).map(|g| format!("{} {}", g.api_version.unwrap_or("-"), g.id()));
            assert_eq!(seen.as_deref(), expect, "{text}");
        };
        let deny = Some("security.istio.io/v1 AuthorizationPolicy prod/deny");
        let head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n";
        let block = "metadata:\n  name: deny # all\n  labels:\n    name: x\n  namespace: 'prod'\n";
        check(&format!("---\n# deny\n{head}{block}spec:\n  name: [\n"), deny);
        check(&format!("{block}spec: [\n{head}"), deny);
        check(
            &format!("{head}metadata: {{labels: {{a: b, name: x}}, name: deny, namespace: \"prod\"}}\nspec: [\n"),
            deny,
        );
        check(&format!("{head}metadata: {{name: deny, namespace: prod\nspec:\n  name: x\n"), deny);
        check(&format!("{head}spec:\n  name: x\n{block}"), deny);
        // a line that does not belong there
        for stray in ["}", "\"open", "- : [", "kind: 1\nkind: 2"] {
            check(&format!("{head}{}", block.replace("  labels", &format!("{stray}\n  labels"))), deny);
        }
        let json = "{\n  \"apiVersion\": \"security.istio.io/v1\",\n  \"kind\": \"AuthorizationPolicy\",\n  \"metadata\": {\n    \
                    \"name\": \"deny\",\n    \"namespace\": \"prod\"\n  },\n  \"spec\": {\n";
        check(json, deny);
        check(&format!("kind: AuthorisationPolicy\n{block}"), Some("- AuthorizationPolicy prod/deny"));
        check(&format!("kind: Widget\n{block}"), Some("- Widget prod/deny"));
        check("kind: Pod\nmetadata:\n  labels:\n    name: x\n", None);
        check(head, None);
        check("a: [\n", None);
    }
}
