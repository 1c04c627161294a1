//! Runs scenarios, each in a child process with namespaces of its own, and prints what `cargo test` prints. Its own
//! runner because a test of the standard one shares its process, and with it threads and namespaces, with all others.
//!
//! What must hold: however a scenario ends, nothing of it is left. The kernel sees to everything but its cgroup and its
//! directory, which are removed here; those of a runner that was killed are removed by the next one.

use std::{
    collections::BTreeMap,
    ffi::{CString, OsString},
    fs::{self, File},
    io::Write,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{
    cgroup::{self, ScenarioCgroup},
    child,
    lab::Lab,
    netns, sys, wait,
};

const SCENARIO: &str = "UNDERPASS_TEST_SCENARIO";
const DIRECTORY: &str = "UNDERPASS_TEST_DIRECTORY";
const CGROUP: &str = "UNDERPASS_TEST_CGROUP";

/// Grace of a scenario between the request to end and its kill.
const GRACE: Duration = Duration::from_secs(10);
/// The part of each log that is shown when a scenario fails.
const SHOWN_BYTES: usize = 64 * 1024;

/// One test.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    name: &'static str,
    body: Body,
    hidden: bool,
    /// Its deadline, as a multiple of the usual one.
    times: u32,
}

#[derive(Clone, Copy, Debug)]
enum Body {
    Inside(fn(&Lab) -> Result<()>),
    Outside(fn() -> Result<()>),
}

impl Scenario {
    /// A scenario that runs in its own namespaces.
    #[must_use]
    pub const fn new(name: &'static str, run: fn(&Lab) -> Result<()>) -> Self {
        Self { name, body: Body::Inside(run), hidden: false, times: 1 }
    }

    /// A test that runs in the runner's own process: about the runner itself.
    #[must_use]
    pub const fn outside(name: &'static str, run: fn() -> Result<()>) -> Self {
        Self { name, body: Body::Outside(run), hidden: false, times: 1 }
    }

    /// The same, run only when asked for by its exact name: the victim of another test.
    #[must_use]
    pub const fn hidden(self) -> Self {
        Self { hidden: true, ..self }
    }

    /// The same, with so many times the usual deadline: for volume.
    #[must_use]
    pub const fn lasting(self, times: u32) -> Self {
        Self { times, ..self }
    }

    pub(super) fn deadline(&self) -> Duration {
        wait::deadline() * self.times
    }

    pub(super) fn run_with(&self, lab: &Lab) -> Result<()> {
        match self.body {
            Body::Inside(run) => run(lab),
            Body::Outside(_) => bail!("{} does not run inside", self.name),
        }
    }
}

/// The scenarios of a test target, by the paths of their functions; makes its `main`.
#[macro_export]
macro_rules! scenarios {
    ($($path:path),* $(,)?) => {
        fn main() -> std::process::ExitCode {
            $crate::testbed::harness::main(&[$($crate::testbed::harness::Scenario::new(stringify!($path), $path)),*])
        }
    };
}

