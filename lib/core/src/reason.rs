//! The reasons why connections end or are refused: one closed list, set where it is known. It feeds the log line, the
//! metric label, the CLI and the answer that the peer gets, so a new reason is added here and nowhere else.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

use crate::tls::TlsFailure;

/// The reason of a connection's end or refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Both sides finished.
    Finished,
    /// The side that opened it reset it.
    ClientReset,
    /// The side that accepted it reset it.
    ServerReset,

    /// A DENY policy matched.
    Denied,
    /// ALLOW policies apply and none of them matched.
    NotAllowed,
    /// Only a waypoint could judge these fields, so L4 judged the stricter way.
    NeedsWaypoint(Vec<Arc<str>>),
    /// The destination accepts mutual TLS only and this was plaintext.
    PlaintextRefused,
    /// The source address cannot be that of a remote client, or is the destination's own.
    BadSource,

    /// More than one object claims the destination's address.
    AmbiguousAddress,
    /// The service has no such port.
    UnknownPort,
    /// The service has no endpoint that is ready, in the address family of the call.
    NoEndpoint,
    /// The service is for callers of its endpoints' nodes only (`internalTrafficPolicy: Local`), and none of them is on
    /// the caller's.
    NoLocalEndpoint,
    /// An ExternalName service has no address to connect to.
    ExternalName,
    /// The destination requires a waypoint that does not exist.
    WaypointMissing,
    /// None of the instances of the destination's waypoint is ready, in the address family of the call.
    WaypointNotReady,
    /// A waypoint stands before the destination, and this connection bypasses it: it was opened before.
    WaypointBypassed,
    /// The request was not for an address that this listener serves.
    NotServedHere,

    /// The application refused, or could not be reached.
    ConnectFailed,
    /// The next hop could not be reached.
    Unreachable,
    /// Mutual TLS with the peer was refused by one of both ends, or broke.
    Tls(TlsFailure),
    /// One of both ends is another workload now, or the peer's certificate hangs on a root that is not trusted any
    /// more.
    Identity,
    /// This end has no certificate to present.
    NoCertificate,
    /// The peer answered a CONNECT with this status.
    Refused(u16),
    /// The peer broke HTTP/2.
    Protocol,
    /// The tunnel ended under the connection.
    TunnelClosed,
    /// No answer in time.
    Timeout,
    /// A budget of memory was used up by stalled streams.
    Memory,
    /// A budget of connections or descriptors was used up.
    Limit,
    /// The agent is shutting down and its deadline passed.
    Drain,
    /// The pod left the mesh or the node.
    PodGone,
    /// The mesh does not know the pod yet, or under other addresses or another account than its node does.
    UnknownPod,
    /// An operator closed it.
    Operator,
    /// A defect of the proxy, contained in this connection.
    Internal,
}

impl Reason {
    /// A stable word: metric label, log field.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::ClientReset => "client_reset",
            Self::ServerReset => "server_reset",
            Self::Denied => "denied",
            Self::NotAllowed => "not_allowed",
            Self::NeedsWaypoint(_) => "needs_waypoint",
            Self::PlaintextRefused => "plaintext_refused",
            Self::BadSource => "bad_source",
            Self::AmbiguousAddress => "ambiguous_address",
            Self::UnknownPort => "unknown_port",
            Self::NoEndpoint => "no_endpoint",
            Self::NoLocalEndpoint => "no_local_endpoint",
            Self::ExternalName => "external_name",
            Self::WaypointMissing => "waypoint_missing",
            Self::WaypointNotReady => "waypoint_not_ready",
            Self::WaypointBypassed => "waypoint_bypassed",
            Self::NotServedHere => "not_served_here",
            Self::ConnectFailed => "connect_failed",
            Self::Unreachable => "unreachable",
            Self::Tls(failure) => failure.refusal().as_str(),
            Self::Identity => "identity",
            Self::NoCertificate => "no_certificate",
            Self::Refused(_) => "refused",
            Self::Protocol => "protocol",
            Self::TunnelClosed => "tunnel_closed",
            Self::Timeout => "timeout",
            Self::Memory => "memory",
            Self::Limit => "limit",
            Self::Drain => "drain",
            Self::PodGone => "pod_gone",
            Self::UnknownPod => "unknown_pod",
            Self::Operator => "operator",
            Self::Internal => "internal",
        }
    }

    /// A refusal by policy, mutual TLS mode or identity: HBONE answers 401.
    #[must_use]
    pub const fn is_denial(&self) -> bool {
        match self {
            Self::Denied
            | Self::NotAllowed
            | Self::NeedsWaypoint(_)
            | Self::PlaintextRefused
            | Self::BadSource
            | Self::Identity => true,
            Self::Tls(failure) => failure.refusal().is_about_the_peer(),
            _ => false,
        }
    }

    /// Details beyond the word: the access log's `reason_detail`.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::NeedsWaypoint(fields) => Some(format!("needs a waypoint: {}", fields.join(", "))),
            Self::Refused(status) => Some(format!("refused with status {status}")),
            Self::Tls(failure) => Some(failure.to_string()),
            _ => None,
        }
    }
}

/// The access log's `reason_detail` where there is one, else the stable word: the two can be searched for in the log.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.detail() {
            Some(detail) => f.write_str(&detail),
            None => f.write_str(self.as_str()),
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
