//! The API server's word about a bearer token (TokenReview): whose it is, and which pod and node it was given to.
//!
//! Every token is asked for anew. A cached answer would accept the token of a pod that has been deleted meanwhile, and
//! saves nothing worth that: an agent shows its token when it connects and for each certificate, a few times a second
//! in a mesh of a thousand nodes.
//!
//! What must hold: a token for another audience is refused, also by an API server that knows no audiences; only service
//! accounts are callers; and no token is written into a log or an error.

use std::{collections::BTreeMap, sync::Arc};

use http::Method;
use serde::Deserialize;
use serde_json::json;
use underpass_core::ObjectName;

use crate::client::{Call, Client, Collection, Error};

/// Set by the API server for tokens that are bound to a pod (KEP 1205, KEP 4193).
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// The user names of service accounts: this, namespace, `:`, name.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The owner of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// `system:serviceaccount:<namespace>:<name>`.
    pub username: Arc<str>,
    /// The service account.
    pub service_account: ObjectName,
    /// The uid of the service account.
    pub uid: Arc<str>,
    /// The pod that the token was given to; none: it is bound to no pod.
    pub pod: Option<BoundPod>,
    /// The node that this pod was on; none: the API server does not say.
    pub node: Option<Arc<str>>,
}

/// The pod that a token was given to, in the namespace of its service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundPod {
    /// Its name.
    pub name: Arc<str>,
    /// Its Kubernetes uid.
    pub uid: Arc<str>,
}

/// The reason why a token makes no caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It is invalid, expired, or of an object that is gone.
    #[error("the token is not valid: {cause}")]
    NotAuthenticated {
        /// In the API server's words.
        cause: Arc<str>,
    },
    /// It is for others.
    #[error("the token is not for the audience {audience}")]
    WrongAudience {
        /// The one that it had to be for.
        audience: Arc<str>,
    },
    /// It is of a user.
    #[error("{username:?} is no service account")]
    NoServiceAccount {
        /// The user.
        username: Arc<str>,
    },
    /// The API server says half of what it was given to, or more than one.
    #[error("the token has no clear {key}")]
    Unclear {
        /// What is missing or given twice.
        key: &'static str,
    },
}

impl Refusal {
    /// For metrics: `wrong_audience`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NotAuthenticated { .. } => "not_authenticated",
            Self::WrongAudience { .. } => "wrong_audience",
            Self::NoServiceAccount { .. } => "no_service_account",
            Self::Unclear { .. } => "unclear",
        }
    }
}

/// The reason why there is no caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// The token makes none.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The API server could not be asked. Nothing is known about the token.
    #[error("tokens cannot be reviewed: {0}")]
    Failed(#[from] Error),
}

impl Client {
    /// The caller whose token this is, if it is for `audience`.
    ///
    /// # Errors
    /// Where the token is refused, or the API server does not answer.
    pub async fn review(&self, token: &str, audience: &str) -> Result<Caller, ReviewError> {
        if token.is_empty() {
            return Err(Refusal::NotAuthenticated { cause: "it is empty".into() }.into());
        }
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        });
        let call = Call::new(Method::POST, Collection::TOKEN_REVIEWS.all()).json(&review)?;
        let Review { status } = self.json(&call).await?;
        Ok(caller(status, audience)?)
    }
}

#[derive(Deserialize)]
struct Review {
    status: Status,
}

/// `authentication.k8s.io/v1 TokenReviewStatus`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    authenticated: bool,
    audiences: Option<Vec<String>>,
    user: User,
    error: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
    uid: String,
    extra: Option<BTreeMap<String, Vec<String>>>,
}

fn caller(status: Status, audience: &str) -> Result<Caller, Refusal> {
    let Status { authenticated, audiences, user, error } = status;
    if !authenticated || !error.is_empty() {
        let cause = if error.is_empty() { "the API server does not know it".into() } else { error.into() };
        return Err(Refusal::NotAuthenticated { cause });
    }
    // None: the API server knows no audiences, and the token is one for itself.
    if !audiences.unwrap_or_default().iter().any(|a| a == audience) {
        return Err(Refusal::WrongAudience { audience: audience.into() });
    }
    let User { username, uid, extra } = user;
    let service_account =
        service_account(&username).ok_or_else(|| Refusal::NoServiceAccount { username: username.as_str().into() })?;
    let extra = extra.unwrap_or_default();
    let one = |key: &'static str| match extra.get(key).map(Vec::as_slice) {
        None | Some([]) => Ok(None),
        Some([value]) if !value.is_empty() => Ok(Some(Arc::from(value.as_str()))),
        Some(_) => Err(Refusal::Unclear { key }),
    };
    let pod = match (one(POD_NAME)?, one(POD_UID)?) {
        (None, None) => None,
        (Some(name), Some(uid)) => Some(BoundPod { name, uid }),
        (Some(_), None) => return Err(Refusal::Unclear { key: POD_UID }),
        (None, Some(_)) => return Err(Refusal::Unclear { key: POD_NAME }),
    };
    Ok(Caller { username: username.into(), service_account, uid: uid.into(), pod, node: one(NODE_NAME)? })
}

