//! Profiles: values under those of the user, for all templates alike.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::helm::{CHART, Helm, Objects, at};

/// A profile gives what the user leaves out, and nothing else.
pub(crate) fn are_under_the_users_values() -> Result<()> {
    let helm = Helm::new()?;
    let check = |values: &str, expected: Value| -> Result<()> {
        let is = facts(&helm.render(values)?)?;
        ensure!(is == expected, "{values}: {is} and not {expected}");
        Ok(())
    };
    let requests = |cpu: &str, memory: &str| json!({"requests": {"cpu": cpu, "memory": memory}});
    let (usual, small) = (requests("100m", "256Mi"), requests("10m", "64Mi"));
    let default = json!([2, usual, usual, true, true, true]);
    for same in ["{}", "profile: default", "profile: ambient", "profile: ''"] {
        check(same, default.clone())?;
    }
    check("profile: demo", json!([1, small, small, true, true, true]))?;
    check("profile: minimal", json!([2, usual, usual, false, false, false]))?;
    // The user's, whether or not it is the value of another profile.
    check("{profile: demo, control: {replicas: 2}}", json!([2, small, small, true, true, true]))?;
    check("{profile: minimal, cni: {enabled: true}}", json!([2, usual, usual, false, true, false]))?;
    let off = "cni: {enabled: false}, control: {removeStartupTaint: false}, agent: {mountBpffs: false}";
    check(&format!("{{profile: default, {off}}}"), json!([2, usual, usual, false, false, false]))?;
    // Resources of the control plane are given as a whole.
    let limit = json!({"limits": {"memory": "128Mi"}});
    for given in ["control", "pilot"] {
        let values = format!("{{profile: demo, {given}: {{resources: {{limits: {{memory: 128Mi}}}}}}}}");
        check(&values, json!([1, limit, small, true, true, true]))?;
    }
    let unknown = helm.text("profile: dmeo").err().context("it is taken")?;
    ensure!(format!("{unknown:#}").contains("profile"), "{unknown:#}");
    Ok(())
}

/// What profiles are about: replicas and resources of the control plane, resources of the agent, and whether the taint is removed, the CNI
/// plugin installed, and the bpf file system mounted.
fn facts(objects: &Objects) -> Result<Value> {
    let control = objects.one("Deployment", "underpass-control")?;
    let agent = objects.container("DaemonSet", "underpass-agent")?;
    let has = |container: &Value, argument: &str| container["args"].to_string().contains(argument);
    let of_control = objects.container("Deployment", "underpass-control")?;
    let taint = objects.one("ValidatingAdmissionPolicy", "underpass-control").is_ok();
    ensure!(taint == has(of_control, "--remove-startup-taint=true"), "{of_control}");
    let mounts = at(objects.one("DaemonSet", "underpass-agent")?, "spec.template.spec.initContainers").is_array();
    let replicas = &control["spec"]["replicas"];
    Ok(json!([replicas, of_control["resources"], agent["resources"], taint, has(agent, "--cni-config-dir"), mounts]))
}

/// The first template that is rendered sees the profile's values, and so do all others: whichever is the first.
pub(crate) fn are_in_every_template() -> Result<()> {
    let mut left = vec![Path::new(CHART).join("templates")];
    let mut seen = BTreeSet::new();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                left.push(entry?.path());
            }
        } else if path.extension().is_none_or(|extension| extension != "tpl") {
            let text = fs::read_to_string(&path)?;
            ensure!(
                text.starts_with("{{- include \"underpass.profile\" . "),
                "{} does not begin with it",
                path.display()
            );
            seen.insert(path);
        }
    }
    ensure!(seen.len() > 5, "{seen:?}");
    Ok(())
}
