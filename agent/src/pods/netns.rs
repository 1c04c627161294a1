//! A pod's sandbox: the network namespace that the runtime has named, or that of its oldest process.
//!
//! What must hold: no other process's namespace is ever taken for the pod's. Any process of the pod can make itself a
//! namespace of its own and put the pod's address into it; the sandbox was there before all of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs, io,
    net::IpAddr,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
    sync::Arc,
};

use underpass_abi::Cookie;
use underpass_net::netns::{LocalAddress, Netns};

use super::{
    cgroup,
    error::{Error, Owner, Result},
};

/// A process, with the start time that tells it apart from a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// In the agent's PID namespace.
    pub(super) pid: u32,
    /// In clock ticks since boot (proc_pid_stat(5), field 22).
    pub(super) started: u64,
    /// Inode of its network namespace.
    namespace: u64,
}

/// The sandbox of a pod.
#[derive(Debug)]
pub(super) struct Sandbox {
    /// Its oldest process when it was found; none in a namespace that the runtime has named and that has no process yet.
    pub(super) process: Option<Process>,
    /// Its network namespace.
    pub(super) netns: Arc<Netns>,
    /// Inode of its network namespace.
    pub(super) namespace: u64,
    /// The device of its addresses.
    pub(super) device: String,
}

/// Finds the sandbox of the pod with this cgroup. `own` is the namespace of the agent itself.
pub(super) fn find(cgroup: &Path, addresses: &[IpAddr], own: &Netns) -> Result<Sandbox> {
    let process = oldest(cgroup)?;
    let netns = Netns::of_process(process.pid)?;
    // The number may be another process's since; what was opened is the one's that was looked at only if it still is.
    let opened = namespace_of(&netns).map_err(|_| Error::Uncertain { cgroup: cgroup.to_owned() })?;
    if oldest(cgroup)? != process || opened != process.namespace {
        return Err(Error::Uncertain { cgroup: cgroup.to_owned() });
    }
    let owner = Owner::Process(process.pid);
    if netns.cookie() == own.cookie() {
        return Err(Error::HostNetwork { owner });
    }
    let device = device_of(&netns.addresses()?, addresses, owner)?;
    Ok(Sandbox { process: Some(process), netns: Arc::new(netns), namespace: process.namespace, device })
}

/// The sandbox of the pod with this cgroup in the namespace that the runtime has named.
pub(super) fn named(netns: &Arc<Netns>, cgroup: &Path, addresses: &[IpAddr], own: &Netns) -> Result<Sandbox> {
    if netns.cookie() == own.cookie() {
        return Err(Error::HostNetwork { owner: Owner::Runtime });
    }
    let device = device_of(&netns.addresses()?, addresses, Owner::Runtime)?;
    let namespace = namespace_of(netns).map_err(|_| Error::Uncertain { cgroup: cgroup.to_owned() })?;
    Ok(Sandbox { process: first_in(cgroup, namespace), netns: Arc::clone(netns), namespace, device })
}

/// The oldest process of this cgroup in this network namespace; none while there is none.
pub(super) fn first_in(cgroup: &Path, namespace: u64) -> Option<Process> {
    let living = cgroup::processes(cgroup).unwrap_or_default().into_iter().filter_map(process);
    living.filter(|found| found.namespace == namespace).min_by_key(|found| (found.started, found.pid))
}

/// The device that has every address of the pod.
fn device_of(present: &[LocalAddress], addresses: &[IpAddr], owner: Owner) -> Result<String> {
    let mut device: Option<&str> = None;
    for &address in addresses {
        let local = present.iter().find(|local| local.address == address).ok_or(Error::NoAddress { owner, address })?;
        match device {
            Some(other) if other != local.device => {
                let (device, other) = (local.device.clone(), other.to_owned());
                return Err(Error::TwoDevices { address, device, other });
            }
            _ => device = Some(&local.device),
        }
    }
    Ok(device.unwrap_or_default().to_owned())
}

