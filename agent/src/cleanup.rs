//! `underpass-agent cleanup`: the removal of everything that agents left on this node. For nodes that leave the mesh for good: as
//! long as anything is pinned, captured connections wait for the next agent.
//!
//! What must hold: the order. The CNI plugin goes first, so that no pod waits for an agent. Nothing new is captured; captured sockets
//! are destroyed, and looked at again; then rules and routes; `guard` last. A step that fails stops the rest, and it can be run
//! again. Not while an agent runs.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::{Arg, CommandFactory as _, error::ErrorKind};
use underpass_loader::Kernel;
use underpass_net::socket::options::Keepalive;

use crate::{
    cluster, cni,
    config::{self, Config, Sources, Stop},
    handover::{self, Claim, HandoverAddress},
    mounts,
    pods::{self, Pods},
    preflight,
};

/// The number of tries: sockets come and go under a process list that is read.
const TRIES: usize = 5;
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// The description in `--help`.
const ABOUT: &str = "Remove everything that agents left on this node: the CNI plugin, then captured sockets are destroyed, then rules, \
routes, programs and tables are removed. Not while an agent runs. Exit status: 0, nothing is left; 1, something is, and is named.";
/// The settings of a cleanup.
const SETTINGS: [&str; 7] = ["config", "node", "state", "bpffs", "cgroup_root", "cni_config_dir", "cni_bin_dir"];

/// Loads the settings: those of the node's agent, from the same flags, environment and file, so that it is the same pins
/// and the same agent that are looked for. `read` reads the file of `--config`.
///
/// # Errors
/// As [`config::load`].
pub fn load(sources: &Sources, read: impl Fn(&Path) -> io::Result<Vec<u8>>) -> Result<Config, Stop> {
    config::load_with(sources, read, false).map(|loaded| loaded.config).map_err(|stop| match stop {
        Stop::Answer(answer) if answer.kind() == ErrorKind::DisplayHelp => Stop::Answer(help()),
        other => other,
    })
}

/// The answer to `--help`.
fn help() -> clap::Error {
    let hidden = |arg: Arg| {
        let is_ours = SETTINGS.contains(&arg.get_id().as_str());
        arg.hide(!is_ours)
    };
    let command = Config::command().name("underpass-agent cleanup").bin_name("underpass-agent cleanup").about(ABOUT);
    let mut command =
        command.mut_args(hidden).override_usage("underpass-agent cleanup --node <NAME> [OPTIONS]").after_help(
            "It takes the settings of the agent, from the same flags, environment and file; the others change nothing.",
        );
    let text = command.render_help();
    command.error(ErrorKind::DisplayHelp, text)
}

/// The report of a cleanup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The removed files of the CNI plugin.
    pub plugin: Vec<PathBuf>,
    /// The number of released pods.
    pub released: usize,
    /// Whether programs, tables and links are removed.
    pub removed: bool,
    /// The objects that are left, each with the reason.
    pub left: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.plugin.iter().try_for_each(|file| writeln!(f, "removed: {}", file.display()))?;
        match (self.removed, self.released) {
            (true, n) => {
                writeln!(f, "removed: rules, routes and captured sockets of {n} pods; programs, links, tables")?
            }
            (false, 0) if self.left.is_empty() && self.plugin.is_empty() => {
                writeln!(f, "nothing to do: nothing is pinned for this node")?
            }
            (false, 0) => {}
            (false, n) => writeln!(f, "removed: rules, routes and captured sockets of {n} pods")?,
        }
        self.left.iter().try_for_each(|left| writeln!(f, "left: {left}"))
    }
}

