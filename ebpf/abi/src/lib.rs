//! The boundary between the kernel programs and user space: layouts, limits, names, and every decision of the kernel.
//!
//! It is a crate of its own, without dependencies and without `std`, because two compilers build it: the kernel programs
//! run [`decide`] over maps, user space runs the same functions over hash maps ([`memory`]) and tests them there.
//!
//! What must hold: no layout has implicit padding, its size is asserted at compile time, its byte order is in its type;
//! any change of a layout, a map or a meaning is a new [`VERSION`]. A layout is what has a file in [`layout`]; there the reader of
//! each earlier version stays.
#![cfg_attr(not(any(test, feature = "std")), no_std)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

pub mod addr;
pub mod decide;
pub mod flow;
pub mod layout;
pub mod limits;
pub mod maps;
#[cfg(any(test, feature = "std"))]
pub mod memory;
pub mod report;

pub use addr::{Address, CgroupId, Cookie, Port};
pub use flow::{Flow, Kind, Marks};
pub use maps::{
    ANY_OTHER, Attestation, Destination, Direction, Full, ListenerKey, LocalKey, Locality, Map, Op, Phase, Pod,
    ProbeKey, Tuple,
};
pub use report::Counter;

/// The version of every layout, map and meaning in this crate; part of the path under which the tables are pinned.
pub const VERSION: u32 = layout::current::VERSION;
