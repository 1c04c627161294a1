//! Agents of a real istiod, beside our own control plane and of the same API server; Istio's base chart beside ours.
//! `cargo xtask interop`.
//!
//! What must hold: nothing here is told to an agent that a user of istiod would not tell it (docs/interop.md).

#[path = "interop/base.rs"]
mod base;
#[path = "kubernetes/mesh/calls.rs"]
mod calls;
#[path = "interop/expected.rs"]
mod expected;
#[path = "interop/facts.rs"]
mod facts;
#[allow(dead_code, reason = "its documents and what kubectl says of them")]
#[path = "kubernetes/resources/guide.rs"]
mod guide;
#[allow(dead_code, reason = "Helm at a site")]
#[path = "kubernetes/chart/helm.rs"]
mod helm;
#[allow(dead_code, reason = "its manifests and how it takes facts apart")]
#[path = "kubernetes/mesh/facts.rs"]
mod of_files;
#[allow(dead_code, reason = "the part of it that is about calls")]
#[path = "policy/setup.rs"]
mod policy;
mod support;

use anyhow::{Result, ensure};
use underpass_tests::{
    cluster::{Cluster, Control, istiod},
    testbed::Lab,
};

use self::support::{
    Family, PORT, WORLD,
    load::{Load, Open},
};

underpass_tests::scenarios! {
    certificates_facts_and_policies_are_those_of_istiod,
    nothing_fails_without_istiod,
    facts::of_istiod_are_those_of_control,
    base::comes_after_ours,
    base::takes_definitions_over_from_ours,
    base::comes_before_ours,
    base::has_the_kinds_of_a_guide,
}

/// The pods of the mesh, sorted.
const PODS: [&str; 4] = ["mesh/a", "mesh/a2", "mesh/b", "mesh/b2"];
/// The nodes with agents of istiod.
const NODES: [&str; 2] = ["node-1", "node-2"];
/// What istiod makes of a PeerAuthentication that demands mutual TLS on all ports.
const STRICT: &str = "istio-system/istio_converted_static_strict";

/// A cluster of these manifests, with Istio's definitions, istiod and agents of it. Our control plane does not run.
fn up(lab: &Lab, manifests: &[&str]) -> Result<(Cluster, Control)> {
    let mut cluster = Cluster::defined(lab, &manifests.join("\n---\n"), &istiod::definitions()?)?;
    let mut istiod = istiod::beside(&cluster)?;
    istiod.start()?;
    cluster.follow(&istiod)?;
    cluster.mesh.start()?;
    Ok((cluster, istiod))
}

fn certificates_facts_and_policies_are_those_of_istiod(lab: &Lab) -> Result<()> {
    let (cluster, mut istiod) = up(lab, &[WORLD, of_files::POLICIES])?;
    calls::are_mutual_tls_as_policies_say(&cluster, STRICT)?;
    ensure!(istiod.running()?.ended()?.is_none(), "istiod ended");
    Ok(())
}

fn nothing_fails_without_istiod(lab: &Lab) -> Result<()> {
    let (cluster, mut istiod) = up(lab, &[WORLD])?;
    cluster.wait_for_annotated(&PODS)?;
    cluster.wait_for_enrolled(&PODS)?;
    let mut open = Open::new(&cluster.mesh, "mesh/a", "mesh/b", Family::V4, 9000)?;
    let mut load = Load::begin(&cluster.mesh, lab)?;
    load.goes_on()?;
    println!("istiod is gone, and comes back");
    istiod.kill()?;
    load.goes_on()?;
    open.goes_on()?;
    istiod.start()?;
    load.goes_on()?;
    // What is new by now comes to the agents, and nothing that was there has left them.
    let deny = policy::policy("new", "b2", "DENY", "[{from: [{source: {principals: [cluster.local/ns/mesh/sa/a]}}]}]");
    let _servers = cluster.mesh.echo(&["mesh/a2", "mesh/b2"], PORT)?;
    cluster.kubectl().apply(&deny)?;
    cluster.wait_for_policy("mesh/new", true)?;
    policy::denied(&cluster.mesh, "mesh/a", "mesh/b2", true, &[("reason", "denied"), ("policy", "mesh/new")])?;
    policy::passes(&cluster.mesh, "mesh/b2", "mesh/a2", true)?;
    cluster.wait_for_enrolled(&PODS)?;
    load.goes_on()?;
    open.ends_in_order()?;
    let (answered, failed) = load.end()?;
    ensure!(answered > 0 && failed.is_empty(), "{answered} answered, {failed:?}");
    Ok(())
}
