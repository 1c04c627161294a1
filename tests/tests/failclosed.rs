//! End to end: the data path while no agent runs, while the next one starts, and while a pod leaves: captured traffic waits or
//! is refused, and nothing of it is ever on the wire in the clear. Level kernel.
//!
//! What must hold: each test has its twin, a pod that is not in the mesh or a destination that is not, for which nothing
//! changes, so that "nothing was seen" means something.

mod support;

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use underpass_abi::Op;
use underpass_tests::{
    apps::{
        hammer::{self, Hammer, PATIENT},
        remote::{Id, Sockets},
        servers,
        socket::{self, Dial, Dialed, Opt, Who},
    },
    mesh::Mesh,
    testbed::{Actor, Capture, Exit, Lab, Program, wait::wait_until},
};

use support::{
    BRIEFLY, Counts, Family, PORT, WORLD, any, counted, ensure_hidden, ensure_tunnelled, mesh, pod_state, tables,
};

underpass_tests::scenarios! {
    killed,
    asked_to_end,
    an_agent_that_cannot_start_changes_nothing,
    restarts_under_load,
    a_pod_leaves_with_open_connections,
    a_pod_is_made_to_leave,
    a_sandbox_ends,
    all_that_is_wrong_at_start,
    without_root,
}

/// A captured connection that is open, and its far end.
struct Open {
    client: Sockets,
    out: Id,
    accepted: Id,
}

/// Opens one for each family, from `client` to `server`, whose sockets are the test's.
fn open_all(mesh: &Mesh, client: &str, server: &str, far: &mut Sockets, listener: Id, port: u16) -> Result<Vec<Open>> {
    let mut open = Vec::new();
    for family in Family::ALL {
        let mut client = Sockets::start(&mesh.bed.app(client)?)?;
        let out = client.connect(family.to(mesh.bed.pod(server)?, port)?)?;
        client.send(out, b"OPEN-BEFORE")??;
        let (accepted, _) = far.accept(listener)?;
        ensure!(far.receive(accepted, 11)?? == b"OPEN-BEFORE");
        open.push(Open { client, out, accepted });
    }
    Ok(open)
}

/// Starts a dial for each family and returns at once.
fn begin_all(mesh: &Mesh, client: &str, server: &str, say: &str) -> Result<Vec<Actor<Dialed>>> {
    let begin = |family: Family| {
        let dial = Dial::to(family.to(mesh.bed.pod(server)?, PORT)?).say(say).patience(PATIENT);
        mesh.bed.app(client)?.begin(socket::dial, dial)
    };
    Family::ALL.into_iter().map(begin).collect()
}

fn dial(mesh: &Mesh, client: &str, server: &str, family: Family, say: &str) -> Result<Dialed> {
    mesh.bed
        .app(client)?
        .act(socket::dial, Dial::to(family.to(mesh.bed.pod(server)?, PORT)?).say(say).patience(BRIEFLY))
}

/// Every pin of the scenario with its inode, and every table's contents but the agents: what an agent leaves, and the next
/// one finds.
fn pinned_state(mesh: &Mesh, node: &str) -> Result<(BTreeMap<PathBuf, u64>, Vec<String>)> {
    let mut pins = BTreeMap::new();
    list(&mesh.bed.lab().pins(node), &mut pins)?;
    ensure!(!pins.is_empty(), "nothing is pinned");
    let contents = tables(mesh, node)?.contents()?;
    let mut contents: Vec<_> =
        contents.iter().filter(|op| !matches!(op, Op::SetAgent(_))).map(|op| format!("{op:?}")).collect();
    contents.sort();
    Ok((pins, contents))
}

fn list(directory: &Path, found: &mut BTreeMap<PathBuf, u64>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(&entry.path(), found)?;
        } else {
            found.insert(entry.path(), entry.metadata()?.ino());
        }
    }
    Ok(())
}

fn killed(lab: &Lab) -> Result<()> {
    without_an_agent(lab, |mesh| {
        ensure!(mesh.kill("node-1")? == Exit::Signal(9));
        Ok(())
    })
}

fn asked_to_end(lab: &Lab) -> Result<()> {
    without_an_agent(lab, |mesh| {
        ensure!(mesh.terminate("node-1")? == Exit::Code(0));
        Ok(())
    })
}