/// A cleanup that was not begun.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An agent runs, or its lock cannot be read.
    #[error(transparent)]
    Claim(#[from] handover::Error),
    /// The kernel data path.
    #[error("kernel data path")]
    Kernel(#[from] underpass_loader::Error),
    /// The settings of pods' network namespaces.
    #[error("settings of pods")]
    Sysctls(#[from] mounts::Error),
    /// Pods.
    #[error("pods of this node")]
    Pods(#[from] pods::Error),
}

/// Removes everything.
///
/// # Errors
/// Where an agent runs, or what is pinned cannot be read. What could be read and not be removed is in the report.
pub fn run(config: &Config) -> Result<Report, Error> {
    // In a container they are read-only, and the release of a pod would stop half-way.
    mounts::make_sysctls_writable()?;
    let root = config.cgroup_root.clone().map_or_else(pods::mount_point, Ok)?;
    pods::see_processes(&root)?;
    let settings = preflight::kernel_settings(config, root);
    let address = HandoverAddress::new(&config.state, &settings);
    // No process may become the agent meanwhile.
    let Claim::Alone(lock) = address.claim(false)? else {
        return Ok(Report::default()); // a claim without take-over is alone, or fails
    };
    let mut report = Report::default();
    match cni::install::remove(config) {
        Ok(files) => report.plugin = files,
        Err(error) => {
            report.left.push(format!("CNI plugin: {error}"));
            address.leave(lock);
            return Ok(report);
        }
    }
    if Kernel::is_pinned(&settings) {
        // Before there are tables no pod was enrolled.
        if Kernel::has_tables(&settings)? {
            // Else programs of one version would go on capturing what is released in the tables of another.
            if Kernel::is_unfinished(&settings)? {
                drop(Kernel::attach(&settings)?);
            }
            release(&settings, &mut report)?;
        }
        if report.left.is_empty() {
            Kernel::remove(&settings)?;
            report.removed = true;
        }
    }
    if let Some(path) = Kernel::too_old(&settings)? {
        report.left.push(format!("{}: of another version; run the cleanup of the agent that made it", path.display()));
    }
    if report.left.is_empty()
        && let Err(error) = cluster::cache::remove(&config.state)
    {
        report.left.push(format!("kept facts: {error}"));
    }
    if report.left.is_empty()
        && let Err(error) = address.remove_socket()
    {
        report.left.push(error.to_string());
    }
    address.leave(lock);
    Ok(report)
}

/// Releases every pod.
fn release(settings: &underpass_loader::Settings, report: &mut Report) -> Result<(), Error> {
    let kernel = Kernel::open(settings)?;
    let of_node = pods::Settings {
        node: settings.instance.as_str().into(),
        cgroup_root: settings.cgroup_root.clone(),
        agents: Vec::new(),
        kubelet_cgroup: None,
        marks: settings.marks,
        drain: Duration::ZERO,
        keepalive: Keepalive::default(),
    };
    let mut pods = Pods::adopt(of_node, kernel, Instant::now(), Box::new(drop))?;
    let before = pods.orphans();
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
    let left = pods.orphans();
    report.released = before.len() - left.len();
    let named = left.iter().map(|cookie| format!("the pod with network namespace cookie {}", cookie.0));
    report.left.extend(named);
    if !report.left.is_empty() {
        report.left.push("programs, links and tables: to be removed once every pod is released".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings with these flags, this environment and this file.
    fn loaded(flags: &[&str], env: &[(&str, &str)], file: &str) -> Result<Config, String> {
        let args = std::iter::once("underpass-agent cleanup").chain(flags.iter().copied()).map(Into::into).collect();
        let env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        load(&Sources { args, env }, |_| Ok(file.into())).map_err(|stop| match stop {
            Stop::Answer(answer) => answer.to_string(),
            Stop::Problems(problems) => problems.to_string(),
        })
    }

    #[test]
    fn it_goes_by_the_settings_of_the_agent() {
        let file = "node: from-file\nstate: /file\nbpffs: /bpf\n";
        let config = loaded(&["--config", "/f", "--state", "/flag"], &[("NODE_NAME", "env")], file).unwrap();
        let is = [&config.state, &config.bpffs].map(|path| path.to_str().unwrap());
        assert_eq!((&*config.node, is), ("env", ["/flag", "/bpf"]));
        // All flags of an agent, or the least.
        loaded(&["--node", "n", "--manifests", "/m", "--drain", "3s"], &[], "").unwrap();
        loaded(&["--node", "n", "--control-plane", "control:15012"], &[], "").unwrap();
        loaded(&["--node", "n"], &[], "").unwrap();
        let check = |flags: &[&str], file: &str, says: &str| {
            let said = loaded(flags, &[], file).unwrap_err();
            assert!(said.contains(says), "{said}");
        };
        check(&[], "", "node");
        check(&["--node", "n", "--config", "/f"], "bpfs: /b\n", "bpfs");
        check(&["--help"], "", "Remove everything that agents left");
        check(&["--help"], "", "--cgroup-root");
        check(&["--help"], "", "--cni-config-dir");
        assert!(!loaded(&["--help"], &[], "").unwrap_err().contains("--metrics-address"));
    }

    #[test]
    fn reports_in_text() {
        let check = |report: Report, says: &str| assert_eq!(report.to_string(), says);
        check(Report::default(), "nothing to do: nothing is pinned for this node\n");
        let gone = Report { released: 2, removed: true, ..Report::default() };
        check(gone, "removed: rules, routes and captured sockets of 2 pods; programs, links, tables\n");
        let some = Report { released: 1, left: vec!["x".into()], ..Report::default() };
        check(some, "removed: rules, routes and captured sockets of 1 pods\nleft: x\n");
        check(Report { left: vec!["y".into()], ..Report::default() }, "left: y\n");
        check(Report { plugin: vec!["/a".into(), "/b".into()], ..Report::default() }, "removed: /a\nremoved: /b\n");
    }
}
