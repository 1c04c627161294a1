//! Destinations: pods, services and addresses in the mesh and out of it, each as its client and its server see it.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use underpass_tests::{
    apps::{servers, socket::Dial, vip},
    mesh::Mesh,
    testbed::{Capture, Lab, wait::wait_until},
};

use super::setup::{PORT, SERVERS, any, from_a, label, mesh};

pub(crate) fn capture_follows_the_label(lab: &Lab) -> Result<()> {
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

pub(crate) fn addresses_are_as_without_a_mesh(lab: &Lab) -> Result<()> {
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

pub(crate) fn services_lead_to_target_ports(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let _servers = mesh.echo(&SERVERS, PORT)?;
    let services =
        [("mesh/b", "mesh/b", "10.96.0.20", "fd00:10:96::20"), ("mesh/a2", "mesh/a2", "10.96.0.3", "fd00:10:96::3")];
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
    mesh.call("out/o1", Dial::to(SocketAddr::new("10.96.0.20".parse()?, 80)))?.answered().context("by a kube-proxy")?;
    for (vip, service, reason) in
        [("10.96.0.20:81", "mesh/b", "unknown_port"), ("10.96.0.4:80", "mesh/unready", "no_endpoint")]
    {
        mesh.is_reset("mesh/a", Dial::to(vip.parse::<SocketAddr>()?))?;
        mesh.logged("node-1", &[("destination_address", vip), ("service", service), ("reason", reason)])?;
    }
    Ok(())
}

pub(crate) fn a_service_may_lead_to_its_caller(lab: &Lab) -> Result<()> {
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

pub(crate) fn endpoints_outside_the_mesh_are_passed_through(lab: &Lab) -> Result<()> {
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

pub(crate) fn destinations_outside_the_mesh_are_untouched(lab: &Lab) -> Result<()> {
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
