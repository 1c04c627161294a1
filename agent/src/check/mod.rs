//! `underpass-agent check`: would an agent work on this node? The checks of an agent's start that read alone, and what of others is in
//! its way: programs at its hooks, listeners on its ports, a configuration of the runtime that it cannot follow. A room of its own
//! because it runs where no agent is installed, as a pod of `underpass check`.
//!
//! What must hold: nothing of the node is changed, no lock is taken, and no program stays loaded.

mod ports;

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use underpass_abi::{Marks, limits::MESH};
use underpass_cni::chain::{self, File, Plugin};
use underpass_loader::{Effect, Foreign, Kernel, Missing, Need};
use underpass_telemetry::admin::view::{Level, NodeCheck, NodeFinding};

use crate::{pods, preflight::chain as causes};

/// Looks at this node as an agent would at its start, and at what is in an agent's way. It changes nothing.
#[derive(Debug, Parser)]
#[command(
    name = "underpass-agent check",
    version,
    after_help = "Exit status: 0 it has looked, with findings or without; 1 it could not look."
)]
pub struct Command {
    /// The name of this node.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node: String,
    /// The bpf file system.
    #[arg(long, env = "UNDERPASS_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
    /// The root of the node's cgroup v2 tree. By default the one in /proc/self/mounts.
    #[arg(long, env = "UNDERPASS_CGROUP_ROOT", value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// The directory of CNI configurations. By default the CNI plugin is left out.
    #[arg(long, env = "UNDERPASS_CNI_CONFIG_DIR", value_name = "DIR")]
    cni_config_dir: Option<PathBuf>,
    /// Where the node's own files are, as this process sees them.
    #[arg(long, value_name = "DIR", default_value = "/")]
    host_root: PathBuf,
    /// The address of an agent's admin API.
    #[arg(long, env = "UNDERPASS_ADMIN_ADDRESS", value_name = "ADDRESS", default_value = "127.0.0.1:15000")]
    admin_address: SocketAddr,
    /// The address of its readiness probe.
    #[arg(long, env = "UNDERPASS_READINESS_ADDRESS", value_name = "ADDRESS", default_value = "[::]:15021")]
    readiness_address: SocketAddr,
    /// The address of its metrics.
    #[arg(long, env = "UNDERPASS_METRICS_ADDRESS", value_name = "ADDRESS", default_value = "[::]:15020")]
    metrics_address: SocketAddr,
    /// Answer in JSON, for programs.
    #[arg(long)]
    json: bool,
}

impl Command {
    /// Parses the command line, where it is this command's.
    #[must_use]
    pub fn parse_own(mut arguments: impl Iterator<Item = OsString>) -> Option<Result<Self, clap::Error>> {
        let program = arguments.next()?;
        let first = arguments.next()?;
        (first == "check").then(|| Self::try_parse_from(std::iter::once(program).chain(arguments)))
    }

