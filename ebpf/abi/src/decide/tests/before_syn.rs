//! Before the SYN, at accept and at close: the decision against the final addresses.

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
            assert_eq!(outcome, BeforeSyn::Deny(Flow { kind: Kind::DENIED, ..flow }, counter), "{flow:?} {tuple:?}");
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
        let expected =
            if denied { BeforeSyn::Deny(Flow::bare(pod, Kind::DENIED), Counter::SynNoConnect) } else { BeforeSyn::Go };
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
    for kind in [Kind::NONE, Kind::LOCAL, Kind::LEAVE, Kind::CAPTURED, Kind::DENIED, Kind::PROBE] {
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
