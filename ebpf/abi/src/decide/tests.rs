//! Every branch of every hook, over the tables in memory; and what holds for any input.

use std::net::IpAddr;

use proptest::prelude::*;

use super::connect::{Connecting, Created, Creating, Decision, Written};
use super::egress::{Leaving, Sender, may_open_tcp};
use super::lookup::{Arriving, Steer};
use super::tcp::{BeforeSyn, Opening};
use crate::addr::{Address, CgroupId, Cookie, Port};
use crate::flow::{
    Flow, Kind, LOOPBACK_INTERFACE, Marks, PROTOCOL_MPTCP, PROTOCOL_TCP, STATE_CLOSE, STATE_SYN_SENT, TYPE_DGRAM,
    TYPE_STREAM,
};
use crate::maps::{Attestation, Destination, Direction, ListenerKey, LocalKey, Locality, Map, Op, Phase, Pod, Tuple};
use crate::memory::Memory;
use crate::report::Counter;

const POD: Cookie = Cookie(11);
const OTHER_POD: Cookie = Cookie(12);
const RELEASED: Cookie = Cookie(13);
const RELEASING: Cookie = Cookie(14);
const STRANGER: Cookie = Cookie(99);
const AGENT: CgroupId = CgroupId(500);
const POD_CGROUP: CgroupId = CgroupId(600);
const RELEASED_CGROUP: CgroupId = CgroupId(601);
const SHELL: CgroupId = CgroupId(700);
const TYPE_RAW: u32 = 3;
const STATE_ESTABLISHED: u32 = 1;
const ETH: u32 = 2;
const PROTOCOL_UDP: u32 = 17;

fn ip(text: &str) -> Address {
    text.parse::<IpAddr>().expect("an address").into()
}

/// Two pods, one that is being released, one that was; a service, a refused address.
fn tables() -> Memory {
    let pod = |v4: &str, v6: &str, phase| Pod::new(ip(v4), ip(v6), phase);
    let local = |pod, address: &str, locality| Op::SetLocal(LocalKey { pod, address: ip(address) }, locality);
    let mut ops = vec![
        Op::SetAgent(AGENT),
        Op::SetPod(POD, pod("10.0.0.11", "fd00::11", Phase::ENROLLED)),
        Op::SetPod(OTHER_POD, pod("10.0.0.12", "fd00::12", Phase::ENROLLED)),
        Op::SetPod(RELEASING, pod("10.0.0.14", "fd00::14", Phase::RELEASING)),
        Op::SetPodCgroup(POD_CGROUP, POD),
        Op::SetPodCgroup(RELEASED_CGROUP, RELEASED),
        local(POD, "10.0.0.11", Locality::POD),
        local(POD, "fd00::11", Locality::POD),
        local(POD, "10.0.0.111", Locality::OTHER),
        local(POD, "fe80::11", Locality::OTHER),
        local(OTHER_POD, "10.0.0.12", Locality::POD),
        local(OTHER_POD, "fd00::12", Locality::POD),
        local(RELEASING, "10.0.0.14", Locality::POD),
        Op::SetDestination(ip("10.9.9.9"), Destination::REFUSE),
    ];
    for address in ["10.0.0.11", "fd00::11", "10.0.0.12", "fd00::12", "10.0.0.14", "10.96.0.1", "fd96::1"] {
        ops.push(Op::SetDestination(ip(address), Destination::TUNNEL));
    }
    ops.sort_by_key(Op::rank);
    let mut memory = Memory::new(Marks::DEFAULT);
    memory.apply(&ops).expect("room");
    for direction in [Direction::OUTBOUND, Direction::INBOUND] {
        memory.insert_listener(ListenerKey { pod: POD, direction }).expect("room");
    }
    memory
}

mod bind {
    use super::super::bind::{Binding, lend, take_back};
    use super::*;

    const APPLICATION: Binding = Binding {
        pod: POD,
        kind: TYPE_STREAM,
        protocol: PROTOCOL_TCP,
        port: Port::from_host(8080),
        reuses: false,
        known: None,
    };

