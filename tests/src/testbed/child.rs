//! The first process of a scenario's namespaces. It prepares the mounts, forks the scenario itself, and from then on
//! does one thing: fork further processes on request and report how they ended. Its own process because only a process
//! with one thread may fork and go on running Rust, and because the kernel kills everything in its PID namespace when
//! it ends.
//!
//! ```text
//! runner --clone3--> init (pid 1, one thread) --fork--> scenario (pid 2, the test's code, any threads)
//!                      ^  \--fork--> sandboxes, actors, programs           |
//!                      \----------------- Request + descriptors -----------/
//! ```
//! Because a fork has the same image at the same addresses, a request names a function by its address.

use std::{
    collections::HashMap,
    fs, io,
    io::Write,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns},
    sys::{
        signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
        socket::{
            AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
            socketpair,
        },
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, setsid},
};
use serde::{Deserialize, Serialize};

use super::{
    actor::{Exit, Io, Shim},
    harness::{Scenario, shown},
    lab::Lab,
    sys, wait,
};

/// The private run directory of a scenario; a tmpfs.
pub(super) const RUN: &str = "/run/underpass-test";
/// Its own bpffs.
pub(super) const BPFFS: &str = "/run/underpass-test/bpf";
/// The longest request, limited by the socket's buffer.
const MAX_REQUEST: usize = 128 * 1024;
/// The descriptor by which a forked process talks to who asked for it.
const IO_FD: RawFd = 3;

/// Cgroup and namespaces of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Isolation {
    /// The cgroup it moves to first.
    pub(super) cgroup: Option<PathBuf>,
    /// The cgroups of other hierarchies (version 1) that it moves to as well.
    pub(super) hierarchies: Vec<PathBuf>,
    /// The process whose network namespace it enters.
    pub(super) network_of: Option<i32>,
    /// The process whose mount namespace it enters.
    pub(super) mounts_of: Option<i32>,
    /// The process whose cgroup namespace it enters.
    pub(super) cgroups_of: Option<i32>,
}

/// Asks init for a process. Two descriptors travel with it: the one by which init reports pid and exit, and the
/// process's own end of its channel.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) shim: u64,
    pub(super) function: u64,
    pub(super) arguments: String,
    pub(super) isolation: Isolation,
}

/// The scenario's end of the socket to init.
#[derive(Debug)]
pub(super) struct Control(OwnedFd);

impl Control {
    /// Sends a request.
    pub(super) fn send(&self, request: &Request, status: &UnixStream, io: &UnixStream) -> Result<()> {
        let text = serde_json::to_vec(request)?;
        if text.len() > MAX_REQUEST {
            bail!("arguments of {} bytes are too long: send them as messages", text.len());
        }
        let fds = [status.as_raw_fd(), io.as_raw_fd()];
        let carried = [ControlMessage::ScmRights(&fds)];
        let sent =
            sendmsg::<()>(self.0.as_raw_fd(), &[io::IoSlice::new(&text)], &carried, MsgFlags::MSG_NOSIGNAL, None);
        sent.context("ask init for a process").map(drop)
    }
}

/// Becomes init and then the scenario; returns in neither. `directory` is the scenario's own on disk.
pub(super) fn run(scenario: &Scenario, directory: &Path, cgroup: &Path) -> ! {
    let code = match start(scenario, directory, cgroup) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("init: {e:#}");
            1
        }
    };
    let _ = io::stdout().flush();
    sys::exit_now(code)
}

fn start(scenario: &Scenario, directory: &Path, cgroup: &Path) -> Result<i32> {
    prepare_mounts()?;
    let mut watched = SigSet::empty();
    watched.add(Signal::SIGCHLD);
    watched.add(Signal::SIGTERM);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&watched), None)?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    match sys::fork().context("fork the scenario")? {
        sys::Fork::Child => {
            drop(ours);
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            Ok(play(scenario, directory, cgroup, Control(theirs)))
        }
        sys::Fork::Parent(scenario) => {
            drop(theirs);
            Init { control: ours, scenario, living: HashMap::new() }.serve(&watched)
        }
    }
}

/// The scenario: runs the test and says how it went by the exit code.
fn play(scenario: &Scenario, directory: &Path, cgroup: &Path, control: Control) -> i32 {
    wait::start(scenario.deadline());
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| -> Result<()> {
        let lab = Lab::new(control, directory, cgroup)?;
        scenario.run_with(&lab)
    }));
    match outcome {
        Ok(Ok(())) => 0,
        Ok(Err(e)) => {
            eprintln!("failed: {}", shown(&e));
            101
        }
        Err(_panic) => 101, // the panic hook has printed it
    }
}

fn prepare_mounts() -> Result<()> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make mounts private")?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), quiet, none).context("mount /proc")?;
    let modest = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let resolver: Vec<_> = super::pod::RESOLVER_FILES.iter().filter_map(|f| fs::canonicalize(f).ok()).collect();
    mount(Some("tmpfs"), "/run", Some("tmpfs"), modest, Some("mode=755")).context("mount a tmpfs at /run")?;
    // Where they are links into /run, the files that pods mount theirs over have just been hidden.
    for hidden in resolver.iter().filter(|f| f.starts_with("/run")) {
        fs::create_dir_all(hidden.parent().unwrap_or(hidden))?;
        fs::write(hidden, "")?;
    }
    fs::create_dir_all(BPFFS)?;
    fs::create_dir_all(format!("{RUN}/pods"))?;
    mount(Some("bpf"), BPFFS, Some("bpf"), quiet, Some("mode=700")).context("mount a bpffs")?;
    Ok(())
}

