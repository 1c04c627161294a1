//! A mesh in a cluster, end to end: agents that take pods from a real API server, facts and certificates from the control
//! plane. Level kubernetes.
//!
//! What must hold: every refusal here has its twin beside it, the same request that is granted.

#[path = "mesh/calls.rs"]
mod calls;
#[path = "mesh/certificates.rs"]
mod certificates;
#[path = "mesh/events.rs"]
mod events;
#[path = "mesh/facts.rs"]
mod facts;
#[path = "mesh/ghosts.rs"]
mod ghosts;
#[path = "mesh/issuer.rs"]
mod issuer;
#[path = "mesh/kept.rs"]
mod kept;
#[path = "mesh/labels.rs"]
mod labels;
#[path = "mesh/outages.rs"]
mod outages;
#[path = "mesh/replicas.rs"]
mod replicas;
#[path = "mesh/rotation.rs"]
mod rotation;
#[path = "mesh/status.rs"]
mod status;
#[path = "mesh/tokens.rs"]
mod tokens;

#[allow(dead_code, reason = "the part of it that is about calls")]
#[path = "../policy/setup.rs"]
mod policy;
#[path = "../support/mod.rs"]
mod support;

use anyhow::Result;
use underpass_tests::{cluster::Cluster, testbed::Lab};

underpass_tests::scenarios! {
    a_mesh_of_a_cluster,
    labels::a_namespace_joins_and_leaves_under_load,
    outages::nothing_fails_without_control_and_api_server,
    outages::certificates_serve_until_they_expire,
    kept::an_agent_serves_what_the_one_before_has_kept,
    ghosts::of_a_deleted_node,
    tokens::an_agent_goes_on_where_its_tokens_had_expired,
    replicas::no_agent_goes_back_to_an_older_policy,
    certificates::only_agents_get_the_identities_of_their_node,
    rotation::the_root_is_replaced_under_load,
    status::policies_get_conditions,
    status::one_of_two_replicas_writes,
}

/// The pods of the mesh, sorted.
const PODS: [&str; 4] = ["mesh/a", "mesh/a2", "mesh/b", "mesh/b2"];
/// The nodes that agents run on.
const NODES: [&str; 2] = ["node-1", "node-2"];

/// A cluster of these manifests, with control plane and agents.
fn up(lab: &Lab, manifests: &[&str]) -> Result<Cluster> {
    let mut cluster = Cluster::up(lab, &manifests.join("\n---\n"))?;
    cluster.start()?;
    Ok(cluster)
}

fn a_mesh_of_a_cluster(lab: &Lab) -> Result<()> {
    let mut cluster = up(lab, &[support::WORLD, facts::SERVICES, facts::POLICIES])?;
    events::name_pods_that_are_not_captured(&cluster)?;
    events::a_startup_taint_goes_with_a_ready_agent(&cluster)?;
    calls::are_mutual_tls_as_policies_say(&cluster, "mesh/strict")?;
    issuer::is_the_control_plane(&mut cluster)?;
    facts::are_those_of_files(&mut cluster)
}
