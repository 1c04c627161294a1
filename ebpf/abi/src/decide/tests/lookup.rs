//! Arrival: the receiver of a SYN.

use super::*;

fn packet(pod: Cookie, source: &str, destination: &str, interface: u32) -> Arriving {
    Arriving {
        pod,
        protocol: PROTOCOL_TCP,
        source: ip(source),
        destination: ip(destination),
        source_port: Port::from(40_000),
        destination_port: Port::from(8080),
        interface,
    }
}

fn check(packet: &Arriving, steer: Steer, passes: bool, counter: Option<Counter>) {
    let mut tables = tables();
    assert_eq!(tables.lookup(packet), (steer, passes), "{packet:?}");
    for each in Counter::ALL {
        assert_eq!(tables.count(*each), u64::from(Some(*each) == counter), "{}", each.name());
    }
}

#[test]
fn from_inside_to_inside_passes() {
    for (source, destination) in
        [("10.0.0.11", "10.0.0.11"), ("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "10.0.0.11"), ("10.0.0.111", "fe80::11")]
    {
        check(&packet(POD, source, destination, LOOPBACK_INTERFACE), Steer::Pass, true, None);
        check(&packet(POD, source, destination, ETH), Steer::Pass, true, None);
    }
}

#[test]
fn the_unspecified_source_is_refused() {
    for (source, destination) in
        [("::", "fd00::11"), ("::", "fe80::11"), ("::", "::1"), ("0.0.0.0", "10.0.0.11"), ("0.0.0.0", "127.0.0.1")]
    {
        for interface in [ETH, LOOPBACK_INTERFACE] {
            let packet = packet(POD, source, destination, interface);
            check(&packet, Steer::Stranger, false, Some(Counter::SteerStranger));
        }
    }
}

#[test]
fn captured_reaches_the_tunnel() {
    for destination in ["10.96.0.1", "10.0.0.12", "192.0.2.1"] {
        let packet = packet(POD, "10.0.0.11", destination, LOOPBACK_INTERFACE);
        check(&packet, Steer::Tunnel(Direction::OUTBOUND), true, Some(Counter::SteerOutbound));
    }
    // From an address that does not count for identity, or from another host's.
    for source in ["10.0.0.111", "127.0.0.1", "10.0.0.12", "192.0.2.7"] {
        let packet = packet(POD, source, "10.96.0.1", LOOPBACK_INTERFACE);
        check(&packet, Steer::Stranger, false, Some(Counter::SteerStranger));
    }
    check(
        &packet(POD, "192.0.2.7", "10.0.0.11", LOOPBACK_INTERFACE),
        Steer::Stranger,
        false,
        Some(Counter::SteerStranger),
    );
}

#[test]
fn from_outside_reaches_the_tunnel_at_any_address() {
    for (source, destination) in [
        ("192.0.2.7", "10.0.0.11"),
        ("10.0.0.12", "fd00::11"),
        ("192.0.2.7", "10.0.0.111"),
        ("fe80::7", "fe80::11"),
        ("192.0.2.7", "198.51.100.1"),
        ("10.0.0.11", "198.51.100.1"),
    ] {
        let packet = packet(POD, source, destination, ETH);
        check(&packet, Steer::Tunnel(Direction::INBOUND), true, Some(Counter::SteerInbound));
    }
}

#[test]
fn without_a_listener_nothing_passes() {
    let inbound = packet(OTHER_POD, "192.0.2.7", "10.0.0.12", ETH);
    check(&inbound, Steer::Tunnel(Direction::INBOUND), false, Some(Counter::SteerNoListener));
    let outbound = packet(OTHER_POD, "10.0.0.12", "10.96.0.1", LOOPBACK_INTERFACE);
    check(&outbound, Steer::Tunnel(Direction::OUTBOUND), false, Some(Counter::SteerNoListener));
}

#[test]
fn other_protocols_are_left_alone() {
    let udp = Arriving { protocol: PROTOCOL_UDP, ..packet(POD, "192.0.2.7", "10.0.0.11", ETH) };
    check(&udp, Steer::Pass, true, None);
}

/// The hand-off's exact 4-tuple, over lo, in the pod it was attested for: nothing beside it.
#[test]
fn an_attestation_is_exact() {
    let attested = packet(POD, "192.0.2.7", "10.0.0.11", LOOPBACK_INTERFACE);
    let tuple = Tuple {
        source: attested.source,
        destination: attested.destination,
        source_port: attested.source_port,
        destination_port: attested.destination_port,
        over_lo: 0,
    };
    let agent = Flow { pod: POD, destination: tuple.destination, port: tuple.destination_port, kind: Kind::AGENT };
    let check = |packet: &Arriving, steer, passes| {
        let mut tables = tables();
        tables.before_syn(&Opening { pod: POD, tuple, flow: Some(agent) });
        assert_eq!(tables.lookup(packet), (steer, passes), "{packet:?}");
    };
    check(&attested, Steer::Attested, true);
    check(&Arriving { interface: ETH, ..attested }, Steer::Tunnel(Direction::INBOUND), true);
    check(&Arriving { source: ip("192.0.2.8"), ..attested }, Steer::Stranger, false);
    check(&Arriving { source_port: Port::from(40_001), ..attested }, Steer::Stranger, false);
    check(&Arriving { destination_port: Port::from(8081), ..attested }, Steer::Stranger, false);
    check(&Arriving { destination: ip("fd00::11"), ..attested }, Steer::Stranger, false);
    check(&Arriving { pod: OTHER_POD, ..attested }, Steer::Stranger, false);
}
