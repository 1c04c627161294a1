//! `cargo xtask interop`: agents of a real istiod, and Istio's base chart beside ours. Its own command, because istiod
//! is another project's program, whose build takes minutes: no test level waits for it.

use anyhow::{Result, ensure};

use crate::build::Programs;
use crate::ebpf;
use crate::install::{helm, istiod, kubernetes};
use crate::test::{self, means, summary::Tally};
use crate::workspace::Workspace;

/// The test of tests/.
const TEST: &str = "interop";
/// istiod and an API server beside a load take their time.
const DEADLINE_S: &str = "300";

/// Arguments of `interop`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Passed on to the test binary: a filter, --nocapture, ...
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs the scenarios; true if all are green.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<bool> {
    means::ensure()?;
    ebpf::build(workspace)?;
    let istiod = istiod::ensure(workspace)?;
    let kubernetes = kubernetes::ensure(workspace)?;
    let helm = helm::ensure(workspace)?;
    let programs = Programs::build(workspace)?;
    let tests = workspace.cargo().args(["test", "-p", test::TESTBED, "--test", TEST]);
    let tests = tests.env("UNDERPASS_TEST_DEADLINE_S", DEADLINE_S).env("UNDERPASS_HELM", &helm);
    let tests = istiod.environment().into_iter().fold(tests, |tests, (name, path)| tests.env(name, path));
    let tests = kubernetes.environment().into_iter().fold(tests, |tests, (name, path)| tests.env(name, path));
    let tests = programs.environment()?.iter().fold(tests, |tests, (name, path)| tests.env(name, path));
    let mut tally = Tally::default();
    test::count(tests, &options.arguments, &mut tally)?;
    ensure!(tally.total() > 0, "no scenario has a name like {:?}", options.arguments);
    println!("{tally}");
    Ok(tally.failed == 0)
}
