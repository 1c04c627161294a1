//! The end of the mesh: `underpass uninstall`, and nodes as they were before it.

use std::{fs, io, net::SocketAddr, path::Path};

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    apps::socket::{self, Dial},
    cluster::NAMESPACE,
    installed::Installed,
    testbed::wait::wait_until,
};

use super::{NODES, pod, site};

/// A text that is seen between the nodes when no tunnel carries it.
const SEEN: &str = "a-text-of-a-pod-without-a-mesh";

/// Nothing is left on the nodes and in the pods, pods that were captured call each other without the mesh, and new ones start.
pub(crate) fn leaves_the_nodes_as_they_were(mesh: &Installed) -> Result<()> {
    let kubectl = mesh.cluster.kubectl();
    // The twin of each look: while the mesh is there it finds something.
    for node in NODES {
        let found = left(mesh, node)?;
        for of in ["/etc/cni/net.d/00-00-underpass.conflist", "/opt/cni/bin/underpass-cni", "/sys/fs/bpf/underpass/"] {
            ensure!(found.iter().any(|path| path.starts_with(of)), "{node}: no {of}: {found:?}");
        }
    }
    for application in ["client", "server"] {
        ensure!(!rules(mesh, application)?.is_empty(), "{application} is not captured");
    }

    // Without the word for it nothing goes.
    mesh.command(&["uninstall"])?.says(1, &["by label: shop", "-y removes it"])?;
    mesh.agent(NODES[0])?;
    let said = mesh.command(&["uninstall", "-y"])?;
    said.says(0, &["by label: shop", "clean: node-1", "Underpass is removed"])
        .with_context(|| mesh.cluster.shown(NAMESPACE))?;
    for node in NODES {
        let found = left(mesh, node)?;
        ensure!(found.is_empty(), "{node}: {found:?}");
    }
    for application in ["client", "server"] {
        let found = rules(mesh, application)?;
        ensure!(found.is_empty(), "{application}: {found:?}");
    }
    for object in ["daemonset/underpass-cleanup", "job/underpass-cleanup", "role/underpass-cleanup"] {
        let found = kubectl.run(&["get", "-n", NAMESPACE, object, "--ignore-not-found", "-o", "name"])?;
        ensure!(found.is_empty(), "{found}");
    }

    // The policies are there, and nothing enforces them.
    kubectl.run(&["get", "peerauthentication", "strict", "-n", "shop"])?;
    let service = kubectl.get(&["service", "server", "-n", "shop"])?;
    let address: SocketAddr = format!("{}:80", service["spec"]["clusterIP"].as_str().context("an address")?).parse()?;
    let wire = mesh.cluster.bed.capture_wire(NODES[0])?;
    let client = site(mesh, "client")?.with_files_of_the_lab();
    client.act(call, Dial::to(address).say(SEEN))?;
    ensure!(wire.contains(SEEN.as_bytes())?, "the call was not seen between the nodes");
    starts(mesh)
}

fn call(dial: Dial) -> Result<()> {
    socket::dial(dial)?.answered().map(drop)
}

/// A new pod in the namespace that is labelled still.
fn starts(mesh: &Installed) -> Result<()> {
    let kubectl = mesh.cluster.kubectl();
    kubectl.apply(&pod("shop", "after"))?;
    let after = || kubectl.get(&["pod", "after", "-n", "shop"]);
    let started = wait_until("a new pod to run", || Ok(after()?["status"]["phase"] == "Running"));
    started.with_context(|| mesh.cluster.shown("shop"))?;
    let annotations = after()?["metadata"]["annotations"].clone();
    ensure!(annotations["ambient.istio.io/redirection"].is_null(), "{annotations}");
    Ok(())
}

/// Files and pins of the mesh on a node.
fn left(mesh: &Installed, node: &str) -> Result<Vec<String>> {
    let site = mesh.cluster.machine(node)?.service("looking")?;
    site.act(find, ())
}

fn find((): ()) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for directory in ["/etc/cni/net.d", "/opt/cni/bin"] {
        list(Path::new(directory), &mut found)?;
    }
    found.retain(|path| path.contains("underpass"));
    list(Path::new("/sys/fs/bpf/underpass"), &mut found)?;
    list(Path::new("/var/lib/underpass"), &mut found)?;
    Ok(found)
}

/// The files at any depth below a directory, where it is there.
fn list(directory: &Path, into: &mut Vec<String>) -> Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("list {}", directory.display()))?,
    };
    for entry in entries {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => list(&entry.path(), into)?,
            false => into.push(entry.path().display().to_string()),
        }
    }
    Ok(())
}

/// The mesh's rules and routes in the network namespace of an application's pod.
fn rules(mesh: &Installed, application: &str) -> Result<Vec<String>> {
    let site = site(mesh, application)?.with_files_of_the_lab();
    let mut found = Vec::new();
    for family in ["-4", "-6"] {
        let all = site.run("ip", &[family, "rule"])? + &site.run("ip", &[family, "route", "show", "table", "all"])?;
        found.extend(all.lines().filter(|line| line.contains("1777")).map(str::to_owned));
    }
    Ok(found)
}
