//! Machine and build of a measurement: numbers without them mean nothing.

use std::{fmt, fs, process::Command};

use serde::Serialize;

/// The machine and the build.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub cores: usize,
    /// As the processor calls itself.
    pub cpu: String,
    /// The kernel's release.
    pub kernel: String,
    /// The compiler.
    pub rustc: String,
    /// The commit, `-dirty` where something is changed since.
    pub commit: String,
}

impl Machine {
    /// This one. What cannot be found out is `unknown`.
    #[must_use]
    pub fn here() -> Self {
        let unknown = || "unknown".to_owned();
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned());
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: model.map_or_else(unknown, |(_, model)| model.trim().to_owned()),
            kernel: kernel.unwrap_or_else(|_| unknown()),
            rustc: says("rustc", &["--version"]).unwrap_or_else(unknown),
            commit: says("git", &["describe", "--always", "--dirty", "--abbrev=12"]).unwrap_or_else(unknown),
        }
    }
}

fn says(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, cpu, kernel, rustc, commit } = self;
        write!(f, "{cores} cores of {cpu}, Linux {kernel}, {rustc}, commit {commit}")
    }
}
