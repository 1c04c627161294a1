//! What every source of configuration has in common, whether it is a directory of manifests, an API server or a control
//! plane.
//!
//! * [`Update`]: what a door hands on.
//! * [`ledger`]: what is served of each object, whatever the door says about it.
//! * [`Strictness`]: what an unknown field means.
//! * [`problem`]: what is wrong, where it was found, and what happens because of it; every reason is a [`Fault`].
//! * [`path`]: where in an object something is.
//!
//! What must hold: what cannot be understood never takes a good version away and never opens anything; and a problem names its source, object, field and reason in one line, whatever stands in the object.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod fault;
pub mod ledger;
pub mod path;
pub mod problem;
mod strictness;
mod update;
mod words;

pub use fault::{Fault, Lines};
pub use ledger::{Ledger, Says};
pub use path::{Path, Segment};
pub use problem::{Effect, ObjectId, Problem, Severity, Source};
pub use strictness::Strictness;
pub use update::Update;
pub use words::{Field, Future, Known};
