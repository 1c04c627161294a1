//! connect(): the decision by destination, cgroup, mark and device.

use super::*;

fn socket(pod: Cookie, destination: &str) -> Connecting {
    Connecting {
        pod,
        cgroup: SHELL,
        destination: ip(destination),
        port: Port::from(80),
        kind: TYPE_STREAM,
        protocol: PROTOCOL_TCP,
        mark: 0,
        device: 0,
        known: true,
    }
}

/// The decision and everything that is written with it.
fn check(socket: &Connecting, kind: Kind, mark: u32, counter: Counter) {
    let mut tables = tables();
    let flow = Flow { pod: socket.pod, destination: socket.destination, port: socket.port, kind };
    let expected = Decision::Write(Written { flow, mark, permit: kind != Kind::DENIED, counter });
    assert_eq!(tables.connect(socket), expected, "{socket:?}");
    assert_eq!(tables.count(counter), 1);
}

fn ignored(socket: &Connecting) {
    assert_eq!(tables().connect(socket), Decision::Ignore, "{socket:?}");
}

#[test]
fn by_destination() {
    let out = Marks::DEFAULT.outbound();
    let check = |destination, kind, mark, counter| check(&socket(POD, destination), kind, mark, counter);
    for itself in ["10.0.0.11", "fd00::11", "10.0.0.111", "fe80::11", "127.0.0.1", "::1", "0.0.0.0", "::"] {
        check(itself, Kind::LOCAL, 0, Counter::ConnectLocal);
    }
    for mapped in ["::ffff:10.0.0.11", "::ffff:127.0.0.1", "::ffff:0.0.0.0"] {
        check(mapped, Kind::LOCAL, 0, Counter::ConnectLocal);
    }
    for mesh in ["10.0.0.12", "fd00::12", "10.96.0.1", "fd96::1", "::ffff:10.96.0.1"] {
        check(mesh, Kind::CAPTURED, out, Counter::ConnectCaptured);
    }
    for outside in ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"] {
        check(outside, Kind::LEAVE, 0, Counter::ConnectLeave);
    }
    check("10.9.9.9", Kind::DENIED, 0, Counter::ConnectRefused);
    check("::ffff:10.9.9.9", Kind::DENIED, 0, Counter::ConnectRefused);
}

#[test]
fn a_neighbours_address_is_not_the_pods_own() {
    check(&socket(OTHER_POD, "10.0.0.111"), Kind::LEAVE, 0, Counter::ConnectLeave);
    check(&socket(OTHER_POD, "10.0.0.11"), Kind::CAPTURED, Marks::DEFAULT.outbound(), Counter::ConnectCaptured);
}

#[test]
fn the_agent_is_its_exact_cgroup_in_every_phase() {
    for (pod, destination) in [(POD, "10.0.0.12"), (POD, "10.0.0.11"), (POD, "10.9.9.9"), (RELEASING, "10.0.0.14")] {
        let agent = Connecting { cgroup: AGENT, mark: 0x0200_0007, device: 1, ..socket(pod, destination) };
        check(&agent, Kind::AGENT, 0x0200_0007, Counter::ConnectAgent);
    }
    ignored(&Connecting { cgroup: AGENT, known: false, ..socket(STRANGER, "10.0.0.12") });
}

#[test]
fn marks_of_the_application_survive_ours_do_not() {
    let both = Connecting { mark: 0x0300_0005, ..socket(POD, "10.0.0.12") };
    check(&both, Kind::CAPTURED, 0x0100_0005, Counter::ConnectCaptured);
    let both = Connecting { mark: 0x0300_0005, ..socket(POD, "192.0.2.1") };
    check(&both, Kind::LEAVE, 5, Counter::ConnectLeave);
    let both = Connecting { mark: 0x0300_0005, ..socket(POD, "127.0.0.1") };
    check(&both, Kind::LOCAL, 5, Counter::ConnectLocal);
}

#[test]
fn bound_to_a_device_only_capture_is_refused() {
    let bound = |destination| Connecting { device: ETH, ..socket(POD, destination) };
    check(&bound("10.0.0.12"), Kind::DENIED, 0, Counter::ConnectBoundDevice);
    check(&bound("10.9.9.9"), Kind::DENIED, 0, Counter::ConnectRefused);
    check(&bound("192.0.2.1"), Kind::LEAVE, 0, Counter::ConnectLeave);
    check(&bound("10.0.0.11"), Kind::LOCAL, 0, Counter::ConnectLocal);
}

#[test]
fn only_tcp_stream_sockets_are_decided() {
    ignored(&Connecting { kind: TYPE_RAW, ..socket(POD, "192.0.2.1") });
    ignored(&Connecting { kind: TYPE_DGRAM, protocol: PROTOCOL_UDP, ..socket(POD, "10.0.0.12") });
    ignored(&Connecting { protocol: 132, ..socket(POD, "10.0.0.12") });
    ignored(&Connecting { protocol: PROTOCOL_MPTCP, ..socket(POD, "10.0.0.12") });
}

#[test]
fn outside_the_mesh_nothing_is_written() {
    ignored(&Connecting { known: false, mark: 0x0300_0000, ..socket(STRANGER, "10.0.0.12") });
    check(&Connecting { known: false, ..socket(POD, "192.0.2.1") }, Kind::LEAVE, 0, Counter::ConnectLeave);
}

#[test]
fn a_released_pods_socket_loses_what_was_decided() {
    let captured_once = Connecting { mark: 0x0100_0005, ..socket(RELEASED, "10.0.0.12") };
    check(&captured_once, Kind::LEAVE, 5, Counter::ConnectLeave);
    for destination in ["10.0.0.12", "10.9.9.9", "127.0.0.1"] {
        check(
            &Connecting { mark: 0x0100_0005, ..socket(RELEASING, destination) },
            Kind::LEAVE,
            5,
            Counter::ConnectLeave,
        );
    }
}
