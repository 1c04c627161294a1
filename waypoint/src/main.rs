//! The binary of a waypoint.

use std::process::ExitCode;

fn main() -> ExitCode {
    underpass_waypoint::process::main()
}
