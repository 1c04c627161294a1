//! End to end: the view of a mesh's applications, and the packets between the nodes. Level kernel: needs root, the kernel programs
//! and the agent. Every behaviour has its failing twin: without the mesh, or with a peer outside of it.
//!
//! Policies are in policy.rs.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use underpass_tests::{
    apps::{
        crowd::{self, Caller, Crowd},
        http,
        pair::Pair,
        remote::Sockets,
        servers,
        socket::{Dial, Failure},
        vip,
    },
    mesh::Mesh,
    testbed::{
        Capture, Lab, sys,
        wait::{wait_for, wait_until},
    },
};

underpass_tests::scenarios! {
    capture_follows_the_label,
    addresses_are_as_without_a_mesh,
    services_lead_to_target_ports,
    a_service_may_lead_to_its_caller,
    endpoints_outside_the_mesh_are_passed_through,
    destinations_outside_the_mesh_are_untouched,
    halves_close_on_their_own,
    resets_travel,
    a_reset_after_the_end_of_a_half_travels,
    servers_may_speak_first,
    single_bytes_arrive,
    bulk_to_a_slow_reader_takes_bounded_memory,
    stalled_streams_do_not_hold_up_others,
    many_connections,
    no_application_listens,
    a_node_without_an_agent_is_unreachable,
    every_wait_has_an_end,
    a_slow_link,
    two_lines_tell_all_about_a_connection,
    connections_are_listed_while_they_are_open,
    certificates_are_renewed_under_traffic,
    ready_when_the_manifests_are_applied,
}

/// Two nodes: mesh/a and mesh/a2 on the first, mesh/b and mesh/b2 on the second are in the mesh; out/o1 and out/o2 are not.
const WORLD: &str = include_str!("manifests/two-nodes.yaml");
const SERVICES: &str = include_str!("manifests/services.yaml");

/// The port of the applications.
const PORT: u16 = 8080;
/// Across nodes, and within one.
const SERVERS: [&str; 2] = ["mesh/b", "mesh/a2"];

fn laid_out(lab: &Lab) -> Result<Mesh> {
    Mesh::up(lab, &[("world.yaml", WORLD), ("services.yaml", SERVICES)])
}

fn mesh(lab: &Lab) -> Result<Mesh> {
    let mut mesh = laid_out(lab)?;
    mesh.start()?;
    Ok(mesh)
}

fn label(mesh: &mut Mesh, ambient: bool) -> Result<()> {
    let modes = ["dataplane-mode: none", "dataplane-mode: ambient"];
    let (old, new) = if ambient { (modes[0], modes[1]) } else { (modes[1], modes[0]) };
    mesh.replace("world.yaml", old, new)
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from(([0u16; 8], port))
}

/// Client and server of each call: across nodes, within one, and from outside of the mesh; each in both families.
fn routes() -> impl Iterator<Item = (&'static str, &'static str, bool)> {
    let routes = [("mesh/a", "mesh/b"), ("mesh/a", "mesh/a2"), ("out/o1", "mesh/b")];
    routes.into_iter().flat_map(|(client, server)| [(client, server, true), (client, server, false)])
}

/// The same to [`SERVERS`] alone.
fn from_a() -> impl Iterator<Item = (&'static str, bool)> {
    SERVERS.into_iter().flat_map(|server| [(server, true), (server, false)])
}

/// Waits for the line of each node that had to do with the connection.
fn both_logged(mesh: &Mesh, client: &str, pair: &Pair, want: &[(&str, &str)]) -> Result<()> {
    let to = pair.to.to_string();
    let of = |direction: &'static str| [&[("direction", direction), ("destination_address", &to)], want].concat();
    if client.starts_with("mesh/") {
        mesh.logged(mesh.node_of(client)?, &of("outbound"))?;
    }
    let server = mesh.bed.pods().find(|pod| pod.spec().addresses.contains(&pair.to.ip())).context("the server")?;
    mesh.logged(&server.spec().node, &of("inbound"))?;
    Ok(())
}

fn capture_follows_the_label(lab: &Lab) -> Result<()> {
    let mut mesh = mesh(lab)?;
    let _servers = mesh.echo(&SERVERS, PORT)?;
    for (ambient, secret) in [(true, "CAPTURED"), (false, "IN-THE-CLEAR"), (true, "CAPTURED-AGAIN")] {
        if mesh.manifest("world.yaml")?.contains("dataplane-mode: none") == ambient {
            label(&mut mesh, ambient)?;
        }
        for (server, ipv4) in from_a() {
            // Between nodes the link between them; within one, the server's device.
            let wire = match server {
                "mesh/b" => mesh.bed.capture_wire("node-1")?,
                _ => Capture::start(&mesh.bed.app(server)?, "eth0")?,
            };
            let to = mesh.at(server, ipv4, PORT)?;
            mesh.call("mesh/a", Dial::to(to).say(secret))?.answered().with_context(|| format!("{secret} to {to}"))?;
            ensure!(wire.contains(secret.as_bytes())? != ambient, "{secret} to {to} on the wire");
            // The answer is a secret as well.
            ensure!(wire.contains(b"\"peer\"")? != ambient, "the answer of {to} on the wire");
            let by_hbone = wire.count(|s| s.destination.port() == 15008 || s.source.port() == 15008)?;
            ensure!((by_hbone > 0) == ambient, "{by_hbone} segments of HBONE, {secret} to {to}");
        }
    }
    Ok(())
}

