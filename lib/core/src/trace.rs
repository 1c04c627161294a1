//! How a decision tells what it did. The deciding functions take a [`Trace`]; a connection passes `&mut ()`, which
//! compiles to nothing, `explain` passes a `Vec<Step>`. There is no second implementation of any decision to explain.

use serde::{Deserialize, Serialize};

use crate::ObjectKey;

/// Which question a step answers, in the order a connection meets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Who are source and destination?
    Resolve,
    /// Is this pod in the mesh?
    Enrolment,
    /// What does the kernel do with the connect()?
    Capture,
    /// Where does the tunnel carry it?
    Route,
    /// Does the destination insist on mutual TLS?
    PeerAuthentication,
    /// Do the policies allow it?
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
            Self::PeerAuthentication => "peer-authentication",
            Self::Authorization => "authorization",
        }
    }
}

/// One thing that was looked at and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The question.
    pub stage: Stage,
    /// The object that was looked at, if one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectKey>,
    /// What it says, for people.
    pub says: String,
}

/// Takes the steps of a decision.
pub trait Trace {
    /// `step` is called only where somebody listens.
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
