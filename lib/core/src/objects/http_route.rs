//! The HTTP routes of a VirtualService: conditions, targets, and what happens to a request on the way.

use std::{collections::BTreeMap, str::FromStr, sync::Arc, time::Duration};

use serde::Serialize;

use super::virtual_service::{Limit, RouteTarget, Share, WeightedTarget};
use crate::{
    ObjectName,
    http::{Substitution, TextMatch, ValueMatch},
    labels::Labels,
};

/// An entry of `spec.http`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpRoute {
    /// `name`.
    pub name: Option<Arc<str>>,
    /// `match`: one of these must hold; none are there: any request does.
    pub matches: Vec<HttpMatch>,
    /// `route`, `redirect`, `directResponse` or `delegate`.
    pub action: HttpAction,
    /// Everything beside.
    pub policy: HttpPolicy,
}

/// The end of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum HttpAction {
    /// `route`: to one of these. Not empty, and their weights have a sum above 0.
    Forward(Vec<WeightedTarget>),
    /// `redirect`.
    Redirect(HttpRedirect),
    /// `directResponse`.
    Respond(DirectResponse),
    /// `delegate`: the routes of another VirtualService.
    Delegate(ObjectName),
}

/// What happens to a request beside its way. A delegate's routes inherit what they do not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HttpPolicy {
    /// `rewrite`.
    pub rewrite: Option<HttpRewrite>,
    /// `timeout` of the whole request, retries included; `Some(None)` says that there is none.
    pub timeout: Option<Limit>,
    /// `retries`; none: the mesh's default.
    pub retries: Option<HttpRetry>,
    /// `fault`.
    pub fault: Option<Fault>,
    /// `mirror` and `mirrors`.
    pub mirrors: Vec<Mirror>,
    /// `corsPolicy`.
    pub cors: Option<CorsPolicy>,
    /// `headers`.
    pub headers: HeaderOperations,
}

/// Conditions on a request: all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HttpMatch {
    /// `name`.
    pub name: Option<Arc<str>>,
    /// `uri`: the path without its query.
    pub uri: Option<TextMatch>,
    /// `ignoreUriCase`, of an exact path or a prefix.
    pub ignore_uri_case: bool,
    /// `scheme`.
    pub scheme: Option<TextMatch>,
    /// `method`.
    pub method: Option<TextMatch>,
    /// `authority`.
    pub authority: Option<TextMatch>,
    /// `headers`, by name in lower case.
    pub headers: BTreeMap<Arc<str>, ValueMatch>,
    /// `withoutHeaders`: none of these holds.
    pub without_headers: BTreeMap<Arc<str>, ValueMatch>,
    /// `queryParams`, by name.
    pub query: BTreeMap<Arc<str>, ValueMatch>,
    /// `port`: the called one.
    pub port: Option<u16>,
    /// `sourceLabels`.
    pub source_labels: Labels,
    /// `sourceNamespace`.
    pub source_namespace: Option<Arc<str>>,
    /// `gateways`, in the place of the VirtualService's.
    pub gateways: Vec<Arc<str>>,
    /// `statPrefix`.
    pub stat_prefix: Option<Arc<str>>,
}

/// `headers`: changes to those of the request and of the response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeaderOperations {
    /// `request`.
    pub request: HeaderChanges,
    /// `response`.
    pub response: HeaderChanges,
}

impl HeaderOperations {
    /// Nothing is changed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }
}

/// Changes to headers. Names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeaderChanges {
    /// `set`: in the place of what is there.
    pub set: Vec<(Arc<str>, Arc<str>)>,
    /// `add`: beside what is there.
    pub add: Vec<(Arc<str>, Arc<str>)>,
    /// `remove`.
    pub remove: Vec<Arc<str>>,
}

impl HeaderChanges {
    /// Nothing is changed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// `redirect`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpRedirect {
    /// `uri`, of the Gateway API `path.replaceFullPath`: in the place of the path.
    pub uri: Option<Arc<str>>,
    /// `path.replacePrefixMatch` of the Gateway API: in the place of the elements of the path that the match's prefix has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Arc<str>>,
    /// `authority`: in the place of the host.
    pub authority: Option<Arc<str>>,
    /// `port` or `derivePort`.
    pub port: RedirectPort,
    /// `scheme`.
    pub scheme: Option<Arc<str>>,
    /// `redirectCode`.
    pub status: u16,
}

/// The port of a redirect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum RedirectPort {
    /// As the request's authority or the redirect's says.
    #[default]
    AsWritten,
    /// `port`.
    Number(u16),
    /// `derivePort: FROM_PROTOCOL_DEFAULT`: none is written.
    ProtocolDefault,
    /// `derivePort: FROM_REQUEST_PORT`: the called one.
    Called,
}

/// `directResponse`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DirectResponse {
    /// `status`.
    pub status: u16,
    /// `body.string` or `body.bytes`.
    pub body: Arc<[u8]>,
}