/// Outbound waits and inbound is refused until there is an agent again; what was open ends.
fn without_an_agent(lab: &Lab, end: fn(&mut Mesh) -> Result<()>) -> Result<()> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    mesh.options(&["--drain", "0"]);
    mesh.start()?;
    let echo = |pod: &str| servers::echo(&mesh.bed.app(pod)?, any(PORT));
    let _servers = [echo("mesh/a")?, echo("mesh/b")?, echo("out/o1")?, echo("out/o2")?];
    let (mut far, mut near) = (Sockets::start(&mesh.bed.app("mesh/b")?)?, Sockets::start(&mesh.bed.app("mesh/a")?)?);
    let (far_listener, near_listener) = (far.listen(any(9000))?, near.listen(any(9000))?);
    let wire = mesh.bed.capture_wire("node-1")?;
    let outgoing = open_all(&mesh, "mesh/a", "mesh/b", &mut far, far_listener, 9000)?;
    let incoming = open_all(&mesh, "mesh/b", "mesh/a", &mut near, near_listener, 9000)?;
    let foreign = open_all(&mesh, "out/o1", "mesh/a", &mut near, near_listener, 9000)?;
    let (before, counts) = (pinned_state(&mesh, "node-1")?, Counts::read(&mesh, "node-1")?);

    end(&mut mesh)?;
    ensure!(pinned_state(&mesh, "node-1")? == before, "an agent that ends takes away what it made");
    // What was open has an end, at both ends, and what is still written to it goes nowhere.
    for Open { mut client, out, accepted } in outgoing {
        reset(&mut client, out).context("outgoing, here")?;
        reset(&mut far, accepted).context("outgoing, there")?;
    }
    for Open { mut client, out, accepted } in incoming.into_iter().chain(foreign) {
        reset(&mut near, accepted).context("incoming, here")?;
        reset(&mut client, out).context("incoming, there")?;
    }
    // New connections wait, without an error and without a packet.
    let waiting = begin_all(&mesh, "mesh/a", "mesh/b", "WAITED")?;
    let held = || Ok(counts.since(&mesh, "node-1")?.of("guard:no-listener") >= 3);
    wait_until("guard to hold all three SYNs", held)?;
    for family in Family::ALL {
        let failure = dial(&mesh, "mesh/a", "mesh/b", family, "GAVE-UP")?.failed()?;
        ensure!(failure.step == "connect" && failure.is_timeout(), "{family:?}: {failure}");
        // No connection gets in: strangers are refused, the mesh is told.
        for stranger in ["out/o1", "out/o2", "mesh/b"] {
            let failure = dial(&mesh, stranger, "mesh/a", family, "GOT-IN")?.failed().context(stranger)?;
            ensure!(!failure.is_timeout(), "{stranger} {family:?}: {failure}");
        }
        // The twins: who is not in the mesh, who goes out of it, and the pod itself, are not concerned.
        for (client, server) in [("out/o1", "out/o2"), ("mesh/a", "out/o2"), ("mesh/a", "mesh/a"), ("out/o1", "mesh/b")]
        {
            let what = format!("{client} to {server} {family:?}");
            dial(&mesh, client, server, family, "UNCONCERNED")?.answered().context(what)?;
        }
    }
    let seen = counts.since(&mesh, "node-1")?;
    ensure!(
        seen.of("steer:no-listener") >= 6 && seen.of("steer:outbound") == 0 && seen.of("steer:attested") == 0,
        "{seen:?}"
    );
    ensure!(wire.contains(b"UNCONCERNED")?, "the capture sees nothing");

    mesh.start_on("node-1")?;
    for waited in waiting {
        let talk = waited.join()?.answered().context("the next agent runs")?;
        ensure!(talk.who()?.peer.ip() == talk.local.ip().to_canonical(), "{talk:?}");
        ensure_tunnelled(&mesh, &talk, "a")?;
    }
    for family in Family::ALL {
        dial(&mesh, "mesh/b", "mesh/a", family, "AGAIN")?.answered().context("inbound again")?;
    }
    ensure!(
        pinned_state(&mesh, "node-1")? == before,
        "enrolled anew: {before:?} became {:?}",
        pinned_state(&mesh, "node-1")?
    );
    for secret in ["OPEN-BEFORE", "OPEN-AFTER", "WAITED", "GAVE-UP", "AGAIN"] {
        ensure_hidden(&mesh, &wire, "mesh/a", "mesh/b", secret)?;
    }
    Ok(())
}

