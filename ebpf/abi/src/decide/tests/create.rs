//! socket(): the stamp of sockets that can send a SYN.

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
