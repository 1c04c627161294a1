//! What is told about the pods of this node.

use std::sync::Arc;

use underpass_abi::{Cookie, limits::POD_ADDRESSES};

use super::{Event, PodUid, Pods, member::Member, state::State};
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

/// What is said about a pod that has added more addresses than the kernel is told of.
pub(super) fn too_many(addresses: usize) -> String {
    format!(
        "{addresses} addresses in its namespace, of which the kernel knows {POD_ADDRESSES}: its calls by the others are refused"
    )
}

impl<D: DataPath> Pods<D> {
    /// Every pod that there is something to say about.
    #[must_use]
    pub fn status(&self) -> Vec<PodStatus> {
        let of = |(uid, state): (&PodUid, &State)| {
            let (text, problem) = match state {
                State::Waiting { problem, .. } => ("waiting", Some(problem.clone())),
                State::Enrolled(member) => ("enrolled", self.problem_of(member)),
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

    /// Tells of pods that are not enrolled for want of room, where they are others than before.
    pub(super) fn tell_no_room(&mut self) {
        let waits = |state: &State| matches!(state, State::Waiting { no_room: true, .. });
        let waiting = self.pods.iter().filter(|(_, state)| waits(state));
        let pods: Vec<_> = waiting.filter_map(|(uid, _)| self.local(uid)).map(|pod| pod.name).collect();
        if pods != self.no_room {
            self.no_room.clone_from(&pods);
            (self.sink)(Event::NoRoom(pods));
        }
    }

    fn problem_of(&self, member: &Member) -> Option<String> {
        let own = self.failures.get(&Some(member.kernel.cookie));
        let everybodys = self.failures.get(&None).filter(|_| !member.is_announced());
        own.or(everybodys).cloned().or_else(|| member.kernel.too_many().map(too_many))
    }

    /// Why the data path is not as the World wants it.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.failures.values().next().map(String::as_str)
    }
}
