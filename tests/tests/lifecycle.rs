//! End to end: an agent's beginning and its end. It is asked to end and takes its time, or is taken over by another one, or
//! is killed whenever it is worst; and the node is cleaned up. Level kernel.
//!
//! What must hold: connections are counted, and each test has its twin in which some are lost, or wait.

mod support;

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use underpass_abi::Op;
use underpass_tests::{
    apps::{
        hammer::PATIENT,
        http, servers,
        socket::{self, Dial},
    },
    mesh::{AgentVersion, Mesh},
    testbed::{Exit, Lab, Program, Signal, describe::PodSpec, wait::wait_until},
};

use support::{
    Counts, Family, PORT, WORLD, any, clean_up_of, ensure_hidden, ensure_tunnelled,
    load::{Load, Open, is_cut},
    passing_pod, tables,
};

underpass_tests::scenarios! {
    asked_to_end_it_drains,
    the_deadline_of_a_drain,
    asked_twice_it_ends,
    taken_over_under_load,
    several_agents_drain_at_once,
    one_that_stays_waits_to_be_asked,
    a_second_agent_is_refused,
    as_in_a_container,
    successors_that_die,
    an_agent_that_dies_while_it_is_followed,
    cleaned_up,
    killed_at_any_moment,
    pods_that_come_and_go,
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

/// The answer of `underpass-agent probe ready` by this socket.
fn probe_says_ready(mesh: &Mesh, socket: &Path) -> Result<bool> {
    let program = Program::new(AgentVersion::This.program()?).args(["probe", "ready", "--socket"]).arg(socket);
    Ok(mesh.bed.node("node-1")?.service("probe")?.start(&program.named("probe"))?.wait()? == Exit::Code(0))
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

/// The cgroups that count as the agent.
fn agents(mesh: &Mesh) -> Result<usize> {
    let contents = tables(mesh, "node-1")?.contents()?;
    Ok(contents.iter().filter(|op| matches!(op, Op::SetAgent(_))).count())
}

/// No connection fails, in any direction; what is open goes on, judged, at the old one until it ends.
fn taken_over_under_load(lab: &Lab) -> Result<()> {
    let mut mesh = up(lab, &["--drain", "3600"])?;
    let wire = mesh.bed.capture_wire("node-1")?;
    let mut load = Load::begin(&mesh, lab)?;
    load.goes_on()?;
    // Forwards, backwards and forwards again, with as many workers as each likes.
    for (round, workers) in ["1", "3", "2"].into_iter().enumerate() {
        let mut open = Vec::new();
        for (port, family) in (9000..).zip(Family::ALL) {
            open.push(Open::new(&mesh, "mesh/a", "mesh/b", family, port)?);
            open.push(Open::new(&mesh, "mesh/b", "mesh/a", family, port)?);
        }
        let denied = Open::new(&mesh, "mesh/a2", "mesh/a", Family::V4, 9100)?;
        mesh.options(&["--drain", "3600", "--workers", workers]);
        let mut before = mesh.take_over("node-1").with_context(|| format!("round {round}"))?;
        ensure!(is_ready(&mesh, "node-1")? && agents(&mesh)? == 2, "{} agents", agents(&mesh)?);
        load.goes_on()?;
        open.iter_mut().try_for_each(Open::goes_on)?;
        // Both ends of this one are the old agent's: it judges by the new World.
        let lines = mesh.log("node-1")?.len();
        mesh.edit("deny.yaml", Some(DENY_A2_AT_A))?;
        denied.ends_in_a_reset()?;
        mesh.logged_after(
            "node-1",
            lines,
            &[("reason", "denied"), ("policy", "mesh/not-a2"), ("direction", "inbound")],
        )?;
        mesh.edit("deny.yaml", None)?;
        ensure!(before.ended()?.is_none(), "it has not waited for what is open");
        open.into_iter().try_for_each(Open::ends_in_order)?;
        ensure!(before.wait()? == Exit::Code(0), "{}", before.log()?);
        wait_until("one cgroup to count as the agent", || Ok(agents(&mesh)? == 1))?;
        load.goes_on()?;
    }
    let (answered, failed) = load.end()?;
    ensure!(answered > 60 && failed.is_empty(), "{answered} answered, {failed:?}");
    let cut: Vec<_> = mesh.log("node-1")?.into_iter().filter(|line| line["reason"] == "drain").collect();
    ensure!(cut.is_empty(), "{cut:?}");
    ensure!(wire.contains(b"OUTSIDE")?, "the capture sees nothing");
    for secret in ["HAMMERED", "OPEN", "THERE", "BACK"] {
        ensure_hidden(&mesh, &wire, "mesh/a", "mesh/b", secret)?;
    }
    Ok(())
}

/// Each keeps the connections that were opened through it until they end, in any order; the kernel knows all of them meanwhile.
fn several_agents_drain_at_once(lab: &Lab) -> Result<()> {
    let mut mesh = up(lab, &["--drain", "3600"])?;
    let mut load = Load::begin(&mesh, lab)?;
    let mut draining = Vec::new();
    for (round, port) in (9000..9003).enumerate() {
        load.goes_on()?;
        let open = [
            Open::new(&mesh, "mesh/a", "mesh/b", Family::V4, port)?,
            Open::new(&mesh, "mesh/b", "mesh/a", Family::V6, port)?,
        ];
        draining.push((mesh.take_over("node-1").with_context(|| format!("round {round}"))?, open));
        ensure!(agents(&mesh)? == round + 2, "{} agents in round {round}", agents(&mesh)?);
    }
    load.goes_on()?;
    // As many as the kernel knows.
    let serving = mesh.begin_taking_over("node-1")?;
    let mut refused = mesh.release("node-1")?;
    ensure!(
        refused.wait()? == Exit::Code(1) && refused.log()?.contains("3 predecessors still drain"),
        "{}",
        refused.log()?
    );
    mesh.adopt("node-1", serving);
    for (last, left) in [1, 0, 0].into_iter().zip([3, 2, 1]) {
        for (_, open) in &mut draining {
            open.iter_mut().try_for_each(Open::goes_on)?;
        }
        let (mut agent, open) = draining.remove(last);
        open.into_iter().try_for_each(Open::ends_in_order)?;
        ensure!(agent.wait()? == Exit::Code(0), "{}", agent.log()?);
        wait_until("the kernel to forget it", || Ok(agents(&mesh)? == left))?;
        load.goes_on()?;
    }
    let (answered, failed) = load.end()?;
    ensure!(answered > 60 && failed.is_empty(), "{answered} answered, {failed:?}");
    Ok(())
}

/// As in pods: what was taken over from does not end by itself, and a kubelet's request to end cuts nothing that drains.
fn one_that_stays_waits_to_be_asked(lab: &Lab) -> Result<()> {
    let [probe, earlier] = ["probe.sock", "earlier.sock"].map(|name| lab.directory().join(name));
    let option = probe.to_str().context("a path in UTF-8")?;
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    mesh.start_on("node-2")?;
    mesh.options(&["--drain", "3600", "--stay", "--probe-socket", option]);
    mesh.start_on("node-1")?;
    let _server = servers::echo(&mesh.bed.app("mesh/b")?, any(PORT))?;
    let mut open = Open::new(&mesh, "mesh/a", "mesh/b", Family::V4, 9000)?;
    fs::rename(&probe, &earlier)?; // the next agent's takes its place
    let mut first = mesh.take_over("node-1")?;
    // Its pod is deleted once the next one's is ready, and not because it is not ready itself.
    ensure!(probe_says_ready(&mesh, &earlier)? && probe_says_ready(&mesh, &probe)?, "{}", first.log()?);
    first.signal(Signal::SIGTERM)?;
    first.wait_for_log("asked to end, draining already")?;
    ensure!(!probe_says_ready(&mesh, &earlier)? && probe_says_ready(&mesh, &probe)?, "{}", first.log()?);
    open.goes_on()?;
    ensure!(first.ended()?.is_none(), "{}", first.log()?);
    open.ends_in_order()?;
    ensure!(first.wait()? == Exit::Code(0) && !first.log()?.contains("staying"), "{}", first.log()?);

    fs::rename(&probe, &earlier)?;
    let mut second = mesh.take_over("node-1")?;
    second.wait_for_log("staying")?;
    ensure!(probe_says_ready(&mesh, &earlier)? && probe_says_ready(&mesh, &probe)?, "{}", second.log()?);
    let dial = Dial::to(Family::V6.to(mesh.bed.pod("mesh/b")?, PORT)?).say("SERVED");
    ensure_tunnelled(&mesh, &mesh.call("mesh/a", dial)?.answered()?, "a")?;
    ensure!(is_ready(&mesh, "node-1")? && second.ended()?.is_none(), "{}", second.log()?);
    second.signal(Signal::SIGTERM)?;
    ensure!(second.wait()? == Exit::Code(0), "{}", second.log()?);
    wait_until("one cgroup to count as the agent", || Ok(agents(&mesh)? == 1))?;
    Ok(())
}

/// DENY for a2 at a.
const DENY_A2_AT_A: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-a2, namespace: mesh}
spec:
  selector: {matchLabels: {app: a}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/mesh/sa/a2]}}]}]
