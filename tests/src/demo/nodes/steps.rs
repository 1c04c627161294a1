//! The steps of the demo on plain nodes. Each is an action of a user, and a look at its effect.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::Value;
use underpass_tests::apps::{remote::Sockets, socket::Failure};

use super::{
    super::{
        access_log::{self, field},
        link::{self, TUNNEL_PORT},
        page::{self, PORT, RATINGS_URL, called},
    },
    operate, requests,
    stage::{self, CLIENT, DETAILS, ECHO_PORT, OUTSIDER, PRODUCTPAGE, Processes, RATINGS, SECURITY, Stage},
};

/// In the order in which they are shown: each begins where the one before has ended.
pub(crate) const ALL: [fn(&mut Stage) -> Result<()>; 13] = [
    without_the_mesh,
    into_the_mesh,
    identities,
    refusals,
    a_policy_changes,
    requests::a_waypoint_judges,
    requests::a_canary,
    requests::another_try,
    operate::what_is_open,
    operate::certificates_are_renewed,
    operate::numbers,
    operate::an_agent_takes_over,
    out_of_the_mesh,
];

/// The fields of the client's calls in the access log of ratings' node. All of them: lines of earlier calls of the client to
/// others may still be on their way.
const CLIENT_AT_RATINGS: [(&str, &str); 3] =
    [("direction", "inbound"), ("source_workload", "sleep"), ("destination_workload", "ratings-v1")];

fn without_the_mesh(stage: &mut Stage) -> Result<()> {
    stage.screen.step("Without the mesh: plaintext on the link");
    let wire = stage.mesh.bed.capture_wire("node-1")?;
    visit(stage)?;
    link::shows_plaintext(&mut stage.screen, &wire)
}

fn into_the_mesh(stage: &mut Stage) -> Result<()> {
    stage.screen.step("Into the mesh by a label: the same call, mutual TLS on the link");
    stage.label(true)?;
    let wire = stage.mesh.bed.capture_wire("node-1")?;
    visit(stage)?;
    same_processes(stage)?;
    link::shows_tls_alone(&mut stage.screen, &wire)
}

fn identities(stage: &mut Stage) -> Result<()> {
    stage.screen.step("Identities of both ends, proved by certificates");
    let marks = stage.marks()?;
    let page = visit_once(stage)?;
    let names = [("source_workload", "productpage-v1"), ("destination_workload", "details-v1"), ("path", "hbone")];
    for (pod, direction) in [(PRODUCTPAGE, "outbound"), (DETAILS, "inbound")] {
        let want = [&names[..], &[("direction", direction), ("reason", "finished")]].concat();
        let line = stage.logged(&marks, pod, &want)?;
        print_line(stage, pod, &line)?;
        for (end, account) in [("source", "bookinfo-productpage"), ("destination", "bookinfo-details")] {
            let identity = format!("spiffe://cluster.local/ns/bookinfo/sa/{account}");
            let seen = field(&line, &format!("{end}_identity"));
            stage.screen.expect(&format!("{end}: {identity}"), seen == identity, seen)?;
        }
    }
    let pod = stage.mesh.bed.pod(PRODUCTPAGE)?;
    let addresses: Vec<_> = pod.spec().addresses.iter().map(ToString::to_string).collect();
    let caller = called(&page, "details").and_then(|details| details["caller"].as_str()).unwrap_or("-");
    let promised = format!("details itself saw its client's own address, {caller}, not a proxy's");
    stage.screen.expect(&promised, addresses.iter().any(|a| a == caller), (caller, addresses))
}