/// A connection whose tunnel is gone is reset: an end of stream would tell its application that it has heard everything.
fn reset(sockets: &mut Sockets, id: Id) -> Result<()> {
    match sockets.receive(id, 1)? {
        Ok(bytes) => bail!("it came to an end, with {bytes:?}"),
        Err(failure) => ensure!(failure.errno == libc::ECONNRESET, "{failure}"),
    }
    ensure!(sockets.send(id, b"OPEN-AFTER")?.is_err(), "it takes what is written");
    Ok(())
}

/// Pins keep their effect, and an agent that cannot start leaves them as they are.
fn an_agent_that_cannot_start_changes_nothing(lab: &Lab) -> Result<()> {
    let mut mesh = mesh(lab)?;
    let _servers =
        [servers::echo(&mesh.bed.app("mesh/b")?, any(PORT))?, servers::echo(&mesh.bed.app("out/o2")?, any(PORT))?];
    let wire = mesh.bed.capture_wire("node-1")?;
    let before = pinned_state(&mesh, "node-1")?;
    mesh.kill("node-1")?;
    let mut port_taken = Sockets::start(&mesh.bed.node("node-1")?.shell()?)?;
    let taken = port_taken.listen("127.0.0.1:15000".parse()?)?;
    let error = mesh.start_on("node-1").err().context("it started without its port")?;
    ensure!(format!("{error:#}").contains("ended"), "{error:#}");
    let running = mesh.agent("node-1")?;
    ensure!(running.wait()? == Exit::Code(1) && running.log()?.contains("127.0.0.1:15000"), "{}", running.log()?);
    ensure!(pinned_state(&mesh, "node-1")? == before, "it changed what it found");
    let waiting = begin_all(&mesh, "mesh/a", "mesh/b", "WAITED")?;
    for family in Family::ALL {
        ensure!(dial(&mesh, "mesh/a", "mesh/b", family, "GAVE-UP")?.failed()?.is_timeout(), "{family:?}");
        dial(&mesh, "mesh/a", "out/o2", family, "UNCONCERNED")?.answered()?;
    }
    // Nothing that a pod may do about itself brings it past the mesh either.
    mesh.bed.app("mesh/a")?.act(underpass_tests::apps::attacks::flush_rules_and_routes, 1777)?;
    for family in Family::ALL {
        ensure!(dial(&mesh, "mesh/a", "mesh/b", family, "FLUSHED")?.failed()?.is_timeout(), "{family:?}");
    }
    port_taken.close(taken)??;
    mesh.start_on("node-1")?;
    for waited in waiting {
        ensure_tunnelled(&mesh, &waited.join()?.answered()?, "a")?;
    }
    ensure!(wire.contains(b"UNCONCERNED")?);
    for secret in ["WAITED", "GAVE-UP", "FLUSHED"] {
        ensure_hidden(&mesh, &wire, "mesh/a", "mesh/b", secret)?;
    }
    Ok(())
}

