//! Shared parts: the mesh, its calls, and the log lines of both ends.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use underpass_tests::{apps::pair::Pair, mesh::Mesh, testbed::Lab};

/// Two nodes: mesh/a and mesh/a2 on the first, mesh/b and mesh/b2 on the second are in the mesh; out/o1 and out/o2 are not.
pub(crate) const WORLD: &str = include_str!("../manifests/two-nodes.yaml");

pub(crate) const SERVICES: &str = include_str!("../manifests/services.yaml");

/// The port of the applications.
pub(crate) const PORT: u16 = 8080;

/// Across nodes, and within one.
pub(crate) const SERVERS: [&str; 2] = ["mesh/b", "mesh/a2"];

pub(crate) fn laid_out(lab: &Lab) -> Result<Mesh> {
    Mesh::up(lab, &[("world.yaml", WORLD), ("services.yaml", SERVICES)])
}

pub(crate) fn mesh(lab: &Lab) -> Result<Mesh> {
    let mut mesh = laid_out(lab)?;
    mesh.start()?;
    Ok(mesh)
}

/// With the label, or without it: then no pod is in the mesh any more.
pub(crate) fn label(mesh: &mut Mesh, ambient: bool) -> Result<()> {
    let modes = ["dataplane-mode: none", "dataplane-mode: ambient"];
    let (old, new) = if ambient { (modes[0], modes[1]) } else { (modes[1], modes[0]) };
    mesh.replace("world.yaml", old, new)?;
    if ambient { Ok(()) } else { mesh.wait_until_all_left() }
}

pub(crate) fn any(port: u16) -> SocketAddr {
    SocketAddr::from(([0u16; 8], port))
}

/// Client and server of each call: across nodes, within one, and from outside of the mesh; each in both families.
pub(crate) fn routes() -> impl Iterator<Item = (&'static str, &'static str, bool)> {
    let routes = [("mesh/a", "mesh/b"), ("mesh/a", "mesh/a2"), ("out/o1", "mesh/b")];
    routes.into_iter().flat_map(|(client, server)| [(client, server, true), (client, server, false)])
}

/// The same to [`SERVERS`] alone.
pub(crate) fn from_a() -> impl Iterator<Item = (&'static str, bool)> {
    SERVERS.into_iter().flat_map(|server| [(server, true), (server, false)])
}

/// Waits for the line of each node that had to do with the connection.
pub(crate) fn both_logged(mesh: &Mesh, client: &str, pair: &Pair, want: &[(&str, &str)]) -> Result<()> {
    let to = pair.to.to_string();
    let of = |direction: &'static str| [&[("direction", direction), ("destination_address", &to)], want].concat();
    if client.starts_with("mesh/") {
        mesh.logged(mesh.node_of(client)?, &of("outbound"))?;
    }
    let server = mesh.bed.pods().find(|pod| pod.spec().addresses.contains(&pair.to.ip())).context("the server")?;
    mesh.logged(&server.spec().node, &of("inbound"))?;
    Ok(())
}
