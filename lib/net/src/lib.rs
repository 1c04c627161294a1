//! The network: TLS sessions, tunnels, sockets, network namespaces. The only user of rustls.
//!
//! * [`tls`]: mutual TLS as a sans-IO session, configurations, verification of the peer.
//! * [`tunnel`]: HBONE over TLS over TCP, shared by streams; worker-local. [`buffer`] is the pool of its buffers.
//! * [`budget`]: per-pod limits on sockets and queued bytes.
//! * [`passing`]: descriptors passed to another process. [`open_files`]: how many there may be.
//! * [`socket`], [`netns`], [`destroy`]: sockets inside pods, their namespaces, listing and destroying sockets.

pub mod budget;
pub mod buffer;
pub mod destroy;
mod netlink;
pub mod netns;
pub mod open_files;
pub mod passing;
pub mod socket;
pub mod system;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tls;
pub mod tunnel;
