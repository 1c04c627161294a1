//! The first connection of a pod, from an init container: mutual TLS, under a policy that takes nothing else.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    installed::Installed,
    testbed::{Actor, Io, wait::wait_for},
};

use super::NODES;

/// The text that must not be seen between the nodes.
pub(crate) const SECRET: &str = "a-text-of-a-first-connection";
/// Pods of a Job, and how many of them run at once.
const PODS: [usize; 2] = [6, 3];
/// How often the primary plugin's configuration is written at least, and the pause in between: each time a runtime reads it.
const WRITTEN: usize = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// Every pod of a Job calls the server from its init container and again from its main one; each gets one try.
pub(crate) fn init_containers_call_at_once(mesh: &Installed) -> Result<()> {
    let wire = mesh.cluster.bed.capture_wire(NODES[0])?;
    completes(mesh, "at-once")?;
    ensure!(!wire.contains(SECRET.as_bytes())?, "a first connection was in the clear");
    let source = "\"source_identity\":\"spiffe://cluster.local/ns/shop/sa/client\"";
    mesh.wait_for_line(NODES[1], &[source, "\"direction\":\"inbound\"", "\"path\":\"hbone\""])?;
    // The twin: another identity's is refused, so that the policy is what let the others in.
    apply_job(mesh, "another", "default")?;
    ensure!(!ends(mesh, "another")?, "the policy lets another identity in");
    let source = "\"source_identity\":\"spiffe://cluster.local/ns/shop/sa/default\"";
    mesh.wait_for_line(NODES[1], &[source, "\"direction\":\"inbound\"", "\"reason\":\"not_allowed\""]).map(drop)
}

/// The same while the primary plugin replaces its configuration without a pause.
pub(crate) fn while_the_primary_plugin_writes_its_configuration(mesh: &Installed) -> Result<()> {
    let wire = mesh.cluster.bed.capture_wire(NODES[0])?;
    let machine = mesh.cluster.machine(NODES[0])?;
    let mut writing: Actor<usize> = machine.service("primary")?.spawn(write, ())?;
    writing.event::<()>()?;
    completes(mesh, "meanwhile")?;
    writing.tell(&())?;
    let written = writing.join()?;
    ensure!(written >= WRITTEN, "written {written} times alone");
    ensure!(!wire.contains(SECRET.as_bytes())?, "a first connection was in the clear");
    Ok(())
}

/// Writes the primary's configuration again and again, until it is told to stop: in place, and by a rename, with a change each time.
fn write((): (), io: &mut Io) -> Result<usize> {
    let path = PathBuf::from("/etc/cni/net.d/10-testbed.conflist");
    let text = std::fs::read_to_string(&path)?;
    io.send(&())?;
    let mut written = 0;
    while !io.is_told(PAUSE)? || written < WRITTEN {
        let text = format!("{text}{}", " ".repeat(written % 2 + 1));
        if written % 2 == 0 {
            std::fs::write(&path, text)?;
        } else {
            let aside = path.with_extension("aside");
            std::fs::write(&aside, text)?;
            std::fs::rename(&aside, &path)?;
        }
        written += 1;
    }
    Ok(written)
}

/// Runs a Job of this name as the client; an error where a pod of it fails.
fn completes(mesh: &Installed, name: &str) -> Result<()> {
    apply_job(mesh, name, "client")?;
    ensure!(ends(mesh, name)?, "the Job {name} failed\n{}", mesh.cluster.shown("shop"));
    Ok(())
}

fn apply_job(mesh: &Installed, name: &str, account: &str) -> Result<()> {
    let [completions, parallelism] = PODS;
    mesh.cluster.kubectl().apply(&format!(
        "
apiVersion: batch/v1
kind: Job
metadata: {{name: {name}, namespace: shop}}
spec:
  completions: {completions}
  parallelism: {parallelism}
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      serviceAccountName: {account}
      nodeSelector: {{kubernetes.io/hostname: {}}}
      initContainers: [{}]
      containers: [{}]
",
        NODES[0],
        container("first"),
        container("main"),
    ))
}

/// A container that calls the server once.
pub(crate) fn container(name: &str) -> String {
    format!(
        "{{name: {name}, image: \"localhost/underpass-testapp:testbed\", imagePullPolicy: Never, \
         args: [ask, \"$(SERVER_SERVICE_HOST):80\", {SECRET}]}}"
    )
}

/// Waits until a Job has ended; true where it is complete, false where a pod of it has failed.
fn ends(mesh: &Installed, name: &str) -> Result<bool> {
    wait_for(&format!("the Job {name} to end"), || {
        let job = mesh.cluster.kubectl().get(&["job", name, "-n", "shop"])?;
        let conditions = job["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let is = |of: &str| conditions.iter().any(|c| c["type"] == of && c["status"] == "True");
        Ok(is("Complete").then_some(true).or_else(|| is("Failed").then_some(false)))
    })
    .with_context(|| mesh.cluster.shown("shop"))
}