/// Restarts of every kind while connections are opened without a pause: capture is never off.
fn restarts_under_load(lab: &Lab) -> Result<()> {
    let mut mesh = mesh(lab)?;
    let _server = servers::echo(&mesh.bed.app("mesh/b")?, any(PORT))?;
    let before = pinned_state(&mesh, "node-1")?;
    let b = mesh.bed.pod("mesh/b")?;
    let all: Vec<SocketAddr> = Family::ALL.into_iter().map(|family| family.to(b, PORT)).collect::<Result<_>>()?;
    let stop = lab.run_directory().join("stop");
    let order = |say: &str| Hammer::new(all.clone(), say, &stop);
    let wire = mesh.bed.capture_wire("node-1")?;
    let counts = Counts::read(&mesh, "node-1")?;
    let mut hammers = [
        hammer::start(&mesh.bed.app("mesh/a")?, order("HAMMERED"))?,
        hammer::start(&mesh.bed.app("mesh/a2")?, order("HAMMERED"))?,
    ];
    for (round, politely) in [false, true, false, true].into_iter().enumerate() {
        for hammer in &mut hammers {
            // Some are answered by each agent.
            hammer::answers(hammer, 5).with_context(|| format!("round {round}"))?;
        }
        if politely {
            mesh.terminate("node-1")?
        } else {
            mesh.kill("node-1")?
        };
        mesh.start_on("node-1")?;
    }
    fs::write(&stop, "")?;
    let mut tried = 0;
    for hammer in hammers {
        let (answered, failed) = hammer.join()?;
        println!("{answered} answered, {failed:?}");
        tried += answered + failed.values().sum::<u64>();
        // Cut short by the end of an agent; never refused, never left to time out.
        let cut = |what: &String| {
            // ENOTCONN: reset between the answer and the question who gave it.
            ["read: ECONNRESET", "write: ECONNRESET", "write: EPIPE", "connect: ECONNRESET", "getpeername: ENOTCONN"]
                .iter()
                .any(|allowed| what.starts_with(allowed))
        };
        ensure!(answered >= 20 && failed.keys().all(cut), "{answered} answered, {failed:?}");
    }
    let seen = counts.since(&mesh, "node-1")?;
    ensure!(seen.of("connect:captured") == tried && seen.of("connect:leave") == 0, "{tried} tried: {seen:?}");
    for client in ["mesh/a", "mesh/a2"] {
        ensure_hidden(&mesh, &wire, client, "mesh/b", "HAMMERED")?;
    }
    ensure!(pinned_state(&mesh, "node-1")? == before, "enrolled anew");
    // The twin: the same from a pod that is not in the mesh is seen.
    fs::remove_file(&stop)?;
    let mut twin = hammer::start(&mesh.bed.app("out/o1")?, order("HAMMERED"))?;
    hammer::answers(&mut twin, 1)?;
    fs::write(&stop, "")?;
    twin.join()?;
    ensure!(wire.contains(b"HAMMERED")?, "the capture sees nothing");
    Ok(())
}

/// Takes pod a out of the mesh, alone.
const STAY: &str = "labels: {app: a}";
const LEAVE: &str = "labels: {app: a, istio.io/dataplane-mode: none}";

/// The mesh, where pod b2 is not in it: the tunnel carries connections to service b in the clear to b2, for as long as they
/// are open, also when another pod leaves.
fn half_a_service(lab: &Lab, options: &[&str]) -> Result<Mesh> {
    let world = WORLD.replace("labels: {app: b2}", "labels: {app: b, istio.io/dataplane-mode: none}");
    let mut mesh = Mesh::up(lab, &[("world.yaml", &world)])?;
    mesh.options(options);
    mesh.start()?;
    Ok(mesh)
}

/// Service b.
const VIPS: [&str; 2] = ["10.96.0.20", "fd00:10:96::20"];

/// An open captured connection, which the tunnel carries to b2 in the clear.
struct Carried {
    client: Sockets,
    out: Id,
}

/// Opens one to service b for each family.
fn open_carried(mesh: &Mesh) -> Result<Vec<Carried>> {
    let b2 = mesh.bed.pod("mesh/b2")?.spec().addresses.clone();
    let mut carried = Vec::new();
    for (family, vip) in [(Family::V4, VIPS[0]), (Family::V6, VIPS[1]), (Family::Mapped, VIPS[0])] {
        let mut client = Sockets::start(&mesh.bed.app("mesh/a")?)?;
        loop {
            let out = client.connect((family.name(vip.parse()?), 80).into())?;
            client.send(out, b"hello")??;
            let mut line = Vec::new();
            while !line.ends_with(b"\n") {
                line.extend(client.receive(out, 1)??);
            }
            let who: Who = serde_json::from_slice(&line)?;
            if b2.contains(&who.local.ip()) {
                carried.push(Carried { client, out });
                break;
            }
            client.close(out)??; // the other endpoint
        }
    }
    Ok(carried)
}

/// No packet of a captured connection to the service was on the wire: its address is never there.
fn ensure_no_vip(wire: &Capture) -> Result<()> {
    let vips = VIPS.map(|vip| vip.parse::<IpAddr>());
    let is_vip = |end: &SocketAddr| vips.iter().flatten().any(|vip| *vip == end.ip());
    let frames = wire.frames()?;
    let seen: Vec<_> =
        frames.iter().filter_map(|f| f.segment()).filter(|s| is_vip(&s.source) || is_vip(&s.destination)).collect();
    ensure!(seen.is_empty(), "on the wire: {seen:?}");
    wire.count(|_| false).map(drop) // an error where frames were lost
}