fn refusals(stage: &mut Stage) -> Result<()> {
    stage.screen.step("Refusals: a denied call, and a call in plaintext");
    let marks = stage.marks()?;
    stage.screen.does(&format!("{CLIENT} calls {RATINGS_URL}"));
    let answer = stage::get(&stage.mesh, CLIENT, RATINGS_URL)?;
    page::refused(&mut stage.screen, &answer)?;
    let want = [("direction", "outbound"), ("source_workload", "sleep"), ("reason", "refused")];
    let line = stage.logged(&marks, CLIENT, &want)?;
    let detail = field(&line, "reason_detail");
    stage.screen.expect("the tunnel of ratings answered CONNECT with 401", detail.ends_with("401"), detail)?;
    let line = stage.logged(&marks, RATINGS, &CLIENT_AT_RATINGS)?;
    print_line(stage, RATINGS, &line)?;
    let why = (field(&line, "reason"), field(&line, "policy"));
    let promised = "reason: not_allowed, policy: bookinfo/ratings-viewer (ALLOW, but not for this client)";
    stage.screen.expect(promised, why == ("not_allowed", "bookinfo/ratings-viewer"), why)?;
    let (status, first) = stage.explain(CLIENT, &format!("ratings.bookinfo:{PORT}"))?;
    let foretold = status == Some(2) && first.starts_with("denied: not_allowed");
    stage.screen.expect("explain says the same from the manifests alone", foretold, (status, first))?;

    let marks = stage.marks()?;
    let target = SocketAddr::new(stage.mesh.bed.pod(PRODUCTPAGE)?.v4()?, PORT);
    let url = format!("http://{target}/productpage");
    stage.screen.does(&format!("{OUTSIDER}, which is not in the mesh, calls {url}"));
    let answer = stage::get(&stage.mesh, OUTSIDER, &url)?;
    page::refused(&mut stage.screen, &answer)?;
    let line = stage.logged(&marks, PRODUCTPAGE, &[("direction", "inbound"), ("path", "plaintext")])?;
    print_line(stage, PRODUCTPAGE, &line)?;
    let why = (field(&line, "reason"), field(&line, "policy"));
    let promised = "reason: plaintext_refused, policy: bookinfo/default (PeerAuthentication, STRICT)";
    stage.screen.expect(promised, why == ("plaintext_refused", "bookinfo/default"), why)
}

/// The principals of `ratings-viewer` in the sample.
const VIEWERS: &str = "            principals: [cluster.local/ns/bookinfo/sa/bookinfo-reviews]\n";
/// The source that the demo adds.
const ONE_MORE_VIEWER: &str = "        - source:\n            namespaces: [client]\n";
const DENIAL: &str = "no-clients.yaml";
const DENY: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: no-clients
  namespace: bookinfo
spec:
  selector:
    matchLabels:
      app: ratings
  action: DENY
  rules:
    - from:
        - source:
            namespaces: [client]
";

fn a_policy_changes(stage: &mut Stage) -> Result<()> {
    stage.screen.step("A policy changes while everything runs");
    let marks = stage.marks()?;
    let as_it_was = stage.mesh.manifest(SECURITY)?;
    stage.screen.does(&format!("{SECURITY}, ratings-viewer: + source: {{namespaces: [client]}}"));
    stage.mesh.replace(SECURITY, VIEWERS, &format!("{VIEWERS}{ONE_MORE_VIEWER}"))?;
    stage.screen.does(&format!("{CLIENT} calls {RATINGS_URL}"));
    let answer = stage::get(&stage.mesh, CLIENT, RATINGS_URL)?;
    let is_ratings = answer.as_ref().is_ok_and(|page| page["service"] == "ratings");
    stage.screen.expect("it works now", is_ratings, &answer)?;
    let want = [&CLIENT_AT_RATINGS[..], &[("reason", "finished")]].concat();
    let line = stage.logged(&marks, RATINGS, &want)?;
    let policy = field(&line, "policy");
    stage.screen.expect(
        "policy that allowed it: bookinfo/ratings-viewer",
        policy == "bookinfo/ratings-viewer",
        policy,
    )?;

    close_by_policy(stage)?;

    stage.screen.does(&format!("both changes are taken back; {CLIENT} calls {RATINGS_URL}"));
    stage.mesh.edit(DENIAL, None)?;
    stage.mesh.edit(SECURITY, Some(&as_it_was))?;
    let marks = stage.marks()?;
    let answer = stage::get(&stage.mesh, CLIENT, RATINGS_URL)?;
    page::refused(&mut stage.screen, &answer)?;
    let line = stage.logged(&marks, RATINGS, &CLIENT_AT_RATINGS)?;
    let reason = field(&line, "reason");
    stage.screen.expect("reason: not_allowed", reason == "not_allowed", reason)
}

