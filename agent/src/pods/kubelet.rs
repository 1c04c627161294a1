//! The kubelet of this node: the cgroup by which the kernel knows its connections. It is the setting `kubelet-cgroup`, or found: the
//! cgroup of the process named `kubelet` that runs as root in the agent's own network namespace, which is the node's, and not
//! in a pod.
//!
//! What must hold: in doubt there is none, and its probes are judged as any other plaintext. A cgroup that holds everything
//! without one of its own is never the kubelet's.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use underpass_abi::CgroupId;

use super::{LOOK_AGAIN, cgroup, error::Error};

/// The name of its process.
const NAME: &str = "kubelet";
/// The interval between two searches while the one that was found is there: another one may have come.
const SEARCH_AGAIN: Duration = Duration::from_secs(10);

/// Why there is none.
#[derive(Debug, thiserror::Error)]
enum NoKubelet {
    #[error("not looked for yet")]
    Unknown,
    #[error("no process named `{NAME}` runs as root in the node's network namespace and outside of pods")]
    None,
    #[error("processes named `{NAME}` are in two cgroups: {first} and {second}")]
    Two { first: PathBuf, second: PathBuf },
    #[error("its cgroup {root} is the root of all cgroups, which other processes share")]
    Root { root: PathBuf },
    #[error("its processes cannot be listed")]
    Processes(#[source] io::Error),
    #[error(transparent)]
    Cgroup(Error),
}

/// The kubelet that was found.
#[derive(Debug)]
struct Kubelet {
    cgroup: PathBuf,
    id: CgroupId,
    /// Its process; none: the setting names its cgroup.
    pid: Option<u32>,
}

/// The search for the kubelet.
#[derive(Debug)]
pub(super) struct Finder {
    root: PathBuf,
    setting: Option<PathBuf>,
    proc: PathBuf,
    found: Result<Kubelet, NoKubelet>,
    /// What was found last is in the log.
    logged: bool,
    look_at: Instant,
    search_at: Instant,
}

impl Finder {
    /// Below this directory of a cgroup2 file system; `setting`: its cgroup there.
    #[must_use]
    pub(super) fn new(root: PathBuf, setting: Option<PathBuf>, now: Instant) -> Self {
        let setting = setting.map(|path| root.join(path));
        let proc = PathBuf::from("/proc");
        Self { root, setting, proc, found: Err(NoKubelet::Unknown), logged: true, look_at: now, search_at: now }
    }

    /// Its cgroup.
    pub(super) fn cgroup(&self) -> Option<CgroupId> {
        self.found.as_ref().ok().map(|kubelet| kubelet.id)
    }

    /// Looks whether it is where it was, and searches where it is not; true where its cgroup is another one than before.
    pub(super) fn look(&mut self, now: Instant) -> bool {
        if now < self.look_at {
            return false;
        }
        self.look_at = now + LOOK_AGAIN;
        let is_there = || self.found.as_ref().is_ok_and(|kubelet| self.is_there(kubelet));
        if now < self.search_at && is_there() {
            return false;
        }
        self.search_at = now + SEARCH_AGAIN;
        let (before, said) = (self.cgroup(), self.says());
        self.found = self.search();
        self.logged &= self.says() == said;
        self.cgroup() != before
    }

    /// Logs what was found, once; that there is none only where `needed`: a pod is probed.
    pub(super) fn log(&mut self, needed: bool) {
        if self.logged {
            return;
        }
        match &self.found {
            Ok(kubelet) => tracing::info!(cgroup = %kubelet.cgroup.display(), "kubelet found, its probes reach pods"),
            Err(reason) if needed => {
                tracing::warn!(%reason, "kubelet not found, its probes of pods are judged as plaintext");
            }
            Err(_) => return,
        }
        self.logged = true;
    }

    /// What is said of it.
    fn says(&self) -> String {
        match &self.found {
            Ok(kubelet) => format!("{} {}", kubelet.id.0, kubelet.cgroup.display()),
            Err(reason) => reason.to_string(),
        }
    }

    fn is_there(&self, kubelet: &Kubelet) -> bool {
        let has = |pid| self.is_kubelet(pid) && cgroup::has_process(&kubelet.cgroup, pid).unwrap_or(false);
        kubelet.pid.is_none_or(has) && cgroup::id(&kubelet.cgroup).is_ok_and(|id| id == kubelet.id)
    }

