//! The trace of a decision: a count, and in a build with the feature `log` a record of its connection.
//!
//! Its own file because the build without it has nothing of this but the counting: no map, no text, no instruction.

use underpass_abi::{Cookie, Counter, Tuple};

use crate::maps::count;

/// Counts a decision about a connection of this pod, and writes it down where this build does. `connection` is asked for only there;
/// an end that is not known yet is unspecified.
#[inline(always)]
pub(crate) fn report(counter: Counter, pod: Cookie, connection: impl FnOnce() -> Tuple) {
    count(counter);
    #[cfg(feature = "log")]
    write(counter.slot(), pod.0, &connection());
    #[cfg(not(feature = "log"))]
    let _ = (pod, connection);
}

/// Numbers alone, which `loader::kernel_log` reads by their order: text of a variable length is nothing that the verifier follows.
/// A function of its own, once in each program, because it is longer than most of them.
#[cfg(feature = "log")]
#[inline(never)]
fn write(slot: u32, pod: u64, connection: &Tuple) {
    let octets = |address: underpass_abi::Address| {
        // SAFETY: numbers without padding, of the same size.
        unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(address.words()) }
    };
    aya_log_ebpf::info!(
        &(),
        "{} {} {:i} {} {:i} {}",
        slot,
        pod,
        octets(connection.source),
        connection.source_port.number(),
        octets(connection.destination),
        connection.destination_port.number()
    );
}
