//! One review: a question of an API server (`admission.k8s.io/v1` AdmissionReview) and its answer. Pure.
//!
//! An object that is refused here is one that the door would not serve. Two kinds of changes pass in spite of errors, because
//! nothing is made worse by them: those of an object that is being deleted (finalizers are taken away by updates), and those
//! that bring no error that was not there before (a label on a policy which was written while there was no admission).

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use underpass_config::json::{self, Claim, NoObject};
use underpass_core::{Kind, objects::Batch, resolve::Model, world::MeshSettings};
use underpass_door::{Observation, Severity};

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// The status of an object that is not what its kind asks for (RFC 9110, 15.5.21), and its name in Kubernetes' API.
const UNPROCESSABLE: (u16, &str) = (422, "Invalid");

/// The question is none about a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    /// No JSON, or another shape.
    #[error("no AdmissionReview: {reason}")]
    Json {
        /// The parser's word.
        reason: String,
    },
    /// Another kind of question.
    #[error("no AdmissionReview of {API_VERSION}: apiVersion {api_version:?}, kind {kind:?}")]
    Version {
        /// As asked.
        api_version: String,
        /// As asked.
        kind: String,
    },
    /// It has an answer and no question.
    #[error("an AdmissionReview without a request")]
    NoRequest,
    /// Another kind of object.
    #[error(
        "{kind} of {group:?} is not reviewed here: AuthorizationPolicy and PeerAuthentication of security.istio.io are"
    )]
    Kind {
        /// As asked.
        group: String,
        /// As asked.
        kind: String,
    },
    /// Another operation.
    #[error("{operation} is not reviewed here: CREATE and UPDATE are")]
    Operation {
        /// As asked.
        operation: String,
    },
    /// The object has no name.
    #[error("request.object: {0}")]
    Object(#[from] NoObject),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(borrow)]
    request: Option<Request<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    uid: String,
    kind: GroupKind,
    operation: String,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    #[serde(borrow)]
    old_object: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct GroupKind {
    group: String,
    kind: String,
}

/// An answer, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    api_version: &'static str,
    kind: &'static str,
    response: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Verdict {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Status {
    code: u16,
    reason: &'static str,
    message: String,
}

impl Answer {
    pub(super) const fn is_allowed(&self) -> bool {
        self.response.allowed
    }

    pub(super) fn warnings(&self) -> &[String] {
        &self.response.warnings
    }
}

/// The answer to a review.
///
/// # Errors
/// Where it is no review of a policy.
pub(super) fn answer(body: &[u8], settings: &MeshSettings) -> Result<Answer, Unreadable> {
    let Review { api_version, kind, request } =
        serde_json::from_slice(body).map_err(|e| Unreadable::Json { reason: e.to_string() })?;
    if (&*api_version, &*kind) != (API_VERSION, KIND) {
        return Err(Unreadable::Version { api_version, kind });
    }
    let Request { uid, kind, operation, object, old_object } = request.ok_or(Unreadable::NoRequest)?;
    let kind = policy(kind)?;
    if !matches!(&*operation, "CREATE" | "UPDATE") {
        return Err(Unreadable::Operation { operation });
    }
    let text = object.map_or("null", RawValue::get);
    let claim = json::object(kind, text)?;
    let before = old_object.and_then(|old| json::object(kind, old.get()).ok());
    let (errors, mut warnings) = told(&claim, settings);
    let is_refused = !errors.is_empty() && !is_being_deleted(text) && has_new(&errors, before.as_ref());
    let status = is_refused.then(|| Status {
        code: UNPROCESSABLE.0,
        reason: UNPROCESSABLE.1,
        message: format!("{}: {}", claim.key, errors.join("; ")),
    });
    if !is_refused {
        warnings.splice(0..0, errors);
    }
    let warnings = warnings.into_iter().map(|warning| format!("{}: {warning}", claim.key)).collect();
    let response = Verdict { uid, allowed: !is_refused, status, warnings };
    Ok(Answer { api_version: API_VERSION, kind: KIND, response })
}

fn policy(GroupKind { group, kind }: GroupKind) -> Result<Kind, Unreadable> {
    match (&*group, &*kind) {
        ("security.istio.io", "AuthorizationPolicy") => Ok(Kind::AuthorizationPolicy),
        ("security.istio.io", "PeerAuthentication") => Ok(Kind::PeerAuthentication),
        _ => Err(Unreadable::Kind { group, kind }),
    }
}

/// The errors of an object and its warnings, each with its field: what the converter finds, and what is surprising about what
/// it made.
fn told(claim: &Claim, settings: &MeshSettings) -> (Vec<String>, Vec<String>) {
    let line = |field: &str, says: &str| if field.is_empty() { says.to_owned() } else { format!("{field}: {says}") };
    let faults = |is_error: bool| {
        let some = claim.faults.iter().filter(move |f| (f.fault.severity() == Severity::Error) == is_error);
        some.map(|f| line(&f.field.to_string(), &f.fault.to_string()))
    };
    let Observation::Good(object) = &claim.observed else {
        return (faults(true).collect(), faults(false).collect());
    };
    let mut model = Model::empty(settings.clone());
    let mut alone = Batch::default();
    alone.put(object.clone());
    model.apply(&alone);
    let findings = model.sources().findings_of(&claim.key).iter().map(|finding| line(&finding.field, &finding.says));
    // Of a good object the word that there are more warnings.
    (Vec::new(), faults(false).chain(faults(true)).chain(findings).collect())
}

/// Some of these errors are not those of the object before.
fn has_new(errors: &[String], before: Option<&Claim>) -> bool {
    let Some(before) = before else { return true };
    let (before, _) = told(before, &MeshSettings::default());
    errors.iter().any(|error| !before.contains(error))
}

fn is_being_deleted(json: &str) -> bool {
    #[derive(Deserialize)]
    struct Object {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        deletion_timestamp: Option<String>,
    }
    serde_json::from_str(json).is_ok_and(|object: Object| object.metadata.deletion_timestamp.is_some())
}
