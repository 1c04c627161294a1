//! The recorder of a decision's steps. The deciding functions take a [`Trace`]; a connection passes `&mut ()`, which
//! compiles to nothing, `explain` passes a `Vec<Step>`. There is no second implementation of any decision to explain.

use serde::{Deserialize, Serialize};

use crate::ObjectKey;

/// The stage of a decision, in the order in which a connection passes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The names of source and destination.
    Resolve,
    /// Whether a pod is in the mesh.
    Enrolment,
    /// The kernel's decision about the connect().
    Capture,
    /// The route that the tunnel chooses.
    Route,
    /// The route of a request.
    Http,
    /// The route of a connection that is no HTTP.
    Tcp,
    /// Whether the destination requires mutual TLS.
    PeerAuthentication,
    /// The verdict of the policies.
    Authorization,
}

impl Stage {
    /// As printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Enrolment => "enrolment",
            Self::Capture => "capture",
            Self::Route => "route",
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::PeerAuthentication => "peer-authentication",
            Self::Authorization => "authorization",
        }
    }
}

/// One step of a decision: an object, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The stage it belongs to.
    pub stage: Stage,
    /// The object that decided, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectKey>,
    /// The outcome, for people.
    pub says: String,
}

/// A recorder of the steps of a decision.
pub trait Trace {
    /// Takes one step. `step` is called only by a recorder that keeps it.
    fn step(&mut self, step: impl FnOnce() -> Step);

    /// A step, from its parts.
    fn say(&mut self, stage: Stage, object: Option<&ObjectKey>, says: impl FnOnce() -> String) {
        self.step(|| Step { stage, object: object.cloned(), says: says() });
    }
}

impl Trace for () {
    #[inline]
    fn step(&mut self, _: impl FnOnce() -> Step) {}
}

impl Trace for Vec<Step> {
    fn step(&mut self, step: impl FnOnce() -> Step) {
        self.push(step());
    }
}
