//! What only a running agent knows.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

/// How an agent stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// Its node.
    pub node: String,
    /// When it started, seconds since the epoch.
    pub started_unix_s: u64,
    /// The World it goes by.
    pub world: u64,
    /// Objects of that World, by kind.
    pub objects: BTreeMap<String, usize>,
    /// Parts that are not ready; none: the agent is ready.
    pub waiting: Vec<Gate>,
    /// The pods of its node that it has to do with.
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
    /// When the first of them expires, seconds since the epoch.
    pub first_expiry_unix_s: Option<u64>,
    /// Why the certificate authority cannot be used.
    pub authority_error: Option<String>,
    /// What is wrong with the manifests.
    pub problems: ProblemCount,
}

/// A part that is not ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// Which.
    pub part: String,
    /// What it waits for.
    pub reason: String,
}

/// The pods of a node by how they stand, and those that do not get on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodCount {
    /// By state: `waiting`, `enrolled`, `releasing`.
    pub by_state: BTreeMap<String, usize>,
    /// namespace/name and why.
    pub problems: BTreeMap<String, String>,
}

/// What was found in the manifests.
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
    /// How many errors are told; the rest is a number.
    pub const SHOWN: usize = 20;
}

/// Where one identity of a node stands with its certificate. Never a key.
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
    /// Why it is asked for in vain.
    pub error: Option<String>,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Its address.
    pub address: SocketAddr,
    /// The pod that has it, namespace/name.
    pub workload: Option<String>,
    /// Who it proved to be; none: plaintext.
    pub identity: Option<String>,
}

/// A peer whose handshakes came to nothing, for one reason: the last of them, and how many there were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedHandshake {
    /// How often.
    pub times: u64,
    /// When last, seconds since the epoch.
    pub last_unix_s: u64,
    /// `outbound` or `inbound`.
    pub direction: String,
    /// Who connected.
    pub source: Party,
    /// To where.
    pub destination: Party,
    /// The word of the access log.
    pub reason: String,
    /// In a sentence.
    pub detail: String,
    /// `us` or `peer`.
    pub refused_by: String,
    /// The URI in the peer's certificate.
    pub identity_found: Option<String>,
    /// Who would have been taken.
    pub identity_expected: Option<String>,
}

/// One open connection: [`underpass_core::Connection`] as it is read again. Fields that a later agent adds are passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Unique in the agent's process.
    pub id: u64,
    /// `outbound` or `inbound`.
    pub direction: String,
    /// `hbone`, `plaintext`, `passthrough` or `none`.
    pub path: String,
    /// Who opened it.
    pub source: Party,
    /// Who accepted it.
    pub destination: Party,
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
    /// How long it has been open, microseconds.
    pub duration_us: u64,
    /// The policy that allowed it.
    pub policy: Option<String>,
    /// The dry-run policies that would have denied it; absent from earlier agents.
    #[serde(default)]
    pub dry_run_denied_by: Vec<String>,
}
