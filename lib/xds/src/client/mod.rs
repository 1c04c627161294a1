//! The client's end of delta streams: a node takes its facts from a control plane, ours or istiod.
//!
//! * [`Session`]: all streams one after the other, without IO.
//! * [`run`]: keeps a stream open, hands on what arrives ([`Apply`]) and says how it goes ([`Progress`]).
//! * [`Node`]: what a client says about itself.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod backoff;
mod node;
mod receipt;
mod service;
mod session;
#[cfg(test)]
mod tests;

pub use node::Node;
pub use receipt::Rejected;
pub use service::{Apply, Link, Progress, run};
pub use session::{BEHIND, Batch, Behind, Next, Session};
