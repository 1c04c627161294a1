//! Set-up and take-down of a pod's namespace: rules, routes, sysctls, listeners, captured sockets.
//!
//! What must hold: every step can be taken again, and a take-down is checked before it counts.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr, TcpListener},
};

use underpass_abi::Marks;
use underpass_net::{
    destroy::{self, State, TcpSocket},
    netns::{Family, Netns, Rule},
    socket::{
        self,
        options::{Keepalive, Options, Role},
    },
    system::SystemError,
};

/// Below the kernel's own rules (0, 32766, 32767) and below those that network plugins add.
const RULE_PRIORITY: u32 = 50;
/// A routing table without other users.
const ROUTE_TABLE: u32 = 1777;
/// Accepted connections and RSTs carry the mark of the packet that they answer (kernel doc: networking/ip-sysctl).
const SYSCTLS: [&str; 3] = ["net.ipv4.tcp_fwmark_accept", "net.ipv4.fwmark_reflect", "net.ipv6.fwmark_reflect"];
/// Their default in the kernel.
const SYSCTL_DEFAULT: &str = "0";

/// The two listeners of a pod.
#[derive(Debug)]
pub(super) struct Listeners {
    /// For connections that its applications open.
    pub(super) outbound: TcpListener,
    /// For connections that arrive.
    pub(super) inbound: TcpListener,
}

impl Listeners {
    /// Sets the options that accepted sockets inherit: also where an agent of another build made the listeners.
    pub(super) fn set_options(&self, keepalive: Keepalive) -> Result<(), SystemError> {
        for (role, listener) in [(Role::OutboundListener, &self.outbound), (Role::InboundListener, &self.inbound)] {
            let failed =
                |source| SystemError::Socket { operation: "set options of", object: role.as_str().into(), source };
            Options::of(role, keepalive).set(listener).map_err(failed)?;
        }
        Ok(())
    }
}

/// The values of the sysctls before the set-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Before(Vec<(&'static str, String)>);

impl Before {
    /// The kernel's defaults: for pods that an earlier agent set up.
    #[must_use]
    pub(super) fn unknown() -> Self {
        Self(SYSCTLS.map(|name| (name, SYSCTL_DEFAULT.to_owned())).to_vec())
    }
}

/// Makes the listeners.
pub(super) fn listen(netns: &Netns, device: &str) -> Result<Listeners, SystemError> {
    Ok(Listeners { outbound: socket::outbound_listener(netns)?, inbound: socket::inbound_listener(netns, device)? })
}

fn rules(marks: Marks) -> [Rule; 2] {
    [marks.outbound(), marks.inbound()].map(|mark| Rule { priority: RULE_PRIORITY, mark, table: ROUTE_TABLE })
}

/// The families that the kernel has.
fn families(netns: &Netns) -> Result<Vec<Family>, SystemError> {
    let v6 = netns.has_sysctl("net.ipv6.conf.all.disable_ipv6")?;
    Ok(Family::ALL.into_iter().filter(|family| v6 || *family == Family::V4).collect())
}

/// Routes before rules: a rule whose table is empty would send marked packets on to the next one.
pub(super) fn prepare(netns: &Netns, addresses: &[IpAddr], marks: Marks) -> Result<Before, SystemError> {
    let mut before = Vec::new();
    for name in SYSCTLS {
        if netns.has_sysctl(name)? {
            before.push((name, netns.sysctl(name)?));
            netns.set_sysctl(name, "1")?;
        }
    }
    for family in families(netns)? {
        if let Some(source) = addresses.iter().find(|ip| Family::of(**ip) == family) {
            netns.set_local_default(ROUTE_TABLE, *source)?;
        }
        rules(marks).into_iter().try_for_each(|rule| netns.add_rule(family, rule))?;
    }
    Ok(Before(before))
}

/// Takes back what [`prepare`] did. Rules before routes, for the same reason.
pub(super) fn undo(netns: &Netns, before: &Before, marks: Marks) -> Result<(), SystemError> {
    for family in families(netns)? {
        rules(marks).into_iter().try_for_each(|rule| netns.remove_rule(family, rule))?;
        netns.remove_local_default(family, ROUTE_TABLE)?;
    }
    for (name, value) in &before.0 {
        if netns.has_sysctl(name)? {
            netns.set_sysctl(name, value)?;
        }
    }
    Ok(())
}

/// Takes back the rule by which connections of applications stay in the namespace. A socket that is still marked gets no
/// packet out: the node's programs let it leave by no other device than lo.
pub(super) fn undo_outbound(netns: &Netns, marks: Marks) -> Result<(), SystemError> {
    let [outbound, _] = rules(marks);
    families(netns)?.into_iter().try_for_each(|family| netns.remove_rule(family, outbound))
}

/// Destroys every captured socket with one of these marks, and counts them.
pub(super) fn destroy_captured(netns: &Netns, marks: u32) -> Result<usize, SystemError> {
    destroy::destroy_all(netns, |sockets| captured(sockets, marks))
}

/// The number of captured sockets with one of each of these marks.
pub(super) fn count_captured<const N: usize>(netns: &Netns, marks: [u32; N]) -> Result<[usize; N], SystemError> {
    let sockets = destroy::list(netns)?;
    Ok(marks.map(|marks| captured(&sockets, marks).len()))
}

/// The sockets whose packets go over lo because of the mesh: those that carry one of the marks, and their other ends, whose
/// application may have taken the mark away. The tunnel's own ends carry it always: set, or from the SYN they accepted.
fn captured(sockets: &[TcpSocket], ours: u32) -> Vec<TcpSocket> {
    let open = || sockets.iter().filter(|s| s.state != State::LISTEN);
    let marked: HashSet<(SocketAddr, SocketAddr)> =
        open().filter(|s| s.mark & ours != 0).map(|s| (s.local, s.remote)).collect();
    open().filter(|s| s.mark & ours != 0 || marked.contains(&(s.remote, s.local))).cloned().collect()
}
