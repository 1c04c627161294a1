//! End to end: certificates of a few seconds, the CA's root replaced, the CA gone, under connections that are opened all the
//! time and counted, and others that stay open. Level kernel.
//!
//! What must hold: where nothing may fail, 0 failed; and each scenario has what does fail beside it: what hangs on a removed
//! root, a workload without a certificate, a certificate of an unknown root.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use underpass_tests::{
    apps::{crowd::Caller, http, pair::Pair, socket::Dial},
    mesh::Mesh,
    testbed::{
        Lab,
        wait::{wait_for, wait_until},
    },
};

underpass_tests::scenarios! {
    the_root_is_replaced_under_load,
    a_root_that_is_swapped_at_once,
    the_authority_goes_and_comes_back,
    identities_leave_with_their_pods,
    no_core_file_has_a_key,
}

/// Two nodes; a and a2 on the first, b and b2 on the second, in namespace `mesh`, which is in the mesh; o1 and o2 of `out`
/// are not.
const WORLD: &str = include_str!("manifests/two-nodes.yaml");
/// The port of the applications.
const PORT: u16 = 8080;
const NODES: [&str; 2] = ["node-1", "node-2"];
/// Shorter than any of these scenarios.
const LIFETIME: [&str; 2] = ["--certificate-lifetime", "5"];

fn mesh(lab: &Lab) -> Result<Mesh> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    mesh.options(&LIFETIME);
    mesh.start()?;
    Ok(mesh)
}

/// Connections that are opened all the time: between the nodes, both ways, in both families, and within one.
fn callers(mesh: &Mesh) -> Result<Vec<Caller>> {
    let calls = [
        ("mesh/a", "mesh/b", true),
        ("mesh/a", "mesh/b", false),
        ("mesh/b", "mesh/a", false),
        ("mesh/a", "mesh/a2", true),
    ];
    let start = |(from, to, ipv4)| Caller::start(&mesh.bed.app(from)?, Dial::to(mesh.at(to, ipv4, PORT)?));
    calls.into_iter().map(start).collect()
}

/// All of them have gone on since, and none of their calls failed.
fn ensure_none_failed(callers: &mut [Caller]) -> Result<()> {
    for caller in callers {
        let seen = caller.wait_for_calls(3)?;
        ensure!(seen.failed.is_empty(), "{} answered, failed: {:?}", seen.answered, seen.failed);
    }
    Ok(())
}

/// Connections that stay: one for each family.
fn lasting(mesh: &Mesh) -> Result<[Pair; 2]> {
    Ok([mesh.pair("mesh/a", "mesh/b", true)?, mesh.pair("mesh/a", "mesh/b", false)?])
}

/// `underpass-agent ca`.
fn ca(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let agent = std::env::var_os("UNDERPASS_AGENT_BIN").context("run `cargo xtask test kernel`")?;
    let state = lab.directory().join("state");
    let arguments = [&["ca"], arguments, &["--state", state.to_str().context("UTF-8")?]].concat();
    lab.here().run(&agent.to_string_lossy(), &arguments)
}

fn ca_directory(lab: &Lab) -> PathBuf {
    lab.directory().join("state/ca")
}

/// The certificates of a node.
fn certificates(mesh: &Mesh, node: &str) -> Result<Vec<Value>> {
    let dump = mesh.admin(node, "/config_dump")?;
    Ok(dump["certificates"].as_array().context("certificates")?.clone())
}

/// The serial numbers of a node's roots; the one that signs first.
fn roots(mesh: &Mesh, node: &str) -> Result<Vec<String>> {
    let dump = mesh.admin(node, "/config_dump")?;
    let mut roots = dump["roots"].as_array().context("roots")?.clone();
    roots.sort_by_key(|root| root["signs"] != true);
    roots.iter().map(|root| Ok(root["serial"].as_str().context("serial")?.to_owned())).collect()
}

fn wait_for_roots(mesh: &Mesh, count: usize) -> Result<()> {
    for node in NODES {
        wait_until(&format!("{count} roots on {node}"), || Ok(roots(mesh, node)?.len() == count))?;
    }
    Ok(())
}

