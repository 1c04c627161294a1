//! Services end to end: the endpoint of a call of a VIP, its trace between the nodes and in the access log, and the
//! reasons of refusals. Level kernel: needs root, the kernel programs and the agent. Both families; each behaviour with its
//! failing twin.

use std::{collections::BTreeSet, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use underpass_tests::{
    apps::socket::{Dial, Who},
    mesh::Mesh,
    testbed::{Actor, Capture, Lab},
};

underpass_tests::scenarios! {
    target_ports_by_number_and_by_name,
    headless_services_are_their_pods,
    endpoints_outside_the_mesh_are_untouched_by_their_own_address,
    near_endpoints_are_preferred,
    local_services_stay_on_the_node,
    a_client_keeps_its_endpoint,
    weights_decide,
    what_cannot_be_reached_is_refused_with_a_reason,
    external_names_are_named,
}

const WORLD: &str = include_str!("manifests/two-nodes.yaml");
const TRAFFIC: &str = include_str!("manifests/traffic.yaml");

/// The port of the applications.
const PORT: u16 = 8080;
/// With the label `role: server`: the first on node-1 in zone z1, the others on node-2 in z2.
const SERVERS: [&str; 3] = ["mesh/a2", "mesh/b", "mesh/b2"];
/// By chance all of so many calls go to one of two with a probability of 1 in 2^63.
const CALLS: usize = 64;
/// Enough calls that all of them go to one of three by chance once in 14 million times.
const SOME_CALLS: usize = 16;

/// The nodes have zones, the servers a label in common, and every container a named port.
fn mesh(lab: &Lab) -> Result<Mesh> {
    let mut world = WORLD.replace("image: app}]", "image: app, ports: [{name: http, containerPort: 8080}]}]");
    for (node, zone) in [("node-1", "z1"), ("node-2", "z2")] {
        let labels = format!("{{name: {node}, labels: {{topology.kubernetes.io/zone: {zone}}}}}");
        world = world.replace(&format!("{{name: {node}}}"), &labels);
    }
    for pod in SERVERS {
        let app = pod.trim_start_matches("mesh/");
        world = world.replace(&format!("labels: {{app: {app}}}"), &format!("labels: {{app: {app}, role: server}}"));
    }
    let mut mesh = Mesh::up(lab, &[("world.yaml", &world), ("traffic.yaml", TRAFFIC)])?;
    mesh.start()?;
    Ok(mesh)
}

fn serve(mesh: &Mesh) -> Result<Vec<Actor<()>>> {
    mesh.echo(&SERVERS, PORT)
}

/// The VIP of the n-th service of the manifest.
fn vip(n: u16, ipv4: bool, port: u16) -> SocketAddr {
    match ipv4 {
        true => SocketAddr::from(([10, 96, 1, n.to_be_bytes()[1]], port)),
        // as written: the last group in decimal digits
        false => format!("[fd00:10:96:1::{n}]:{port}").parse().expect("an address"),
    }
}

/// The n-th service answers `pod`, under the VIP that was called.
fn call(mesh: &Mesh, pod: &str, n: u16, ipv4: bool) -> Result<Who> {
    let to = vip(n, ipv4, 80);
    let talk = mesh.call(pod, Dial::to(to))?.answered().with_context(|| format!("{pod} to {to}"))?;
    ensure!(talk.peer == to, "{talk:?}");
    talk.who()
}

/// The pods that answer so many calls of the n-th service, or the first two of them.
fn reached(mesh: &Mesh, pod: &str, n: u16, ipv4: bool, calls: usize) -> Result<BTreeSet<String>> {
    let mut reached = BTreeSet::new();
    for _ in 0..calls {
        reached.insert(call(mesh, pod, n, ipv4)?.app);
        if reached.len() > 1 {
            break;
        }
    }
    Ok(reached)
}

/// Only `server` answers, and not by chance: the same servers behind [`ANYWHERE`] answer in turns.
fn only(mesh: &Mesh, pod: &str, n: u16, ipv4: bool, server: &str) -> Result<()> {
    let all = reached(mesh, pod, n, ipv4, SOME_CALLS)?;
    ensure!(all == BTreeSet::from([server.to_owned()]), "{pod} reached {all:?} by service {n}, not {server} alone");
    Ok(())
}

/// The service of all servers that prefers none of them.
const ANYWHERE: u16 = 3;

fn several(mesh: &Mesh, pod: &str, n: u16, ipv4: bool) -> Result<()> {
    let all = reached(mesh, pod, n, ipv4, CALLS)?;
    ensure!(all.len() > 1, "{pod} only reached {all:?} by service {n}");
    Ok(())
}

fn families<T>(mut each: impl FnMut(bool) -> Result<T>) -> Result<()> {
    [true, false].into_iter().try_for_each(|ipv4| each(ipv4).map(drop))
}

/// A pod is ready, or not any more.
fn ready(mesh: &mut Mesh, pod: &str, is_ready: bool) -> Result<()> {
    let address = mesh.bed.pod(pod)?.v4()?;
    let words = |ready| format!("status: \"{ready}\"}}]\n  podIP: {address}\n");
    let (old, new) = if is_ready { ("False", "True") } else { ("True", "False") };
    mesh.replace("world.yaml", &words(old), &words(new))
}

fn target_ports_by_number_and_by_name(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let _servers = serve(&mesh)?;
    for (n, service) in [(1, "number"), (2, "named")] {
        families(|ipv4| {
            let lines = mesh.log("node-1")?.len();
            let who = call(&mesh, "mesh/a", n, ipv4)?;
            let target = mesh.at("mesh/b", ipv4, PORT)?;
            ensure!(who.local == target && who.peer.ip() == mesh.bed.pod("mesh/a")?.address(ipv4)?, "{who:?}");
            let (service, target, vip) = (format!("mesh/{service}"), target.to_string(), vip(n, ipv4, 80).to_string());
            let host = format!("{}.mesh.svc.cluster.local", service.trim_start_matches("mesh/"));
            let want = [
                ("direction", "outbound"),
                ("path", "hbone"),
                ("service", &service),
                ("service_host", &host),
                ("vip", &vip),
                ("destination_address", &target),
                ("reason", "finished"),
            ];
            mesh.logged_after("node-1", lines, &want)?;
            // The other end knows nothing of services.
            let unknown = [("direction", "inbound"), ("service", "-"), ("vip", "-"), ("destination_address", &*target)];
            mesh.logged("node-2", &unknown)
        })?;
    }
    Ok(())
}

fn headless_services_are_their_pods(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let _servers = serve(&mesh)?;
    let headless = mesh.bed.services().iter().find(|s| s.name == "headless").context("the service")?;
    ensure!(!headless.has_vips && headless.addresses == mesh.bed.pod("mesh/b")?.spec().addresses, "{headless:?}");
    for address in &headless.addresses {
        let to = SocketAddr::new(*address, PORT);
        let lines = mesh.log("node-1")?.len();
        let wire = mesh.bed.capture_wire("node-1")?;
        let who = mesh.call("mesh/a", Dial::to(to).say("headless"))?.answered()?.who()?;
        ensure!(who.local == to && !wire.contains(b"headless")?, "{who:?}");
        let to = to.to_string();
        let want = [("path", "hbone"), ("service", "-"), ("service_host", "-"), ("vip", "-")];
        mesh.logged_after("node-1", lines, &[&want[..], &[("destination_address", &to)]].concat())?;
    }
    Ok(())
}

/// Called by the VIP of a service that has others in the mesh an outside endpoint is passed through by the tunnel; called
/// by its own address, or behind a service without any endpoint in the mesh, the kernel leaves the call alone.
fn endpoints_outside_the_mesh_are_untouched_by_their_own_address(lab: &Lab) -> Result<()> {
    const MIXED: u16 = 9;
    const OUTSIDE: u16 = 10;
    let mesh = mesh(lab)?;
    let _servers = mesh.echo(&["mesh/b", "out/o2"], PORT)?;
    families(|ipv4| {
        let all = reached(&mesh, "mesh/a", MIXED, ipv4, CALLS)?;
        ensure!(all.len() == 2, "{all:?}");
        let o2 = mesh.at("out/o2", ipv4, PORT)?;
        let passed = [("service", "mesh/mixed"), ("path", "passthrough"), ("destination_address", &*o2.to_string())]
            .map(|(key, value)| (key, value.to_owned()));
        let passed: Vec<_> = passed.iter().map(|(key, value)| (*key, value.as_str())).collect();
        mesh.logged("node-1", &passed)?;
        let wire = Capture::start(&mesh.bed.app("mesh/a")?, "eth0")?;
        let talk = mesh.call("mesh/a", Dial::to(o2).say("by its own address"))?.answered()?;
        ensure!(talk.who()?.peer == talk.local, "another socket than the application's: {talk:?}");
        ensure!(wire.count(|s| s.is_opening() && s.source == talk.local && s.destination == o2)? == 1);
        // This VIP is not translated here: the application's own SYN goes out and is not answered.
        let (to, patience) = (vip(OUTSIDE, ipv4, 80), std::time::Duration::from_millis(300));
        mesh.call("mesh/a", Dial::to(to).patience(patience))?.failed()?;
        wire.wait_for("the SYN to the VIP", |s| s.is_opening() && s.destination == to)?;
        // A call that is carried ends behind both, and they have no line.
        call(&mesh, "mesh/a", MIXED, ipv4)?;
        let about =
            |line: &Value| line["service"] == "mesh/outside" || line["source_address"] == talk.local.to_string();
        let lines = mesh.log("node-1")?;
        ensure!(!lines.iter().any(about), "{lines:#?}");
        Ok(())
    })
}

fn near_endpoints_are_preferred(lab: &Lab) -> Result<()> {
    const NEAR: u16 = 4;
    let mut mesh = mesh(lab)?;
    let _servers = serve(&mesh)?;
    families(|ipv4| {
        only(&mesh, "mesh/a", NEAR, ipv4, "mesh/a2")?;
        several(&mesh, "mesh/a", ANYWHERE, ipv4)
    })?;
    // Far ones before none.
    ready(&mut mesh, "mesh/a2", false)?;
    families(|ipv4| {
        let all = reached(&mesh, "mesh/a", NEAR, ipv4, CALLS)?;
        ensure!(all == BTreeSet::from(["mesh/b".to_owned(), "mesh/b2".to_owned()]), "{all:?}");
        Ok(())
    })?;
    ready(&mut mesh, "mesh/a2", true)?;
    families(|ipv4| only(&mesh, "mesh/a", NEAR, ipv4, "mesh/a2"))?;
    // The same where the namespace says it.
    let annotations = "name: mesh\n  annotations: {networking.istio.io/traffic-distribution: PreferClose}\n  labels";
    mesh.replace("world.yaml", "name: mesh\n  labels", annotations)?;
    families(|ipv4| only(&mesh, "mesh/a", ANYWHERE, ipv4, "mesh/a2"))
}

fn local_services_stay_on_the_node(lab: &Lab) -> Result<()> {
    const LOCAL: u16 = 5;
    const REMOTE: u16 = 6;
    let mut mesh = mesh(lab)?;
    let _servers = serve(&mesh)?;
    families(|ipv4| {
        only(&mesh, "mesh/a", LOCAL, ipv4, "mesh/a2")?;
        several(&mesh, "mesh/a", ANYWHERE, ipv4)?;
        // On the other node it is another service.
        call(&mesh, "mesh/b2", REMOTE, ipv4)?;
        refused(&mesh, "mesh/remote", vip(REMOTE, ipv4, 80), "no_local_endpoint")
    })?;
    ready(&mut mesh, "mesh/a2", false)?;
    families(|ipv4| refused(&mesh, "mesh/local", vip(LOCAL, ipv4, 80), "no_local_endpoint"))
}

fn a_client_keeps_its_endpoint(lab: &Lab) -> Result<()> {
    const STICKY: u16 = 7;
    let mut mesh = mesh(lab)?;
    let _servers = serve(&mesh)?;
    let mine = call(&mesh, "mesh/a", STICKY, true)?.app;
    families(|ipv4| {
        let mine = call(&mesh, "mesh/a", STICKY, ipv4)?.app;
        only(&mesh, "mesh/a", STICKY, ipv4, &mine)?;
        several(&mesh, "mesh/a", ANYWHERE, ipv4)
    })?;
    // Another one leaves and comes back: nothing changes. It leaves itself: another one, and as long as that is there.
    let other = SERVERS.into_iter().find(|s| *s != mine).context("another server")?;
    ready(&mut mesh, other, false)?;
    only(&mesh, "mesh/a", STICKY, true, &mine)?;
    ready(&mut mesh, other, true)?;
    only(&mesh, "mesh/a", STICKY, true, &mine)?;
    ready(&mut mesh, &mine, false)?;
    let second = call(&mesh, "mesh/a", STICKY, true)?.app;
    ensure!(second != mine, "{mine} is not ready");
    only(&mesh, "mesh/a", STICKY, true, &second)
}

fn weights_decide(lab: &Lab) -> Result<()> {
    let mut mesh = mesh(lab)?;
    let _servers = serve(&mesh)?;
    families(|ipv4| several(&mesh, "mesh/a", ANYWHERE, ipv4))?;
    let mut weigh = |app: &str, from: Option<u16>, to: u16| {
        let labels = format!("labels: {{app: {app}, role: server}}\n");
        let text = |weight| format!("{labels}  annotations: {{underpass.dev/weight: \"{weight}\"}}\n");
        mesh.replace("world.yaml", &from.map_or_else(|| labels.clone(), text), &text(to))
    };
    weigh("a2", None, 0)?;
    weigh("b", None, 0)?;
    weigh("b2", None, 7)?;
    families(|ipv4| only(&mesh, "mesh/a", ANYWHERE, ipv4, "mesh/b2"))?;
    // Without weights all are alike.
    let seven = "annotations: {underpass.dev/weight: \"7\"}";
    mesh.replace("world.yaml", seven, &seven.replace('7', "0"))?;
    families(|ipv4| several(&mesh, "mesh/a", ANYWHERE, ipv4))
}

/// A call from mesh/a is reset, and the log says why and what was called.
fn refused(mesh: &Mesh, service: &str, to: SocketAddr, reason: &str) -> Result<()> {
    let lines = mesh.log("node-1")?.len();
    mesh.is_reset("mesh/a", Dial::to(to))?;
    let to = to.to_string();
    let host = format!("{}.mesh.svc.cluster.local", service.trim_start_matches("mesh/"));
    let want = [
        ("direction", "outbound"),
        ("path", "none"),
        ("service", service),
        ("service_host", &host),
        ("vip", &to),
        ("destination_address", &to),
        ("reason", reason),
    ];
    mesh.logged_after("node-1", lines, &want).map(drop)
}

fn what_cannot_be_reached_is_refused_with_a_reason(lab: &Lab) -> Result<()> {
    const NUMBER: u16 = 1;
    const UNREADY: u16 = 8;
    let mut mesh = mesh(lab)?;
    let _servers = serve(&mesh)?;
    families(|ipv4| {
        call(&mesh, "mesh/a", NUMBER, ipv4)?;
        refused(&mesh, "mesh/number", vip(NUMBER, ipv4, 81), "unknown_port")?;
        refused(&mesh, "mesh/unready", vip(UNREADY, ipv4, 80), "no_endpoint")
    })?;
    // One that goes, but still serves, is better than none.
    let text = mesh.manifest("traffic.yaml")?.replace("serving: false, terminating", "serving: true, terminating");
    mesh.edit("traffic.yaml", Some(&text))?;
    families(|ipv4| only(&mesh, "mesh/a", UNREADY, ipv4, "mesh/b"))
}

fn external_names_are_named(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let dump = mesh.admin("node-1", "/config_dump")?;
    let findings = dump["findings"].as_array().context("findings")?;
    let found = findings.iter().find(|f| f["object"] == "Service mesh/external").context("about the service")?;
    ensure!(found["field"] == "spec.externalName", "{found}");
    ensure!(found["says"].as_str().is_some_and(|says| says.contains("db.example.com")), "{found}");
    Ok(())
}
