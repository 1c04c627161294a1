//! Ethernet frames as far as tests look into them: addresses, ports, TCP flags, payload. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// EtherTypes (IEEE 802 numbers, IANA).
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Protocol numbers (IANA).
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A TCP segment or UDP datagram within a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Source.
    pub source: SocketAddr,
    /// Destination.
    pub destination: SocketAddr,
    /// TCP; UDP otherwise.
    pub is_tcp: bool,
    /// TCP: sequence number.
    pub sequence: u32,
    /// TCP: flags (RFC 9293, 3.1).
    pub flags: u8,
    /// Its payload.
    pub payload: &'a [u8],
}

impl Segment<'_> {
    /// A SYN without ACK: the first packet of a connection.
    #[must_use]
    pub fn is_opening(&self) -> bool {
        self.is_tcp && self.flags & 0x12 == 0x02
    }

    /// RST.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        self.is_tcp && self.flags & 0x04 != 0
    }

    /// Either end is this port.
    #[must_use]
    pub fn has_port(&self, port: u16) -> bool {
        self.source.port() == port || self.destination.port() == port
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// The TCP segment or UDP datagram of an Ethernet frame: none for another protocol, a later fragment, or what is cut
/// short before its ports.
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Segment<'_>> {
    let packet = frame.get(14..)?;
    let (source, destination, protocol, content): (IpAddr, IpAddr, u8, &[u8]) =
        match u16::from_be_bytes(number(frame, 12)?) {
            IPV4 => parse_ipv4(packet)?,
            IPV6 => parse_ipv6(packet)?,
            _ => return None,
        };
    let ports = (u16::from_be_bytes(number(content, 0)?), u16::from_be_bytes(number(content, 2)?));
    let (source, destination) = (SocketAddr::new(source, ports.0), SocketAddr::new(destination, ports.1));
    match protocol {
        TCP => {
            let header = usize::from(*content.get(12)? >> 4) * 4;
            Some(Segment {
                source,
                destination,
                is_tcp: true,
                sequence: u32::from_be_bytes(number(content, 4)?),
                flags: *content.get(13)?,
                payload: content.get(header..)?,
            })
        }
        UDP => {
            let payload = content.get(8..)?;
            Some(Segment { source, destination, is_tcp: false, sequence: 0, flags: 0, payload })
        }
        _ => None,
    }
}

type Parsed<'a> = (IpAddr, IpAddr, u8, &'a [u8]);

fn parse_ipv4(packet: &[u8]) -> Option<Parsed<'_>> {
    let header = usize::from(*packet.first()? & 0x0f) * 4;
    let is_later_fragment = u16::from_be_bytes(number(packet, 6)?) & 0x1fff != 0;
    let total = usize::from(u16::from_be_bytes(number(packet, 2)?));
    // A frame that the kernel did not segment yet may be longer than 16 bits can say: then it says 0.
    let end = if total == 0 { packet.len() } else { total.min(packet.len()) };
    let source = Ipv4Addr::from(number::<4>(packet, 12)?);
    let destination = Ipv4Addr::from(number::<4>(packet, 16)?);
    let content = packet.get(header..end)?;
    (!is_later_fragment).then_some((source.into(), destination.into(), *packet.get(9)?, content))
}

fn parse_ipv6(packet: &[u8]) -> Option<Parsed<'_>> {
    let source = Ipv6Addr::from(number::<16>(packet, 8)?);
    let destination = Ipv6Addr::from(number::<16>(packet, 24)?);
    let length = usize::from(u16::from_be_bytes(number(packet, 4)?));
    let end = if length == 0 { packet.len() } else { (40 + length).min(packet.len()) };
    let (mut next, mut at) = (*packet.get(6)?, 40);
    loop {
        let length = match next {
            // Hop-by-hop, routing, destination options (RFC 8200, 4.3, 4.4, 4.6).
            0 | 43 | 60 => (usize::from(*packet.get(at + 1)?) + 1) * 8,
            // Fragment (4.5); later ones have no ports.
            44 if u16::from_be_bytes(number(packet, at + 2)?) & 0xfff8 == 0 => 8,
            44 => return None,
            _ => return Some((source.into(), destination.into(), next, packet.get(at..end)?)),
        };
        next = *packet.get(at)?;
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(payload: &[u8]) -> Vec<u8> {
        let ports_and_sequence = [0x1f, 0x90, 0x3a, 0xa0, 0, 0, 0, 9, 0, 0, 0, 0];
        [&ports_and_sequence[..], &[0x50, 0x02, 0, 0, 0, 0, 0, 0], payload].concat()
    }

    fn ipv4(content: &[u8], fragment: u16) -> Vec<u8> {
        let total = (20 + content.len() as u16).to_be_bytes();
        let [high, low] = fragment.to_be_bytes();
        let header = [0x45, 0, total[0], total[1], 0, 0, high, low, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        [&[0; 12][..], &IPV4.to_be_bytes(), &header, content, b"padding"].concat()
    }

    fn ipv6(next: u8, content: &[u8]) -> Vec<u8> {
        let length = (content.len() as u16).to_be_bytes();
        let header = [&[0x60, 0, 0, 0, length[0], length[1], next, 64][..], &[1; 16], &[2; 16]].concat();
        [&[0; 12][..], &IPV6.to_be_bytes(), &header, content].concat()
    }

    #[test]
    fn segments_in_frames() {
        fn check(frame: &[u8], expected: Option<&[u8]>) {
            let parsed = parse(frame);
            assert_eq!(parsed.map(|s| s.payload), expected, "{parsed:?}");
            if let Some(s) = parsed {
                assert_eq!((s.source.port(), s.destination.port(), s.sequence), (8080, 15008, 9));
                assert!(s.is_opening() && s.has_port(15008) && !s.is_reset());
            }
            // However it is cut, there is no panic.
            for n in 0..frame.len() {
                let _ = parse(&frame[..n]);
            }
        }
        check(&ipv4(&tcp(b"hello"), 0), Some(b"hello"));
        check(&ipv4(&tcp(b"hello"), 0x2000), Some(b"hello"));
        check(&ipv4(&tcp(b"hello"), 1), None);
        check(&ipv6(TCP, &tcp(b"hello")), Some(b"hello"));
        check(&ipv6(60, &[&[TCP, 0, 1, 4, 0, 0, 0, 0][..], &tcp(b"x")].concat()), Some(b"x"));
        check(&ipv6(44, &[&[TCP, 0, 0, 1, 0, 0, 0, 7][..], &tcp(b"x")].concat()), Some(b"x"));
        check(&ipv6(44, &[&[TCP, 0, 0, 8, 0, 0, 0, 7][..], &tcp(b"x")].concat()), None);
        check(&[0; 60], None);
    }
}
