//! socket() and connect(): the stamp of a socket, and the decision about it.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_current_cgroup_id, bpf_get_netns_cookie},
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};
use underpass_abi::{
    Address, CgroupId, Cookie, Counter, Port, Tuple,
    decide::connect::{self, Connecting, Created, Creating, Decision},
};

use crate::bind::take_back;
use crate::log::report;
use crate::maps::{Kernel, field, flow, marks, set_option, words};

const REFUSE: i32 = 0; // EPERM
const GO_ON: i32 = 1;
/// SO_MARK (asm-generic/socket.h).
const SO_MARK: i32 = 36;

/// Stamps every socket that could send a SYN without connect(). By the stamp `guard` knows the pod, from any cgroup.
#[cgroup_sock(sock_create)]
pub(crate) fn stamp(ctx: SockContext) -> i32 {
    let sk = ctx.sock;
    // SAFETY: fields of the context.
    let (kind, protocol) = unsafe { (field!(sk, type_), field!(sk, protocol)) };
    // SAFETY: the context of this program.
    let pod = Cookie(unsafe { bpf_get_netns_cookie(ctx.as_ptr()) });
    match connect::create(&Kernel, &Creating { pod, kind, protocol }) {
        Created::Leave => GO_ON,
        Created::Refuse(counter) => {
            report(counter, pod, || without_source(Address::UNSPECIFIED, Port::from_host(0)));
            REFUSE
        }
        // SAFETY: the socket that the context is.
        Created::Stamp(stamp) => match unsafe { flow(sk.cast(), true) } {
            Some(storage) => {
                *storage = stamp;
                GO_ON
            }
            None => {
                report(Counter::CreateNoStorage, pod, || without_source(Address::UNSPECIFIED, Port::from_host(0)));
                REFUSE
            }
        },
    }
}

/// IPv4 sockets.
#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: a field of the context.
    let word = unsafe { field!(ctx.sock_addr, user_ip4) };
    decide(&ctx, Address::from_v4_word(word))
}

/// IPv6 sockets, and those that reach IPv4 through a v4-mapped address: `connect4` does not run for them.
#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    // SAFETY: fields of the context.
    let words = unsafe { words!(ctx.sock_addr, user_ip6) };
    decide(&ctx, Address::from_words(words))
}

#[inline(always)]
fn decide(ctx: &SockAddrContext, destination: Address) -> i32 {
    let context = ctx.sock_addr;
    // SAFETY: fields of the context, and of the socket that it names, which is never null here.
    let (port, kind, protocol, sk) = unsafe {
        (field!(context, user_port), field!(context, type_), field!(context, protocol), (*context).__bindgen_anon_1.sk)
    };
    if sk.is_null() {
        return REFUSE;
    }
    // SAFETY: the context of a connect hook, which may set options, and its socket.
    unsafe { take_back(ctx.as_ptr(), sk.cast()) };
    // SAFETY: fields of that socket.
    let (mark, device) = unsafe { (field!(sk, mark), field!(sk, bound_dev_if)) };
    let socket = Connecting {
        // SAFETY: the context of this program.
        pod: Cookie(unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }),
        // SAFETY: no argument.
        cgroup: CgroupId(unsafe { bpf_get_current_cgroup_id() }),
        destination,
        port: Port::from_network(port),
        kind,
        protocol,
        mark,
        device,
        // SAFETY: that socket.
        known: unsafe { flow(sk.cast(), false) }.is_some(),
    };
    let Decision::Write(written) = connect::connect(&Kernel, marks(), &socket) else {
        return GO_ON;
    };
    let tell = |counter| report(counter, socket.pod, || without_source(socket.destination, socket.port));
    tell(written.counter);
    // SAFETY: that socket. Created here for sockets that are older than the enrolment.
    let Some(storage) = (unsafe { flow(sk.cast(), true) }) else {
        tell(Counter::ConnectNoStorage);
        return REFUSE;
    };
    *storage = written.flow;
    if !written.permit {
        return REFUSE;
    }
    // SAFETY: connect hooks may set SO_MARK.
    if written.mark != mark && !unsafe { set_option(ctx.as_ptr(), SO_MARK, written.mark) } {
        storage.kind = underpass_abi::Kind::DENIED;
        tell(Counter::ConnectNoMark);
        return REFUSE;
    }
    GO_ON
}

/// A connection whose source the kernel has not chosen yet.
#[inline(always)]
fn without_source(destination: Address, destination_port: Port) -> Tuple {
    Tuple { source: Address::UNSPECIFIED, destination, source_port: Port::from_host(0), destination_port, over_lo: 0 }
}
