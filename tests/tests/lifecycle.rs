//! End to end: an agent's beginning and its end. It is asked to end and takes its time, or is taken over by another one, or
//! is killed whenever it is worst; and the node is cleaned up. Level kernel.
//!
//! What must hold: connections are counted, and each test has its twin in which some are lost, or wait.

#[path = "lifecycle/check.rs"]
mod check;
#[path = "lifecycle/churn.rs"]
mod churn;
mod support;
#[path = "lifecycle/take_over.rs"]
mod take_over;

use std::fs;

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    apps::{
        hammer::PATIENT,
        http, servers,
        socket::{self, Dial},
    },
    mesh::{AgentVersion, Mesh},
    testbed::{Exit, Lab, Signal, wait::wait_until},
};

use support::{
    Counts, Family, PORT, WORLD, any, clean_up_of, ensure_hidden, ensure_tunnelled,
    load::{Load, Open, is_cut},
};

underpass_tests::scenarios! {
    check::a_node_is_checked_before_its_agent_and_beside_it,
    asked_to_end_it_drains,
    the_deadline_of_a_drain,
    asked_twice_it_ends,
    take_over::taken_over_under_load,
    take_over::several_agents_drain_at_once,
    take_over::one_that_stays_waits_to_be_asked,
    take_over::a_second_agent_is_refused,
    take_over::as_in_a_container,
    take_over::successors_that_die,
    take_over::an_agent_that_dies_while_it_is_followed,
    cleaned_up,
    killed_at_any_moment,
    churn::pods_that_come_and_go,
}

fn up(lab: &Lab, options: &[&str]) -> Result<Mesh> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    mesh.options(options);
    mesh.start()?;
    Ok(mesh)
}

/// The status of readiness of a node.
fn is_ready(mesh: &Mesh, node: &str) -> Result<bool> {
    let shell = mesh.bed.node(node)?.shell()?;
    Ok(shell.act(http::fetch, "http://127.0.0.1:15021/healthz/ready".to_owned()).is_ok())
}

/// DENY for a2, of which everything else stays as it is.
const DENY_A2: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-a2, namespace: mesh}
spec:
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/mesh/sa/a2]}}]}]
";

/// Open connections go on, are judged, and end by themselves; new ones wait for the next agent. None is cut.
fn asked_to_end_it_drains(lab: &Lab) -> Result<()> {
    let mut mesh = up(lab, &[])?;
    let _server = servers::echo(&mesh.bed.app("mesh/b")?, any(PORT))?;
    let wire = mesh.bed.capture_wire("node-1")?;
    let mut open = Vec::new();
    for (port, family) in (9000..).zip(Family::ALL) {
        open.push(Open::new(&mesh, "mesh/a", "mesh/b", family, port)?);
        open.push(Open::new(&mesh, "mesh/b", "mesh/a", family, port)?);
    }
    let denied = Open::new(&mesh, "mesh/a2", "mesh/b", Family::V4, 9100)?;
    ensure!(is_ready(&mesh, "node-1")?);
    let counts = Counts::read(&mesh, "node-1")?;

    mesh.agent("node-1")?.signal(Signal::SIGTERM)?;
    mesh.agent("node-1")?.wait_for_log("draining")?;
    wait_until("readiness to fall", || Ok(!is_ready(&mesh, "node-1")?))?;
    open.iter_mut().try_for_each(Open::goes_on)?;
    // Connects wait, without an error and without a packet; who comes is refused.
    let begin = |family: Family| {
        let dial = Dial::to(family.to(mesh.bed.pod("mesh/b")?, PORT)?).say("WAITED").patience(PATIENT);
        mesh.bed.app("mesh/a")?.begin(socket::dial, dial)
    };
    let waiting = Family::ALL.into_iter().map(begin).collect::<Result<Vec<_>>>()?;
    let held = || Ok(counts.since(&mesh, "node-1")?.of("guard:no-listener") >= 3);
    wait_until("guard to hold all three SYNs", held)?;
    let stranger = Dial::to(Family::V4.to(mesh.bed.pod("mesh/a")?, PORT)?).say("GOT-IN");
    ensure!(!mesh.call("out/o1", stranger)?.failed()?.is_timeout(), "refused, not held");
    // Policy is judged as before, here and there.
    mesh.write("deny.yaml", Some(DENY_A2))?;
    denied.ends_in_a_reset()?;
    mesh.logged("node-2", &[("reason", "denied"), ("policy", "mesh/not-a2")])?;
    open.iter_mut().try_for_each(Open::goes_on)?;
    let dump = mesh.admin("node-1", "/config_dump")?;
    ensure!(dump["certificates"].as_array().is_some_and(|all| !all.is_empty()), "{}", dump["certificates"]);
    ensure!(mesh.agent("node-1")?.ended()?.is_none(), "it has not waited");

    open.into_iter().try_for_each(Open::ends_in_order)?;
    ensure!(mesh.agent("node-1")?.wait()? == Exit::Code(0));
    let cut: Vec<_> = mesh.log("node-1")?.into_iter().filter(|line| line["reason"] == "drain").collect();
    ensure!(cut.is_empty(), "{cut:?}");

    mesh.start_on("node-1")?;
    for waited in waiting {
        ensure_tunnelled(&mesh, &waited.join()?.answered()?, "a")?;
    }
    ["OPEN", "THERE", "BACK", "WAITED"]
        .into_iter()
        .try_for_each(|secret| ensure_hidden(&mesh, &wire, "mesh/a", "mesh/b", secret))
}