/// Waits until every certificate was renewed so often that none is in use of those before.
fn wait_for_renewals(mesh: &Mesh, callers: &mut [Caller]) -> Result<()> {
    // Renewed after 45 % of their life at the earliest.
    for _ in 0..3 {
        for node in NODES {
            let before = certificates(mesh, node)?;
            let old = |now: &Value| before.iter().any(|then| then["serial"] == now["serial"]);
            wait_until(&format!("renewed certificates on {node}"), || Ok(!certificates(mesh, node)?.iter().any(old)))?;
        }
        ensure_none_failed(callers)?;
    }
    Ok(())
}

fn the_root_is_replaced_under_load(lab: &Lab) -> Result<()> {
    let mut mesh = mesh(lab)?;
    let _servers = mesh.echo(&["mesh/a", "mesh/b", "mesh/a2"], PORT)?;
    let mut callers = callers(&mesh)?;
    let mut old = lasting(&mesh)?;
    let [old_root] = &roots(&mesh, "node-1")?[..] else { bail!("one root") };
    let old_root = old_root.clone();

    println!("prepare: {}", ca(lab, &["prepare"])?);
    wait_for_roots(&mesh, 2)?;
    ensure!(NODES.iter().all(|node| roots(&mesh, node).is_ok_and(|roots| roots[0] == old_root)));
    ensure_none_failed(&mut callers)?;
    ensure!(ca(lab, &["activate"]).is_err_and(|e| format!("{e:#}").contains("too early")), "no wait of 10 s here");

    println!("activate: {}", ca(lab, &["activate", "--now"])?);
    for node in NODES {
        let renewed = |own: &Value| own["issuer"].is_string() && own["issuer"] != *old_root;
        wait_until(&format!("certificates of the new root on {node}"), || {
            Ok(certificates(&mesh, node)?.iter().all(renewed))
        })?;
    }
    ensure_none_failed(&mut callers)?;
    // Until no tunnel that takes a stream was verified by the old root.
    wait_for_renewals(&mesh, &mut callers)?;
    let mut young = lasting(&mesh)?;
    for pair in old.iter_mut().chain(&mut young) {
        pair.exchange()?;
    }

    let before = mesh.log("node-1")?.len();
    println!("retire: {}", ca(lab, &["retire", "--now"])?);
    wait_for_roots(&mesh, 1)?;
    ensure!(NODES.iter().all(|node| roots(&mesh, node).is_ok_and(|roots| !roots.contains(&old_root))));
    // What hangs on the old root alone ends, and says why, where it was noticed first; the rest lives on.
    for pair in &mut old {
        pair.is_reset()?;
        let to = pair.to.to_string();
        let said = |node: &str| {
            let line = |line: &Value| line["destination_address"] == *to && line["reason"] == "identity";
            Ok::<_, anyhow::Error>(mesh.log(node)?.iter().any(line))
        };
        wait_until(&format!("the reason of {to}"), || Ok(said("node-1")? || said("node-2")?))?;
    }
    for pair in &mut young {
        pair.exchange()?;
    }
    ensure_none_failed(&mut callers)?;
    for caller in &mut callers {
        let seen = caller.stop()?;
        println!("{} calls", seen.answered);
        ensure!(seen.failed.is_empty(), "{seen:?}");
    }
    let cut = mesh.log("node-1")?.into_iter().skip(before).filter(|line| line["reason"] == "identity").count();
    ensure!(cut <= old.len(), "{cut} connections were cut");
    for node in NODES {
        let log = mesh.agent(node)?.log()?;
        ensure!(log.matches("roots changed").count() == 2, "{node} says it once for each change: {log}");
    }
    Ok(())
}

/// The twin: a root that signs without having been trusted before, while the old one is not trusted any more.
fn a_root_that_is_swapped_at_once(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let _servers = mesh.echo(&["mesh/b"], PORT)?;
    let mut old = lasting(&mesh)?;
    let old_roots = roots(&mesh, "node-1")?;
    ca(lab, &["prepare"])?;
    let directory = ca_directory(lab);
    fs::rename(directory.join("next.pem"), directory.join("ca.pem"))?;
    for pair in &mut old {
        pair.is_reset()?;
    }
    for node in NODES {
        wait_until(&format!("another root on {node}"), || {
            let roots = roots(&mesh, node)?;
            Ok(roots.len() == 1 && roots != old_roots)
        })?;
    }
    for node in NODES {
        let renewed = |own: &Value| own["issuer"] != *old_roots[0];
        wait_until(&format!("its certificates on {node}"), || Ok(certificates(&mesh, node)?.iter().all(renewed)))?;
    }
    mesh.call("mesh/a", Dial::to(mesh.at("mesh/b", false, PORT)?))?.answered()?;
    Ok(())
}

