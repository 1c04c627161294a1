//! `underpass-agent cleanup`: everything that agents left on this node is taken away, without one. For nodes that leave the
//! mesh for good: as long as anything is pinned, captured connections wait for the next agent.
//!
//! What must hold: DESIGN's order. Nothing new is captured; captured sockets are destroyed, and looked at again; then rules
//! and routes; `guard` last. A step that fails stops the rest, and it can be run again. Not while an agent runs.

use std::{
    fmt,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Parser;
use underpass_abi::Marks;
use underpass_loader::Kernel;

use crate::{
    handover::{self, Claim, Place},
    pods::{self, Pods},
};

/// What fails is tried so many times: sockets come and go under a process list that is read.
const TRIES: usize = 5;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(500);

/// Take everything away that agents left on this node: captured sockets are ended, then rules, routes, programs and tables
/// go. Not while an agent runs. Exit status: 0, nothing is left; 1, something is, and is named.
#[derive(Clone, Debug, Parser)]
#[command(name = "underpass-agent cleanup", version)]
pub struct Cleanup {
    /// The name of this node, as its agent was given it.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node: String,

    /// The agent's state directory. The key of the embedded certificate authority stays there.
    #[arg(long, env = "UNDERPASS_STATE", value_name = "DIR", default_value = "/var/lib/underpass")]
    pub state: PathBuf,

    /// The bpf file system, where kernel programs and tables outlive the agent.
    #[arg(long, env = "UNDERPASS_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
}

/// What was done, and what is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Pods that were captured and are not any more.
    pub released: usize,
    /// Programs, tables and links are gone.
    pub removed: bool,
    /// What is left, and why.
    pub left: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.removed, self.released) {
            (true, n) => {
                writeln!(f, "removed: rules, routes and captured sockets of {n} pods; programs, links, tables")?
            }
            (false, 0) if self.left.is_empty() => writeln!(f, "nothing to do: nothing is pinned for this node")?,
            (false, 0) => {}
            (false, n) => writeln!(f, "removed: rules, routes and captured sockets of {n} pods")?,
        }
        self.left.iter().try_for_each(|left| writeln!(f, "left: {left}"))
    }
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An agent runs, or its lock cannot be looked at.
    #[error(transparent)]
    Claim(#[from] handover::Error),
    /// The kernel data path.
    #[error("kernel data path")]
    Kernel(#[from] underpass_loader::Error),
    /// Pods.
    #[error("pods of this node")]
    Pods(#[from] pods::Error),
}

/// Takes everything away.
///
/// # Errors
/// Where an agent runs, or what is pinned cannot be read. What could be read and not be removed is in the report.
pub fn run(cleanup: &Cleanup) -> Result<Report, Error> {
    // Nobody may begin to be the agent meanwhile.
    let Claim::Alone(lock) = Place::new(&cleanup.state, &cleanup.node).claim(false)? else {
        return Ok(Report::default()); // a claim that is not to take over finds nobody, or fails
    };
    let settings = underpass_loader::Settings {
        bpffs: cleanup.bpffs.clone(),
        instance: cleanup.node.clone(),
        cgroup_root: PathBuf::new(), // nothing is attached
        marks: Marks::DEFAULT,
    };
    let mut report = Report::default();
    if Kernel::is_pinned(&settings) {
        release(&settings, &mut report)?;
        if report.left.is_empty() {
            Kernel::open(&settings)?.remove()?;
            report.removed = true;
        }
    }
    if let Some(path) = Kernel::of_other_version(&settings)? {
        report.left.push(format!("{}: of another version; run the cleanup of the agent that made it", path.display()));
    }
    drop(lock);
    Ok(report)
}

/// Releases every pod.
fn release(settings: &underpass_loader::Settings, report: &mut Report) -> Result<(), Error> {
    let kernel = Kernel::open(settings)?;
    let of_node = pods::Settings {
        node: settings.instance.as_str().into(),
        cgroup_root: settings.cgroup_root.clone(),
        agents: Vec::new(),
        marks: settings.marks,
        drain: Duration::ZERO,
    };
    let mut pods = Pods::adopt(of_node, kernel, Instant::now(), Box::new(drop))?;
    let before = pods.unclaimed();
    for again in 0..TRIES {
        if again > 0 {
            std::thread::sleep(PAUSE);
        }
        pods.release_all();
        pods.turn(Instant::now());
        if pods.is_empty() {
            break;
        }
    }
    let left = pods.unclaimed();
    report.released = before.len() - left.len();
    let named = left.iter().map(|cookie| format!("the pod whose network namespace has the cookie {}", cookie.0));
    report.left.extend(named);
    if !report.left.is_empty() {
        report.left.push("programs, links and tables: they go when every pod is released".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said() {
        let check = |report: Report, says: &str| assert_eq!(report.to_string(), says);
        check(Report::default(), "nothing to do: nothing is pinned for this node\n");
        let gone = Report { released: 2, removed: true, left: Vec::new() };
        check(gone, "removed: rules, routes and captured sockets of 2 pods; programs, links, tables\n");
        let some = Report { released: 1, removed: false, left: vec!["x".into()] };
        check(some, "removed: rules, routes and captured sockets of 1 pods\nleft: x\n");
        check(Report { left: vec!["y".into()], ..Report::default() }, "left: y\n");
    }
}
