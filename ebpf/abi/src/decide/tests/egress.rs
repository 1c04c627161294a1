//! Guard: packets that may open TCP, and those that may leave.

use super::*;

/// A packet as bytes, sent from cgroups given from the root down.
struct Bytes<'a>(&'a [u8], &'a [CgroupId]);

impl Leaving for Bytes<'_> {
    fn byte(&self, offset: u32) -> Option<u8> {
        self.0.get(offset as usize).copied()
    }

    fn ancestor(&self, level: u32) -> CgroupId {
        self.1.get(level as usize).copied().unwrap_or(CgroupId(0))
    }
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const RST: u8 = 0x04;

fn tcp(flags: u8) -> Vec<u8> {
    let mut header = vec![0; 20];
    header[13] = flags;
    header
}

fn v4(protocol: u8, fragment: u16, options: usize, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 20 + options];
    packet[0] = 0x40 | u8::try_from(5 + options / 4).expect("a short header");
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet[9] = protocol;
    packet.extend_from_slice(payload);
    packet
}

/// Extension headers as (type, length in bytes), then what the last one carries.
fn v6(headers: &[(u8, usize)], last: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 40];
    packet[0] = 0x60;
    packet[6] = headers.first().map_or(last, |(kind, _)| *kind);
    for (place, (kind, length)) in headers.iter().enumerate() {
        let then = headers.get(place + 1).map_or(last, |(next, _)| *next);
        let mut header = vec![0; *length];
        header[0] = then;
        header[1] = u8::try_from(if *kind == 51 { length / 4 - 2 } else { length / 8 - 1 }).expect("a short header");
        packet.extend(header);
    }
    packet.extend_from_slice(payload);
    packet
}

fn check_packet(packet: &[u8], expected: bool) {
    assert_eq!(may_open_tcp(&Bytes(packet, &[])), expected, "{packet:02x?}");
}

#[test]
fn ipv4_packets_that_may_open_tcp() {
    check_packet(&v4(6, 0, 0, &tcp(SYN)), true);
    check_packet(&v4(6, 0, 40, &tcp(SYN)), true);
    check_packet(&v4(6, 0x4000, 0, &tcp(SYN)), true); // don't fragment
    check_packet(&v4(6, 0, 0, &tcp(SYN | ACK)), false);
    check_packet(&v4(6, 0, 8, &tcp(RST)), false);
    check_packet(&v4(6, 0, 0, &tcp(ACK)), false);
    check_packet(&v4(6, 0x2000, 0, &tcp(ACK)), true); // more fragments
    check_packet(&v4(6, 1, 0, &tcp(ACK)), true); // not the first
    check_packet(&v4(6, 0x1f00, 0, &tcp(ACK)), true);
    check_packet(&v4(6, 0, 0, &tcp(SYN)[..13]), true); // cut off
    check_packet(&v4(17, 0, 0, &tcp(SYN)), false);
    check_packet(&v4(17, 0x2000, 0, &tcp(SYN)), false);
    check_packet(&v4(1, 0, 0, &[]), false);
    check_packet(&v4(1, 0, 0, &[])[..9], true);
    check_packet(&[], true);
    check_packet(&[0x00; 40], true);
    check_packet(&[0x50; 40], true);
}

