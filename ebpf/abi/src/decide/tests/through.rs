//! From connect() to the listener, through every hook in turn: nothing of a pod reaches an application without the tunnel,
//! unless both ends are its own or its destination is out of the mesh.

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
