//! The CNI plugin, and what it shares with the agent. A runtime starts the plugin for each sandbox, after the plugin that gives it
//! addresses and before its first process; it asks the node's agent to capture the pod, and the sandbox fails where that cannot be
//! done. Where no agent answers, a list that the agent keeps on the node decides.
//!
//! The plugin runs on the node itself, not in the agent's image: it is linked to nothing, has no token and asks no API server.
//! (CNI specification 1.1.0.)
//!
//! * [`plugin`]: one call of the runtime, decided. [`config`] and [`object`]: what it is given. [`failure`]: its errors.
//!   [`client`]: its question to the agent.
//! * [`protocol`] and [`namespaces`]: what plugin and agent say to each other.
//! * [`chain`]: the configuration by which a runtime comes to the plugin.

pub mod chain;
pub mod client;
pub mod config;
pub mod failure;
pub mod namespaces;
pub mod object;
pub mod plugin;
pub mod protocol;
