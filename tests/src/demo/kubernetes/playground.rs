//! The playground after the steps: the cluster runs, and here are the commands to try.

use std::fs;

use anyhow::{Context, Result};
use underpass_tests::cluster::NAMESPACE;

use super::{
    super::page::{self, RATINGS_URL},
    stage::{CLIENT, LABEL, NAMESPACES, SECURITY, Stage, exec},
};

/// Writes scripts and says what to try with them.
pub(crate) fn open(stage: &Stage) -> Result<()> {
    let folder = stage.mesh.cluster.bed.lab().directory().join("bin");
    fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
    stage.mesh.cluster.write_scripts(&folder)?;
    let screen = &stage.screen;
    screen.title("\nEverything keeps running. Try, in another terminal as root, in this folder:");
    println!();
    screen.command("here are `kubectl` and `helm`", &format!("export PATH={}:$PATH", folder.display()));
    screen.command("what there is", "kubectl get pods -A -o wide");
    screen.command(
        "into the mesh, without a restart",
        &format!("kubectl label namespace {} {LABEL}=ambient", NAMESPACES.join(" ")),
    );
    screen.command("a call in the mesh", &exec(CLIENT, &page::url()));
    screen.command("policies, and a call that they deny", &format!("kubectl apply -f {SECURITY}"));
    println!("      {}", exec(CLIENT, RATINGS_URL));
    screen.command(
        "every connection is a line",
        &format!("kubectl logs -n {NAMESPACE} -l app.kubernetes.io/name=underpass-agent -c agent -f"),
    );
    let agent = format!("kubectl exec -n {NAMESPACE} ds/underpass-agent -c agent -- underpass");
    screen.command("how an agent stands, and what is open", &format!("{agent} status"));
    println!("      {agent} connections");
    screen.command("a node, as its administrator sees it", &format!("{}/in node-1 ip addr", folder.display()));
    screen.title("\nCtrl-C ends and removes all of it.");
    Ok(())
}
