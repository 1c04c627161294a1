//! End to end: the effect of a change on open connections of every sort. Level kernel: needs root, the kernel programs and the
//! agent. What is denied now ends, with the reason and the policy in both nodes' logs; what stays allowed is never cut.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    apps::{crowd::Caller, pair::Pair, socket::Dial},
    mesh::Mesh,
    testbed::{Lab, wait::wait_until},
};

underpass_tests::scenarios! {
    policies_end_what_they_deny,
    labels_and_identities_end_what_they_deny,
    waypoints_and_objects_end_what_they_deny,
}

const WORLD: &str = include_str!("manifests/two-nodes.yaml");
const FILE: &str = "change.yaml";
const PORT: u16 = 8080;

/// Client, server and path of each connection: node-1 has a, a2 and o1, node-2 has b, b2 and o2; o1 and o2 are outside.
struct Sort {
    name: &'static str,
    client: &'static str,
    server: &'static str,
    /// The service that is called, instead of the server's own address.
    vip: Option<&'static str>,
    ipv4: bool,
    path: &'static str,
}

const fn sort(
    name: &'static str,
    [client, server]: [&'static str; 2],
    vip: Option<&'static str>,
    ipv4: bool,
    path: &'static str,
) -> Sort {
    Sort { name, client, server, vip, ipv4, path }
}

const SORTS: [Sort; 9] = [
    sort("a", ["mesh/a", "mesh/b"], None, true, "hbone"),
    sort("a, IPv6", ["mesh/a", "mesh/b"], None, false, "hbone"),
    sort("a by service", ["mesh/a", "mesh/b"], Some("10.96.0.2"), true, "hbone"),
    sort("a by service, IPv6", ["mesh/a", "mesh/b"], Some("fd00:10:96::2"), false, "hbone"),
    sort("a2", ["mesh/a2", "mesh/b"], None, true, "hbone"),
    sort("b2, on the same node", ["mesh/b2", "mesh/b"], None, false, "hbone"),
    sort("from outside", ["out/o1", "mesh/b"], None, true, "plaintext"),
    sort("to outside", ["mesh/a", "out/o2"], Some("10.96.0.3"), true, "passthrough"),
    sort("to outside, IPv6", ["mesh/a", "out/o2"], Some("fd00:10:96::3"), false, "passthrough"),
];

/// All of a's.
const OF_A: [&str; 4] = ["a", "a, IPv6", "a by service", "a by service, IPv6"];
/// All tunnelled ones to b.
const TUNNELLED: [&str; 6] = ["a", "a, IPv6", "a by service", "a by service, IPv6", "a2", "b2, on the same node"];
/// All to b.
const TO_B: [&str; 7] =
    ["a", "a, IPv6", "a by service", "a by service, IPv6", "a2", "b2, on the same node", "from outside"];
const BY_SERVICE: [&str; 2] = ["a by service", "a by service, IPv6"];
const TO_OUTSIDE: [&str; 2] = ["to outside", "to outside, IPv6"];

/// Services with every port that pairs listen on: of b; and of o2, but that b2 could be an endpoint of it.
fn services(waypoint: &str) -> String {
    let ports: Vec<_> = (20_000..20_200).map(|port| format!("{{name: p{port}, port: {port}}}")).collect();
    let ports = ports.join(", ");
    let service = |name: &str, n: u8, selector: &str| {
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: mesh, labels: {{{waypoint}}}}}
spec:
  {selector}
  clusterIP: 10.96.0.{n}
  clusterIPs: [10.96.0.{n}, 'fd00:10:96::{n}']
  ports: [{ports}]
---"
        )
    };
    let slice = |name: &str, family: &str, o2: &str, b2: &str| {
        format!(
            "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: outside-{name}, namespace: mesh, labels: {{kubernetes.io/service-name: outside}}}}
addressType: {family}
ports: [{ports}]
endpoints:
  - {{addresses: ['{o2}'], conditions: {{ready: true}}}}
  - {{addresses: ['{b2}'], conditions: {{ready: false}}}}
---"
        )
    };
    service("b-too", 2, "selector: {app: b}")
        + &service("outside", 3, "")
        + &slice("v4", "IPv4", "10.244.2.20", "10.244.2.11")
        + &slice("v6", "IPv6", "fd00:10:244:2::20", "fd00:10:244:2::11")
}

