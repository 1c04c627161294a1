//! The agent's binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    underpass_agent::process::main()
}