/// Connections that are open after that are cut, and their lines give the reason.
fn the_deadline_of_a_drain(lab: &Lab) -> Result<()> {
    let mut mesh = up(lab, &["--drain", "1"])?;
    let out = Open::new(&mesh, "mesh/a", "mesh/b", Family::V6, 9000)?;
    let comes = Open::new(&mesh, "mesh/b", "mesh/a", Family::V4, 9000)?;
    ensure!(mesh.terminate("node-1")? == Exit::Code(0));
    out.ends_in_a_reset()?;
    comes.ends_in_a_reset()?;
    for direction in ["outbound", "inbound"] {
        mesh.logged("node-1", &[("direction", direction), ("reason", "drain")])?;
    }
    Ok(())
}

/// The second signal ends the drain before its deadline.
fn asked_twice_it_ends(lab: &Lab) -> Result<()> {
    const LONGER_THAN_THIS_TEST: &str = "3600";
    let mut mesh = up(lab, &["--drain", LONGER_THAN_THIS_TEST])?;
    for second in [Signal::SIGTERM, Signal::SIGINT] {
        let open = Open::new(&mesh, "mesh/a", "mesh/b", Family::V4, 9000)?;
        let lines = mesh.log("node-1")?.len();
        mesh.agent("node-1")?.signal(Signal::SIGTERM)?;
        mesh.agent("node-1")?.wait_for_log("draining")?;
        ensure!(mesh.agent("node-1")?.ended()?.is_none(), "one is enough");
        mesh.agent("node-1")?.signal(second)?;
        ensure!(mesh.agent("node-1")?.wait()? == Exit::Code(0));
        open.ends_in_a_reset()?;
        mesh.logged_after("node-1", lines, &[("reason", "drain")])?;
        mesh.start_on("node-1")?;
    }
    Ok(())
}

/// Runs the cleanup of node-1; what it says.
fn clean_up(mesh: &Mesh) -> Result<(Exit, String)> {
    clean_up_of(mesh, AgentVersion::This, "state")
}

/// The mesh's rules and routes in a pod's namespace.
fn traces(mesh: &Mesh, pod: &str) -> Result<String> {
    let site = mesh.bed.app(pod)?;
    let mut traces = String::new();
    for family in ["-4", "-6"] {
        let all = site.run("ip", &[family, "rule"])? + &site.run("ip", &[family, "route", "show", "table", "all"])?;
        traces.extend(all.lines().filter(|line| line.contains("1777")));
    }
    Ok(traces)
}