    #[test]
    fn what_is_lent_is_taken_back_once() {
        let check = |socket: Binding, lends: bool| {
            let lent = lend(&tables(), &socket);
            assert_eq!(lent.is_some(), lends, "{socket:?}");
            let Some(lent) = lent else { return };
            assert_eq!((lent.pod, lent.kind, lent.port), (socket.pod, Kind::NONE, socket.port));
            // It may be bound again, where the first bind() has failed.
            assert_eq!(lend(&tables(), &Binding { reuses: true, known: Some(lent), ..socket }), None);
            let left = Flow::bare(socket.pod, Kind::NONE);
            assert_eq!(take_back(lent), Some(left));
            assert_eq!(take_back(left), None);
        };
        let stamped = Some(Flow::bare(POD, Kind::NONE));
        check(APPLICATION, true);
        check(Binding { known: stamped, ..APPLICATION }, true);
        check(Binding { pod: RELEASING, ..APPLICATION }, true);
        check(Binding { reuses: true, known: stamped, ..APPLICATION }, false);
        check(Binding { port: Port::from_host(0), ..APPLICATION }, false);
        check(Binding { protocol: PROTOCOL_MPTCP, ..APPLICATION }, false);
        check(Binding { kind: TYPE_DGRAM, protocol: PROTOCOL_UDP, ..APPLICATION }, false);
        check(Binding { pod: RELEASED, ..APPLICATION }, false);
        check(Binding { pod: STRANGER, ..APPLICATION }, false);
    }

    #[test]
    fn a_decision_is_not_written_over_and_its_port_is_no_loan() {
        for kind in [Kind::LOCAL, Kind::LEAVE, Kind::CAPTURED, Kind::AGENT, Kind::DENIED] {
            let decided = Flow { port: Port::from_host(80), ..Flow::bare(POD, kind) };
            assert_eq!(lend(&tables(), &Binding { known: Some(decided), ..APPLICATION }), None, "{kind:?}");
            assert_eq!(take_back(decided), None, "{kind:?}");
        }
    }
}

mod full {
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
}

mod create {
    use super::*;

    fn check(pod: Cookie, kind: u32, protocol: u32, expected: Created) {
        let mut tables = tables();
        assert_eq!(tables.create(&Creating { pod, kind, protocol }), expected, "{pod:?} {kind} {protocol}");
        assert_eq!(tables.count(Counter::CreateMptcp), u64::from(matches!(expected, Created::Refuse(_))));
    }

    #[test]
    fn sockets_that_can_send_a_syn_are_stamped() {
        let stamp = Created::Stamp(Flow::bare(POD, Kind::NONE));
        check(POD, TYPE_STREAM, PROTOCOL_TCP, stamp);
        check(POD, TYPE_RAW, PROTOCOL_TCP, stamp);
        check(POD, TYPE_RAW, 255, stamp);
        check(POD, TYPE_DGRAM, PROTOCOL_UDP, Created::Leave);
        check(POD, TYPE_STREAM, PROTOCOL_MPTCP, Created::Refuse(Counter::CreateMptcp));
        for outside in [STRANGER, RELEASED, RELEASING] {
            check(outside, TYPE_STREAM, PROTOCOL_TCP, Created::Leave);
            check(outside, TYPE_STREAM, PROTOCOL_MPTCP, Created::Leave);
        }
    }
}

mod connect {
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
        for (pod, destination) in [(POD, "10.0.0.12"), (POD, "10.0.0.11"), (POD, "10.9.9.9"), (RELEASING, "10.0.0.14")]
        {
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
}

mod before_syn {
    use super::*;

    fn tuple(source: &str, destination: &str, port: u16) -> Tuple {
        Tuple {
            source: ip(source),
            destination: ip(destination),
            source_port: Port::from(40_000),
            destination_port: Port::from(port),
            over_lo: 0,
        }
    }

    fn flow(pod: Cookie, destination: &str, kind: Kind) -> Flow {
        Flow { pod, destination: ip(destination), port: Port::from(80), kind }
    }

    fn check(flow: Flow, tuple: Tuple, expected: Option<Counter>) {
        let mut tables = tables();
        let outcome = tables.before_syn(&Opening { pod: flow.pod, tuple, flow: Some(flow) });
        match expected {
            None => assert_eq!(outcome, BeforeSyn::Go, "{flow:?} {tuple:?}"),
            Some(counter) => {
                assert_eq!(
                    outcome,
                    BeforeSyn::Deny(Flow { kind: Kind::DENIED, ..flow }, counter),
                    "{flow:?} {tuple:?}"
                );
                assert_eq!(tables.count(counter), 1);
            }
        }
        assert_eq!(tables.len(Map::Attested), 0);
    }

