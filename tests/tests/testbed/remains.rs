//! Nothing is left of a scenario or a runner that is killed, interrupted or late.

use std::{
    collections::BTreeSet,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command},
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

use super::{
    any,
    victim::{self, MODE, UP},
};

/// Builds a testbed with all there is, says so, and waits for what is done to it.
pub(crate) fn victim(lab: &Lab) -> Result<()> {
    let bed = Testbed::up(lab, &Description::two_nodes(2)?)?;
    let _server = servers::echo(&bed.app("default/a1")?, any(8080)?)?;
    let _program = bed.app("default/b1")?.start(&Program::new("sleep").arg("1000"))?;
    bed.fabric().delay(Duration::from_millis(1))?;
    // An orphan in another session, and one that ignores SIGTERM.
    bed.app("default/a2")?.run("/bin/sh", &["-c", "trap '' TERM; setsid sleep 1000 >/dev/null 2>&1 </dev/null &"])?;
    println!("{UP}");
    match std::env::var(MODE).as_deref() {
        Ok("init") => kill(Pid::from_raw(1), Signal::SIGKILL)?, // refused by the kernel: no process kills its own init
        Ok("self") => nix::sys::signal::raise(Signal::SIGKILL)?,
        _ => {}
    }
    loop {
        std::thread::park();
    }
}

/// Waits until the victim's testbed is up, with all its processes.
fn wait_for_all(child: &mut Child) -> Result<(Vec<PathBuf>, BTreeSet<i32>)> {
    let (cgroups, processes) = victim::wait(child)?;
    // Init, scenario, two nodes, four sandboxes, echo, sleep, orphan.
    ensure!(processes.len() == 11, "{processes:?}");
    Ok((cgroups, processes))
}

pub(crate) fn nothing_is_left_of_a_killed_scenario() -> Result<()> {
    // From outside: every process of it in turn would do; init takes all others with it.
    let mut child = victim::start("wait", "60")?;
    let (cgroups, processes) = wait_for_all(&mut child)?;
    let init = *processes.iter().min().context("processes")?;
    kill(Pid::from_raw(init), Signal::SIGKILL)?;
    let (status, said) = victim::finish(child)?;
    ensure!(status.code() == Some(101) && said.contains("killed by SIGKILL"), "{status}: {said}");
    victim::check_nothing_left(&cgroups, &processes)?;
    // From inside.
    for mode in ["self", "init"] {
        let mut child = victim::start(mode, "15")?;
        let seen = wait_for_all(&mut child);
        if mode == "init" {
            let (_, processes) = seen?;
            kill(Pid::from_raw(*processes.iter().min().context("processes")?), Signal::SIGKILL)?;
        }
        let id = child.id();
        let (status, said) = victim::finish(child)?;
        ensure!(status.code() == Some(101) && said.contains("1 failed"), "{mode}: {status}: {said}");
        ensure!(cgroup::owned_by(id)?.is_empty(), "{mode}: cgroups are left");
    }
    victim::check_names()
}

pub(crate) fn nothing_is_left_of_a_killed_runner() -> Result<()> {
    let mut child = victim::start("wait", "60")?;
    let (cgroups, processes) = wait_for_all(&mut child)?;
    child.kill()?;
    child.wait()?;
    // Everything dies with the runner but what only it can remove; the next one does.
    wait_until("every process to be gone", || {
        Ok(!processes.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()))
    })?;
    cgroup::sweep()?;
    victim::check_nothing_left(&cgroups, &processes)
}

pub(crate) fn interrupt_ends_and_cleans_up() -> Result<()> {
    // As a test, and as a program that is one scenario: the demo.
    let cases = [("wait", Signal::SIGINT, 130), ("wait", Signal::SIGTERM, 143), ("alone", Signal::SIGINT, 130)];
    for (mode, signal, code) in cases {
        let mut child = victim::start(mode, "60")?;
        let (cgroups, processes) = wait_for_all(&mut child)?;
        kill(Pid::from_raw(child.id() as i32), signal)?;
        let (status, said) = victim::finish(child)?;
        ensure!(status.code() == Some(code), "{status}: {said}");
        victim::check_nothing_left(&cgroups, &processes)?;
    }
    Ok(())
}

pub(crate) fn late_scenario_is_stopped() -> Result<()> {
    let mut child = victim::start("wait", "3")?;
    let (cgroups, processes) = wait_for_all(&mut child)?;
    let (status, said) = victim::finish(child)?;
    ensure!(status.code() == Some(101) && said.contains("not done after"), "{status}: {said}");
    victim::check_nothing_left(&cgroups, &processes)
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
