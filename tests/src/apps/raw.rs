//! SYNs that no TCP socket sent: from raw sockets with or without a header of their own, fragmented, behind extension
//! headers. What a process with NET_RAW may try to get past a capture that looks at connect().

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Result, bail};
use nix::sys::socket::{MsgFlags, SockaddrStorage, connect, send, sendto};
use serde::{Deserialize, Serialize};

use crate::testbed::sys;

/// Protocol numbers (IANA).
const TCP: u8 = 6;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// `IPPROTO_RAW`: packets bring their own header.
const OWN_HEADER: i32 = 255;
/// A destination options header of 8 bytes with nothing but padding (RFC 8200, 4.2); the next header comes first.
const PADDING: [u8; 7] = [0, 1, 4, 0, 0, 0, 0];

/// The payload of a SYN of [`Dress::FragmentedData`]: zeros, which change nothing in a checksum but its length.
const DATA: [u8; 12] = [0; 12];

/// The form of the SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dress {
    /// One packet with its own IP header.
    Whole,
    /// A socket of protocol TCP: the kernel writes the IP header.
    KernelHeader,
    /// The same by a socket that was connected before: raw, and in other respects like a TCP socket.
    ConnectedKernelHeader,
    /// As `Whole` by a socket that was connected before.
    Connected,
    /// In fragments: the first has 8 bytes of TCP, so no flags. (An IPv6 destination refuses that, RFC 8200, 4.5.)
    Fragments,
    /// In fragments: the first has the whole TCP header, the second the rest of what the SYN carries.
    FragmentedData,
    /// Behind one destination options header (IPv6).
    Options,
    /// Behind eight of them (IPv6).
    ManyOptions,
    /// A first fragment with nothing but options, TCP in the second (IPv6).
    FragmentedOptions,
}

impl Dress {
    fn has_kernel_header(self) -> bool {
        matches!(self, Self::KernelHeader | Self::ConnectedKernelHeader)
    }

    fn is_connected(self) -> bool {
        matches!(self, Self::Connected | Self::ConnectedKernelHeader)
    }
}

/// A SYN to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Syn {
    /// Source, true or not.
    pub from: SocketAddr,
    /// Destination.
    pub to: SocketAddr,
    /// How.
    pub dress: Dress,
}

/// Sends it; the errno of each packet, 0 for one that left the socket. For [`Site::act`](crate::testbed::Site::act).
pub fn send_syn(syn: Syn) -> Result<Vec<i32>> {
    let protocol = if syn.dress.has_kernel_header() { i32::from(TCP) } else { OWN_HEADER };
    let family = if syn.to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    send_by(&sys::raw_socket(family, protocol)?, syn)
}

/// The same by a socket that is there already, which may be older than a capture.
pub fn send_by(socket: &OwnedFd, syn: Syn) -> Result<Vec<i32>> {
    let carried = if syn.dress == Dress::FragmentedData { DATA.len() } else { 0 };
    let segment = tcp_syn(syn.from, syn.to, carried as u8);
    let packets = match (syn.from.ip(), syn.to.ip()) {
        _ if syn.dress.has_kernel_header() => vec![segment.to_vec()],
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4_packets(from, to, &segment, syn)?,
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6_packets(from, to, &segment, syn)?,
        _ => bail!("two families"),
    };
    let target = SockaddrStorage::from(SocketAddr::new(syn.to.ip(), 0));
    if syn.dress.is_connected() {
        connect(socket.as_raw_fd(), &target)?;
    }
    let sent = packets.iter().map(|packet| {
        let result = if syn.dress.is_connected() {
            send(socket.as_raw_fd(), packet, MsgFlags::empty())
        } else {
            sendto(socket.as_raw_fd(), packet, &target, MsgFlags::empty())
        };
        result.map_or_else(|e| e as i32, |_| 0)
    });
    Ok(sent.collect())
}

/// An ICMP echo request; true when it was answered. What must still work.
pub fn ping(to: Ipv4Addr) -> Result<bool> {
    let socket = std::net::UdpSocket::from(sys::raw_socket(libc::AF_INET, libc::IPPROTO_ICMP)?);
    socket.set_read_timeout(Some(super::socket::PATIENCE * crate::testbed::wait::slowness()))?;
    let mut request = [8, 0, 0, 0, 0x75, 0x70, 0, 1];
    let sum = checksum(&[&request]).to_be_bytes();
    request[2..4].copy_from_slice(&sum);
    socket.send_to(&request, SocketAddr::new(to.into(), 0))?;
    let mut buffer = [0; 256];
    loop {
        match socket.recv_from(&mut buffer) {
            // Behind a header of 20 bytes: type 0 is the answer, with our identifier.
            Ok((n, from)) if n >= 28 && from.ip() == to && buffer[20] == 0 && buffer[24..26] == [0x75, 0x70] => {
                return Ok(true);
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e.into()),
        }
    }
}

