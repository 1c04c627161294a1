//! Callers of the control plane: who they proved to be, and why they are turned away. What the delta stream and the
//! certificate API have in common.

use std::{fmt, future::Future, sync::Arc};

use thiserror::Error;
use tonic::{Status, metadata::MetadataMap};

/// A caller that has proved who it is: the service account, pod and node of its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The namespace of its service account.
    pub namespace: Arc<str>,
    /// The name of its service account.
    pub service_account: Arc<str>,
    /// The pod that its token is bound to.
    pub pod: Option<CallerPod>,
    /// The node that its token is bound to.
    pub node: Option<Arc<str>>,
}

impl fmt::Display for Caller {
    /// `namespace/service account`, and the pod where there is one: the text of log events.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service_account)?;
        self.pod.as_ref().map_or(Ok(()), |pod| write!(f, " (pod {})", pod.name))
    }
}

/// The pod that a token is bound to, in the namespace of its service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerPod {
    /// Its name.
    pub name: Arc<str>,
    /// Its Kubernetes uid.
    pub uid: Arc<str>,
}

/// The kinds of refusals, each a status of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// `UNAUTHENTICATED`: no token, or none that proves anything.
    Unauthenticated,
    /// `PERMISSION_DENIED`: known, and not allowed. Asking again is of no use.
    PermissionDenied,
    /// `INVALID_ARGUMENT`: the request is malformed.
    InvalidArgument,
    /// `RESOURCE_EXHAUSTED`: a limit is reached.
    ResourceExhausted,
    /// `UNAVAILABLE`: no answer at the moment. Asking again later may help.
    Unavailable,
}

impl RefusalKind {
    const fn code(self) -> tonic::Code {
        match self {
            Self::Unauthenticated => tonic::Code::Unauthenticated,
            Self::PermissionDenied => tonic::Code::PermissionDenied,
            Self::InvalidArgument => tonic::Code::InvalidArgument,
            Self::ResourceExhausted => tonic::Code::ResourceExhausted,
            Self::Unavailable => tonic::Code::Unavailable,
        }
    }
}

/// A refusal: its kind, and the reason that the caller is told.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind.
    pub kind: RefusalKind,
    /// The reason, for people.
    pub message: String,
}

impl Refusal {
    /// A refusal of this kind for this reason.
    #[must_use]
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.kind.code(), refusal.message)
    }
}

/// What decides who a caller is: the API server's TokenReview in a cluster, a table in tests.
pub trait Authenticator: Send + Sync + 'static {
    /// The caller that this bearer token proves. Asked once per stream, and once per certificate.
    ///
    /// # Errors
    ///
    /// A refusal, which ends the stream or the call.
    fn authenticate(&self, token: Option<&str>) -> impl Future<Output = Result<Caller, Refusal>> + Send;
}

/// The bearer token of a call's metadata (RFC 6750, section 2.1; the scheme's case does not matter).
pub(crate) fn bearer(metadata: &MetadataMap) -> Option<&str> {
    let value = metadata.get("authorization")?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_read_from_the_metadata() {
        let check = |value: &'static str, expected: Option<&str>| {
            let mut metadata = MetadataMap::new();
            metadata.insert("authorization", value.parse().unwrap());
            assert_eq!(bearer(&metadata), expected, "{value:?}");
        };
        check("Bearer abc.def", Some("abc.def"));
        check("bearer abc.def", Some("abc.def"));
        check("Bearer  abc.def ", Some("abc.def"));
        check("Bearer ", None);
        check("Bearer", None);
        check("Basic abc.def", None);
        assert_eq!(bearer(&MetadataMap::new()), None);
    }
}
