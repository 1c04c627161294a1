//! Cgroups: where cgroup2 is mounted, how the kubelet lays out pods below a node's root, and the scenario's own cgroup,
//! which is the only thing of it that the kernel does not remove by itself.
//!
//! What must hold: nothing is created but `<mount>/underpass-test.<pid>.<start time>.<n>` and what is below it, so that
//! a directory whose owner is gone can be removed by the next runner.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The beginning of the name of every cgroup of ours.
const PREFIX: &str = "underpass-test";

/// Patience with a cgroup that is busy after its last process was killed.
const REMOVAL: Duration = Duration::from_secs(20);

/// `cgroupDriver` of the kubelet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Driver {
    /// Plain directories: `kubepods/burstable/pod<uid>/<container id>`.
    Cgroupfs,
    /// Slices and scopes: `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/...scope`.
    #[default]
    Systemd,
}

/// `status.qosClass` of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Qos {
    /// Every container has equal requests and limits.
    Guaranteed,
    /// Some container has a request.
    Burstable,
    /// None has.
    #[default]
    BestEffort,
}

impl Qos {
    const fn level(self) -> Option<&'static str> {
        match self {
            Self::Guaranteed => None,
            Self::Burstable => Some("burstable"),
            Self::BestEffort => Some("besteffort"),
        }
    }
}

impl Driver {
    /// A pod's cgroup, relative to the node's root. (kubernetes/pkg/kubelet/cm/cgroup_manager_linux.go: with systemd
    /// `-` separates levels, so those of the uid become `_`, and every slice repeats the names of its parents.)
    #[must_use]
    pub fn pod(self, qos: Qos, uid: &str) -> PathBuf {
        match (self, qos.level()) {
            (Self::Cgroupfs, None) => PathBuf::from(format!("kubepods/pod{uid}")),
            (Self::Cgroupfs, Some(level)) => PathBuf::from(format!("kubepods/{level}/pod{uid}")),
            (Self::Systemd, None) => {
                PathBuf::from(format!("kubepods.slice/kubepods-pod{}.slice", uid.replace('-', "_")))
            }
            (Self::Systemd, Some(level)) => {
                let uid = uid.replace('-', "_");
                format!("kubepods.slice/kubepods-{level}.slice/kubepods-{level}-pod{uid}.slice").into()
            }
        }
    }

    /// The cgroup of one of its containers as containerd names it, relative to the pod's.
    #[must_use]
    pub fn container(self, id: &str) -> PathBuf {
        match self {
            Self::Cgroupfs => PathBuf::from(id),
            Self::Systemd => PathBuf::from(format!("cri-containerd-{id}.scope")),
        }
    }

    /// A service of the node (`kubelet`, `containerd`), relative to the node's root.
    #[must_use]
    pub fn service(self, name: &str) -> PathBuf {
        match self {
            Self::Cgroupfs => PathBuf::from(name),
            Self::Systemd => PathBuf::from(format!("system.slice/{name}.service")),
        }
    }
}

/// The mount point of cgroup2: `/sys/fs/cgroup` on a unified machine, a directory of it on a hybrid one.
pub fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    match fields.find(|f| f.get(2) == Some(&"cgroup2")).and_then(|f| f.get(1).map(PathBuf::from)) {
        Some(path) => Ok(path),
        None => bail!("no cgroup2 is mounted (mount -t cgroup2 none /sys/fs/cgroup)"),
    }
}

/// The mount points of the hierarchies of cgroup version 1, which a hybrid machine has beside cgroup2.
pub fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    Ok(fields.filter(|f| f.get(2) == Some(&"cgroup")).filter_map(|f| f.get(1).map(PathBuf::from)).collect())
}

/// Moves the calling process to a cgroup.
pub(super) fn enter(cgroup: &Path) -> Result<()> {
    // "0" is the writer itself, in any PID namespace.
    fs::write(cgroup.join("cgroup.procs"), "0").with_context(|| format!("enter cgroup {}", cgroup.display()))
}

/// Makes a cgroup in a hierarchy of version 1, with its parents below the mount point. It may exist.
pub(super) fn make_in_hierarchy(hierarchy: &Path, relative: &Path) -> Result<PathBuf> {
    let mut path = hierarchy.to_owned();
    for part in relative {
        let parent = path.clone();
        path.push(part);
        fs::create_dir_all(&path).with_context(|| format!("create cgroup {}", path.display()))?;
        // Without these two no process may be in it.
        for file in ["cpuset.cpus", "cpuset.mems"].into_iter().filter(|file| parent.join(file).is_file()) {
            let value = fs::read(parent.join(file)).with_context(|| format!("read {file} of {}", parent.display()))?;
            fs::write(path.join(file), value).with_context(|| format!("write {file} of {}", path.display()))?;
        }
    }
    Ok(path)
}

/// The start time of a process in clock ticks since boot (proc_pid_stat(5), field 22): with the pid, its identity.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The name of what belongs to the `number`th scenario of this process. It tells who its owner is, and whether it lives.
pub(super) fn own_name(number: usize) -> Result<String> {
    let pid = std::process::id();
    let start = start_time(pid).context("read the own start time from /proc")?;
    Ok(format!("{PREFIX}.{pid}.{start}.{number}"))
}

/// The cgroup of one scenario; removed when dropped, with every process that is still in it.
#[derive(Debug)]
pub(super) struct ScenarioCgroup {
    path: PathBuf,
}