/// The process of a cgroup that started first. Where two started in the same clock tick, in different namespaces, it is
/// ambiguous.
fn oldest(cgroup: &Path) -> Result<Process> {
    let living: Vec<Process> = cgroup::processes(cgroup)?.into_iter().filter_map(process).collect();
    let Some(first) = living.iter().min_by_key(|p| (p.started, p.pid)) else {
        return Err(Error::NoProcess { cgroup: cgroup.to_owned() });
    };
    let twin = |p: &&Process| p.started == first.started && p.namespace != first.namespace;
    match living.iter().find(twin) {
        None => Ok(*first),
        Some(_) => Err(Error::Uncertain { cgroup: cgroup.to_owned() }),
    }
}

/// A process by its entries in /proc; none where it is gone.
pub(super) fn process(pid: u32) -> Option<Process> {
    let started = start_time(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    let namespace = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino();
    Some(Process { pid, started, namespace })
}

/// Field 22 of a stat line. The second field is the command's name in parentheses, and may have any of both in it.
fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn namespace_of(netns: &Netns) -> io::Result<u64> {
    Ok(fs::File::from(netns.as_fd().try_clone_to_owned()?).metadata()?.ino())
}

/// Whether a process of the pod still lives in this sandbox: its first one, or else any other in the same namespace.
pub(super) fn is_alive(sandbox: Process, cgroup: &Path, events: &fs::File) -> bool {
    if !cgroup::is_populated(events) {
        return false;
    }
    if process(sandbox.pid) == Some(sandbox) {
        return true;
    }
    match cgroup::processes(cgroup) {
        Ok(pids) => pids.into_iter().filter_map(process).any(|p| p.namespace == sandbox.namespace),
        Err(_) => true, // not known to have ended
    }
}

/// Those of these network namespaces in which a process lives.
pub(super) fn living(cookies: &BTreeSet<Cookie>) -> Result<BTreeMap<Cookie, Netns>> {
    let path = Path::new("/proc");
    let failed = |source| Error::Cgroup { operation: "list", path: path.to_owned(), source };
    let (mut seen, mut living) = (HashSet::new(), BTreeMap::new());
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Some(found) = process(pid).filter(|found| !seen.contains(&found.namespace)) else { continue };
        match Netns::of_process(pid) {
            Ok(netns) => {
                seen.insert(found.namespace);
                if cookies.contains(&Cookie(netns.cookie())) {
                    living.insert(Cookie(netns.cookie()), netns);
                }
            }
            // It has ended meanwhile; another process of its namespace may live.
            Err(_) if process(pid) != Some(found) => {}
            // A process that is not known to be gone must not be taken for gone.
            Err(e) => return Err(e.into()),
        }
    }
    Ok(living)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_time_is_read_behind_any_name() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20 21";
        let check = |name: &str| assert_eq!(start_time(&format!("42 ({name}) {tail}")), Some(777), "{name}");
        check("pause");
        check("a b");
        check(") S 1 2 3 (");
        assert_eq!(start_time("42 (x) S 1"), None);
        let own = process(std::process::id()).expect("this process");
        assert!(own.started > 0 && own.namespace > 0);
        assert_eq!(process(std::process::id()), Some(own));
    }

    #[test]
    fn all_addresses_of_a_pod_are_on_one_device() {
        let present = [("10.0.0.1", "eth0"), ("fd00::1", "eth0"), ("10.9.0.1", "net1"), ("127.0.0.1", "lo")];
        let present =
            present.map(|(ip, device)| LocalAddress { address: ip.parse().expect("ip"), device: device.into() });
        let check = |addresses: &[&str], expected: std::result::Result<&str, &str>| {
            let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().expect("ip")).collect();
            let got = device_of(&present, &addresses, Owner::Process(7)).map_err(|e| e.to_string());
            assert_eq!(got.as_deref().map_err(String::as_str), expected);
        };
        check(&["10.0.0.1", "fd00::1"], Ok("eth0"));
        check(&["10.9.0.1"], Ok("net1"));
        check(&["10.0.0.1", "10.9.0.1"], Err("10.9.0.1 is on net1, another address of the pod on eth0"));
        check(&["10.0.0.2"], Err("address 10.0.0.2 is missing in the network namespace of process 7"));
    }

    #[test]
    fn the_own_namespace_lives() {
        let own = Cookie(Netns::own().expect("own").cookie());
        let living = living(&BTreeSet::from([own, Cookie(1)])).expect("listed");
        assert_eq!(living.into_keys().collect::<Vec<_>>(), [own]);
    }
}
