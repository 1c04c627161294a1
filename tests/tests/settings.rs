//! End to end: the settings of a running agent. Level kernel, because a changed setting counts only where it changes what
//! becomes of a connection.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use underpass_tests::{
    mesh::Mesh,
    testbed::{Lab, wait::wait_until},
};

underpass_tests::scenarios! {
    a_setting_changes_under_a_running_agent,
}

/// Two nodes; a and a2 on the first, b on the second, all in the mesh.
const WORLD: &str = include_str!("manifests/two-nodes.yaml");
const NODE: &str = "node-1";
/// Longer than anything here takes, shorter than the drain that must not be waited for.
const PATIENT: Duration = Duration::from_secs(100);

/// Takes a pod out of the mesh, alone.
fn leave(mesh: &mut Mesh, app: &str) -> Result<()> {
    let stays = format!("labels: {{app: {app}}}");
    mesh.replace("world.yaml", &stays, &format!("labels: {{app: {app}, istio.io/dataplane-mode: none}}"))
}

/// One setting of the agent: its values and their source.
fn setting(config: &Value, name: &str) -> Result<Value> {
    let all = config["settings"].as_array().context("settings")?;
    let found = all.iter().find(|s| s["name"] == name).with_context(|| format!("{name} in {config}"))?;
    Ok(json!([found["values"], found["source"]]))
}

/// A pod that leaves keeps its connections for as long as the setting says when it leaves; a file with a mistake changes
/// nothing, and what only a restart can bring is named.
fn a_setting_changes_under_a_running_agent(lab: &Lab) -> Result<()> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    let file = lab.directory().join("settings.yaml");
    let path = file.display().to_string();
    let aside = lab.directory().join("settings.new");
    let write = |text: &str| fs::write(&aside, text).and_then(|()| fs::rename(&aside, &file));
    write("release-drain: 1h\n")?;
    mesh.options(&["--config", &path]);
    mesh.start()?;
    let config = mesh.admin(NODE, "/config")?;
    ensure!(setting(&config, "release-drain")? == json!([["1h"], format!("{path}:1")]), "{config}");
    ensure!(setting(&config, "node")? == json!([[NODE], "flag"]), "{config}");

    let families = [true, false];
    let open = |mesh: &Mesh, pod: &str| families.map(|ipv4| mesh.pair(pod, "mesh/b", ipv4));
    let mut stay = open(&mesh, "mesh/a").into_iter().collect::<Result<Vec<_>>>()?;
    let mut end = open(&mesh, "mesh/a2").into_iter().collect::<Result<Vec<_>>>()?;
    for pair in &mut end {
        pair.exchange()?;
        pair.patience(PATIENT)?;
    }

    write("# a mistake\nrelease-drain: soon\n")?;
    wait_until("the mistake to be found", || Ok(!mesh.admin(NODE, "/config")?["problem"].is_null()))?;
    let config = mesh.admin(NODE, "/config")?;
    ensure!(config["problem"].as_str().is_some_and(|p| p.contains(&format!("{path}:2: release-drain"))), "{config}");
    ensure!(setting(&config, "release-drain")? == json!([["1h"], format!("{path}:1")]), "{config}");
    leave(&mut mesh, "a")?;

    write("release-drain: 0\nworkers: 3\n")?;
    let is_news = || Ok(setting(&mesh.admin(NODE, "/config")?, "release-drain")?[0] == json!(["0"]));
    wait_until("the new drain", is_news)?;
    let config = mesh.admin(NODE, "/config")?;
    ensure!(config["problem"].is_null(), "{config}");
    ensure!(config["needs_restart"][0]["name"] == "workers", "{config}");
    ensure!(setting(&config, "workers")? == json!([[], "default"]), "{config}");

    leave(&mut mesh, "a2")?;
    for pair in &mut end {
        ensure!(pair.client_reads()?.is_err(), "the new drain ends it at once");
    }
    for pair in &mut stay {
        pair.exchange().context("it left while the drain was an hour")?;
    }
    Ok(())
}