";

/// Without being told to take over, the second one says who is there, and changes nothing.
fn a_second_agent_is_refused(lab: &Lab) -> Result<()> {
    let mut mesh = up(lab, &[])?;
    let mut load = Load::begin(&mesh, lab)?;
    load.goes_on()?;
    let mut first = mesh.release("node-1")?;
    mesh.launch("node-1")?;
    let mut second = mesh.release("node-1")?;
    ensure!(second.wait()? == Exit::Code(1));
    let said = second.log()?;
    ensure!(said.contains("another agent serves node node-1") && said.contains("--take-over"), "{said}");
    load.goes_on()?;
    let (_, failed) = load.end()?;
    ensure!(failed.is_empty() && first.ended()?.is_none(), "{failed:?}");
    Ok(())
}

/// A shell's words before a program that is started as a runtime starts the chart's agent: with a cgroup namespace of its own, and
/// settings of the kernel that cannot be written.
const CONTAINER: &str = "mount -o bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && \
    ! (: > /proc/sys/net/ipv4/ip_forward) 2> /dev/null && grep -qx 0::/ /proc/self/cgroup && exec \"$@\"";

/// A program of util-linux by its whole path: a shell may have one of its own with fewer options.
fn util_linux(name: &str) -> Result<String> {
    let folders = std::env::var("PATH")?;
    let found = folders.split(':').map(|folder| format!("{folder}/{name}")).find(|path| fs::metadata(path).is_ok());
    found.with_context(|| format!("no {name} in {folders}"))
}

