//! bind(): SO_REUSEADDR is lent once, and taken back.

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
