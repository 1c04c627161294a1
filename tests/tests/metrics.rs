//! Metrics, end to end: what applications send is what a real Prometheus answers, on both sides of every connection.
//! Level kernel.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    apps::{http, pair::Pair, socket::Dial},
    mesh::Mesh,
    prometheus::{self, Prometheus},
    testbed::{Lab, wait::wait_until},
};

underpass_tests::scenarios! {
    prometheus_answers_what_the_applications_sent,
    promtool_and_the_reference_know_every_metric,
    alerts_fire_when_they_should,
    series_of_gone_pods_are_dropped,
    pods_learn_nothing_but_numbers,
}

const WORLD: &str = include_str!("manifests/two-nodes.yaml");
/// a2 may not call b; what is not in the mesh may not call b2.
const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-a2, namespace: mesh}
spec:
  selector: {matchLabels: {app: b}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/mesh/sa/a2]}}]}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: mesh}
spec:
  selector: {matchLabels: {app: b2}}
  mtls: {mode: STRICT}
";
/// The port of the applications.
const PORT: u16 = 8080;

fn mesh(lab: &Lab, options: &[&str]) -> Result<Mesh> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD), ("policy.yaml", POLICY)])?;
    mesh.options(options);
    mesh.start()?;
    Ok(mesh)
}

/// The metrics of a node's agent, as a process of that node reads them.
fn page(mesh: &Mesh, node: &str) -> Result<String> {
    mesh.bed.node(node)?.shell()?.act(http::fetch, "http://127.0.0.1:15020/metrics".to_owned())
}

/// `request` bytes there and `answer` bytes back; both ends stay open.
fn carry(pair: &mut Pair, request: usize, answer: usize) -> Result<()> {
    pair.client.send(pair.out, &vec![b'q'; request])??;
    ensure!(pair.server.receive(pair.inn, request)??.len() == request);
    pair.server.send(pair.inn, &vec![b'a'; answer])??;
    ensure!(pair.client.receive(pair.out, answer)??.len() == answer);
    Ok(())
}

/// Waits until a query has this answer: for each value of `label`, a number.
fn answers(prometheus: &Prometheus, query: &str, label: &str, want: &[(&str, u64)]) -> Result<()> {
    let want: BTreeMap<String, u64> = want.iter().map(|(value, n)| ((*value).to_owned(), *n)).collect();
    let mut last = String::new();
    let waited = wait_until(&format!("the answer to {query}"), || {
        let found = prometheus.query(query)?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of this test")]
        let found: BTreeMap<_, _> =
            found.into_iter().map(|(mut labels, n)| (labels.remove(label).unwrap_or_default(), n as u64)).collect();
        last = format!("{found:?}, not {want:?}");
        Ok(found == want)
    });
    waited.with_context(|| last.clone())
}

fn prometheus_answers_what_the_applications_sent(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab, &[])?;
    let _servers = mesh.echo(&["mesh/b", "mesh/b2"], PORT)?;
    // Across nodes in both families, within a node, and from outside of the mesh.
    let mut pairs = Vec::new();
    for (client, server, ipv4, request, answer) in [
        ("mesh/a", "mesh/b", true, 1000, 10),
        ("mesh/a", "mesh/b", false, 500, 70_000),
        ("mesh/a", "mesh/a2", true, 7, 3),
        ("out/o1", "mesh/b", false, 20, 30),
    ] {
        let mut pair = mesh.pair(client, server, ipv4)?;
        carry(&mut pair, request, answer)?;
        pairs.push(pair);
    }
    for ipv4 in [true, false] {
        mesh.is_reset("mesh/a2", Dial::to(mesh.at("mesh/b", ipv4, PORT)?))?;
        mesh.is_reset("out/o1", Dial::to(mesh.at("mesh/b2", ipv4, PORT)?))?;
    }

    let prometheus = Prometheus::start(&mesh, "node-1", false)?;
    let sum = |what: &str, with: &str, by: &str| format!("sum by ({by}) (istio_tcp_{what}_total{{{with}}})");
    let a_to_b = r#"source_workload="a",destination_workload="b""#;
    let both = |n: u64| [("source", n), ("destination", n)];
    // Every connection is still open.
    answers(&prometheus, &sum("received_bytes", a_to_b, "reporter"), "reporter", &both(1500))?;
    answers(&prometheus, &sum("sent_bytes", a_to_b, "reporter"), "reporter", &both(70_010))?;
    answers(&prometheus, &sum("connections_opened", a_to_b, "reporter"), "reporter", &both(2))?;
    answers(&prometheus, &sum("connections_closed", a_to_b, "reporter"), "reporter", &both(0))?;
    let within =
        r#"source_workload="a",destination_workload="a2",source_principal="spiffe://cluster.local/ns/mesh/sa/a""#;
    answers(&prometheus, &sum("received_bytes", within, "reporter"), "reporter", &both(7))?;
    let plain = r#"source_workload="o1",destination_workload="b""#;
    let security = "connection_security_policy";
    answers(&prometheus, &sum("received_bytes", plain, security), security, &[("none", 20)])?;
    answers(&prometheus, &sum("connections_opened", a_to_b, security), security, &[("mutual_tls", 4)])?;
    // What was refused, and by whom.
    let denied = r#"source_workload="a2",destination_workload="b",response_flags="DENY""#;
    answers(&prometheus, &sum("connections_closed", denied, "reporter"), "reporter", &both(2))?;
    let refused = r#"source_workload="o1",destination_workload="b2",response_flags="DENY""#;
    answers(&prometheus, &sum("connections_closed", refused, "reporter"), "reporter", &[("destination", 2)])?;
    let ends = r#"sum by (reason) (underpass_connection_ends_total{direction="inbound"})"#;
    answers(&prometheus, ends, "reason", &[("denied", 2), ("plaintext_refused", 2)])?;

    for mut pair in pairs {
        pair.close()?;
    }
    answers(&prometheus, &sum("connections_closed", a_to_b, "reporter"), "reporter", &both(2))?;
    answers(&prometheus, &sum("received_bytes", a_to_b, "reporter"), "reporter", &both(1500))?;
    answers(&prometheus, "sum(underpass_connections_open)", "", &[("", 0)])
}

