//! The checks of a machine before anything is changed, with all faults in one report: an operator mends a list once, not one line
//! per restart. Files and sockets that are checked by opening them are kept open and handed to the agent.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::PathBuf,
    time::SystemTime,
};

use underpass_abi::{CgroupId, Marks};
use underpass_net::socket::has_ipv6;
use underpass_telemetry::{
    access_log,
    admin::{AdminError, Listener, Unpublished},
};

use crate::{
    config::Config,
    handover::{Claim, HandoverAddress, Inherited, Lock, Successor},
    mounts, pods,
    source::Source,
};

/// A fault of the machine, with its remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Operation, object and error.
    pub found: String,
    /// The remedy.
    pub remedy: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.found, self.remedy)
    }
}

/// The results of the checks, with which the agent starts.
#[derive(Debug)]
pub struct Checked {
    /// The source of what is known of the mesh.
    pub source: Source,
    /// The servers, bound.
    pub servers: Servers,
    /// The access log, open.
    pub access_log: access_log::AccessLog,
    /// The location of the kernel data path.
    pub kernel: underpass_loader::Settings,
    /// The agent's own cgroup, by which the kernel knows its sockets.
    pub own_cgroup: CgroupId,
    /// The claim by which this process is the agent of the node, or about to be.
    pub claim: Claimed,
}

/// The servers of the agent, all of them outside of pods.
#[derive(Debug)]
pub struct Servers {
    /// The admin API, for root, in full.
    pub admin_socket: Listener,
    /// The admin socket without its path, while the predecessor has that.
    pub unpublished: Option<Unpublished>,
    /// The read-only admin API on loopback.
    pub admin: Listener,
    /// Readiness.
    pub readiness: Listener,
    /// Metrics.
    pub metrics: Listener,
    /// Probes of this process, where something asks.
    pub probe: Option<Listener>,
}

/// The servers with an IP address.
struct Bound {
    admin: Listener,
    readiness: Listener,
    metrics: Listener,
}

impl Bound {
    /// Binds each at its address: on the one of these sockets that listens there already, or on a new one.
    fn new(config: &Config, mut sockets: Vec<TcpListener>) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let ipv6 = has_ipv6();
        let mut bind = |what: &str, flag: &str, address: SocketAddr, on: On| {
            let address = every(address, ipv6);
            let here = |socket: &TcpListener| socket.local_addr().is_ok_and(|is| is == address);
            let socket = sockets.iter().position(here).map(|i| sockets.swap_remove(i));
            on(address, socket)
                .map_err(|e| {
                    let found = format!("{what} on {address}: {}", chain(&e));
                    faults.push(Fault { found, remedy: format!("free the port, or name another address with {flag}") });
                })
                .ok()
        };
        let admin = bind("admin API", "--admin-address", config.admin_address, Listener::loopback_on);
        let readiness = bind("readiness", "--readiness-address", config.readiness_address, Listener::any_on);
        let metrics = bind("metrics", "--metrics-address", config.metrics_address, Listener::any_on);
        match (admin, readiness, metrics) {
            (Some(admin), Some(readiness), Some(metrics)) => Ok(Self { admin, readiness, metrics }),
            _ => Err(faults),
        }
    }

    fn with(self, admin_socket: Listener, unpublished: Option<Unpublished>, probe: Option<Listener>) -> Servers {
        let Self { admin, readiness, metrics } = self;
        Servers { admin_socket, unpublished, admin, readiness, metrics, probe }
    }
}

impl Servers {
    /// Copies of their sockets, for a successor.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn sockets(&self) -> io::Result<Vec<TcpListener>> {
        [&self.admin, &self.readiness, &self.metrics]
            .into_iter()
            .filter_map(|server| server.socket().transpose())
            .collect()
    }
}

/// `[::]` is every address of the host: those of IPv4 alone where there is no IPv6.
fn every(address: SocketAddr, ipv6: bool) -> SocketAddr {
    let is_every = address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED);
    if is_every && !ipv6 { SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())) } else { address }
}

type On = fn(SocketAddr, Option<TcpListener>) -> Result<Listener, AdminError>;

/// Takes over: a running agent stands still from here on.
fn claimed(claim: Claim) -> Result<(Claimed, Vec<TcpListener>), Vec<Fault>> {
    match claim {
        Claim::Alone(lock) => Ok((Claimed::Alone(lock), Vec::new())),
        Claim::Successor(successor) => {
            let remedy = "stop the running agent, then start this one: connections wait meanwhile";
            let mut inherited =
                successor.request().map_err(|e| vec![Fault { found: chain(&e), remedy: remedy.to_owned() }])?;
            let sockets = std::mem::take(&mut inherited.servers);
            Ok((Claimed::From(successor, Box::new(inherited)), sockets))
        }
    }
}

/// How this process became the agent of the node.
#[derive(Debug)]
pub enum Claimed {
    /// No other agent runs.
    Alone(Lock),
    /// By take-over from a predecessor, which stands still.
    From(Successor, Box<Inherited>),
}

