//! sock_ops: just before the SYN, at listen, at accept and at close.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB,
    },
    helpers::bpf_get_netns_cookie,
    macros::sock_ops,
    programs::SockOpsContext,
};
use underpass_abi::{
    Cookie, Counter, Port, Tuple,
    addr::Ends,
    decide::tcp::{self, BeforeSyn, Opening},
    flow::{LOOPBACK_INTERFACE, STATE_CLOSE},
};

use crate::bind::take_back;
use crate::log::report;
use crate::maps::{Kernel, attest, count, field, flow, forget, marks, set_option, words};

/// SO_BINDTOIFINDEX (asm-generic/socket.h).
const SO_BINDTOIFINDEX: i32 = 62;

/// The events of a TCP socket.
#[sock_ops]
pub(crate) fn on_tcp(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => before_syn(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(&ctx),
        // SAFETY: the context of this program, which may set options, and its socket or null.
        BPF_SOCK_OPS_TCP_LISTEN_CB => unsafe { take_back(ctx.as_ptr(), (*ctx.ops).__bindgen_anon_2.sk.cast()) },
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == STATE_CLOSE => closed(&ctx),
        _ => {}
    }
    0 // ignored for these
}

/// The connection as its opener sees it.
#[inline(always)]
fn tuple(ctx: &SockOpsContext) -> Tuple {
    let o = ctx.ops;
    // SAFETY: fields of the context.
    let (ends, source_port, destination_port) = unsafe {
        let ends = Ends {
            family: field!(o, family),
            local_v4: field!(o, local_ip4),
            remote_v4: field!(o, remote_ip4),
            local_v6: words!(o, local_ip6),
            remote_v6: words!(o, remote_ip6),
        };
        // The local port is a number, the remote one 32 bits in network byte order.
        (ends, field!(o, local_port), u32::from_be(field!(o, remote_port)))
    };
    let (source, destination) = ends.addresses();
    Tuple {
        source,
        destination,
        source_port: Port::from_host(source_port),
        destination_port: Port::from_host(destination_port),
        over_lo: 0,
    }
}

/// The namespace of the socket.
#[inline(always)]
fn pod(ctx: &SockOpsContext) -> Cookie {
    // SAFETY: the context of this program.
    Cookie(unsafe { bpf_get_netns_cookie(ctx.as_ptr()) })
}

#[inline(always)]
fn before_syn(ctx: &SockOpsContext) {
    // SAFETY: the context's socket, null or valid while the program runs.
    let (sk, known) = unsafe {
        let sk = (*ctx.ops).__bindgen_anon_2.sk;
        (sk, flow(sk.cast(), false).map(|flow| *flow))
    };
    let socket = Opening { pod: pod(ctx), tuple: tuple(ctx), flow: known };
    match tcp::before_syn(&Kernel, &socket) {
        BeforeSyn::Go => {}
        BeforeSyn::Deny(denied, counter) => {
            report(counter, socket.pod, || socket.tuple);
            // SAFETY: that socket.
            if let Some(storage) = unsafe { flow(sk.cast(), true) } {
                *storage = denied;
            }
        }
        BeforeSyn::Attest(tuple, attestation) => {
            // Without the flag its end would not be seen, and the attestation would stay.
            let told = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32).is_ok();
            let attested = told && attest(&tuple, &attestation);
            if attested {
                count(Counter::SynAttested);
            } else {
                report(Counter::SynNotAttested, socket.pod, || tuple);
            }
        }
    }
}

#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    // SAFETY: the context's socket, null or valid while the program runs.
    let Some(known) = (unsafe { flow((*ctx.ops).__bindgen_anon_2.sk.cast(), false) }) else {
        return;
    };
    if let Some(tuple) = tcp::closed(known.kind, &tuple(ctx)) {
        forget(&tuple);
    }
}

#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    // SAFETY: the context's socket, null or valid while the program runs.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() {
        return;
    }
    // SAFETY: a field of that socket.
    let mark = unsafe { field!(sk, mark) };
    let Some(bound) = tcp::accepted(&Kernel, marks(), pod(ctx), mark) else {
        return;
    };
    // SAFETY: that socket; sock_ops may set options.
    let done = unsafe {
        if let Some(storage) = flow(sk.cast(), true) {
            *storage = bound;
        }
        set_option(ctx.as_ptr(), SO_BINDTOIFINDEX, LOOPBACK_INTERFACE)
    };
    if done {
        count(Counter::AcceptBound);
    } else {
        report(Counter::AcceptNotBound, bound.pod, || tuple(ctx));
    }
}