/// A connection is open when a policy comes that denies it.
fn close_by_policy(stage: &mut Stage) -> Result<()> {
    let target = SocketAddr::new(stage.mesh.bed.pod(RATINGS)?.v4()?, ECHO_PORT);
    stage.screen.does(&format!("{CLIENT} opens a connection to {target} and keeps it"));
    let mut client = Sockets::start(&stage.mesh.bed.app(CLIENT)?)?;
    let connection = client.connect(target)?;
    client.send(connection, b"hello\n")??;
    let heard = client.receive(connection, 1)??;
    stage.screen.expect("it is open: an echo came back", !heard.is_empty(), heard)?;
    let marks = stage.marks()?;
    stage.screen.does("no-clients.yaml, new: AuthorizationPolicy no-clients, DENY, source: {namespaces: [client]}");
    stage.mesh.edit(DENIAL, Some(DENY))?;
    let end = client.read_to_end(connection)?;
    let is_reset = matches!(&end, Err(Failure { errno, .. }) if *errno == libc::ECONNRESET);
    stage.screen.expect("the open connection was reset", is_reset, &end)?;
    let line = stage.logged(&marks, RATINGS, &CLIENT_AT_RATINGS)?;
    print_line(stage, RATINGS, &line)?;
    let why = (field(&line, "reason"), field(&line, "policy"));
    let promised = "reason: denied, policy: bookinfo/no-clients";
    stage.screen.expect(promised, why == ("denied", "bookinfo/no-clients"), why)
}

fn out_of_the_mesh(stage: &mut Stage) -> Result<()> {
    stage.screen.step("Out of the mesh: the label is gone, plaintext again");
    stage.label(false)?;
    let wire = stage.mesh.bed.capture_wire("node-1")?;
    visit(stage)?;
    link::shows_plaintext(&mut stage.screen, &wire)?;
    let tunnels = wire.count(|s| s.is_opening() && s.has_port(TUNNEL_PORT))?;
    stage.screen.expect("on the link: no new tunnel", tunnels == 0, tunnels)?;
    same_processes(stage)
}

/// The applications are the processes that they were before the first step.
fn same_processes(stage: &mut Stage) -> Result<()> {
    let (before, after) = (stage.began_with.clone(), stage.processes()?);
    let pid = |all: &Processes| all.get(PRODUCTPAGE).map_or(0, |process| process.pid);
    let (was, is) = (pid(&before), pid(&after));
    let promised = format!("nothing was restarted: productpage was process {was} at first, and is process {is}");
    stage.screen.expect(&promised, before == after, (&before, &after))
}

/// The client calls productpage until every version of reviews has answered.
fn visit(stage: &mut Stage) -> Result<()> {
    let action = format!("{CLIENT} calls {}", page::url());
    page::visit(&mut stage.screen, &action, || stage::get(&stage.mesh, CLIENT, &page::url()))
}

fn visit_once(stage: &mut Stage) -> Result<Value> {
    stage.screen.does(&format!("{CLIENT} calls {}", page::url()));
    let answer = stage::get(&stage.mesh, CLIENT, &page::url())?;
    let is_complete = answer.as_ref().ok().and_then(page::complete).is_some();
    stage.screen.expect("productpage answers, with details and reviews", is_complete, &answer)?;
    answer.ok().context("an answer")
}

/// A line of the access log of a pod's node.
fn print_line(stage: &Stage, pod: &str, line: &Value) -> Result<()> {
    access_log::print_line(&stage.screen, &stage.mesh.bed.pod(pod)?.spec().node, line);
    Ok(())
}
