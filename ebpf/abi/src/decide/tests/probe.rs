//! A kubelet's probes: what is attested, for whom, and for how long.

use super::*;

/// The kubelet connects from the node, by a socket that is new.
fn socket(destination: &str, port: u16) -> Connecting {
    Connecting {
        pod: NODE,
        cgroup: KUBELET,
        destination: ip(destination),
        port: Port::from(port),
        kind: TYPE_STREAM,
        protocol: PROTOCOL_TCP,
        mark: 0,
        device: 0,
        known: false,
    }
}

fn tuple(destination: &str, port: u16) -> Tuple {
    let source = if ip(destination).is_v4() { "10.0.0.1" } else { "fd00::1" };
    Tuple {
        source: ip(source),
        destination: ip(destination),
        source_port: Port::from(40_000),
        destination_port: Port::from(port),
        over_lo: 0,
    }
}

fn flow(destination: &str, port: u16) -> Flow {
    Flow { pod: NODE, destination: ip(destination), port: Port::from(port), kind: Kind::PROBE }
}

fn arriving(pod: Cookie, tuple: &Tuple, interface: u32) -> Arriving {
    Arriving {
        pod,
        protocol: PROTOCOL_TCP,
        source: tuple.source,
        destination: tuple.destination,
        source_port: tuple.source_port,
        destination_port: tuple.destination_port,
        interface,
    }
}

fn probe(address: &str, port: u16) -> ProbeKey {
    ProbeKey { address: ip(address), port: Port::from(port) }
}

fn is_probe(socket: &Connecting) {
    let mut tables = tables();
    let flow = Flow { pod: NODE, destination: socket.destination, port: socket.port, kind: Kind::PROBE };
    let written = Written { flow, mark: socket.mark, permit: true, counter: Counter::ConnectProbe };
    assert_eq!(tables.connect(socket), Decision::Write(written), "{socket:?}");
    assert_eq!(tables.count(Counter::ConnectProbe), 1);
}

fn is_none(socket: &Connecting) {
    assert_eq!(tables().connect(socket), Decision::Ignore, "{socket:?}");
}

#[test]
fn only_the_kubelet_on_its_node_at_named_ports() {
    for (address, port) in [("10.0.0.11", 8080), ("::ffff:10.0.0.11", 8080), ("fd00::11", 8080), ("10.0.0.12", 9090)] {
        is_probe(&socket(address, port));
        is_probe(&Connecting { known: true, mark: 7, ..socket(address, port) });
        for cgroup in [SHELL, AGENT, POD_CGROUP] {
            is_none(&Connecting { cgroup, ..socket(address, port) });
        }
        is_none(&Connecting { pod: STRANGER, ..socket(address, port) });
        is_none(&Connecting { kind: TYPE_RAW, ..socket(address, port) });
        is_none(&Connecting { kind: TYPE_DGRAM, protocol: PROTOCOL_UDP, ..socket(address, port) });
    }
    for (address, port) in [
        ("10.0.0.11", 8081),  // a port that no probe names
        ("10.0.0.11", 9090),  // another pod's
        ("10.0.0.12", 8080),  // another pod's
        ("10.0.0.111", 8080), // no address of the pod's
        ("10.96.0.1", 8080),  // a service
        ("192.0.2.1", 443),   // the API server
    ] {
        is_none(&socket(address, port));
    }
}

/// In an enrolled pod its cgroup means nothing: what the pod opens is captured.
#[test]
fn within_a_pod_it_is_no_kubelet() {
    let within = Connecting { pod: OTHER_POD, ..socket("10.0.0.11", 8080) };
    let Decision::Write(written) = tables().connect(&within) else { panic!("a pod's connect is decided") };
    assert_eq!(written.flow.kind, Kind::CAPTURED);
}

/// A socket of which a probe was decided connects elsewhere: nothing is left of it.
#[test]
fn a_socket_that_connects_again_is_decided_again() {
    let again = Connecting { known: true, ..socket("192.0.2.1", 443) };
    let Decision::Write(written) = tables().connect(&again) else { panic!("what is known is taken back") };
    assert_eq!((written.flow.kind, written.permit), (Kind::LEAVE, true));
}

