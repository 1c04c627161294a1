//! The control plane under many agents: what it holds, what a change costs it, and after which time every agent has heard of it.
//! The agents are another process, so that memory and CPU time of the two do not mix; of the machine they share the cores.
//!
//! ```text
//! this process                                                   the process of the agents
//! hand -> keeper -> facts -> streams --TLS, loopback--> agent 1 ... 200: receive, acknowledge, note the time
//!                                  <-----------stdout: name of a resource, and the times----'
//! ```
//! `subject` is the control plane, [`agents`] the other process, `measure` the numbers.

pub mod agents;
mod measure;
mod subject;

pub use measure::{CHANGE, GROWTH, control};
