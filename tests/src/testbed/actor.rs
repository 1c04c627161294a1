//! Functions of a test that run as a process of their own, somewhere else: in a pod, on a node, in a given cgroup.
//! A plain function (or a closure that captures nothing) gets its arguments as JSON, may exchange messages with the
//! test meanwhile, and its result comes back as JSON.
//!
//! What must hold: an [`Actor`] is a guard. Dropped, its process is killed.

use std::{
    fmt,
    io::{BufRead, BufReader, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    child::{Control, Isolation, Request},
    shim::{address_of_shim, call, call_plain},
    wait,
};

pub(super) use super::shim::{Shim, shim_at};

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
}

impl Exit {
    /// As a shell would say it.
    #[must_use]
    pub const fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => match Signal::try_from(*signal) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {signal}"),
            },
        }
    }
}

/// One line from a process to who started it.
#[derive(Debug, Serialize, Deserialize)]
enum Line {
    /// It is in its cgroup and namespaces.
    There,
    Event(Value),
    Done(Value),
    Failed(String),
}

/// The process's end of its channel.
#[derive(Debug)]
pub struct Io {
    reader: BufReader<UnixStream>,
}

impl Io {
    /// A channel by this socket; a program that runs an actor's function by itself makes a pair.
    #[must_use]
    pub fn of(stream: UnixStream) -> Self {
        Self { reader: BufReader::new(stream) }
    }

    /// Tells the test something; it reads it by [`Actor::event`].
    pub fn send<T: Serialize>(&mut self, event: &T) -> Result<()> {
        self.write(&Line::Event(serde_json::to_value(event)?))
    }

    /// The next message of the test ([`Actor::tell`]); none when it has let go of the actor.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let mut line = String::new();
        match self.reader.read_line(&mut line)? {
            0 => Ok(None),
            _ => Ok(Some(serde_json::from_str(&line)?)),
        }
    }

    /// Waits, at most so long, until the test has told something or has let go of the actor.
    pub fn is_told(&self, within: Duration) -> Result<bool> {
        if !self.reader.buffer().is_empty() {
            return Ok(true);
        }
        let mut fds = [PollFd::new(self.reader.get_ref().as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut fds, PollTimeout::try_from(within)?)? > 0)
    }

    /// Waits until the test lets go of the actor, which then ends (or is killed first).
    pub fn wait_for_end(&mut self) -> Result<()> {
        while self.receive::<Value>()?.is_some() {}
        Ok(())
    }

    /// The process is where it is to be.
    pub(super) fn arrived(&mut self) -> Result<()> {
        self.write(&Line::There)
    }

    pub(super) fn finish(&mut self, result: Result<Value>) {
        let line = match result {
            Ok(value) => Line::Done(value),
            Err(e) => Line::Failed(format!("{e:#}")),
        };
        let _ = self.write(&line); // the reader may have gone
    }

    fn write(&mut self, line: &Line) -> Result<()> {
        let text = serde_json::to_string(line)?;
        Ok(self.reader.get_mut().write_all(format!("{text}\n").as_bytes())?)
    }
}

/// A process that init made for the scenario. A guard: dropped, it is killed.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    status: BufReader<UnixStream>,
    /// What has come of init's line so far: a look that does not wait may find it half written.
    line: String,
    exit: Option<Exit>,
}

impl Process {
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Sends a signal; none to a process that has ended.
    pub(super) fn signal(&mut self, signal: Signal) -> Result<()> {
        match self.exit {
            Some(_) => Ok(()),
            None => match kill(self.pid, signal) {
                Err(Errno::ESRCH) => Ok(()), // it has ended by now
                sent => sent.with_context(|| format!("send {signal} to {}", self.pid)),
            },
        }
    }

    /// Its end, if it has ended.
    pub(super) fn ended(&mut self) -> Result<Option<Exit>> {
        self.status.get_ref().set_nonblocking(true)?;
        let looked = self.read_status();
        self.status.get_ref().set_nonblocking(false)?;
        looked
    }

    /// Waits for its end.
    pub(super) fn wait(&mut self) -> Result<Exit> {
        self.status.get_ref().set_read_timeout(Some(wait::remaining()))?;
        self.read_status()?.with_context(|| format!("waited in vain for the end of process {}", self.pid))
    }