/// Runs all checks.
///
/// # Errors
/// All faults.
pub fn check(config: &Config, now: SystemTime) -> Result<Checked, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut fault = |found: String, remedy: &str| faults.push(Fault { found, remedy: remedy.to_owned() });

    let source = Source::check(config, now);
    let source = source.map_err(|all| all.into_iter().for_each(|of| fault(of.found, &of.remedy))).ok();
    let root = match &config.cgroup_root {
        Some(root) => Ok(root.clone()),
        None => pods::mount_point(),
    };
    let root = root.map_err(|e| fault(chain(&e), "mount cgroup2, or name its root with --cgroup-root")).ok();
    let kernel = root.map(|root| kernel_settings(config, root));
    let missing = kernel.iter().flat_map(underpass_loader::probe).collect::<Vec<_>>();
    for missing in &missing {
        fault(format!("kernel data path: {}: {}", missing.need, missing.found), missing.need.remedy());
    }
    // The lock is beside the pins.
    let kernel = kernel.filter(|_| missing.is_empty());
    if let Some(Err(e)) = kernel.as_ref().map(|kernel| pods::see_processes(&kernel.cgroup_root)) {
        fault(chain(&e), "run the agent in the host's PID namespace (hostPID: true)");
    }
    let address = source.as_ref().and(kernel.as_ref()).map(|kernel| HandoverAddress::new(&config.state, kernel));
    let claim = address.as_ref().map(|address| address.claim(config.take_over));
    let remedy = "stop that agent, or take over from it with --take-over";
    // A successor gets the servers' sockets, and binds none, once everything else is in order.
    let own = matches!(claim, None | Some(Ok(Claim::Alone(_))));
    let claim = claim.and_then(|claim| claim.map_err(|e| fault(chain(&e), remedy)).ok());
    // A later agent that runs may know this version, and write its tables.
    let alone = kernel.as_ref().filter(|_| matches!(claim, Some(Claim::Alone(_))));
    match alone.map(underpass_loader::Kernel::unknown_version) {
        Some(Ok(Some(version))) => {
            let found = chain(&underpass_loader::Error::UnknownVersion { version });
            fault(found, "start an agent that knows both versions, then this one with --take-over");
        }
        Some(Err(e)) => fault(chain(&e), "let it name a version that is pinned beside it"),
        _ => {}
    }
    if config.cni_config_dir.is_some() && config.cni_socket.is_none() {
        let found = "--cni-config-dir installs the CNI plugin, which has no socket to ask on".to_owned();
        faults.push(Fault { found, remedy: "name one with --cni-socket".to_owned() });
    }
    let bound = if own { Bound::new(config, Vec::new()).map_err(|all| faults.extend(all)).ok() } else { None };
    let mut fault = |found: String, remedy: &str| faults.push(Fault { found, remedy: remedy.to_owned() });
    let access_log = access_log::AccessLog::start(&access_log_settings(config));
    let access_log = access_log.map_err(|e| fault(chain(&e), "name a file that can be written with --access-log")).ok();

    match (source, claim, access_log, kernel) {
        (Some(source), Some(claim), Some(access_log), Some(kernel)) if faults.is_empty() => {
            // Last and alone, because all of it changes something: the process may move to another cgroup, a running agent
            // stands still, and a socket that an earlier agent left is replaced.
            let one = |found: String, remedy: &str| vec![Fault { found, remedy: remedy.to_owned() }];
            mounts::make_sysctls_writable().map_err(|e| one(chain(&e), UNWRITABLE_SYSCTLS))?;
            let own_cgroup = own_cgroup().map_err(|e| one(chain(&e), "run as root, with cgroup2 writable"))?;
            let (claim, sockets) = claimed(claim)?;
            let bound = bound.map_or_else(|| Bound::new(config, sockets), Ok)?;
            let unwritable = |e: AdminError| one(chain(&e), "name a path that can be written with --admin-socket");
            let probe = config.probe_socket.as_deref().map(Listener::unix).transpose();
            let probe = probe.map_err(|e| one(chain(&e), "name a path that can be written with --probe-socket"))?;
            let (admin_socket, unpublished) = Listener::unix_aside(&config.admin_socket).map_err(unwritable)?;
            // The predecessor answers there until it has left.
            let unpublished = match claim {
                Claimed::Alone(_) => unpublished.publish().map(|()| None).map_err(unwritable)?,
                Claimed::From(..) => Some(unpublished),
            };
            let servers = bound.with(admin_socket, unpublished, probe);
            Ok(Checked { source, servers, access_log, kernel, own_cgroup, claim })
        }
        (_, claim, ..) => {
            if let (Some(address), Some(Claim::Alone(lock))) = (address, claim) {
                address.leave(lock); // an agent that cannot start leaves nothing behind
            }
            Err(faults)
        }
    }
}

const UNWRITABLE_SYSCTLS: &str =
    "grant the container CAP_SYS_ADMIN, and no security profile that forbids mounts (appArmorProfile: Unconfined)";

/// The agent's own cgroup, by which the kernel programs know its sockets.
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

/// The location of the kernel data path of this node.
pub(crate) fn kernel_settings(config: &Config, cgroup_root: PathBuf) -> underpass_loader::Settings {
    underpass_loader::Settings {
        bpffs: config.bpffs.clone(),
        instance: config.node.clone(),
        cgroup_root,
        marks: Marks::DEFAULT,
        mesh_entries: underpass_abi::limits::MESH,
        log: config.kernel_log,
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn every_address_is_of_the_families_that_are_there() {
        for (address, ipv6, expect) in [
            ("[::]:15020", true, "[::]:15020"),
            ("[::]:15020", false, "0.0.0.0:15020"),
            ("[::1]:15020", false, "[::1]:15020"),
            ("0.0.0.0:15020", true, "0.0.0.0:15020"),
        ] {
            assert_eq!(every(address.parse().unwrap(), ipv6), expect.parse().unwrap(), "{address} {ipv6}");
        }
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
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
            ["--cni-config-dir", "/nonexistent/cni"],
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
            "--cni-config-dir",
        ] {
            let lines = text.iter().filter(|line| line.contains(names)).count();
            assert_eq!(lines, 1, "one line about {names} in {text:#?}");
        }
        assert!(faults.iter().all(|f| !f.remedy.is_empty()));
    }
}