/// The header of a SYN (RFC 9293, 3.1) that carries so many zeros, with its checksum.
fn tcp_syn(from: SocketAddr, to: SocketAddr, carried: u8) -> [u8; 20] {
    let mut segment = [0; 20];
    segment[0..2].copy_from_slice(&from.port().to_be_bytes());
    segment[2..4].copy_from_slice(&to.port().to_be_bytes());
    segment[7] = 1; // sequence number
    segment[12] = 5 << 4; // header of five words
    segment[13] = 0x02; // SYN
    segment[14..16].copy_from_slice(&1000_u16.to_be_bytes());
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    // Both families' pseudo headers sum up to the same.
    let sum = checksum(&[&octets(from.ip()), &octets(to.ip()), &[0, TCP, 0, 20 + carried], &segment]);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// The Internet checksum (RFC 1071) of pieces of even length.
fn checksum(pieces: &[&[u8]]) -> u16 {
    let words = pieces.iter().flat_map(|p| p.chunks_exact(2)).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let sum = words.sum::<u32>();
    let folded = (sum >> 16) + (sum & 0xffff);
    !((folded + (folded >> 16)) as u16)
}

fn ipv4_packets(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8; 20], syn: Syn) -> Result<Vec<Vec<u8>>> {
    // Fragments of different SYNs never belong together.
    let (dress, id) = (syn.dress, syn.to.port().to_be_bytes());
    let packet = |content: &[u8], offset: u16, more: bool| {
        let fragment = (if more { 0x2000 } else { 0 } | (offset / 8)).to_be_bytes();
        // Length and checksum are the kernel's to fill in (raw(7)).
        let header = [0x45, 0, 0, 0, id[0], id[1], fragment[0], fragment[1], 64, TCP, 0, 0];
        [&header[..], &from.octets(), &to.octets(), content].concat()
    };
    Ok(match dress {
        Dress::Whole | Dress::Connected => vec![packet(segment, 0, false)],
        Dress::Fragments => vec![packet(&segment[..8], 0, true), packet(&segment[8..], 8, false)],
        Dress::FragmentedData => {
            vec![packet(&[segment, &DATA[..4]].concat(), 0, true), packet(&DATA[4..], 24, false)]
        }
        _ => bail!("{dress:?} is IPv6's"),
    })
}

fn ipv6_packets(from: Ipv6Addr, to: Ipv6Addr, segment: &[u8; 20], syn: Syn) -> Result<Vec<Vec<u8>>> {
    // Fragments of different SYNs never belong together.
    let (dress, id) = (syn.dress, syn.to.port().to_be_bytes());
    let packet = |next: u8, content: &[u8]| {
        let length = (content.len() as u16).to_be_bytes();
        [&[0x60, 0, 0, 0, length[0], length[1], next, 64][..], &from.octets(), &to.octets(), content].concat()
    };
    let options = |next: u8| [&[next][..], &PADDING].concat();
    let fragment = |next: u8, offset: u16, more: bool| {
        let [high, low] = (offset | u16::from(more)).to_be_bytes();
        [next, 0, high, low, 0, 0, id[0], id[1]]
    };
    Ok(match dress {
        Dress::Whole | Dress::Connected => vec![packet(TCP, segment)],
        Dress::Fragments => vec![
            packet(FRAGMENT, &[&fragment(TCP, 0, true)[..], &segment[..8]].concat()),
            packet(FRAGMENT, &[&fragment(TCP, 8, false)[..], &segment[8..]].concat()),
        ],
        Dress::FragmentedData => vec![
            packet(FRAGMENT, &[&fragment(TCP, 0, true)[..], segment, &DATA[..4]].concat()),
            packet(FRAGMENT, &[&fragment(TCP, 24, false)[..], &DATA[4..]].concat()),
        ],
        Dress::Options => vec![packet(DESTINATION_OPTIONS, &[&options(TCP)[..], segment].concat())],
        Dress::ManyOptions => {
            let chain = [options(DESTINATION_OPTIONS).repeat(7), options(TCP), segment.to_vec()].concat();
            vec![packet(DESTINATION_OPTIONS, &chain)]
        }
        Dress::FragmentedOptions => vec![
            packet(FRAGMENT, &[&fragment(DESTINATION_OPTIONS, 0, true)[..], &options(TCP)].concat()),
            packet(FRAGMENT, &[&fragment(DESTINATION_OPTIONS, 8, false)[..], segment].concat()),
        ],
        Dress::KernelHeader | Dress::ConnectedKernelHeader => bail!("{dress:?} has no packets of its own"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_cancel_out() {
        let (from, to) = ("10.0.0.1:5555".parse().expect("address"), "10.0.0.2:80".parse().expect("address"));
        let segment = tcp_syn(from, to, 0);
        // With its checksum in place the sum over everything is zero.
        assert_eq!(checksum(&[&[10, 0, 0, 1], &[10, 0, 0, 2], &[0, TCP, 0, 20], &segment]), 0);
    }
}
