//! Scripts for people who use a cluster of the testbed: its nodes have no names that a shell could use.
//!
//! `kubectl` and `helm` run where the API server is, with the rights of an administrator; `in NODE COMMAND...` runs a command on a
//! node. They are for root, outside of the scenario, and end with it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{CONTROL_NODE, Kubernetes};

impl Kubernetes {
    /// Writes the scripts into a folder: `kubectl`, `helm`, and last `in`.
    pub fn write_scripts(&self, folder: &Path) -> Result<()> {
        let control = holder(self, CONTROL_NODE)?;
        let kubeconfig = self.kubectl().kubeconfig();
        for (name, program) in [("kubectl", self.kubectl().program().to_owned()), ("helm", Kubernetes::helm_program()?)]
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
        for node in self.bed.nodes() {
            let name = &node.spec().name;
            cases += &format!("  {name}) holder={:?} ;;\n", holder(self, name)?);
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
