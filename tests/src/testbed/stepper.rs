//! Stepping through a program: each of its system calls on the bpf file system and on links waits until the test lets it go.
//! So a test ends a process between any two steps of it, and the program needs nothing for that.
//!
//! seccomp(2): a filter in the program sends the calls to a listener, whose descriptor the test takes out of the process.

use std::{
    fmt, fs,
    os::{
        fd::{AsFd, OwnedFd, RawFd},
        unix::fs::FileExt,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{child::BPFFS, sys};

/// The number of the listener's descriptor in the program.
pub(super) const NUMBER: RawFd = 200;

/// The longest time of a look for a call, so that its caller can look elsewhere as well.
const LOOK: u8 = 20;

/// The calls of a program, one after the other. Dropped, those that still come fail.
#[derive(Debug)]
pub struct Stepper {
    listener: OwnedFd,
    pid: i32,
}

/// A call that waits.
#[derive(Clone, Debug)]
pub struct Call {
    id: u64,
    /// The system call that it is about to make.
    pub step: Step,
}

/// The kind of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something to a program's link, a map or a pin: a command of bpf(2).
    Bpf(&'static str),
    /// Something to a name below the bpf file system.
    Name(&'static str, PathBuf),
    /// Something elsewhere.
    Other,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bpf(command) => f.write_str(command),
            Self::Name(call, path) => write!(f, "{call} {}", path.display()),
            Self::Other => f.write_str("other"),
        }
    }
}

impl Stepper {
    /// The stepper of a program that was started with one.
    pub(super) fn of(pid: i32) -> Result<Self> {
        let process = sys::process(pid).context("the process under the stepper")?;
        let listener = sys::descriptor_of(process.as_fd(), NUMBER).context("the stepper's listener")?;
        Ok(Self { listener, pid })
    }

    /// The call that waits; none where there is none now. An error when the process has ended.
    pub fn waiting(&self) -> Result<Option<Call>> {
        let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(LOOK))? == 0 {
            return Ok(None);
        }
        let events = fds[0].revents().unwrap_or(PollFlags::empty());
        ensure!(events.contains(PollFlags::POLLIN), "process {} has ended", self.pid);
        // Nothing where the process was killed in between.
        let asked = sys::next_call(self.listener.as_fd())?;
        Ok(asked.map(|asked| Call { id: asked.id, step: self.step(&asked) }))
    }

    /// The call is made.
    pub fn let_go(&self, call: &Call) -> Result<()> {
        Ok(sys::let_call_go(self.listener.as_fd(), call.id)?)
    }

    /// Every further call is made, until the process ends.
    pub fn go_on(self) {
        std::thread::spawn(move || {
            while let Ok(call) = self.waiting() {
                let _ = call.map(|call| self.let_go(&call)); // it ends when the process does
            }
        });
    }

    fn step(&self, asked: &sys::Asked) -> Step {
        match sys::stepped_call(asked) {
            sys::SteppedCall::Bpf(command) => Step::Bpf(command),
            sys::SteppedCall::Path(call, address) => match self.text(address) {
                Some(path) if path.starts_with(BPFFS) => Step::Name(call, path),
                _ => Step::Other,
            },
        }
    }

    /// The C string at this address of the process.
    fn text(&self, address: u64) -> Option<PathBuf> {
        let memory = fs::File::open(Path::new("/proc").join(self.pid.to_string()).join("mem")).ok()?;
        let mut bytes = [0; 256];
        let n = memory.read_at(&mut bytes, address).ok()?;
        let end = bytes.get(..n)?.iter().position(|byte| *byte == 0)?;
        Some(PathBuf::from(String::from_utf8_lossy(bytes.get(..end)?).into_owned()))
    }
}
