//! The steps of the demo. Each is an action of a user, and a look at its effect.

use std::{collections::BTreeSet, net::SocketAddr};

use anyhow::{Context, Result};
use serde_json::Value;
use underpass_tests::{
    apps::{remote::Sockets, socket::Failure},
    testbed::{Capture, packet::Segment},
};

use crate::operate;
use crate::stage::{
    Answer, CLIENT, DETAILS, ECHO_PORT, OUTSIDER, PORT, PRODUCTPAGE, Processes, RATINGS, SECURITY, Stage, field, url_of,
};

/// In the order in which they are shown: each begins where the one before has ended.
pub(crate) const ALL: [fn(&mut Stage) -> Result<()>; 10] = [
    without_the_mesh,
    into_the_mesh,
    identities,
    refusals,
    a_policy_changes,
    operate::what_is_open,
    operate::certificates_are_renewed,
    operate::numbers,
    operate::an_agent_takes_over,
    out_of_the_mesh,
];

/// A part of the answer of details, as a packet capture shows it without a mesh.
const MARKER: &str = "\"service\": \"details\"";
/// HBONE.
const TUNNEL_PORT: u16 = 15008;
/// TLS 1.3 application data (RFC 8446, 5.2).
const TLS_RECORD: [u8; 3] = [0x17, 0x03, 0x03];
/// Which version of reviews a call reaches is not ours to choose: so many calls reach all three.
const CALLS_MAX: usize = 60;

/// The fields of the client's calls in the access log of ratings' node. All of them: lines of earlier calls of the client to
/// others may still be on their way.
const CLIENT_AT_RATINGS: [(&str, &str); 3] =
    [("direction", "inbound"), ("source_workload", "sleep"), ("destination_workload", "ratings-v1")];
const RATINGS_URL: &str = "http://ratings.bookinfo:9080/ratings";

fn without_the_mesh(stage: &mut Stage) -> Result<()> {
    stage.screen.step("Without the mesh: plaintext on the link");
    let wire = stage.mesh.bed.capture_wire("node-1")?;
    visit(stage)?;
    in_the_clear(stage, &wire)
}

fn into_the_mesh(stage: &mut Stage) -> Result<()> {
    stage.screen.step("Into the mesh by a label: the same call, mutual TLS on the link");
    stage.label(true)?;
    let wire = stage.mesh.bed.capture_wire("node-1")?;
    visit(stage)?;
    same_processes(stage)?;

    let frames = wire.frames()?;
    let is_record = |s: &Segment<'_>| s.is_tcp && s.has_port(TUNNEL_PORT) && s.payload.starts_with(&TLS_RECORD);
    let records: Vec<_> = frames.iter().filter_map(|f| f.segment()).filter(is_record).collect();
    let promised = format!("on the link: TLS on port {TUNNEL_PORT}, {} segments of it, such as", records.len());
    stage.screen.expect(&promised, !records.is_empty(), "no TLS record")?;
    if let Some(s) = records.first() {
        let bytes: Vec<_> = s.payload.iter().take(8).map(|b| format!("{b:02x}")).collect();
        stage.screen.quote(&format!(
            "{} > {}  {} bytes: {} ...",
            s.source,
            s.destination,
            s.payload.len(),
            bytes.join(" ")
        ));
    }
    let plain = wire.count(|s| s.is_tcp && s.has_port(PORT) && !s.payload.is_empty())?;
    stage.screen.expect(&format!("on the link: no byte from or to port {PORT}"), plain == 0, plain)?;
    for text in [MARKER, "HTTP/1.1"] {
        let leaked = wire.contains(text.as_bytes())?;
        stage.screen.expect(&format!("on the link: nowhere {text}"), !leaked, "it was there")?;
    }
    Ok(())
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
    let answer = stage.get(CLIENT, RATINGS_URL)?;
    refused(stage, &answer)?;
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
    let answer = stage.get(OUTSIDER, &url)?;
    refused(stage, &answer)?;
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
    let answer = stage.get(CLIENT, RATINGS_URL)?;
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
    let answer = stage.get(CLIENT, RATINGS_URL)?;
    refused(stage, &answer)?;
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
    in_the_clear(stage, &wire)?;
    let tunnels = wire.count(|s| s.is_opening() && s.has_port(TUNNEL_PORT))?;
    stage.screen.expect("on the link: no new tunnel", tunnels == 0, tunnels)?;
    same_processes(stage)
}