/// One dial as both ends see it, without the values that differ from call to call.
fn addresses_seen(mesh: &Mesh, first_port: u16) -> Result<Vec<Value>> {
    let mut seen = Vec::new();
    let kinds = ["v4", "v6", "mapped"].iter().flat_map(|kind| [(*kind, false), (*kind, true)]);
    let cases = SERVERS.iter().flat_map(|server| kinds.clone().map(move |(kind, bound)| (*server, kind, bound)));
    for ((server, kind, bound), port) in cases.zip(first_port..) {
        let mapped = |address: SocketAddr| match (kind, address) {
            ("mapped", SocketAddr::V4(v4)) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
            _ => address,
        };
        let to = mapped(mesh.at(server, kind != "v6", PORT)?);
        let from = mapped(mesh.at("mesh/a", kind != "v6", port)?);
        let dial = if bound { Dial::to(to).from_address(from) } else { Dial::to(to) };
        let talk = mesh.call("mesh/a", dial)?.answered().with_context(|| format!("{server} {kind} {bound}"))?;
        let who = talk.who()?;
        seen.push(json!({
            "server": server, "kind": kind, "bound": bound,
            "getsockname": talk.local.ip(), "getsockname is as bound": bound.then_some(talk.local == from),
            "getpeername": talk.peer,
            "the server sees": who.peer.ip(), "at": who.local,
        }));
    }
    Ok(seen)
}

fn addresses_are_as_without_a_mesh(lab: &Lab) -> Result<()> {
    let mut mesh = mesh(lab)?;
    let _servers = mesh.echo(&SERVERS, PORT)?;
    let with = addresses_seen(&mesh, 41_000)?;
    wait_until("a line for each", || Ok(mesh.log("node-1")?.len() >= with.len()))?;
    label(&mut mesh, false)?;
    let carried = mesh.log("node-1")?.len();
    let without = addresses_seen(&mesh, 42_000)?;
    ensure!(with == without, "with the mesh {with:#?}, without {without:#?}");
    ensure!(mesh.log("node-1")?.len() == carried, "carried without the label");
    Ok(())
}

fn services_lead_to_target_ports(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let _servers = mesh.echo(&SERVERS, PORT)?;
    let services =
        [("mesh/b", "mesh/b", "10.96.0.1", "fd00:10:96::1"), ("mesh/a2", "mesh/a2", "10.96.0.3", "fd00:10:96::3")];
    for (service, server, v4, v6) in services {
        for ipv4 in [true, false] {
            let vip = SocketAddr::new(if ipv4 { v4 } else { v6 }.parse()?, 80);
            let lines = mesh.log("node-1")?.len();
            let talk = mesh.call("mesh/a", Dial::to(vip))?.answered().with_context(|| vip.to_string())?;
            let who = talk.who()?;
            ensure!(talk.peer == vip && who.local == mesh.at(server, ipv4, PORT)?, "{talk:?}");
            ensure!(who.peer.ip() == mesh.bed.pod("mesh/a")?.address(ipv4)?, "{who:?}");
            let target = who.local.to_string();
            let want = [("direction", "outbound"), ("service", service), ("destination_address", target.as_str())];
            mesh.logged_after("node-1", lines, &[&want[..], &[("reason", "finished")]].concat())?;
            // No host has a VIP as its address: without the mesh another translator is needed.
            mesh.call("out/o1", Dial::to(vip).patience(Duration::from_millis(200)))?.failed()?;
        }
    }
    let _proxy = vip::start(mesh.bed.node("node-1")?, mesh.bed.services())?;
    mesh.call("out/o1", Dial::to(SocketAddr::new("10.96.0.1".parse()?, 80)))?.answered().context("by a kube-proxy")?;
    for (vip, service, reason) in
        [("10.96.0.1:81", "mesh/b", "unknown_port"), ("10.96.0.4:80", "mesh/unready", "no_endpoint")]
    {
        mesh.is_reset("mesh/a", Dial::to(vip.parse::<SocketAddr>()?))?;
        mesh.logged("node-1", &[("destination_address", vip), ("service", service), ("reason", reason)])?;
    }
    Ok(())
}

fn a_service_may_lead_to_its_caller(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let _servers = mesh.echo(&["mesh/a"], PORT)?;
    for (vip, ipv4) in [("10.96.0.2", true), ("fd00:10:96::2", false)] {
        let vip = SocketAddr::new(vip.parse()?, 80);
        let lines = mesh.log("node-1")?.len();
        let talk = mesh.call("mesh/a", Dial::to(vip))?.answered().with_context(|| vip.to_string())?;
        let who = talk.who()?;
        let own = mesh.at("mesh/a", ipv4, PORT)?;
        ensure!(who.local == own && who.peer.ip() == own.ip() && talk.peer == vip, "{talk:?}");
        let own = own.to_string();
        mesh.logged_after(
            "node-1",
            lines,
            &[("service", "mesh/a"), ("path", "passthrough"), ("destination_address", &own), ("reason", "finished")],
        )?;
        // The pod itself, by its own address: none of the mesh's business.
        let lines = mesh.log("node-1")?.len();
        mesh.call("mesh/a", Dial::to(mesh.at("mesh/a", ipv4, PORT)?))?.answered()?;
        ensure!(mesh.log("node-1")?.len() == lines, "carried to itself");
    }
    Ok(())
}

