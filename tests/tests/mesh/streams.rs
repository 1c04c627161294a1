//! Streams: halves, resets, early servers, bulk data and many connections.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use underpass_tests::{
    apps::{
        crowd::{self, Crowd},
        pair::Pair,
        remote::Sockets,
        servers,
        socket::{Dial, Failure},
    },
    testbed::{Lab, wait::wait_until},
};

use super::setup::{PORT, SERVERS, any, both_logged, laid_out, mesh, routes};

pub(crate) fn halves_close_on_their_own(lab: &Lab) -> Result<()> {
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

pub(crate) fn resets_travel(lab: &Lab) -> Result<()> {
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
pub(crate) fn a_reset_after_the_end_of_a_half_travels(lab: &Lab) -> Result<()> {
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

pub(crate) fn servers_may_speak_first(lab: &Lab) -> Result<()> {
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

pub(crate) fn single_bytes_arrive(lab: &Lab) -> Result<()> {
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

pub(crate) fn bulk_to_a_slow_reader_takes_bounded_memory(lab: &Lab) -> Result<()> {
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

pub(crate) fn stalled_streams_do_not_hold_up_others(lab: &Lab) -> Result<()> {
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

pub(crate) fn many_connections(lab: &Lab) -> Result<()> {
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
