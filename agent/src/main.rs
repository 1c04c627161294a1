//! The agent's binary: settings, checks, one runtime, signals.

use std::{process::ExitCode, time::SystemTime};

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use underpass_agent::{config::Config, limits, node, preflight};

fn main() -> ExitCode {
    let config = match Config::try_parse() {
        Ok(config) => config,
        Err(error) => error.exit(),
    };
    match run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("underpass-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: &Config) -> anyhow::Result<()> {
    let levels = underpass_telemetry::log::init(config.log_format, config.log.clone())?;
    // Keys live in this process: no core file may hold them, nobody may read them from outside.
    nix::sys::prctl::set_dumpable(false)?;
    limits::raise_descriptors();
    let checked = preflight::check(config, SystemTime::now()).map_err(|faults| {
        let lines: String = faults.iter().map(|fault| format!("\n  - {fault}")).collect();
        anyhow::anyhow!("cannot start:{lines}")
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ran = runtime.block_on(async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        anyhow::Ok(node::run(config, checked, &levels, stop).await?)
    });
    runtime.shutdown_background();
    ran
}