/// Captured connections of a pod that leaves go on as they are; new ones are in the clear.
fn a_pod_leaves_with_open_connections(lab: &Lab) -> Result<()> {
    let mut mesh = half_a_service(lab, &[])?;
    let echo = |pod: &str| servers::echo(&mesh.bed.app(pod)?, any(PORT));
    let _servers = [echo("mesh/a")?, echo("mesh/b")?, echo("mesh/b2")?];
    let (mut far, mut near) = (Sockets::start(&mesh.bed.app("mesh/b")?)?, Sockets::start(&mesh.bed.app("mesh/a")?)?);
    let (far_listener, near_listener) = (far.listen(any(9000))?, near.listen(any(9000))?);
    let wire = mesh.bed.capture_wire("node-1")?;
    let mut tunnelled = open_all(&mesh, "mesh/a", "mesh/b", &mut far, far_listener, 9000)?;
    let mut incoming = open_all(&mesh, "mesh/b", "mesh/a", &mut near, near_listener, 9000)?;
    let mut carried = open_carried(&mesh)?;
    mesh.replace("world.yaml", STAY, LEAVE)?;
    ensure!(pod_state(&mesh, "node-1", "mesh/a")?.as_deref() == Some("releasing"), "with open connections");
    for family in Family::ALL {
        let (talk, counts) = counted(&mesh, "node-1", || dial(&mesh, "mesh/a", "mesh/b", family, "NEW")?.answered())?;
        ensure!(talk.mark == 0 && counts.of("connect:captured") == 0, "{family:?}: {talk:?} {counts:?}");
    }
    ensure!(wire.contains(b"NEW")?, "the twin: it is out of the mesh, and nothing new is in the clear");
    // What came or went under an identity goes on under it, both ways.
    for (opened, server) in [(&mut tunnelled, &mut far), (&mut incoming, &mut near)] {
        for Open { client, out, accepted } in opened {
            client.send(*out, b"OPEN-AFTER")??;
            ensure!(server.receive(*accepted, 10)?? == b"OPEN-AFTER", "it did not go on");
            server.send(*accepted, b"OPEN-AFTER")??;
            ensure!(client.receive(*out, 10)?? == b"OPEN-AFTER", "it did not go on back");
        }
    }
    // What the tunnel carries in the clear goes on by the tunnel, and not without its mark.
    for Carried { client, out } in &mut carried {
        client.send(*out, b"still there?")??;
        ensure!(client.receive(*out, 12)?? == b"still there?", "it did not go on");
        let before = Counts::read(&mesh, "node-1")?;
        client.set(*out, Opt::Mark(0))??;
        client.send(*out, b"and now?")??;
        wait_until("guard to drop it", || Ok(before.since(&mesh, "node-1")?.of("guard:device") > 0))?;
        client.set(*out, Opt::Mark(0x0100_0000))??;
        ensure!(client.receive(*out, 8)?? == b"and now?", "it was lost");
    }
    ensure!(pod_state(&mesh, "node-1", "mesh/a")?.as_deref() == Some("releasing"), "before everything was over");
    drop((tunnelled, incoming, carried, far, near));
    wait_until("the pod to be gone", || Ok(pod_state(&mesh, "node-1", "mesh/a")?.is_none()))?;
    ensure_only_new(&wire)?;
    nothing_of(&mesh, "mesh/a")?;
    // And back again.
    mesh.replace("world.yaml", LEAVE, STAY)?;
    wait_until("the pod to be back", || Ok(pod_state(&mesh, "node-1", "mesh/a")?.as_deref() == Some("enrolled")))?;
    let talk = dial(&mesh, "mesh/a", "mesh/b", Family::V4, "BACK")?.answered()?;
    ensure_tunnelled(&mesh, &talk, "a")
}