/// The capabilities of the chart are enough, and what else a container takes from an agent it sees to itself.
fn as_in_a_container(lab: &Lab) -> Result<()> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    let (unshare, setpriv) = (util_linux("unshare")?, util_linux("setpriv")?);
    let with = |mesh: &mut Mesh, capabilities: &str| {
        let inside = [&*unshare, "--cgroup", "--mount", "--propagation", "private", "--", "sh", "-c", CONTAINER, "sh"];
        let bounded = format!("-all,{capabilities}");
        mesh.within(&[&inside[..], &[&setpriv, "--inh-caps", "-all", "--bounding-set", &bounded, "--"]].concat());
    };
    with(&mut mesh, "+sys_admin");
    mesh.launch("node-1")?;
    let mut refused = mesh.release("node-1")?;
    ensure!(refused.wait()? == Exit::Code(1), "{}", refused.log()?);
    ensure!(refused.log()?.contains("CAP_NET_ADMIN"), "{}", refused.log()?);

    with(&mut mesh, "+sys_admin,+net_admin,+sys_ptrace");
    mesh.start()?;
    let mut load = Load::begin(&mesh, lab)?;
    load.goes_on()?;
    for family in Family::ALL {
        let dial = Dial::to(family.to(mesh.bed.pod("mesh/b")?, PORT)?).say("CONTAINED");
        ensure_tunnelled(&mesh, &mesh.call("mesh/a", dial)?.answered()?, "a")?;
    }
    let mut before = mesh.take_over("node-1")?;
    load.goes_on()?;
    ensure!(before.wait()? == Exit::Code(0), "{}", before.log()?);
    let (_, failed) = load.end()?;
    ensure!(failed.is_empty(), "{failed:?}");
    let capabilities = fs::read_to_string(format!("/proc/{}/status", mesh.agent("node-1")?.pid()))?;
    ensure!(capabilities.contains("CapEff:\t0000000000281000"), "{capabilities}");
    Ok(())
}

