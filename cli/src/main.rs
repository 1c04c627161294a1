//! The `underpass` command: wiring only. Each command is a room of its own, which returns what it has to say.

mod args;
mod error;
mod explain;
mod output;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser as _;

fn main() -> ExitCode {
    match Args::try_parse() {
        Err(e) => {
            // clap exits with 2 for wrong usage; here 2 is an answer.
            let code = if e.use_stderr() { output::FAILED } else { output::OK };
            let _ = e.print(); // nobody listens
            ExitCode::from(code)
        }
        Ok(Args { command: Command::Explain(args) }) => output::finish(explain::run(&args)),
    }
}
