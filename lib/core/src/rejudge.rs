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
    // One that leaves the mesh is judged as before: its open connections go on until its release ends them.
    if !workload.addresses.contains(&judged.address) {
        return gone;
    }
    let peer = Peer { address: judged.peer, identity: judged.identity.as_ref() };
    let request = Request { peer, workload, address: judged.address, port: judged.port };
    admit::admit(world, &request, &mut ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ObjectName,
        testing::{ambient, name, peer_authentication, pod, policy, world},
        world::{Action, Object},
    };

    fn verdict(objects: Vec<Object>, identity: bool) -> Verdict {
        let world = world(objects);
        let judged = Judged {
            workload: name("default/a"),
            address: "10.0.0.1".parse().unwrap(),
            port: 80,
            peer: "10.0.0.2".parse().unwrap(),
            identity: identity.then(|| pod("default/b", "10.0.0.2").identity(&world.settings().trust_domain)),
            judged_at: Version(0),
        };
        check(&world, &judged)
    }

    #[test]
    fn only_what_changed_against_it_ends_a_connection() {
        let a = || Object::from(ambient("default/a", "10.0.0.1", ""));
        let deny = |policy: Option<ObjectName>, reason| Verdict::Deny { policy, reason };
        let allow = Verdict::Allow { policy: None };
        let gone = deny(None, Reason::PodGone);
        let strict = || Object::from(peer_authentication("default/p - STRICT"));
        for (objects, identity, expect) in [
            (vec![a()], true, allow.clone()),
            (vec![a(), strict()], true, allow.clone()),
            (vec![a(), strict()], false, deny(Some(name("default/p")), Reason::PlaintextRefused)),
            (
                vec![a(), policy("default/n", Action::Allow, vec![]).into()],
                true,
                deny(Some(name("default/n")), Reason::NotAllowed),
            ),
            (vec![], true, gone.clone()),
            (vec![ambient("default/a", "10.0.0.9", "").into()], true, gone),
            // leaving the mesh is no reason by itself
            (vec![pod("default/a", "10.0.0.1").into()], true, allow),
        ] {
            assert_eq!(verdict(objects.clone(), identity), expect, "{objects:?}");
        }
    }
}
