//! The binary of the agent.

use std::process::ExitCode;

fn main() -> ExitCode {
    underpass_agent::process::main()
}