    #[test]
    fn captured() {
        let check = |source, destination, port, expected| {
            check(flow(POD, "10.96.0.1", Kind::CAPTURED), tuple(source, destination, port), expected);
        };
        check("10.0.0.11", "10.96.0.1", 80, None);
        check("10.0.0.11", "10.0.0.12", 80, Some(Counter::SynRewritten));
        check("10.0.0.11", "10.96.0.1", 81, Some(Counter::SynRewritten));
        check("10.0.0.11", "10.9.9.9", 80, Some(Counter::SynRewritten));
        check("10.0.0.11", "192.0.2.1", 80, None);
        for forged in ["127.0.0.1", "10.0.0.111", "10.0.0.12", "192.0.2.7"] {
            check(forged, "10.96.0.1", 80, Some(Counter::SynSource));
            check(forged, "192.0.2.1", 80, Some(Counter::SynSource));
        }
    }

    #[test]
    fn leaving() {
        let check = |pod, destination, expected| {
            check(flow(pod, "192.0.2.1", Kind::LEAVE), tuple("10.0.0.11", destination, 80), expected);
        };
        check(POD, "192.0.2.1", None);
        check(POD, "192.0.2.2", None);
        check(POD, "10.0.0.12", Some(Counter::SynRewritten));
        check(POD, "10.9.9.9", Some(Counter::SynRewritten));
        check(RELEASING, "10.0.0.12", None);
        check(RELEASED, "10.0.0.12", None);
    }

    #[test]
    fn local() {
        let check = |source, destination, expected| {
            check(flow(POD, "10.0.0.11", Kind::LOCAL), tuple(source, destination, 80), expected);
        };
        check("10.0.0.11", "10.0.0.11", None);
        check("127.0.0.1", "10.0.0.11", None);
        check("10.0.0.111", "127.0.0.1", None);
        check("10.0.0.11", "192.0.2.1", None);
        check("10.0.0.11", "10.0.0.12", Some(Counter::SynRewritten));
        check("192.0.2.7", "10.0.0.11", Some(Counter::SynSource));
    }

    #[test]
    fn undecided_and_unseen() {
        check(flow(POD, "::", Kind::NONE), tuple("10.0.0.11", "192.0.2.1", 80), Some(Counter::SynNoConnect));
        check(flow(RELEASED, "::", Kind::NONE), tuple("10.0.0.11", "192.0.2.1", 80), None);
        check(flow(POD, "10.0.0.12", Kind::DENIED), tuple("10.0.0.11", "10.0.0.12", 80), None);
        for (pod, denied) in [(POD, true), (STRANGER, false), (RELEASING, false)] {
            let opening = Opening { pod, tuple: tuple("10.0.0.11", "192.0.2.1", 80), flow: None };
            let expected = if denied {
                BeforeSyn::Deny(Flow::bare(pod, Kind::DENIED), Counter::SynNoConnect)
            } else {
                BeforeSyn::Go
            };
            assert_eq!(tables().before_syn(&opening), expected);
        }
    }

    #[test]
    fn hand_offs_are_attested_for_their_pod_alone_until_they_close() {
        let mut tables = tables();
        let hand_off = tuple("192.0.2.7", "10.0.0.11", 8080);
        let opening = Opening { pod: POD, tuple: hand_off, flow: Some(flow(POD, "10.0.0.11", Kind::AGENT)) };
        let over_lo = Tuple { over_lo: 1, ..hand_off };
        assert_eq!(tables.before_syn(&opening), BeforeSyn::Attest(over_lo, Attestation { pod: POD }));
        assert_eq!((tables.len(Map::Attested), tables.count(Counter::SynAttested)), (1, 1));
        for kind in [Kind::NONE, Kind::LOCAL, Kind::LEAVE, Kind::CAPTURED, Kind::DENIED] {
            tables.closed(kind, &hand_off);
            assert_eq!(tables.len(Map::Attested), 1, "{kind:?} is not whose attestation it is");
        }
        tables.closed(Kind::AGENT, &hand_off);
        assert_eq!(tables.len(Map::Attested), 0);
    }

    #[test]
    fn the_agent_attests_nothing_else() {
        for (source, destination) in [
            ("10.0.0.11", "10.0.0.12"),
            ("10.0.0.11", "10.0.0.11"),
            ("127.0.0.1", "10.0.0.11"),
            ("192.0.2.7", "10.0.0.111"),
            ("192.0.2.7", "127.0.0.1"),
            ("10.0.0.11", "192.0.2.7"),
        ] {
            check(flow(POD, destination, Kind::AGENT), tuple(source, destination, 80), None);
        }
    }

