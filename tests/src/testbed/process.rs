//! Programs as they are: an agent, a tool, a sample application. Started at a [`Site`], output to a file, killed when
//! the handle is dropped.

use std::{
    fs::{self, File},
    io::BufReader,
    os::unix::{net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use nix::sys::{
    resource::{Resource, setrlimit},
    signal::Signal,
};
use serde::{Deserialize, Serialize};

use super::{
    actor::{Actor, Exit, Io, Process},
    lab::Site,
    stepper::{self, Stepper},
    sys, wait,
};

/// A program to start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    name: String,
    log: Option<PathBuf>,
    files: Option<u64>,
    ipv6: bool,
    stepped: bool,
}

impl Program {
    /// The program at `path`, or found in PATH.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self {
            path,
            arguments: Vec::new(),
            environment: Vec::new(),
            name,
            log: None,
            files: None,
            ipv6: true,
            stepped: false,
        }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_string_lossy().into_owned());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<S: AsRef<std::ffi::OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        for argument in arguments {
            self = self.arg(argument);
        }
        self
    }

    /// An environment variable beside those of the test.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_string_lossy().into_owned()));
        self
    }

    /// Limits of open files, soft and hard.
    #[must_use]
    pub fn files(mut self, most: Option<u64>) -> Self {
        self.files = most;
        self
    }

    /// Whether it finds a kernel with IPv6, or one that was started with `ipv6.disable=1`: no such socket is made then.
    #[must_use]
    pub fn ipv6(mut self, ipv6: bool) -> Self {
        self.ipv6 = ipv6;
        self
    }

    /// Whether its calls that change names, pins or links wait for a test: [`Running::stepper`].
    #[must_use]
    pub fn stepped(mut self, stepped: bool) -> Self {
        self.stepped = stepped;
        self
    }

    /// The name of its log: `<name>.log` in the lab's directory; the file's name otherwise.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    pub(super) fn start(&self, site: &Site) -> Result<Running> {
        let directory = site.lab().directory();
        let log = (0..)
            .map(|n| if n == 0 { format!("{}.log", self.name) } else { format!("{}.{n}.log", self.name) })
            .map(|name| directory.join(name))
            .find(|path| !path.exists())
            .unwrap_or_default();
        File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let program = Self { log: Some(log.clone()), ..self.clone() };
        let mut actor = site.spawn(replace_by, program)?;
        actor.event::<()>().with_context(|| format!("start {}", self.path.display()))?;
        let (process, io) = actor.into_process();
        wait_for_exec(io).with_context(|| format!("start {}", self.path.display()))?;
        Ok(Running { process, log, name: self.name.clone() })
    }
}

/// The channel is closed by a successful exec; before that it may say what went wrong.
fn wait_for_exec(mut io: BufReader<UnixStream>) -> Result<()> {
    io.get_ref().set_read_timeout(Some(wait::remaining()))?;
    let mut said = String::new();
    std::io::Read::read_to_string(&mut io, &mut said)?;
    if said.is_empty() { Ok(()) } else { bail!("{}", said.trim()) }
}

/// An actor that becomes the program.
fn replace_by(program: Program, io: &mut Io) -> Result<()> {
    let log = program.log.context("has a log")?;
    let output = File::options().append(true).open(&log).with_context(|| format!("open {}", log.display()))?;
    if let Some(most) = program.files {
        setrlimit(Resource::RLIMIT_NOFILE, most, most).context("limit of open files")?;
    }
    if !program.ipv6 {
        sys::forget_ipv6().context("a filter of system calls")?;
    }
    if program.stepped {
        sys::set_stepper(stepper::NUMBER).context("a filter of system calls")?;
    }
    io.send(&())?;
    let mut command = Command::new(&program.path);
    command.args(&program.arguments).envs(program.environment);
    command.stdin(File::open("/dev/null")?).stdout(output.try_clone()?).stderr(output);
    Err(command.exec().into())
}

/// A program that was started. A guard: dropped, it is killed.
#[derive(Debug)]
#[must_use = "a program that is dropped is killed"]
pub struct Running {
    process: Process,
    log: PathBuf,
    name: String,
}

impl Running {
    /// Its pid in the scenario's PID namespace.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Its stepper. Taken once, of a program that was started with one.
    pub fn stepper(&self) -> Result<Stepper> {
        Stepper::of(self.pid())
    }

    /// The file with its stdout and stderr.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Its output so far.
    pub fn log(&self) -> Result<String> {
        let bytes = fs::read(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Waits until a line of its log has `text`; returns the first such line. An error at once when it has ended
    /// without writing it.
    pub fn wait_for_log(&mut self, text: &str) -> Result<String> {
        self.wait_for_line(&[text])
    }

    /// The same of a line that has all of these texts.
    pub fn wait_for_line(&mut self, texts: &[&str]) -> Result<String> {
        let what = format!("{texts:?} in the log of {}", self.name);
        wait::wait_for(&what, || {
            let ended = self.process.ended()?; // asked first: what it wrote before its end is then in the log
            let log = self.log()?;
            let whole_lines = log.rsplit_once('\n').map_or("", |(lines, _)| lines);
            match (whole_lines.lines().find(|line| texts.iter().all(|text| line.contains(text))), ended) {
                (Some(line), _) => Ok(Some(line.to_owned())),
                (None, Some(exit)) => bail!("{} ended ({exit}) without {what}:\n{log}", self.name),
                (None, None) => Ok(None),
            }
        })
    }

    /// Its end, if it has ended.
    pub fn ended(&mut self) -> Result<Option<Exit>> {
        self.process.ended()
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Result<Exit> {
        self.process.wait()
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(mut self) -> Result<Exit> {
        self.process.signal(Signal::SIGKILL)?;
        self.process.wait()
    }

    /// SIGTERM, and waits until it is gone.
    pub fn terminate(mut self) -> Result<Exit> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait()
    }
}

/// Runs a program to its end.
pub(super) fn run(site: &Site, program: &str, arguments: &[&str]) -> Result<String> {
    let command = Invocation {
        program: program.into(),
        arguments: arguments.iter().map(|&a| a.into()).collect(),
        input: String::new(),
    };
    site.act(run_here, command)
}

/// Starts a program with this input on its stdin; its stdout is the result.
pub(super) fn begin_with_input(site: &Site, program: &str, args: &[&str], input: String) -> Result<Actor<String>> {
    let arguments = args.iter().map(|&a| a.into()).collect();
    site.begin(run_here, Invocation { program: program.into(), arguments, input })
}

#[derive(Serialize, Deserialize)]
struct Invocation {
    program: String,
    arguments: Vec<String>,
    input: String,
}

fn run_here(command: Invocation) -> Result<String> {
    let shown = format!("{} {}", command.program, command.arguments.join(" "));
    let mut process = Command::new(&command.program)
        .args(&command.arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .with_context(|| format!("start {shown}"))?;
    // Our commands read all their input before they write more than a pipe holds.
    let mut stdin = process.stdin.take().context("a piped stdin")?;
    let wrote = std::io::Write::write_all(&mut stdin, command.input.as_bytes());
    drop(stdin);
    let output = process.wait_with_output()?;
    if !output.status.success() {
        bail!("{shown}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    wrote.with_context(|| format!("write to {shown}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
