//! bind(): SO_REUSEADDR is lent to an application's socket, and taken back before it matters.

use core::ffi::c_void;

use aya_ebpf::{EbpfContext as _, helpers::bpf_get_netns_cookie, macros::cgroup_sock_addr, programs::SockAddrContext};
use underpass_abi::{
    Cookie, Port,
    decide::bind::{self, Binding},
};

use crate::maps::{Kernel, field, flow, option, set_option};

const GO_ON: i32 = 1;
/// SO_REUSEADDR (asm-generic/socket.h).
const SO_REUSEADDR: i32 = 2;

/// IPv4 sockets.
#[cgroup_sock_addr(bind4)]
pub(crate) fn bind4(ctx: SockAddrContext) -> i32 {
    lend(&ctx);
    GO_ON
}

/// IPv6 sockets, dual-stack ones among them.
#[cgroup_sock_addr(bind6)]
pub(crate) fn bind6(ctx: SockAddrContext) -> i32 {
    lend(&ctx);
    GO_ON
}

/// Where it cannot be lent, bind() answers as it would without.
#[inline(always)]
fn lend(ctx: &SockAddrContext) {
    let context = ctx.sock_addr;
    // SAFETY: fields of the context, and the socket that it names, which is never null here.
    let (port, kind, protocol, sk) = unsafe {
        (field!(context, user_port), field!(context, type_), field!(context, protocol), (*context).__bindgen_anon_1.sk)
    };
    // SAFETY: bind hooks may ask for socket options.
    let Some(reuses) = (unsafe { option(ctx.as_ptr(), SO_REUSEADDR) }) else { return };
    let socket = Binding {
        // SAFETY: the context of this program.
        pod: Cookie(unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }),
        kind,
        protocol,
        port: Port::from_network(port),
        reuses: reuses != 0,
        // SAFETY: that socket.
        known: unsafe { flow(sk.cast(), false) }.map(|flow| *flow),
    };
    let Some(lent) = bind::lend(&Kernel, &socket) else { return };
    // SAFETY: that socket. Created here for sockets that are older than the enrolment.
    let Some(storage) = (unsafe { flow(sk.cast(), true) }) else { return };
    // SAFETY: bind hooks may set socket options.
    if unsafe { set_option(ctx.as_ptr(), SO_REUSEADDR, 1) } {
        *storage = lent;
    }
}

/// The socket `sk` of `context` listens or connects: it has again what its application chose.
///
/// # Safety
/// `context` is that of a program that may set socket options, and `sk` its socket, or null.
#[inline(always)]
pub(crate) unsafe fn take_back(context: *mut c_void, sk: *mut c_void) {
    // SAFETY: as the caller says.
    let Some(storage) = (unsafe { flow(sk, false) }) else { return };
    if let Some(flow) = bind::take_back(*storage) {
        *storage = flow;
        // SAFETY: as the caller says.
        unsafe { set_option(context, SO_REUSEADDR, 0) };
    }
}
