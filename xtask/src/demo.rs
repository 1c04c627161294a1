//! `cargo xtask demo`: builds everything and replaces itself by the demo, a program of tests/.
//!
//! The development profile is what the tests have built already; the demo shows behaviour, not speed.

use anyhow::Result;

use crate::build::Programs;
use crate::ebpf;
use crate::install::prometheus::{self, Prometheus};
use crate::process::Cmd;
use crate::test::means;
use crate::workspace::Workspace;

/// Arguments of `demo`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Passed on to the demo
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Does not return unless something is missing.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    means::ensure()?;
    ebpf::build(workspace)?;
    let programs = Programs::build(workspace)?;
    // Its last but one step needs it; without it, it says so and goes on.
    let prometheus = prometheus::ensure(workspace).inspect_err(|error| eprintln!("{error:#}")).ok();
    Err(command(workspace, &programs, prometheus.as_ref())?.args(&options.arguments).exec())
}

/// The demo's command, with the paths of the other programs in its environment.
pub(crate) fn command(workspace: &Workspace, programs: &Programs, prometheus: Option<&Prometheus>) -> Result<Cmd> {
    let demo = Cmd::new(programs.path("underpass-demo")?).current_dir(workspace.root());
    let demo = programs.environment()?.iter().fold(demo, |demo, (name, path)| demo.env(name, path));
    Ok(prometheus.into_iter().flat_map(Prometheus::environment).fold(demo, |demo, (name, path)| demo.env(name, path)))
}
