//! Judging an open connection again after a change. The destination's side keeps a [`Judged`] per open connection; it
//! is checked against every new World, with the same function that admitted it.
//!
//! The race of a change with a connection being opened: register first, then compare `judged_at` with the current
//! version and check again if it differs. Between the two no change can be missed.

use std::net::IpAddr;

use crate::{
    Identity, ObjectName, Reason, World, admit,
    authz::{Peer, Request, Verdict},
    world::Version,
};

/// What was judged, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The destination's pod.
    pub workload: ObjectName,
    /// Its address that was called.
    pub address: IpAddr,
    /// The target port.
    pub port: u16,
    /// The peer's address.
    pub peer: IpAddr,
    /// The peer's identity; none: plaintext.
    pub identity: Option<Identity>,
    /// The World that admitted it.
    pub judged_at: Version,
}

/// What `world` says about it now.
#[must_use]
pub fn check(world: &World, judged: &Judged) -> Verdict {
    let gone = Verdict::Deny { policy: None, reason: Reason::PodGone };
    let Some(workload) = world.workload(&judged.workload) else {
        return gone;
    };
    if !world.is_enrolled(workload) || !workload.addresses.contains(&judged.address) {
        return gone;
    }
    let peer = Peer { address: judged.peer, identity: judged.identity.as_ref() };
    let request = Request { peer, workload, address: judged.address, port: judged.port };
    admit::admit(world, &request, &mut ())
}