struct Init {
    control: OwnedFd,
    scenario: Pid,
    /// The descriptor for the report of each process's end.
    living: HashMap<Pid, UnixStream>,
}

impl Init {
    /// Until the scenario ends; returns its exit code.
    fn serve(mut self, watched: &SigSet) -> Result<i32> {
        let signals = SignalFd::with_flags(watched, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        loop {
            let mut ready =
                [PollFd::new(self.control.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            let [asked, signalled] = ready.map(|r| r.revents().is_some_and(|e| !e.is_empty()));
            if signalled {
                while let Some(info) = signals.read_signal()? {
                    if info.ssi_signo == Signal::SIGTERM as u32 {
                        let _ = kill(self.scenario, Signal::SIGTERM); // the runner asks it to end
                    }
                }
                if let Some(code) = self.reap()? {
                    return Ok(code);
                }
            }
            if asked && !self.answer()? {
                // The scenario is gone, or going: its exit status follows by SIGCHLD.
                let code = exit_code(waitpid(self.scenario, None)?);
                return Ok(code.map_or(1, Exit::shell_code));
            }
        }
    }

    /// Collects what has ended. The scenario's exit code, when it is the one.
    fn reap(&mut self) -> Result<Option<i32>> {
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(None),
                other => other?,
            };
            let (Some(pid), Some(exit)) = (status.pid(), exit_code(status)) else { continue };
            if pid == self.scenario {
                return Ok(Some(exit.shell_code()));
            }
            // Orphans that a process left to us have no waiting parent.
            if let Some(mut stream) = self.living.remove(&pid) {
                let _ = writeln!(stream, "{}", serde_json::to_string(&exit)?);
            }
        }
    }

    /// Handles one request; false at end of file.
    fn answer(&mut self) -> Result<bool> {
        let mut buffer = vec![0; MAX_REQUEST];
        let (length, fds) = {
            let mut room = nix::cmsg_space!([RawFd; 2]);
            let mut parts = [io::IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let message = match recvmsg::<()>(self.control.as_raw_fd(), &mut parts, Some(&mut room), flags) {
                Err(Errno::ECONNRESET) => return Ok(false),
                other => other?,
            };
            let fds: Vec<OwnedFd> = message
                .cmsgs()?
                .flat_map(|m| if let ControlMessageOwned::ScmRights(fds) = m { fds } else { Vec::new() })
                .map(sys::inherited)
                .collect();
            (message.bytes, fds)
        };
        if length == 0 {
            return Ok(false);
        }
        let request: Request = serde_json::from_slice(buffer.get(..length).unwrap_or_default())?;
        let [status, io] = <[OwnedFd; 2]>::try_from(fds).map_err(|fds| anyhow!("{} descriptors", fds.len()))?;
        let mut status = UnixStream::from(status);
        match sys::fork() {
            Ok(sys::Fork::Child) => {
                drop(buffer);
                become_actor(&request, io)
            }
            Ok(sys::Fork::Parent(pid)) => {
                let _ = writeln!(status, "{pid}"); // the asking process may have ended
                self.living.insert(pid, status);
            }
            Err(e) => {
                let _ = writeln!(status, "cannot fork: {e}");
            }
        }
        Ok(true)
    }
}

fn exit_code(status: WaitStatus) -> Option<Exit> {
    match status {
        WaitStatus::Exited(_, code) => Some(Exit::Code(code)),
        WaitStatus::Signaled(_, signal, _) => Some(Exit::Signal(signal as i32)),
        _ => None,
    }
}

/// The rest of a forked process's life.
fn become_actor(request: &Request, io: OwnedFd) -> ! {
    let code = match sys::move_to(io, IO_FD) {
        Err(_) => 1,
        Ok(io) => {
            sys::close_from(IO_FD + 1);
            let mut io = Io::of(UnixStream::from(io));
            let done = std::panic::catch_unwind(AssertUnwindSafe(|| act(request, &mut io)));
            let result = done.unwrap_or_else(|_| Err(anyhow!("panicked; its message is in the scenario's output")));
            let failed = result.is_err();
            io.finish(result);
            i32::from(failed)
        }
    };
    let _ = io::stdout().flush();
    sys::exit_now(code)
}

fn act(request: &Request, io: &mut Io) -> Result<serde_json::Value> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    setsid()?;
    request.isolation.enter()?;
    io.arrived()?;
    // SAFETY-relevant: this process is a fork of init, and so is the scenario which took the addresses.
    let shim: Shim = super::actor::shim_at(request.shim);
    shim(request.function, &request.arguments, io)
}

impl Isolation {
    /// Moves the calling process (one thread) there.
    fn enter(&self) -> Result<()> {
        for cgroup in self.cgroup.iter().chain(&self.hierarchies) {
            super::cgroup::enter(cgroup)?;
        }
        // All are opened before one is entered: /proc belongs to the mounts that are left.
        let open = |pid: &Option<i32>, kind: &str| -> Result<Option<fs::File>> {
            let Some(pid) = pid else { return Ok(None) };
            let path = format!("/proc/{pid}/ns/{kind}");
            fs::File::open(&path).with_context(|| format!("open {path}")).map(Some)
        };
        let (network, mounts) = (open(&self.network_of, "net")?, open(&self.mounts_of, "mnt")?);
        if let Some(cgroups) = open(&self.cgroups_of, "cgroup")? {
            setns(cgroups, CloneFlags::CLONE_NEWCGROUP).context("enter the cgroup namespace")?;
        }
        if let Some(network) = network {
            setns(network, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
        }
        if let Some(mounts) = mounts {
            setns(mounts, CloneFlags::CLONE_NEWNS).context("enter the mount namespace")?;
        }
        Ok(())
    }
}
