//! One pod, by name: read when it is not known yet, and the annotation that says that its node captures its connections.

use std::sync::Arc;

use http::Method;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::json;
use underpass_config::json;
use underpass_core::{
    Kind, ObjectName,
    enrol::REDIRECTION,
    objects::{Object, Pod},
};
use underpass_door::{Observation, Severity};

use super::MERGE;
use crate::client::{Call, Client, Collection, Error, MAX_BYTES, is_name};

/// The value of the annotation of a captured pod.
const ENABLED: &str = "enabled";
/// What became of the wish to change an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Annotated {
    /// It is as wished.
    Done,
    /// There is no such pod.
    Gone,
    /// Another pod has the name now.
    Replaced,
    /// Another writer was in between; the same wish may be sent again.
    Conflict,
}

impl Client {
    /// A pod as it is now; none: it does not exist.
    ///
    /// # Errors
    /// Where the API server gives no good answer, or the pod cannot be understood.
    pub async fn pod(&self, name: &ObjectName) -> Result<Option<Arc<Pod>>, Error> {
        if !is_name(name.namespace()) || !is_name(name.name()) {
            return Ok(None);
        }
        let call = Call::get(Collection::PODS.one(name.namespace(), name.name()));
        let text = match self.text(&call, MAX_BYTES).await {
            Ok(text) => text,
            Err(e) if e.status() == Some(404) => return Ok(None),
            Err(e) => return Err(e),
        };
        let claim = json::object(Kind::Pod, &text).map_err(|e| call.unreadable(&e))?;
        match claim.observed {
            Observation::Good(Object::Pod(pod)) => Ok(Some(pod)),
            _ => {
                let error = claim.faults.iter().find(|f| f.fault.severity() == Severity::Error);
                let cause = error.map(|f| format!("{}: {}", f.field, f.fault)).unwrap_or_default();
                Err(call.unreadable(&json::NoObject { reason: cause.into() }))
            }
        }
    }

    /// A pod of this service account, `namespace/name`, runs on this node, as the API server knows it now.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn runs_on(&self, account: &ObjectName, node: &str) -> Result<bool, Error> {
        #[derive(Deserialize)]
        struct List {
            items: Vec<IgnoredAny>,
        }
        if !is_name(account.namespace()) || !is_name(account.name()) || !is_name(node) {
            return Ok(false);
        }
        let selector = format!(
            "spec.nodeName={node},spec.serviceAccountName={},status.phase!=Succeeded,status.phase!=Failed",
            account.name()
        );
        let call = Call::get(Collection::PODS.within(account.namespace()));
        let call = call.with("fieldSelector", &selector).with("limit", "1");
        let text = self.text(&call, MAX_BYTES).await?;
        let list: List = serde_json::from_slice(text.as_ref()).map_err(|e| call.unreadable(&e))?;
        Ok(!list.items.is_empty())
    }

    /// Says of the pod with this name and uid whether its connections are captured.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn set_redirection(&self, name: &ObjectName, uid: &str, enabled: bool) -> Result<Annotated, Error> {
        if !is_name(name.namespace()) || !is_name(name.name()) {
            return Ok(Annotated::Gone);
        }
        // A uid in a patch is a condition: it cannot be changed, and another one is refused.
        let value = enabled.then_some(ENABLED);
        let patch = json!({"metadata": {"uid": uid, "annotations": {REDIRECTION: value}}});
        let call = Call::new(Method::PATCH, Collection::PODS.one(name.namespace(), name.name()));
        let call = call.body(MERGE, &patch)?;
        match self.text(&call, MAX_BYTES).await {
            Ok(_) => Ok(Annotated::Done),
            Err(e) => outcome(&e).ok_or(e),
        }
    }
}

fn outcome(error: &Error) -> Option<Annotated> {
    let Error::Answered { status, .. } = error else { return None };
    match status.code {
        404 => Some(Annotated::Gone),
        409 if status.message.contains("UID in precondition") => Some(Annotated::Replaced),
        409 => Some(Annotated::Conflict),
        422 if status.is_about("metadata.uid") || status.message.contains("metadata.uid") => Some(Annotated::Replaced),
        _ => None,
    }
}
