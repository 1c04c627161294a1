//! A namespace that this process makes, and the cable between it and another one: a pair of devices, with addresses and routes.
//! Its own file because these are the only devices that are ever made.
//!
//! Both ends have one hardware address and resolve none (`NOARP`): what leaves by one arrives at the other for it, with any next
//! hop. So no neighbour has to be answered for or kept.
//!
//! What must hold: nothing here has a name but the device in the namespace that stays. The namespace goes with the last descriptor
//! of it and the last process in it, and both devices with the namespace.

use std::{io, net::IpAddr, os::fd::AsRawFd as _};

use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};

use super::{Family, Netns, failed as namespace_failed};
use crate::{
    netlink::{Request, nested},
    system::SystemError,
};

// linux/rtnetlink.h
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const TABLE_MAIN: u8 = 254;
const ORIGIN_STATIC: u8 = 4;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const TYPE_UNICAST: u8 = 1;
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_DEVICE: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
/// RTNH_F_ONLINK: the gateway is on this link, in spite of the routes.
const ON_LINK: u32 = 4;
// linux/if_link.h
const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_INFO: u16 = 18;
const LINK_NAMESPACE_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
// linux/veth.h
const VETH_PEER: u16 = 1;
// linux/if.h
const UP: u32 = 0x1;
const NO_ARP: u32 = 0x80;
// linux/if_addr.h
const ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
/// IFA_F_NODAD: it is used at once.
const NO_DETECTION: u8 = 0x2;

/// The hardware address of both ends: locally administered (IEEE 802, 8.4), and seen at no other device.
const HARDWARE: [u8; 6] = [2, 0, 0, 0, 0, 1];

impl Netns {
    /// A namespace of its own, without a name: it has `lo`, which is down, and nothing else.
    pub fn create() -> Result<Self, SystemError> {
        let made = std::thread::scope(|scope| {
            let inside = || -> Result<Self, SystemError> {
                unshare(CloneFlags::CLONE_NEWNET).map_err(|e| namespace_failed("make a", "of its own", e.into()))?;
                Self::own()
            };
            std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, inside).map(|thread| thread.join())
        });
        match made.map_err(|source| namespace_failed("make a", "of its own", source))? {
            Ok(made) => made,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Lays a cable from this namespace to another one: a device here, and one there. Neither is up.
    pub fn add_cable(&self, device: &str, there: &Self, device_there: &str) -> Result<(), SystemError> {
        let namespace = there.file.as_raw_fd().to_ne_bytes();
        let peer = nested(
            link(0, 0),
            &[(LINK_NAME, &text(device_there)), (LINK_ADDRESS, &HARDWARE), (LINK_NAMESPACE_FD, &namespace)],
        );
        let data = nested(Vec::new(), &[(VETH_PEER, &peer)]);
        let info = nested(Vec::new(), &[(INFO_KIND, b"veth"), (INFO_DATA, &data)]);
        let request = Request::new(NEW_LINK, Request::CREATE | Request::EXCLUSIVE, &link(0, 0))
            .attribute(LINK_NAME, &text(device))
            .attribute(LINK_ADDRESS, &HARDWARE)
            .attribute(LINK_INFO, &info);
        self.route(request, &[]).map(drop).map_err(failed("add device", device))
    }

    /// Removes a device, and the other end of its cable; false where there is none of this name.
    pub fn remove_device(&self, device: &str) -> Result<bool, SystemError> {
        let request = Request::new(DELETE_LINK, 0, &link(0, 0)).attribute(LINK_NAME, &text(device));
        self.route(request, &[libc::ENODEV]).map_err(failed("remove device", device))
    }

    /// Takes a device into use; the end of a cable resolves no addresses.
    pub fn set_up(&self, device: &str) -> Result<(), SystemError> {
        let flags = if device == "lo" { UP } else { UP | NO_ARP };
        let up = |index| Request::new(NEW_LINK, 0, &link(index, flags));
        self.on_device(device, "take into use device", up)
    }

    /// Gives a device an address, of it alone, that is used at once.
    pub fn add_address(&self, device: &str, address: IpAddr) -> Result<(), SystemError> {
        let octets = octets(address);
        let add = |index: u32| {
            let prefix = prefix_of(address);
            let mut header = vec![Family::of(address).number(), prefix, NO_DETECTION, SCOPE_UNIVERSE];
            header.extend(index.to_ne_bytes());
            Request::new(NEW_ADDRESS, Request::CREATE | Request::REPLACE, &header)
                .attribute(ADDRESS_LOCAL, &octets)
                .attribute(ADDRESS, &octets)
        };
        self.on_device(device, "add an address to device", add)
    }

    /// Routes one address to a device, in the place of an earlier route to it.
    pub fn set_host_route(&self, address: IpAddr, device: &str) -> Result<(), SystemError> {
        let set = |index: u32| {
            let header = route_header(Family::of(address), prefix_of(address), SCOPE_LINK, 0);
            Request::new(NEW_ROUTE, Request::CREATE | Request::REPLACE, &header)
                .attribute(ROUTE_DESTINATION, &octets(address))
                .attribute(ROUTE_DEVICE, &index.to_ne_bytes())
        };
        self.on_device(device, "set a route by device", set)
    }

    /// Routes everything else of the gateway's family to a device, behind which the gateway is.
    pub fn set_default_route(&self, gateway: IpAddr, device: &str) -> Result<(), SystemError> {
        let set = |index: u32| {
            let header = route_header(Family::of(gateway), 0, SCOPE_UNIVERSE, ON_LINK);
            Request::new(NEW_ROUTE, Request::CREATE | Request::REPLACE, &header)
                .attribute(ROUTE_GATEWAY, &octets(gateway))
                .attribute(ROUTE_DEVICE, &index.to_ne_bytes())
        };
        self.on_device(device, "set the default route by device", set)
    }

    fn on_device(
        &self,
        device: &str,
        operation: &'static str,
        request: impl FnOnce(u32) -> Request,
    ) -> Result<(), SystemError> {
        let index = self.enter_here(|| if_nametoindex(device))?;
        let sent = index.map_err(io::Error::from).and_then(|index| self.route(request(index), &[]));
        sent.map(drop).map_err(failed(operation, device))
    }
}

/// `struct ifinfomsg`, with these flags set.
fn link(index: u32, flags: u32) -> Vec<u8> {
    let mut header = vec![0; 4];
    for word in [index, flags, flags] {
        header.extend(word.to_ne_bytes());
    }
    header
}

/// `struct rtmsg` of a route in the main table.
fn route_header(family: Family, prefix: u8, scope: u8, flags: u32) -> Vec<u8> {
    let mut header = vec![family.number(), prefix, 0, 0, TABLE_MAIN, ORIGIN_STATIC, scope, TYPE_UNICAST];
    header.extend(flags.to_ne_bytes());
    header
}

const fn prefix_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => ip.octets().into(),
        IpAddr::V6(ip) => ip.octets().into(),
    }
}

/// With the NUL that ends it.
fn text(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

fn failed(operation: &'static str, object: &str) -> impl FnOnce(io::Error) -> SystemError {
    move |source| SystemError::Netlink { operation, object: object.to_owned(), source }
}