    fn search(&self) -> Result<Kubelet, NoKubelet> {
        let (cgroup, pid) = match &self.setting {
            Some(path) => (path.clone(), None),
            None => self.process().map(|(cgroup, pid)| (cgroup, Some(pid)))?,
        };
        if cgroup == self.root {
            return Err(NoKubelet::Root { root: cgroup });
        }
        let id = cgroup::id(&cgroup).map_err(NoKubelet::Cgroup)?;
        Ok(Kubelet { cgroup, id, pid })
    }

    /// Its process and that one's cgroup. Of several processes in one cgroup each stands for all of them: a child has its name
    /// until it runs a program.
    fn process(&self) -> Result<(PathBuf, u32), NoKubelet> {
        let entries = fs::read_dir(&self.proc).map_err(NoKubelet::Processes)?;
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let mut found: Option<(PathBuf, u32)> = None;
        for pid in pids.filter(|pid| self.is_kubelet(*pid)) {
            match (cgroup::outside_pods(&self.root, pid).map_err(NoKubelet::Cgroup)?, &found) {
                (Some(second), Some((first, _))) if *first != second => {
                    return Err(NoKubelet::Two { first: first.clone(), second });
                }
                (Some(cgroup), None) => found = Some((cgroup, pid)),
                _ => {}
            }
        }
        found.ok_or(NoKubelet::None)
    }

    /// By its name, as root, in the network namespace of the agent.
    fn is_kubelet(&self, pid: u32) -> bool {
        let process = self.proc.join(pid.to_string());
        let text = |file: &str| fs::read_to_string(process.join(file)).ok();
        text("comm").is_some_and(|name| name.trim_end() == NAME)
            && text("status").is_some_and(|status| is_root(&status))
            && namespace(&process).is_some_and(|of| namespace(&self.proc.join("self")) == Some(of))
    }
}

/// Real and effective user of a process's status (proc_pid_status(5)). The owner of its directory would not tell: a process can
/// make it root's.
fn is_root(status: &str) -> bool {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.is_some_and(|ids| ids.split_ascii_whitespace().take(2).eq(["0", "0"]))
}

/// Device and inode of a process's network namespace.
fn namespace(process: &Path) -> Option<(u64, u64)> {
    fs::metadata(process.join("ns/net")).ok().map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Directories in the place of /proc and the cgroups.
    struct Machine(PathBuf);

    impl Machine {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("underpass-kubelet-{}-{test}", std::process::id()));
            for (file, content) in [("node.net", ""), ("pod.net", ""), ("cgroup/cgroup.procs", "1\n")] {
                write(&path.join(file), content);
            }
            let machine = Self(path);
            machine.process("self", "underpass-agent", "0 0", "node");
            machine
        }

        fn process(&self, pid: &str, name: &str, uids: &str, namespace: &str) {
            let process = self.0.join("proc").join(pid);
            write(&process.join("comm"), &format!("{name}\n"));
            write(&process.join("status"), &format!("Name:\t{name}\nUid:\t{} 0 0\nGid:\t0 0 0 0\n", uids));
            fs::create_dir_all(process.join("ns")).expect("directory");
            let _ = fs::remove_file(process.join("ns/net"));
            symlink(self.0.join(format!("{namespace}.net")), process.join("ns/net")).expect("link");
        }

        fn ends(&self, pid: &str, cgroup: &str) {
            fs::remove_dir_all(self.0.join("proc").join(pid)).expect("removed");
            self.holds(cgroup, "");
        }

        fn holds(&self, cgroup: &str, pids: &str) {
            write(&self.0.join("cgroup").join(cgroup).join("cgroup.procs"), pids);
        }

        fn finder(&self, setting: Option<&str>, now: Instant) -> Finder {
            let finder = Finder::new(self.0.join("cgroup"), setting.map(PathBuf::from), now);
            Finder { proc: self.0.join("proc"), ..finder }
        }