/// The `main` of a test target.
#[must_use]
pub fn main(scenarios: &[Scenario]) -> ExitCode {
    become_scenario_if_asked(scenarios);
    let chosen = match Choice::parse(std::env::args().skip(1)) {
        Ok(choice) => choice,
        Err(e) => {
            eprintln!("{e:#}");
            return ExitCode::from(2);
        }
    };
    let selected: Vec<_> = scenarios.iter().filter(|s| chosen.takes(s)).collect();
    if chosen.list {
        selected.iter().for_each(|s| println!("{}: test", s.name));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", selected.len());
    if !selected.is_empty()
        && let Err(missing) = preflight()
    {
        println!("{missing}\n\ntest result: FAILED. 0 passed; {} failed", selected.len());
        return ExitCode::from(101);
    }
    let started = Instant::now();
    let failures: Vec<_> = selected.iter().enumerate().filter_map(|(n, s)| report(s, n, &chosen)).collect();
    for (name, output) in &failures {
        println!("\n---- {name} ----\n{output}");
    }
    let verdict = if failures.is_empty() { "ok" } else { "FAILED" };
    let (passed, failed) = (selected.len() - failures.len(), failures.len());
    let filtered = scenarios.len() - selected.len();
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {filtered} filtered out; \
         finished in {:.2}s\n",
        started.elapsed().as_secs_f64()
    );
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

/// The `main` of a program that is one scenario: no deadline, its output is ours. SIGINT and SIGTERM ask it to end (by
/// SIGTERM) and clean up.
#[must_use]
pub fn main_of(scenario: Scenario) -> ExitCode {
    become_scenario_if_asked(&[scenario]);
    let run = || -> Result<Outcome> {
        preflight()?;
        isolate(&scenario, 0, true, None)
    };
    match run() {
        Ok(Outcome { code: 0, .. }) => ExitCode::SUCCESS,
        Ok(Outcome { code, .. }) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

/// The missing preconditions of scenarios, all at once.
pub fn preflight() -> Result<()> {
    let mut missing = Vec::new();
    if nix::unistd::geteuid().is_root() {
        missing.extend(cgroup::mount_point().and_then(|_| cgroup::sweep()).err());
    } else {
        missing.push(anyhow::anyhow!("root: namespaces and cgroups need it (sudo)"));
    }
    missing.extend(netns::check_iproute2().err());
    if !Path::new("/etc/hosts").is_file() {
        missing.push(anyhow::anyhow!("no /etc/hosts: every pod has its own mounted over it"));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = missing.iter().map(|e| format!("  {e:#}")).collect();
    bail!("these tests cannot run here; missing:\n{}", lines.join("\n"))
}

/// Runs one and prints its line; its name and output where it failed.
fn report(scenario: &Scenario, number: usize, choice: &Choice) -> Option<(&'static str, String)> {
    print!("test {} ... ", scenario.name);
    let _ = std::io::stdout().flush();
    let started = Instant::now();
    let failure = match scenario.body {
        Body::Outside(run) => match std::panic::catch_unwind(run) {
            Ok(result) => result.err().map(|e| shown(&e)),
            Err(_) => Some("panicked".into()),
        },
        Body::Inside(_) => match isolate(scenario, number, choice.nocapture, Some(scenario.deadline())) {
            Ok(outcome) if outcome.code == 0 => None,
            Ok(outcome) => Some(outcome.text),
            Err(e) => Some(shown(&e)),
        },
    };
    let seconds = started.elapsed().as_secs_f64();
    println!("{} ({seconds:.2} s)", if failure.is_some() { "FAILED" } else { "ok" });
    failure.map(|text| (scenario.name, text))
}

/// An error with all its causes; where backtraces are on, only what is the test's own of it.
pub(super) fn shown(error: &anyhow::Error) -> String {
    let text = format!("{error:?}");
    let Some((causes, trace)) = text.split_once("Stack backtrace:") else { return text };
    let is_runner = |line: &&str| line.contains("child::play") || line.contains("FnOnce::call_once");
    let own: Vec<_> = trace.lines().take_while(|line| !is_runner(line)).collect();
    format!("{}{}", causes.trim_end(), own.join("\n"))
}

struct Outcome {
    code: i32,
    /// Why it failed, its output and logs.
    text: String,
}

/// Runs a scenario in a child and cleans up after it.
fn isolate(scenario: &Scenario, number: usize, inherit: bool, deadline: Option<Duration>) -> Result<Outcome> {
    let cgroup = ScenarioCgroup::create(number)?;
    let directory = Directory::create(number)?;
    let own = cgroup.path().join("testbed");
    fs::create_dir(&own).with_context(|| format!("create cgroup {}", own.display()))?;
    let output = directory.path.join("output");
    let image = sys::Image {
        program: CString::new(std::env::current_exe()?.as_os_str().as_bytes())?,
        arguments: vec![CString::new(scenario.name)?],
        environment: environment(scenario.name, &directory.path, cgroup.path(), deadline.is_some())?,
        output: if inherit { None } else { Some(File::create(&output)?.into()) },
    };
    // Taken before the child exists, so that none is lost; given back at the end.
    let mut asked = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|s| asked.add(s));
    asked.thread_block()?;
    let signals = SignalFd::with_flags(&asked, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let (pid, pidfd) =
        sys::spawn_isolated(&image, File::open(&own)?.as_fd()).context("start the scenario's process")?;
    let end = wait_for_child(pid, pidfd.as_fd(), &signals, deadline)?;
    let (code, why) = match end {
        End::Exited(0) => (0, String::new()),
        End::Exited(code) => (code, format!("exit code {code}")),
        End::Killed(signal) => (128 + signal as i32, format!("killed by {signal}")),
        End::Late => (1, format!("not done after {:?}", deadline.unwrap_or_default())),
        End::Interrupted(signal) => {
            drop((cgroup, directory)); // nothing else of ours is to be cleaned up
            println!();
            std::process::exit(128 + signal as i32);
        }
    };
    let text = if code == 0 { String::new() } else { format!("{why}\n{}", directory.texts()) };
    drop(cgroup);
    asked.thread_unblock()?;
    Ok(Outcome { code, text })
}

enum End {
    Exited(i32),
    Killed(Signal),
    Late,
    Interrupted(Signal),
}

fn wait_for_child(
    pid: Pid,
    pidfd: std::os::fd::BorrowedFd<'_>,
    signals: &SignalFd,
    deadline: Option<Duration>,
) -> Result<End> {
    let mut end = deadline.map(|d| Instant::now() + d);
    let mut interrupted = None;
    loop {
        let timeout = match end {
            None => PollTimeout::NONE,
            Some(end) => {
                PollTimeout::try_from(end.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut ready = [PollFd::new(pidfd, PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, timeout) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let [ended, signalled] = ready.map(|r| r.revents().is_some_and(|e| !e.is_empty()));
        if ended {
            let status = waitpid(pid, None)?;
            return Ok(match (interrupted, status) {
                (Some(signal), _) => End::Interrupted(signal),
                (None, WaitStatus::Signaled(_, signal, _)) => End::Killed(signal),
                (None, WaitStatus::Exited(_, code)) => End::Exited(code),
                (None, other) => bail!("unexpected {other:?}"),
            });
        }
        if signalled
            && let Some(info) = signals.read_signal()?
            && interrupted.is_none()
        {
            interrupted = Some(Signal::try_from(info.ssi_signo as i32)?);
            kill(pid, Signal::SIGTERM)?;
            end = Some(Instant::now() + GRACE);
        } else if end.is_some_and(|end| Instant::now() >= end) {
            kill(pid, Signal::SIGKILL)?;
            waitpid(pid, None)?;
            return Ok(interrupted.map_or(End::Late, End::Interrupted));
        }
    }
}

fn environment(name: &str, directory: &Path, cgroup: &Path, has_deadline: bool) -> Result<Vec<CString>> {
    let mut all: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    all.insert(SCENARIO.into(), name.into());
    all.insert(DIRECTORY.into(), directory.into());
    all.insert(CGROUP.into(), cgroup.into());
    if !has_deadline {
        const A_YEAR_S: &str = "31536000";
        all.insert(wait::DEADLINE_S.into(), A_YEAR_S.into());
    }
    all.iter().map(|(n, v)| Ok(CString::new([n.as_bytes(), b"=", v.as_bytes()].concat())?)).collect()
}

fn become_scenario_if_asked(scenarios: &[Scenario]) {
    let Ok(name) = std::env::var(SCENARIO) else { return };
    let (directory, cgroup) = (std::env::var_os(DIRECTORY), std::env::var_os(CGROUP));
    let (Some(directory), Some(cgroup), 1) = (directory, cgroup, std::process::id()) else { return };
    match scenarios.iter().find(|s| s.name == name) {
        Some(scenario) => child::run(scenario, Path::new(&directory), Path::new(&cgroup)),
        None => sys::exit_now(127),
    }
}

/// A directory of one scenario; removed when dropped.
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn create(number: usize) -> Result<Self> {
        let path = std::env::temp_dir().join(cgroup::own_name(number)?);
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its logs, the scenario's own output first.
    fn texts(&self) -> String {
        let mut files: Vec<_> = fs::read_dir(&self.path).into_iter().flatten().flatten().map(|e| e.path()).collect();
        files.retain(|p| p.ends_with("output") || p.extension().is_some_and(|e| e == "log"));
        files.sort_by_key(|p| (!p.ends_with("output"), p.clone()));
        let mut text = String::new();
        for file in files {
            let bytes = fs::read(&file).unwrap_or_default();
            let tail = bytes.get(bytes.len().saturating_sub(SHOWN_BYTES)..).unwrap_or_default();
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            text += &format!("-- {name}\n{}\n", String::from_utf8_lossy(tail).trim_end());
        }
        text
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The selection of scenarios, from the arguments that `cargo test -- ...` passes on.
#[derive(Debug, Default, PartialEq, Eq)]
struct Choice {
    filters: Vec<String>,
    skip: Vec<String>,
    exact: bool,
    list: bool,
    nocapture: bool,
}

impl Choice {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut choice = Self::default();
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
                _ => (argument.clone(), None),
            };
            let mut value =
                || value.clone().or_else(|| arguments.next()).with_context(|| format!("{name} needs a value"));
            match name.as_str() {
                "--exact" => choice.exact = true,
                "--list" => choice.list = true,
                "--nocapture" | "--no-capture" => choice.nocapture = true,
                "--skip" => choice.skip.push(value()?),
                "--test-threads" if value()? != "1" => bail!("scenarios run one after the other: --test-threads 1"),
                "--color" | "--format" => drop(value()?),
                "--test-threads" | "-q" | "--quiet" | "--show-output" => {}
                _ if name.starts_with('-') => bail!("unknown option {name}"),
                _ => choice.filters.push(argument),
            }
        }
        Ok(choice)
    }

    fn takes(&self, scenario: &Scenario) -> bool {
        let name = scenario.name;
        let is = |pattern: &String| if self.exact { name == pattern } else { name.contains(pattern.as_str()) };
        if scenario.hidden && !(self.exact && self.filters.iter().any(|f| f == name)) {
            return false;
        }
        (self.filters.is_empty() || self.filters.iter().any(is)) && !self.skip.iter().any(is)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_like_cargo_test() {
        fn never(_: &Lab) -> Result<()> {
            bail!("not run")
        }
        let scenarios = [
            Scenario::new("capture::v4", never),
            Scenario::new("capture::v6", never),
            Scenario::new("inbound", never),
            Scenario::new("victim", never).hidden(),
        ];
        for (arguments, expected) in [
            ("", "capture::v4 capture::v6 inbound"),
            ("capture", "capture::v4 capture::v6"),
            ("capture inb", "capture::v4 capture::v6 inbound"),
            ("--skip v6 capture", "capture::v4"),
            ("--exact capture", ""),
            ("--exact inbound --nocapture", "inbound"),
            ("victim", ""),
            ("--exact victim", "victim"),
            ("--test-threads=1 inbound", "inbound"),
        ] {
            let choice = Choice::parse(arguments.split_whitespace().map(str::to_owned)).expect(arguments);
            let names: Vec<_> = scenarios.iter().filter(|s| choice.takes(s)).map(|s| s.name).collect();
            assert_eq!(names.join(" "), expected, "{arguments}");
        }
        for arguments in ["--ignored", "--test-threads 4", "--skip"] {
            let parsed = Choice::parse(arguments.split_whitespace().map(str::to_owned));
            assert!(parsed.is_err(), "{arguments}: {parsed:?}");
        }
    }
}
