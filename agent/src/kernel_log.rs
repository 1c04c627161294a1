//! The kernel's decisions as events of the agent's log, where `--kernel-log` loads the programs that say them. Its own file
//! because the field names are an interface, shared with the metric of the same decisions.

use std::{io, net::SocketAddr, os::fd::AsFd as _};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use tracing::field::display;
use underpass_loader::{Decision, KernelLog};

use crate::reports::verdict;

/// Starts a thread that writes down what the programs say, until the process ends: it waits for them alone, and nothing waits
/// for it.
///
/// # Errors
/// Where no thread can be started.
pub fn follow(mut log: KernelLog) -> io::Result<()> {
    let run = move || {
        loop {
            match poll(&mut [PollFd::new(log.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return tracing::error!(%error, "kernel log cannot be waited for: it ends here"),
            }
            for record in log.read() {
                match record {
                    Ok(decision) => write(&decision),
                    Err(error) => tracing::warn!(%error, "kernel log cannot be read"),
                }
            }
        }
    };
    std::thread::Builder::new().name("kernel-log".into()).spawn(run).map(drop)
}

fn write(decision: &Decision) {
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