fn endpoints_outside_the_mesh_are_passed_through(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let _servers = mesh.echo(&["mesh/b", "out/o2"], PORT)?;
    for (vip, ipv4) in [("10.96.0.5", true), ("fd00:10:96::5", false)] {
        let mut reached = BTreeSet::new();
        for n in 0.. {
            let (wire, secret) = (mesh.bed.capture_wire("node-1")?, format!("mixed-{n}"));
            let lines = mesh.log("node-1")?.len();
            let dial = Dial::to(SocketAddr::new(vip.parse()?, 80)).say(&secret);
            let who = mesh.call("mesh/a", dial)?.answered().with_context(|| vip.to_owned())?.who()?;
            ensure!(who.peer.ip() == mesh.bed.pod("mesh/a")?.address(ipv4)?, "{who:?}");
            let outside = who.app == "out/o2";
            ensure!(wire.contains(secret.as_bytes())? == outside, "to {} in the clear", who.app);
            let (path, to) = (if outside { "passthrough" } else { "hbone" }, who.local.to_string());
            let want =
                [("service", "mesh/mixed"), ("path", path), ("destination_address", &to), ("reason", "finished")];
            mesh.logged_after("node-1", lines, &want)?;
            reached.insert(who.app);
            // By chance all calls go to one of two with a probability of 1 in 2^63.
            ensure!(n < 64, "only {reached:?} of two endpoints were ever chosen");
            if reached.len() == 2 {
                break;
            }
        }
    }
    Ok(())
}

fn destinations_outside_the_mesh_are_untouched(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let _servers = mesh.echo(&["out/o1", "out/o2", "mesh/b"], PORT)?;
    let _host = servers::echo(&mesh.bed.node("node-2")?.shell()?, any(PORT))?;
    let host = |ipv4: bool| {
        let addresses = &mesh.bed.node("node-2").expect("it is there").spec().addresses;
        addresses.iter().find(|a| a.is_ipv4() == ipv4).copied().context("an address")
    };
    for ipv4 in [true, false] {
        let to = [mesh.at("out/o1", ipv4, PORT)?, mesh.at("out/o2", ipv4, PORT)?, SocketAddr::new(host(ipv4)?, PORT)];
        for to in to {
            let wire = Capture::start(&mesh.bed.app("mesh/a")?, "eth0")?;
            let talk =
                mesh.call("mesh/a", Dial::to(to).say("untouched"))?.answered().with_context(|| to.to_string())?;
            let who = talk.who()?;
            ensure!(who.peer == talk.local && who.local == to && talk.peer == to, "{talk:?}");
            ensure!(wire.count(|s| s.is_opening() && s.source == talk.local && s.destination == to)? == 1);
            ensure!(wire.contains(b"untouched")?, "not in the clear to {to}");
        }
        mesh.call("mesh/a", Dial::to(mesh.at("mesh/b", ipv4, PORT)?))?.answered()?;
    }
    // The two calls that were carried have their lines, which come after those of the others, if there were any.
    for node in ["node-1", "node-2"] {
        mesh.logged(node, &[("destination_address", "[fd00:10:244:2::10]:8080"), ("reason", "finished")])?;
        let lines = mesh.log(node)?;
        ensure!(lines.len() == 2, "{lines:#?}");
    }
    Ok(())
}

fn halves_close_on_their_own(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let much: Vec<u8> = (0..50_000u32).flat_map(u32::to_le_bytes).collect();
    let length = much.len().to_string();
    for (client, server, ipv4) in routes() {
        // The client has no more to say, and the whole answer still comes.
        let mut pair = mesh.pair(client, server, ipv4)?;
        pair.client.send(pair.out, b"question")??;
        pair.client.shutdown_write(pair.out)??;
        ensure!(pair.server.read_to_end(pair.inn)?? == b"question");
        thread::scope(|scope| {
            let reading = scope.spawn(|| pair.client.read_to_end(pair.out));
            pair.server.send(pair.inn, &much)??;
            pair.server.close(pair.inn)??;
            let read = reading.join().map_err(|_| anyhow!("panicked"))???;
            ensure!(read == much, "{} of {} bytes", read.len(), much.len());
            Ok(())
        })?;
        let counted = [("reason", "finished"), ("bytes_received", "8"), ("bytes_sent", &length)];
        both_logged(&mesh, client, &pair, &counted)?;
        // The server has no more to say, and still listens.
        let mut pair = mesh.pair(client, server, ipv4)?;
        pair.server.send(pair.inn, b"greeting")??;
        pair.server.shutdown_write(pair.inn)??;
        ensure!(pair.client.read_to_end(pair.out)?? == b"greeting");
        thread::scope(|scope| {
            let reading = scope.spawn(|| pair.server.read_to_end(pair.inn));
            pair.client.send(pair.out, &much)??;
            pair.client.close(pair.out)??;
            let read = reading.join().map_err(|_| anyhow!("panicked"))???;
            ensure!(read == much, "{} of {} bytes", read.len(), much.len());
            Ok(())
        })?;
        let counted = [("reason", "finished"), ("bytes_received", length.as_str()), ("bytes_sent", "8")];
        both_logged(&mesh, client, &pair, &counted)?;
    }
    Ok(())
}

