//! The ends of requests: one closed list, set where the end is known. It feeds the answer of a request that reaches no endpoint,
//! the access log and the metrics, so a new end is added here and nowhere else.

use serde::{Serialize, Serializer};

use super::{Counted, Overflow};
use crate::jwt::TokenFault;

/// The end of a request at a waypoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestEnd {
    /// The response of an endpoint, or of the route itself, came to its end.
    Finished,
    /// The client went away before that.
    ClientReset,
    /// The request is none that HTTP allows, or has no host, or a path that cannot be read.
    BadRequest,
    /// A policy of the waypoint, or of the endpoint, denies it.
    Denied,
    /// A policy denies it since a change: the response, which had begun, is reset.
    DeniedLater,
    /// A token of the request is not good.
    Unauthenticated(TokenFault),
    /// An external authorizer denies it.
    AuthorizerDenied,
    /// An external authorizer could not be asked, or gave no answer.
    AuthorizerFailed,
    /// No rule of the routes matches.
    NoRoute,
    /// The route leads to a host, port or subset that does not exist.
    NoCluster,
    /// The cluster asks for TLS by a Secret, a tunnel or a PROXY protocol, which are not served.
    NotServed,
    /// The cluster has no endpoint that is ready.
    NoEndpoint,
    /// A limit of the connection pool is reached.
    Overflow(Counted),
    /// An injected fault answered it.
    Fault,
    /// No connection to the endpoint.
    ConnectFailed,
    /// The connection or the stream to the endpoint ended before its response did.
    EndpointReset,
    /// The endpoint broke HTTP.
    Protocol,
    /// No response in the time of the route, or of its last try.
    Timeout,
    /// The waypoint is shutting down and its deadline passed.
    Drain,
    /// A defect of the waypoint, contained in this request.
    Internal,
}

impl RequestEnd {
    /// A stable word: log field, metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::ClientReset => "client_reset",
            Self::BadRequest => "bad_request",
            Self::Denied => "denied",
            Self::DeniedLater => "denied_later",
            Self::Unauthenticated(_) => "unauthenticated",
            Self::AuthorizerDenied => "authorizer_denied",
            Self::AuthorizerFailed => "authorizer_failed",
            Self::NoRoute => "no_route",
            Self::NoCluster => "no_cluster",
            Self::NotServed => "not_served",
            Self::NoEndpoint => "no_endpoint",
            Self::Overflow(_) => "overflow",
            Self::Fault => "fault",
            Self::ConnectFailed => "connect_failed",
            Self::EndpointReset => "endpoint_reset",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::Drain => "drain",
            Self::Internal => "internal",
        }
    }

    /// Envoy's response flag (`%RESPONSE_FLAGS%`); none: `-`.
    #[must_use]
    pub const fn flag(self) -> Option<&'static str> {
        match self {
            Self::Finished | Self::Denied | Self::Unauthenticated(_) => None,
            Self::AuthorizerDenied | Self::AuthorizerFailed => Some("UAEX"),
            Self::ClientReset => Some("DC"),
            Self::BadRequest => Some("DPE"),
            Self::NoRoute | Self::NoCluster => Some("NR"),
            Self::NotServed => Some("NC"),
            Self::NoEndpoint => Some("UH"),
            Self::Overflow(_) => Some("UO"),
            Self::Fault => Some("FI"),
            Self::ConnectFailed => Some("UF"),
            Self::EndpointReset => Some("UC"),
            Self::Protocol => Some("UPE"),
            Self::Timeout => Some("UT"),
            Self::DeniedLater | Self::Drain | Self::Internal => Some("LR"),
        }
    }

    /// Why the answer is what it is, in Envoy's words (`%RESPONSE_CODE_DETAILS%`). `is_of_endpoint`: an endpoint's response had
    /// begun.
    #[must_use]
    pub const fn details(self, is_of_endpoint: bool) -> &'static str {
        match self {
            Self::Finished if is_of_endpoint => "via_upstream",
            Self::Finished => "direct_response",
            Self::ClientReset => "downstream_remote_disconnect",
            Self::BadRequest => "bad_request",
            Self::Denied | Self::DeniedLater => "rbac_access_denied",
            Self::Unauthenticated(fault) => fault.details(),
            Self::AuthorizerDenied => "ext_authz_denied",
            Self::AuthorizerFailed => "ext_authz_error",
            Self::NoRoute => "route_not_found",
            Self::NoCluster => "cluster_not_found",
            Self::NotServed => "cluster_not_served",
            Self::NoEndpoint => "no_healthy_upstream",
            Self::Overflow(_) => "upstream_reset_before_response_started{overflow}",
            Self::Fault => "fault_filter_abort",
            Self::ConnectFailed => "upstream_reset_before_response_started{connection_failure}",
            Self::EndpointReset if is_of_endpoint => "upstream_reset_after_response_started{connection_termination}",
            Self::EndpointReset => "upstream_reset_before_response_started{connection_termination}",
            Self::Protocol => "upstream_reset_before_response_started{protocol_error}",
            Self::Timeout => "upstream_response_timeout",
            Self::Drain => "drained",
            Self::Internal => "internal_error",
        }
    }

    /// The status and the body of the answer, where the client has none yet; none: there is one, or no client is left.
    #[must_use]
    pub const fn answer(self) -> Option<(u16, &'static str)> {
        match self {
            Self::Finished | Self::Fault | Self::ClientReset => None,
            Self::BadRequest => Some((400, "bad request")),
            Self::Denied | Self::DeniedLater => Some((403, "RBAC: access denied")),
            Self::AuthorizerDenied | Self::AuthorizerFailed => Some((403, "")),
            Self::Unauthenticated(fault) => Some((fault.status(), fault.answer())),
            Self::NoRoute => Some((404, "")),
            Self::NoCluster => Some((503, "")),
            Self::NotServed => {
                Some((503, "tls.credentialName, tunnel or proxyProtocol of the DestinationRule is not served"))
            }
            Self::NoEndpoint => Some((503, "no healthy upstream")),
            Self::Overflow(_) => Some((503, "upstream connect error or disconnect/reset before headers: overflow")),
            Self::ConnectFailed => {
                Some((503, "upstream connect error or disconnect/reset before headers: connection failure"))
            }
            Self::EndpointReset => {
                Some((503, "upstream connect error or disconnect/reset before headers: connection termination"))
            }
            Self::Protocol => Some((502, "upstream connect error or disconnect/reset before headers: protocol error")),
            Self::Timeout => Some((504, "upstream request timeout")),
            Self::Drain | Self::Internal => Some((503, "")),
        }
    }
}

impl From<Overflow> for RequestEnd {
    fn from(overflow: Overflow) -> Self {
        Self::Overflow(overflow.of)
    }
}

impl Serialize for RequestEnd {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}
