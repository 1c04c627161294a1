//! The API server as a door, and what control writes back.
//!
//! * [`client`]: how an API server is found and asked.
//! * [`daemon_set`]: a DaemonSet's pod on each node, and how it fares.
//! * [`door`]: objects of core and their changes, as [`Update`](underpass_door::Update)s.
//! * [`lease`]: which of several replicas leads.
//! * [`pods`]: the pods of a component, and where they run.
//! * [`port_forward`]: a stream to a port of a pod.
//! * [`look`]: one pod on one node, for its output.
//! * [`review`]: whose a bearer token is.
//! * [`survey`]: a cluster as it is at one moment.
//! * [`mod@write`]: what is written into the cluster.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub mod client;
pub mod daemon_set;
pub mod door;
pub mod lease;
pub mod look;
pub mod pods;
pub mod port_forward;
pub mod review;
pub mod survey;
pub mod write;

pub use client::{Access, Client};
pub use door::{Door, Overtaken, Selection};
pub use lease::{Election, Leadership};
