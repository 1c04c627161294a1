//! Doors, the sources of configuration: what a directory of manifests, an API server and a control plane have in
//! common.
//!
//! * [`Update`]: the changes and problems that a door hands on.
//! * [`ledger`]: the served version of each object: the newest one, the last good one or a stand-in.
//! * [`Strictness`]: the treatment of unknown fields.
//! * [`problem`]: problems, each with its source, object, field, reason ([`Fault`], of resources [`ResourceFault`], of routes [`RouteFault`]) and
//!   effect.
//! * [`Versions`]: how far a source has been read.
//! * [`path`]: paths of fields in an object.
//!
//! What must hold: what cannot be understood never takes a good version away and never opens anything; and a problem
//! names its source, object, field and reason in one line, with control characters escaped.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod fault;
mod fault_text;
mod known;
pub mod ledger;
pub mod path;
pub mod problem;
mod resource;
mod route_fault;
mod strictness;
mod update;
mod versions;

pub use fault::{Fault, Lines};
pub use known::{Field, KnownKind, Support};
pub use ledger::{Ledger, Observation};
pub use path::{Path, Segment};
pub use problem::{Effect, ObjectId, Problem, Severity, Source};
pub use resource::ResourceFault;
pub use route_fault::RouteFault;
pub use strictness::Strictness;
pub use update::Update;
pub use versions::{Reached, Versions};
