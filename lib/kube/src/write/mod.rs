//! What is written into the cluster, each in one narrow way that is safe beside other writers: a Secret that is made
//! once, the ConfigMap of roots and the definitions of the mesh's kinds where they are ours, one annotation of one pod, events of
//! pods, one taint of a node, one label of a namespace, our conditions of a status, the roots of one webhook.
//!
//! What must hold: of several writers of the same object all end with one content; nothing of another owner is
//! overwritten; and a pod that took the name of another is not touched.

mod config_map;
mod definition;
mod event;
mod namespace;
mod node;
mod pod;
mod secret;
mod status;
mod webhook;

pub use self::{
    config_map::{ROOT_CONFIG_MAP, ROOT_KEY, RootConfigMap},
    definition::{AppliedDefinition, DefinitionState, FoundDefinition},
    event::{EventType, PodEvent, Reporter},
    namespace::Labelled,
    node::Untainted,
    pod::Annotated,
    secret::{Made, NewSecret, Secret, WatchedSecret},
    status::{Change, Condition, Conditioned, PutConditions, Statuses},
    webhook::{CaBundle, POLICY_WEBHOOK},
};

/// Who we are among the owners of fields.
pub(crate) const FIELD_MANAGER: &str = "underpass";
/// The label of what we own, and its value.
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// A patch that names all of our fields (server-side apply).
const APPLY: &str = "application/apply-patch+yaml";
/// A patch whose nulls delete (RFC 7396).
pub(crate) const MERGE: &str = "application/merge-patch+json";
/// Attempts against other writers.
const ATTEMPTS: u32 = 4;
