//! `underpass-control`: settings, one runtime, the control plane; or the command of the first argument.

use std::process::ExitCode;

use clap::Parser as _;
use underpass_control::{cleanup, config::Config, run, self_test};

fn main() -> ExitCode {
    // The CA's key lives in this process: no core file may hold it, no other process may read it.
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        eprintln!("underpass-control: cannot keep keys out of core files: {error}");
        return ExitCode::FAILURE;
    }
    if let Some(parsed) = cleanup::Command::parse_own(std::env::args_os()) {
        return match parsed {
            Ok(command) => command.run(),
            Err(error) => error.exit(),
        };
    }
    if let Some(parsed) = self_test::Command::parse_own(std::env::args_os()) {
        return match parsed {
            Ok(command) => command.run(),
            Err(error) => error.exit(),
        };
    }
    match start(&Config::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("underpass-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(config: &Config) -> anyhow::Result<()> {
    underpass_telemetry::log::init(config.log_format, config.log.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ran = runtime.block_on(run::run(config));
    runtime.shutdown_background();
    Ok(ran?)
}
