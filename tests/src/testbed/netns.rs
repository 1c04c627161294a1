//! Network namespaces: settings that every one gets, and their configuration by iproute2, one `ip -batch` per
//! namespace (a process start costs more than everything it configures). None ever has a name.

use std::{fs, net::IpAddr, os::fd::OwnedFd, process::Command, thread};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

use super::{lab::Site, process, sys};

/// Settings of every namespace, so that nothing depends on a timer or on the machine:
/// * addresses are usable at once (no duplicate address detection, which takes a second);
/// * Reno: BBR's pacing needs a clock that veth devices spoil, and comparisons need one algorithm;
/// * no router advertisements, no redirects.
const SETTINGS: &[(&str, &str)] = &[
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/dad_transmits", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/accept_redirects", "0"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/tcp_congestion_control", "reno"),
];

/// Further settings of a node: it forwards.
const FORWARDING: &[(&str, &str)] = &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];

/// Writes the settings of the calling process's network namespace.
pub(super) fn write_settings(is_node: bool) -> Result<()> {
    for (name, value) in SETTINGS.iter().chain(if is_node { FORWARDING } else { &[] }) {
        set(name, value)?;
    }
    Ok(())
}

/// Writes one setting below /proc/sys/net of the calling process's network namespace. For actors.
pub fn set(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value).with_context(|| format!("write {value} to {path}"))
}

/// Runs iproute2 commands (`link add ...`, without the `ip`) in the network namespace of a site.
pub fn configure(site: &Site, commands: &[String]) -> Result<()> {
    configure_all(&[(site.clone(), commands.to_vec())])
}

/// The same for many sites at once.
pub fn configure_all(batches: &[(Site, Vec<String>)]) -> Result<()> {
    let begin = |(site, commands): &(Site, Vec<String>)| {
        process::begin_with_input(site, "ip", &["-batch", "-"], commands.join("\n") + "\n")
    };
    let begun = batches.iter().map(begin).collect::<Result<Vec<_>>>()?;
    for (actor, (_, commands)) in begun.into_iter().zip(batches) {
        actor.join().with_context(|| format!("ip -batch of:\n{}", numbered(commands)))?;
    }
    Ok(())
}

fn numbered(commands: &[String]) -> String {
    commands.iter().enumerate().map(|(i, c)| format!("{:4} {c}\n", i + 1)).collect()
}

/// `ip` is iproute2's: busybox's lacks batches and rules.
pub(super) fn check_iproute2() -> Result<()> {
    let output =
        Command::new("ip").arg("-V").output().map_err(|e| anyhow!("no `ip` in PATH ({e}): install iproute2"))?;
    if !String::from_utf8_lossy(&output.stdout).contains("iproute2") {
        bail!("the `ip` in PATH is not iproute2's: install iproute2");
    }
    Ok(())
}

/// Opens an AF_PACKET socket on a device of a site's network namespace, for use in this process.
pub(super) fn packet_socket(site: &Site, device: &str) -> Result<OwnedFd> {
    let Some(pid) = site.network_of() else {
        return sys::packet_socket(device).with_context(|| format!("packet socket on {device}"));
    };
    let namespace = fs::File::open(format!("/proc/{pid}/ns/net")).context("open a network namespace")?;
    // A thread of its own: the namespace belongs to the thread, and this one ends at once.
    let opened = thread::scope(|scope| {
        scope
            .spawn(|| -> Result<OwnedFd> {
                setns(&namespace, CloneFlags::CLONE_NEWNET)?;
                Ok(sys::packet_socket(device)?)
            })
            .join()
    });
    opened.map_err(|_| anyhow!("panicked"))?.with_context(|| format!("packet socket on {device} of process {pid}"))
}

/// `addr/32` or `addr/128`.
pub(super) fn host(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

/// A MAC address from its group (node, pod, bridge) and number: locally administered, the same in every run.
pub(super) fn mac(group: u8, number: usize) -> String {
    let [.., a, b, c] = number.to_be_bytes();
    format!("02:75:{group:02x}:{a:02x}:{b:02x}:{c:02x}")
}
