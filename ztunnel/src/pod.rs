//! The description of a pod that the tunnel is to serve, with two listeners inside its network namespace.

use std::{
    fmt,
    net::{IpAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use underpass_core::{
    Few, ObjectName,
    world::{Account, Uid},
};
use underpass_net::netns::Netns;

/// A pod to serve, as its node knows it. Connections from it and to it are refused while the World has no workload of its uid, or
/// one with other addresses or another account; those of a new pod wait first.
pub struct Pod {
    /// namespace/name.
    pub name: ObjectName,
    /// Its uid in the World.
    pub uid: Uid,
    /// Its addresses, canonical.
    pub addresses: Few<IpAddr>,
    /// Its identity without the trust domain.
    pub account: Account,
    /// The cookie of its network namespace.
    pub cookie: u64,
    /// Its network namespace.
    pub netns: Arc<Netns>,
    /// Gets captured connections; their local address is the original destination. Non-blocking.
    pub outbound: TcpListener,
    /// Gets everything that arrives at the pod; on port 15008 it is HBONE. Non-blocking.
    pub inbound: TcpListener,
    /// Of a pod that its node knows before the mesh does: so long its connections wait for the World's workload, and
    /// for its certificate, from the first of them on. None: they do not wait.
    pub expected_within: Option<Duration>,
}

impl fmt::Debug for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:#x})", self.name, self.cookie)
    }
}
