//! The steps in which an operator looks and works: what is open now, certificates that are renewed, an agent that is
//! replaced, numbers in Prometheus.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::Value;
use underpass_tests::{
    apps::{
        hammer::{self, Hammer},
        remote::{Id, Sockets},
    },
    prometheus::{self, Prometheus, Series},
    testbed::{Exit, Program, wait},
};

use super::stage::{ECHO_PORT, RATINGS, Stage};

/// On the other node, and allowed to call ratings.
const CALLER: &str = "bookinfo/reviews-v3";
const IDENTITY: &str = "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-reviews";
/// Bytes that are sent at a time: enough to be seen in a rate.
const BURST: &[u8] = &[b'x'; 4096];

/// A connection from reviews to the echo server beside ratings, that goes on.
struct Echo {
    client: Sockets,
    connection: Id,
}

impl Echo {
    fn open(stage: &Stage) -> Result<Self> {
        let target = echo_address(stage)?;
        stage.screen.does(&format!("{CALLER} opens a connection to {target} and keeps it"));
        let mut client = Sockets::start(&stage.mesh.bed.app(CALLER)?)?;
        let connection = client.connect(target)?;
        // The first answer is a line that says who calls; from then on it is an echo.
        client.send(connection, b"?")??;
        while client.receive(connection, 1)?? != b"\n" {}
        let mut it = Self { client, connection };
        it.ping()?;
        Ok(it)
    }

    /// There and back.
    fn ping(&mut self) -> Result<()> {
        self.client.send(self.connection, BURST)??;
        let heard = self.client.receive(self.connection, BURST.len())??;
        anyhow::ensure!(heard == BURST, "the echo differs");
        Ok(())
    }
}

fn echo_address(stage: &Stage) -> Result<SocketAddr> {
    Ok(SocketAddr::new(stage.mesh.bed.pod(RATINGS)?.v4()?, ECHO_PORT))
}

/// `underpass connections --watch`: live rates.
pub(crate) fn what_is_open(stage: &mut Stage) -> Result<()> {
    stage.screen.step("What is open now: underpass connections --watch");
    let mut echo = Echo::open(stage)?;
    let node = stage.mesh.node_of(RATINGS)?.to_owned();
    let status = stage.underpass(&node, &["status"])?;
    status.lines().take(3).for_each(|line| stage.screen.quote(line));
    let arguments = ["connections", "--watch=0.2", "--pod", CALLER];
    stage.screen.does(&format!("{node}: underpass {}", arguments.join(" ")));
    let program =
        Program::new(&stage.cli).args(arguments).env("UNDERPASS_AGENT", stage.mesh.target(&node)).named("connections");
    let watching = stage.mesh.bed.node(&node)?.shell()?.start(&program)?;
    let moves = |line: &&str| line.contains(CALLER) && line.contains("KiB/s");
    let table = wait::wait_for("a connection that moves, in what connections --watch shows", || {
        echo.ping()?;
        let shown = watching.log()?;
        let Some(table) = shown.split("\n\n").find(|table| table.lines().any(|line| moves(&line))) else {
            return Ok(None);
        };
        Ok(Some(table.to_owned()))
    })?;
    watching.kill()?;
    table.lines().for_each(|line| stage.screen.quote(line));
    let inbound = table.lines().any(|line| moves(&line) && line.contains("inbound") && line.contains("hbone"));
    stage.screen.expect("the connection, inbound over HBONE, with what it carries each second", inbound, &table)
}

/// A certificate is renewed while a connection is open, and the next connection shows the new one.
pub(crate) fn certificates_are_renewed(stage: &mut Stage) -> Result<()> {
    stage.screen.step("Certificates are renewed, open connections go on");
    let mut echo = Echo::open(stage)?;
    let node = stage.mesh.node_of(CALLER)?.to_owned();
    let shown = stage.underpass(&node, &["certificates"])?;
    shown.lines().take(2).for_each(|line| stage.screen.quote(line));
    let before = serial(stage, &node)?;
    stage.screen.does("a lifetime of seconds here, of a day otherwise: it is renewed at half of it");
    let after = wait::wait_for("another certificate of reviews", || {
        echo.ping()?;
        Ok(Some(serial(stage, &node)?).filter(|serial| *serial != before))
    })?;
    stage.screen.quote(&format!("certificate {before} was replaced by {after}"));
    let still = echo.ping();
    stage.screen.expect("the open connection goes on", still.is_ok(), &still)?;
    let again = Echo::open(stage);
    stage.screen.expect("and another one can be opened", again.is_ok(), again.as_ref().err())
}