/// The client calls productpage until every version of reviews has answered; every answer is complete.
fn visit(stage: &mut Stage) -> Result<()> {
    stage.screen.does(&format!("{CLIENT} calls {}", page_url()));
    let mut versions = BTreeSet::new();
    for call in 1..=CALLS_MAX {
        let answer = stage.get(CLIENT, &page_url())?;
        let page = answer.as_ref().ok();
        let version = page.and_then(complete);
        let Some(version) = version else {
            return stage.screen.expect("productpage answers, with details and reviews", false, &answer);
        };
        versions.insert(version);
        if versions.len() == 3 {
            let promised =
                format!("productpage answers, with details and reviews v1, v2 and v3 in turn ({call} calls)");
            return stage.screen.expect(&promised, true, ());
        }
    }
    stage.screen.expect("reviews v1, v2 and v3 answer in turn", false, versions)
}

fn visit_once(stage: &mut Stage) -> Result<Value> {
    stage.screen.does(&format!("{CLIENT} calls {}", page_url()));
    let answer = stage.get(CLIENT, &page_url())?;
    let is_complete = answer.as_ref().ok().and_then(complete).is_some();
    stage.screen.expect("productpage answers, with details and reviews", is_complete, &answer)?;
    answer.ok().context("an answer")
}

fn refused(stage: &mut Stage, answer: &Answer) -> Result<()> {
    stage.screen.expect("it is refused; the client sees:", answer.is_err(), answer)?;
    answer.as_ref().err().into_iter().for_each(|why| stage.screen.quote(why));
    Ok(())
}

fn page_url() -> String {
    format!("http://productpage.bookinfo:{PORT}/productpage")
}

/// The version of reviews in an answer of productpage, where every service that was to be called has answered.
fn complete(page: &Value) -> Option<String> {
    let named = |value: &Value, name: &str| value["service"] == *name;
    let (details, reviews) = (called(page, "details")?, called(page, "reviews")?);
    let version = reviews["version"].as_str()?;
    let rated = version == "v1" || called(reviews, "ratings").is_some_and(|ratings| named(ratings, "ratings"));
    let all = named(page, "productpage") && named(details, "details") && named(reviews, "reviews") && rated;
    all.then(|| version.to_owned())
}

/// The answer of a called service within its caller's answer.
fn called<'a>(answer: &'a Value, service: &str) -> Option<&'a Value> {
    answer["calls"].get(url_of(service))
}

/// An answer of details can be read on the link.
fn in_the_clear(stage: &mut Stage, wire: &Capture) -> Result<()> {
    let frames = wire.frames()?;
    let has_marker = |s: &Segment<'_>| String::from_utf8_lossy(s.payload).contains(MARKER);
    let found = frames.iter().filter_map(|f| f.segment()).find(has_marker);
    stage.screen.expect("on the link, in plaintext:", found.is_some(), "nothing of it")?;
    let Some(segment) = found else { return Ok(()) };
    let text = String::from_utf8_lossy(segment.payload).into_owned();
    let line = |with: &str| text.lines().find(|line| line.contains(with)).unwrap_or_default().trim().to_owned();
    stage.screen.quote(&format!("{} > {}", segment.source, segment.destination));
    stage.screen.quote(&line("HTTP/1.1"));
    stage.screen.quote(&line(MARKER));
    Ok(())
}

/// The applications are the processes that they were before the first step.
fn same_processes(stage: &mut Stage) -> Result<()> {
    let (before, after) = (stage.began_with.clone(), stage.processes()?);
    let pid = |all: &Processes| all.get(PRODUCTPAGE).map_or(0, |process| process.pid);
    let (was, is) = (pid(&before), pid(&after));
    let promised = format!("nothing was restarted: productpage was process {was} at first, and is process {is}");
    stage.screen.expect(&promised, before == after, (&before, &after))
}

/// A line of the access log of a pod's node, as a table.
fn print_line(stage: &Stage, pod: &str, line: &Value) -> Result<()> {
    let node = &stage.mesh.bed.pod(pod)?.spec().node;
    let (direction, path) = (field(line, "direction"), field(line, "path"));
    stage.screen.does(&format!("access log of {node}: {direction}, {path}"));
    let row = |name: &str, text: &str| stage.screen.quote(&format!("{name:<12} {text}"));
    for end in ["source", "destination"] {
        let of = |key: &str| field(line, &format!("{end}_{key}"));
        row(end, &format!("{}/{} at {}", of("namespace"), of("workload"), of("address")));
        row("", if of("identity") == "-" { "no identity" } else { of("identity") });
    }
    let number = |key: &str| line.get(key).map_or_else(|| "-".to_owned(), ToString::to_string);
    let (there, back, took) = (number("bytes_received"), number("bytes_sent"), number("duration_ms"));
    row("service", field(line, "service"));
    row("carried", &format!("{there} bytes there, {back} back, in {took} ms"));
    row("reason", &format!("{}, policy {}", field(line, "reason"), field(line, "policy")));
    Ok(())
}
