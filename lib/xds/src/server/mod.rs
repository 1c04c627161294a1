//! The server's end of delta streams, for Istio's node proxies and our own agents.
//!
//! * [`Catalog`]: all resources at one moment, indexed once for all streams.
//! * [`Session`]: one stream, without IO.
//! * [`serve`]: delta streams and certificates on given connections, a task for each stream.
//! * [`Limits`]: what a server puts up with. [`Counters`]: its numbers.
//!
//! What must hold: no stream waits for another one. A client that is slow has one response of each kind on its way and
//! the rest to come; one that does not ask, answer or read for [`Limits::answer`] is closed.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod catalog;
mod connection;
mod counters;
mod limits;
mod serve;
mod service;
mod session;
mod stream;

pub use catalog::Catalog;
pub use counters::{Counters, Sent};
pub use limits::Limits;
pub use serve::{Heard, Services, serve};
pub use session::{Malformed, Notice, Phase, Session};