fn resets_travel(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    for (client, server, ipv4) in routes() {
        let open = || -> Result<Pair> {
            let mut pair = mesh.pair(client, server, ipv4)?;
            pair.exchange()?;
            Ok(pair)
        };
        let reset = |read: Result<Vec<u8>, Failure>| -> Result<()> {
            let reset = read.as_ref().is_err_and(|failure| failure.errno == libc::ECONNRESET);
            ensure!(reset, "{client} to {server}: {read:?}");
            Ok(())
        };
        let logged = |pair: &Pair, reason| {
            let counted = [("reason", reason), ("bytes_received", "4"), ("bytes_sent", "4")];
            both_logged(&mesh, client, pair, &counted)
        };
        let mut pair = open()?;
        pair.client.reset(pair.out)??;
        reset(pair.server_reads()?)?;
        logged(&pair, "client_reset")?;
        let mut pair = open()?;
        pair.server.reset(pair.inn)??;
        reset(pair.client_reads()?)?;
        logged(&pair, "server_reset")?;

        // One half is at its end already.
        let mut pair = open()?;
        pair.client.shutdown_write(pair.out)??;
        ensure!(pair.server_reads()??.is_empty());
        pair.server.reset(pair.inn)??;
        reset(pair.client_reads()?)?;
        logged(&pair, "server_reset")?;
        let mut pair = open()?;
        pair.server.shutdown_write(pair.inn)??;
        ensure!(pair.client_reads()??.is_empty());
        pair.client.reset(pair.out)??;
        reset(pair.server_reads()?)?;
        logged(&pair, "client_reset")?;

        // The twin: an end in order is an end of file.
        let mut pair = open()?;
        pair.client.close(pair.out)??;
        ensure!(pair.server_reads()??.is_empty());
        let mut pair = open()?;
        pair.server.close(pair.inn)??;
        ensure!(pair.client_reads()??.is_empty());
    }
    Ok(())
}

/// Who has said that it has no more to say, and resets then: its peer, which has nothing to send, is to learn of it too.
fn a_reset_after_the_end_of_a_half_travels(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    for (client, server, ipv4) in routes() {
        let mut pair = mesh.pair(client, server, ipv4)?;
        pair.client.shutdown_write(pair.out)??;
        ensure!(pair.server_reads()??.is_empty());
        pair.client.reset(pair.out)??;
        // As over plain TCP: after end of file a reset shows when the server writes.
        wait_until("the server to learn of the reset", || Ok(pair.server.send(pair.inn, b"into the void")?.is_err()))?;
        both_logged(&mesh, client, &pair, &[("reason", "client_reset")])?;
        let mut pair = mesh.pair(client, server, ipv4)?;
        pair.server.shutdown_write(pair.inn)??;
        ensure!(pair.client_reads()??.is_empty());
        pair.server.reset(pair.inn)??;
        wait_until("the client to learn of the reset", || Ok(pair.client.send(pair.out, b"into the void")?.is_err()))?;
        both_logged(&mesh, client, &pair, &[("reason", "server_reset")])?;
    }
    Ok(())
}

fn servers_may_speak_first(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let servers = SERVERS.iter().map(|server| servers::server_first(&mesh.bed.app(server)?, any(PORT)));
    let _servers = servers.collect::<Result<Vec<_>>>()?;
    let _silent = mesh.echo(&["mesh/b2"], PORT)?;
    for ipv4 in [true, false] {
        for server in SERVERS {
            let dial = Dial::to(mesh.at(server, ipv4, PORT)?).say("");
            let who = mesh.call("mesh/a", dial)?.answered().with_context(|| server.to_owned())?.who()?;
            ensure!(who.app == "server-first", "{who:?}");
        }
        let waits = Dial::to(mesh.at("mesh/b2", ipv4, PORT)?).say("").patience(Duration::from_millis(200));
        let failure = mesh.call("mesh/a", waits)?.failed().context("a server that waits for its client")?;
        ensure!(failure.is_timeout() && failure.step == "read", "{failure}");
    }
    Ok(())
}

fn single_bytes_arrive(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let text: Vec<u8> = (0..3000u32).map(|n| (n % 251) as u8).collect();
    for (client, server, ipv4) in routes() {
        let mut pair = mesh.pair(client, server, ipv4)?;
        pair.client.send_byte_by_byte(pair.out, &text)??;
        ensure!(pair.server.receive(pair.inn, text.len())?? == text);
        pair.server.send_byte_by_byte(pair.inn, &text)??;
        ensure!(pair.client.receive(pair.out, text.len())?? == text);
        pair.close()?;
        let counted = [("reason", "finished"), ("bytes_received", "3000"), ("bytes_sent", "3000")];
        both_logged(&mesh, client, &pair, &counted)?;
    }
    Ok(())
}

