//! Conditions of a policy's status. Of other writers' conditions nothing is known here: they are kept as they are, and ours are
//! set by type among them. The list is written as a whole, since in Istio's definitions it is one field, so a write names the
//! version that was read: of two writers the later one is refused, and reads again.
//!
//! Policies are followed with their status, generation and content in one, so that what a condition says is about the
//! very generation that it names.

use std::{sync::Arc, time::SystemTime};

use http::Method;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use underpass_config::json::{self, Claim, NoObject};
use underpass_core::{Kind, ObjectKey};

use super::{FIELD_MANAGER, MERGE};
use crate::{
    client::{Call, Client, Collection, Error, MAX_BYTES, is_name},
    door::{
        follow::{Beside, News, Target, follow},
        list_watch::Output,
    },
};

/// Changes that wait to be taken.
const WAITING: usize = 64;

/// A condition of ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Condition {
    /// `type`.
    pub r#type: &'static str,
    /// `status`.
    pub is_true: bool,
    /// `reason`: one word.
    pub reason: &'static str,
    /// `message`, for people.
    pub message: String,
}

/// An object with the conditions of its status.
#[derive(Clone, Debug, PartialEq)]
pub struct Conditioned {
    /// The object.
    pub claim: Claim,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// `metadata.generation`: counts the changes of its content.
    pub generation: i64,
    collection: Collection,
    conditions: Vec<Value>,
}

/// What is new of the objects of a kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Statuses {
    /// These are all.
    All(Kind, Vec<Conditioned>),
    /// One was made or changed.
    One(Box<Conditioned>),
    /// One is gone.
    Gone(ObjectKey),
}

/// What became of the wish to set conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutConditions {
    /// They are set.
    Written,
    /// The object, or its status, has changed since it was read.
    Conflict,
    /// The object is gone.
    Gone,
    /// Its definition has no status.
    NoStatus,
}

