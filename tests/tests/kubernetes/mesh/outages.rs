//! The control plane dies, the API server, and etcd stands still, while pods that are known call each other without a pause.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use underpass_tests::{
    apps::socket::Dial,
    cluster::Cluster,
    testbed::{
        Lab,
        wait::{slowness, wait_until},
    },
};

use super::{
    NODES, PODS,
    policy::{denied, passes, policy},
    support::{
        Family, PORT, WORLD,
        load::{Load, Open},
    },
};

/// A rule for what mesh/a does.
const OF_A: &str = "[{from: [{source: {principals: [cluster.local/ns/mesh/sa/a]}}]}]";

pub(crate) fn nothing_fails_without_control_and_api_server(lab: &Lab) -> Result<()> {
    let mut cluster = super::up(lab, &[WORLD])?;
    cluster.wait_for_annotated(&PODS)?;
    cluster.wait_for_enrolled(&PODS)?;
    let _servers = cluster.mesh.echo(&["mesh/a2", "mesh/b2"], PORT)?;
    let mut open = Open::new(&cluster.mesh, "mesh/a", "mesh/b", Family::V4, 9000)?;
    let mut load = Load::begin(&cluster.mesh, lab)?;
    // Connections go on, and no agent has another World than before.
    let mut goes_on = |cluster: &Cluster, before: [u64; 2]| -> Result<()> {
        load.goes_on()?;
        open.goes_on()?;
        let now = versions(cluster)?;
        ensure!(now == before, "Worlds {now:?}, before {before:?}");
        Ok(())
    };
    let before = versions(&cluster)?;
    goes_on(&cluster, before)?;

    println!("the API server is gone, and comes back");
    cluster.server.kill()?;
    goes_on(&cluster, before)?;
    cluster.server.start_again()?;
    takes_effect(&cluster, "one", "a2")?;
    let before = versions(&cluster)?;
    goes_on(&cluster, before)?;

    println!("control is gone, then the API server");
    cluster.control.kill()?;
    cluster.kubectl().apply(&policy("two", "b2", "DENY", OF_A))?;
    goes_on(&cluster, before)?;
    cluster.server.kill()?;
    goes_on(&cluster, before)?;
    passes(&cluster.mesh, "mesh/a", "mesh/b2", true)?;

    println!("control starts without an API server");
    cluster.control.launch()?;
    cluster.control.running()?.wait_for_log("control plane started")?;
    goes_on(&cluster, before)?;
    ensure!(!cluster.control.is_ready(), "control is ready without an API server");

    println!("both are back");
    cluster.server.start_again()?;
    cluster.control.wait_until_ready()?;
    cluster.wait_for_policy("mesh/two", true)?;
    denied(&cluster.mesh, "mesh/a", "mesh/b2", true, &[("reason", "denied"), ("policy", "mesh/two")])?;
    // A certificate of the same CA as before.
    takes_effect(&cluster, "three", "a2")?;
    let before = versions(&cluster)?;
    goes_on(&cluster, before)?;
    ensure!(cluster.annotated()? == PODS, "annotations are lost");

    println!("etcd stands still, and goes on");
    cluster.server.pause_etcd()?;
    goes_on(&cluster, before)?;
    passes(&cluster.mesh, "mesh/a", "mesh/a2", true)?;
    cluster.server.resume_etcd()?;
    cluster.server.wait_until_ready()?;
    takes_effect(&cluster, "four", "a2")?;

    println!("etcd forgets what control has not seen");
    let before = versions(&cluster)?;
    cluster.control.running()?.signal(Signal::SIGSTOP)?;
    passes(&cluster.mesh, "mesh/a", "mesh/a2", true)?;
    cluster.kubectl().apply(&policy("five", "a2", "DENY", OF_A))?;
    cluster.kubectl().run(&["delete", "authorizationpolicy", "two", "-n", "mesh"])?;
    cluster.server.kill()?;
    cluster.server.compact_etcd()?;
    goes_on(&cluster, before)?;
    cluster.server.start_again()?;
    cluster.control.running()?.signal(Signal::SIGCONT)?;
    cluster.wait_for_policy("mesh/five", true)?;
    cluster.wait_for_policy("mesh/two", false)?;
    denied(&cluster.mesh, "mesh/a", "mesh/a2", true, &[("reason", "denied"), ("policy", "mesh/five")])?;
    passes(&cluster.mesh, "mesh/a", "mesh/b2", true)?;
    goes_on(&cluster, versions(&cluster)?)?;

    open.ends_in_order()?;
    let (answered, failed) = load.end()?;
    ensure!(answered > 0 && failed.is_empty(), "{answered} answered, {failed:?}");
    Ok(())
}

