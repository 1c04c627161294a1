//! Another agent takes over from the one that runs, and either of them may die.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use underpass_abi::Op;
use underpass_tests::{
    apps::{servers, socket::Dial},
    mesh::{AgentVersion, Mesh},
    testbed::{Exit, Lab, Program, Signal, wait::wait_until},
};

use super::{
    is_ready,
    support::{
        Family, PORT, WORLD, any, ensure_hidden, ensure_tunnelled,
        load::{Load, Open, is_cut},
        passing_pod, tables,
    },
    up,
};

/// The answer of `underpass-agent probe ready` by this socket.
fn probe_says_ready(mesh: &Mesh, socket: &Path) -> Result<bool> {
    let program = Program::new(AgentVersion::This.program()?).args(["probe", "ready", "--socket"]).arg(socket);
    Ok(mesh.bed.node("node-1")?.service("probe")?.start(&program.named("probe"))?.wait()? == Exit::Code(0))
}

/// The cgroups that count as the agent.
pub(crate) fn agents(mesh: &Mesh) -> Result<usize> {
    let contents = tables(mesh, "node-1")?.contents()?;
    Ok(contents.iter().filter(|op| matches!(op, Op::SetAgent(_))).count())
}

/// No connection fails, in any direction; what is open goes on, judged, at the old one until it ends.
pub(crate) fn taken_over_under_load(lab: &Lab) -> Result<()> {
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
pub(crate) fn several_agents_drain_at_once(lab: &Lab) -> Result<()> {
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
pub(crate) fn one_that_stays_waits_to_be_asked(lab: &Lab) -> Result<()> {
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
pub(crate) fn a_second_agent_is_refused(lab: &Lab) -> Result<()> {
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
pub(crate) fn as_in_a_container(lab: &Lab) -> Result<()> {
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
pub(crate) fn ensure_whole(mesh: &mut Mesh, round: usize) -> Result<()> {
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

/// The hand-overs that an agent has ended, by its log.
fn outcomes(log: &str) -> usize {
    log.matches("hand-over failed, resuming").count() + log.matches("hand-over complete").count()
}

/// A successor that dies, or is asked to end, before it serves leaves everything as it was; the next one takes over.
pub(crate) fn successors_that_die(lab: &Lab) -> Result<()> {
    let mut mesh = up(lab, &[])?;
    let mut load = Load::begin(&mesh, lab)?;
    let mut died_in_time = 0;
    let stages = ["take-over started", "agent started", "pod enrolled"];
    let rounds = [Signal::SIGKILL, Signal::SIGTERM].into_iter().flat_map(|signal| stages.map(|said| (said, signal)));
    for (round, (said, signal)) in rounds.enumerate() {
        load.goes_on()?;
        let mut before = mesh.begin_taking_over("node-1")?;
        // Of earlier rounds, whose agent it was as well.
        let known = outcomes(&before.log()?);
        mesh.agent("node-1")?.wait_for_log(said)?;
        match signal {
            Signal::SIGTERM => mesh.terminate("node-1")?,
            _ => mesh.kill("node-1")?,
        };
        wait_until("the agent before to notice", || Ok(outcomes(&before.log()?) > known || before.ended()?.is_some()))?;
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
pub(crate) fn an_agent_that_dies_while_it_is_followed(lab: &Lab) -> Result<()> {
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