    fn read_status(&mut self) -> Result<Option<Exit>> {
        if self.exit.is_none() {
            match self.status.read_line(&mut self.line) {
                Ok(0) => bail!("init is gone"),
                Ok(_) => self.exit = Some(serde_json::from_str(&self.line)?),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e).context("hear from init"),
            }
        }
        Ok(self.exit)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.ended(), Ok(None)) {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = self.wait();
        }
    }
}

/// A function that runs elsewhere and will return an `R`.
#[derive(Debug)]
#[must_use = "an actor that is dropped is killed"]
pub struct Actor<R> {
    process: Process,
    reader: BufReader<UnixStream>,
    result: std::marker::PhantomData<fn() -> R>,
}

impl<R> Actor<R> {
    /// The next event of the actor. An error when it ends before.
    pub fn event<T: DeserializeOwned>(&mut self) -> Result<T> {
        match self.line()? {
            Line::Event(value) => Ok(serde_json::from_value(value)?),
            Line::Done(value) => bail!("the actor has ended with {value}"),
            Line::Failed(why) => Err(anyhow!(why)),
            Line::There => bail!("arrived twice"),
        }
    }

    /// Tells the actor something.
    pub fn tell<T: Serialize>(&mut self, message: &T) -> Result<()> {
        let text = serde_json::to_string(message)?;
        self.reader.get_mut().write_all(format!("{text}\n").as_bytes()).context("tell the actor something")
    }

    /// Waits for its result; unread events are passed over.
    pub fn join(mut self) -> Result<R>
    where
        R: DeserializeOwned,
    {
        loop {
            match self.line()? {
                Line::Event(_) | Line::There => {}
                Line::Done(value) => {
                    self.process.wait()?;
                    return Ok(serde_json::from_value(value)?);
                }
                Line::Failed(why) => return Err(anyhow!(why)),
            }
        }
    }

    fn line(&mut self) -> Result<Line> {
        self.reader.get_ref().set_read_timeout(Some(wait::remaining()))?;
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => bail!("the actor has died: {}", self.process.wait()?),
            Ok(_) => Ok(serde_json::from_str(&line)?),
            Err(e) => Err(e).context("waited in vain for the actor"),
        }
    }
}

impl<R> Actor<R> {
    /// Its pid in the scenario's PID namespace.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Kills it and waits until it is gone.
    pub fn kill(mut self) -> Result<Exit> {
        self.process.signal(Signal::SIGKILL)?;
        self.process.wait()
    }

    /// Its process, and the channel with what was read of it and not heard yet.
    pub(super) fn into_process(self) -> (Process, BufReader<UnixStream>) {
        (self.process, self.reader)
    }
}

/// Starts `function` in `isolation`; it exchanges messages by its [`Io`].
pub(super) fn start<A, R>(
    control: &Control,
    isolation: &Isolation,
    function: fn(A, &mut Io) -> Result<R>,
    arguments: &A,
) -> Result<Actor<R>>
where
    A: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    request(control, isolation, address_of_shim(call::<A, R>), super::sys::address_of(function), arguments)
}

/// Starts `function` in `isolation`.
pub(super) fn start_plain<A, R>(
    control: &Control,
    isolation: &Isolation,
    function: fn(A) -> Result<R>,
    arguments: &A,
) -> Result<Actor<R>>
where
    A: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    request(control, isolation, address_of_shim(call_plain::<A, R>), super::sys::address_of(function), arguments)
}

fn request<A: Serialize, R>(
    control: &Control,
    isolation: &Isolation,
    shim: u64,
    function: u64,
    a: &A,
) -> Result<Actor<R>> {
    let (status, their_status) = UnixStream::pair()?;
    let (io, their_io) = UnixStream::pair()?;
    let request = Request { shim, function, arguments: serde_json::to_string(a)?, isolation: isolation.clone() };
    control.send(&request, &their_status, &their_io)?;
    drop((their_status, their_io));
    status.set_read_timeout(Some(wait::remaining()))?;
    let mut status = BufReader::new(status);
    let mut line = String::new();
    status.read_line(&mut line).context("hear from init")?;
    let pid: i32 = line.trim().parse().map_err(|_| anyhow!("init: {}", line.trim()))?;
    let process = Process { pid: Pid::from_raw(pid), status, line: String::new(), exit: None };
    let mut actor = Actor { process, reader: BufReader::new(io), result: std::marker::PhantomData };
    match actor.line()? {
        Line::Failed(why) => Err(anyhow!(why)),
        _there => Ok(actor),
    }
}
