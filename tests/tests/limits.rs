//! Limits, fairness and volume. Level kernel: needs root, the kernel programs and the agent. Every request of the clients
//! that keep to their share is counted, and none of them fails beside clients that do not.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use underpass_tests::{
    apps::{
        crowd::Caller,
        load::{self, Load, OpenConnections, Outcome},
        remote::Sockets,
        socket::{Dial, Opt},
    },
    mesh::Mesh,
    testbed::{
        Lab,
        harness::{self, Scenario},
        wait::wait_until,
    },
};

/// mesh/a and mesh/a2 on node-1, mesh/b and mesh/b2 on node-2 are in the mesh; out/o1 and out/o2 are not.
const WORLD: &str = include_str!("manifests/two-nodes.yaml");
const PORT: u16 = 8080;
/// The port of the applications that answer load.
const LOAD: u16 = 9000;

fn main() -> ExitCode {
    harness::main(&[
        Scenario::new("one_pod_wants_everything", one_pod_wants_everything),
        Scenario::new("one_pod_stalls_a_thousand_streams", one_pod_stalls_a_thousand_streams),
        Scenario::new("out_of_descriptors", out_of_descriptors),
        Scenario::new("peers_without_a_handshake", peers_without_a_handshake),
        Scenario::new("ten_thousand_idle", ten_thousand_idle).lasting(2),
        Scenario::new("a_thousand_at_once", a_thousand_at_once),
        Scenario::new("in_sequence_to_one", in_sequence_to_one).lasting(4),
        Scenario::new("in_sequence_to_many", in_sequence_to_many).lasting(4),
    ])
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from(([0; 16], port))
}

/// The mesh, whose agents have one worker, so that all pods of a node share it.
fn mesh(lab: &Lab, set: impl FnOnce(&mut Mesh)) -> Result<Mesh> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    set(&mut mesh);
    mesh.start()?;
    Ok(mesh)
}