fn ready(mesh: &Mesh, node: &str) -> Result<Result<(), String>> {
    let answer = mesh.bed.node(node)?.shell()?.act(http::fetch, "http://127.0.0.1:15021/healthz/ready".to_owned());
    Ok(answer.map(drop).map_err(|e| format!("{e:#}")))
}

fn the_authority_goes_and_comes_back(lab: &Lab) -> Result<()> {
    const SECRET: &str = "NEVER-IN-THE-CLEAR";
    let mut mesh = mesh(lab)?;
    let _servers = mesh.echo(&["mesh/a", "mesh/b", "mesh/a2", "out/o2"], PORT)?;
    let wire = mesh.bed.capture_wire("node-1")?;
    let mut callers = callers(&mesh)?;
    let mut open = lasting(&mesh)?;
    wait_for_renewals(&mesh, &mut callers)?;

    let (own, away) = (ca_directory(lab), lab.directory().join("away"));
    fs::rename(&own, &away)?;
    // Each certificate has a half-life of its own. The first that is past it is not expired yet, and the others are younger.
    let first = wait_for("a renewal to fail", || {
        for node in NODES {
            if certificates(&mesh, node)?.iter().any(|own| own["state"] == "failing") {
                return Ok(Some(node));
            }
        }
        Ok(None)
    })?;
    // What serves goes on serving, and is ready.
    let seen: Vec<_> = callers.iter_mut().map(Caller::stop).collect::<Result<_>>()?;
    ensure!(seen.iter().all(|seen| seen.failed.is_empty() && seen.answered > 0), "{seen:?}");
    let dump = mesh.admin(first, "/config_dump")?;
    ensure!(dump["authority"]["reachable"] == Value::Bool(false), "{dump:#}");
    if dump["certificates"].as_array().is_some_and(|all| all.iter().all(|own| own["state"] != "expired")) {
        ready(&mesh, first)?.map_err(anyhow::Error::msg).context("it can still serve")?;
    }

    for node in NODES {
        wait_until(&format!("{node} not to be ready"), || Ok(ready(&mesh, node)?.is_err()))?;
        let expired = || Ok(certificates(&mesh, node)?.iter().all(|own| own["state"] == "expired"));
        wait_until(&format!("every certificate of {node} to expire"), expired)?;
        let said = ready(&mesh, node)?.err().unwrap_or_default();
        ensure!(said.contains("no valid certificate for spiffe://"), "{said}");
    }
    // Refused, by name, never in the clear. What was open goes on.
    for ipv4 in [true, false] {
        let lines = mesh.log("node-1")?.len();
        mesh.is_reset("mesh/a", Dial::to(mesh.at("mesh/b", ipv4, PORT)?).say(SECRET))?;
        mesh.logged_after("node-1", lines, &[("direction", "outbound"), ("reason", "no_certificate")])?;
    }
    for pair in &mut open {
        pair.exchange()?;
    }

    fs::rename(&away, &own)?;
    for node in NODES {
        wait_until(&format!("{node} to be ready again"), || Ok(ready(&mesh, node)?.is_ok()))?;
    }
    for ipv4 in [true, false] {
        mesh.call("mesh/a", Dial::to(mesh.at("mesh/b", ipv4, PORT)?).say(SECRET))?.answered()?;
        mesh.call("mesh/b", Dial::to(mesh.at("mesh/a", ipv4, PORT)?).say(SECRET))?.answered()?;
    }
    for pair in &mut open {
        pair.exchange()?;
    }
    ensure!(!wire.contains(SECRET.as_bytes())?, "in the clear");
    mesh.call("out/o1", Dial::to(mesh.at("out/o2", true, PORT)?).say(SECRET))?.answered()?;
    wait_until("the capture to see what is in the clear", || wire.contains(SECRET.as_bytes()))?;
    for node in NODES {
        let log = mesh.agent(node)?.log()?;
        for line in ["certificate authority unreachable", "certificate authority reachable again"] {
            ensure!(log.matches(line).count() == 1, "{node} says {line:?} once: {log}");
        }
    }
    Ok(())
}

