//! Conditions and policies in words, for explanations of a request's way.

use std::sync::Arc;

use super::{RetryPolicy, TextMatch, ValueMatch};
use crate::objects::{HeaderChanges, HeaderOperations, HttpMatch};

/// What a condition asks for; empty: nothing.
pub(super) fn condition(m: &HttpMatch) -> String {
    let mut all = Vec::new();
    let mut say =
        |what: &str, text: Option<&TextMatch>| all.extend(text.map(|text| format!("{what} {}", self::text(text))));
    say("uri", m.uri.as_ref());
    say("method", m.method.as_ref());
    say("scheme", m.scheme.as_ref());
    say("authority", m.authority.as_ref());
    all.extend(m.headers.iter().map(|(name, v)| format!("header {name} {}", value(v))));
    all.extend(m.without_headers.iter().map(|(name, v)| format!("not header {name} {}", value(v))));
    all.extend(m.query.iter().map(|(name, v)| format!("query parameter {name} {}", value(v))));
    all.extend(m.port.map(|port| format!("port {port}")));
    all.extend((!m.source_labels.is_empty()).then(|| format!("source labels {:?}", m.source_labels)));
    all.extend(m.source_namespace.as_ref().map(|ns| format!("source namespace {ns}")));
    all.join(", ")
}

fn text(text: &TextMatch) -> String {
    match text {
        TextMatch::Exact(text) => format!("exact {text}"),
        TextMatch::Prefix(text) => format!("prefix {text}"),
        TextMatch::Elements(text) => format!("path prefix {text}"),
        TextMatch::Regex(pattern) => format!("regex {pattern}"),
    }
}

fn value(value: &ValueMatch) -> String {
    match value {
        ValueMatch::Present => "is there".to_owned(),
        ValueMatch::Value(text) => self::text(text),
    }
}

impl HeaderOperations {
    /// In one line.
    #[must_use]
    pub fn words(&self) -> String {
        let names = |pairs: &[(Arc<str>, Arc<str>)]| {
            pairs.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join(", ")
        };
        let of = |what: &str, changes: &HeaderChanges| {
            let set = (!changes.set.is_empty()).then(|| format!("sets {}", names(&changes.set)));
            let add = (!changes.add.is_empty()).then(|| format!("adds {}", names(&changes.add)));
            let remove = (!changes.remove.is_empty()).then(|| format!("removes {}", changes.remove.join(", ")));
            let all: Vec<_> = [set, add, remove].into_iter().flatten().collect();
            (!all.is_empty()).then(|| format!("{what} headers: {}", all.join("; ")))
        };
        let all = [of("request", &self.request), of("response", &self.response)];
        all.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }
}

impl RetryPolicy {
    /// In one line.
    #[must_use]
    pub fn words(&self) -> String {
        let mut on: Vec<String> = self.on.conditions.iter().map(|c| c.as_str().to_owned()).collect();
        on.extend(self.on.statuses.iter().map(ToString::to_string));
        let per_try = self.per_try_timeout.map_or_else(String::new, |t| format!(", {t:?} each"));
        let whose = if self.is_own { "" } else { " (the mesh's default)" };
        format!("{} retries{per_try}, on {}{whose}", self.attempts, on.join(","))
    }
}
