//! The network of a waypoint that this node runs: a namespace, a cable to it, the routes there and back, and its listener.
//!
//! ```text
//! this node                                     its namespace
//! ADDRESS dev upwNUMBER  ---- upwNUMBER == eth0 ----  ADDRESS; default via 169.254.1.1, fe80::1 (any: none is resolved)
//!                                                listener at PORT
//! ```
//! What must hold: nothing of it outlives the processes that have it. It has no name and no pin: with the last descriptor and the
//! last process inside the kernel removes the namespace, and with it both devices and their routes.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener},
    os::fd::OwnedFd,
};

use underpass_core::provision::Instance;
use underpass_net::{netns::Netns, socket::waypoint_listener, system::SystemError};

/// The device inside.
const INSIDE: &str = "eth0";
/// A next hop that is never resolved, and that no route of this node leads to.
const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// The same of IPv6.
const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// The reason why a waypoint has no network.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The kernel refused.
    #[error(transparent)]
    System(#[from] SystemError),
    /// Nothing would arrive, and nothing return.
    #[error("this node forwards no packets between its devices: set sysctl {setting} to 1")]
    Forwarding {
        /// The setting.
        setting: &'static str,
    },
}

/// A namespace with its listener.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) netns: Netns,
    pub(super) listener: TcpListener,
}

impl Network {
    /// Makes it, in the place of what a process that is gone has left. Blocks.
    pub(super) fn make(instance: &Instance) -> Result<Self, Error> {
        let (node, device) = (Netns::own()?, device(instance));
        for ip in &instance.addresses {
            let setting = if ip.is_ipv4() { "net.ipv4.ip_forward" } else { "net.ipv6.conf.all.forwarding" };
            if node.sysctl(setting)? == "0" {
                return Err(Error::Forwarding { setting });
            }
        }
        if node.remove_device(&device)? {
            tracing::info!(waypoint = %instance.pod, device, "device of an earlier waypoint removed");
        }
        let netns = Netns::create()?;
        netns.set_up("lo")?;
        node.add_cable(&device, &netns, INSIDE)?;
        node.set_up(&device)?;
        netns.set_up(INSIDE)?;
        for ip in &instance.addresses {
            netns.add_address(INSIDE, *ip)?;
            netns.set_default_route(if ip.is_ipv4() { GATEWAY_V4 } else { GATEWAY_V6 }, INSIDE)?;
            node.set_host_route(*ip, &device)?;
        }
        let listener = waypoint_listener(&netns, instance.port)?;
        Ok(Self { netns, listener })
    }

    /// That of a predecessor.
    ///
    /// # Errors
    /// The first descriptor is no network namespace.
    pub(super) fn inherited(netns: OwnedFd, listener: TcpListener) -> Result<Self, SystemError> {
        Ok(Self { netns: Netns::from_fd(netns)?, listener })
    }
}

/// Names of devices have 15 characters at most.
fn device(instance: &Instance) -> String {
    format!("upw{:012x}", instance.number & 0xffff_ffff_ffff)
}

#[cfg(test)]
mod tests {
    use underpass_core::{Few, testing::name};

    use super::*;

    #[test]
    fn names_of_devices() {
        let instance = |number| Instance {
            node: "n".into(),
            pod: name("shop/w"),
            number,
            gateway: name("shop/w"),
            class: "istio-waypoint".into(),
            port: 15008,
            addresses: Few::new(),
        };
        for (number, expect) in
            [(0, "upw000000000000"), (u64::MAX, "upwffffffffffff"), (1 << 48 | 10, "upw00000000000a")]
        {
            let name = device(&instance(number));
            assert_eq!((name.as_str(), name.len()), (expect, 15));
        }
    }
}
