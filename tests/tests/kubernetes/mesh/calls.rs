//! Calls between captured pods: mutual TLS by certificates of the control plane, as policies at the API server say. Of any control
//! plane: ours, and istiod in `cargo xtask interop`.

use anyhow::{Context, Result, ensure};
use underpass_tests::{apps::socket::Dial, cluster::Cluster, mesh::Mesh};

use super::{
    PODS,
    policy::{denied, deny, passes},
    support::{PORT, ensure_hidden},
};

/// The text that must not be seen between the nodes.
const SECRET: &str = "a-text-that-two-pods-know";

/// `strict`: the name that agents have for what demands mutual TLS of mesh/b.
pub(crate) fn are_mutual_tls_as_policies_say(cluster: &Cluster, strict: &str) -> Result<()> {
    cluster.wait_for_annotated(&PODS)?;
    cluster.wait_for_enrolled(&PODS)?;
    let mesh = &cluster.mesh;
    let _servers = mesh.echo(&PODS, PORT)?;
    for (from, to) in [("mesh/a", "mesh/b"), ("mesh/b2", "mesh/a"), ("mesh/a", "mesh/a2")] {
        for ipv4 in [true, false] {
            is_mutual_tls(mesh, from, to, ipv4)?;
        }
    }
    // The twin: what has no identity is not let in where mutual TLS is demanded.
    denied(mesh, "out/o1", "mesh/b", true, &[("reason", "plaintext_refused"), ("policy", strict)])?;

    a_denial_takes_effect(cluster)
}

/// A policy that is applied now denies calls from mesh/a to mesh/b, for as long as it is there. Both have servers.
pub(crate) fn a_denial_takes_effect(cluster: &Cluster) -> Result<()> {
    let mesh = &cluster.mesh;
    cluster.kubectl().apply(&deny("not-a", "a"))?;
    cluster.wait_for_policy("mesh/not-a", true)?;
    for ipv4 in [true, false] {
        denied(mesh, "mesh/a", "mesh/b", ipv4, &[("reason", "denied"), ("policy", "mesh/not-a")])?;
        passes(mesh, "mesh/a2", "mesh/b", ipv4)?;
    }
    cluster.kubectl().run(&["delete", "authorizationpolicy", "not-a", "-n", "mesh"])?;
    cluster.wait_for_policy("mesh/not-a", false)?;
    passes(mesh, "mesh/a", "mesh/b", true)
}

/// A call in which both nodes name both identities, and of which nothing is seen between them.
fn is_mutual_tls(mesh: &Mesh, from: &str, to: &str, ipv4: bool) -> Result<()> {
    let (here, there) = (mesh.node_of(from)?, mesh.node_of(to)?);
    let wire = mesh.bed.capture_wire(here)?;
    let before = [mesh.log(here)?.len(), mesh.log(there)?.len()];
    let at = mesh.at(to, ipv4, PORT)?;
    let talk = mesh.call(from, Dial::to(at).say(SECRET))?.answered();
    let talk = talk.with_context(|| format!("{from} to {to}"))?;
    ensure!(talk.who()?.app == to, "{talk:?}");
    let identity = |pod: &str| format!("spiffe://cluster.local/ns/{}", pod.replace('/', "/sa/"));
    let (source, destination, at) = (identity(from), identity(to), at.to_string());
    let both = [
        ("source_identity", &*source),
        ("destination_identity", &*destination),
        ("destination_address", &*at),
        ("reason", "finished"),
    ];
    let of = |direction| [&both[..], &[("direction", direction), ("path", "hbone")]].concat();
    mesh.logged_after(here, before[0], &of("outbound"))?;
    mesh.logged_after(there, before[1], &of("inbound"))?;
    ensure_hidden(mesh, &wire, from, to, SECRET)
}
