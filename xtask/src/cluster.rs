//! `cargo xtask cluster`: a cluster of the testbed for people; and the parts of any cluster of the testbed: the programs of
//! Kubernetes and of a node, Helm, and images.
//!
//! The cluster is a program of tests/ that runs in the background: its pid and scripts for its user are in target/cluster. What
//! must hold: only that program is ever sent a signal.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::build::Programs;
use crate::ebpf;
use crate::image;
use crate::install::containers::{self, Containers};
use crate::install::helm;
use crate::install::kubernetes::{self, Kubernetes};
use crate::process::Cmd;
use crate::test::means;
use crate::workspace::Workspace;

/// The program, as /proc/PID/comm has it.
const PROGRAM: &str = "underpass-cluster";
/// The interval between two looks at it.
const LOOK: Duration = Duration::from_millis(200);

/// Arguments of `cluster`.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Start a cluster and install Underpass into it; prints how to use it
    Up {
        /// Nodes for pods
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
        nodes: u8,
        /// Without Underpass; its image is loaded
        #[arg(long)]
        bare: bool,
    },
    /// End the cluster and remove everything of it
    Down,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let folder = workspace.root().join("target/cluster");
    match options.command {
        Action::Up { nodes, bare } => up(workspace, &folder, nodes, bare),
        Action::Down => down(&folder),
    }
}

fn up(workspace: &Workspace, folder: &Path, nodes: u8, bare: bool) -> Result<()> {
    means::ensure()?;
    // Held until its pid is written: another `up` waits, and finds it.
    let path = folder.with_extension("lock");
    fs::create_dir_all(workspace.root().join("target")).context("cannot make target")?;
    let lock = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    if let Some(pid) = running(folder) {
        bail!("a cluster runs already, pid {pid}: `cargo xtask cluster down` ends it");
    }
    ebpf::build(workspace)?;
    let programs = Programs::build(workspace)?;
    let cluster = Cluster::prepare(workspace)?;
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let log = folder.join("log");
    let output = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
    let mut command = Command::new(programs.path(PROGRAM)?);
    command.current_dir(workspace.root()).envs(cluster.environment());
    command.env("UNDERPASS_CLUSTER", folder).env("UNDERPASS_CLUSTER_NODES", nodes.to_string());
    if bare {
        command.env("UNDERPASS_CLUSTER_BARE", "yes");
    }
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    // A Ctrl-C in this terminal is not for it.
    let mut child = command.process_group(0).spawn().context("cannot start the cluster")?;
    fs::write(folder.join("pid"), child.id().to_string())?;
    drop(lock);
    let told =
        "the cluster starts in the background, which takes a minute; `cargo xtask cluster down` ends it at any time";
    eprintln!("{told} (log: {})", log.display());
    wait_until_ready(&mut child, folder, &log)?;
    let kubectl = folder.join("kubectl");
    println!("The cluster is up. As root:");
    println!("  {} get pods -A -o wide", kubectl.display());
    println!("  {} list -A", folder.join("helm").display());
    println!("  {} node-1 ip addr", folder.join("in").display());
    println!("The images localhost/underpass:testbed and localhost/underpass-testapp:testbed are on its nodes.");
    println!("`cargo xtask cluster down` ends and removes all of it.");
    Ok(())
}

fn wait_until_ready(child: &mut Child, folder: &Path, log: &Path) -> Result<()> {
    // The last that it writes.
    while !folder.join("in").exists() {
        if let Some(status) = child.try_wait()? {
            let text = fs::read_to_string(log).unwrap_or_default();
            bail!("the cluster ended with {status}:\n{text}");
        }
        sleep(LOOK);
    }
    Ok(())
}

fn down(folder: &Path) -> Result<()> {
    let pid = running(folder);
    if let Some(pid) = pid {
        Cmd::new("kill").args(["-TERM", &pid.to_string()]).run()?;
        while running(folder).is_some() {
            sleep(LOOK);
        }
    }
    // Also the scripts of one that has ended by itself.
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    pid.map(drop).with_context(|| format!("no cluster of {} runs", folder.display()))
}

/// The pid of the cluster of this folder, if it runs.
fn running(folder: &Path) -> Option<u32> {
    let pid = fs::read_to_string(folder.join("pid")).ok()?.trim().parse().ok()?;
    is_it(pid, folder).then_some(pid)
}

/// Whether this process is the cluster of the folder. Numbers are used again, by other programs and by other checkouts' clusters.
fn is_it(pid: u32, folder: &Path) -> bool {
    // The kernel cuts names at 15 bytes.
    let named = fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| PROGRAM.starts_with(comm.trim()));
    let mark = format!("UNDERPASS_CLUSTER={}", folder.display());
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    named && environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
}

/// The parts, all of them there.
pub(crate) struct Cluster {
    kubernetes: Kubernetes,
    containers: Containers,
    helm: PathBuf,
    images: PathBuf,
}

impl Cluster {
    /// Builds what is missing. The first time takes minutes.
    pub(crate) fn prepare(workspace: &Workspace) -> Result<Self> {
        let kubernetes = kubernetes::ensure(workspace)?;
        let containers = containers::ensure(workspace)?;
        let helm = helm::ensure(workspace)?;
        let pause = kubernetes.pause();
        let programs = [("pause", &*pause), ("coredns", &*containers.coredns)];
        let images = image::for_testbed(workspace, &programs)?;
        Ok(Self { kubernetes, containers, helm, images })
    }

    /// The environment of the programs that start a cluster.
    pub(crate) fn environment(&self) -> Vec<(&'static str, &Path)> {
        let mut all = vec![("UNDERPASS_HELM", &*self.helm), ("UNDERPASS_IMAGES", &*self.images)];
        all.extend(self.kubernetes.environment().map(|(name, path)| (name, &**path)));
        all.extend(self.containers.environment().map(|(name, path)| (name, &**path)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_another_process_is_no_cluster() {
        let folder = std::env::temp_dir().join(format!("underpass-xtask-cluster-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        assert_eq!(running(&folder), None);
        fs::write(folder.join("pid"), std::process::id().to_string()).unwrap();
        assert_eq!(running(&folder), None);
        let error = down(&folder).unwrap_err().to_string();
        assert!(error.contains("no cluster of") && !folder.exists(), "{error}");
    }
}