/// Everything goes, and nothing that was captured is on the wire on the way; it is refused while an agent runs, and does
/// nothing where nothing is.
fn cleaned_up(lab: &Lab) -> Result<()> {
    let mut mesh = up(lab, &[])?;
    let _server = servers::echo(&mesh.bed.app("mesh/b")?, any(PORT))?;
    let wire = mesh.bed.capture_wire("node-1")?;
    let mut open = Vec::new();
    for (port, family) in (9000..).zip(Family::ALL) {
        open.push(Open::new(&mesh, "mesh/a", "mesh/b", family, port)?);
    }
    for state in ["state", "another-state"] {
        let (exit, said) = clean_up_of(&mesh, AgentVersion::This, state)?;
        let lock = "underpass/locks/node-1";
        let refused = said.contains("another agent serves node node-1") && said.contains(lock);
        ensure!(exit == Exit::Code(1) && refused, "{exit}: {said}");
    }
    open.iter_mut().try_for_each(Open::goes_on)?;
    ensure!(!traces(&mesh, "mesh/a")?.is_empty() && !traces(&mesh, "mesh/a2")?.is_empty());

    mesh.kill("node-1")?;
    // These wait for the next agent, which never comes.
    let counts = Counts::read(&mesh, "node-1")?;
    let begin = |family: Family| {
        let dial = Dial::to(family.to(mesh.bed.pod("mesh/b")?, PORT)?).say("WAITED").patience(PATIENT);
        mesh.bed.app("mesh/a")?.begin(socket::dial, dial)
    };
    let waiting = Family::ALL.into_iter().map(begin).collect::<Result<Vec<_>>>()?;
    let held = || Ok(counts.since(&mesh, "node-1")?.of("guard:no-listener") >= 3);
    wait_until("guard to hold all three SYNs", held)?;
    let (exit, said) = clean_up(&mesh)?;
    ensure!(exit == Exit::Code(0) && said.contains("captured sockets of 2 pods"), "{exit}: {said}");
    for pod in ["mesh/a", "mesh/a2"] {
        ensure!(traces(&mesh, pod)?.is_empty(), "{pod}: {}", traces(&mesh, pod)?);
    }
    for left in [lab.pins("node-1"), lab.bpffs().join("underpass/locks/node-1")] {
        ensure!(!left.exists(), "{} is left", left.display());
    }
    // What was captured has ended, and what is still written to it goes nowhere.
    for waited in waiting {
        ensure!(!waited.join()?.failed()?.is_timeout(), "it still waits");
    }
    for Open { client, out, .. } in &mut open {
        wait_until("an error when writing", || Ok(client.send(*out, b"AFTERWARDS")?.is_err()))?;
    }
    // The twin: the pods are out of the mesh, and new connections are plaintext on the wire.
    for family in Family::ALL {
        mesh.call("mesh/a", Dial::to(family.to(mesh.bed.pod("mesh/b")?, PORT)?).say("IN-THE-CLEAR"))?.answered()?;
    }
    ensure!(wire.contains(b"IN-THE-CLEAR")?, "the capture sees nothing");
    for secret in ["OPEN", "THERE", "BACK", "WAITED", "AFTERWARDS"] {
        ensure!(!wire.contains(secret.as_bytes())?, "{secret} is on the wire");
    }
    let (exit, said) = clean_up(&mesh)?;
    ensure!(exit == Exit::Code(0) && said.contains("nothing to do"), "{exit}: {said}");
    // What another version left is named.
    let other = lab.bpffs().join("underpass/v999/node-1");
    fs::create_dir_all(&other)?;
    let (exit, said) = clean_up(&mesh)?;
    ensure!(exit == Exit::Code(1) && said.contains("v999/node-1: of another version"), "{exit}: {said}");
    fs::remove_dir_all(lab.bpffs().join("underpass/v999"))?;
    // And back into the mesh.
    mesh.start_on("node-1")?;
    let talk = mesh.call("mesh/a", Dial::to(Family::V6.to(mesh.bed.pod("mesh/b")?, PORT)?).say("AGAIN"))?.answered()?;
    ensure_tunnelled(&mesh, &talk, "a")
}

/// Killed twenty times, while pods are enrolled and released, and while one agent takes over from another: the next one always
/// finds its way, and nothing is ever in the clear.
fn killed_at_any_moment(lab: &Lab) -> Result<()> {
    const ROUNDS: usize = 20;
    const STAY: &str = "labels: {app: a2}";
    const LEAVE: &str = "labels: {app: a2, istio.io/dataplane-mode: none}";
    let mut mesh = up(lab, &["--release-drain", "1"])?;
    let wire = mesh.bed.capture_wire("node-1")?;
    let mut load = Load::begin(&mesh, lab)?;
    load.goes_on()?;
    for round in 0..ROUNDS {
        let said = match round % 5 {
            0 => "agent started",
            1 => "pod enrolled",
            2 => "pod release started",
            3 => "applied version",
            _ => "take-over started",
        };
        let world = mesh.manifest("world.yaml")?;
        match round % 5 {
            2 => mesh.write("world.yaml", Some(&world.replace(STAY, LEAVE)))?,
            // While none runs: the next one finds out.
            3 => {
                mesh.kill("node-1")?;
                mesh.write("world.yaml", Some(&world.replace(LEAVE, STAY)))?;
                mesh.launch("node-1")?;
            }
            4 => {
                let before = mesh.begin_taking_over("node-1")?;
                mesh.agent("node-1")?.wait_for_log(said)?;
                before.kill()?;
            }
            _ => {
                mesh.kill("node-1")?;
                mesh.launch("node-1")?;
            }
        }
        mesh.agent("node-1")?.wait_for_log(said).with_context(|| format!("round {round}"))?;
        ensure!(mesh.kill("node-1")? == Exit::Signal(9));
        mesh.start_on("node-1").with_context(|| format!("round {round}, after {said:?}"))?;
    }
    load.goes_on()?;
    let (answered, failed) = load.end()?;
    // A connect() of the pod that leaves waits for an agent, and until the time of its release is over.
    let is_over = |what: &str| what.starts_with("mesh/a2 connect: ECONNABORTED");
    ensure!(answered > 0 && failed.keys().all(|what| is_cut(what) || is_over(what)), "{failed:?}");
    ensure!(take_over::agents(&mesh)? == 1);
    let talk = mesh.call("mesh/a2", Dial::to(Family::V6.to(mesh.bed.pod("mesh/b")?, PORT)?).say("AGAIN"));
    ensure!(talk.is_ok());
    ensure_hidden(&mesh, &wire, "mesh/a", "mesh/b", "AGAIN")
}
