//! End to end: what the applications of a mesh see, and what the wire does. Level kernel: needs root, the kernel programs
//! and the agent. Every behaviour has its failing twin.

use std::{net::SocketAddr, process::ExitCode};

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    apps::{
        servers,
        socket::{self, Dial},
    },
    mesh::Mesh,
    testbed::{
        Lab,
        harness::{self, Scenario},
    },
};

fn main() -> ExitCode {
    harness::main(&[Scenario::new("capture_follows_the_label", capture_follows_the_label)])
}

/// Two nodes, a on the first, b on the second, both in namespace `mesh`, which is in the mesh; `out` is not.
const WORLD: &str = include_str!("manifests/two-nodes.yaml");

/// The echo server's port, on every pod that needs one.
const PORT: u16 = 8080;

fn mesh(lab: &Lab) -> Result<Mesh> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    mesh.start()?;
    Ok(mesh)
}

fn at(mesh: &Mesh, pod: &str, v4: bool) -> Result<SocketAddr> {
    Ok(SocketAddr::new(mesh.bed.pod(pod)?.address(v4)?, PORT))
}

fn capture_follows_the_label(lab: &Lab) -> Result<()> {
    let mut mesh = mesh(lab)?;
    let _server = servers::echo(&mesh.bed.app("mesh/b")?, "[::]:8080".parse()?)?;
    for (label, secret) in [(true, "CAPTURED"), (false, "IN-THE-CLEAR"), (true, "CAPTURED-AGAIN")] {
        let (old, new) = if label { ("dataplane-mode: none", "dataplane-mode: ambient") } else { ("dataplane-mode: ambient", "dataplane-mode: none") };
        if mesh.manifest("world.yaml")?.contains(old) {
            mesh.replace("world.yaml", old, new)?;
        }
        for v4 in [true, false] {
            let wire = mesh.bed.capture_wire("node-1")?;
            let dial = Dial::to(at(&mesh, "mesh/b", v4)?).say(secret);
            let talk = mesh.bed.app("mesh/a")?.act(socket::dial, dial)?.answered().context(secret)?;
            let who = talk.who()?;
            ensure!(who.peer.ip() == mesh.bed.pod("mesh/a")?.address(v4)?, "the server saw {who:?}");
            ensure!(talk.peer == at(&mesh, "mesh/b", v4)?, "getpeername: {talk:?}");
            ensure!(wire.contains(secret.as_bytes())? != label, "{secret} on the wire, label {label}");
        }
    }
    Ok(())
}
