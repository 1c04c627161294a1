//! The cgroups of pods, as the kubelet lays them out below any root: with the cgroupfs driver `kubepods/burstable/pod<uid>`, with
//! the systemd driver `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice`, guaranteed pods one level
//! higher, and all of it below the slices of the kubelet's service manager (`kubelet.slice/kubelet-kubepods.slice/...`). On
//! hybrid machines the same paths exist below the cgroup2 mount; no other hierarchy is looked at.
//!
//! What must hold: a uid comes from a manifest and never leaves the directory of pods; nothing below a pod's own cgroup is
//! taken for a pod's.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use underpass_abi::CgroupId;

use super::error::{Error, Result};

/// The depth below the root to which the kubelet's cgroup is looked for. A kubelet in a container under systemd gets to four.
const DEPTH: usize = 6;
/// The number of looks after which a process counts as hidden.
const LOOKS: usize = 3;

/// The search for pods' cgroups, with the kubelet's directories that it has found.
#[derive(Debug)]
pub(super) struct Finder {
    root: PathBuf,
    parents: Vec<PathBuf>,
}

impl Finder {
    /// Below this directory of a cgroup2 file system.
    #[must_use]
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, parents: Vec::new() }
    }

    /// The cgroup of a pod, with all of its containers in it.
    pub(super) fn find(&mut self, uid: &str) -> Result<PathBuf> {
        let safe = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if uid.is_empty() || uid.len() > 128 || !uid.chars().all(safe) {
            return Err(Error::Uid { uid: uid.to_owned() });
        }
        if let Some(path) = only(uid, &self.parents)? {
            return Ok(path);
        }
        self.parents.clear();
        collect_parents(&self.root, DEPTH, &mut self.parents)?;
        only(uid, &self.parents)?.ok_or_else(|| Error::NoCgroup { uid: uid.to_owned(), root: self.root.clone() })
    }
}

/// The one directory of this pod below the kubelet's.
fn only(uid: &str, parents: &[PathBuf]) -> Result<Option<PathBuf>> {
    let mut found = parents.iter().flat_map(|parent| candidates(parent, uid)).filter(|path| path.is_dir());
    match (found.next(), found.next()) {
        (Some(first), Some(second)) => Err(Error::TwoCgroups { uid: uid.to_owned(), first, second }),
        (found, _) => Ok(found),
    }
}

/// The directory of a pod in each QoS class. (kubernetes/pkg/kubelet/cm/cgroup_manager_linux.go: with systemd `-` separates
/// levels, so those of the uid become `_`, and every slice repeats the names of its parents.)
fn candidates(parent: &Path, uid: &str) -> [PathBuf; 3] {
    let name = parent.file_name().unwrap_or_default().to_string_lossy();
    match name.strip_suffix(".slice") {
        None => ["", "burstable", "besteffort"].map(|class| parent.join(class).join(format!("pod{uid}"))),
        Some(stem) => {
            let uid = uid.replace('-', "_");
            let of_class = |class: &str| {
                let slice = format!("{stem}-{class}");
                parent.join(format!("{slice}.slice")).join(format!("{slice}-pod{uid}.slice"))
            };
            [parent.join(format!("{stem}-pod{uid}.slice")), of_class("burstable"), of_class("besteffort")]
        }
    }
}

/// The directories in which a kubelet keeps pods. What is below one of them is the pods' own business.
fn collect_parents(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    for child in children(directory)? {
        if is_of_pods(&child) {
            found.push(child);
        } else if let Some(depth) = depth.checked_sub(1) {
            collect_parents(&child, depth, found)?;
        }
    }
    Ok(())
}

/// Whether a kubelet keeps pods in this directory.
fn is_of_pods(directory: &Path) -> bool {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    name == "kubepods" || name == "kubepods.slice" || name.ends_with("-kubepods.slice")
}

/// The cgroups directly below one, in order. None where it is gone.
fn children(directory: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(directory).and_then(|entries| {
        let mut paths = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                paths.push(entry.path());
            }
        }
        paths.sort();
        Ok(paths)
    });
    unless_gone(listed, "list", directory).map(Option::unwrap_or_default)
}

/// A cgroup may vanish while it is being read (ENODEV then).
fn unless_gone<T>(result: io::Result<T>, operation: &'static str, path: &Path) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
        Err(source) => Err(Error::Cgroup { operation, path: path.to_owned(), source }),
    }
}