    /// Looks, and prints what was found.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let check = self.check();
        if self.json {
            match serde_json::to_string(&check) {
                Ok(text) => println!("{text}"),
                Err(error) => {
                    eprintln!("underpass-agent check: {error}");
                    return ExitCode::FAILURE;
                }
            }
        } else {
            print!("{}", text(&check));
        }
        ExitCode::SUCCESS
    }

    fn check(&self) -> NodeCheck {
        let mut findings = Vec::new();
        match self.cgroup_root.clone().map_or_else(pods::mount_point, Ok) {
            Ok(root) => self.kernel(root, &mut findings),
            Err(e) => findings.push(error(causes(&e), Need::Cgroup2.remedy())),
        }
        self.ports(&mut findings);
        findings.extend(self.cni_config_dir.as_deref().and_then(|directory| self.cni(directory)));
        findings.sort_by_key(|finding| finding.level);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        NodeCheck { version: env!("CARGO_PKG_VERSION").to_owned(), node: self.node.clone(), kernel, findings }
    }

    fn kernel(&self, cgroup_root: PathBuf, findings: &mut Vec<NodeFinding>) {
        let settings = underpass_loader::Settings {
            bpffs: self.bpffs.clone(),
            instance: self.node.clone(),
            cgroup_root,
            marks: Marks::DEFAULT,
            mesh_entries: MESH,
            log: false,
        };
        let missing = underpass_loader::probe(&settings);
        let has_bpffs = statfs(&self.bpffs).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
        findings.extend(missing.iter().map(|missing| of_missing(missing, has_bpffs || !self.bpffs.is_dir())));
        let is_missing = |need| missing.iter().any(|missing| missing.need == need);
        if !is_missing(Need::Cgroup2) {
            if let Err(e) = pods::see_processes(&settings.cgroup_root) {
                findings.push(error(causes(&e), "run it in the host's PID namespace (hostPID: true)"));
            }
            match underpass_loader::foreign_programs(&settings) {
                Ok(foreign) => findings.extend(foreign.iter().map(of_foreign)),
                // Without the right to ask the kernel, which is among the missing.
                Err(_) if missing.iter().any(|missing| matches!(missing.need, Need::Capability(_))) => {}
                Err(e) => findings.push(error(causes(&e), "see which programs are there with bpftool cgroup tree")),
            }
        }
        match Kernel::too_old(&settings) {
            Ok(None) => {}
            Ok(Some(path)) => {
                let found = format!("{} is of a version without take-over", path.display());
                findings.push(error(found, "run underpass-agent cleanup of the agent that made it"));
            }
            Err(e) => findings.push(error(causes(&e), "run it as root, with the bpf file system of the node")),
        }
    }

    fn ports(&self, findings: &mut Vec<NodeFinding>) {
        let all = [
            ("admin-address", self.admin_address),
            ("readiness-address", self.readiness_address),
            ("metrics-address", self.metrics_address),
        ];
        match ports::holders(Path::new("/proc"), &all.map(|(_, address)| address)) {
            Ok(holders) => findings.extend(holders.into_iter().map(|holder| {
                let setting = all.iter().find(|(_, address)| *address == holder.wanted).map_or("", |(name, _)| name);
                let name = holder.name.as_deref().unwrap_or("a process that is not visible");
                let found = format!("{name} listens on {}: an agent's {setting} is {}", holder.address, holder.wanted);
                error(found, &format!("free the port, or name another one with agent.settings.{setting}"))
            })),
            Err(e) => findings.push(error(format!("cannot read who listens: {e}"), "run it with /proc mounted")),
        }
    }

    /// Whether a configuration of ours could stand behind the runtime's.
    fn cni(&self, directory: &Path) -> Option<NodeFinding> {
        const REMEDY: &str = "name the directory of the runtime with cni.confDir, or install a network";
        let here = self.host_root.join(directory.strip_prefix("/").unwrap_or(directory));
        let unreadable = |path: &Path, e: std::io::Error| error(format!("cannot read {}: {e}", path.display()), REMEDY);
        let names = match fs::read_dir(&here) {
            Ok(entries) => entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()),
            Err(e) => return Some(unreadable(directory, e)),
        };
        let names: Vec<String> = names.collect();
        let Some(name) = chain::primary(names.iter().map(String::as_str)) else {
            return Some(error(format!("{} has no plugin's configuration", directory.display()), REMEDY));
        };
        let text = match fs::read_to_string(here.join(name)) {
            Ok(text) => text,
            Err(e) => return Some(unreadable(&directory.join(name), e)),
        };
        let file = File { name: name.to_owned(), text };
        let plugin = Plugin { socket: PathBuf::new(), namespaces: PathBuf::new(), exempt: Default::default() };
        let e = chain::follow(&file, &plugin).err()?;
        let found = format!("the CNI plugin cannot follow {}: {e}", directory.join(name).display());
        Some(error(found, "mend that configuration, or install without the plugin (cni.enabled=false)"))
    }
}

fn error(found: String, remedy: &str) -> NodeFinding {
    NodeFinding { level: Level::Error, found, remedy: remedy.to_owned() }
}

/// `is_final`: no bpf file system can be mounted there, or one is.
fn of_missing(missing: &Missing, is_final: bool) -> NodeFinding {
    let found = format!("{} is missing: {}", missing.need, missing.found);
    if missing.need == Need::Bpffs && !is_final {
        let remedy = "agent.mountBpffs mounts one, which the profile minimal does not; or mount -t bpf bpf /sys/fs/bpf";
        return NodeFinding { level: Level::Warning, found, remedy: remedy.to_owned() };
    }
    error(found, missing.need.remedy())
}

fn of_foreign(program: &Foreign) -> NodeFinding {
    let Foreign { id, hook, name, effect } = program;
    let name = if name.is_empty() { format!("program {id}") } else { format!("program {id} ({name})") };
    let warning = |found: String, remedy: &str| NodeFinding { level: Level::Warning, found, remedy: remedy.to_owned() };
    match effect {
        Effect::Excludes(cgroup) => error(
            format!("{name} is attached to {} at {hook} and allows no other beside or below it", cgroup.display()),
            "let its owner attach it with BPF_F_ALLOW_MULTI, or remove it",
        ),
        Effect::RunsBefore => warning(
            format!("{name} of another owner runs at {hook} before Underpass"),
            "where it turns a service's address into a pod's, as a socket load balancer does, let it leave pods alone \
             (Cilium: socketLB.hostNamespaceOnly=true): a call counts as one of that pod, not of the service",
        ),
        Effect::RunsAfter => warning(
            format!("{name} of another owner runs at {hook} after Underpass"),
            "where it rewrites destinations of pods, let it leave them alone: what it leads into the mesh is refused",
        ),
    }
}

