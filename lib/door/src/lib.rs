//! What every source of configuration has in common, whether it is a directory of manifests, an API server or a control
//! plane.
//!
//! * [`problem`]: what is wrong, where it was found, and what happens because of it; every reason is a [`Fault`].
//! * [`path`]: where in an object something is.
//!
//! What must hold: a problem names its source, object, field and reason in one line, whatever stands in the object.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod fault;
pub mod path;
pub mod problem;
mod words;

pub use fault::{Fault, Lines};
pub use path::{Path, Segment};
pub use problem::{Effect, ObjectId, Problem, Severity, Source};
pub use words::{Field, Future, Known};
