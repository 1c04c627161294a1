//! The node agent: keeps the World, finds and enrols this node's pods, fills the kernel's tables, asks for certificates,
//! and embeds the tunnel.
//!
//! * [`keeper`]: the one task that owns the World.
//! * [`pods`]: which pods are here, and what is set up in them. [`tables`]: the World as kernel tables.
//!   [`datapath`]: who carries the tables out.
//! * [`certs`]: the certificates of the pods on this node.
//! * [`node`]: all of these wired together, in some [`surroundings`]. [`preflight`]: the checks of the machine, before anything is changed.
//! * [`handover`]: one agent serves a node, and another one takes over from it.
//! * [`cleanup`]: everything that agents left on a node, taken away.
//! * [`process`]: from the command line to the exit status. [`signals`], [`notify`]: who ends it, and who is told how it stands.
//! * [`config`], [`admin`], [`reports`], [`metrics`], [`kernel_log`]: settings in, answers and numbers out. [`authority`]: the operator's command
//!   about the embedded CA.

pub mod admin;
pub mod authority;
pub mod certs;
pub mod cleanup;
pub mod config;
pub mod datapath;
pub mod handover;
pub mod keeper;
pub mod kept;
pub mod kernel_log;
pub mod limits;
pub mod metrics;
pub mod node;
pub mod notify;
pub mod pods;
pub mod preflight;
pub mod process;
pub mod reports;
pub mod signals;
pub mod surroundings;
pub mod tables;
