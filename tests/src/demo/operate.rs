//! The steps in which an operator looks and works: what is open now, certificates that are renewed under traffic.

use anyhow::{Context, Result};
use serde_json::Value;
use underpass_tests::{
    apps::remote::{Id, Sockets},
    testbed::{Program, wait},
};

use crate::stage::{ECHO_PORT, RATINGS, Stage};

/// On the other node, and allowed to call ratings.
const CALLER: &str = "bookinfo/reviews-v3";
const IDENTITY: &str = "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-reviews";
/// What is sent at a time: enough to be seen in a rate.
const BURST: &[u8] = &[b'x'; 4096];

/// A connection from reviews to the echo server beside ratings, that goes on.
struct Echo {
    client: Sockets,
    connection: Id,
}

impl Echo {
    fn open(stage: &Stage) -> Result<Self> {
        let target = std::net::SocketAddr::new(stage.mesh.bed.pod(RATINGS)?.v4()?, ECHO_PORT);
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
    stage.screen.step("Certificates are renewed, and nobody notices");
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
    stage.screen.expect(&format!("certificate {before} was replaced by {after}"), before != after, &after)?;
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