        /// The cgroup that is found, or the reason for none.
        #[track_caller]
        fn check(&self, setting: Option<&str>, expected: Result<&str, &str>) {
            let found = self.finder(setting, Instant::now()).search();
            match (found, expected) {
                (Ok(kubelet), Ok(cgroup)) => {
                    assert_eq!(kubelet.cgroup, self.0.join("cgroup").join(cgroup));
                    assert_eq!(kubelet.id, cgroup::id(&kubelet.cgroup).expect("id"));
                }
                (Err(reason), Err(text)) => assert!(reason.to_string().contains(text), "{reason}"),
                (found, expected) => panic!("{found:?}, expected {expected:?}"),
            }
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn write(path: &Path, content: &str) {
        fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        fs::write(path, content).expect("written");
    }

    #[test]
    fn the_process_of_this_name_on_the_node() {
        let machine = Machine::new("one");
        machine.holds("system.slice/kubelet.service", "10\n");
        machine.check(None, Err("no process named `kubelet`"));
        machine.process("10", "kubelet", "0 0", "node");
        machine.check(None, Ok("system.slice/kubelet.service"));
        // A child that has not become another program yet is the kubelet itself.
        machine.process("11", "kubelet", "0 0", "node");
        machine.holds("system.slice/kubelet.service", "10\n11\n");
        machine.check(None, Ok("system.slice/kubelet.service"));
        // Its neighbours are not it.
        machine.process("12", "kubelet-proxy", "0 0", "node");
        machine.holds("system.slice/proxy.service", "12\n");
        machine.check(None, Ok("system.slice/kubelet.service"));
    }

    #[test]
    fn other_processes_of_its_name_are_none() {
        let check = |test: &str, uids: &str, namespace: &str, cgroup: &str, reason: &str| {
            let machine = Machine::new(test);
            machine.process("10", "kubelet", uids, namespace);
            machine.holds(cgroup, "10\n");
            machine.check(None, Err(reason));
        };
        let none = "no process named `kubelet`";
        check("netns", "0 0", "pod", "system.slice/kubelet.service", none);
        check("user", "1000 1000", "node", "user.slice/shell.scope", none);
        check("setuid", "1000 0", "node", "user.slice/shell.scope", none);
        check("pod", "0 0", "node", "kubepods.slice/kubepods-podx.slice/c.scope", none);
        check("pod-cgroupfs", "0 0", "node", "kubelet/kubepods/burstable/podx/c", none);
        check("nested", "0 0", "node", "a.slice/a-kubepods.slice/a-kubepods-podx.slice", none);
        check("root", "0 0", "node", "", "is the root of all cgroups");
    }

    #[test]
    fn of_two_neither_is_it() {
        let machine = Machine::new("two");
        for (pid, cgroup) in [("10", "system.slice/kubelet.service"), ("20", "docker/node/kubelet")] {
            machine.process(pid, "kubelet", "0 0", "node");
            machine.holds(cgroup, &format!("{pid}\n"));
        }
        machine.check(None, Err("in two cgroups"));
        machine.process("20", "kubelet", "0 0", "pod");
        machine.check(None, Ok("system.slice/kubelet.service"));
    }

    #[test]
    fn the_setting_names_its_cgroup() {
        let machine = Machine::new("setting");
        machine.check(Some("k3s.service"), Err("k3s.service"));
        machine.holds("k3s.service", "7\n");
        machine.check(Some("k3s.service"), Ok("k3s.service"));
        machine.check(Some(""), Err("is the root of all cgroups"));
    }

    #[test]
    fn it_is_looked_for_again() {
        let machine = Machine::new("again");
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut finder = machine.finder(None, now);
        assert!(!finder.look(now) && finder.cgroup().is_none());
        machine.process("10", "kubelet", "0 0", "node");
        machine.holds("kubelet", "10\n");
        assert!(!finder.look(now), "not at once");
        assert!(finder.look(after(2)));
        let first = finder.cgroup();
        assert!(first.is_some() && !finder.look(after(4)));
        // Another process has its place: it restarted, in a cgroup of the same name.
        machine.ends("10", "kubelet");
        assert!(finder.look(after(6)) && finder.cgroup().is_none());
        fs::rename(machine.0.join("cgroup/kubelet"), machine.0.join("cgroup/before")).expect("renamed");
        machine.process("30", "kubelet", "0 0", "node");
        machine.holds("kubelet", "30\n");
        assert!(finder.look(after(8)));
        assert!(finder.cgroup().is_some() && finder.cgroup() != first);
        // A second one is found out later, although the first is there.
        machine.process("31", "kubelet", "0 0", "node");
        machine.holds("other", "31\n");
        assert!(!finder.look(after(10)));
        assert!(finder.look(after(18)) && finder.cgroup().is_none());
    }

    #[test]
    fn what_was_found_is_said_once() {
        let machine = Machine::new("said");
        let now = Instant::now();
        let mut finder = machine.finder(None, now);
        finder.look(now);
        assert!(!finder.logged);
        finder.log(false);
        assert!(!finder.logged, "no pod is probed: it does not matter");
        finder.log(true);
        assert!(finder.logged);
        finder.look(now + LOOK_AGAIN);
        assert!(finder.logged, "the same");
        machine.process("10", "kubelet", "0 0", "node");
        machine.holds("kubelet", "10\n");
        finder.look(now + LOOK_AGAIN * 2);
        assert!(!finder.logged);
        finder.log(false);
        assert!(finder.logged);
    }
}