/// The memory of a process, now and at most, in bytes.
fn memory_of(pid: i32) -> Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|line| line.split_ascii_whitespace().next()).and_then(|n| n.parse::<u64>().ok());
        number.with_context(|| format!("{key} in the status of process {pid}"))
    };
    Ok((kib("VmRSS:")? << 10, kib("VmHWM:")? << 10))
}

fn bulk_to_a_slow_reader_takes_bounded_memory(lab: &Lab) -> Result<()> {
    const BULK: u64 = 1 << 30;
    /// Stream windows, the connection's window, buffers of both workers and of the sockets.
    const MOST_HELD: u64 = 48 << 20;
    const MOST_GROWN: u64 = 100 << 20;
    let mut mesh = mesh(lab)?;
    let pids = ["node-1", "node-2"].map(|node| mesh.agent(node).map(|agent| agent.pid()));
    let [first, second] = pids;
    let (first, second) = (first?, second?);
    let mut pair = mesh.pair("mesh/a", "mesh/b", true)?;
    pair.patience(Duration::from_secs(60))?;
    pair.exchange()?;
    let before = (memory_of(first)?.0, memory_of(second)?.0);
    let Pair { mut client, mut server, out, inn, .. } = pair;
    for down in [false, true] {
        let (sender, from, receiver, to, length) = if down {
            (&mut server, inn, &mut client, out, BULK / 8)
        } else {
            (&mut client, out, &mut server, inn, BULK)
        };
        // No reader: the sender is held up when the buffers between are full.
        let held = sender.fill(from)??;
        ensure!(held < MOST_HELD, "{held} bytes were taken and none was read");
        let started = Instant::now();
        thread::scope(|scope| -> Result<()> {
            let sending = scope.spawn(|| sender.send_pattern(from, length));
            receiver.receive_pattern(to, held, 256 << 10, Duration::ZERO)??;
            receiver.receive_pattern(to, length, 1 << 20, Duration::from_millis(1))??;
            sending.join().map_err(|_| anyhow!("panicked"))???;
            Ok(())
        })?;
        println!("{length} bytes in {:?}, {held} between", started.elapsed());
    }
    for (pid, before) in [(first, before.0), (second, before.1)] {
        let (now, most) = memory_of(pid)?;
        println!("agent: {before} before, {most} at most, {now} now");
        ensure!(most < before + MOST_GROWN, "{most} bytes at most, {before} before");
    }
    Ok(())
}

fn stalled_streams_do_not_hold_up_others(lab: &Lab) -> Result<()> {
    const STALLED: usize = 50;
    const PORT_UNREAD: u16 = 9100;
    let mut mesh = laid_out(lab)?;
    // More than all of them may hold within their windows: what they may hold together is a test of limits.
    mesh.options(&["--pod-memory", "1024", "--node-memory", "2048"]);
    mesh.start()?;
    let _servers = mesh.echo(&SERVERS, PORT)?;
    for server in SERVERS {
        // Connections are taken by the kernel (its backlog), and never read.
        let mut unread = Sockets::start(&mesh.bed.app(server)?)?;
        unread.listen(any(PORT_UNREAD))?;
        let crowd = Crowd::to(mesh.at(server, true, PORT_UNREAD)?, STALLED);
        let mut stalled = mesh.bed.app("mesh/a")?.spawn(crowd::stalled, crowd)?;
        let taken: Vec<u64> = stalled.event()?;
        ensure!(taken.len() == STALLED && taken.iter().all(|n| (1..64 << 20).contains(n)), "{taken:?}");
        let open = mesh.connections("node-1", &[("direction", "outbound"), ("path", "hbone")])?;
        ensure!(open.len() == STALLED, "{} connections", open.len());
        // The others are served: small, large, and new ones.
        for ipv4 in [true, false] {
            mesh.call("mesh/a", Dial::to(mesh.at(server, ipv4, PORT)?))?.answered().context("beside 50 stalled")?;
        }
        let mut beside = mesh.pair("mesh/a", server, true)?;
        beside.transfer(16 << 20, false)?;
        beside.transfer(16 << 20, true)?;
        // A connection whose receiver does not read stays open as long as the receiver's end.
        drop((stalled, unread));
        beside.close()?;
        wait_until("the stalled ones to end", || Ok(mesh.connections("node-1", &[])?.is_empty()))?;
    }
    Ok(())
}

