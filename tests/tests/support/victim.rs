//! Scenarios that are killed, by another one: the victim says that it is up, and afterwards nothing is left of it.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use underpass_tests::testbed::{cgroup, wait::wait_until};

/// The name of the hidden scenario.
pub(crate) const VICTIM: &str = "victim";
/// The variable that tells it how to end.
pub(crate) const MODE: &str = "UNDERPASS_TEST_VICTIM";
/// The line that it writes when everything of it runs.
pub(crate) const UP: &str = "VICTIM UP";

/// This test target again, running the victim.
pub(crate) fn start(mode: &str, deadline_s: &str) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", VICTIM, "--nocapture"]).env(MODE, mode).env("UNDERPASS_TEST_DEADLINE_S", deadline_s);
    Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// Waits until the victim's testbed is up; its cgroup and the processes in it, as this process sees them.
pub(crate) fn wait(child: &mut Child) -> Result<(Vec<PathBuf>, BTreeSet<i32>)> {
    let stdout = child.stdout.as_mut().context("piped")?;
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !said.ends_with(format!("{UP}\n").as_bytes()) {
        ensure!(stdout.read(&mut byte)? > 0, "ended early: {}", String::from_utf8_lossy(&said));
        said.extend(byte);
    }
    let cgroups = cgroup::owned_by(child.id())?;
    ensure!(cgroups.len() == 1, "{cgroups:?}");
    let mut processes = BTreeSet::new();
    cgroups.iter().try_for_each(|c| processes_below(c, &mut processes))?;
    Ok((cgroups, processes))
}

fn processes_below(cgroup: &Path, found: &mut BTreeSet<i32>) -> Result<()> {
    for line in fs::read_to_string(cgroup.join("cgroup.procs"))?.lines() {
        found.insert(line.parse()?);
    }
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            processes_below(&entry.path(), found)?;
        }
    }
    Ok(())
}

pub(crate) fn check_nothing_left(cgroups: &[PathBuf], processes: &BTreeSet<i32>) -> Result<()> {
    wait_until("every process to be gone", || {
        Ok(!processes.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()))
    })?;
    for cgroup in cgroups {
        ensure!(!cgroup.exists(), "{} is left", cgroup.display());
        let name = cgroup.file_name().unwrap_or_default();
        ensure!(!std::env::temp_dir().join(name).exists(), "its directory is left");
    }
    check_names()
}

/// Nothing of a scenario has a name here: no network namespace, no mount, no device.
pub(crate) fn check_names() -> Result<()> {
    let named = fs::read_dir("/run/netns")
        .map(|d| d.flatten().filter(|e| e.file_name().to_string_lossy().contains("underpass")).count());
    ensure!(named.unwrap_or(0) == 0, "a named network namespace");
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    ensure!(!mounts.contains("underpass-test"), "{mounts}");
    let devices = fs::read_to_string("/proc/self/net/dev")?;
    ensure!(!devices.contains("fabric"), "{devices}");
    Ok(())
}

pub(crate) fn finish(mut child: Child) -> Result<(std::process::ExitStatus, String)> {
    let mut said = String::new();
    child.stdout.take().context("piped")?.read_to_string(&mut said)?;
    Ok((child.wait()?, said))
}