fn one_worker(more: &[&str]) -> impl FnOnce(&mut Mesh) {
    let options: Vec<String> = ["--workers", "1"].iter().chain(more).map(ToString::to_string).collect();
    move |mesh| mesh.options(&options.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A pod's share, in the words of its node's agent.
fn part(mesh: &Mesh, node: &str, pod: &str, what: &str) -> Result<u64> {
    let limits = mesh.admin(node, "/limits")?;
    let found = what.split('.').fold(&limits["pods"][pod], |value, key| &value[key]);
    found.as_u64().with_context(|| format!("no {what} of {pod} in {limits}"))
}

/// Resident memory of a process, in bytes.
fn resident(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.split_ascii_whitespace().next().context("a number")?.parse()?;
    Ok(kib << 10)
}

fn none_failed(what: &str, outcome: &Outcome, count: usize) -> Result<()> {
    ensure!(outcome.failed == 0 && outcome.answered == count, "{what}: {outcome:?}");
    Ok(())
}

/// Calls until the end of the test, and none of the calls fails.
fn caller(mesh: &Mesh, pod: &str, to: SocketAddr) -> Result<Caller> {
    Caller::start(&mesh.bed.app(pod)?, Dial::to(to))
}

fn all_answered(caller: &mut Caller, at_least: usize) -> Result<()> {
    let seen = caller.stop()?;
    println!("{} calls beside it", seen.answered);
    ensure!(seen.failed.is_empty() && seen.answered >= at_least, "{} answered, {:?}", seen.answered, seen.failed);
    Ok(())
}

/// Opens connections until no more are accepted. The others are served, the agent is in control, and what it waits for
/// comes when something ends.
fn one_pod_wants_everything(lab: &Lab) -> Result<()> {
    let mut mesh = mesh(lab, |mesh| {
        one_worker(&[])(mesh);
        mesh.files(600);
    })?;
    let _servers = mesh.echo(&["mesh/b", "mesh/a2", "mesh/b2"], PORT)?;
    for (ipv4, greedy, victim) in [(true, "mesh/a", "mesh/a2"), (false, "mesh/a", "mesh/a2")] {
        let mut beside = caller(&mesh, victim, mesh.at("mesh/b2", ipv4, PORT)?)?;
        beside.wait_for_calls(5)?;
        let before = part(&mesh, "node-1", greedy, "pauses")?;
        let mut wants = Caller::keeping(&mesh.bed.app(greedy)?, Dial::to(mesh.at("mesh/b", ipv4, PORT)?), 2000)?;
        wait_until("accepting to pause", || Ok(part(&mesh, "node-1", greedy, "pauses")? > before))?;
        // As many again for the others, of both families, while it goes on trying.
        beside.wait_for_calls(50)?;
        for server in ["mesh/b2", "mesh/a2"] {
            let dial = Dial::to(mesh.at(server, !ipv4, PORT)?);
            mesh.call(if server == victim { "mesh/b2" } else { victim }, dial)?.answered().context(server)?;
        }
        all_answered(&mut beside, 50)?;
        // In control: what is denied is closed.
        let open = wants.seen()?.open;
        ensure!(open > 50, "{open} connections are all it got");
        let limits = mesh.admin("node-1", "/limits")?;
        println!("{open} open; {limits}");
        ensure!(limits["sockets"]["used"].as_u64() < limits["sockets"]["allowed"].as_u64(), "{limits}");
        if ipv4 {
            // Its next one is accepted when one ends: all of them do.
            drop(wants);
            wait_until("room", || Ok(mesh.connections("node-1", &[])?.is_empty()))?;
            mesh.call(greedy, Dial::to(mesh.at("mesh/b", ipv4, PORT)?))?.answered().context("when there is room")?;
        } else {
            mesh.edit("deny.yaml", Some(DENY))?;
            wait_until("all of them to be closed", || Ok(mesh.connections("node-2", &[])?.is_empty()))?;
        }
    }
    Ok(())
}

/// Refuses every connection to b.
const DENY: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: mesh}
spec:
  selector: {matchLabels: {app: b}}
  action: DENY
  rules: [{}]
";

fn one_pod_stalls_a_thousand_streams(lab: &Lab) -> Result<()> {
    const STREAMS: usize = 1000;
    const MEMORY_MIB: u64 = 16;
    const UNREAD: u16 = 9100;
    let mut mesh = mesh(lab, one_worker(&["--pod-memory", "16", "--node-memory", "64"]))?;
    let _servers = mesh.echo(&["mesh/b", "mesh/b2", "mesh/a2"], PORT)?;
    let mut unread = Sockets::start(&mesh.bed.app("mesh/b")?)?;
    unread.try_listen(any(UNREAD), &[Opt::ReceiveBuffer(4096)])?.map_err(|e| anyhow::anyhow!("{e}"))?;
    let pids = [mesh.agent("node-1")?.pid(), mesh.agent("node-2")?.pid()];
    let before = [resident(pids[0])?, resident(pids[1])?];
    let mut beside = caller(&mesh, "mesh/a2", mesh.at("mesh/b2", true, PORT)?)?;
    let mut other = caller(&mesh, "mesh/a2", mesh.at("mesh/b2", false, PORT)?)?;
    let to = vec![mesh.at("mesh/b", true, UNREAD)?];
    let load = Load { to, count: STREAMS, at_once: 1, server_ends: false };
    let reset = mesh.bed.app("mesh/a")?.act(load::stall, load)?;
    beside.wait_for_calls(20)?;
    all_answered(&mut beside, 20)?;
    all_answered(&mut other, 20)?;
    // The pod itself is still served as well.
    mesh.call("mesh/a", Dial::to(mesh.at("mesh/b", false, PORT)?))?.answered().context("beside its own")?;
    let given_up = part(&mesh, "node-2", "mesh/b", "given_up")?;
    println!("{reset} of {STREAMS} were reset, {given_up} for want of memory");
    ensure!(given_up > 0 && reset > 0, "{STREAMS} stalled streams fit into {MEMORY_MIB} MiB");
    ensure!(part(&mesh, "node-2", "mesh/b2", "given_up")? == 0, "a stream of another pod was given up");
    for (pid, before) in pids.into_iter().zip(before) {
        let now = resident(pid)?;
        println!("agent: {} MiB before, {} MiB now", before >> 20, now >> 20);
        // The budget, and as much again for what a thousand connections cost by themselves and what the allocator keeps.
        ensure!(now < before + ((4 * MEMORY_MIB) << 20), "{before} before, {now} now");
    }
    Ok(())
}

/// The process has no descriptor left, in spite of its budgets. Open connections are served; accepting pauses and costs
/// next to nothing, and goes on when there are descriptors again.
fn out_of_descriptors(lab: &Lab) -> Result<()> {
    let mut mesh = mesh(lab, one_worker(&[]))?;
    let _server = load::serve(&mesh.bed.app("mesh/b")?, &[any(LOAD)])?;
    let to = vec![mesh.at("mesh/b", true, LOAD)?];
    let (mut held, outcome) = OpenConnections::start(
        &mesh.bed.app("mesh/a")?,
        Load { to: to.clone(), count: 20, at_once: 1, server_ends: false },
    )?;
    none_failed("opening", &outcome, 20)?;
    let agent = mesh.agent("node-1")?;
    let (pid, log) = (agent.pid(), agent.log_path().to_owned());
    let limit = |files: u64| {
        let (pid, files) = (pid.to_string(), format!("--nofile={files}:20000"));
        mesh.bed.node("node-1")?.shell()?.run("prlimit", &["--pid", &pid, &files])
    };
    limit(3)?;
    // Their connects succeed in the backlog, and wait.
    let waiting = Load { to, count: 5, at_once: 5, server_ends: true };
    let waiting = mesh.bed.app("mesh/a2")?.begin(load::in_sequence, waiting)?;
    let pauses = || Ok::<_, anyhow::Error>(fs::read_to_string(&log)?.matches("accepting paused").count());
    wait_until("accepting to pause", || Ok(pauses()? > 0))?;
    none_failed("meanwhile", &held.ask()?, 20)?;
    // Neither the thread that accepts, nor the one that looks after the pods, spins meanwhile.
    let (worker, pods) = (thread(pid, "worker-0")?, thread(pid, "pods")?);
    let (since, woken) = (Instant::now(), wakes(&worker)?);
    let before = [cpu_ticks(&worker)?, cpu_ticks(&pods)?];
    wait_until("it to look again", || Ok(wakes(&worker)? > woken + 5))?;
    for (thread, before) in [&worker, &pods].into_iter().zip(before) {
        let spent = cpu_ticks(thread)? - before;
        ensure!(spent < 50, "{}: {spent} ticks of CPU in {:?}", thread.display(), since.elapsed());
    }
    limit(20_000)?;
    none_failed("those that waited", &waiting.join()?, 5)?;
    none_failed("at the end", &held.ask()?, 20)?;
    // Every one of them is counted, and one is said.
    let (counted, said) = (part(&mesh, "node-1", "mesh/a2", "pauses")?, pauses()?);
    ensure!(counted > said as u64, "{counted} pauses, {said} lines");
    Ok(())
}

/// User and system time that a thread in /proc has had, in ticks of 10 ms.
fn cpu_ticks(thread: &Path) -> Result<u64> {
    let stat = fs::read_to_string(thread.join("stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("a name in stat")?;
    let field = |n: usize| fields.split_ascii_whitespace().nth(n).and_then(|v| v.parse::<u64>().ok()).context("ticks");
    Ok(field(11)? + field(12)?)
}

/// The number of sleeps of a thread: a pause of accepting is one.
fn wakes(thread: &Path) -> Result<u64> {
    let status = fs::read_to_string(thread.join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    Ok(line.context("voluntary_ctxt_switches")?.trim().parse()?)
}

/// The thread of this name, in /proc.
fn thread(pid: i32, name: &str) -> Result<PathBuf> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.trim_end() == name {
            return Ok(task);
        }
    }
    bail!("no thread {name} in process {pid}")
}

/// A client opens connections to port 15008 and sends nothing. Peers with a certificate are served.
fn peers_without_a_handshake(lab: &Lab) -> Result<()> {
    const SOCKETS: usize = 600;
    let mesh = mesh(lab, one_worker(&[]))?;
    let _servers = mesh.echo(&["mesh/b"], PORT)?;
    for ipv4 in [true, false] {
        let mut silent = Sockets::start(&mesh.bed.app("out/o2")?)?;
        let to = mesh.at("mesh/b", ipv4, 15008)?;
        let ids = (0..SOCKETS).map(|_| silent.connect(to)).collect::<Result<Vec<_>>>()?;
        for id in ids.iter().rev().take(100) {
            // Those that are left: the beginning of a record.
            let _ = silent.send(*id, &[22, 3, 1])?;
        }
        // A tunnel that is new for certain: a2 has none to b yet in this family.
        mesh.call("mesh/a2", Dial::to(mesh.at("mesh/b", ipv4, PORT)?))?
            .answered()
            .context("beside 600 who say nothing")?;
        mesh.logged("node-2", &[("reason", "limit"), ("direction", "inbound")])?;
        silent.kill()?;
    }
    Ok(())
}

fn ten_thousand_idle(lab: &Lab) -> Result<()> {
    const COUNT: usize = 10_000;
    let mut mesh = mesh(lab, one_worker(&[]))?;
    let _server = load::serve(&mesh.bed.app("mesh/b")?, &[any(LOAD), any(LOAD + 1)])?;
    let pids = [mesh.agent("node-1")?.pid(), mesh.agent("node-2")?.pid()];
    let to = both(&mesh, "mesh/b", &[LOAD])?;
    // One, so that what comes once is not counted as what ten thousand cost.
    let one = Load { to: to.clone(), count: 1, at_once: 1, server_ends: true };
    none_failed("the first", &mesh.bed.app("mesh/a")?.act(load::in_sequence, one)?, 1)?;
    let before = [resident(pids[0])?, resident(pids[1])?];
    let started = Instant::now();
    let load = Load { to, count: COUNT, at_once: 4, server_ends: false };
    let (mut held, outcome) = OpenConnections::start(&mesh.bed.app("mesh/a")?, load)?;
    none_failed("opening", &outcome, COUNT)?;
    let used = |node, pod| part(&mesh, node, pod, "sockets.used");
    ensure!(used("node-1", "mesh/a")? > COUNT as u64 && used("node-2", "mesh/b")? > COUNT as u64);
    println!("{COUNT} opened in {:?}", started.elapsed());
    for (pid, before) in pids.into_iter().zip(before) {
        let each = resident(pid)?.saturating_sub(before) / COUNT as u64;
        println!("agent: {each} bytes of memory for each of {COUNT} idle connections");
        ensure!(each < 16 << 10, "{each} bytes for each");
    }
    none_failed("asked again", &held.ask()?, COUNT)?;
    // And everything goes with them.
    drop(held);
    wait_until("the sockets to be closed", || Ok(used("node-2", "mesh/b")? < 300 && used("node-1", "mesh/a")? < 300))?;
    Ok(())
}

fn a_thousand_at_once(lab: &Lab) -> Result<()> {
    const COUNT: usize = 1000;
    const ROUNDS: usize = 20;
    let mesh = mesh(lab, |_| {})?;
    let _server = load::serve(&mesh.bed.app("mesh/b")?, &[any(LOAD)])?;
    let load = Load { to: both(&mesh, "mesh/b", &[LOAD])?, count: COUNT, at_once: 250, server_ends: false };
    let started = Instant::now();
    let (mut held, outcome) = OpenConnections::start(&mesh.bed.app("mesh/a")?, load)?;
    none_failed("opening", &outcome, COUNT)?;
    println!("{COUNT} opened in {:?}", started.elapsed());
    let started = Instant::now();
    for _ in 0..ROUNDS {
        none_failed("a round", &held.ask()?, COUNT)?;
    }
    println!("{ROUNDS} rounds over {COUNT} in {:?}", started.elapsed());
    Ok(())
}

/// A pod's addresses of both families, with each of these ports.
fn both(mesh: &Mesh, pod: &str, ports: &[u16]) -> Result<Vec<SocketAddr>> {
    let families = ports.iter().flat_map(|port| [true, false].map(|ipv4| mesh.at(pod, ipv4, *port)));
    families.collect()
}

fn in_sequence(mesh: &Mesh, load: Load) -> Result<()> {
    let (count, started) = (load.count, Instant::now());
    let destinations = load.to.len();
    let outcome = mesh.bed.app("mesh/a")?.act(load::in_sequence, load)?;
    let took = started.elapsed();
    println!("{count} to {destinations} in {took:?}: {:.0} a second", count as f64 / took.as_secs_f64());
    none_failed("in sequence", &outcome, count)?;
    for node in ["node-1", "node-2"] {
        wait_until("an empty list", || Ok(mesh.connections(node, &[])?.is_empty()))?;
    }
    Ok(())
}

/// More connections than there are ports, one after another to the same address and port.
fn in_sequence_to_one(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab, |_| {})?;
    let _server = load::serve(&mesh.bed.app("mesh/b")?, &[any(LOAD)])?;
    let to = vec![mesh.at("mesh/b", true, LOAD)?];
    in_sequence(&mesh, Load { to, count: 100_000, at_once: 8, server_ends: true })
}

/// The same to many, on the same node and on another, where the client is the first to end.
fn in_sequence_to_many(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab, |_| {})?;
    let ports: Vec<u16> = (LOAD..LOAD + 10).collect();
    let listen: Vec<_> = ports.iter().map(|port| any(*port)).collect();
    let pods = ["mesh/b", "mesh/b2", "mesh/a2"];
    let _servers = pods.map(|pod| mesh.bed.app(pod).and_then(|app| load::serve(&app, &listen)));
    let to = pods.iter().map(|pod| both(&mesh, pod, &ports)).collect::<Result<Vec<_>>>()?.concat();
    in_sequence(&mesh, Load { to, count: 100_000, at_once: 8, server_ends: false })
}
