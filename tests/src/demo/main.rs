//! `underpass-demo`: the bookinfo sample, and what the mesh does with it, step by step: on two plain nodes ([`nodes`]), or in
//! a Kubernetes cluster with the chart ([`kubernetes`]). Started by `cargo xtask demo`, which builds the programs and says where
//! they are.
//!
//! What must hold: every step looks at what it shows. What is not as promised ends the demo with what was expected and
//! what was seen, and an exit status that is not zero; so `--check` makes a test of it.

mod access_log;
mod kubernetes;
mod link;
mod nodes;
mod page;
mod screen;
mod watch;

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use underpass_tests::testbed::{
    Lab,
    harness::{self, Scenario},
};

use self::{screen::Screen, watch::Watch};

const USAGE: &str = "\
usage: underpass-demo [--kubernetes] [--check]
  --kubernetes  in a whole Kubernetes cluster of two nodes, installed by Helm, instead of on two plain nodes
  --check       end after the last step: exit status 0 if every step showed what it promises
Without --check everything keeps running until Ctrl-C. `cargo xtask demo` sets the variables that name the programs:
UNDERPASS_AGENT_BIN and UNDERPASS_CLI_BIN; for --kubernetes the same as for the tests of the level kubernetes.";

/// Each shows; without `check` in its name it stays until it is interrupted.
const NODES: Scenario = Scenario::new("demo", |lab| on_nodes(lab, true));
const NODES_CHECK: Scenario = Scenario::new("check", |lab| on_nodes(lab, false));
const KUBERNETES: Scenario = Scenario::new("kubernetes", |lab| in_kubernetes(lab, true));
const KUBERNETES_CHECK: Scenario = Scenario::new("kubernetes-check", |lab| in_kubernetes(lab, false));

/// No step takes a tenth of this on an ordinary machine,
const STEP_ON_NODES: Duration = Duration::from_secs(30);
/// or of this in a cluster.
const STEP_IN_KUBERNETES: Duration = Duration::from_secs(180);

fn main() -> ExitCode {
    // In a scenario's own process the first argument is the scenario's name, and there are no others.
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["check"] | [_, "--check"] => harness::main_of(NODES_CHECK),
        ["kubernetes-check"] | [_, "--kubernetes", "--check"] => harness::main_of(KUBERNETES_CHECK),
        ["kubernetes"] | [_, "--kubernetes"] => harness::main_of(KUBERNETES),
        [_] => harness::main_of(NODES),
        [_, "--help" | "-h"] => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn on_nodes(lab: &Lab, stays: bool) -> Result<()> {
    let mut stage = watched(lab, STEP_ON_NODES, |screen| nodes::show(lab, screen))?;
    if stays {
        nodes::open(&mut stage)?;
        park();
    }
    Ok(())
}

fn in_kubernetes(lab: &Lab, stays: bool) -> Result<()> {
    let stage = watched(lab, STEP_IN_KUBERNETES, |screen| kubernetes::show(lab, screen))?;
    if stays {
        kubernetes::open(&stage)?;
        park();
    }
    Ok(())
}

/// Ctrl-C ends the process, and the runner removes everything.
fn park() -> ! {
    loop {
        std::thread::park();
    }
}

/// Shows, with a clock for every step.
fn watched<S>(lab: &Lab, step: Duration, show: impl FnOnce(Screen) -> Result<S>) -> Result<S> {
    let watch = Watch::start(lab.directory(), step);
    let screen = Screen::new(watch.clone());
    let shown = show(screen.clone());
    watch.end();
    shown.inspect_err(|e| {
        screen.failed(e);
        watch::print_last_words(lab.directory());
    })
}