/// A pod comes, is served, and is judged by what holds now; then it goes.
fn ensure_whole(mesh: &mut Mesh, round: usize) -> Result<()> {
    let listeners = |mesh: &Mesh| -> Result<usize> { Ok(tables(mesh, "node-1")?.listeners()?.len()) };
    let before = listeners(mesh)?;
    ensure!(before == 4, "{before} listeners of a and a2");
    let (spec, text) = passing_pod(round, 0, "ambient")?;
    mesh.bed.add_pods(std::slice::from_ref(&spec))?;
    mesh.write("passing.yaml", Some(&text))?;
    wait_until("the pod to be enrolled", || Ok(listeners(mesh)? == before + 2))?;
    let name = spec.full_name();
    for family in Family::ALL {
        let dial = || Ok::<_, anyhow::Error>(Dial::to(family.to(mesh.bed.pod("mesh/b")?, PORT)?).say("PASSING"));
        mesh.call(&name, dial()?)?.answered()?;
        for pod in ["mesh/a", "mesh/a2"] {
            mesh.call(pod, dial()?)?.answered()?;
        }
    }
    mesh.write("deny.yaml", Some(&DENY_A2_AT_A.replace("/a2]", "/p0]")))?;
    let to_a = || Ok::<_, anyhow::Error>(Dial::to(Family::V6.to(mesh.bed.pod("mesh/a")?, PORT)?).say("DENIED"));
    wait_until("the new policy to hold", || Ok(mesh.call(&name, to_a()?)?.answered().is_err()))?;
    mesh.call("mesh/a2", to_a()?)?.answered()?;
    mesh.write("deny.yaml", None)?;
    wait_until("no policy to hold", || Ok(mesh.call(&name, to_a()?)?.answered().is_ok()))?;
    mesh.bed.remove_pod(&name)?;
    mesh.write("passing.yaml", None)?;
    wait_until("the pod to be purged", || Ok(listeners(mesh)? == before))
}

