//! The binary of the version after this one, which tests upgrade to and go back from: kernel tables with other layouts, otherwise
//! the same.

use std::process::ExitCode;

fn main() -> ExitCode {
    underpass_agent::process::main()
}
