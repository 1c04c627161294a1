//! What is attested: the targets that a pod's own object names, to its kubelet, while the object names them.

use anyhow::{Context, Result, ensure};
use underpass_tests::testbed::{Lab, wait::wait_until};

use super::setup::{
    BY_NAME, From, Kubelet, OTHER, PROBED, attested, carried, mesh, probes, refused, service, wait_for_probes, world,
};

/// The targets of pod a at its probed port.
const OF_A: [&str; 2] = ["10.244.1.10 8080", "fd00:10:244:1::10 8080"];

pub(crate) fn the_kubelet_reaches_what_a_pod_names(lab: &Lab) -> Result<()> {
    let (mut mesh, _servers) = mesh(lab, &[], &[("a", BY_NAME)])?;
    let mut kubelet = Kubelet::found(&mut mesh)?;
    ensure!(probes(&mesh)? == OF_A);
    let shell = service(&mesh, "shell")?;
    attested(&mesh, From::Kubelet(&mut kubelet), "mesh/a", PROBED)?;
    refused(&mesh, From::Kubelet(&mut kubelet), "mesh/a", OTHER).context("a port that no probe names")?;
    refused(&mesh, From::Kubelet(&mut kubelet), "mesh/a2", PROBED).context("a pod without probes")?;
    refused(&mesh, From::Site(&shell), "mesh/a", PROBED).context("another cgroup of the node")?;
    // Its cgroup in another network namespace of the node, of a pod outside of the mesh.
    let elsewhere = mesh.bed.node("node-1")?.kubelet()?.in_network_of(&mesh.bed.app("out/o1")?);
    refused(&mesh, From::Site(&elsewhere), "mesh/a", PROBED).context("not from the node's namespace")?;
    // From another node, whose kubelet it is not.
    let far = mesh.bed.node("node-2")?.kubelet()?;
    refused(&mesh, From::Site(&far), "mesh/a", PROBED).context("from another node")?;
    // The twin: what is refused passes without the policy, by way of the tunnel.
    mesh.edit("strict.yaml", None)?;
    attested(&mesh, From::Kubelet(&mut kubelet), "mesh/a", PROBED)?;
    carried(&mesh, From::Kubelet(&mut kubelet), "mesh/a", OTHER)?;
    carried(&mesh, From::Kubelet(&mut kubelet), "mesh/a2", PROBED)?;
    carried(&mesh, From::Site(&shell), "mesh/a", PROBED)?;
    carried(&mesh, From::Site(&elsewhere), "mesh/a", PROBED)?;
    carried(&mesh, From::Site(&far), "mesh/a", PROBED)
}

pub(crate) fn a_probe_names_ports_of_its_own_pod(lab: &Lab) -> Result<()> {
    let asks = |host: &str| {
        format!("{{name: app, image: app, livenessProbe: {{tcpSocket: {{host: {host}, port: {OTHER}}}}}}}")
    };
    let (mut mesh, _servers) = mesh(lab, &[], &[("a", BY_NAME), ("a2", &asks("10.244.1.10"))])?;
    let mut kubelet = Kubelet::found(&mut mesh)?;
    ensure!(probes(&mesh)? == OF_A);
    refused(&mesh, From::Kubelet(&mut kubelet), "mesh/a", OTHER).context("another pod's probe opens no port")?;
    refused(&mesh, From::Kubelet(&mut kubelet), "mesh/a2", OTHER).context("nor one of its own")?;
    // The twin: of its own address it does.
    mesh.edit("world.yaml", Some(&world(&[("a", BY_NAME), ("a2", &asks("10.244.1.11"))])))?;
    wait_for_probes(&mesh, &[OF_A[0], "10.244.1.11 9090", OF_A[1], "fd00:10:244:1::11 9090"])?;
    attested(&mesh, From::Kubelet(&mut kubelet), "mesh/a2", OTHER)?;
    refused(&mesh, From::Kubelet(&mut kubelet), "mesh/a", OTHER)
}

pub(crate) fn a_probe_that_goes_ends_with_its_pod_or_object(lab: &Lab) -> Result<()> {
    let hook = "{name: app, image: app, lifecycle: {preStop: {httpGet: {path: /, port: 9090}}}}";
    let (mut mesh, _servers) = mesh(lab, &[], &[("a", BY_NAME), ("a2", hook)])?;
    let mut kubelet = Kubelet::found(&mut mesh)?;
    attested(&mesh, From::Kubelet(&mut kubelet), "mesh/a", PROBED)?;
    attested(&mesh, From::Kubelet(&mut kubelet), "mesh/a2", OTHER)?;
    let of_a2 = ["10.244.1.11 9090", "fd00:10:244:1::11 9090"];
    // The object names it no longer, while the pod runs; then again.
    mesh.edit("world.yaml", Some(&world(&[("a2", hook)])))?;
    wait_for_probes(&mesh, &of_a2)?;
    refused(&mesh, From::Kubelet(&mut kubelet), "mesh/a", PROBED)?;
    attested(&mesh, From::Kubelet(&mut kubelet), "mesh/a2", OTHER)?;
    mesh.edit("world.yaml", Some(&world(&[("a", BY_NAME), ("a2", hook)])))?;
    wait_for_probes(&mesh, &[OF_A[0], of_a2[0], OF_A[1], of_a2[1]])?;
    attested(&mesh, From::Kubelet(&mut kubelet), "mesh/a", PROBED)?;
    // Its sandbox ends.
    mesh.bed.remove_pod("mesh/a2")?;
    wait_for_probes(&mesh, &OF_A)?;
    // The pods leave the mesh.
    let out = world(&[("a", BY_NAME)]).replace("istio.io/dataplane-mode: ambient", "istio.io/dataplane-mode: none");
    mesh.edit("world.yaml", Some(&out))?;
    mesh.wait_until_all_left()?;
    wait_for_probes(&mesh, &[])
}

pub(crate) fn probes_go_on_without_an_agent(lab: &Lab) -> Result<()> {
    let (mut mesh, _servers) = mesh(lab, &[], &[("a", BY_NAME)])?;
    let mut kubelet = Kubelet::found(&mut mesh)?;
    attested(&mesh, From::Kubelet(&mut kubelet), "mesh/a", PROBED)?;
    mesh.kill("node-1")?;
    attested(&mesh, From::Kubelet(&mut kubelet), "mesh/a", PROBED)?;
    // The next one finds both.
    mesh.start_on("node-1")?;
    mesh.agent("node-1")?.wait_for_log("kubelet found")?;
    attested(&mesh, From::Kubelet(&mut kubelet), "mesh/a", PROBED)?;
    refused(&mesh, From::Kubelet(&mut kubelet), "mesh/a", OTHER)?;
    // So does one that takes over.
    let before = mesh.take_over("node-1")?;
    wait_until("the targets to be there", || Ok(probes(&mesh)? == OF_A))?;
    attested(&mesh, From::Kubelet(&mut kubelet), "mesh/a", PROBED)?;
    refused(&mesh, From::Kubelet(&mut kubelet), "mesh/a", OTHER)?;
    before.terminate().map(drop)
}
