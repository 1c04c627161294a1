//! End to end: the admin API and the command against agents that run. Only root of the node may ask for changes, no pod
//! for anything, and the command shows the state as it is. Level kernel.

use std::{net::SocketAddr, os::unix::net::UnixStream, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::unistd::{Uid, setuid};
use serde_json::Value;
use underpass_tests::{
    apps::{
        remote::Sockets,
        servers,
        socket::{Dial, Dialed},
    },
    mesh::Mesh,
    testbed::Lab,
};

underpass_tests::scenarios! {
    no_pod_reaches_the_admin_api,
    only_root_reaches_the_socket,
    an_operator_closes_exactly_one_connection,
    the_command_shows_what_is,
}

/// Two nodes; a and a2 on the first, b and b2 on the second, in namespace `mesh`, which is in the mesh; o1 and o2 of `out`
/// are not.
const WORLD: &str = include_str!("manifests/two-nodes.yaml");
/// The port of the applications.
const PORT: u16 = 8080;
/// Patience with a connection that must not come about, and is not refused either.
const BRIEFLY: Duration = Duration::from_millis(600);
const ADMIN: u16 = 15000;
const READINESS: u16 = 15021;

/// The mesh with an agent on both nodes.
fn mesh(lab: &Lab) -> Result<Mesh> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    mesh.start()?;
    Ok(mesh)
}

/// `[::]:port`.
fn any(port: u16) -> SocketAddr {
    SocketAddr::from(([0; 16], port))
}

/// Neither at the node's addresses nor at its own loopback, be it in the mesh or not; readiness is reached at the node's
/// addresses.
fn no_pod_reaches_the_admin_api(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let node = mesh.bed.node("node-1")?.spec().addresses.clone();
    let own = ["127.0.0.1".parse()?, "::1".parse()?];
    for pod in ["mesh/a", "out/o1"] {
        for address in node.iter().chain(&own) {
            let dial = |port| mesh.call(pod, Dial::to((*address, port)).silent().patience(BRIEFLY));
            let failed = dial(ADMIN)?.failed().with_context(|| format!("{pod} to {address}, port {ADMIN}"))?;
            ensure!(failed.errno == libc::ECONNREFUSED, "{pod} to {address}: {failed}");
            let reached = matches!(dial(READINESS)?, Dialed::Answered(_));
            ensure!(reached != own.contains(address), "{pod} to {address}, port {READINESS}: reached: {reached}");
        }
    }
    // the node's own programs reach it
    let status = mesh.admin("node-1", "/status")?;
    ensure!(status["node"] == "node-1", "{status}");
    Ok(())
}

fn only_root_reaches_the_socket(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let shell = mesh.bed.node("node-1")?.shell()?;
    let socket = mesh.admin_socket("node-1");
    ensure!(shell.act(connect_as, (0, socket.clone()))? == 0);
    let errno = shell.act(connect_as, (65534, socket))?;
    ensure!(errno == libc::EACCES, "errno {errno}");
    Ok(())
}

/// 0, or the errno.
fn connect_as((user, socket): (u32, PathBuf)) -> Result<i32> {
    setuid(Uid::from_raw(user))?;
    Ok(UnixStream::connect(socket).err().and_then(|e| e.raw_os_error()).unwrap_or(0))
}