#[test]
fn attested_as_decided_and_for_the_pod_that_is_probed() {
    let attests = |flow: Flow, tuple: Tuple, pod: Option<Cookie>| {
        let mut tables = tables();
        let outcome = tables.before_syn(&Opening { pod: NODE, tuple, flow: Some(flow) });
        let expected = pod.map_or(BeforeSyn::Go, |pod| BeforeSyn::Attest(tuple, Attestation { pod }));
        assert_eq!(outcome, expected, "{flow:?} {tuple:?}");
        assert_eq!(tables.len(Map::Attested), usize::from(pod.is_some()));
    };
    attests(flow("10.0.0.11", 8080), tuple("10.0.0.11", 8080), Some(POD));
    attests(flow("fd00::11", 8080), tuple("fd00::11", 8080), Some(POD));
    attests(flow("10.0.0.12", 9090), tuple("10.0.0.12", 9090), Some(OTHER_POD));
    // Another connect program chose another destination, also where that one is probed.
    attests(flow("10.0.0.11", 8080), tuple("10.0.0.12", 9090), None);
    attests(flow("10.0.0.11", 8080), tuple("10.0.0.11", 8081), None);
    // The probe is gone since.
    attests(flow("10.0.0.11", 8081), tuple("10.0.0.11", 8081), None);
    // Nothing of the node is attested without a decision, or by another one.
    attests(Flow { kind: Kind::LEAVE, ..flow("10.0.0.11", 8080) }, tuple("10.0.0.11", 8080), None);
    let undecided = Opening { pod: NODE, tuple: tuple("10.0.0.11", 8080), flow: None };
    assert_eq!(tables().before_syn(&undecided), BeforeSyn::Go);
}

/// The tables after the SYN of a probe of 10.0.0.11:8080, and its tuple.
fn probing() -> (Memory, Tuple) {
    let (mut tables, tuple) = (tables(), tuple("10.0.0.11", 8080));
    let opening = Opening { pod: NODE, tuple, flow: Some(flow("10.0.0.11", 8080)) };
    assert!(matches!(tables.before_syn(&opening), BeforeSyn::Attest(..)));
    (tables, tuple)
}

#[test]
fn it_reaches_the_application_of_its_pod_and_no_other() {
    let (mut tables, tuple) = probing();
    let arrives = |tables: &mut Memory, packet: &Arriving| tables.lookup(packet).0;
    assert_eq!(arrives(&mut tables, &arriving(POD, &tuple, ETH)), Steer::Attested);
    assert_eq!(tables.count(Counter::SteerAttested), 1);
    let inbound = Steer::Tunnel(Direction::INBOUND);
    assert_eq!(arrives(&mut tables, &arriving(OTHER_POD, &tuple, ETH)), inbound);
    // The same over lo is a stranger's, and so is any other port or source.
    assert_eq!(arrives(&mut tables, &arriving(POD, &tuple, LOOPBACK_INTERFACE)), Steer::Stranger);
    let others = [
        Tuple { source: ip("10.0.0.2"), ..tuple },
        Tuple { source_port: Port::from(40_001), ..tuple },
        Tuple { destination_port: Port::from(8081), ..tuple },
        Tuple { destination: ip("10.0.0.111"), ..tuple },
    ];
    for other in others {
        assert_eq!(arrives(&mut tables, &arriving(POD, &other, ETH)), inbound, "{other:?}");
    }
}

#[test]
fn it_counts_until_its_socket_closes() {
    let (mut tables, tuple) = probing();
    for kind in [Kind::NONE, Kind::LEAVE, Kind::AGENT] {
        tables.closed(kind, &tuple);
        assert_eq!(tables.len(Map::Attested), 1, "{kind:?}");
    }
    tables.closed(Kind::PROBE, &tuple);
    assert_eq!(tables.len(Map::Attested), 0);
    assert_eq!(tables.lookup(&arriving(POD, &tuple, ETH)).0, Steer::Tunnel(Direction::INBOUND));
}

