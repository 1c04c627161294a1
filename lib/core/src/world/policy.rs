//! AuthorizationPolicy and PeerAuthentication after the door: validated, every value parsed. How they are judged is
//! [`crate::authz`] and [`crate::peer_auth`].

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{ObjectName, authz::Rule, world::Labels};

/// `metadata.creationTimestamp`, seconds since the epoch. A missing one (manifests) counts as the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Created(pub i64);

impl Created {
    /// Of an object that does not say.
    pub const UNKNOWN: Self = Self(i64::MAX);
}

/// Which workloads a policy is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Scope {
    /// All of its namespace; of the mesh, where it stands in the root namespace.
    Namespace,
    /// Those with these labels: of its namespace, or anywhere, where it stands in the root namespace.
    Selector(Labels),
    /// Judged at the waypoint of what it names (`Kind name` each), never at L4.
    Targets(Vec<String>),
}

/// What a matching policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Action {
    /// What it matches may pass; where any ALLOW policy applies, nothing else may.
    Allow,
    /// What it matches may not pass, whatever else says so.
    Deny,
}

/// `security.istio.io AuthorizationPolicy` with action ALLOW or DENY.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuthorizationPolicy {
    /// namespace/name.
    pub name: ObjectName,
    /// Where it applies.
    pub scope: Scope,
    /// What it does.
    pub action: Action,
    /// Any rule that matches is a match; none (`spec: {}`) never matches.
    pub rules: Vec<Rule>,
    /// `istio.io/dry-run: "true"`: logged and counted, never enforced.
    pub dry_run: bool,
}

/// `mtls.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum MtlsMode {
    /// Inherited from the next wider policy.
    #[default]
    Unset,
    /// As `Permissive`, and reported: a destination in the mesh cannot forbid mutual TLS.
    Disable,
    /// Plaintext and mutual TLS.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// `security.istio.io PeerAuthentication`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerAuthentication {
    /// namespace/name.
    pub name: ObjectName,
    /// `spec.selector.matchLabels`; none: the namespace or, in the root namespace, the mesh.
    pub selector: Option<Labels>,
    /// `spec.mtls.mode`.
    pub mode: MtlsMode,
    /// `spec.portLevelMtls`, by target port. Needs a selector.
    pub ports: BTreeMap<u16, MtlsMode>,
    /// The oldest wins among equals.
    pub created: Created,
}
