//! AuthorizationPolicies and PeerAuthentications: scope, action, the number of pods, and fields that need a waypoint.

use serde::{Deserialize, Serialize};
use underpass_core::{
    Kind, ObjectKey, ObjectName, World,
    labels::selects,
    objects::{MtlsMode, PeerAuthentication},
    resolve::{Finding, Sources},
    world::{AuthorizationPolicy, Scope, Workload},
};

use super::labels;

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// `AuthorizationPolicy` or `PeerAuthentication`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `mesh`, `namespace`, `selector app=a`, or the targets that it names.
    pub scope: String,
    /// `ALLOW`, `DENY`, or the mode of mutual TLS with its ports.
    pub action: String,
    /// The number of its rules.
    pub rules: usize,
    /// It is a dry run.
    pub dry_run: bool,
    /// The number of pods of the mesh that it selects.
    pub selects: usize,
    /// The fields that only a waypoint can judge, as written, each once.
    pub needs_waypoint: Vec<String>,
    /// Findings: what its author may not expect, one sentence each, with the field in front.
    pub notes: Vec<String>,
}

impl Policy {
    pub(super) fn all(world: &World, sources: &Sources) -> Vec<Self> {
        let authorization = world.policies().map(|p| Self::of_authorization(world, sources, p));
        let mutual_tls = sources.peer_authentications().map(|p| Self::of_peer_authentication(world, sources, p));
        authorization.chain(mutual_tls).collect()
    }

    pub(super) fn of_authorization(world: &World, sources: &Sources, p: &AuthorizationPolicy) -> Self {
        let mut needs_waypoint: Vec<String> = Vec::new();
        for field in p.waypoint_fields() {
            if !needs_waypoint.iter().any(|known| **known == *field.name) {
                needs_waypoint.push(field.name.to_string());
            }
        }
        let scope = match &p.scope {
            Scope::Namespace => wide(world, &p.name),
            Scope::Selector(selector) => format!("selector {}", labels(selector)),
            Scope::Targets(targets) => targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        Self {
            rules: p.rules.len(),
            dry_run: p.dry_run,
            needs_waypoint,
            selects: count(world, |w| world.applies(p, w)),
            ..Self::new(sources, Kind::AuthorizationPolicy, &p.name, scope, p.action.as_str().to_owned())
        }
    }

    fn of_peer_authentication(world: &World, sources: &Sources, p: &PeerAuthentication) -> Self {
        let scope = match &p.selector {
            None => wide(world, &p.name),
            Some(selector) => format!("selector {}", labels(selector)),
        };
        let ports = p.ports.iter().map(|(port, mode)| format!(" {port}={}", mode_name(*mode)));
        let action = format!("{}{}", mode_name(p.mode), ports.collect::<String>());
        let (of, root) = (p.name.namespace(), &*world.settings().root_namespace);
        let applies = |w: &Workload| match &p.selector {
            None => of == root || of == w.name.namespace(),
            // One of the root namespace with a selector is ignored (a finding says so).
            Some(selector) => {
                let own = of == w.name.namespace() && of != root;
                own && sources.pod(&w.name).is_some_and(|pod| selects(selector, &pod.labels))
            }
        };
        Self { selects: count(world, applies), ..Self::new(sources, Kind::PeerAuthentication, &p.name, scope, action) }
    }

    fn new(sources: &Sources, kind: Kind, name: &ObjectName, scope: String, action: String) -> Self {
        let about_it = sources.findings_of(&ObjectKey::new(kind, name.clone()));
        let note = |finding: &Finding| match &*finding.field {
            "" => finding.says.clone(),
            field => format!("{field}: {}", finding.says),
        };
        Self {
            kind: kind.to_string(),
            namespace: name.namespace().to_owned(),
            name: name.name().to_owned(),
            scope,
            action,
            rules: 0,
            dry_run: false,
            selects: 0,
            needs_waypoint: Vec::new(),
            notes: about_it.iter().map(note).collect(),
        }
    }
}

/// The number of pods of the mesh that a policy selects.
fn count(world: &World, applies: impl Fn(&Workload) -> bool) -> usize {
    world.workloads().filter(|w| w.is_enrolled() && applies(w)).count()
}

/// The scope of a policy without a selector: the mesh, where it stands in the root namespace, else its namespace.
fn wide(world: &World, name: &ObjectName) -> String {
    let is_root = name.namespace() == &*world.settings().root_namespace;
    if is_root { "mesh".to_owned() } else { "namespace".to_owned() }
}

/// As written in a manifest.
const fn mode_name(mode: MtlsMode) -> &'static str {
    match mode {
        MtlsMode::Unset => "UNSET",
        MtlsMode::Disable => "DISABLE",
        MtlsMode::Permissive => "PERMISSIVE",
        MtlsMode::Strict => "STRICT",
    }
}
