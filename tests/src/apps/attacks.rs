//! Attacks of root inside a pod besides odd sockets ([`socket`](super::socket)) and raw packets
//! ([`raw`](super::raw)). Each is a function for [`Site::act`](crate::testbed::Site::act) or an actor.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    process::Command,
};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use super::socket::{Failure, Opt, listener};
use crate::testbed::Io;

/// The TCP ports of the listeners in this network namespace, both families, without doubles.
pub fn listening_ports(_: ()) -> Result<Vec<u16>> {
    const LISTEN: &str = "0A"; // include/net/tcp_states.h
    let mut ports = Vec::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        let text = fs::read_to_string(table).with_context(|| format!("read {table}"))?;
        for fields in text.lines().skip(1).map(|l| l.split_ascii_whitespace().collect::<Vec<_>>()) {
            let (Some(local), Some(&state)) = (fields.get(1), fields.get(3)) else { continue };
            let port = local.rsplit_once(':').and_then(|(_, p)| u16::from_str_radix(p, 16).ok());
            ports.extend(port.filter(|_| state == LISTEN));
        }
    }
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}

/// Tries to listen on the address of another listener, by SO_REUSEPORT and SO_REUSEADDR; why it failed, if it did.
pub fn join_listener(address: SocketAddr) -> Result<Option<Failure>> {
    Ok(listener(address, &[Opt::ReusePort]).err())
}

/// Removes every rule but the three that a namespace begins with, and every route that `table` names.
pub fn flush_rules_and_routes(table: u32) -> Result<()> {
    for family in ["-4", "-6"] {
        // "flush" takes all but the local rule; the two others of an IPv4 namespace are put back.
        ip(&[family, "rule", "flush"])?;
        ip(&[family, "rule", "add", "pref", "32766", "lookup", "main"])?;
        let _none_there = ip(&[family, "route", "flush", "table", &table.to_string()]);
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("start ip")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// An impostor: a pod's addresses in another network namespace.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Impostor {
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// By a user namespace, as any process may; by privilege otherwise.
    pub unprivileged: bool,
}

/// Makes the namespace, puts the addresses on its loopback device, says so, and stays until the test lets go. It is a
/// process of the pod (its cgroup), younger than the sandbox.
pub fn impersonate(impostor: Impostor, io: &mut Io) -> Result<()> {
    let user = if impostor.unprivileged { CloneFlags::CLONE_NEWUSER } else { CloneFlags::empty() };
    unshare(user | CloneFlags::CLONE_NEWNET).context("a network namespace")?;
    if impostor.unprivileged {
        // Root within, so that it may configure what it owns.
        fs::write("/proc/self/uid_map", "0 0 1").context("uid_map")?;
    }
    ip(&["link", "set", "lo", "up"])?;
    for address in &impostor.addresses {
        let length = if address.is_ipv4() { 32 } else { 128 };
        ip(&["addr", "add", &format!("{address}/{length}"), "dev", "lo"])?;
    }
    io.send(&())?;
    io.wait_for_end()
}
