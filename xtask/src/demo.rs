//! `cargo xtask demo`: builds everything and replaces itself by the demo, a program of tests/.
//!
//! The development profile is what the tests have built already; the demo shows behaviour, not speed.

use anyhow::Result;

use crate::build::Programs;
use crate::cluster::Cluster;
use crate::ebpf;
use crate::install::prometheus::{self, Prometheus};
use crate::process::Cmd;
use crate::test::means;
use crate::workspace::Workspace;

/// Arguments of `demo`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// In a whole Kubernetes cluster, installed by Helm, instead of on two plain nodes
    #[arg(long)]
    kubernetes: bool,
    /// Passed on to the demo: --check ends after the last step
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Does not return unless something is missing.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    means::ensure()?;
    ebpf::build(workspace)?;
    let programs = Programs::build(workspace)?;
    let demo = if options.kubernetes {
        in_kubernetes(workspace, &programs, &Cluster::prepare(workspace)?)?
    } else {
        // Its last but one step needs it; without it, it says so and goes on.
        let prometheus = prometheus::ensure(workspace).inspect_err(|error| eprintln!("{error:#}")).ok();
        on_nodes(workspace, &programs, prometheus.as_ref())?
    };
    Err(demo.args(&options.arguments).exec())
}

/// The command of the demo on plain nodes, with the paths of the other programs in its environment.
pub(crate) fn on_nodes(workspace: &Workspace, programs: &Programs, prometheus: Option<&Prometheus>) -> Result<Cmd> {
    let demo = Cmd::new(programs.path(DEMO)?).current_dir(workspace.root());
    let demo = programs.environment()?.iter().fold(demo, |demo, (name, path)| demo.env(name, path));
    Ok(prometheus.into_iter().flat_map(Prometheus::environment).fold(demo, |demo, (name, path)| demo.env(name, path)))
}

/// The command of the demo in Kubernetes, with the paths of the other programs and the parts of the cluster in its environment.
pub(crate) fn in_kubernetes(workspace: &Workspace, programs: &Programs, cluster: &Cluster) -> Result<Cmd> {
    let demo = Cmd::new(programs.path(DEMO)?).current_dir(workspace.root()).arg("--kubernetes");
    let demo = programs.environment()?.iter().fold(demo, |demo, (name, path)| demo.env(name, path));
    Ok(cluster.environment().into_iter().fold(demo, |demo, (name, path)| demo.env(name, path)))
}

const DEMO: &str = "underpass-demo";
