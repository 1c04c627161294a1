//! Notifications about the addresses of a namespace. Its own file because it is the one thing about a namespace that
//! happens by itself.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use super::Netns;
use crate::{
    netlink::{Protocol, Socket},
    system::SystemError,
};

/// RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR (linux/rtnetlink.h): devices come and go with their addresses.
const GROUPS: u32 = 0x1 | 0x10 | 0x100;

/// A watch of the addresses and devices of a namespace. Its descriptor becomes readable when they may have changed.
#[derive(Debug)]
pub struct AddressWatch {
    socket: Socket,
}

impl AddressWatch {
    /// A watch of the changes from now on.
    pub fn new(netns: &Netns) -> Result<Self, SystemError> {
        let opened = netns.enter_here(|| Socket::open(Protocol::Route, GROUPS))?;
        let socket = opened.map_err(|source| SystemError::Netlink {
            operation: "watch the addresses of",
            object: netns.cookie().to_string(),
            source,
        })?;
        Ok(Self { socket })
    }

    /// True if anything changed since the last call. Never blocks.
    pub fn changed(&self) -> io::Result<bool> {
        self.socket.drain()
    }
}

impl AsFd for AddressWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
