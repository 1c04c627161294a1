//! A pod as the tunnel sees it: two listeners inside its network namespace.

use std::{fmt, net::TcpListener, sync::Arc};

use underpass_core::{ObjectName, world::Uid};
use underpass_net::netns::Netns;

/// A pod to serve. Its addresses, labels and identity are the World's.
pub struct Pod {
    /// namespace/name.
    pub name: ObjectName,
    /// What identifies it in the World.
    pub uid: Uid,
    /// The cookie of its network namespace.
    pub cookie: u64,
    /// Its network namespace.
    pub netns: Arc<Netns>,
    /// Gets captured connections; their local address is the original destination. Non-blocking.
    pub outbound: TcpListener,
    /// Gets everything that arrives at the pod; on port 15008 it is HBONE. Non-blocking.
    pub inbound: TcpListener,
}

impl fmt::Debug for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:#x})", self.name, self.cookie)
    }
}
