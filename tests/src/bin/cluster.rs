//! `underpass-cluster`: a cluster of the testbed with the mesh in it, for people. Started and ended by `cargo xtask cluster`, which
//! builds its parts and says where they are.
//!
//! It runs until it is told to end, and everything of it ends with it. Nodes have no names that a shell could use, so it writes
//! scripts that know them into a folder: `kubectl` and `helm`, and `in NODE COMMAND...`. The last is there once all is ready.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    installed::Installed,
    testbed::{
        Kubernetes, Lab,
        harness::{self, Scenario},
        kubernetes::CONTROL_NODE,
    },
};

/// The folder of the scripts.
const FOLDER: &str = "UNDERPASS_CLUSTER";
/// The number of nodes for pods.
const NODES: &str = "UNDERPASS_CLUSTER_NODES";
/// Set: without the mesh.
const BARE: &str = "UNDERPASS_CLUSTER_BARE";

fn main() -> ExitCode {
    harness::main_of(Scenario::new("cluster", run))
}

fn run(lab: &Lab) -> Result<()> {
    let folder = PathBuf::from(
        env::var_os(FOLDER).with_context(|| format!("{FOLDER} names no folder: run `cargo xtask cluster up`"))?,
    );
    let nodes =
        env::var(NODES).ok().map_or(Ok(2), |text| text.parse()).with_context(|| format!("{NODES} is no number"))?;
    ensure!((1..=9).contains(&nodes), "{nodes} nodes: 1 to 9 can be had");
    // A guard: all of it ends with this process.
    let (_mesh, _cluster);
    if env::var_os(BARE).is_some() {
        let cluster = Kubernetes::start(lab, nodes)?;
        ["underpass", "underpass-testapp"].iter().try_for_each(|image| cluster.load_image(image))?;
        write_scripts(&cluster, &folder)?;
        _cluster = cluster;
    } else {
        let mesh = Installed::by_chart(lab, nodes, &[])?;
        write_scripts(&mesh.cluster, &folder)?;
        _mesh = mesh;
    }
    loop {
        std::thread::park(); // a signal ends the process, and the runner removes everything
    }
}

fn write_scripts(cluster: &Kubernetes, folder: &Path) -> Result<()> {
    let control = holder(cluster, CONTROL_NODE)?;
    let kubeconfig = cluster.kubectl().kubeconfig();
    for (name, program) in [("kubectl", cluster.kubectl().program().to_owned()), ("helm", Kubernetes::helm_program()?)]
    {
        let text = format!(
            "#!/bin/sh\n\
             read -r pid < {:?} || exit 1\n\
             exec nsenter --target \"$pid\" --net --pid --mount --wd=\"$PWD\" -- env KUBECONFIG={kubeconfig:?} {program:?} \"$@\"\n",
            control.join("cgroup.procs"),
        );
        write_script(&folder.join(name), &text)?;
    }
    let mut cases = String::new();
    let mut names = Vec::new();
    for node in cluster.bed.nodes() {
        let name = &node.spec().name;
        cases += &format!("  {name}) holder={:?} ;;\n", holder(cluster, name)?);
        names.push(name.as_str());
    }
    let text = format!(
        "#!/bin/sh\n\
         # Runs a command on a node.\n\
         case \"$1\" in\n{cases}  *) echo \"usage: $0 NODE COMMAND...\n  NODE: {}\" >&2; exit 2 ;;\n\
         esac\n\
         shift\n\
         read -r pid < \"$holder/cgroup.procs\" || exit 1\n\
         exec nsenter --target \"$pid\" --net --pid --mount --cgroup -- \"$@\"\n",
        names.join(" ")
    );
    write_script(&folder.join("in"), &text)
}

/// The cgroup of the process that holds a node's namespaces.
fn holder(cluster: &Kubernetes, node: &str) -> Result<PathBuf> {
    match cluster.machine(node) {
        Ok(machine) => Ok(machine.cgroup().to_owned()),
        Err(_) => Ok(cluster.bed.node(node)?.service("init")?.cgroup().context("a cgroup")?.to_owned()),
    }
}

fn write_script(path: &Path, text: &str) -> Result<()> {
    let aside = path.with_extension("new");
    fs::write(&aside, text).with_context(|| format!("write {}", aside.display()))?;
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o755))?;
    fs::rename(&aside, path).with_context(|| format!("move {}", aside.display()))
}