fn promtool_and_the_reference_know_every_metric(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab, &[])?;
    let _servers = mesh.echo(&["mesh/b"], PORT)?;
    for ipv4 in [true, false] {
        mesh.call("mesh/a", Dial::to(mesh.at("mesh/b", ipv4, PORT)?))?.answered()?;
        mesh.is_reset("mesh/a2", Dial::to(mesh.at("mesh/b", ipv4, PORT)?))?;
    }
    let groups = underpass_agent::metrics::groups();
    let known: Vec<_> = groups.iter().flat_map(|(_, families)| *families).map(|family| family.name()).collect();
    for node in ["node-1", "node-2"] {
        let page = page(&mesh, node)?;
        prometheus::lint(&mesh, &page)?;
        for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = line.split(' ').next().unwrap_or_default();
            ensure!(known.contains(&name), "{name} is not in docs/metrics.md");
        }
    }
    let broken = prometheus::lint(&mesh, "no metric at all\n");
    ensure!(broken.is_err(), "promtool takes everything");
    Ok(())
}

fn alerts_fire_when_they_should(lab: &Lab) -> Result<()> {
    prometheus::test_rules(lab, &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metrics/alerts.yaml"))?;
    let rules = include_str!("../../deploy/helm/underpass/files/alerts.yaml");
    let references = [include_str!("../../docs/metrics.md"), include_str!("../../docs/control-metrics.md")].concat();
    let words =
        rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("underpass_"));
    let mut count = 0;
    for name in words {
        ensure!(references.contains(&format!("| `{name}` |")), "{name} is no metric");
        count += 1;
    }
    ensure!(count >= 9, "{count} metrics");
    Ok(())
}

fn series_of_gone_pods_are_dropped(lab: &Lab) -> Result<()> {
    let mut mesh = mesh(lab, &["--metrics-keep-gone", "1"])?;
    let _servers = mesh.echo(&["mesh/b", "mesh/b2"], PORT)?;
    for server in ["mesh/b", "mesh/b2"] {
        mesh.call("mesh/a", Dial::to(mesh.at(server, true, PORT)?))?.answered()?;
    }
    let of = |page: &str, workload: &str| page.contains(&format!("destination_workload=\"{workload}\""));
    wait_until("the series of both", || {
        let page = page(&mesh, "node-1")?;
        Ok(of(&page, "b") && of(&page, "b2"))
    })?;
    let text = mesh.manifest("world.yaml")?;
    let documents = text.split("\n---\n").filter(|document| !document.contains("name: b2\n"));
    let without: Vec<_> = documents.collect();
    mesh.edit("world.yaml", Some(&without.join("\n---\n")))?;
    wait_until("the series of the pod that is gone to go", || Ok(!of(&page(&mesh, "node-1")?, "b2")))?;
    ensure!(of(&page(&mesh, "node-1")?, "b"), "the series of the other stay");
    Ok(())
}

fn pods_learn_nothing_but_numbers(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab, &[])?;
    let node = mesh.bed.node("node-1")?.spec().addresses.clone();
    for address in node {
        let at = |port, path| format!("http://{}{path}", std::net::SocketAddr::new(address, port));
        let app = mesh.bed.app("out/o1")?;
        let page = app.act(http::fetch, at(15020, "/metrics"))?;
        ensure!(page.contains("underpass_build_info"), "{page}");
        for secret in ["PRIVATE", "BEGIN ", "-----"] {
            ensure!(!page.contains(secret), "{secret} in {page}");
        }
        for path in ["/config_dump", "/connections", "/logging"] {
            ensure!(app.act(http::fetch, at(15020, path)).is_err(), "{path} is served on 15020");
            ensure!(app.act(http::fetch, at(15000, path)).is_err(), "{path} is served to pods");
        }
    }
    Ok(())
}