/// The deadline is over: what is still open is ended before the rules go, the connection among it whose application took the
/// mark away.
fn a_pod_is_made_to_leave(lab: &Lab) -> Result<()> {
    let mut mesh = half_a_service(lab, &["--release-drain", "1"])?;
    let echo = |pod: &str| servers::echo(&mesh.bed.app(pod)?, any(PORT));
    let _servers = [echo("mesh/a")?, echo("mesh/b")?, echo("mesh/b2")?];
    let wire = mesh.bed.capture_wire("node-1")?;
    let (mut marked, mut unmarked) = (open_carried(&mesh)?, open_carried(&mesh)?);
    let before = Counts::read(&mesh, "node-1")?;
    for Carried { client, out } in &mut unmarked {
        client.set(*out, Opt::Mark(0))??;
        client.send(*out, b"UNMARKED")??;
    }
    mesh.replace("world.yaml", STAY, LEAVE)?;
    // They are written to all the time, until there is nothing to write to.
    wait_until("every open connection to end", || {
        let mut living = 0;
        for Carried { client, out } in marked.iter_mut().chain(&mut unmarked) {
            living += usize::from(client.send(*out, b"OPEN-AFTER")?.is_ok());
        }
        Ok(living == 0)
    })?;
    wait_until("the pod to be gone", || Ok(pod_state(&mesh, "node-1", "mesh/a")?.is_none()))?;
    ensure!(before.since(&mesh, "node-1")?.of("guard:device") > 0, "the unmarked ones were not even tried");
    nothing_of(&mesh, "mesh/a")?;
    for family in Family::ALL {
        dial(&mesh, "mesh/a", "mesh/b", family, "NEW")?.answered()?;
        dial(&mesh, "mesh/b", "mesh/a", family, "NEW")?.answered()?;
    }
    ensure!(wire.contains(b"NEW")?, "the twin: it is out of the mesh, and nothing new is in the clear");
    ensure!(!wire.contains(b"UNMARKED")?, "what was held back got out");
    ensure_no_vip(&wire)
}

fn ensure_only_new(wire: &Capture) -> Result<()> {
    for secret in ["OPEN-BEFORE", "OPEN-AFTER"] {
        ensure!(!wire.contains(secret.as_bytes())?, "{secret} on the wire");
    }
    ensure_no_vip(wire)
}

/// Nothing that the enrolment made is left in the pod's namespace.
fn nothing_of(mesh: &Mesh, pod: &str) -> Result<()> {
    let site = mesh.bed.app(pod)?;
    for family in ["-4", "-6"] {
        let rules = site.run("ip", &[family, "rule"])?;
        ensure!(!rules.contains("1777"), "{rules}");
        let routes = site.run("ip", &[family, "route", "show", "table", "all"])?;
        ensure!(!routes.contains("table 1777"), "{routes}");
    }
    Ok(())
}

/// The entries of the kernel tables about a namespace.
fn mentions(mesh: &Mesh, node: &str, cookie: u64) -> Result<Vec<String>> {
    let tables = tables(mesh, node)?;
    let of = |op: &Op| match op {
        Op::SetLocal(key, _) => key.pod.0 == cookie,
        Op::SetPod(pod, _) | Op::SetPodCgroup(_, pod) => pod.0 == cookie,
        _ => false,
    };
    let contents = tables.contents()?.into_iter().filter(of).map(|op| format!("{op:?}"));
    let listeners = tables.listeners()?.into_iter().filter(|key| key.pod.0 == cookie).map(|key| format!("{key:?}"));
    let programs = tables.pods()?.into_iter().filter(|pod| pod.0 == cookie).map(|pod| format!("program of {pod:?}"));
    let pin = mesh.bed.lab().pins(node).join(format!("pods/{cookie:016x}"));
    let pin = pin.exists().then(|| pin.display().to_string());
    Ok(contents.chain(listeners).chain(programs).chain(pin).collect())
}

fn cookie(mesh: &Mesh, node: &str, pod: &str) -> Result<u64> {
    let dump = mesh.admin(node, "/config_dump")?;
    let pods = dump["pods"].as_array().context("pods")?;
    pods.iter()
        .find(|p| p["name"] == pod)
        .and_then(|p| p["cookie"].as_u64())
        .with_context(|| format!("cookie of {pod}"))
}

