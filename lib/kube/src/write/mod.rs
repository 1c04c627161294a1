//! What is written into the cluster, each in one narrow way that is safe beside other writers: a Secret that is made
//! once, the ConfigMap of roots where it is ours, one annotation of one pod, events of pods, one taint of a node, our conditions
//! of a status.
//!
//! What must hold: of several writers of the same object all end with one content; nothing of another owner is
//! overwritten; and a pod that took the name of another is not touched.

mod config_map;
mod event;
mod node;
mod pod;
mod secret;
mod status;

pub use self::{
    config_map::{ROOT_CONFIG_MAP, ROOT_KEY, RootConfigMap},
    event::{EventType, PodEvent, Reporter},
    node::Untainted,
    pod::Annotated,
    secret::{Made, NewSecret, Secret, WatchedSecret},
    status::{Change, Condition, Conditioned, PutConditions, Statuses},
};

/// Who we are among the owners of fields.
pub(crate) const FIELD_MANAGER: &str = "underpass";
/// The label of what we own, and its value.
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// A patch whose nulls delete (RFC 7396).
pub(crate) const MERGE: &str = "application/merge-patch+json";
/// Attempts against other writers.
const ATTEMPTS: u32 = 4;
