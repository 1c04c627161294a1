//! A full table of the mesh: addresses without an entry are captured.

use super::*;
use crate::maps::ANY_OTHER;

/// A table that has no room for every address leaves none alone that it does not know; what it knows is as before.
#[test]
fn what_a_full_table_does_not_know_is_captured() {
    let (whole, mut full) = (tables(), tables());
    full.apply(&[Op::SetDestination(ANY_OTHER, Destination::TUNNEL)]).expect("room");
    let check = |to: &str, device, expected: [Kind; 2]| {
        let socket = Connecting {
            pod: POD,
            cgroup: SHELL,
            destination: ip(to),
            port: Port::from(80),
            kind: TYPE_STREAM,
            protocol: PROTOCOL_TCP,
            mark: 0,
            device,
            known: false,
        };
        let kinds =
            [&whole, &full].map(|tables| match super::super::connect::connect(tables, Marks::DEFAULT, &socket) {
                Decision::Write(written) => {
                    let known = crate::decide::Tables::destination(tables, &socket.destination).is_some();
                    let unlisted = written.flow.kind == Kind::CAPTURED && !known;
                    assert_eq!(written.counter == Counter::ConnectUnlisted, unlisted, "{to}");
                    written.flow.kind
                }
                Decision::Ignore => Kind::NONE,
            });
        assert_eq!(kinds, expected, "{to}");
    };
    check("192.0.2.1", 0, [Kind::LEAVE, Kind::CAPTURED]);
    check("2001:db8::1", 0, [Kind::LEAVE, Kind::CAPTURED]);
    check("192.0.2.1", ETH, [Kind::LEAVE, Kind::DENIED]);
    for (to, kind) in [
        ("10.0.0.12", Kind::CAPTURED),
        ("10.9.9.9", Kind::DENIED),
        ("127.0.0.1", Kind::LOCAL),
        ("::", Kind::LOCAL),
        ("10.0.0.111", Kind::LOCAL),
    ] {
        check(to, 0, [kind; 2]);
    }
}

/// A connection that was left alone, and whose SYN comes when the table is full, may be one into the mesh.
#[test]
fn what_was_left_alone_before_does_not_go_out_after() {
    let mut tables = tables();
    let tuple = Tuple {
        source: ip("10.0.0.11"),
        destination: ip("192.0.2.1"),
        source_port: Port::from(40_000),
        destination_port: Port::from(80),
        over_lo: 0,
    };
    let left = Flow { destination: tuple.destination, port: Port::from(80), ..Flow::bare(POD, Kind::LEAVE) };
    let opening = Opening { pod: POD, tuple, flow: Some(left) };
    assert_eq!(tables.before_syn(&opening), BeforeSyn::Go);
    tables.apply(&[Op::SetDestination(ANY_OTHER, Destination::TUNNEL)]).expect("room");
    assert!(matches!(tables.before_syn(&opening), BeforeSyn::Deny(_, Counter::SynRewritten)));
}
