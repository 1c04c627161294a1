//! sk_lookup, one program per pod: the socket that gets a SYN.
//!
//! The hook can ask neither for its namespace nor for a cgroup, so the pod's cookie is a constant in its instructions: the
//! loader relocates this program once and puts each pod's cookie where [`TEMPLATE`] stands. It must therefore use pinned
//! maps alone, and no static data; what the log adds is there before the first pod, and the loader knows it.

use aya_ebpf::{macros::sk_lookup, programs::SkLookupContext};
use underpass_abi::{
    Cookie, ListenerKey, Port, Tuple,
    addr::Ends,
    decide::lookup::{self, Arriving, Steer},
    limits::TEMPLATE,
};

use crate::log::report;
use crate::maps::{Kernel, field, listeners, words};

const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;

/// Arrivals in one pod's namespace.
#[sk_lookup]
pub(crate) fn steer(ctx: SkLookupContext) -> u32 {
    let pod = Cookie(TEMPLATE);
    let packet = arriving(&ctx, pod);
    let steer = lookup::lookup(&Kernel, &packet);
    let assigned = match steer {
        Steer::Tunnel(direction) => listeners().redirect_sk_lookup(&ctx, ListenerKey { pod, direction }, 0).is_ok(),
        _ => false,
    };
    let (passes, counter) = steer.outcome(assigned);
    if let Some(counter) = counter {
        report(counter, pod, || Tuple {
            source: packet.source,
            destination: packet.destination,
            source_port: packet.source_port,
            destination_port: packet.destination_port,
            over_lo: 0,
        });
    }
    if passes { SK_PASS } else { SK_DROP }
}

/// Every field is read unconditionally: read in branches, the loads are merged behind one pointer into the context, which
/// the verifier refuses.
#[inline(always)]
fn arriving(ctx: &SkLookupContext, pod: Cookie) -> Arriving {
    let l = ctx.lookup;
    // SAFETY: fields of the context.
    let (ends, protocol, source_port, destination_port, interface) = unsafe {
        let ends = Ends {
            family: field!(l, family),
            local_v4: field!(l, local_ip4),
            remote_v4: field!(l, remote_ip4),
            local_v6: words!(l, local_ip6),
            remote_v6: words!(l, remote_ip6),
        };
        (ends, field!(l, protocol), field!(l, remote_port), field!(l, local_port), field!(l, ingress_ifindex))
    };
    let (destination, source) = ends.addresses();
    Arriving {
        pod,
        protocol,
        source,
        destination,
        source_port: Port::from_network(u32::from(source_port)),
        destination_port: Port::from_host(destination_port),
        interface,
    }
}