/// Nothing is left of a pod whose sandbox has ended: no entry, no program, no pin, and no socket of the tunnel that would keep
/// its namespace.
fn a_sandbox_ends(lab: &Lab) -> Result<()> {
    let mut mesh = mesh(lab)?;
    let (mut far, mut near) = (Sockets::start(&mesh.bed.app("mesh/b")?)?, Sockets::start(&mesh.bed.app("mesh/a")?)?);
    let (far_listener, near_listener) = (far.listen(any(9000))?, near.listen(any(9000))?);
    let outgoing = open_all(&mesh, "mesh/a", "mesh/b", &mut far, far_listener, 9000)?;
    let incoming = open_all(&mesh, "mesh/b", "mesh/a", &mut near, near_listener, 9000)?;
    let (gone, stays) = (cookie(&mesh, "node-1", "mesh/a")?, cookie(&mesh, "node-1", "mesh/a2")?);
    let (before, other) = (mentions(&mesh, "node-1", gone)?, mentions(&mesh, "node-1", stays)?);
    ensure!(before.len() >= 8 && !other.is_empty(), "two families, a cgroup, two listeners, ...: {before:?}");
    let (device, shell) = (mesh.bed.pod("mesh/a")?.node_device(), mesh.bed.node("node-1")?.shell()?);
    let devices = || shell.run("ip", &["-o", "link"]);
    ensure!(devices()?.contains(&format!(" {device}@")));

    mesh.bed.remove_pod("mesh/a")?;
    wait_until("the agent to know it no longer", || {
        Ok(pod_state(&mesh, "node-1", "mesh/a")?.as_deref() != Some("enrolled"))
    })?;
    wait_until("the kernel to know it no longer", || Ok(mentions(&mesh, "node-1", gone)?.is_empty()))?;
    wait_until("the namespace to end", || Ok(!devices()?.contains(&format!(" {device}@"))))?;
    ensure!(mentions(&mesh, "node-1", stays)? == other, "the neighbour's: {:?}", mentions(&mesh, "node-1", stays)?);
    // By the first of two: the application, which was killed and whose kernel then sends FIN, or the tunnel.
    let ended = |sockets: &mut Sockets, id| -> Result<()> {
        let end = sockets.receive(id, 1)?;
        let is_end = end.as_ref().map_or_else(|failure| failure.errno == libc::ECONNRESET, Vec::is_empty);
        ensure!(is_end, "{end:?}");
        Ok(())
    };
    for Open { accepted, .. } in outgoing {
        ended(&mut far, accepted)?;
    }
    for Open { mut client, out, .. } in incoming {
        ended(&mut client, out)?;
    }
    // The object as well: then the agent has nothing to say about it.
    let text = mesh.manifest("world.yaml")?;
    let without: Vec<&str> = text.split("---\n").filter(|object| !object.contains("  name: a\n")).collect();
    mesh.edit("world.yaml", Some(&without.join("---\n")))?;
    ensure!(pod_state(&mesh, "node-1", "mesh/a")?.is_none() && pod_state(&mesh, "node-1", "mesh/a2")?.is_some());
    Ok(())
}

fn agent_binary() -> Result<PathBuf> {
    Ok(std::env::var_os("UNDERPASS_AGENT_BIN").context("UNDERPASS_AGENT_BIN names the agent")?.into())
}

/// Starts an agent that is expected to end by itself; the faults that it lists.
fn faults(mesh: &Mesh, node: &str, arguments: &[(&str, &str)]) -> Result<Vec<String>> {
    let program =
        arguments.iter().fold(Program::new(agent_binary()?).args(["--node", node]), |program, (flag, value)| {
            program.args([*flag, *value])
        });
    let mut running = mesh.bed.node(node)?.service("underpass-agent")?.start(&program.named("broken"))?;
    let exit = running.wait()?;
    let log = running.log()?;
    ensure!(exit == Exit::Code(1) && log.contains("cannot start:"), "{exit}: {log}");
    Ok(log.lines().filter_map(|line| line.strip_prefix("  - ")).map(str::to_owned).collect())
}