/// A successor that dies, or is asked to end, before it serves leaves everything as it was; the next one takes over.
fn successors_that_die(lab: &Lab) -> Result<()> {
    let mut mesh = up(lab, &[])?;
    let mut load = Load::begin(&mesh, lab)?;
    let mut died_in_time = 0;
    let stages = ["take-over started", "agent started", "pod enrolled"];
    let rounds = [Signal::SIGKILL, Signal::SIGTERM].into_iter().flat_map(|signal| stages.map(|said| (said, signal)));
    for (round, (said, signal)) in rounds.enumerate() {
        load.goes_on()?;
        let mut before = mesh.begin_taking_over("node-1")?;
        mesh.agent("node-1")?.wait_for_log(said)?;
        match signal {
            Signal::SIGTERM => mesh.terminate("node-1")?,
            _ => mesh.kill("node-1")?,
        };
        let outcome = |log: &str| log.contains("hand-over failed, resuming") || log.contains("hand-over complete");
        wait_until("the agent before to notice", || Ok(outcome(&before.log()?) || before.ended()?.is_some()))?;
        if before.log()?.contains("hand-over complete") {
            // It was quicker than we: then there is none, and the next one finds what is pinned.
            before.wait()?;
            mesh.start_on("node-1")?;
        } else {
            died_in_time += 1;
            mesh.adopt("node-1", before);
            // Where it always was: no other agent's socket is in its place.
            mesh.underpass("node-1", &["status"]).context("the admin socket of the agent before")?;
        }
        ensure_whole(&mut mesh, round).with_context(|| format!("after {signal} at {said:?}"))?;
    }
    ensure!(died_in_time > 0, "every one was quicker");
    load.goes_on()?;
    mesh.take_over("node-1")?.wait()?;
    load.goes_on()?;
    let (_, failed) = load.end()?;
    // Those that the dead ones had accepted are cut; no connection is refused or left waiting.
    ensure!(failed.keys().all(|what| is_cut(what)), "{failed:?}");
    wait_until("one cgroup to count as the agent", || Ok(agents(&mesh)? == 1))
}

/// Its successor is the agent at once.
fn an_agent_that_dies_while_it_is_followed(lab: &Lab) -> Result<()> {
    let mut mesh = up(lab, &[])?;
    let mut load = Load::begin(&mesh, lab)?;
    for _ in 0..3 {
        load.goes_on()?;
        let before = mesh.begin_taking_over("node-1")?;
        mesh.agent("node-1")?.wait_for_log("take-over started")?;
        ensure!(before.kill()? == Exit::Signal(9));
        mesh.agent("node-1")?.wait_for_log("take-over complete")?;
        load.goes_on()?;
    }
    let (_, failed) = load.end()?;
    ensure!(failed.keys().all(|what| is_cut(what)), "{failed:?}");
    wait_until("one cgroup to count as the agent", || Ok(agents(&mesh)? == 1))
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
    ensure!(agents(&mesh)? == 1);
    let talk = mesh.call("mesh/a2", Dial::to(Family::V6.to(mesh.bed.pod("mesh/b")?, PORT)?).say("AGAIN"));
    ensure!(talk.is_ok());
    ensure_hidden(&mesh, &wire, "mesh/a", "mesh/b", "AGAIN")
}

/// The resources of an agent and the kernel for pods.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Census {
    pins: usize,
    entries: usize,
    listeners: usize,
    attested: usize,
    /// But those of tunnels, which close when they have been idle for minutes.
    descriptors: usize,
    /// But those that write answers of the admin API, which end when they have been idle for seconds.
    threads: usize,
    certificates: usize,
    devices: usize,
}

impl Census {
    fn take(mesh: &mut Mesh) -> Result<Self> {
        let pid = mesh.agent("node-1")?.pid();
        let count = |path: &str| -> Result<usize> { Ok(fs::read_dir(path).with_context(|| path.to_owned())?.count()) };
        let kernel = tables(mesh, "node-1")?;
        let dump = mesh.admin("node-1", "/config_dump")?;
        Ok(Self {
            pins: kernel.pods()?.len(),
            entries: kernel.contents()?.len(),
            listeners: kernel.listeners()?.len(),
            attested: kernel.attested()?,
            descriptors: count(&format!("/proc/{pid}/fd"))?.saturating_sub(tunnels(mesh, "node-1")?),
            threads: threads(pid)?,
            certificates: dump["certificates"].as_array().map_or(0, Vec::len),
            devices: mesh.bed.node("node-1")?.shell()?.run("ip", &["-o", "link"])?.lines().count(),
        })
    }

