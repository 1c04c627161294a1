//! The maps, and `Tables` over them: the questions that `decide` asks.
//!
//! One file, because every program shares them. What must hold: names and limits are those of `underpass_abi::maps`; all
//! maps are pinned, socket storage among them, so that the next agent's programs know what these ones decided.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    btf_maps::SkStorage,
    helpers::generated::{bpf_getsockopt, bpf_map_lookup_elem, bpf_setsockopt, bpf_sk_release, bpf_sk_storage_get},
    macros::{btf_map, map},
    maps::{HashMap, LruHashMap, PerCpuArray, SockHash},
};
use underpass_abi::{
    Address, Attestation, CgroupId, Cookie, Counter, Destination, Flow, ListenerKey, LocalKey, Locality, Marks, Phase,
    Pod, ProbeKey, Tuple, decide::Tables, limits,
};

/// The level of options that every socket has (asm-generic/socket.h).
const SOL_SOCKET: i32 = 1;
/// BPF_F_NO_PREALLOC (linux/bpf.h): memory for the entries that are there.
const NO_PREALLOC: u32 = 1;

#[map]
static PODS: HashMap<Cookie, Pod> = HashMap::pinned(limits::PODS, 0);
#[map]
static LOCALS: HashMap<LocalKey, Locality> = HashMap::pinned(limits::LOCALS, NO_PREALLOC);
#[map]
static MESH: HashMap<Address, Destination> = HashMap::pinned(limits::MESH, NO_PREALLOC);
#[map]
static ATTESTED: LruHashMap<Tuple, Attestation> = LruHashMap::pinned(limits::ATTESTED, 0);
#[map]
static LISTENERS: SockHash<ListenerKey> = SockHash::pinned(limits::LISTENERS, 0);
#[map]
static AGENTS: HashMap<CgroupId, u32> = HashMap::pinned(limits::AGENTS, 0);
#[map]
static POD_CGROUPS: HashMap<CgroupId, Cookie> = HashMap::pinned(limits::POD_CGROUPS, 0);
#[map]
static PROBES: HashMap<ProbeKey, Cookie> = HashMap::pinned(limits::PROBES, NO_PREALLOC);
#[map]
static KUBELETS: HashMap<CgroupId, Cookie> = HashMap::pinned(limits::KUBELETS, 0);
#[map]
static COUNTS: PerCpuArray<u64> = PerCpuArray::pinned(limits::COUNTS, 0);
#[btf_map]
static FLOWS: SkStorage<Flow> = SkStorage::new();

/// The bits of the mark, which the loader writes here before it loads the programs of the node. `steer` does not use it:
/// a pod's program is loaded without such data.
// SAFETY: no other item has this name; the loader finds the variable by it.
#[unsafe(no_mangle)]
static MARKS: Marks = Marks::DEFAULT;

/// The bits of the mark that are in use.
#[inline(always)]
pub(crate) fn marks() -> Marks {
    // SAFETY: a static of this program. Volatile, because the value that the compiler sees is not the one that is loaded.
    unsafe { ptr::read_volatile(&raw const MARKS) }
}

/// The tables as the kernel's maps.
pub(crate) struct Kernel;

impl Tables for Kernel {
    #[inline(always)]
    fn phase(&self, pod: Cookie) -> Option<Phase> {
        // SAFETY: entries may be replaced while they are read; the phase is one aligned word.
        unsafe { PODS.get(pod) }.map(|pod| pod.phase)
    }

    #[inline(always)]
    fn locality(&self, key: &LocalKey) -> Option<Locality> {
        // SAFETY: as above.
        unsafe { LOCALS.get(key) }.copied()
    }

    #[inline(always)]
    fn destination(&self, address: &Address) -> Option<Destination> {
        // By value: a constant key would be data of its own in the object, which `steer` could not have.
        // SAFETY: as above.
        unsafe { MESH.get(*address) }.copied()
    }

    #[inline(always)]
    fn is_agent(&self, cgroup: CgroupId) -> bool {
        // SAFETY: the value is not read.
        unsafe { AGENTS.get(cgroup) }.is_some()
    }

    #[inline(always)]
    fn pod_of(&self, cgroup: CgroupId) -> Option<Cookie> {
        // SAFETY: one aligned word.
        unsafe { POD_CGROUPS.get(cgroup) }.copied()
    }

    #[inline(always)]
    fn probed(&self, key: &ProbeKey) -> Option<Cookie> {
        // SAFETY: one aligned word.
        unsafe { PROBES.get(key) }.copied()
    }

