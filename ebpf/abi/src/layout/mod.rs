//! The layouts that differ between versions of the tables: one file per version, and which of them this build's programs use.
//!
//! What must hold: a file whose version has been released never changes. A later version is a new file, from which and into
//! which the earlier ones convert, so that its agent can read the tables of its predecessor, and write them to go back. Sizes of tables and all other
//! layouts are the same in every version so far; one that differs gets its part here.

pub mod v3;

#[cfg(feature = "next")]
pub mod next;

#[cfg(feature = "next")]
pub use next as current;
#[cfg(not(feature = "next"))]
pub use v3 as current;

/// The tables of one version, as user space reads and writes them.
pub trait Layout {
    /// The version of these layouts: part of the path under which the tables are pinned.
    const VERSION: u32;
    /// Value of `PODS`.
    type Pod: Copy + From<current::Pod> + Into<current::Pod>;
    /// Value of `MESH`.
    type Destination: Copy + From<current::Destination> + Into<current::Destination>;
}

/// The tables of version 3.
#[derive(Debug)]
pub struct V3;

impl Layout for V3 {
    const VERSION: u32 = v3::VERSION;
    type Pod = v3::Pod;
    type Destination = v3::Destination;
}

/// The tables of the version that tests upgrade to.
#[cfg(feature = "next")]
#[derive(Debug)]
pub struct Next;

#[cfg(feature = "next")]
impl Layout for Next {
    const VERSION: u32 = next::VERSION;
    type Pod = next::Pod;
    type Destination = next::Destination;
}

/// The tables of this build.
#[cfg(not(feature = "next"))]
pub type Current = V3;
/// The tables of this build.
#[cfg(feature = "next")]
pub type Current = Next;