/// `rewrite`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpRewrite {
    /// `uri` or `uriRegexRewrite`.
    pub path: Option<PathRewrite>,
    /// `authority`.
    pub authority: Option<Arc<str>>,
}

/// A change of the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum PathRewrite {
    /// `uri`: in the place of what the match's `uri` matched: a prefix, or the whole path.
    Matched(Arc<str>),
    /// `uriRegexRewrite`.
    Regex(Substitution),
    /// `path.replaceFullPath` of the Gateway API: in the place of the whole path.
    Full(Arc<str>),
    /// `path.replacePrefixMatch` of the Gateway API: in the place of the elements that the match's prefix has.
    Elements(Arc<str>),
}

/// `retries`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpRetry {
    /// `attempts`, beside the first one; 0: no retries.
    pub attempts: u32,
    /// `perTryTimeout`.
    pub per_try_timeout: Limit,
    /// `retryOn`; none: as the mesh's default.
    pub on: Option<RetryOn>,
    /// `backoff`: the first pause.
    pub backoff: Limit,
    /// `retryIgnorePreviousHosts`: a retry avoids endpoints that were tried.
    pub avoids_previous: bool,
    /// `retryRemoteLocalities`.
    pub remote_localities: bool,
}

/// The outcomes after which a request is tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RetryOn {
    /// By name, in order, each once.
    pub conditions: Vec<RetryCondition>,
    /// Statuses, in order, each once.
    pub statuses: Vec<u16>,
}

macro_rules! conditions {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A condition of `retryOn`, by Envoy's names (`x-envoy-retry-on`, `x-envoy-retry-grpc-on`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum RetryCondition { $($(#[$doc])* #[serde(rename = $text)] $name,)* }

        impl RetryCondition {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// Their names.
            pub const NAMES: &'static [&'static str] = &[$($text,)*];

            /// As written.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

conditions! {
    /// Any 5xx, and no response at all.
    ServerError = "5xx",
    /// 502, 503 and 504.
    GatewayError = "gateway-error",
    /// No response: reset or timed out.
    Reset = "reset",
    /// The same, before the request was sent.
    ResetBeforeRequest = "reset-before-request",
    /// No connection.
    ConnectFailure = "connect-failure",
    /// The response has `x-envoy-ratelimited`.
    RateLimited = "envoy-ratelimited",
    /// 409.
    Retriable4xx = "retriable-4xx",
    /// HTTP/2 REFUSED_STREAM.
    RefusedStream = "refused-stream",
    /// One of the statuses that are listed.
    RetriableStatusCodes = "retriable-status-codes",
    /// One of the response's headers that are listed.
    RetriableHeaders = "retriable-headers",
    /// Of HTTP/3.
    Http3PostConnectFailure = "http3-post-connect-failure",
    /// gRPC status 1.
    Cancelled = "cancelled",
    /// gRPC status 4.
    DeadlineExceeded = "deadline-exceeded",
    /// gRPC status 13.
    Internal = "internal",
    /// gRPC status 8.
    ResourceExhausted = "resource-exhausted",
    /// gRPC status 14.
    Unavailable = "unavailable",
}

/// The text is no condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no condition of retryOn")]
pub struct ParseConditionError;

impl FromStr for RetryCondition {
    type Err = ParseConditionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|c| c.as_str() == text).ok_or(ParseConditionError)
    }
}

/// `fault`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// `delay`.
    pub delay: Option<Delay>,
    /// `abort`.
    pub abort: Option<Abort>,
}

/// `fault.delay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Delay {
    /// `fixedDelay`.
    pub time: Duration,
    /// `percentage`.
    pub share: Share,
}

/// `fault.abort`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Abort {
    /// The answer.
    pub with: AbortWith,
    /// `percentage`.
    pub share: Share,
}

/// The answer of an aborted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum AbortWith {
    /// `httpStatus`.
    Status(u16),
    /// `grpcStatus`, by its number.
    Grpc(u8),
}

/// `mirror`, or an entry of `mirrors`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mirror {
    /// Where copies go.
    pub target: RouteTarget,
    /// Of how many requests.
    pub share: Share,
}

/// `corsPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CorsPolicy {
    /// `allowOrigins`.
    pub allow_origins: Vec<TextMatch>,
    /// `allowMethods`.
    pub allow_methods: Vec<Arc<str>>,
    /// `allowHeaders`.
    pub allow_headers: Vec<Arc<str>>,
    /// `exposeHeaders`.
    pub expose_headers: Vec<Arc<str>>,
    /// `maxAge`.
    pub max_age: Option<Duration>,
    /// `allowCredentials`.
    pub allow_credentials: bool,
    /// `unmatchedPreflights`: `IGNORE` answers them, `FORWARD` (the default) lets them pass.
    pub answers_unmatched: bool,
}
