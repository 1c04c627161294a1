//! The `underpass` command: wiring only. Each command is a file of its own, which returns its output.

mod agents;
mod args;
mod chart;
mod commands;
mod confirm;
mod error;
mod lines;
mod live;
mod measure;
mod output;
mod show;
mod source;
mod table;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser as _;

fn main() -> ExitCode {
    match Args::try_parse() {
        Err(e) => {
            if let Some(elsewhere) = commands::elsewhere::refuse(&e, std::env::args().skip(1)) {
                return output::finish(Err(elsewhere));
            }
            // clap exits with 2 for wrong usage; here 2 is an answer.
            let code = if e.use_stderr() { output::FAILED } else { output::OK };
            let _ = e.print(); // standard error is closed
            ExitCode::from(code)
        }
        Ok(args) => output::finish(run(&args.command)),
    }
}

fn run(command: &Command) -> Result<output::Output, error::CliError> {
    match command {
        Command::Status(args) => commands::status::run(args),
        Command::Workloads(args) => commands::workloads::run(args),
        Command::Services(args) => commands::services::run(args),
        Command::Policies(args) => commands::policies::run(args),
        Command::Certificates(args) => commands::certificates::run(args),
        Command::Connections(args) => commands::connections::run(args),
        Command::Config(args) => commands::config::run(args),
        Command::Log(args) => commands::log::run(args),
        Command::Explain(args) => commands::explain::run(args),
        Command::Analyze(args) => commands::analyze::run(args),
        Command::Crd(args) => commands::crd::run(args),
        Command::Ca(args) => commands::ca::run(args),
        Command::Install(args) => commands::install::install(args),
        Command::Upgrade(args) => commands::install::upgrade(args),
        Command::Uninstall(args) => commands::uninstall::run(args),
        Command::Profile(args) => commands::profile::run(args),
        Command::Manifest(args) => commands::manifest::run(args),
        Command::Check(args) => commands::check::run(args),
        Command::Verify(args) => commands::verify::run(args),
        Command::ProxyStatus(args) => commands::proxy_status::run(args),
        Command::ProxyConfig(args) => commands::proxy_config::run(args),
        Command::Version(args) => commands::version::run(args),
        Command::Authn(args) => commands::describe::authn(args),
        Command::Experimental(args) => commands::describe::experimental(args),
        Command::Label(args) => commands::label::run(args),
        Command::KubeInject(args) => commands::kube_inject::run(args),
        Command::Completion(args) => Ok(commands::manual::completion(args)),
        Command::Man(args) => commands::manual::man(args),
    }
}