    #[inline(always)]
    fn kubelet(&self, cgroup: CgroupId) -> Option<Cookie> {
        // SAFETY: one aligned word.
        unsafe { KUBELETS.get(cgroup) }.copied()
    }

    #[inline(always)]
    fn attestation(&self, tuple: &Tuple) -> Option<Attestation> {
        // SAFETY: one aligned word.
        unsafe { ATTESTED.get(tuple) }.copied()
    }

    #[inline(always)]
    fn has_listener(&self, key: &ListenerKey) -> bool {
        // SAFETY: map and key live for the call; what a lookup in a map of sockets gives is released below.
        let socket = unsafe {
            bpf_map_lookup_elem(ptr::from_ref(&LISTENERS).cast_mut().cast(), ptr::from_ref(key).cast_mut().cast())
        };
        if socket.is_null() {
            return false;
        }
        // SAFETY: the reference that was just taken.
        unsafe { bpf_sk_release(socket) };
        true
    }
}

/// Enters an attestation; false where there was no memory for it.
#[inline(always)]
pub(crate) fn attest(tuple: &Tuple, attestation: &Attestation) -> bool {
    ATTESTED.insert(tuple, attestation, 0).is_ok()
}

/// Takes an attestation out.
#[inline(always)]
pub(crate) fn forget(tuple: &Tuple) {
    // It may have given way to a newer one already.
    let _ = ATTESTED.remove(tuple);
}

/// The tunnel's listeners.
#[inline(always)]
pub(crate) fn listeners() -> &'static SockHash<ListenerKey> {
    &LISTENERS
}

/// The content of the socket's storage; with `create`, zeros where there was none. `None` without a socket, without
/// storage, or without memory for it.
///
/// # Safety
/// `sk` is null or a socket that the context of the running program gave.
#[inline(always)]
pub(crate) unsafe fn flow(sk: *mut c_void, create: bool) -> Option<&'static mut Flow> {
    if sk.is_null() {
        return None;
    }
    let flags = if create { u64::from(BPF_SK_STORAGE_GET_F_CREATE) } else { 0 };
    // SAFETY: a socket, as the caller says; the kernel answers null or a Flow that lives as long as the socket.
    unsafe {
        bpf_sk_storage_get(ptr::from_ref(&FLOWS).cast_mut().cast(), sk, ptr::null_mut(), flags).cast::<Flow>().as_mut()
    }
}

/// Sets an option of level SOL_SOCKET on the socket of a context.
///
/// # Safety
/// `context` is that of a program that may set socket options.
#[inline(always)]
pub(crate) unsafe fn set_option(context: *mut c_void, name: i32, mut value: u32) -> bool {
    // SAFETY: as the caller says; the value lives for the call and has the size that is named.
    unsafe { bpf_setsockopt(context, SOL_SOCKET, name, (&raw mut value).cast(), 4) == 0 }
}

/// An option of level SOL_SOCKET of the socket of a context.
///
/// # Safety
/// `context` is that of a program that may ask for socket options.
#[inline(always)]
pub(crate) unsafe fn option(context: *mut c_void, name: i32) -> Option<u32> {
    let mut value = 0_u32;
    // SAFETY: as the caller says; the value lives for the call and has the size that is named.
    (unsafe { bpf_getsockopt(context, SOL_SOCKET, name, (&raw mut value).cast(), 4) } == 0).then_some(value)
}

/// Counts.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(slot) = COUNTS.get_ptr_mut(counter.slot()) {
        // SAFETY: the slot of this CPU, which the program does not leave while it runs.
        unsafe { *slot = (*slot).wrapping_add(1) }
    }
}

/// Reads one field of a context, by a load that stays where it is written and as wide as it is written: merged or widened
/// loads make the verifier refuse the program.
macro_rules! field {
    ($context:expr, $($field:tt)+) => {
        core::ptr::read_volatile(&raw const (*$context).$($field)+)
    };
}

/// The four words of an IPv6 address, one by one: a copy of the array would become one access at "context + offset".
macro_rules! words {
    ($context:expr, $field:ident) => {
        [
            $crate::maps::field!($context, $field[0]),
            $crate::maps::field!($context, $field[1]),
            $crate::maps::field!($context, $field[2]),
            $crate::maps::field!($context, $field[3]),
        ]
    };
}
pub(crate) use {field, words};