/// The serial number of the caller's certificate now.
fn serial(stage: &Stage, node: &str) -> Result<String> {
    let all: Vec<Value> = serde_json::from_str(&stage.mesh.underpass(node, &["certificates", "-o", "json"])?)?;
    let own = all.iter().find(|certificate| certificate["identity"] == IDENTITY);
    let serial = own.and_then(|certificate| certificate["serial"].as_str());
    serial.map(str::to_owned).with_context(|| format!("no certificate of {IDENTITY} in {all:?}"))
}

/// Connections before and after the hand-over that have to be answered.
const CALLS: u64 = 20;

/// A second agent takes over under traffic.
pub(crate) fn an_agent_takes_over(stage: &mut Stage) -> Result<()> {
    stage.screen.step("An upgrade: a second agent takes over, under traffic");
    let mut echo = Echo::open(stage)?;
    let node = stage.mesh.node_of(RATINGS)?.to_owned();
    stage.screen.does(&format!("{CALLER} opens connections to ratings without a pause, and counts"));
    let until = stage.mesh.bed.lab().directory().join("enough");
    let order = Hammer::new(vec![echo_address(stage)?], "HELLO", &until);
    let mut calls = hammer::start(&stage.mesh.bed.app(CALLER)?, order)?;
    hammer::answers(&mut calls, CALLS)?;
    stage.screen.does(&format!("{node}: another underpass-agent, with --take-over"));
    let mut before = stage.mesh.take_over(&node)?;
    hammer::answers(&mut calls, CALLS)?;
    let still = echo.ping();
    stage.screen.expect("the connection that was open goes on, in the agent before", still.is_ok(), &still)?;
    drop(echo);
    stage.screen.does("it is closed: nothing is left for the agent before");
    let exit = before.wait()?;
    stage.screen.expect("which drained, and ended by itself", exit == Exit::Code(0), exit)?;
    hammer::answers(&mut calls, CALLS)?;
    std::fs::write(&until, "")?;
    let (answered, failed) = calls.join()?;
    stage.screen.expect(&format!("{answered} connections meanwhile, 0 failed"), failed.is_empty(), &failed)
}

/// The demo's queries, and the labels that an answer must have.
const QUERIES: [(&str, &[(&str, &str)]); 3] = [
    (
        "sum by (source_workload, destination_workload) (istio_tcp_connections_opened_total{reporter=\"source\"})",
        &[("source_workload", "productpage-v1"), ("destination_workload", "details-v1")],
    ),
    (
        "sum by (source_workload, destination_workload) (istio_tcp_connections_closed_total{response_flags=\"DENY\", reporter=\"destination\"})",
        &[("source_workload", "sleep"), ("destination_workload", "ratings-v1")],
    ),
    ("sum by (reason) (underpass_connection_ends_total)", &[("reason", "finished")]),
];
/// Of each answer.
const SHOWN_SERIES: usize = 6;

/// Istio's metrics, in a real Prometheus.
pub(crate) fn numbers(stage: &mut Stage) -> Result<()> {
    stage.screen.step("Numbers: Istio's metrics, in Prometheus");
    if !prometheus::is_there() {
        stage.screen.quote("Prometheus is not installed: the numbers stand on port 15020 of each node, /metrics");
        return Ok(());
    }
    stage.screen.does("Prometheus scrapes port 15020 of both nodes");
    let prometheus = Prometheus::start(&stage.mesh, "node-1", false)?;
    for (query, wanted) in QUERIES {
        stage.screen.does(query);
        let has = |(labels, value): &Series| {
            *value >= 1.0 && wanted.iter().all(|(name, want)| labels.get(*name).is_some_and(|is| is == want))
        };
        let answer = wait::wait_for(&format!("{wanted:?} in the answer"), || {
            Ok(Some(prometheus.query(query)?).filter(|answer| answer.iter().any(has)))
        })?;
        for (labels, value) in answer.iter().take(SHOWN_SERIES) {
            let labels: Vec<_> = labels.values().rev().map(String::as_str).collect();
            stage.screen.quote(&format!("{value:>6}  {}", labels.join(" -> ")));
        }
        let names: Vec<_> = wanted.iter().map(|(_, value)| *value).collect();
        stage.screen.expect(&format!("{} among them", names.join(" -> ")), answer.iter().any(has), &answer)?;
    }
    Ok(())
}
