//! The client's end of delta streams: a node takes its facts from a control plane, ours or istiod.
//!
//! * [`Session`]: all streams one after the other, without IO.
//! * [`Node`]: what a client says about itself.

mod node;
mod receipt;
mod session;

pub use node::Node;
pub use receipt::Rejected;
pub use session::{BEHIND, Batch, Behind, Change, Next, Session};
