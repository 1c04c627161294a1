//! Who the kubelet is: found by its process, again after it restarted, and in doubt not at all.

use anyhow::{Context, Result, ensure};
use underpass_tests::testbed::{Lab, wait::wait_until};

use super::setup::{BY_NAME, From, Kubelet, PROBED, attested, is_kubelet, kubelets, mesh, refused, service};

pub(crate) fn a_kubelet_restarts(lab: &Lab) -> Result<()> {
    let (mut mesh, _servers) = mesh(lab, &[], &[("a", BY_NAME)])?;
    let first = service(&mesh, "kubelet")?;
    mesh.agent("node-1")?.wait_for_log("kubelet not found")?;
    refused(&mesh, From::Site(&first), "mesh/a", PROBED).context("nothing is the kubelet yet")?;
    let mut kubelet = Kubelet::found(&mut mesh)?;
    attested(&mesh, From::Kubelet(&mut kubelet), "mesh/a", PROBED)?;
    kubelet.kill()?;
    wait_until("the kubelet to be gone from the kernel's table", || Ok(kubelets(&mesh)? == 0))?;
    refused(&mesh, From::Site(&first), "mesh/a", PROBED).context("the cgroup alone is not enough")?;
    let second = service(&mesh, "kubelet-again")?;
    let mut kubelet = Kubelet::start(&second)?;
    wait_until("the second to be found", || is_kubelet(&mesh, &second))?;
    ensure!(!is_kubelet(&mesh, &first)?);
    attested(&mesh, From::Kubelet(&mut kubelet), "mesh/a", PROBED)?;
    refused(&mesh, From::Site(&first), "mesh/a", PROBED)
}

pub(crate) fn of_two_kubelets_neither_counts(lab: &Lab) -> Result<()> {
    let (mut mesh, _servers) = mesh(lab, &[], &[("a", BY_NAME)])?;
    // One in a pod is none by its name, also where the pod has the node's network.
    let pod = mesh.bed.node("node-1")?.cgroup().join("kubepods.slice/kubepods-podx.slice/app.scope");
    let mut in_pod = Kubelet::start(&service(&mesh, "shell")?.in_cgroup(&pod)?)?;
    let mut kubelet = Kubelet::found(&mut mesh)?;
    refused(&mesh, From::Kubelet(&mut in_pod), "mesh/a", PROBED)?;
    attested(&mesh, From::Kubelet(&mut kubelet), "mesh/a", PROBED)?;
    let mut other = Kubelet::start(&service(&mesh, "other")?)?;
    mesh.agent("node-1")?.wait_for_line(&["kubelet not found", "in two cgroups"])?;
    wait_until("neither to be in the kernel's table", || Ok(kubelets(&mesh)? == 0))?;
    refused(&mesh, From::Kubelet(&mut kubelet), "mesh/a", PROBED)?;
    refused(&mesh, From::Kubelet(&mut other), "mesh/a", PROBED)?;
    other.kill()?;
    wait_until("the first to be found again", || Ok(kubelets(&mesh)? == 1))?;
    attested(&mesh, From::Kubelet(&mut kubelet), "mesh/a", PROBED)
}

pub(crate) fn the_setting_names_the_kubelets_cgroup(lab: &Lab) -> Result<()> {
    let options = ["--kubelet-cgroup", "/system.slice/k3s.service"];
    let (mut mesh, _servers) = mesh(lab, &options, &[("a", BY_NAME)])?;
    mesh.agent("node-1")?.wait_for_line(&["kubelet not found", "k3s.service"])?;
    let k3s = service(&mesh, "k3s")?;
    wait_until("the cgroup to be found", || is_kubelet(&mesh, &k3s))?;
    attested(&mesh, From::Site(&k3s), "mesh/a", PROBED).context("by any name")?;
    let mut kubelet = Kubelet::start(&service(&mesh, "kubelet")?)?;
    refused(&mesh, From::Kubelet(&mut kubelet), "mesh/a", PROBED).context("the name alone is not enough")
}
