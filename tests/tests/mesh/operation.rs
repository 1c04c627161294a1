//! Operation: access log, list of connections, renewal of certificates, readiness.

use std::{collections::BTreeSet, fs, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use underpass_tests::{
    apps::{crowd::Caller, http, socket::Dial},
    mesh::Mesh,
    testbed::{
        Lab, sys,
        wait::{wait_for, wait_until},
    },
};

use super::setup::{PORT, SERVICES, WORLD, from_a, laid_out, mesh};

/// Takes what differs from run to run out of a line, having looked at it.
fn constant_part(mut line: Value) -> Result<Value> {
    let fields = line.as_object_mut().context("a line is an object")?;
    let mut take = |key: &str| fields.remove(key).with_context(|| format!("no {key}"));
    let time = take("time")?;
    ensure!(time.as_str().is_some_and(|t| t.len() == "2026-01-31T23:59:59.999Z".len() && t.ends_with('Z')), "{time}");
    ensure!(take("connection")?.as_u64().is_some_and(|id| id > 0));
    ensure!(take("duration_ms")?.as_f64().is_some_and(|ms| ms > 0.0 && ms < 120_000.0));
    ensure!(take("world")?.as_u64().is_some_and(|version| version > 0));
    Ok(line)
}

pub(crate) fn two_lines_tell_all_about_a_connection(lab: &Lab) -> Result<()> {
    const ALLOW: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: callers-of-b, namespace: mesh}
spec:
  selector: {matchLabels: {app: b}}
  rules: [{from: [{source: {principals: [cluster.local/ns/mesh/sa/a]}}]}]
";
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD), ("services.yaml", SERVICES), ("allow.yaml", ALLOW)])?;
    mesh.start()?;
    let _servers = mesh.echo(&["mesh/b"], PORT)?;
    for (vip, ipv4) in [("10.96.0.20", true), ("fd00:10:96::20", false)] {
        let (from, to) = (mesh.at("mesh/a", ipv4, 41_234)?, mesh.at("mesh/b", ipv4, PORT)?);
        let dial = Dial::to(SocketAddr::new(vip.parse()?, 80)).from_address(from).say("twenty-one characters");
        let talk = mesh.call("mesh/a", dial)?.answered()?;
        let out = mesh.logged("node-1", &[("source_address", &from.to_string())])?;
        let both = json!({
            "path": "hbone",
            "source_workload": "a",
            "source_namespace": "mesh",
            "source_identity": "spiffe://cluster.local/ns/mesh/sa/a",
            "destination_address": to,
            "destination_workload": "b",
            "destination_namespace": "mesh",
            "destination_identity": "spiffe://cluster.local/ns/mesh/sa/b",
            "bytes_received": 21,
            "bytes_sent": talk.reply.len(),
            "reason": "finished",
        });
        let with = |more: Value| {
            let mut line = both.clone();
            if let (Some(line), Some(more)) = (line.as_object_mut(), more.as_object()) {
                line.extend(more.clone());
            }
            line
        };
        let called = SocketAddr::new(vip.parse()?, 80);
        let expected = with(json!({
            "direction": "outbound",
            "source_address": from,
            "service": "mesh/b",
            "service_host": "b.mesh.svc.cluster.local",
            "vip": called,
        }));
        ensure!(constant_part(out.clone())? == expected, "{out:#} instead of {expected:#}");
        let inn = mesh.logged("node-2", &[("destination_address", &to.to_string())])?;
        // The client's port is known where the connection began; at the other end there is the tunnel's.
        let tunnel: SocketAddr = serde_json::from_value(inn["source_address"].clone())?;
        ensure!(tunnel.ip() == from.ip(), "{inn:#}");
        let expected = with(json!({ "direction": "inbound", "source_address": tunnel, "policy": "mesh/callers-of-b" }));
        ensure!(constant_part(inn.clone())? == expected, "{inn:#} instead of {expected:#}");
    }
    Ok(())
}

