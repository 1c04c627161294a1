//! What touches the network: TLS sessions, tunnels, sockets, network namespaces. The only user of rustls.
//!
//! * [`tls`]: mutual TLS as a sans-IO session, configurations, who the peer is.
//! * [`tunnel`]: HBONE over TLS over TCP, shared by streams; worker-local. [`buffer`] lends its memory.
//! * [`budget`]: how much of the node one pod may hold.
//! * [`passing`]: descriptors to another process.
//! * [`socket`], [`netns`], [`destroy`]: sockets inside pods and what is known about them.

pub mod budget;
pub mod buffer;
pub mod destroy;
mod netlink;
pub mod netns;
pub mod passing;
pub mod socket;
pub mod system;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tls;
pub mod tunnel;
