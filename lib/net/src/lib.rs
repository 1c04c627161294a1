//! What touches the network: TLS sessions, tunnels and their pool, sockets, network namespaces. The only user of rustls.
//!
//! * [`tls`]: mutual TLS as a sans-IO session, configurations, who the peer is.
//! * [`tunnel`] and [`pool`]: HBONE over TLS over TCP, shared by streams; worker-local. [`buffer`] lends their memory.
//! * [`budget`]: how much of the node one pod may hold.
//! * [`passing`]: descriptors to another process.
//! * [`socket`], [`netns`], [`destroy`]: sockets inside pods and what is known about them.

pub mod budget;
pub mod buffer;
pub mod destroy;
mod netlink;
pub mod netns;
pub mod passing;
pub mod pool;
pub mod socket;
pub mod system;
pub mod tls;
pub mod tunnel;