/// Every process in a cgroup and below it, as seen from the agent's PID namespace.
pub(super) fn processes(cgroup: &Path) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    collect_processes(cgroup, &mut pids)?;
    if pids.contains(&0) {
        return Err(Error::Hidden { cgroup: cgroup.to_owned() });
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// Checks that every process below this cgroup is visible to the agent: a hidden one would be taken for dead. (The kernel lists a
/// process of a PID namespace that the reader does not see as 0.)
///
/// # Errors
/// [`Error::Hidden`] where a process is not, or the cgroups cannot be read.
pub fn see_processes(root: &Path) -> Result<()> {
    // One that ends while it is listed may look the same, once.
    let mut seen = processes(root);
    for _ in 1..LOOKS {
        if seen.is_ok() {
            break;
        }
        seen = processes(root);
    }
    seen.map(drop)
}

fn collect_processes(cgroup: &Path, pids: &mut Vec<u32>) -> Result<()> {
    pids.extend(direct(cgroup)?);
    children(cgroup)?.iter().try_for_each(|child| collect_processes(child, pids))
}

/// The processes that are in a cgroup itself. None where it is gone, or threaded: its processes are listed by the one above it.
fn direct(cgroup: &Path) -> Result<Vec<u32>> {
    let path = cgroup.join("cgroup.procs");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.trim().parse::<u32>().ok()).collect()),
        Err(e) if e.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => Ok(Vec::new()),
        Err(e) => unless_gone::<()>(Err(e), "read", &path).map(|_| Vec::new()),
    }
}

