//! Generated objects, and how users and API servers write them: for properties of this crate and of other doors. Behind
//! the feature `testing`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::missing_panics_doc,
    reason = "code of tests: a panic is a failure"
)]

mod generate;
mod print;
mod serve;

pub use generate::{some_manifest, some_manifests};
pub use print::{print, to_json};
pub use serve::{Served, served, some_served};