#[test]
fn ipv6_packets_that_may_open_tcp() {
    check_packet(&v6(&[], 6, &tcp(SYN)), true);
    check_packet(&v6(&[], 6, &tcp(ACK)), false);
    check_packet(&v6(&[], 17, &tcp(SYN)), false);
    check_packet(&v6(&[], 58, &tcp(SYN)), false);
    for kind in [0, 43, 60, 135, 139, 140] {
        check_packet(&v6(&[(kind, 8)], 6, &tcp(SYN)), true);
        check_packet(&v6(&[(kind, 24)], 6, &tcp(SYN)), true);
        check_packet(&v6(&[(kind, 24)], 6, &tcp(ACK)), false);
        check_packet(&v6(&[(kind, 16)], 17, &tcp(SYN)), false);
    }
    check_packet(&v6(&[(51, 24)], 6, &tcp(SYN)), true);
    check_packet(&v6(&[(51, 16), (60, 8)], 6, &tcp(ACK)), false);
    check_packet(&v6(&[(60, 8); 5], 6, &tcp(SYN)), true);
    check_packet(&v6(&[(60, 8); 5], 6, &tcp(ACK)), false);
    check_packet(&v6(&[(60, 8); 6], 6, &tcp(ACK)), true); // too many to follow
    check_packet(&v6(&[(60, 8); 9], 17, &tcp(ACK)), true);
    check_packet(&v6(&[(44, 8)], 6, &tcp(ACK)), true); // a fragment of TCP
    check_packet(&v6(&[(44, 8), (60, 8)], 6, &tcp(ACK)), true); // of what cannot be told
    check_packet(&v6(&[(44, 8)], 17, &tcp(SYN)), false);
    check_packet(&v6(&[(44, 8)], 58, &tcp(SYN)), false);
    check_packet(&v6(&[(60, 8)], 6, &[])[..41], true);
    check_packet(&v6(&[], 6, &tcp(SYN))[..45], true);
}

proptest! {
    /// However the headers are chained, a SYN is never taken for something else, and other segments of TCP behind at
    /// most five headers never for a SYN.
    #[test]
    fn a_syn_is_found_behind_any_headers(
        headers in proptest::collection::vec(
            (prop_oneof![Just(0_u8), Just(43), Just(60), Just(135), Just(51)], 1_usize..8), 0..10,
        ),
        flags in any::<u8>(),
    ) {
        let headers: Vec<_> = headers.into_iter().map(|(kind, units)| (kind, units * 8 + if kind == 51 { 8 } else { 0 })).collect();
        let packet = v6(&headers, 6, &tcp(flags));
        let syn = flags & (SYN | ACK) == SYN;
        let followed = headers.len() < crate::limits::EXTENSION_HEADERS as usize;
        prop_assert_eq!(may_open_tcp(&Bytes(&packet, &[])), syn || !followed);
    }

    /// Any bytes at all have an answer, and a longer packet that starts with a SYN's bytes stays one.
    #[test]
    fn any_bytes_have_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..120), more in proptest::collection::vec(any::<u8>(), 0..40)) {
        let _ = may_open_tcp(&Bytes(&bytes, &[]));
        let mut packet = v4(6, 0, 0, &tcp(SYN));
        packet.extend_from_slice(&more);
        prop_assert!(may_open_tcp(&Bytes(&packet, &[])));
    }
}

fn tcp_socket(kind: Option<(Cookie, Kind)>, state: u32, device: u32) -> Sender {
    let flow = kind.map(|(pod, kind)| Flow::bare(pod, kind));
    Sender { kind: TYPE_STREAM, protocol: PROTOCOL_TCP, state, device, flow }
}

fn check(sender: &Sender, cgroups: &[CgroupId], packet: &[u8], expected: Option<Counter>) {
    let mut tables = tables();
    assert_eq!(tables.egress(sender, &Bytes(packet, cgroups)), expected, "{sender:?} {cgroups:?}");
    for counter in Counter::ALL {
        assert_eq!(tables.count(*counter), u64::from(Some(*counter) == expected), "{}", counter.name());
    }
}

#[test]
fn captured_leaves_by_lo_alone() {
    let check = |pod, kind, state, device, expected| {
        check(&tcp_socket(Some((pod, kind)), state, device), &[], &v4(6, 0, 0, &tcp(ACK)), expected);
    };
    for state in [STATE_ESTABLISHED, STATE_SYN_SENT, STATE_CLOSE] {
        for pod in [POD, RELEASING, RELEASED] {
            check(pod, Kind::CAPTURED, state, ETH, Some(Counter::GuardDevice));
        }
        for device in [ETH, LOOPBACK_INTERFACE] {
            check(POD, Kind::DENIED, state, device, Some(Counter::GuardDenied));
            for kind in [Kind::LOCAL, Kind::LEAVE, Kind::AGENT, Kind::PROBE] {
                check(POD, kind, state, device, None);
            }
        }
    }
    check(POD, Kind::CAPTURED, STATE_ESTABLISHED, LOOPBACK_INTERFACE, None);
    check(POD, Kind::CAPTURED, STATE_SYN_SENT, LOOPBACK_INTERFACE, None);
    check(OTHER_POD, Kind::CAPTURED, STATE_SYN_SENT, LOOPBACK_INTERFACE, Some(Counter::GuardNoListener));
    check(OTHER_POD, Kind::CAPTURED, STATE_ESTABLISHED, LOOPBACK_INTERFACE, None);
}