impl Conditioned {
    /// The object of a kind that a text says.
    ///
    /// # Errors
    /// Where it does not say which object it is.
    pub fn read(kind: Kind, text: &str) -> Result<Self, NoObject> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Object {
            #[serde(default)]
            api_version: String,
            metadata: Metadata,
            #[serde(default)]
            status: Value,
        }
        #[derive(Deserialize)]
        struct Metadata {
            #[serde(default)]
            uid: Arc<str>,
            #[serde(default)]
            generation: i64,
        }
        let claim = json::object(kind, text)?;
        let object: Object = serde_json::from_str(text).map_err(|e| NoObject { reason: e.to_string().into() })?;
        let Object { api_version, metadata: Metadata { uid, generation }, mut status } = object;
        let served = Collection::of(kind);
        let collection = served.iter().find(|c| c.is_of(&api_version)).or(served.first()).copied();
        let collection = collection.ok_or_else(|| NoObject { reason: format!("no API has {kind}").into() })?;
        let conditions = match status.get_mut("conditions").map(Value::take) {
            Some(Value::Array(conditions)) => conditions,
            _ => Vec::new(),
        };
        Ok(Self { claim, uid, generation, collection, conditions })
    }

    /// All conditions, those of the types `ours` being exactly `wanted`; none: it is so.
    fn with(&self, ours: &[&str], wanted: &[Condition], now: SystemTime) -> Option<Vec<Value>> {
        let r#type = |condition: &Value| condition.get("type").and_then(Value::as_str).map(str::to_owned);
        let mut left: Vec<&Condition> = wanted.iter().collect();
        let mut all = Vec::new();
        for found in &self.conditions {
            let r#type = r#type(found);
            if !r#type.as_ref().is_some_and(|t| ours.contains(&t.as_str())) {
                all.push(found.clone());
            } else if let Some(at) = left.iter().position(|wanted| Some(wanted.r#type) == r#type.as_deref()) {
                all.push(self.condition(left.remove(at), Some(found), now));
            }
        }
        all.extend(left.into_iter().map(|wanted| self.condition(wanted, None, now)));
        (all != self.conditions).then_some(all)
    }

    /// The condition in the place of the one that is `found`.
    fn condition(&self, wanted: &Condition, found: Option<&Value>, now: SystemTime) -> Value {
        let Condition { r#type, is_true, reason, message } = wanted;
        let status = if *is_true { "True" } else { "False" };
        let since = found.filter(|found| found.get("status").and_then(Value::as_str) == Some(status));
        let since = since.and_then(|found| found.get("lastTransitionTime")?.as_str());
        let since = since.map_or_else(|| time(now), str::to_owned);
        let mut condition = match found {
            Some(Value::Object(found)) => found.clone(),
            _ => Map::new(),
        };
        let fields = [
            ("type", json!(r#type)),
            ("status", json!(status)),
            ("reason", json!(reason)),
            ("message", json!(message)),
            ("lastTransitionTime", json!(since)),
            // A number, as of Kubernetes' own kinds, by which `kubectl wait` goes.
            ("observedGeneration", json!(self.generation)),
        ];
        condition.extend(fields.map(|(name, value)| (name.to_owned(), value)));
        Value::Object(condition)
    }
}

/// In seconds, as Kubernetes writes it.
fn time(now: SystemTime) -> String {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.unwrap_or_default().to_string()
}

/// A write that sets conditions.
#[derive(Clone, Debug)]
pub struct Change {
    call: Call,
    read_again: Call,
}

impl Conditioned {
    /// The write after which the conditions of the types `ours` are exactly `wanted`, and all others as they are; none: they
    /// are already.
    ///
    /// # Errors
    /// Where no object can have its name.
    pub fn change(&self, ours: &[&str], wanted: &[Condition], now: SystemTime) -> Result<Option<Change>, Error> {
        let Some(conditions) = self.with(ours, wanted, now) else { return Ok(None) };
        let name = &self.claim.key.name;
        for part in [name.namespace(), name.name()] {
            if !is_name(part) {
                return Err(Error::Name { name: part.into() });
            }
        }
        let path = self.collection.one(name.namespace(), name.name());
        // Conditions of the write: this object, in this version.
        let metadata = json!({"uid": self.uid, "resourceVersion": self.claim.resource_version});
        let patch = json!({"metadata": metadata, "status": {"conditions": conditions}});
        let call = Call::new(Method::PATCH, format!("{path}/status")).with("fieldManager", FIELD_MANAGER);
        Ok(Some(Change { call: call.body(MERGE, &patch)?, read_again: Call::get(path) }))
    }
}

impl Client {
    /// Sets the conditions of an object.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn put_conditions(&self, change: &Change) -> Result<PutConditions, Error> {
        match self.text(&change.call, MAX_BYTES).await {
            Ok(_) => Ok(PutConditions::Written),
            Err(e) if e.status() == Some(409) => Ok(PutConditions::Conflict),
            // A definition without a status answers as if there were no such object.
            Err(e) if e.status() == Some(404) => match self.text(&change.read_again, MAX_BYTES).await {
                Ok(_) => Ok(PutConditions::NoStatus),
                Err(e) if e.status() == Some(404) => Ok(PutConditions::Gone),
                Err(e) => Err(e),
            },
            Err(e) => Err(e),
        }
    }

    /// Reads all objects of a kind with their conditions, and then every change, for as long as it is polled and taken. A
    /// kind that the API server does not have has no objects, until it appears.
    pub async fn follow_conditions(&self, kind: Kind, changes: mpsc::Sender<Statuses>) {
        let name = move |header: &json::Header<'_>| header.key(kind).name;
        let target = Target::new(Collection::of(kind), move |text: &str| Conditioned::read(kind, text), name);
        let (sender, mut news) = mpsc::channel(WAITING);
        let passing = async {
            while let Some(((), News { outputs, .. })) = news.recv().await {
                for output in outputs {
                    let change = match output {
                        Output::Replaced(all) => Statuses::All(kind, all),
                        Output::Put(one) => Statuses::One(Box::new(one)),
                        Output::Removed(name) => Statuses::Gone(ObjectKey::new(kind, name)),
                        Output::Absent => Statuses::All(kind, Vec::new()),
                    };
                    if changes.send(change).await.is_err() {
                        return;
                    }
                }
            }
        };
        tokio::select! {
            () = follow(self.clone(), target, (), sender, Beside::nothing()) => {}
            () = passing => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const OURS: [&str; 2] = ["Accepted", "ZtunnelAccepted"];

    fn found(conditions: &Value) -> Conditioned {
        let object = json!({
            "apiVersion": "security.istio.io/v1beta1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "p", "namespace": "a", "uid": "u", "resourceVersion": "7", "generation": 3},
            "spec": {},
            "status": {"conditions": conditions, "observedGeneration": "2"},
        });
        Conditioned::read(Kind::AuthorizationPolicy, &object.to_string()).unwrap()
    }

    fn accepted(is_true: bool) -> Condition {
        let reason = if is_true { "Accepted" } else { "Invalid" };
        Condition { r#type: "Accepted", is_true, reason, message: "m".into() }
    }

    fn ours(r#type: &str, status: &str, reason: &str, since: &str, generation: u32) -> Value {
        json!({"type": r#type, "status": status, "reason": reason, "message": "m", "lastTransitionTime": since, "observedGeneration": generation})
    }

    /// The conditions that are written where these are found; null: none.
    #[track_caller]
    fn check(conditions: Value, wanted: &[Condition], expect: Value) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_900);
        let written = found(&conditions).with(&OURS, wanted, now);
        assert_eq!(written.map_or(Value::Null, Value::Array), expect, "{conditions}");
    }

    const THEN: &str = "2020-01-01T00:00:00Z";
    const NOW: &str = "2023-11-14T22:13:20Z";

    #[test]
    fn conditions_are_merged_by_type() {
        let wanted = [accepted(true)];
        let now = ours("Accepted", "True", "Accepted", NOW, 3);
        check(Value::Null, &wanted, json!([now]));
        check(json!("odd"), &wanted, json!([now]));
        // As it is.
        check(json!([ours("Accepted", "True", "Accepted", THEN, 3)]), &wanted, Value::Null);
        check(Value::Null, &[], Value::Null);
        // Its time is that of its last transition.
        let before = json!([ours("Accepted", "True", "Other", THEN, 2)]);
        check(before, &wanted, json!([ours("Accepted", "True", "Accepted", THEN, 3)]));
        let before = json!([ours("Accepted", "False", "Invalid", THEN, 3)]);
        check(before, &wanted, json!([now]));
        // Istio writes the generation as text, and one field more.
        let mut before = ours("Accepted", "True", "Accepted", THEN, 3);
        before["observedGeneration"] = json!("3");
        before["lastProbeTime"] = json!(THEN);
        let mut after = ours("Accepted", "True", "Accepted", THEN, 3);
        after["lastProbeTime"] = json!(THEN);
        check(json!([before]), &wanted, json!([after]));
    }

    #[test]
    fn conditions_of_others_stay() {
        let other = json!({"type": "Theirs", "status": "Unknown", "what": [1, {"x": null}]});
        let odd = json!(["no condition"]);
        let stale = ours("ZtunnelAccepted", "True", "Accepted", THEN, 3);
        let broken = ours("Accepted", "False", "Invalid", NOW, 3);
        check(
            json!([other, stale, odd, ours("Accepted", "True", "Accepted", THEN, 2)]),
            &[accepted(false)],
            json!([other, odd, broken]),
        );
        check(json!([other, odd]), &[accepted(false)], json!([other, odd, broken]));
        check(json!([stale, stale]), &[], json!([]));
        // One type stands once.
        check(json!([stale, broken, broken]), &[accepted(false)], json!([broken]));
    }

    #[test]
    fn a_write_is_about_one_version_of_one_object() {
        let found = found(&json!([]));
        assert_eq!((found.generation, &*found.uid), (3, "u"));
        let change = found.change(&OURS, &[accepted(true)], SystemTime::UNIX_EPOCH).unwrap().unwrap();
        let text = format!("{change:?}");
        assert!(text.contains("/apis/security.istio.io/v1beta1/namespaces/a/authorizationpolicies/p/status"), "{text}");
        assert_eq!(found.with(&OURS, &[], SystemTime::UNIX_EPOCH), None);
        assert!(Conditioned::read(Kind::AuthorizationPolicy, r#"{"metadata":{}}"#).is_err());
    }
}