impl ScenarioCgroup {
    /// Makes the cgroup of the `number`th scenario of this process.
    pub(super) fn create(number: usize) -> Result<Self> {
        let path = mount_point()?.join(own_name(number)?);
        fs::create_dir(&path).with_context(|| format!("create cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ScenarioCgroup {
    fn drop(&mut self) {
        for removed in [remove(&self.path), remove_from_hierarchies(&self.path)] {
            if let Err(e) = removed {
                eprintln!("{e:#}");
            }
        }
    }
}

/// Removes the cgroups and directories of owners that are gone: they were killed before they could.
pub fn sweep() -> Result<()> {
    // An owner that seems gone but has living processes is only in another PID namespace: a scenario dies with its owner.
    let root = mount_point()?;
    for cgroup in abandoned(&root)?.into_iter().filter(|path| is_empty(path)) {
        remove(&cgroup)?;
    }
    for hierarchy in hierarchies()? {
        // As long as it has the one of cgroup2, its owner is in another PID namespace.
        let is_gone = |path: &&PathBuf| path.file_name().is_none_or(|name| !root.join(name).exists());
        abandoned(&hierarchy)?.iter().filter(is_gone).try_for_each(|cgroup| remove_empty(cgroup))?;
    }
    for directory in abandoned(&std::env::temp_dir())? {
        match fs::remove_dir_all(&directory) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("remove {}", directory.display()));
            }
            _ => {} // another runner may have been faster
        }
    }
    Ok(())
}

fn is_empty(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|text| text.contains("populated 0"))
}

fn abandoned(parent: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(parent).with_context(|| format!("list {}", parent.display()))?;
    let paths = entries.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| owner_is_gone(path)).collect())
}

/// The cgroups of the living process `pid`.
pub fn owned_by(pid: u32) -> Result<Vec<PathBuf>> {
    let start = format!("{PREFIX}.{pid}.");
    let entries = fs::read_dir(mount_point()?)?.collect::<std::io::Result<Vec<_>>>()?;
    Ok(entries.into_iter().filter(|e| e.file_name().to_string_lossy().starts_with(&start)).map(|e| e.path()).collect())
}

fn owner_is_gone(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut parts = name.split('.');
    let (Some(PREFIX), Some(pid), Some(start)) = (parts.next(), parts.next(), parts.next()) else { return false };
    let (Ok(pid), Ok(start)) = (pid.parse(), start.parse::<u64>()) else { return false };
    start_time(pid) != Some(start)
}

/// Kills every process below `path`. `cgroup.kill` is there since Linux 5.14.
pub fn kill(path: &Path) -> Result<()> {
    match fs::write(path.join("cgroup.kill"), "1") {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).with_context(|| format!("kill cgroup {}", path.display())),
        _ => Ok(()),
    }
}

/// Kills what lives below `path` and removes it, deepest first. What is not there is no error.
pub fn remove(path: &Path) -> Result<()> {
    kill(path)?;
    remove_empty(path)
}

/// Removes the scenario's cgroups of version 1, where it has any. Its processes were all in the one of cgroup2, which is gone.
fn remove_from_hierarchies(scenario: &Path) -> Result<()> {
    let name = scenario.file_name().context("the name of a cgroup")?;
    hierarchies()?.iter().try_for_each(|hierarchy| remove_empty(&hierarchy.join(name)))
}

/// Removes `path`, deepest first, once no process is left there. What is not there is no error.
pub fn remove_empty(path: &Path) -> Result<()> {
    let end = Instant::now() + REMOVAL;
    loop {
        match remove_tree(path) {
            Ok(()) => return Ok(()),
            // A killed process leaves its cgroup a moment after the signal.
            Err(e) if e.kind() == ErrorKind::ResourceBusy && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(e) => return Err(e).with_context(|| format!("remove cgroup {}", path.display())),
        }
    }
}

fn remove_tree(path: &Path) -> std::io::Result<()> {
    let absent = |e: std::io::Error| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) => return absent(e),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path).or_else(absent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_of_the_kubelet() {
        let uid = "1b2c-3d";
        for (driver, qos, pod) in [
            (Driver::Cgroupfs, Qos::Guaranteed, "kubepods/pod1b2c-3d"),
            (Driver::Cgroupfs, Qos::Burstable, "kubepods/burstable/pod1b2c-3d"),
            (Driver::Cgroupfs, Qos::BestEffort, "kubepods/besteffort/pod1b2c-3d"),
            (Driver::Systemd, Qos::Guaranteed, "kubepods.slice/kubepods-pod1b2c_3d.slice"),
            (
                Driver::Systemd,
                Qos::Burstable,
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1b2c_3d.slice",
            ),
        ] {
            assert_eq!(driver.pod(qos, uid), Path::new(pod), "{driver:?} {qos:?}");
        }
        assert_eq!(Driver::Systemd.container("ab"), Path::new("cri-containerd-ab.scope"));
        assert_eq!(Driver::Cgroupfs.container("ab"), Path::new("ab"));
    }

    #[test]
    fn names_of_others_are_never_swept() {
        for name in ["system.slice", "underpass-test", "underpass-test.x.1.1", "underpass-testing.1.1.1"] {
            assert!(!owner_is_gone(Path::new(name)), "{name}");
        }
        assert!(owner_is_gone(Path::new("underpass-test.1.1.0")), "pid 1 did not start one tick after boot");
        let me = std::process::id();
        let start = start_time(me).expect("own start time");
        assert!(!owner_is_gone(Path::new(&format!("underpass-test.{me}.{start}.7"))));
        assert!(owner_is_gone(Path::new(&format!("underpass-test.{me}.{}.7", start + 1))));
    }
}