    /// Nothing here is more than there.
    fn is_within(&self, other: &Self) -> bool {
        let counts = |c: &Self| {
            [c.pins, c.entries, c.listeners, c.attested, c.descriptors, c.threads, c.certificates, c.devices]
        };
        counts(self).into_iter().zip(counts(other)).all(|(here, there)| here <= there)
    }
}

/// The number of threads of a process that are not of its runtime's pool.
fn threads(pid: i32) -> Result<usize> {
    let folder = format!("/proc/{pid}/task");
    let all = fs::read_dir(&folder).with_context(|| folder.clone())?;
    // One that ends meanwhile is none.
    let names = all.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    Ok(names.filter(|name| name.trim_end() != "tokio-rt-worker").count())
}

/// The number of open tunnels of a node's agent, in both directions.
fn tunnels(mesh: &Mesh, node: &str) -> Result<usize> {
    let text = mesh.bed.node(node)?.shell()?.act(http::fetch, "http://127.0.0.1:15020/metrics".to_owned())?;
    let open = text.lines().filter(|line| line.starts_with("underpass_tunnels_open{"));
    open.map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse::<usize>()?)).sum()
}

/// By the hundred, with connections: by the end of their sandboxes, and by leaving the mesh first. Nothing is left of them.
fn pods_that_come_and_go(lab: &Lab) -> Result<()> {
    const ROUNDS: usize = 8;
    const PODS: usize = 25;
    let mut mesh = up(lab, &["--release-drain", "1"])?;
    let mut load = Load::begin(&mesh, lab)?;
    load.goes_on()?;
    load.end()?;
    let before = Census::take(&mut mesh)?;
    let mut load = Load::begin(&mesh, lab)?;
    for round in 0..ROUNDS {
        let of = |mode: &str| (0..PODS).map(|i| passing_pod(round, i, mode)).collect::<Result<Vec<_>>>();
        let text = |pods: &[(PodSpec, String)]| pods.iter().map(|(_, text)| text.as_str()).collect::<String>();
        let pods = of("ambient")?;
        let specs: Vec<PodSpec> = pods.iter().map(|(spec, _)| spec.clone()).collect();
        mesh.bed.add_pods(&specs)?;
        mesh.edit("passing.yaml", Some(&text(&pods)))?;
        let pinned = |mesh: &Mesh| -> Result<usize> { Ok(tables(mesh, "node-1")?.listeners()?.len()) };
        wait_until("all to be enrolled", || Ok(pinned(&mesh)? == before.listeners + 2 * PODS))?;
        let names: Vec<String> = specs.iter().map(PodSpec::full_name).collect();
        for (name, family) in names.iter().zip(Family::ALL) {
            let talk =
                mesh.call(name, Dial::to(family.to(mesh.bed.pod("mesh/b")?, PORT)?).say("PASSING"))?.answered()?;
            ensure!(talk.who()?.peer.ip() == talk.local.ip().to_canonical(), "{name}: {talk:?}");
        }
        let during = Census::take(&mut mesh)?;
        ensure!(!during.is_within(&before) && during.certificates > before.certificates, "{during:?}");
        if round % 2 == 0 {
            mesh.edit("passing.yaml", Some(&text(&of("none")?)))?;
            wait_until("all to be released", || Ok(pinned(&mesh)? == before.listeners))?;
        }
        names.iter().try_for_each(|name| mesh.bed.remove_pod(name))?;
        mesh.edit("passing.yaml", None)?;
        load.goes_on()?;
    }
    let (answered, failed) = load.end()?;
    ensure!(answered > 0 && failed.is_empty(), "others noticed: {failed:?}");
    let mut now = before.clone();
    wait_until("everything to be as before", || {
        now = Census::take(&mut mesh)?;
        Ok(now.is_within(&before))
    })
    .with_context(|| format!("before {before:?}, now {now:?}"))?;
    println!("before {before:?}, after {now:?}");
    Ok(())
}