fn identities_leave_with_their_pods(lab: &Lab) -> Result<()> {
    let mut mesh = mesh(lab)?;
    let _servers = mesh.echo(&["mesh/b"], PORT)?;
    let names = |mesh: &Mesh| -> Result<Vec<String>> {
        let all = certificates(mesh, "node-1")?;
        let name = |own: &Value| own["identity"].as_str()?.rsplit('/').next().map(str::to_owned);
        all.iter().map(|own| name(own).context("an identity")).collect()
    };
    ensure!(names(&mesh)? == ["a", "a2"], "{:?}", names(&mesh)?);
    let mut open = mesh.pair("mesh/a2", "mesh/b", true)?;
    let call = |mesh: &Mesh| -> Result<()> {
        let to: SocketAddr = mesh.at("mesh/b", false, PORT)?;
        mesh.call("mesh/a2", Dial::to(to))?.answered().map(drop)
    };
    call(&mesh)?;

    // The pod gets another service account.
    mesh.replace("world.yaml", "serviceAccountName: a2", "serviceAccountName: renamed")?;
    ensure!(names(&mesh)? == ["a", "renamed"], "{:?}", names(&mesh)?);
    let lines = mesh.log("node-2")?.len();
    call(&mesh)?;
    let identity = ("source_identity", "spiffe://cluster.local/ns/mesh/sa/renamed");
    mesh.logged_after("node-2", lines, &[("direction", "inbound"), identity])?;
    open.is_reset().context("its tunnel showed the old identity")?;

    // It leaves. Others stay.
    mesh.bed.remove_pod("mesh/a2")?;
    let world = mesh.manifest("world.yaml")?;
    let others = world.split("\n---\n").filter(|object| !object.contains("serviceAccountName: renamed"));
    let others = others.collect::<Vec<_>>().join("\n---\n");
    mesh.edit("world.yaml", Some(&others))?;
    wait_until("its identity to leave", || Ok(names(&mesh)? == ["a"]))
}

/// A program that is told to leave a core file, once it says something.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Quit {
    program: Vec<String>,
    says: String,
    directory: PathBuf,
}

/// Has it left one?
fn leaves_core(quit: Quit) -> Result<bool> {
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -c unlimited && exec \"$@\"", "sh"])
        .args(&quit.program)
        .current_dir(&quit.directory)
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stderr = BufReader::new(child.stderr.take().context("a pipe")?);
    let mut line = String::new();
    while !line.contains(&quit.says) {
        line.clear();
        ensure!(stderr.read_line(&mut line)? > 0, "{:?} ended: {:?}", quit.program, child.wait()?);
    }
    // Not SIGQUIT: what a shell runs in the background, these tests perhaps, ignores that one, and so do its children.
    kill(Pid::from_raw(child.id().try_into()?), Signal::SIGABRT)?;
    let status = child.wait()?;
    ensure!(status.signal() == Some(libc::SIGABRT), "{status:?}");
    Ok(status.core_dumped())
}

/// A core file of the agent would have its keys. The twin is a process like any other.
fn no_core_file_has_a_key(lab: &Lab) -> Result<()> {
    let mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    let node = mesh.bed.node("node-1")?;
    let site = node.service("underpass-agent")?;
    let agent = std::env::var("UNDERPASS_AGENT_BIN").context("run `cargo xtask test kernel`")?;
    let path = |path: &std::path::Path| path.to_str().context("UTF-8").map(str::to_owned);
    let manifests = path(mesh.path_of("world.yaml")?.parent().context("a folder")?)?;
    let (state, log) = (path(&lab.directory().join("state"))?, path(&lab.directory().join("access.log"))?);
    let (bpffs, cgroup) = (path(lab.bpffs())?, path(node.cgroup())?);
    let socket = path(&mesh.admin_socket("node-1"))?;
    let arguments = [
        [agent.as_str(), "--node=node-1"],
        ["--admin-socket", &socket],
        ["--manifests", &manifests],
        ["--state", &state],
        ["--bpffs", &bpffs],
        ["--cgroup-root", &cgroup],
        ["--access-log", &log],
    ];
    let program = arguments.iter().flatten().map(ToString::to_string).collect();
    let directory = lab.directory().to_owned();
    let like_any_other = ["sh", "-c", "echo started >&2 && exec sleep 1000"].map(str::to_owned).to_vec();
    let twin = Quit { program: like_any_other, says: "started".to_owned(), directory: directory.clone() };
    ensure!(site.act(leaves_core, twin)?, "a process like any other leaves a core here");
    let agent = Quit { program, says: "agent started".to_owned(), directory };
    ensure!(!site.act(leaves_core, agent)?, "the agent has left a core");
    Ok(())
}
