//! The values of Istio's labels `response_flags` and `connection_security_policy`, each from one table.

use underpass_core::{
    Reason,
    connection::{Direction, Path},
};

/// The end of a connection, in Istio's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flag {
    /// It was carried.
    None,
    /// A policy, a mutual TLS mode or the peer's identity refused it.
    Deny,
    /// The destination was not reached.
    Connect,
}

impl Flag {
    pub(super) const ALL: [Self; 3] = [Self::None, Self::Deny, Self::Connect];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
        }
    }

    /// The flag where the peer was refused for its identity.
    const fn of_peer(direction: Direction) -> Self {
        match direction {
            Direction::Inbound => Self::Deny,
            Direction::Outbound => Self::Connect,
        }
    }

    pub(super) const fn of(direction: Direction, reason: &Reason) -> Self {
        match reason {
            Reason::Denied
            | Reason::NotAllowed
            | Reason::NeedsWaypoint(_)
            | Reason::PlaintextRefused
            | Reason::BadSource
            // The answer to a CONNECT that a policy at the other end denies.
            | Reason::Refused(401) => Self::Deny,
            // Inbound the client has not an accepted identity; outbound the server has not an expected one.
            Reason::Identity => Self::of_peer(direction),
            Reason::Tls(failure) if failure.refusal().is_about_the_peer() => Self::of_peer(direction),
            Reason::AmbiguousAddress
            | Reason::UnknownPort
            | Reason::NoEndpoint
            | Reason::NoLocalEndpoint
            | Reason::ExternalName
            | Reason::WaypointMissing
            | Reason::WaypointNotReady
            | Reason::NotServedHere
            | Reason::ConnectFailed
            | Reason::Unreachable
            | Reason::Tls(_)
            | Reason::NoCertificate
            | Reason::UnknownPod
            | Reason::Refused(_)
            | Reason::Timeout
            | Reason::Limit => Self::Connect,
            Reason::Finished
            | Reason::ClientReset
            | Reason::ServerReset
            | Reason::Protocol
            | Reason::TunnelClosed
            | Reason::Memory
            | Reason::Drain | Reason::Operator
            | Reason::PodGone
            | Reason::WaypointBypassed
            | Reason::Internal => Self::None,
        }
    }
}

/// The security of a connection. Istio's `none` is reported by the destination alone; a source that sends in the clear reports
/// `unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Security {
    MutualTls,
    None,
    Unknown,
}

impl Security {
    pub(super) const fn of(direction: Direction, path: Path) -> Self {
        match (path, direction) {
            (Path::Hbone, _) => Self::MutualTls,
            (Path::Plaintext, Direction::Inbound) => Self::None,
            (Path::Plaintext, Direction::Outbound) | (Path::Passthrough | Path::None, _) => Self::Unknown,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}
