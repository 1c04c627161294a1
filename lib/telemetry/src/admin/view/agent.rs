//! The state of a running agent: status, pods, certificates, open connections, refused handshakes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

/// The status of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// Its node.
    pub node: String,
    /// Its start, in seconds since the epoch.
    pub started_unix_s: u64,
    /// The version of its World.
    pub world: u64,
    /// Objects of that World, by kind.
    pub objects: BTreeMap<String, usize>,
    /// Parts that are not ready; none: the agent is ready.
    pub waiting: Vec<Gate>,
    /// The pods of its node that are enrolled, or are to be, or are being released.
    pub pods: PodCount,
    /// Open connections.
    pub connections: usize,
    /// Certificates of its pods that there are, expired or not.
    pub certificates: usize,
    /// Identities of its pods that have none.
    pub certificates_missing: usize,
    /// Of the certificates that there are, those that begin later.
    #[serde(default)]
    pub certificates_not_yet_valid: usize,
    /// The expiry of the first of them, in seconds since the epoch.
    pub first_expiry_unix_s: Option<u64>,
    /// The error of a certificate authority that cannot be used.
    pub authority_error: Option<String>,
    /// Problems of the manifests.
    pub problems: ProblemCount,
    /// How it fares with its control plane; none: it has none. Absent from earlier agents.
    #[serde(default)]
    pub control_plane: Option<ControlPlane>,
    /// The waypoints that it runs on its node. Absent from earlier agents.
    #[serde(default)]
    pub waypoints: Vec<RunningWaypoint>,
}

/// A waypoint that an agent runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningWaypoint {
    /// namespace/name of its Gateway.
    pub gateway: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// `starting`, `serving`, [`Self::RESTARTING`] or `draining`.
    pub state: String,
    /// Its process.
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u64,
    /// Why it last ended, or cannot be started.
    pub problem: Option<String>,
}

impl RunningWaypoint {
    /// It has ended by itself, or could not be started, and is started again after a while.
    pub const RESTARTING: &str = "restarting";
}

/// How an agent fares with its control plane: what of the mesh's facts it has, and whether more can come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlPlane {
    /// [`Self::CONNECTING`], [`Self::CONNECTED`] or [`Self::LOST`].
    pub link: String,
    /// Since when it is connected or lost, in seconds since the epoch.
    pub since_unix_s: Option<u64>,
    /// Why it was lost.
    pub reason: Option<String>,
    /// All facts were received and applied at least once.
    pub complete: bool,
    /// The version of the facts: the newest `resourceVersion` of the control plane's API server that was applied.
    pub version: Option<u64>,
    /// What a control plane lacks that is behind what was applied: until it has caught up it takes nothing away.
    #[serde(default)]
    pub behind: Option<Behind>,
    /// When facts were applied last, in seconds since the epoch.
    pub applied_unix_s: Option<u64>,
    /// The facts are those that an earlier agent had kept on the node, and changed last at this time, in seconds since the epoch; none:
    /// they are the control plane's. Absent from earlier agents.
    #[serde(default)]
    pub cached_unix_s: Option<u64>,
}

/// A kind of object of which a control plane does not know the last change that was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// The kind.
    pub kind: String,
    /// The `resourceVersion` of that change.
    pub applied: u64,
    /// The one up to which the control plane knows the kind.
    pub known: u64,
}

impl ControlPlane {
    /// The stream is being opened, or has not answered yet.
    pub const CONNECTING: &str = "connecting";
    /// The stream has answered.
    pub const CONNECTED: &str = "connected";
    /// The stream has ended; the next one is tried after a pause.
    pub const LOST: &str = "lost";
}

/// A part that is not ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// Its name.
    pub part: String,
    /// The reason for which it is closed.
    pub reason: String,
}

/// The pods of a node by state, and those with a problem.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodCount {
    /// By state: `waiting`, `enrolled`, `releasing`.
    pub by_state: BTreeMap<String, usize>,
    /// The problem, by namespace/name.
    pub problems: BTreeMap<String, String>,
}

/// Problems of the manifests, by severity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemCount {
    /// Objects or files that are not served as written.
    pub errors: usize,
    /// Served, but not as their authors may think.
    pub warnings: usize,
    /// Known and not served yet.
    pub notices: usize,
    /// The errors, one line each; at most [`ProblemCount::SHOWN`].
    pub first: Vec<String>,
}

impl ProblemCount {
    /// The number of errors that are shown.
    pub const SHOWN: usize = 20;
}

/// The certificate of one identity of a node, and its state. Never a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The SPIFFE URI that it proves.
    pub identity: String,
    /// `pending`, `valid`, `failing` (still valid), `missing` or `expired`: connections of the last two are refused. Or
    /// `not_yet_valid`: it serves for want of another, and peers refuse it whose clocks say the same.
    pub state: String,
    /// Its serial number, hexadecimal; none before there is one, as are the next two.
    pub serial: Option<String>,
    /// Valid from, seconds since the epoch.
    pub not_before_unix_s: Option<u64>,
    /// Valid until, seconds since the epoch.
    pub not_after_unix_s: Option<u64>,
    /// The serial number of the root that certifies it.
    pub issuer: Option<String>,
    /// The error of the last attempt to get or renew it.
    pub error: Option<String>,
}

/// The roots of an agent, by their serial numbers, hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roots {
    /// Those that peers are verified against.
    pub trusted: BTreeSet<String>,
    /// Certificates of its pods by the root that they lead to.
    pub certificates: BTreeMap<String, usize>,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Its address.
    pub address: SocketAddr,
    /// The pod that has it, namespace/name.
    pub workload: Option<String>,
    /// The identity that its certificate proved; none: plaintext.
    pub identity: Option<String>,
}

/// The refused handshakes of one peer for one reason: the last of them, and their number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedHandshake {
    /// Their number.
    pub times: u64,
    /// The time of the last one, in seconds since the epoch.
    pub last_unix_s: u64,
    /// `outbound` or `inbound`.
    pub direction: String,
    /// The client.
    pub source: Party,
    /// The server.
    pub destination: Party,
    /// The reason, as in the access log.
    pub reason: String,
    /// The reason in a sentence.
    pub detail: String,
    /// `us` or `peer`.
    pub refused_by: String,
    /// The URI in the peer's certificate.
    pub identity_found: Option<String>,
    /// The identities that were expected.
    pub identity_expected: Option<String>,
}

/// One open connection: [`underpass_core::Connection`] as the command reads it. Fields that a later agent adds are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Unique in the agent's process.
    pub id: u64,
    /// `outbound` or `inbound`.
    pub direction: String,
    /// `hbone`, `plaintext`, `passthrough` or `none`.
    pub path: String,
    /// The end that opened it.
    pub source: Party,
    /// The end that accepted it.
    pub destination: Party,
    /// The identity of the waypoint between the two; absent from earlier agents.
    #[serde(default)]
    pub via: Option<String>,
    /// The service that was called, namespace/name.
    pub service: Option<String>,
    /// Its host name.
    pub service_host: Option<String>,
    /// The VIP and port that were called.
    pub vip: Option<SocketAddr>,
    /// Bytes from source to destination.
    pub bytes_received: u64,
    /// Bytes from destination to source.
    pub bytes_sent: u64,
    /// The time since it was opened, in microseconds.
    pub duration_us: u64,
    /// The policy that allowed it.
    pub policy: Option<String>,
    /// The dry-run policies that would have denied it; absent from earlier agents.
    #[serde(default)]
    pub dry_run_denied_by: Vec<String>,
}