fn service_account(username: &str) -> Option<ObjectName> {
    let (namespace, name) = username.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')?;
    let is_one = !namespace.is_empty() && !name.is_empty() && !name.contains(':');
    is_one.then(|| ObjectName::new(namespace, name))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    #[track_caller]
    fn check(status: &str, expect: Expect) {
        expect.assert_eq(&say(status));
    }

    fn say(status: &str) -> String {
        let Review { status } =
            serde_json::from_str(&format!(r#"{{"kind":"TokenReview","status":{status}}}"#)).unwrap();
        match caller(status, "istio-ca") {
            Ok(Caller { service_account, uid, pod, node, .. }) => {
                let pod = pod.map(|p| format!("{} {}", p.name, p.uid));
                format!(
                    "{service_account} {uid}, pod {}, node {}",
                    pod.as_deref().unwrap_or("-"),
                    node.as_deref().unwrap_or("-")
                )
            }
            Err(refusal) => format!("refused: {refusal}"),
        }
    }

    fn of(username: &str, audiences: &str, extra: &str) -> String {
        format!(
            r#"{{"authenticated":true,"audiences":{audiences},"user":{{"username":"{username}","uid":"u-1","groups":["system:serviceaccounts"],"extra":{extra}}}}}"#
        )
    }

    const AGENT: &str = "system:serviceaccount:underpass-system:agent";
    const AUDIENCE: &str = r#"["istio-ca"]"#;

    #[test]
    fn callers() {
        let bound = r#"{"authentication.kubernetes.io/credential-id":["JTI=1"],"authentication.kubernetes.io/pod-name":["agent-x"],"authentication.kubernetes.io/pod-uid":["p-1"],"authentication.kubernetes.io/node-name":["node-1"]}"#;
        check(&of(AGENT, AUDIENCE, bound), expect!["underpass-system/agent u-1, pod agent-x p-1, node node-1"]);
        check(&of(AGENT, r#"["other","istio-ca"]"#, "null"), expect!["underpass-system/agent u-1, pod -, node -"]);
        check(&of(AGENT, AUDIENCE, "{}"), expect!["underpass-system/agent u-1, pod -, node -"]);
    }

    #[test]
    fn refusals() {
        check(
            r#"{"error":"[invalid bearer token, token lookup failed]"}"#,
            expect!["refused: the token is not valid: [invalid bearer token, token lookup failed]"],
        );
        check(
            r#"{"authenticated":false,"user":{}}"#,
            expect!["refused: the token is not valid: the API server does not know it"],
        );
        check("{}", expect!["refused: the token is not valid: the API server does not know it"]);
        check(r#"{"authenticated":true,"error":"half"}"#, expect!["refused: the token is not valid: half"]);
        check(
            &of(AGENT, r#"["https://kubernetes.default.svc"]"#, "{}"),
            expect!["refused: the token is not for the audience istio-ca"],
        );
        check(&of(AGENT, "[]", "{}"), expect!["refused: the token is not for the audience istio-ca"]);
        check(&of(AGENT, "null", "{}"), expect!["refused: the token is not for the audience istio-ca"]);
        for user in [
            "admin",
            "",
            "system:serviceaccount:a",
            "system:serviceaccount::b",
            "system:serviceaccount:a:",
            "system:serviceaccount:a:b:c",
            "x:system:serviceaccount:a:b",
        ] {
            assert_eq!(say(&of(user, AUDIENCE, "{}")), format!("refused: {user:?} is no service account"));
        }
        let extra = |name: &str, uid: &str| {
            format!(
                r#"{{"authentication.kubernetes.io/pod-name":{name},"authentication.kubernetes.io/pod-uid":{uid}}}"#
            )
        };
        check(
            &of(AGENT, AUDIENCE, &extra(r#"["a"]"#, "[]")),
            expect!["refused: the token has no clear authentication.kubernetes.io/pod-uid"],
        );
        check(
            &of(AGENT, AUDIENCE, &extra("[]", r#"["b"]"#)),
            expect!["refused: the token has no clear authentication.kubernetes.io/pod-name"],
        );
        check(
            &of(AGENT, AUDIENCE, &extra(r#"["a","b"]"#, r#"["b"]"#)),
            expect!["refused: the token has no clear authentication.kubernetes.io/pod-name"],
        );
        check(
            &of(AGENT, AUDIENCE, &extra(r#"[""]"#, r#"["b"]"#)),
            expect!["refused: the token has no clear authentication.kubernetes.io/pod-name"],
        );
    }
}
