//! Everything that can be wrong on a machine, found out before anything is changed, and said all at once: an operator
//! mends a list once, not one line per restart. What is checked by opening it is kept open and handed to the agent.

use std::{fmt, net::SocketAddr, path::PathBuf, time::SystemTime};

use underpass_abi::{CgroupId, Marks};
use underpass_identity::Authority;
use underpass_telemetry::{access_log, admin::Listener};

use crate::{config::Config, pods};

/// One thing that is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What was tried, on what, and what came of it.
    pub found: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.found, self.remedy)
    }
}

/// What the agent starts with.
#[derive(Debug)]
pub struct Checked {
    /// The embedded CA.
    pub authority: Authority,
    /// Bound already: for root, in full.
    pub admin_socket: Listener,
    /// Bound already: loopback, looking only.
    pub admin: Listener,
    /// Bound already.
    pub readiness: Listener,
    /// Bound already.
    pub metrics: Listener,
    /// Open already.
    pub access_log: access_log::AccessLog,
    /// Where the kernel data path lives.
    pub kernel: underpass_loader::Settings,
    /// The agent's own cgroup, by which the kernel knows its sockets.
    pub own_cgroup: CgroupId,
}

/// Checks everything.
///
/// # Errors
/// All that is wrong.
pub fn check(config: &Config, now: SystemTime) -> Result<Checked, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut fault = |found: String, remedy: &str| faults.push(Fault { found, remedy: remedy.to_owned() });

    if let Err(e) = std::fs::read_dir(&config.manifests) {
        let found = format!("read manifests in {}: {e}", config.manifests.display());
        fault(found, "create the directory, or name another with --manifests");
    }
    // A directory of its own: the authority refuses one that holds anything else.
    let authority = Authority::open(&config.state.join("ca"), &config.trust_domain, now);
    let authority = authority.map_err(|e| fault(chain(&e), "name a directory that can be written with --state")).ok();
    let mut bind = |what: &str, flag: &str, address: SocketAddr, listener: Result<Listener, _>| {
        let found = |e: underpass_telemetry::admin::AdminError| format!("{what} on {address}: {}", chain(&e));
        listener.map_err(|e| fault(found(e), &format!("free the port, or name another address with {flag}"))).ok()
    };
    let (admin, readiness) = (config.admin_address, config.readiness_address);
    let admin = bind("admin API", "--admin-address", admin, Listener::loopback(admin));
    let readiness = bind("readiness", "--readiness-address", readiness, Listener::any(readiness));
    let metrics = config.metrics_address;
    let metrics = bind("metrics", "--metrics-address", metrics, Listener::any(metrics));
    let access_log = access_log::AccessLog::start(&access_log_settings(config));
    let access_log = access_log.map_err(|e| fault(chain(&e), "name a file that can be written with --access-log")).ok();

    let root = match &config.cgroup_root {
        Some(root) => Ok(root.clone()),
        None => pods::mount_point(),
    };
    let root = root.map_err(|e| fault(chain(&e), "mount cgroup2, or name its root with --cgroup-root")).ok();
    let kernel = root.map(|root| kernel_settings(config, root));
    for missing in kernel.iter().flat_map(underpass_loader::probe) {
        fault(format!("kernel data path: {}: {}", missing.need, missing.found), missing.need.remedy());
    }
    match (authority, admin, readiness, metrics, access_log, kernel) {
        (Some(authority), Some(admin), Some(readiness), Some(metrics), Some(access_log), Some(kernel))
            if faults.is_empty() =>
        {
            // Last and alone, because both change something: the process may move to another cgroup, and a socket that
            // another agent left, or serves, is replaced.
            let one = |found: String, remedy: &str| vec![Fault { found, remedy: remedy.to_owned() }];
            let own_cgroup = own_cgroup().map_err(|e| one(chain(&e), "run as root, with cgroup2 writable"))?;
            let admin_socket = Listener::unix(&config.admin_socket)
                .map_err(|e| one(chain(&e), "name a path that can be written with --admin-socket"))?;
            Ok(Checked { authority, admin_socket, admin, readiness, metrics, access_log, kernel, own_cgroup })
        }
        _ => Err(faults),
    }
}

/// The agent's own cgroup, which the kernel programs know its sockets by.
fn own_cgroup() -> Result<CgroupId, pods::Error> {
    pods::cgroup_id(&pods::own_alone("underpass-agent")?)
}

fn access_log_settings(config: &Config) -> access_log::Settings {
    let target = match &config.access_log {
        Some(file) => access_log::Target::File(file.clone()),
        None => access_log::Target::Stdout,
    };
    access_log::Settings { format: config.access_log_format, target, ..access_log::Settings::default() }
}

fn kernel_settings(config: &Config, cgroup_root: PathBuf) -> underpass_loader::Settings {
    underpass_loader::Settings {
        bpffs: config.bpffs.clone(),
        instance: config.node.clone(),
        cgroup_root,
        marks: Marks::DEFAULT,
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = taken.local_addr().unwrap().to_string();
        let args = [
            ["--node", "n"],
            ["--manifests", "/nonexistent/manifests"],
            ["--state", "/proc/nonexistent"],
            ["--admin-address", "192.0.2.1:15000"],
            ["--readiness-address", &taken],
            ["--metrics-address", "192.0.2.1:15020"],
            ["--access-log", "/nonexistent/log"],
            ["--bpffs", "/nonexistent/bpffs"],
            ["--cgroup-root", "/nonexistent/cgroup"],
        ];
        let config = Config::parse_from(std::iter::once("underpass-agent").chain(args.iter().flatten().copied()));
        let faults = check(&config, SystemTime::now()).unwrap_err();
        let text: Vec<String> = faults.iter().map(ToString::to_string).collect();
        for names in [
            "/nonexistent/manifests",
            "/proc/nonexistent",
            "192.0.2.1:15000",
            "192.0.2.1:15020",
            &taken,
            "/nonexistent/log",
            "/nonexistent/bpffs",
            "/nonexistent/cgroup",
        ] {
            let lines = text.iter().filter(|line| line.contains(names)).count();
            assert_eq!(lines, 1, "one line about {names} in {text:#?}");
        }
        assert!(faults.iter().all(|f| !f.remedy.is_empty()));
    }
}
