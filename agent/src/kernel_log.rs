//! The kernel's decisions as events of the agent's log, where `--kernel-log` loads the programs that log. Its own file
//! because the field names are an interface, shared with the metric of the same decisions.

use std::{io, net::SocketAddr, os::fd::AsFd as _};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use tracing::field::display;
use underpass_loader::{KernelLog, LogRecord};

use crate::reports::verdict;

/// Starts the thread that logs the decisions until the process ends. It waits for them alone, and nothing waits for it.
///
/// # Errors
/// Where no thread can be started.
pub fn start(log: KernelLog) -> io::Result<()> {
    let mut log = log.writing(write);
    let run = move || {
        let _ends = Ends;
        loop {
            match poll(&mut [PollFd::new(log.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => log.read(),
                Err(error) => return tracing::error!(%error, "waiting for the kernel log failed"),
            }
        }
    };
    std::thread::Builder::new().name("kernel-log".into()).spawn(run).map(drop)
}

/// Logs the end of the thread, also by a panic: a record that the library cannot read is one.
struct Ends;

impl Drop for Ends {
    fn drop(&mut self) {
        tracing::error!("kernel log stopped, decisions are no longer logged");
    }
}

fn write(record: LogRecord) {
    let decision = match record {
        Ok(decision) => decision,
        Err(error) => return tracing::warn!(%error, "reading a record of the kernel log failed"),
    };
    let address = |of: Option<SocketAddr>| of.map(display);
    tracing::info!(
        hook = decision.counter.hook(),
        event = decision.counter.event(),
        verdict = verdict(decision.counter),
        cookie = decision.pod.0,
        source = address(decision.source),
        destination = address(decision.destination),
        "kernel decision"
    );
}
