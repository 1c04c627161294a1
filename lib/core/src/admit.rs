//! The destination's verdict about a connection: the source address first, then mutual TLS, then policy. One
//! function, because the inbound path, the re-judging of open connections and `explain` must never disagree.

use crate::{
    Reason, World,
    addr::may_be_remote,
    authz::{self, Request, Verdict},
    peer_auth,
    trace::{Stage, Trace},
    world::Takes,
};

/// The verdict about a connection: whether it may reach the application.
#[must_use]
pub fn admit(world: &World, request: &Request<'_>, trace: &mut impl Trace) -> Verdict {
    let from = request.peer.carrier();
    // Its own is no address of another pod; as a source behind its waypoint it may well call itself.
    let is_own = request.workload.addresses.contains(&from);
    let refused = Some(from).filter(|from| is_own || !may_be_remote(*from));
    if let Some(ip) = refused.or(Some(request.peer.address).filter(|ip| !may_be_remote(*ip))) {
        let key = request.workload.object();
        trace.say(Stage::PeerAuthentication, Some(&key), || format!("{ip} cannot be the address of another pod"));
        return Verdict::Deny { policy: None, reason: Reason::BadSource };
    }
    let (takes, policy) = peer_auth::takes(world, request.workload, request.port, trace);
    if takes == Takes::MutualTls && request.peer.identity.is_none() {
        return Verdict::Deny { policy: policy.cloned(), reason: Reason::PlaintextRefused };
    }
    authz::judge(world, request, trace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        authz::Peer,
        testing::{name, peer_authentication, pod, world},
    };

    fn ask(mode: &str, from: &str, identity: bool) -> Verdict {
        let [a, client] = [pod("default/a", "10.0.0.1 fd00::1"), pod("default/client", "10.0.0.2")];
        let world = world([peer_authentication(&format!("default/p - {mode}")).into(), a.into(), client.into()]);
        let [a, client] = ["default/a", "default/client"].map(|pod| world.pod(&name(pod)).unwrap());
        let id = world.identity(client).unwrap();
        let peer = Peer::itself(from.parse().unwrap(), identity.then_some(id));
        admit(&world, &Request { peer, workload: a, address: "10.0.0.1".parse().unwrap(), port: 80 }, &mut ())
    }

    #[test]
    fn address_then_mutual_tls_then_policy() {
        let allow = Verdict::Allow { policy: None };
        let deny = |reason| Verdict::Deny { policy: None, reason };
        assert_eq!(ask("STRICT", "10.0.0.2", true), allow);
        let policy = Some(crate::ObjectName::new("default", "p"));
        assert_eq!(ask("STRICT", "10.0.0.2", false), Verdict::Deny { policy, reason: Reason::PlaintextRefused });
        assert_eq!(ask("PERMISSIVE", "10.0.0.2", false), allow);
        for from in ["127.0.0.1", "10.0.0.1", "fd00::1", "::", "ff02::1", "fe80::1"] {
            assert_eq!(ask("PERMISSIVE", from, true), deny(Reason::BadSource), "{from}");
        }
    }
}
