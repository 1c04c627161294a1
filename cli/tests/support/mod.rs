//! Support of tests of the command: its run, and the presentation of its output.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// A folder of test data.
fn data(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder)
}

/// The command, in the folder of the tests, and without the environment of the user's terminal.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_underpass"));
    command
        .env_clear()
        .env("TERM", "xterm")
        .env("HOME", "/nonexistent")
        .current_dir(data(""))
        .args(args)
        .stdin(Stdio::null());
    command
}

/// Exit status, standard output, and standard error behind `! `; without blanks at the ends of lines.
pub(crate) fn shown(output: &Output) -> String {
    let lines = |bytes: &[u8], mark: &str| -> String {
        String::from_utf8_lossy(bytes).lines().map(|l| format!("{}\n", format!("{mark}{l}").trim_end())).collect()
    };
    let code = output.status.code().unwrap();
    format!("exit {code}\n{}{}", lines(&output.stdout, ""), lines(&output.stderr, "! "))
}
