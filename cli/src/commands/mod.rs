//! The commands, a file each: the request, and the style of the answer. Each has a pure function from the answer to its
//! text, so that the output is tested as data.

pub(crate) mod analyze;
pub(crate) mod ca;
pub(crate) mod certificates;
pub(crate) mod check;
pub(crate) mod config;
pub(crate) mod connections;
pub(crate) mod crd;
pub(crate) mod describe;
pub(crate) mod elsewhere;
pub(crate) mod explain;
pub(crate) mod findings;
pub(crate) mod install;
pub(crate) mod kube_inject;
pub(crate) mod label;
pub(crate) mod log;
pub(crate) mod manifest;
pub(crate) mod manual;
pub(crate) mod nodes;
pub(crate) mod policies;
pub(crate) mod profile;
pub(crate) mod proxy_config;
pub(crate) mod proxy_status;
pub(crate) mod services;
pub(crate) mod status;
pub(crate) mod uninstall;
pub(crate) mod verify;
pub(crate) mod version;
mod webhooks;
pub(crate) mod workloads;
