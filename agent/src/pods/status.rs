//! What is told about the pods of this node.

use std::sync::Arc;

use underpass_abi::Cookie;

use super::{PodUid, Pods, state::State};
use crate::datapath::DataPath;

/// How a pod stands, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodStatus {
    /// namespace/name; the uid where nothing says its name any more.
    pub name: String,
    /// metadata.uid.
    pub uid: PodUid,
    /// Its network namespace, once it was found.
    pub cookie: Option<Cookie>,
    /// `waiting`, `enrolled` or `releasing`.
    pub state: &'static str,
    /// Why it does not get on.
    pub problem: Option<String>,
}

impl<D: DataPath> Pods<D> {
    /// Every pod that there is something to say about.
    #[must_use]
    pub fn status(&self) -> Vec<PodStatus> {
        let of = |(uid, state): (&PodUid, &State)| {
            let (text, problem) = match state {
                State::Waiting { problem, .. } => ("waiting", Some(problem.clone())),
                State::Enrolled(member) if member.is_announced() => ("enrolled", None),
                State::Enrolled(_) => ("enrolled", self.problem.clone()),
                State::Releasing { problem, .. } => ("releasing", problem.clone()),
            };
            let member = state.member();
            let name = member.map(|member| member.pod.name.to_string());
            let name = name.or_else(|| self.local(uid).map(|pod| pod.name.to_string()));
            let cookie = member.map(|member| member.kernel.cookie);
            PodStatus {
                name: name.unwrap_or_else(|| uid.to_string()),
                uid: Arc::clone(uid),
                cookie,
                state: text,
                problem,
            }
        };
        self.pods.iter().map(of).collect()
    }

    /// Why the data path is not as the World wants it.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }
}
