//! Faults: no application, no agent, no answer, a slow link.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    apps::{
        crowd::{self, Crowd},
        remote::Sockets,
        socket::Dial,
    },
    testbed::Lab,
};

use super::setup::{PORT, both_logged, from_a, label, laid_out, mesh};

pub(crate) fn no_application_listens(lab: &Lab) -> Result<()> {
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

pub(crate) fn a_node_without_an_agent_is_unreachable(lab: &Lab) -> Result<()> {
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

pub(crate) fn every_wait_has_an_end(lab: &Lab) -> Result<()> {
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

pub(crate) fn a_slow_link(lab: &Lab) -> Result<()> {
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
