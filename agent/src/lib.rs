//! The node agent: finds and enrols this node's pods, fills the kernel's tables, requests certificates,
//! and embeds the tunnel.
//!
//! * [`pods`]: the pods of this node, and their set-up. [`tables`]: the World as kernel tables. [`datapath`]: the kernel, or
//!   memory, behind the tables.
//! * [`waypoints`]: the waypoints that it runs as its children.
//! * [`certs`]: the certificates of the pods on this node.
//! * [`node`]: all of these wired together, in some [`surroundings`]. [`preflight`]: the checks of the machine before any
//!   change.
//! * [`mod@check`]: would an agent work on this node?
//! * [`handover`]: the hand-over of a node from one agent to the next. [`cleanup`]: the removal of everything that agents left on a
//!   node.
//! * [`cni`]: the CNI plugin's other side.
//! * [`process`]: from the command line to the exit status.
//!   [`signals`], [`notify`]: signals to the process, notifications of the service manager.
//! * [`config`], [`admin`], [`reports`], [`metrics`], [`kernel_log`]: settings in, answers and numbers out.
//! * [`limits`]: the limit of open files and the budgets of pods. [`authority`]: the operator's command about the embedded CA.

pub mod admin;
pub mod authority;
pub mod certs;
pub mod check;
pub mod cleanup;
pub mod cluster;
pub mod cni;
pub mod config;
pub mod datapath;
pub mod handover;
pub mod kernel_log;
pub mod limits;
pub mod metrics;
pub mod mounts;
pub mod node;
pub mod notify;
pub mod pods;
pub mod preflight;
pub mod probe;
pub mod process;
pub mod reports;
pub mod signals;
pub mod source;
pub mod surroundings;
pub mod tables;
pub mod waypoints;