/// A policy that is applied now denies the calls of mesh/a to another pod, in which nothing else is denied.
fn takes_effect(cluster: &Cluster, name: &str, app: &str) -> Result<()> {
    let full_name = format!("mesh/{name}");
    let server = format!("mesh/{app}");
    passes(&cluster.mesh, "mesh/a", &server, true)?;
    cluster.kubectl().apply(&policy(name, app, "DENY", OF_A))?;
    cluster.wait_for_policy(&full_name, true)?;
    denied(&cluster.mesh, "mesh/a", &server, true, &[("reason", "denied"), ("policy", &full_name)])?;
    cluster.kubectl().run(&["delete", "authorizationpolicy", name, "-n", "mesh"])?;
    cluster.wait_for_policy(&full_name, false)?;
    passes(&cluster.mesh, "mesh/a", &server, true)
}

/// The version of the World of each agent.
fn versions(cluster: &Cluster) -> Result<[u64; 2]> {
    let [one, two] = NODES.map(|node| cluster.mesh.version(node));
    Ok([one?, two?])
}

pub(crate) fn certificates_serve_until_they_expire(lab: &Lab) -> Result<()> {
    let mut cluster = Cluster::up(lab, WORLD)?;
    // A renewal is due after half of it, and so much is left then for what is looked at.
    let lifetime = format!("{}s", 14 * slowness());
    cluster.mesh.options(&["--certificate-lifetime", &lifetime]);
    cluster.start()?;
    cluster.wait_for_enrolled(&PODS)?;
    let _servers = cluster.mesh.echo(&["mesh/a", "mesh/b"], PORT)?;
    let mut open = Open::new(&cluster.mesh, "mesh/a", "mesh/b", Family::V4, 9000)?;
    passes(&cluster.mesh, "mesh/a", "mesh/b", true)?;

    println!("control is gone past half of their life");
    cluster.control.kill()?;
    let of_a = |cluster: &Cluster| state(cluster, "node-1", "spiffe://cluster.local/ns/mesh/sa/a");
    wait_until("the renewal to fail", || Ok(of_a(&cluster)? == "failing"))?;
    passes(&cluster.mesh, "mesh/a", "mesh/b", true)?;
    open.goes_on()?;

    println!("and past their end");
    for node in NODES {
        wait_until(&format!("every certificate of {node} to expire"), || {
            let all = cluster.mesh.admin(node, "/certificates")?;
            Ok(all.as_array().is_some_and(|all| all.iter().all(|own| own["state"] == "expired")))
        })?;
        ensure!(!cluster.mesh.is_ready(node)?, "{node} is ready");
    }
    let lines = cluster.mesh.log("node-1")?.len();
    cluster.mesh.is_reset("mesh/a", Dial::to(cluster.mesh.at("mesh/b", true, PORT)?))?;
    cluster.mesh.logged_after("node-1", lines, &[("direction", "outbound"), ("reason", "no_certificate")])?;
    open.goes_on()?;

    println!("it is back");
    cluster.control.start()?;
    for node in NODES {
        wait_until(&format!("{node} to be ready"), || cluster.mesh.is_ready(node))?;
    }
    passes(&cluster.mesh, "mesh/a", "mesh/b", true)?;
    open.goes_on()?;
    open.ends_in_order()
}

/// The state of a certificate.
fn state(cluster: &Cluster, node: &str, identity: &str) -> Result<String> {
    let all = cluster.mesh.admin(node, "/certificates")?;
    let all = all.as_array().context("a list of certificates")?;
    let own = all.iter().find(|own| own["identity"] == identity).with_context(|| format!("none of {identity}"))?;
    Ok(own["state"].as_str().unwrap_or_default().to_owned())
}