/// Whether there is any process in it or below. False where it is gone.
pub(super) fn is_populated(events: &fs::File) -> bool {
    use std::os::unix::fs::FileExt;
    let mut buffer = [0; 256];
    // Read from its beginning each time, which also arms the next notification.
    let read = events.read_at(&mut buffer, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(buffer.get(..read).unwrap_or_default());
    text.lines().any(|line| line == "populated 1")
}

/// The file that tells when a cgroup becomes empty, by POLLPRI.
pub(super) fn events(cgroup: &Path) -> Result<fs::File> {
    let path = cgroup.join("cgroup.events");
    fs::File::open(&path).map_err(|source| Error::Cgroup { operation: "open", path, source })
}

/// The id of a cgroup in the kernel programs: the inode number of its directory.
pub fn id(cgroup: &Path) -> Result<CgroupId> {
    let read = fs::metadata(cgroup);
    let path = || cgroup.to_owned();
    read.map(|m| CgroupId(m.ino())).map_err(|source| Error::Cgroup { operation: "inspect", path: path(), source })
}

/// The mount point of cgroup2: `/sys/fs/cgroup`, or a directory of it on a hybrid machine.
pub fn mount_point() -> Result<PathBuf> {
    let path = PathBuf::from("/proc/self/mounts");
    let failed = |source| Error::Cgroup { operation: "find the cgroup2 mount in", path: path.clone(), source };
    let mounts = fs::read_to_string(&path).map_err(failed)?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = fields.find(|f| f.get(2) == Some(&"cgroup2")).and_then(|f| f.get(1).map(PathBuf::from));
    mount.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
}

/// The cgroup of this process, by the path that the kernel names, or, where that is seen from a cgroup namespace and the mount is
/// not, by a look into every cgroup. An error where the mount does not show it.
pub fn own() -> Result<PathBuf> {
    let path = PathBuf::from("/proc/self/cgroup");
    let failed = |source| Error::Cgroup { operation: "find the own cgroup2 in", path: path.clone(), source };
    let text = fs::read_to_string(&path).map_err(failed)?;
    let relative = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let (root, me) = (mount_point()?, std::process::id());
    let cgroup = root.join(relative.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?);
    if direct(&cgroup)?.contains(&me) {
        return Ok(cgroup);
    }
    let hidden = || failed(io::Error::other("the mounted cgroup2 does not show this process"));
    with_process(&root, me, &|_| true)?.ok_or_else(hidden)
}

/// The cgroup of a process at or below this one; none where it is a pod's.
pub(super) fn outside_pods(root: &Path, pid: u32) -> Result<Option<PathBuf>> {
    with_process(root, pid, &|directory| !is_of_pods(directory))
}

/// Whether a process is directly in this cgroup.
pub(super) fn has_process(cgroup: &Path, pid: u32) -> Result<bool> {
    Ok(direct(cgroup)?.contains(&pid))
}

/// The cgroup at or below this one that has the process directly in it. `enters`: whether to look into one below.
fn with_process(cgroup: &Path, pid: u32, enters: &dyn Fn(&Path) -> bool) -> Result<Option<PathBuf>> {
    if has_process(cgroup, pid)? {
        return Ok(Some(cgroup.to_owned()));
    }
    for child in children(cgroup)?.into_iter().filter(|child| enters(child)) {
        if let Some(found) = with_process(&child, pid, enters)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// A cgroup that this process is alone in, because everything in it counts as the agent: its own, or a new one below it
/// called `name` with its pid, to which it moves. Those that agents before it left there are removed.
pub fn own_alone(name: &str) -> Result<PathBuf> {
    let own = own()?;
    let me = std::process::id();
    if processes(&own)? == [me] {
        return Ok(own);
    }
    for child in children(&own)?.into_iter().filter(|child| is_an_agents(child, name)) {
        let _ = fs::remove_dir(child); // fails where a process lives there
    }
    let path = own.join(format!("{name}-{me}"));
    let failed = |operation, source| Error::Cgroup { operation, path: path.clone(), source };
    match fs::create_dir(&path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed("create", e)),
        _ => {}
    }
    let others = processes(&path)?;
    if !others.is_empty() && others != [me] {
        return Err(failed("move to", io::Error::other("other processes are in it")));
    }
    fs::write(path.join("cgroup.procs"), me.to_string()).map_err(|e| failed("move to", e))?;
    Ok(path)
}

/// Whether [`own_alone`] made it.
fn is_an_agents(cgroup: &Path, name: &str) -> bool {
    let pid = |text: &std::ffi::OsStr| text.to_str()?.strip_prefix(name)?.strip_prefix('-')?.parse::<u32>().ok();
    cgroup.file_name().and_then(pid).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of this test alone.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str, below: &[&str]) -> Self {
            let path = std::env::temp_dir().join(format!("underpass-cgroup-{}-{name}", std::process::id()));
            below.iter().for_each(|b| fs::create_dir_all(path.join(b)).expect("directory"));
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const UID: &str = "6a1f-22-b";

    fn check(name: &str, there: &[&str], expected: std::result::Result<&str, &str>) {
        let directory = Directory::new(name, there);
        let found = Finder::new(directory.0.clone()).find(UID);
        match expected {
            Ok(path) => assert_eq!(found.expect("found"), directory.0.join(path), "{name}"),
            Err(text) => {
                let e = found.expect_err("not found").to_string();
                assert!(e.contains(text), "{name}: {e}");
            }
        }
    }

    #[test]
    fn every_layout_of_the_kubelet() {
        for path in [
            "kubepods/pod6a1f-22-b",
            "kubepods/burstable/pod6a1f-22-b",
            "kubepods/besteffort/pod6a1f-22-b",
            "kubelet/kubepods/pod6a1f-22-b",
            "kubepods.slice/kubepods-pod6a1f_22_b.slice",
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod6a1f_22_b.slice",
            "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod6a1f_22_b.slice",
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod6a1f_22_b.slice",
            "system.slice/docker-1.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/\
             kubelet-kubepods-besteffort-pod6a1f_22_b.slice",
        ] {
            let container = format!("{path}/cri-containerd-1.scope");
            check("layout", &["system.slice/ssh.service", "kubepods/podother", &container], Ok(path));
        }
    }

    #[test]
    fn what_is_not_the_kubelets_is_no_pod() {
        check("none", &["kubepods/podother"], Err("no cgroup of pod 6a1f-22-b below"));
        check("elsewhere", &["pod6a1f-22-b", "burstable/pod6a1f-22-b"], Err("no cgroup"));
        check("inside", &["kubepods/podother/kubepods/pod6a1f-22-b"], Err("no cgroup"));
        check("two", &["kubepods/pod6a1f-22-b", "kubepods.slice/kubepods-pod6a1f_22_b.slice"], Err("more than one"));
    }

    #[test]
    fn a_process_that_is_hidden_is_noticed() {
        let directory = Directory::new("hidden", &["kubepods/pod1"]);
        let procs = directory.0.join("kubepods/pod1/cgroup.procs");
        fs::write(&procs, "7\n8\n").expect("written");
        see_processes(&directory.0).expect("all are visible");
        fs::write(&procs, "7\n0\n").expect("written");
        let e = see_processes(&directory.0).expect_err("one is not");
        assert!(matches!(&e, Error::Hidden { .. }) && e.to_string().contains("PID namespace"), "{e}");
    }

    #[test]
    fn a_process_is_found_by_a_look_into_every_cgroup() {
        let directory = Directory::new("own", &["init.scope", "kubepods/pod1/agent", "kubepods/pod1/other"]);
        let procs = |cgroup: &str, text: &str| fs::write(directory.0.join(cgroup).join("cgroup.procs"), text).unwrap();
        procs("", "1\n2\n");
        procs("kubepods/pod1/other", "71\n");
        procs("kubepods/pod1/agent", "6\n7\n");
        let found = |pid| with_process(&directory.0, pid, &|_| true).expect("read");
        assert_eq!(found(7), Some(directory.0.join("kubepods/pod1/agent")));
        assert_eq!(found(2), Some(directory.0.clone()));
        assert_eq!(found(17), None);
        let outside = |pid| outside_pods(&directory.0, pid).expect("read");
        assert_eq!([outside(7), outside(2)], [None, Some(directory.0.clone())]);
    }

    #[test]
    fn a_uid_is_no_path() {
        for uid in ["", "..", "a/b", "../../x", "a b", "a\0b", &"a".repeat(200)] {
            let e = Finder::new(PathBuf::from("/nonexistent")).find(uid).expect_err("refused");
            assert!(matches!(e, Error::Uid { .. }), "{uid}: {e}");
        }
    }

    #[test]
    fn a_pod_that_came_later_is_found() {
        let directory = Directory::new("later", &["kubepods/podother"]);
        let mut finder = Finder::new(directory.0.clone());
        assert!(matches!(finder.find(UID), Err(Error::NoCgroup { .. })));
        fs::create_dir_all(directory.0.join("kubepods.slice/kubepods-pod6a1f_22_b.slice")).expect("directory");
        assert!(finder.find(UID).is_ok());
    }
}
