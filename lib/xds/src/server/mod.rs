//! The server's end of delta streams, for Istio's node proxies and our own agents.
//!
//! * [`Snapshot`]: all resources at one moment, indexed once for all streams.
//! * [`Session`]: one stream, without IO.
//! * [`Limits`]: what a server puts up with.

mod limits;
mod session;
mod snapshot;

pub use limits::Limits;
pub use session::{Malformed, Notice, Phase, Session};
pub use snapshot::Snapshot;
