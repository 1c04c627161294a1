//! The destination of a connection, and the next hop towards it. Its own file because the two are told apart here: only
//! towards a workload are they one.

use std::{fmt, net::SocketAddr, sync::Arc};

use serde::{Serialize, Serializer};

use crate::{Identities, ObjectName, world::Workload};

/// The destination of a connection: the application's address, and the called service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Destination {
    /// The application's address and target port.
    pub target: SocketAddr,
    /// The pod that has this address, where it is one of ours.
    #[serde(serialize_with = "name_only")]
    pub workload: Option<Arc<Workload>>,
    /// The service whose VIP was called.
    pub service: Option<ObjectName>,
}

fn name_only<S: Serializer>(w: &Option<Arc<Workload>>, s: S) -> Result<S::Ok, S::Error> {
    w.as_ref().map(|w| &w.name).serialize(s)
}

/// The kind of a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum HopKind {
    /// The destination's own node, in the name of the destination.
    Workload,
    /// An L7 proxy before the destination, which judges and carries on.
    Waypoint,
    /// A proxy at the border of another network, which carries on.
    Gateway,
}

/// A next hop: all that is needed to open a tunnel to it and a stream in that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// Its kind.
    pub kind: HopKind,
    /// The address that the tunnel is opened to.
    pub address: SocketAddr,
    /// The identities that may answer there.
    pub identities: Identities,
    /// The target of the CONNECT.
    pub authority: Authority,
}

/// The target of a CONNECT. As text it is exactly the value of `:authority` (RFC 9113, 8.5).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Authority {
    /// An address and a port; IPv6 in brackets.
    Address(SocketAddr),
    /// A name that the next hop resolves, and a port: addresses of one network mean nothing in another.
    Host {
        /// The name.
        name: Arc<str>,
        /// The port of the service that has it.
        port: u16,
    },
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

impl Serialize for Authority {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_as_text() {
        let check = |authority: Authority, text: &str| assert_eq!(authority.to_string(), text);
        check(Authority::Address("10.0.0.1:80".parse().unwrap()), "10.0.0.1:80");
        check(Authority::Address("[fd00::1]:8080".parse().unwrap()), "[fd00::1]:8080");
        check(
            Authority::Host { name: "reviews.default.svc.cluster.local".into(), port: 9080 },
            "reviews.default.svc.cluster.local:9080",
        );
    }
}