fn an_operator_closes_exactly_one_connection(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let mut far = Sockets::start(&mesh.bed.app("mesh/b")?)?;
    let listener = far.listen(any(PORT))?;
    for ipv4 in [true, false] {
        let to = mesh.at("mesh/b", ipv4, PORT)?;
        let mut client = Sockets::start(&mesh.bed.app("mesh/a")?)?;
        let mut open = Vec::new();
        for _ in 0..3 {
            let out = client.connect(to)?;
            client.send(out, b"x")??;
            let (accepted, _) = far.accept(listener)?;
            ensure!(far.receive(accepted, 1)?? == b"x");
            open.push((out, accepted));
        }
        let (out, accepted) = open.swap_remove(1);
        // Once at the source's node, once at the destination's.
        let (node, other) = if ipv4 { ("node-1", "node-2") } else { ("node-2", "node-1") };
        let id = second_to(&mesh.underpass(node, &["connections", "-o", "json"])?, to)?.to_string();
        mesh.underpass(node, &["connections", "close", &id])?;
        for (sockets, end) in [(&mut client, out), (&mut far, accepted)] {
            let ended = sockets.read_to_end(end)?;
            ensure!(ended.as_ref().is_err_and(|e| e.errno == libc::ECONNRESET), "{ended:?}");
        }
        // Whose decision it was is said where it was made.
        mesh.logged(node, &[("connection", &id), ("reason", "operator")])?;
        let line = mesh.logged(other, &[("destination_address", &to.to_string())])?;
        ensure!(line["reason"] != "operator" && line["reason"] != "finished", "{line}");
        for (out, accepted) in open {
            client.send(out, b"still")??;
            ensure!(far.receive(accepted, 5)?? == b"still");
        }
        let gone = mesh.underpass(node, &["connections", "close", &id]);
        ensure!(gone.is_err_and(|e| format!("{e:#}").contains("may have ended meanwhile")));
    }
    Ok(())
}

/// The number of the second connection to `to` that was opened.
fn second_to(list: &str, to: SocketAddr) -> Result<u64> {
    let all: Vec<Value> = serde_json::from_str(list)?;
    let to = to.to_string();
    let mut ids: Vec<_> = all.iter().filter(|c| c["destination"]["address"] == *to).map(|c| c["id"].as_u64()).collect();
    ids.sort_unstable();
    ids.get(1).copied().flatten().with_context(|| format!("not two connections to {to} in {list}"))
}

fn the_command_shows_what_is(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let _server = servers::echo(&mesh.bed.app("mesh/b")?, any(PORT))?;
    let ask = |mesh: &Mesh, args: &[&str]| -> Result<Vec<Value>> {
        Ok(serde_json::from_str(&mesh.underpass("node-1", &[args, &["-o", "json"]].concat())?)?)
    };
    let pods = ask(&mesh, &["workloads"])?;
    let state = |name: &str| {
        let pod = pods.iter().find(|pod| pod["name"] == name).unwrap_or(&Value::Null);
        (pod["in_mesh"].clone(), pod["state"]["state"].clone())
    };
    ensure!(state("a") == (true.into(), "enrolled".into()), "{pods:?}");
    ensure!(state("b") == (true.into(), Value::Null), "of another node: {pods:?}");
    ensure!(state("o1") == (false.into(), Value::Null), "{pods:?}");
    let certificates = ask(&mesh, &["certificates"])?;
    let identities: Vec<_> = certificates.iter().filter_map(|c| c["identity"].as_str()).collect();
    ensure!(
        identities == ["a", "a2"].map(|name| format!("spiffe://cluster.local/ns/mesh/sa/{name}")),
        "{identities:?}"
    );
    let to = format!("mesh/b:{PORT}");
    let explained = mesh.underpass("node-1", &["explain", "mesh/a", &to])?;
    ensure!(explained.starts_with("allowed") && explained.contains("path hbone"), "{explained}");
    let status = mesh.underpass("node-1", &["status"])?;
    ensure!(status.contains("2 enrolled") && status.contains("0 errors"), "{status}");

    // What is broken is shown, and the exit status says so.
    mesh.write("broken.yaml", Some("apiVersion: v1\nkind: Pod\nmetadata: {name: [], namespace: mesh}\n"))?;
    mesh.problem("node-1", &[("file", "broken.yaml")])?;
    let status = mesh.underpass("node-1", &["status"]).map_err(|e| format!("{e:#}"));
    ensure!(status.as_ref().is_err_and(|e| e.contains("exit status: 2")), "{status:?}");
    Ok(())
}