    #[test]
    fn accepted_from_the_agent() {
        let mut tables = tables();
        let captured = |pod| Some(Flow::bare(pod, Kind::CAPTURED));
        assert_eq!(tables.accepted(POD, 0x0200_0000), captured(POD));
        assert_eq!(tables.accepted(RELEASING, 0x0300_0001), captured(RELEASING));
        assert_eq!(tables.accepted(POD, 0x0100_0000), None);
        assert_eq!(tables.accepted(POD, 0), None);
        assert_eq!(tables.accepted(STRANGER, 0x0200_0000), None);
    }
}

mod lookup {
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
        for (source, destination) in [
            ("10.0.0.11", "10.0.0.11"),
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1", "10.0.0.11"),
            ("10.0.0.111", "fe80::11"),
        ] {
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
}

mod egress {
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
            header[1] =
                u8::try_from(if *kind == 51 { length / 4 - 2 } else { length / 8 - 1 }).expect("a short header");
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
                for kind in [Kind::LOCAL, Kind::LEAVE, Kind::AGENT] {
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
        let raw =
            |kind: Option<(Cookie, Kind)>, device| Sender { kind: TYPE_RAW, ..tcp_socket(kind, STATE_CLOSE, device) };
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
        check(
            &Sender { protocol: 132, ..tcp_socket(stamped, STATE_SYN_SENT, ETH) },
            &[],
            &syn,
            Some(Counter::GuardRaw),
        );
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
}

/// From connect() to the listener, through every hook in turn: nothing of a pod reaches an application without the tunnel,
/// unless both ends are its own or its destination is out of the mesh.
mod through {
    use super::*;

    fn address() -> impl Strategy<Value = Address> {
        prop_oneof![
            Just("10.0.0.11"),
            Just("10.0.0.12"),
            Just("10.0.0.14"),
            Just("10.0.0.111"),
            Just("10.96.0.1"),
            Just("10.9.9.9"),
            Just("127.0.0.1"),
            Just("192.0.2.1"),
            Just("192.0.2.7"),
            Just("0.0.0.0"),
        ]
        .prop_map(ip)
    }

    proptest! {
        #[test]
        fn nothing_of_a_pod_gets_into_the_mesh_in_the_clear(
            wanted in address(), source in address(), rewritten in proptest::option::of(address()),
            mark in any::<u32>(), device in 0_u32..3, out_by in 1_u32..3, known in any::<bool>(),
        ) {
            let mut tables = tables();
            let port = Port::from(80);
            let socket = Connecting {
                pod: POD, cgroup: SHELL, destination: wanted, port, kind: TYPE_STREAM, protocol: PROTOCOL_TCP, mark, device, known,
            };
            let Decision::Write(written) = tables.connect(&socket) else { panic!("a pod's connect is decided") };
            if !written.permit {
                return Ok(());
            }
            let tuple = Tuple {
                source, destination: rewritten.unwrap_or(wanted), source_port: Port::from(40_000), destination_port: port, over_lo: 0,
            };
            let flow = match tables.before_syn(&Opening { pod: POD, tuple, flow: Some(written.flow) }) {
                BeforeSyn::Go => written.flow,
                BeforeSyn::Deny(flow, _) => flow,
                BeforeSyn::Attest(..) => panic!("an application attests nothing"),
            };
            let sender = Sender { kind: TYPE_STREAM, protocol: PROTOCOL_TCP, state: STATE_SYN_SENT, device: out_by, flow: Some(flow) };
            struct Nothing;
            impl Leaving for Nothing {
                fn byte(&self, _: u32) -> Option<u8> { None }
                fn ancestor(&self, _: u32) -> CgroupId { CgroupId(0) }
            }
            let dropped = tables.egress(&sender, &Nothing).is_some();
            let local = super::super::is_local(&tables, POD, &tuple.destination);
            let in_mesh = super::super::Tables::destination(&tables, &tuple.destination).is_some() && !local;
            if in_mesh && out_by != LOOPBACK_INTERFACE {
                prop_assert!(dropped, "{flow:?} {tuple:?}");
            }
            if dropped || out_by != LOOPBACK_INTERFACE {
                return Ok(());
            }
            let arriving = Arriving {
                pod: POD, protocol: PROTOCOL_TCP, source, destination: tuple.destination, source_port: tuple.source_port,
                destination_port: port, interface: LOOPBACK_INTERFACE,
            };
            let (steer, passes) = tables.lookup(&arriving);
            if passes && !local {
                prop_assert_eq!(steer, Steer::Tunnel(Direction::OUTBOUND));
            }
        }
    }
}
