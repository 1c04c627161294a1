//! A node whose power fails: what comes back of it is captured before it talks, or does not start yet.

use anyhow::{Context, Result, ensure};
use underpass_tests::{installed::Installed, testbed::wait::wait_until};

use super::{NODES, away, first, is_ready, pod};

/// A pod of the first node, in the mesh: it calls from its init container each time that it starts.
const CALLER: &str = "caller";

/// While no agent is there: the pod outside runs again, the one of the mesh waits. How often its container was restarted so far.
pub(crate) fn without_an_agent(mesh: &mut Installed) -> Result<u64> {
    let [inside, outside] = [restarts(mesh, "shop", CALLER)?, restarts(mesh, "legacy", "late")?];
    mesh.cluster.machine_mut(NODES[0])?.reboot()?;
    wait_until("the pod outside the mesh to run again", || Ok(restarts(mesh, "legacy", "late")? > outside))?;
    away::waits_for_the_mesh(mesh, CALLER)?;
    ensure!(restarts(mesh, "shop", CALLER)? == inside, "it ran without an agent");
    Ok(inside)
}

/// Everything starts at once, the agent too.
pub(crate) fn with_an_agent(mesh: &mut Installed) -> Result<()> {
    let before = restarts(mesh, "shop", CALLER)?;
    mesh.cluster.machine_mut(NODES[0])?.reboot()?;
    comes_back(mesh, before)?;
    mesh.wait_until_ready()
}

/// It runs again, after so many restarts before: what its conditions say may still be of the time before a reboot.
pub(crate) fn comes_back(mesh: &Installed, before: u64) -> Result<()> {
    wait_until("the pod of the mesh to run again", || Ok(restarts(mesh, "shop", CALLER)? > before))?;
    runs(mesh)
}

/// It has called, and runs.
fn runs(mesh: &Installed) -> Result<()> {
    wait_until("the pod that calls to run", || {
        Ok(is_ready(&mesh.cluster.kubectl().get(&["pod", CALLER, "-n", "shop"])?))
    })
    .with_context(|| mesh.cluster.shown("shop"))
}

/// Begins the pod.
pub(crate) fn begin(mesh: &Installed) -> Result<()> {
    let init = first::container("first");
    let caller = pod("shop", CALLER)
        .replace("  containers:", &format!("  serviceAccountName: client\n  initContainers: [{init}]\n  containers:"));
    mesh.cluster.kubectl().apply(&caller)?;
    runs(mesh)
}

/// How often the container of a pod was started again.
fn restarts(mesh: &Installed, namespace: &str, name: &str) -> Result<u64> {
    let pod = mesh.cluster.kubectl().get(&["pod", name, "-n", namespace])?;
    let status = &pod["status"]["containerStatuses"][0];
    status["restartCount"].as_u64().with_context(|| format!("{name} has no container: {}", pod["status"]))
}
