//! The kernel programs: thin entry points around `underpass_abi::decide`.
//!
//! Once per node, on the cgroup root: `stamp`, `bind4`, `bind6`, `connect4`, `connect6`, `on_tcp`, `guard`. Once per pod, on
//! its network namespace: `steer`. A program reads its context, asks `decide`, and does what the answer says; a branch that means
//! something belongs there, where the host can test it.
//!
//! It is a crate and a workspace of its own because another compiler builds it, for another target.
#![no_std]
#![no_main]

mod bind;
mod connect;
mod guard;
mod log;
mod maps;
mod sockops;
mod steer;

/// Never reached: nothing here panics, and the linker would leave a call that the verifier refuses.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lends the helpers that are used here to the GPL alone; "Dual" names only pairs that it knows.
// SAFETY: no other item has this name, and the section is read by the loader alone.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
