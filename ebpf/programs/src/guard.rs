//! cgroup_skb/egress: the way out, for every packet that a socket sends.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{bpf_sk_fullsock, bpf_skb_ancestor_cgroup_id},
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use underpass_abi::{
    CgroupId, Cookie, Port, Tuple,
    addr::Ends,
    decide::egress::{self, Leaving, Sender},
};

use crate::log::report;
use crate::maps::{Kernel, field, flow, words};

const DROP: i32 = 0;
const PASS: i32 = 1;

/// A packet in the kernel.
struct Packet<'a>(&'a SkBuffContext);

impl Packet<'_> {
    #[inline(always)]
    fn context(&self) -> *mut __sk_buff {
        self.0.skb.skb
    }
}

impl Leaving for Packet<'_> {
    #[inline(always)]
    fn byte(&self, offset: u32) -> Option<u8> {
        self.0.load::<u8>(offset as usize).ok()
    }

    #[inline(always)]
    fn ancestor(&self, level: u32) -> CgroupId {
        // SAFETY: the context of this program.
        CgroupId(unsafe { bpf_skb_ancestor_cgroup_id(self.context(), level as i32) })
    }
}

/// Whether this packet may leave.
#[cgroup_skb(egress)]
pub(crate) fn guard(ctx: SkBuffContext) -> i32 {
    let packet = Packet(&ctx);
    // SAFETY: fields of the context; the socket is null or valid while the program runs.
    let (device, sk) = unsafe { (field!(packet.context(), ifindex), (*packet.context()).__bindgen_anon_2.sk) };
    if sk.is_null() {
        return PASS; // no socket sent it
    }
    // SAFETY: that socket.
    let sk = unsafe { bpf_sk_fullsock(sk) };
    if sk.is_null() {
        return PASS; // of a connection that is only its end or its beginning
    }
    // SAFETY: fields of that socket, and its storage.
    let sender = unsafe {
        Sender {
            kind: field!(sk, type_),
            protocol: field!(sk, protocol),
            state: field!(sk, state),
            device,
            flow: flow(sk.cast(), false).map(|flow| *flow),
        }
    };
    match egress::egress(&Kernel, &sender, &packet) {
        Some(counter) => {
            let pod = sender.flow.map_or(Cookie(0), |flow| flow.pod);
            // SAFETY: that socket.
            report(counter, pod, || unsafe { connection(sk) });
            DROP
        }
        None => PASS,
    }
}

/// The connection as its socket has it, for the log alone.
///
/// # Safety
/// `sk` is a full socket that the context of the running program gave.
#[inline(always)]
unsafe fn connection(sk: *const bpf_sock) -> Tuple {
    // SAFETY: fields of that socket.
    let (ends, source_port, destination_port) = unsafe {
        let ends = Ends {
            family: field!(sk, family),
            local_v4: field!(sk, src_ip4),
            remote_v4: field!(sk, dst_ip4),
            local_v6: words!(sk, src_ip6),
            remote_v6: words!(sk, dst_ip6),
        };
        (ends, field!(sk, src_port), field!(sk, dst_port))
    };
    let (source, destination) = ends.addresses();
    Tuple {
        source,
        destination,
        source_port: Port::from_host(source_port),
        destination_port: Port::from_network(u32::from(destination_port)),
        over_lo: 0,
    }
}
