//! Events about pods (`events.k8s.io/v1`), as `kubectl describe pod` shows them.

use std::time::SystemTime;

use http::Method;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::MicroTime, jiff::Timestamp};
use serde::Serialize;
use serde_json::json;
use underpass_core::ObjectName;

use crate::client::{Call, Client, Collection, Error, MAX_BYTES, is_name};

/// The longest note that the API takes, in bytes.
const MAX_NOTE_BYTES: usize = 1024;

/// `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum EventType {
    /// What is as its owner wants it, or says it.
    Normal,
    /// What its owner should look at.
    Warning,
}

/// An event about a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodEvent {
    /// The pod.
    pub pod: ObjectName,
    /// Its `metadata.uid`: `kubectl describe` shows the events of this very pod.
    pub uid: std::sync::Arc<str>,
    /// `type`.
    pub r#type: EventType,
    /// `reason`: one word in CamelCase, for programs.
    pub reason: &'static str,
    /// `action`: what was done or failed, one word in CamelCase.
    pub action: &'static str,
    /// `note`: a sentence for people. What is longer than the API takes is cut.
    pub note: String,
}

/// Who reports.
#[derive(Clone, Debug)]
pub struct Reporter {
    /// `reportingController`: a qualified name, such as `underpass.dev/agent`.
    pub controller: &'static str,
    /// `reportingInstance`: its node or pod.
    pub instance: String,
}

impl Client {
    /// Writes an event, which happened at this time.
    ///
    /// # Errors
    /// Where the API server gives no good answer; 404 where the namespace is gone.
    pub async fn write_event(&self, event: &PodEvent, by: &Reporter, at: SystemTime) -> Result<(), Error> {
        let (namespace, name) = (event.pod.namespace(), event.pod.name());
        if !is_name(namespace) || !is_name(name) {
            return Err(Error::Name { name: event.pod.to_string().into() });
        }
        let body = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            // The API server adds the rest of the name.
            "metadata": {"generateName": format!("{}-", prefix(name)), "namespace": namespace},
            "eventTime": micro_time(at),
            "reportingController": by.controller,
            "reportingInstance": by.instance,
            "type": event.r#type,
            "reason": event.reason,
            "action": event.action,
            "note": cut(&event.note, MAX_NOTE_BYTES),
            "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": &*event.uid},
        });
        let call = Call::new(Method::POST, Collection::EVENTS.within(namespace)).json(&body)?;
        self.text(&call, MAX_BYTES).await.map(drop)
    }
}

/// A pod's name, short enough for a name that begins with it, a hyphen and what the API server adds.
fn prefix(name: &str) -> &str {
    cut(name, 200).trim_end_matches(['.', '-'])
}

/// At most `max` bytes, whole characters.
fn cut(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or(text)
}

/// RFC 3339, to the microsecond. What is out of range of the API is its beginning.
fn micro_time(at: SystemTime) -> MicroTime {
    MicroTime(Timestamp::try_from(at).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn times_and_texts() {
        let at = UNIX_EPOCH + Duration::from_micros(1_796_000_000_000_007);
        assert_eq!(json!(micro_time(at)), "2026-11-30T00:53:20.000007Z");
        assert_eq!((cut("aä", 2), cut("aä", 3), cut("", 1)), ("a", "aä", ""));
        for mark in ['.', '-'] {
            assert_eq!(prefix(&format!("{}{mark}{}", "a".repeat(199), "b".repeat(9))), "a".repeat(199));
        }
    }
}