pub(crate) fn connections_are_listed_while_they_are_open(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    for (server, ipv4) in from_a() {
        let node = mesh.node_of(server)?;
        let mut pair = mesh.pair("mesh/a", server, ipv4)?;
        pair.exchange()?;
        ensure!(pair.seen.ip() == mesh.bed.pod("mesh/a")?.address(ipv4)?, "{}", pair.seen);
        for (node, direction) in [("node-1", "outbound"), (node, "inbound")] {
            let listed = mesh.connections(node, &[("direction", direction)])?;
            let [one] = listed.as_slice() else { anyhow::bail!("{listed:#?}") };
            ensure!(one["source"]["workload"] == "mesh/a" && one["destination"]["workload"] == server, "{one:#}");
            ensure!(one["source"]["identity"] == "spiffe://cluster.local/ns/mesh/sa/a", "{one:#}");
            let counted = (one["bytes_received"].as_u64(), one["bytes_sent"].as_u64());
            ensure!(counted == (Some(4), Some(4)) && one["reason"].is_null(), "{one:#}");
        }
        pair.close()?;
        for node in ["node-1", node] {
            wait_until("an empty list", || Ok(mesh.connections(node, &[])?.is_empty()))?;
        }
    }
    Ok(())
}

/// The serial number of an identity's certificate.
fn serial(mesh: &Mesh, node: &str, identity: &str) -> Result<String> {
    let dump = mesh.admin(node, "/config_dump")?;
    let certificates = dump["certificates"].as_array().context("certificates")?;
    let own =
        certificates.iter().find(|c| c["identity"] == identity).with_context(|| format!("{identity}: {dump:#}"))?;
    Ok(own["serial"].to_string())
}

pub(crate) fn certificates_are_renewed_under_traffic(lab: &Lab) -> Result<()> {
    const RENEWALS: usize = 3;
    let mut mesh = laid_out(lab)?;
    mesh.options(&["--certificate-lifetime", "4"]);
    mesh.start()?;
    let _servers = mesh.echo(&["mesh/a", "mesh/b", "mesh/a2"], PORT)?;
    let mut lasting = mesh.pair("mesh/a", "mesh/b", false)?;
    let calls = [("mesh/a", "mesh/b", true), ("mesh/b", "mesh/a", false), ("mesh/a", "mesh/a2", true)];
    let callers = calls.map(|(from, to, ipv4)| Caller::start(&mesh.bed.app(from)?, Dial::to(mesh.at(to, ipv4, PORT)?)));
    let mut callers = callers.into_iter().collect::<Result<Vec<_>>>()?;
    let mut serials = [("node-1", "a", BTreeSet::new()), ("node-2", "b", BTreeSet::new())];
    wait_until("renewed certificates", || {
        lasting.exchange()?;
        for (node, pod, serials) in &mut serials {
            serials.insert(serial(&mesh, node, &format!("spiffe://cluster.local/ns/mesh/sa/{pod}"))?);
        }
        Ok(serials.iter().all(|(_, _, serials)| serials.len() > RENEWALS))
    })?;
    for caller in &mut callers {
        caller.wait_for_calls(1)?;
        let seen = caller.stop()?;
        println!("{} calls", seen.answered);
        ensure!(seen.answered > 0 && seen.failed.is_empty(), "{seen:?}");
    }
    // It is as old as three certificates, and has not been cut.
    lasting.exchange()
}

pub(crate) fn ready_when_the_manifests_are_applied(lab: &Lab) -> Result<()> {
    let mut mesh = laid_out(lab)?;
    let ready = |mesh: &Mesh| {
        mesh.bed.node("node-1")?.shell()?.act(http::fetch, "http://127.0.0.1:15021/healthz/ready".to_owned())
    };
    // open() of the file waits until it is closed here.
    let held = fs::File::options().write(true).open(mesh.path_of("world.yaml")?)?;
    sys::lease(std::os::fd::AsFd::as_fd(&held)).context("a lease on a manifest")?;
    mesh.launch("node-1")?;
    let answer = wait_for("an answer", || {
        let answer = ready(&mesh).unwrap_or_else(|e| format!("{e:#}"));
        Ok(Some(answer).filter(|answer| !answer.contains("refused")))
    })?;
    ensure!(answer.contains("status 503") && answer.contains("the manifests are not read yet"), "{answer}");
    drop(held);
    wait_until("readiness", || Ok(ready(&mesh).is_ok()))?;
    let _servers = mesh.echo(&["mesh/a2"], PORT)?;
    let lines = mesh.log("node-1")?.len();
    mesh.call("mesh/a", Dial::to(mesh.at("mesh/a2", true, PORT)?))?.answered()?;
    mesh.logged_after("node-1", lines, &[("direction", "inbound"), ("path", "hbone"), ("reason", "finished")])?;
    Ok(())
}