/// One list, with a remedy in every line, and nothing changed.
fn all_that_is_wrong_at_start(lab: &Lab) -> Result<()> {
    let mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    let directory = |name: &str| -> Result<String> {
        let path = lab.directory().join(name);
        fs::create_dir(&path)?;
        Ok(path.display().to_string())
    };
    let (manifests, state) = (lab.directory().join("manifests").display().to_string(), directory("state")?);
    let (no_bpffs, no_cgroup) = (directory("bpffs")?, directory("cgroup")?);
    let a_file = lab.directory().join("file");
    fs::write(&a_file, "")?;
    let below_a_file = a_file.join("state").display().to_string();
    let bpffs = lab.bpffs().display().to_string();
    for node in ["node-1", "node-2"] {
        let cgroup = mesh.bed.node(node)?.cgroup().display().to_string();
        let mut ports = Sockets::start(&mesh.bed.node(node)?.shell()?)?;
        let admin = ports.listen("127.0.0.1:15000".parse()?)?;
        let ready = ports.listen("[::]:15021".parse()?)?;
        // Flag, a value that is right, one that is wrong, what the line names, and what it says to do.
        let wrong = [
            ("--manifests", &*manifests, "/nonexistent/manifests", "/nonexistent/manifests", "--manifests"),
            ("--state", &state, &below_a_file, &below_a_file, "--state"),
            ("--bpffs", &bpffs, &no_bpffs, &no_bpffs, "mount -t bpf"),
            ("--cgroup-root", &cgroup, &no_cgroup, &no_cgroup, "mount cgroup2"),
            ("--access-log", "/dev/null", &below_a_file, "access log", "--access-log"),
        ];
        let taken = [("127.0.0.1:15000", "--admin-address"), ("[::]:15021", "--readiness-address")];
        let all: Vec<_> = wrong.iter().map(|(flag, _, value, ..)| (*flag, *value)).collect();
        let listed = faults(&mesh, node, &all)?;
        let expected = wrong.iter().map(|(_, _, _, names, remedy)| (*names, *remedy)).chain(taken);
        for (names, remedy) in expected {
            let lines = listed.iter().filter(|line| line.contains(names) && line.contains(remedy)).count();
            ensure!(lines == 1, "{lines} lines about {names} with {remedy} in {listed:#?}");
        }
        ensure!(listed.len() == wrong.len() + taken.len(), "{listed:#?}");
        ports.close(admin)??;
        ports.close(ready)??;
        // The twins: what is right is not complained about.
        for (number, one) in wrong.iter().enumerate() {
            let but_one = wrong
                .iter()
                .enumerate()
                .map(|(n, (flag, right, bad, ..))| (*flag, if n == number { *bad } else { *right }));
            let listed = faults(&mesh, node, &but_one.collect::<Vec<_>>())?;
            ensure!(listed.len() == 1 && listed.iter().all(|line| line.contains(one.3)), "{one:?}: {listed:#?}");
        }
    }
    let pinned = fs::read_dir(lab.bpffs())?.flatten().filter(|e| e.path().is_dir()).count();
    ensure!(pinned == 0, "something was pinned by agents that could not start");
    nothing_of(&mesh, "mesh/a")
}

/// A command to run as a user.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct AsUser {
    program: PathBuf,
    arguments: Vec<String>,
    user: u32,
}

/// Its exit code and what it wrote.
fn run_as(command: AsUser) -> Result<(Option<i32>, String)> {
    let mut process = Command::new(&command.program);
    let output = process.args(&command.arguments).uid(command.user).gid(command.user).output()?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn without_root(lab: &Lab) -> Result<()> {
    let mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    // Where every user may read it; the directory that it was built in may be closed.
    let agent = lab.run_directory().join("agent");
    fs::write(&agent, "")?;
    let none: Option<&str> = None;
    nix::mount::mount(Some(&agent_binary()?), &agent, none, nix::mount::MsFlags::MS_BIND, none)?;
    let manifests = lab.run_directory().join("manifests");
    fs::create_dir(&manifests)?;
    let node = mesh.bed.node("node-1")?;
    let arguments = ["--node", "node-1", "--manifests"].map(str::to_owned).into_iter();
    let arguments = arguments.chain([
        manifests.display().to_string(),
        "--state".into(),
        lab.run_directory().join("state").display().to_string(),
        "--bpffs".into(),
        lab.bpffs().display().to_string(),
        "--cgroup-root".into(),
        node.cgroup().display().to_string(),
    ]);
    const UNPRIVILEGED: u32 = 65534;
    let command = AsUser { program: agent, arguments: arguments.collect(), user: UNPRIVILEGED };
    let (code, said) = node.service("underpass-agent")?.act(run_as, command)?;
    ensure!(code == Some(1), "{code:?}: {said}");
    let lines: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("  - ")).collect();
    for (names, remedy) in [
        ("CAP_NET_ADMIN", "run as root"),
        ("CAP_SYS_ADMIN", "run as root"),
        ("bpf filesystem", "mount -t bpf"),
        ("/state", "--state"),
    ] {
        let about = lines.iter().filter(|line| line.contains(names) && line.contains(remedy)).count();
        ensure!(about == 1, "{about} lines about {names} with {remedy} in {said}");
    }
    // The twin: none of that is root's trouble (every other scenario starts it so).
    Ok(())
}