/// For people: a line each.
fn text(check: &NodeCheck) -> String {
    let level = |level| match level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Info => "info",
    };
    let line = |f: &NodeFinding| format!("{}: {}; {}\n", level(f.level), f.found, f.remedy);
    let all: String = check.findings.iter().map(line).collect();
    if all.is_empty() { format!("node {}: an agent can start\n", check.node) } else { all }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn command(arguments: &[&str]) -> Command {
        let all = ["underpass-agent", "check", "--node", "n"].iter().chain(arguments).map(OsString::from);
        Command::parse_own(all).expect("ours").unwrap()
    }

    #[test]
    fn defaults_are_those_of_an_agent() {
        let (check, agent) =
            (command(&[]), Config::parse_from(["underpass-agent", "--node", "n", "--manifests", "/m"]));
        assert_eq!((check.bpffs, check.cgroup_root), (agent.bpffs, agent.cgroup_root));
        let of_agent = [agent.admin_address, agent.readiness_address, agent.metrics_address];
        assert_eq!([check.admin_address, check.readiness_address, check.metrics_address], of_agent);
        assert!(Command::parse_own(["underpass-agent", "--node", "check"].iter().map(OsString::from)).is_none());
    }

    #[test]
    fn all_that_is_wrong_is_named_at_once() {
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap().to_string();
        let check = command(&[
            "--bpffs",
            "/nonexistent/bpf",
            "--cgroup-root",
            "/nonexistent/cgroup",
            "--cni-config-dir",
            "/nonexistent/cni",
            "--admin-address",
            &address,
        ])
        .check();
        for names in ["/nonexistent/bpf", "/nonexistent/cgroup", "/nonexistent/cni", &address] {
            let about = check.findings.iter().filter(|f| f.found.contains(names) && f.level == Level::Error);
            assert_eq!(about.count(), 1, "{names}: {:#?}", check.findings);
        }
    }

    #[test]
    fn pins_that_cannot_be_listed_are_a_finding() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let check = command(&["--bpffs", path]).check();
        let found = |f: &NodeFinding| f.found.starts_with("cannot list ") && f.found.contains(path);
        assert!(check.findings.iter().any(found), "{:#?}", check.findings);
    }

    #[test]
    fn the_runtimes_configuration_is_read_below_the_hosts_root() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("etc/cni/net.d");
        fs::create_dir_all(&directory).unwrap();
        let command = command(&["--host-root", root.path().to_str().unwrap()]);
        let found = || command.cni(Path::new("/etc/cni/net.d")).map(|f| f.found).unwrap_or_default();
        assert_eq!(found(), "/etc/cni/net.d has no plugin's configuration");
        fs::write(directory.join("10-a.conflist"), r#"{"name":"a","cniVersion":"0.2.0","plugins":[{"type":"a"}]}"#)
            .unwrap();
        assert!(
            found().contains("cannot follow /etc/cni/net.d/10-a.conflist: its cniVersion is \"0.2.0\""),
            "{}",
            found()
        );
        fs::write(directory.join("10-a.conflist"), r#"{"name":"a","cniVersion":"1.0.0","plugins":[{"type":"a"}]}"#)
            .unwrap();
        assert_eq!(found(), "");
    }

    #[test]
    fn a_file_system_that_the_chart_mounts_is_no_error() {
        let missing = Missing { need: Need::Bpffs, found: "another".to_owned() };
        assert_eq!(of_missing(&missing, false).level, Level::Warning);
        assert_eq!(of_missing(&missing, true).level, Level::Error);
        assert_eq!(of_missing(&Missing { need: Need::Btf, found: String::new() }, false).level, Level::Error);
    }

    #[test]
    fn programs_of_others_are_named() {
        let check = |effect, level, says: &str| {
            let f = of_foreign(&Foreign { id: 7, name: "cil_sock4".into(), hook: "connect4", effect });
            assert!(f.level == level && f.found.contains(says) && f.found.contains("program 7 (cil_sock4)"), "{f:?}");
        };
        check(Effect::Excludes("/sys/fs/cgroup".into()), Level::Error, "attached to /sys/fs/cgroup at connect4");
        check(Effect::RunsBefore, Level::Warning, "before");
        check(Effect::RunsAfter, Level::Warning, "after");
    }

    #[test]
    fn a_line_for_each() {
        let mut check = NodeCheck { version: "1".into(), node: "n".into(), kernel: "6.1".into(), findings: Vec::new() };
        assert_eq!(text(&check), "node n: an agent can start\n");
        check.findings.push(error("x".into(), "y"));
        assert_eq!(text(&check), "error: x; y\n");
    }
}