#[test]
fn it_counts_while_the_pod_is_probed_there() {
    let inbound = Steer::Tunnel(Direction::INBOUND);
    for ops in
        [vec![Op::RemoveProbe(probe("10.0.0.11", 8080))], vec![Op::SetProbe(probe("10.0.0.11", 8080), OTHER_POD)]]
    {
        let (mut tables, tuple) = probing();
        tables.apply(&ops).expect("room");
        assert_eq!(tables.lookup(&arriving(POD, &tuple, ETH)).0, inbound, "{ops:?}");
    }
    // The others stay.
    let (mut tables, tuple) = probing();
    tables.apply(&[Op::RemoveProbe(probe("10.0.0.12", 9090)), Op::RemoveKubelet(KUBELET)]).expect("room");
    assert_eq!(tables.lookup(&arriving(POD, &tuple, ETH)).0, Steer::Attested);
    // New ones are no longer attested: another process is the kubelet, or none.
    assert_eq!(tables.connect(&socket("10.0.0.11", 8080)), Decision::Ignore);
}

/// What has no room in the table is no probe.
#[test]
fn a_full_table_attests_nothing_more() {
    let mut tables = Memory::new(Marks::DEFAULT).with_capacity(Map::Probes, 1);
    tables.apply(&[Op::SetKubelet(KUBELET, NODE), Op::SetProbe(probe("10.0.0.11", 8080), POD)]).expect("room");
    let more = tables.apply(&[Op::SetProbe(probe("10.0.0.12", 9090), OTHER_POD)]);
    assert_eq!(more, Err(crate::maps::Full { map: Map::Probes, limit: 1 }));
    assert!(matches!(tables.connect(&socket("10.0.0.11", 8080)), Decision::Write(_)));
    assert_eq!(tables.connect(&socket("10.0.0.12", 9090)), Decision::Ignore);
}

/// A hand-off does not depend on probes.
#[test]
fn a_hand_off_to_a_probed_port_outlives_the_probe() {
    let mut tables = tables();
    let hand_off = Tuple { source: ip("192.0.2.7"), ..tuple("10.0.0.11", 8080) };
    let agent = Flow { pod: POD, kind: Kind::AGENT, ..flow("10.0.0.11", 8080) };
    assert!(matches!(
        tables.before_syn(&Opening { pod: POD, tuple: hand_off, flow: Some(agent) }),
        BeforeSyn::Attest(..)
    ));
    tables.apply(&[Op::RemoveProbe(probe("10.0.0.11", 8080))]).expect("room");
    assert_eq!(tables.lookup(&arriving(POD, &hand_off, LOOPBACK_INTERFACE)).0, Steer::Attested);
}

proptest! {
    /// From connect() to arrival, any process of the node, any rewriting, any change of the probes on the way: an application
    /// gets what its own pod's object names, from the kubelet, and nothing else.
    #[test]
    fn nothing_else_of_the_node_reaches_an_application(
        cgroup in prop_oneof![3 => Just(KUBELET), 1 => Just(SHELL), 1 => Just(AGENT)],
        netns in prop_oneof![3 => Just(NODE), 1 => Just(STRANGER)],
        wanted in 0_usize..5, rewritten in proptest::option::weighted(0.3, 0_usize..5),
        removed in proptest::option::weighted(0.3, 0_usize..5), at in prop_oneof![Just(POD), Just(OTHER_POD), Just(RELEASING)],
        known in any::<bool>(),
    ) {
        const TARGETS: [(&str, u16); 5] =
            [("10.0.0.11", 8080), ("10.0.0.12", 9090), ("10.0.0.14", 80), ("10.0.0.11", 9090), ("10.0.0.12", 8080)];
        let mut tables = tables();
        let (address, port) = TARGETS[wanted];
        let connecting = Connecting { cgroup, pod: netns, known, ..socket(address, port) };
        let flow = match tables.connect(&connecting) {
            Decision::Write(written) => Some(written.flow),
            Decision::Ignore => None,
        };
        let reached = rewritten.unwrap_or(wanted);
        let (address, port) = TARGETS[reached];
        let tuple = tuple(address, port);
        tables.before_syn(&Opening { pod: netns, tuple, flow });
        if let Some((address, port)) = removed.map(|n| TARGETS[n]) {
            tables.apply(&[Op::RemoveProbe(probe(address, port))]).expect("room");
        }
        let attested = tables.lookup(&arriving(at, &tuple, ETH)).0 == Steer::Attested;
        let names = [POD, OTHER_POD, RELEASING].get(reached) == Some(&at);
        let expected = cgroup == KUBELET && netns == NODE && names && reached == wanted && removed != Some(reached);
        prop_assert_eq!(attested, expected);
    }
}
