//! The record of a connection: both ends, bytes, path, reason, policy. One shape for the log line, the metrics, the
//! admin's list and the CLI, so that they can never tell different stories.

use std::{net::SocketAddr, sync::Arc};

use serde::{Serialize, Serializer};

use crate::{
    Identity, ObjectName, Reason,
    world::{Version, Workload},
};

/// The side of the connection on which a record was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// At the source's node.
    Outbound,
    /// At the destination's node.
    Inbound,
}

/// The path of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// HTTP/2 CONNECT inside mutual TLS.
    Hbone,
    /// From outside the mesh, as it came.
    Plaintext,
    /// To outside the mesh, as it came: an endpoint of a service that has others in the mesh.
    Passthrough,
    /// Not at all: it was refused before a path was chosen.
    None,
}

impl Direction {
    /// As logged.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

impl Path {
    /// As logged.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hbone => "hbone",
            Self::Plaintext => "plaintext",
            Self::Passthrough => "passthrough",
            Self::None => "none",
        }
    }
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Party {
    /// Its address, canonical.
    pub address: SocketAddr,
    /// The pod that has the address, where it is one of ours.
    #[serde(serialize_with = "workload_name")]
    pub workload: Option<Arc<Workload>>,
    /// Proved by its certificate, or shown with ours; none: plaintext.
    pub identity: Option<Identity>,
}

fn workload_name<S: Serializer>(w: &Option<Arc<Workload>>, s: S) -> Result<S::Ok, S::Error> {
    w.as_ref().map(|w| &w.name).serialize(s)
}

/// One connection, open or ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Connection {
    /// Unique in this process.
    pub id: u64,
    /// Where the record was made.
    pub direction: Direction,
    /// How it is carried.
    pub path: Path,
    /// The end that opened it.
    pub source: Party,
    /// The end that accepted it: the application's address; the called address where it was refused before one was
    /// chosen.
    pub destination: Party,
    /// The waypoint between the two: outbound the one that carries it on, inbound the one that names the source.
    pub via: Option<Identity>,
    /// The service whose VIP was called; known on the source's side only, as are the next two.
    pub service: Option<ObjectName>,
    /// Its host name.
    pub service_host: Option<Arc<str>>,
    /// The VIP and port that were called.
    pub vip: Option<SocketAddr>,
    /// Bytes from source to destination.
    pub bytes_received: u64,
    /// Bytes from destination to source.
    pub bytes_sent: u64,
    /// When it was accepted, milliseconds since the epoch.
    pub opened_unix_ms: u64,
    /// How long it lasted (so far), microseconds.
    pub duration_us: u64,
    /// The policy that allowed or denied it, if one did.
    pub policy: Option<ObjectName>,
    /// The dry-run policies that would have denied it when it was opened; none as a rule.
    pub dry_run_denied_by: Vec<ObjectName>,
    /// Why it ended; none while it is open.
    pub reason: Option<Reason>,
    /// The World of the turn in which it began, and was judged.
    pub world: Version,
}
