//! Who calls what, from a client's tunnel: the port of a Service that its CONNECT names, and the client as its certificate and its
//! socket show it. Pure, and its own file because everything behind it (routes, gates, balancing, records) goes by these two.
//!
//! ```text
//! :authority --VIP:port or host:port--> a Service of the World --behind this waypoint, with this port--> Called
//!            \-- a pod, unknown, no text, behind no waypoint or another one --> 400      \-- ambiguous, no such port --> 503
//! ```
//! What must hold: nothing is called that the waypoint does not stand before, be it by its VIP or by its name; pods' own addresses
//! are not taken, nor is the port of tunnels itself.

use std::net::{IpAddr, SocketAddr};

use underpass_core::{
    Identity, ObjectName, Reason, World,
    addr::{HBONE_PORT, canonical},
    world::{Addressed, AppProtocol},
};

use crate::Own;

/// The called port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Called {
    /// The Service.
    pub(crate) service: ObjectName,
    /// Its port.
    pub(crate) port: u16,
    /// What is spoken there, where that is said.
    pub(crate) protocol: AppProtocol,
    /// The called address: endpoints are called by the same family.
    pub(crate) address: IpAddr,
}

impl Called {
    pub(crate) const fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }
}

/// The client, as the tunnel knows it: no header has a part in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) identity: Identity,
    pub(crate) address: SocketAddr,
}

/// What a CONNECT with this authority calls: a Service's VIP or hostname, and its port.
///
/// # Errors
/// The status of the answer, and the reason.
pub(crate) fn called(own: &Own, world: &World, authority: &[u8]) -> Result<Called, (u16, Reason)> {
    let not_served = |status| (status, Reason::NotServedHere);
    let text = std::str::from_utf8(authority).map_err(|_| not_served(400))?;
    let (service, port, address) = match text.parse::<SocketAddr>().map(canonical) {
        Ok(address) => match world.addressed(address.ip()) {
            Addressed::Service(service) => (service, address.port(), address.ip()),
            Addressed::Ambiguous(_) => return Err((503, Reason::AmbiguousAddress)),
            Addressed::Workload(_) | Addressed::Unknown => return Err(not_served(400)),
        },
        Err(_) => {
            let (host, port) = text.rsplit_once(':').ok_or(not_served(400))?;
            let port = port.parse().map_err(|_| not_served(400))?;
            let service = world.service_of_host(&host.to_ascii_lowercase()).ok_or(not_served(400))?;
            let address = *service.vips.first().ok_or(not_served(400))?;
            (service, port, address)
        }
    };
    if !own.serves(service) {
        return Err(not_served(400));
    }
    if port == HBONE_PORT {
        return Err(not_served(503));
    }
    let known = service.port(port).ok_or((503, Reason::UnknownPort))?;
    Ok(Called { service: service.name.clone(), port, protocol: known.protocol, address })
}

#[cfg(test)]
mod tests {
    use underpass_core::{
        TrustDomain,
        objects::Service,
        testing::{ambient, gateway, labels, name, pod, service, world},
    };

    use super::*;

    #[test]
    fn services_that_this_waypoint_stands_before() {
        let behind = |text: &str| Service { labels: labels("istio.io/use-waypoint=w"), ..service(text) };
        let world = world([
            gateway("shop/w").into(),
            service("shop/w app=w 10.96.0.1 15008").into(),
            pod("shop/w-1", "10.0.0.100").into(),
            behind("shop/cart app=cart 10.96.0.10,fd96::10 80").into(),
            service("shop/alone app=cart 10.96.0.11 80").into(),
            behind("other/cart app=cart 10.96.0.12 80").into(),
            ambient("shop/cart-1", "10.0.0.1", "").into(),
        ]);
        let identity = Identity::new(&TrustDomain::default(), "shop", "w");
        let own = Own { gateway: name("shop/w"), class: "istio-waypoint".into(), identity, addresses: vec![] };
        let ok = |address: &str| {
            let (service, address) = (name("shop/cart"), address.parse().unwrap());
            Ok(Called { service, port: 80, protocol: AppProtocol::Unknown, address })
        };
        let check = |authority: &str, expect| assert_eq!(called(&own, &world, authority.as_bytes()), expect);
        check("10.96.0.10:80", ok("10.96.0.10"));
        check("[fd96::10]:80", ok("fd96::10"));
        check("[::ffff:10.96.0.10]:80", ok("10.96.0.10"));
        check("cart.shop.svc.cluster.local:80", ok("10.96.0.10"));
        check("CART.shop.svc.cluster.local:80", ok("10.96.0.10"));
        check("10.96.0.10:81", Err((503, Reason::UnknownPort)));
        check("10.96.0.10:15008", Err((503, Reason::NotServedHere)));
        for not in ["10.96.0.11:80", "10.96.0.12:80", "10.0.0.1:80", "10.0.0.9:80", "cart:80", "cart.shop", ""] {
            check(not, Err((400, Reason::NotServedHere)));
        }
        assert!(called(&own, &world, b"\xff:80").is_err());
    }
}