fn many_connections(lab: &Lab) -> Result<()> {
    const TOGETHER: usize = 200;
    const ONE_BY_ONE: usize = 1000;
    let mesh = mesh(lab)?;
    let _servers = mesh.echo(&SERVERS, PORT)?;
    for (server, ipv4) in [("mesh/b", true), ("mesh/a2", false)] {
        let crowd = Crowd::to(mesh.at(server, ipv4, PORT)?, TOGETHER);
        let mut together = mesh.bed.app("mesh/a")?.spawn(crowd::together, crowd)?;
        together.event::<()>()?;
        let node = mesh.node_of(server)?;
        let listed =
            |node: &str, direction| Ok::<_, anyhow::Error>(mesh.connections(node, &[("direction", direction)])?.len());
        ensure!(listed("node-1", "outbound")? == TOGETHER && listed(node, "inbound")? == TOGETHER);
        together.tell(&())?;
        together.join().with_context(|| format!("{TOGETHER} connections to {server}"))?;
        wait_until("an empty list", || Ok(listed("node-1", "outbound")? + listed(node, "inbound")? == 0))?;
    }
    let crowd = Crowd::to(mesh.at("mesh/b", true, PORT)?, ONE_BY_ONE);
    let failed = mesh.bed.app("mesh/a")?.act(crowd::one_by_one, crowd)?;
    ensure!(failed.is_empty(), "{} of {ONE_BY_ONE} failed: {failed:?}", failed.len());
    let finished = |node: &str, direction: &str| {
        let lines = mesh.log(node)?;
        Ok::<_, anyhow::Error>(
            lines.iter().filter(|l| l["direction"] == direction && l["reason"] == "finished").count(),
        )
    };
    // Every connection has exactly one line on each side.
    let all = [("node-1", "outbound", 2 * TOGETHER + ONE_BY_ONE), ("node-2", "inbound", TOGETHER + ONE_BY_ONE)];
    for (node, direction, expected) in [all[0], all[1], ("node-1", "inbound", TOGETHER)] {
        wait_until("a line for every connection", || Ok(finished(node, direction)? >= expected))?;
        ensure!(finished(node, direction)? == expected, "{direction} on {node}: {}", finished(node, direction)?);
    }
    Ok(())
}

fn no_application_listens(lab: &Lab) -> Result<()> {
    let mut mesh = mesh(lab)?;
    for (server, ipv4) in from_a() {
        let to = mesh.at(server, ipv4, 7)?;
        mesh.is_reset("mesh/a", Dial::to(to))?;
        let to = to.to_string();
        mesh.logged(
            "node-1",
            &[
                ("direction", "outbound"),
                ("destination_address", &to),
                ("reason", "refused"),
                ("reason_detail", "refused with status 503"),
            ],
        )?;
        let inbound = [("direction", "inbound"), ("destination_address", to.as_str()), ("reason", "connect_failed")];
        mesh.logged(mesh.node_of(server)?, &inbound)?;
    }
    // The twin: without the mesh connect() itself fails. With it, that has succeeded already.
    label(&mut mesh, false)?;
    let failure = mesh.call("mesh/a", Dial::to(mesh.at("mesh/b", true, 7)?))?.failed()?;
    ensure!(failure.errno == libc::ECONNREFUSED && failure.step == "connect", "{failure}");
    Ok(())
}

fn a_node_without_an_agent_is_unreachable(lab: &Lab) -> Result<()> {
    let mut mesh = laid_out(lab)?;
    mesh.start_on("node-1")?;
    let _servers = mesh.echo(&["mesh/b"], PORT)?;
    for ipv4 in [true, false] {
        let to = mesh.at("mesh/b", ipv4, PORT)?;
        mesh.is_reset("mesh/a", Dial::to(to))?;
        let to = to.to_string();
        mesh.logged("node-1", &[("destination_address", &to), ("reason", "unreachable"), ("bytes_sent", "0")])?;
    }
    mesh.start_on("node-2")?;
    for ipv4 in [true, false] {
        mesh.call("mesh/a", Dial::to(mesh.at("mesh/b", ipv4, PORT)?))?.answered()?;
    }
    Ok(())
}

fn every_wait_has_an_end(lab: &Lab) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let mesh = mesh(lab)?;
    let _servers = mesh.echo(&["mesh/b"], PORT)?;
    let mut open = mesh.pair("mesh/a", "mesh/b", true)?;
    open.exchange()?;
    open.patience(PATIENCE)?;
    // A stranger at the tunnel's port who says nothing.
    let mut stranger = Sockets::start(&mesh.bed.app("out/o2")?)?;
    let silent = stranger.connect(mesh.at("mesh/b", true, 15008)?)?;
    stranger.set_patience(silent, PATIENCE)??;
    mesh.bed.fabric().cut()?;
    // A new tunnel, which is not answered.
    mesh.is_reset("mesh/a2", Dial::to(mesh.at("mesh/b", true, PORT)?).patience(PATIENCE))?;
    mesh.logged("node-1", &[("source_workload", "a2"), ("reason", "timeout")])?;
    let end = stranger.read_to_end(silent)?;
    ensure!(end.as_ref().is_ok_and(Vec::is_empty) || end.is_err_and(|e| e.errno == libc::ECONNRESET));
    mesh.logged(
        "node-2",
        &[("source_workload", "o2"), ("destination_address", "10.244.2.10:15008"), ("reason", "timeout")],
    )?;
    // One that was there already: both ends find out by PING.
    open.is_reset()?;
    both_logged(&mesh, "mesh/a", &open, &[("reason", "timeout"), ("bytes_received", "4")])?;
    mesh.bed.fabric().heal()?;
    for from in ["mesh/a", "mesh/a2"] {
        mesh.call(from, Dial::to(mesh.at("mesh/b", true, PORT)?))?.answered().context("after the link has healed")?;
    }
    Ok(())
}