fn object(kind: &str, namespace: &str, name: &str, more: &str, spec: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: {namespace}{more}}}
spec: {spec}
---
"
    )
}

/// One change: of the World, and of the file beside it.
struct Row {
    what: &'static str,
    world: Vec<(&'static str, &'static str)>,
    file: String,
    ends: Vec<&'static str>,
    /// The line of the node that ends them; `@`: the direction.
    why: [(&'static str, &'static str); 3],
}

const STAYS: [(&str, &str); 3] = [("@", ""), ("reason", ""), ("policy", "")];

fn row(
    what: &'static str,
    world: &[(&'static str, &'static str)],
    file: String,
    ends: &[&'static str],
    why: [(&'static str, &'static str); 3],
) -> Row {
    Row { what, world: world.to_vec(), file, ends: ends.to_vec(), why }
}

const fn inbound(reason: &'static str, policy: &'static str) -> [(&'static str, &'static str); 3] {
    [("@", "inbound"), ("reason", reason), ("policy", policy)]
}

const fn outbound(reason: &'static str, policy: &'static str) -> [(&'static str, &'static str); 3] {
    [("@", "outbound"), ("reason", reason), ("policy", policy)]
}

/// An ALLOW policy without rules.
fn no_client(namespace: &str, name: &str, app: &str) -> String {
    let spec = format!("{{selector: {{matchLabels: {{app: {app}}}}}}}");
    object("AuthorizationPolicy", namespace, name, "", &spec)
}

fn strict(namespace: &str) -> String {
    object("PeerAuthentication", namespace, "strict", "", "{mtls: {mode: STRICT}}")
}

fn policies() -> Vec<Row> {
    let deny = |more: &str| {
        let spec = "{selector: {matchLabels: {app: b}}, action: DENY, \
                    rules: [{from: [{source: {principals: [cluster.local/ns/mesh/sa/a]}}]}]}";
        object("AuthorizationPolicy", "mesh", "not-a", more, spec)
    };
    let mesh_wide = inbound("not_allowed", "istio-system/closed");
    vec![
        row("DENY", &[], deny(""), &OF_A, inbound("denied", "mesh/not-a")),
        row("DENY, dry run", &[], deny(", annotations: {istio.io/dry-run: 'true'}"), &[], STAYS),
        row("another pod's ALLOW", &[], no_client("mesh", "closed", "a2"), &[], STAYS),
        row("ALLOW without rules, mesh-wide", &[], no_client("istio-system", "closed", "b"), &TO_B, mesh_wide),
        row("STRICT", &[], strict("mesh"), &["from outside"], inbound("plaintext_refused", "mesh/strict")),
        row("STRICT elsewhere", &[], strict("out"), &[], STAYS),
    ]
}

fn identities() -> Vec<Row> {
    let joins = ("labels: {app: o2}", "labels: {app: o2, istio.io/dataplane-mode: ambient}");
    let b_is_hard = ("labels: {app: b}\n", "labels: {app: hard}\n");
    let a_is_x = ("serviceAccountName: a\n", "serviceAccountName: x\n");
    let b_is_x = ("serviceAccountName: b\n", "serviceAccountName: x\n");
    let selected = inbound("not_allowed", "mesh/hard");
    let refused = outbound("plaintext_refused", "out/strict");
    let none = String::new;
    vec![
        row("the endpoint leaves its service", &[b_is_hard], none(), &[], STAYS),
        row("the label is selected", &[b_is_hard], no_client("mesh", "hard", "hard"), &TO_B, selected),
        row("a has another identity", &[a_is_x], none(), &OF_A, outbound("identity", "-")),
        row("b has another identity", &[b_is_x], none(), &TUNNELLED, outbound("identity", "-")),
        row("o2 comes into the mesh", &[joins], none(), &[], STAYS),
        row("o2 comes in, and is strict", &[joins], strict("out"), &TO_OUTSIDE, refused),
    ]
}

/// The mesh with all sorts of connections, under load that no change concerns, and load that many do.
fn under_load(lab: &Lab, test: impl FnOnce(&mut Mesh, &mut BTreeMap<&'static str, Pair>) -> Result<()>) -> Result<()> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD), ("services.yaml", &services(""))])?;
    mesh.start()?;
    let _servers = mesh.echo(&["mesh/b2", "mesh/b"], PORT)?;
    let mut untouched = Caller::start(&mesh.bed.app("mesh/a2")?, Dial::to(mesh.at("mesh/b2", true, PORT)?))?;
    let mut touched = Caller::keeping(&mesh.bed.app("mesh/a")?, Dial::to(mesh.at("mesh/b", true, PORT)?), 20)?;
    let mut open = BTreeMap::new();
    test(&mut mesh, &mut open)?;
    let (touched, untouched) = (touched.stop()?, untouched.stop()?);
    println!("{} answered; of the others {}, {} cut", untouched.answered, touched.answered, touched.failed.len());
    ensure!(untouched.answered > 50 && untouched.failed.is_empty(), "{:?}", untouched.failed);
    ensure!(touched.answered > 20, "what was cut was opened again: {touched:?}");
    Ok(())
}

fn policies_end_what_they_deny(lab: &Lab) -> Result<()> {
    under_load(lab, |mesh, open| policies().iter().try_for_each(|row| turn(mesh, open, row).context(row.what)))
}

fn labels_and_identities_end_what_they_deny(lab: &Lab) -> Result<()> {
    under_load(lab, |mesh, open| identities().iter().try_for_each(|row| turn(mesh, open, row).context(row.what)))
}

fn waypoints_and_objects_end_what_they_deny(lab: &Lab) -> Result<()> {
    under_load(lab, waypoints_and_objects)
}

/// Opens what is not open, makes the change, looks at every connection, and takes the change back.
fn turn(mesh: &mut Mesh, open: &mut BTreeMap<&'static str, Pair>, row: &Row) -> Result<()> {
    open_all(mesh, open)?;
    let lines = [mesh.log("node-1")?.len(), mesh.log("node-2")?.len()];
    if !row.file.is_empty() {
        mesh.edit(FILE, Some(&row.file))?;
    }
    for (old, new) in &row.world {
        mesh.replace("world.yaml", old, new)?;
    }
    look(mesh, open, row, lines)?;
    if !row.world.is_empty() {
        mesh.edit("world.yaml", Some(WORLD))?;
    }
    if !row.file.is_empty() {
        mesh.edit(FILE, None)?;
    }
    for (name, pair) in open.iter_mut() {
        pair.exchange().with_context(|| format!("{name}, after the change was taken back"))?;
    }
    Ok(())
}

fn open_all(mesh: &Mesh, open: &mut BTreeMap<&'static str, Pair>) -> Result<()> {
    for sort in SORTS.iter().filter(|sort| !open.contains_key(sort.name)).collect::<Vec<_>>() {
        let address: IpAddr = match sort.vip {
            Some(vip) => vip.parse()?,
            None => mesh.bed.pod(sort.server)?.address(sort.ipv4)?,
        };
        let pair = Pair::open(&mesh.bed.app(sort.client)?, &mesh.bed.app(sort.server)?, address);
        let mut pair = pair.with_context(|| sort.name)?;
        pair.exchange().with_context(|| sort.name)?;
        open.insert(sort.name, pair);
    }
    Ok(())
}

/// The row's connections have ended, and the log says why; the others talk.
fn look(mesh: &Mesh, open: &mut BTreeMap<&'static str, Pair>, row: &Row, lines: [usize; 2]) -> Result<()> {
    for sort in &SORTS {
        let pair = open.get_mut(sort.name).context("is open")?;
        if !row.ends.contains(&sort.name) {
            pair.exchange().with_context(|| format!("{} stays", sort.name))?;
            continue;
        }
        pair.is_reset().with_context(|| format!("{} ends", sort.name))?;
        let target = mesh.at(sort.server, sort.ipv4, pair.to.port())?.to_string();
        let [(_, direction), reason, policy] = row.why;
        let of = [("destination_address", target.as_str()), ("path", sort.path)];
        let inbound = direction == "inbound";
        let (client_node, server_node) = (mesh.node_of(sort.client)?, mesh.node_of(sort.server)?);
        let after = |node: &str| if node == "node-1" { lines[0] } else { lines[1] };
        let node = if inbound { server_node } else { client_node };
        mesh.logged_after(node, after(node), &[&of[..], &[("direction", direction), reason, policy]].concat())?;
        // And at the other end, where there is one.
        if sort.path == "hbone" {
            let (node, other) = if inbound { (client_node, "outbound") } else { (server_node, "inbound") };
            let line = mesh.logged_after(node, after(node), &[&of[..], &[("direction", other)]].concat())?;
            // With an identity its tunnel may go, before the connection is reset in it.
            let said = line["reason"].as_str();
            let reset = if inbound { "server_reset" } else { "client_reset" };
            ensure!(said == Some(reset) || (reason.1 == "identity" && said == Some("tunnel_closed")), "{line}");
        }
        open.remove(sort.name);
    }
    Ok(())
}

fn waypoints_and_objects(mesh: &mut Mesh, open: &mut BTreeMap<&'static str, Pair>) -> Result<()> {
    let row = |what, ends: &[&'static str], why| row(what, &[], String::new(), ends, why);
    // A waypoint is wanted, and there is none.
    open_all(mesh, open)?;
    let lines = [mesh.log("node-1")?.len(), mesh.log("node-2")?.len()];
    mesh.edit("services.yaml", Some(&services("istio.io/use-waypoint: w")))?;
    let missing = [("@", "outbound"), ("reason", "waypoint_missing"), ("policy", "-")];
    look(mesh, open, &row("a waypoint", &[&BY_SERVICE[..], &TO_OUTSIDE].concat(), missing), lines)
        .context("a waypoint")?;
    mesh.edit("services.yaml", Some(&services("")))?;
    // The services are gone: what was chosen stays chosen.
    open_all(mesh, open)?;
    mesh.edit("services.yaml", None)?;
    look(mesh, open, &row("no services", &[], STAYS), lines).context("no services")?;
    mesh.edit("services.yaml", Some(&services("")))?;
    // The address of b is claimed by another object: new connections are refused, open ones stay.
    let thief = "
apiVersion: v1
kind: Pod
metadata: {name: thief, namespace: out, uid: 00000000-0000-4000-8000-0000000000ff}
spec: {nodeName: node-9, containers: [{name: app, image: app}]}
status: {phase: Running, podIP: 10.244.2.10, podIPs: [{ip: 10.244.2.10}, {ip: 'fd00:10:244:2::10'}]}
";
    mesh.edit(FILE, Some(thief))?;
    look(mesh, open, &row("claimed twice", &[], STAYS), lines).context("claimed twice")?;
    mesh.edit(FILE, None)?;
    // b's object is gone: with it the policies of the connections to b.
    let lines = [mesh.log("node-1")?.len(), mesh.log("node-2")?.len()];
    let (before, of_b) = WORLD.split_once("  name: b\n").context("b")?;
    let start = before.rfind("---").context("the document of b")?;
    let end = of_b.find("---").context("its end")? + before.len() + "  name: b\n".len();
    mesh.edit("world.yaml", Some(&format!("{}{}", &WORLD[..start], &WORLD[end..])))?;
    let gone = [("@", "inbound"), ("reason", "pod_gone"), ("policy", "-")];
    look(mesh, open, &row("b's object", &TO_B, gone), lines).context("b's object")?;
    mesh.edit("world.yaml", Some(WORLD))?;
    open_all(mesh, open)?;
    wait_until("both ends of everything", || Ok(mesh.connections("node-2", &[("direction", "inbound")])?.len() >= 7))
}
