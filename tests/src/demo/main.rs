//! `underpass-demo`: two nodes with the bookinfo sample, and what the mesh does with it, step by step. Started by
//! `cargo xtask demo`, which builds the agent and the command line tool and says where they are.
//!
//! What must hold: every step looks at what it shows. What is not as promised ends the demo with what was expected and
//! what was seen, and an exit status that is not zero; so `--check` makes a test of it.

mod operate;
mod playground;
mod processes;
mod screen;
mod stage;
mod steps;
mod watch;

use std::process::ExitCode;

use anyhow::Result;
use underpass_tests::testbed::{
    Lab,
    harness::{self, Scenario},
};

use self::{screen::Screen, stage::Stage, watch::Watch};

const USAGE: &str = "\
usage: underpass-demo [--check]
  --check   end after the last step: exit status 0 if every step showed what it promises
Without it everything keeps running until Ctrl-C. UNDERPASS_AGENT_BIN and UNDERPASS_CLI_BIN name the agent and the
command line tool; `cargo xtask demo` sets both.";

/// Shows, and stays until it is interrupted.
const DEMO: Scenario = Scenario::new("demo", stay);
/// Shows, and ends.
const CHECK: Scenario = Scenario::new("check", check);

fn main() -> ExitCode {
    // In a scenario's own process the first argument is the scenario's name, and there are no others.
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["check"] | [_, "--check"] => harness::main_of(CHECK),
        [_] => harness::main_of(DEMO),
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

fn check(lab: &Lab) -> Result<()> {
    show(lab).map(drop)
}

fn stay(lab: &Lab) -> Result<()> {
    let mut stage = show(lab)?;
    println!();
    stage.label(true)?;
    playground::open(&stage)?;
    loop {
        std::thread::park(); // Ctrl-C ends the process, and the runner removes everything
    }
}

fn show(lab: &Lab) -> Result<Stage> {
    let watch = Watch::start(lab.directory());
    let screen = Screen::new(watch.clone());
    let shown = Stage::up(lab, screen.clone()).and_then(|mut stage| {
        steps::ALL.iter().try_for_each(|step| step(&mut stage))?;
        stage.screen.done();
        Ok(stage)
    });
    watch.end();
    shown.inspect_err(|e| {
        screen.failed(e);
        watch::print_last_words(lab.directory());
    })
}
