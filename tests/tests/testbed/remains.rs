//! Nothing is left of a scenario or a runner that is killed, interrupted or late.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use underpass_tests::{
    apps::servers,
    testbed::{Description, Lab, Program, Testbed, cgroup, wait::wait_until},
};

use super::any;

pub(crate) const VICTIM: &str = "victim";

pub(crate) const MODE: &str = "UNDERPASS_TEST_VICTIM";

/// Builds a testbed with all there is, says so, and waits for what is done to it.
pub(crate) fn victim(lab: &Lab) -> Result<()> {
    let bed = Testbed::up(lab, &Description::two_nodes(2)?)?;
    let _server = servers::echo(&bed.app("default/a1")?, any(8080)?)?;
    let _program = bed.app("default/b1")?.start(&Program::new("sleep").arg("1000"))?;
    bed.fabric().delay(Duration::from_millis(1))?;
    // An orphan in another session, and one that ignores SIGTERM.
    bed.app("default/a2")?.run("/bin/sh", &["-c", "trap '' TERM; setsid sleep 1000 >/dev/null 2>&1 </dev/null &"])?;
    println!("VICTIM UP");
    match std::env::var(MODE).as_deref() {
        Ok("init") => kill(Pid::from_raw(1), Signal::SIGKILL)?, // refused by the kernel: no process kills its own init
        Ok("self") => nix::sys::signal::raise(Signal::SIGKILL)?,
        _ => {}
    }
    loop {
        std::thread::park();
    }
}

/// This test target again, running the victim.
fn run_victim(mode: &str, deadline_s: &str) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", VICTIM, "--nocapture"]).env(MODE, mode).env("UNDERPASS_TEST_DEADLINE_S", deadline_s);
    Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// Waits until the victim's testbed is up; its cgroup and the processes in it, as this process sees them.
fn wait_for_victim(child: &mut Child) -> Result<(Vec<std::path::PathBuf>, BTreeSet<i32>)> {
    let stdout = child.stdout.as_mut().context("piped")?;
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !said.ends_with(b"VICTIM UP\n") {
        ensure!(stdout.read(&mut byte)? > 0, "ended early: {}", String::from_utf8_lossy(&said));
        said.extend(byte);
    }
    let cgroups = cgroup::owned_by(child.id())?;
    ensure!(cgroups.len() == 1, "{cgroups:?}");
    let mut processes = BTreeSet::new();
    cgroups.iter().try_for_each(|c| processes_below(c, &mut processes))?;
    // Init, scenario, two nodes, four sandboxes, echo, sleep, orphan.
    ensure!(processes.len() == 11, "{processes:?}");
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

fn check_nothing_left(cgroups: &[std::path::PathBuf], processes: &BTreeSet<i32>) -> Result<()> {
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
fn check_names() -> Result<()> {
    let named = fs::read_dir("/run/netns")
        .map(|d| d.flatten().filter(|e| e.file_name().to_string_lossy().contains("underpass")).count());
    ensure!(named.unwrap_or(0) == 0, "a named network namespace");
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    ensure!(!mounts.contains("underpass-test"), "{mounts}");
    let devices = fs::read_to_string("/proc/self/net/dev")?;
    ensure!(!devices.contains("fabric"), "{devices}");
    Ok(())
}

fn finish(mut child: Child) -> Result<(std::process::ExitStatus, String)> {
    let mut said = String::new();
    child.stdout.take().context("piped")?.read_to_string(&mut said)?;
    Ok((child.wait()?, said))
}

pub(crate) fn nothing_is_left_of_a_killed_scenario() -> Result<()> {
    // From outside: every process of it in turn would do; init takes all others with it.
    let mut child = run_victim("wait", "60")?;
    let (cgroups, processes) = wait_for_victim(&mut child)?;
    let init = *processes.iter().min().context("processes")?;
    kill(Pid::from_raw(init), Signal::SIGKILL)?;
    let (status, said) = finish(child)?;
    ensure!(status.code() == Some(101) && said.contains("killed by SIGKILL"), "{status}: {said}");
    check_nothing_left(&cgroups, &processes)?;
    // From inside.
    for mode in ["self", "init"] {
        let mut child = run_victim(mode, "15")?;
        let seen = wait_for_victim(&mut child);
        if mode == "init" {
            let (_, processes) = seen?;
            kill(Pid::from_raw(*processes.iter().min().context("processes")?), Signal::SIGKILL)?;
        }
        let id = child.id();
        let (status, said) = finish(child)?;
        ensure!(status.code() == Some(101) && said.contains("1 failed"), "{mode}: {status}: {said}");
        ensure!(cgroup::owned_by(id)?.is_empty(), "{mode}: cgroups are left");
    }
    check_names()
}

pub(crate) fn nothing_is_left_of_a_killed_runner() -> Result<()> {
    let mut child = run_victim("wait", "60")?;
    let (cgroups, processes) = wait_for_victim(&mut child)?;
    child.kill()?;
    child.wait()?;
    // Everything dies with the runner but what only it can remove; the next one does.
    wait_until("every process to be gone", || {
        Ok(!processes.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()))
    })?;
    cgroup::sweep()?;
    check_nothing_left(&cgroups, &processes)
}

pub(crate) fn interrupt_ends_and_cleans_up() -> Result<()> {
    // As a test, and as a program that is one scenario: the demo.
    let cases = [("wait", Signal::SIGINT, 130), ("wait", Signal::SIGTERM, 143), ("alone", Signal::SIGINT, 130)];
    for (mode, signal, code) in cases {
        let mut child = run_victim(mode, "60")?;
        let (cgroups, processes) = wait_for_victim(&mut child)?;
        kill(Pid::from_raw(child.id() as i32), signal)?;
        let (status, said) = finish(child)?;
        ensure!(status.code() == Some(code), "{status}: {said}");
        check_nothing_left(&cgroups, &processes)?;
    }
    Ok(())
}

pub(crate) fn late_scenario_is_stopped() -> Result<()> {
    let mut child = run_victim("wait", "3")?;
    let (cgroups, processes) = wait_for_victim(&mut child)?;
    let (status, said) = finish(child)?;
    ensure!(status.code() == Some(101) && said.contains("not done after"), "{status}: {said}");
    check_nothing_left(&cgroups, &processes)
}

pub(crate) fn without_root_it_fails_and_says_so() -> Result<()> {
    // In a user namespace without mappings this process is not root, although it may still read files.
    let program = std::env::current_exe()?;
    let output = Command::new("unshare").arg("-U").arg(program).args(["--exact", "pods_come_and_go"]).output();
    let output = output.context("run without root")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(101) && output.status.signal().is_none(), "{}: {said}", output.status);
    ensure!(said.contains("root: namespaces and cgroups need it") && said.contains("0 passed; 1 failed"), "{said}");
    Ok(())
}