#[test]
fn a_syn_without_a_decision_does_not_leave_a_pod() {
    let syn = v4(6, 0, 0, &tcp(SYN));
    let inside = [CgroupId(1), CgroupId(2), POD_CGROUP, CgroupId(3)];
    let check = |sender: Sender, cgroups: &[CgroupId], expected| check(&sender, cgroups, &syn, expected);
    let stamped = Some((POD, Kind::NONE));
    check(tcp_socket(stamped, STATE_SYN_SENT, ETH), &[], Some(Counter::GuardUndecided));
    check(tcp_socket(stamped, STATE_SYN_SENT, LOOPBACK_INTERFACE), &[], None);
    check(tcp_socket(stamped, STATE_ESTABLISHED, ETH), &[], None);
    check(tcp_socket(Some((RELEASED, Kind::NONE)), STATE_SYN_SENT, ETH), &[], None);
    check(tcp_socket(None, STATE_SYN_SENT, ETH), &inside, Some(Counter::GuardUndecided));
    check(tcp_socket(None, STATE_SYN_SENT, ETH), &[], None);
    check(tcp_socket(None, STATE_ESTABLISHED, ETH), &inside, None);
}

#[test]
fn raw_packets_that_may_open_tcp_do_not_leave_a_pod() {
    let (syn, ping) = (v4(6, 0, 0, &tcp(SYN)), v4(1, 0, 0, &[8, 0]));
    let inside = [CgroupId(1), POD_CGROUP];
    let raw = |kind: Option<(Cookie, Kind)>, device| Sender { kind: TYPE_RAW, ..tcp_socket(kind, STATE_CLOSE, device) };
    let stamped = Some((POD, Kind::NONE));
    check(&raw(stamped, ETH), &[], &syn, Some(Counter::GuardRaw));
    check(&raw(stamped, ETH), &[], &ping, None);
    check(&raw(stamped, LOOPBACK_INTERFACE), &[], &syn, None);
    check(&raw(None, ETH), &inside, &syn, Some(Counter::GuardRaw));
    check(&raw(None, ETH), &inside, &ping, None);
    check(&raw(None, ETH), &[CgroupId(1), CgroupId(2)], &syn, None);
    check(&raw(None, ETH), &[CgroupId(1), RELEASED_CGROUP], &syn, None);
    check(&raw(Some((RELEASED, Kind::NONE)), ETH), &[], &syn, None);
    check(&raw(Some((RELEASED, Kind::NONE)), ETH), &inside, &syn, Some(Counter::GuardRaw));
    // A stream socket of another protocol is no TCP socket, with any decision about it.
    check(&Sender { protocol: 132, ..tcp_socket(stamped, STATE_SYN_SENT, ETH) }, &[], &syn, Some(Counter::GuardRaw));
    let datagram = Sender { kind: TYPE_DGRAM, protocol: PROTOCOL_UDP, ..tcp_socket(None, STATE_CLOSE, ETH) };
    check(&datagram, &inside, &syn, None);
}

#[test]
fn cgroups_are_searched_to_the_limit() {
    let syn = v4(6, 0, 0, &tcp(SYN));
    let nested = |depth: usize| {
        let mut cgroups: Vec<_> = (0..depth).map(|level| CgroupId(level as u64 + 1)).collect();
        cgroups.push(POD_CGROUP);
        cgroups
    };
    let limit = crate::limits::CGROUP_LEVELS as usize;
    check(&tcp_socket(None, STATE_SYN_SENT, ETH), &nested(1), &syn, Some(Counter::GuardUndecided));
    check(&tcp_socket(None, STATE_SYN_SENT, ETH), &nested(limit), &syn, Some(Counter::GuardUndecided));
    check(&tcp_socket(None, STATE_SYN_SENT, ETH), &nested(limit + 1), &syn, None);
}