fn a_slow_link(lab: &Lab) -> Result<()> {
    const ONE_WAY: Duration = Duration::from_millis(20);
    let mesh = mesh(lab)?;
    let _servers = mesh.echo(&["mesh/b"], PORT)?;
    mesh.bed.fabric().delay(ONE_WAY)?;
    for ipv4 in [true, false] {
        let called = Instant::now();
        let to = mesh.at("mesh/b", ipv4, PORT)?;
        let who = mesh.call("mesh/a", Dial::to(to))?.answered().with_context(|| to.to_string())?.who()?;
        ensure!(who.peer.ip() == mesh.bed.pod("mesh/a")?.address(ipv4)?, "{who:?}");
        ensure!(called.elapsed() >= 2 * ONE_WAY, "{:?}: not over the link", called.elapsed());
    }
    let crowd = Crowd::to(mesh.at("mesh/b", true, PORT)?, 20);
    ensure!(mesh.bed.app("mesh/a")?.act(crowd::one_by_one, crowd)?.is_empty());
    let mut pair = mesh.pair("mesh/a", "mesh/b", true)?;
    pair.transfer(16 << 20, false)?;
    pair.transfer(16 << 20, true)?;
    pair.client.shutdown_write(pair.out)??;
    ensure!(pair.server_reads()??.is_empty());
    pair.server.send(pair.inn, b"the rest")??;
    pair.server.close(pair.inn)??;
    ensure!(pair.client.read_to_end(pair.out)?? == b"the rest");
    let counted = [("reason", "finished"), ("bytes_received", "16777216"), ("bytes_sent", "16777224")];
    both_logged(&mesh, "mesh/a", &pair, &counted)
}

/// Takes what differs from run to run out of a line, having looked at it.
fn constant_part(mut line: Value) -> Result<Value> {
    let fields = line.as_object_mut().context("a line is an object")?;
    let mut take = |key: &str| fields.remove(key).with_context(|| format!("no {key}"));
    let time = take("time")?;
    ensure!(time.as_str().is_some_and(|t| t.len() == "2026-01-31T23:59:59.999Z".len() && t.ends_with('Z')), "{time}");
    ensure!(take("connection")?.as_u64().is_some_and(|id| id > 0));
    ensure!(take("duration_ms")?.as_f64().is_some_and(|ms| ms > 0.0 && ms < 120_000.0));
    ensure!(take("world")?.as_u64().is_some_and(|version| version > 0));
    Ok(line)
}

fn two_lines_tell_all_about_a_connection(lab: &Lab) -> Result<()> {
    const ALLOW: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: callers-of-b, namespace: mesh}
spec:
  selector: {matchLabels: {app: b}}
  rules: [{from: [{source: {principals: [cluster.local/ns/mesh/sa/a]}}]}]
";
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD), ("services.yaml", SERVICES), ("allow.yaml", ALLOW)])?;
    mesh.start()?;
    let _servers = mesh.echo(&["mesh/b"], PORT)?;
    for (vip, ipv4) in [("10.96.0.1", true), ("fd00:10:96::1", false)] {
        let (from, to) = (mesh.at("mesh/a", ipv4, 41_234)?, mesh.at("mesh/b", ipv4, PORT)?);
        let dial = Dial::to(SocketAddr::new(vip.parse()?, 80)).from_address(from).say("twenty-one characters");
        let talk = mesh.call("mesh/a", dial)?.answered()?;
        let out = mesh.logged("node-1", &[("source_address", &from.to_string())])?;
        let both = json!({
            "path": "hbone",
            "source_workload": "a",
            "source_namespace": "mesh",
            "source_identity": "spiffe://cluster.local/ns/mesh/sa/a",
            "destination_address": to,
            "destination_workload": "b",
            "destination_namespace": "mesh",
            "destination_identity": "spiffe://cluster.local/ns/mesh/sa/b",
            "bytes_received": 21,
            "bytes_sent": talk.reply.len(),
            "reason": "finished",
        });
        let with = |more: Value| {
            let mut line = both.clone();
            if let (Some(line), Some(more)) = (line.as_object_mut(), more.as_object()) {
                line.extend(more.clone());
            }
            line
        };
        let called = SocketAddr::new(vip.parse()?, 80);
        let expected = with(json!({
            "direction": "outbound",
            "source_address": from,
            "service": "mesh/b",
            "service_host": "b.mesh.svc.cluster.local",
            "vip": called,
        }));
        ensure!(constant_part(out.clone())? == expected, "{out:#} instead of {expected:#}");
        let inn = mesh.logged("node-2", &[("destination_address", &to.to_string())])?;
        // The client's port is known where the connection began; at the other end there is the tunnel's.
        let tunnel: SocketAddr = serde_json::from_value(inn["source_address"].clone())?;
        ensure!(tunnel.ip() == from.ip(), "{inn:#}");
        let expected = with(json!({ "direction": "inbound", "source_address": tunnel, "policy": "mesh/callers-of-b" }));
        ensure!(constant_part(inn.clone())? == expected, "{inn:#} instead of {expected:#}");
    }
    Ok(())
}

