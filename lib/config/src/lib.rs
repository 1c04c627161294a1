//! The shapes that users write, their conversion to objects of core, and the manifests door.
//!
//! * [`yaml`]: text to trees, read as kubectl reads it.
//! * [`shapes`]: Kubernetes and Istio objects as written, as far as the mesh reads them.
//! * [`convert`]: shapes to the types of core. Everything is validated here, once; what comes out is canonical.
//! * [`manifest`]: one file to objects and [`Problem`]s.
//! * [`json`]: one object of an API server to what its door observes.
//! * [`watch`](mod@watch): a directory, looked at whenever something in it changes.
//! * [`definitions`]: the mesh's own kinds, as an API server is told of them.
//! * [`door`]: a directory of files to [`Update`](underpass_door::Update)s, once or watched.
//!
//! What must hold: no input can cause a panic or cost more than its limits; one mistake never loses its neighbours;
//! every problem names file, document, object, field and reason; and nothing that cannot be understood ever widens
//! access.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub mod convert;
pub mod definitions;
pub mod door;
#[cfg(any(test, feature = "testing"))]
pub mod fuzz;
mod header;
mod hint;
pub mod json;
mod kinds;
pub mod manifest;
mod notices;
pub mod shapes;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod watch;
pub mod yaml;

pub use door::Door;
pub use hint::nearest;
pub use kinds::KNOWN;
pub use watch::Watch;
// Problems, in the words that every door has.
use underpass_door::{Effect, Fault, ObjectId, Path, Problem, RouteFault, Segment, Severity, path};
