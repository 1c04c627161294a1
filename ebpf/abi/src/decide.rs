//! Every decision of the kernel, as functions from values and lookups to a value.
//!
//! The kernel programs are thin shells around them: they read a context, ask here, and do what the answer says. On the
//! host the same functions run over hash maps, so that what the kernel does can be tested and compared with what user
//! space means. One rule stands behind all of them: **what reaches an application had its exact 4-tuple attested, or both
//! of its ends are in the application's own namespace.**
//!
//! ```text
//! socket()   create    stamps sockets of enrolled pods
//! bind()     bind      lends SO_REUSEADDR, so that the tunnel's sockets do not block the application's port
//! connect()  connect   decides: local, leave, captured, agent, probe, denied; keeps it in the socket's storage
//! SYN        tcp       compares the decision with the addresses that the SYN really gets; attests hand-offs and probes
//! packets    egress    lets nothing of a captured or denied socket out, nor a SYN without a decision
//! arrival    lookup    attested: to the application; captured: to the tunnel; from outside: to the tunnel; else refused
//! ```
//!
//! What must hold: no loop without a constant bound, no allocation, no panic; everything is inlined into the programs.

pub mod bind;
pub mod connect;
pub mod egress;
pub mod lookup;
pub mod tcp;

use crate::addr::{Address, CgroupId, Cookie};
use crate::maps::{ANY_OTHER, Attestation, Destination, ListenerKey, LocalKey, Locality, Phase, ProbeKey, Tuple};

/// The lookups that decisions need: kernel maps, or hash maps in memory.
pub trait Tables {
    /// The phase of the enrolled pod with this namespace.
    fn phase(&self, pod: Cookie) -> Option<Phase>;
    /// The locality of an address in a pod's namespace.
    fn locality(&self, key: &LocalKey) -> Option<Locality>;
    /// The entry of the mesh for this address.
    fn destination(&self, address: &Address) -> Option<Destination>;
    /// Is this the cgroup of an agent?
    fn is_agent(&self, cgroup: CgroupId) -> bool;
    /// The pod whose cgroup this is.
    fn pod_of(&self, cgroup: CgroupId) -> Option<Cookie>;
    /// The pod that is probed at this address and port.
    fn probed(&self, key: &ProbeKey) -> Option<Cookie>;
    /// The node's own network namespace, where this is the cgroup of its kubelet.
    fn kubelet(&self, cgroup: CgroupId) -> Option<Cookie>;
    /// The attestation of this connection, if there is one.
    fn attestation(&self, tuple: &Tuple) -> Option<Attestation>;
    /// Does the tunnel listen?
    fn has_listener(&self, key: &ListenerKey) -> bool;
}

/// Local to the pod's namespace: loopback, or any address that it has.
#[inline(always)]
pub fn is_local(tables: &impl Tables, pod: Cookie, address: &Address) -> bool {
    address.is_loopback() || tables.locality(&LocalKey { pod, address: *address }).is_some()
}

/// In the mesh, or not known to be outside it: a table that has no room for every address says so by [`ANY_OTHER`].
#[inline(always)]
pub fn destination(tables: &impl Tables, address: &Address) -> Option<Destination> {
    tables.destination(address).or_else(|| tables.destination(&ANY_OTHER))
}

/// One of the pod's own addresses, those that count for identity.
#[inline(always)]
pub fn is_pod_address(tables: &impl Tables, pod: Cookie, address: &Address) -> bool {
    matches!(tables.locality(&LocalKey { pod, address: *address }), Some(Locality::POD))
}

#[cfg(test)]
mod tests;