fn connections_are_listed_while_they_are_open(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    for (server, ipv4) in from_a() {
        let node = mesh.node_of(server)?;
        let mut pair = mesh.pair("mesh/a", server, ipv4)?;
        pair.exchange()?;
        ensure!(pair.seen.ip() == mesh.bed.pod("mesh/a")?.address(ipv4)?, "{}", pair.seen);
        for (node, direction) in [("node-1", "outbound"), (node, "inbound")] {
            let listed = mesh.connections(node, &[("direction", direction)])?;
            let [one] = listed.as_slice() else { anyhow::bail!("{listed:#?}") };
            ensure!(one["source"]["workload"] == "mesh/a" && one["destination"]["workload"] == server, "{one:#}");
            ensure!(one["source"]["identity"] == "spiffe://cluster.local/ns/mesh/sa/a", "{one:#}");
            let counted = (one["bytes_received"].as_u64(), one["bytes_sent"].as_u64());
            ensure!(counted == (Some(4), Some(4)) && one["reason"].is_null(), "{one:#}");
        }
        pair.close()?;
        for node in ["node-1", node] {
            wait_until("an empty list", || Ok(mesh.connections(node, &[])?.is_empty()))?;
        }
    }
    Ok(())
}

/// The serial number of an identity's certificate.
fn serial(mesh: &Mesh, node: &str, identity: &str) -> Result<String> {
    let dump = mesh.admin(node, "/config_dump")?;
    let certificates = dump["certificates"].as_array().context("certificates")?;
    let own =
        certificates.iter().find(|c| c["identity"] == identity).with_context(|| format!("{identity}: {dump:#}"))?;
    Ok(own["serial"].to_string())
}

fn certificates_are_renewed_under_traffic(lab: &Lab) -> Result<()> {
    const RENEWALS: usize = 3;
    let mut mesh = laid_out(lab)?;
    mesh.options(&["--certificate-lifetime", "4"]);
    mesh.start()?;
    let _servers = mesh.echo(&["mesh/a", "mesh/b", "mesh/a2"], PORT)?;
    let mut lasting = mesh.pair("mesh/a", "mesh/b", false)?;
    let calls = [("mesh/a", "mesh/b", true), ("mesh/b", "mesh/a", false), ("mesh/a", "mesh/a2", true)];
    let callers = calls.map(|(from, to, ipv4)| Caller::start(&mesh.bed.app(from)?, Dial::to(mesh.at(to, ipv4, PORT)?)));
    let mut callers = callers.into_iter().collect::<Result<Vec<_>>>()?;
    let mut serials = [("node-1", "a", BTreeSet::new()), ("node-2", "b", BTreeSet::new())];
    wait_until("renewed certificates", || {
        lasting.exchange()?;
        for (node, pod, serials) in &mut serials {
            serials.insert(serial(&mesh, node, &format!("spiffe://cluster.local/ns/mesh/sa/{pod}"))?);
        }
        Ok(serials.iter().all(|(_, _, serials)| serials.len() > RENEWALS))
    })?;
    for caller in &mut callers {
        caller.wait_for_calls(1)?;
        let seen = caller.stop()?;
        println!("{} calls", seen.answered);
        ensure!(seen.answered > 0 && seen.failed.is_empty(), "{seen:?}");
    }
    // It is as old as three certificates, and has not been cut.
    lasting.exchange()
}

fn ready_when_the_manifests_are_applied(lab: &Lab) -> Result<()> {
    let mut mesh = laid_out(lab)?;
    let ready = |mesh: &Mesh| {
        mesh.bed.node("node-1")?.shell()?.act(http::fetch, "http://127.0.0.1:15021/healthz/ready".to_owned())
    };
    // open() of the file waits until it is closed here.
    let held = fs::File::options().write(true).open(mesh.path_of("world.yaml"))?;
    sys::lease(std::os::fd::AsFd::as_fd(&held)).context("a lease on a manifest")?;
    mesh.launch("node-1")?;
    let answer = wait_for("an answer", || {
        let answer = ready(&mesh).unwrap_or_else(|e| format!("{e:#}"));
        Ok(Some(answer).filter(|answer| !answer.contains("refused")))
    })?;
    ensure!(answer.contains("status 503") && answer.contains("the manifests are not read yet"), "{answer}");
    drop(held);
    wait_until("readiness", || Ok(ready(&mesh).is_ok()))?;
    let _servers = mesh.echo(&["mesh/a2"], PORT)?;
    let lines = mesh.log("node-1")?.len();
    mesh.call("mesh/a", Dial::to(mesh.at("mesh/a2", true, PORT)?))?.answered()?;
    mesh.logged_after("node-1", lines, &[("direction", "inbound"), ("path", "hbone"), ("reason", "finished")])?;
    Ok(())
}
