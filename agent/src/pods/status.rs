//! The status of this node's pods, for people.

use std::sync::Arc;

use underpass_abi::{
    Cookie,
    limits::{POD_ADDRESSES, POD_PROBES},
};

use super::{Event, FAILURES_TO_WARN, PodUid, Pods, WaitingPod, enrolled::EnrolledPod, state::State};
use crate::datapath::DataPath;

/// The status of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodStatus {
    /// namespace/name; the uid where the name is not known any more.
    pub name: String,
    /// metadata.uid.
    pub uid: PodUid,
    /// Its network namespace, once it was found.
    pub cookie: Option<Cookie>,
    /// `waiting`, `enrolled` or `releasing`.
    pub state: &'static str,
    /// The error that keeps it in its state.
    pub problem: Option<String>,
}

/// The problem of a pod that has added more addresses than the kernel's table takes.
pub(super) fn too_many(addresses: usize) -> String {
    format!(
        "{addresses} addresses in its namespace, of which the kernel's table takes {POD_ADDRESSES}: its calls from the others are refused"
    )
}

/// The problem of a pod with more probe targets than the kernel's table takes.
fn too_many_probes(targets: usize) -> String {
    format!(
        "{targets} probe targets, of which the kernel's table takes {POD_PROBES}: probes of the others are judged as plaintext"
    )
}

impl<D: DataPath> Pods<D> {
    /// The status of every pod that is enrolled, in release, or waits.
    #[must_use]
    pub fn status(&self) -> Vec<PodStatus> {
        let of = |(uid, state): (&PodUid, &State)| {
            let (text, problem) = match state {
                State::Waiting { problem, .. } => ("waiting", Some(problem.clone())),
                State::Enrolled(enrolled) => ("enrolled", self.problem_of(enrolled)),
                State::Releasing { problem, .. } => ("releasing", problem.clone()),
            };
            let enrolled = state.enrolled();
            let name = enrolled.map(|enrolled| enrolled.pod.name.to_string());
            let name = name.or_else(|| self.local(uid).map(|pod| pod.name.to_string()));
            let cookie = enrolled.map(|enrolled| enrolled.kernel.cookie);
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

    /// Reports the pods that could not be enrolled, where they are others than before: for want of room at once, for another
    /// reason when it is time to warn.
    pub(super) fn report_waiting(&mut self) {
        let waits = |(uid, state): (&PodUid, &State)| match state {
            State::Waiting { failures, problem, no_room, .. } if *no_room || *failures > FAILURES_TO_WARN => {
                let (name, uid) = (self.local(uid)?.name, Arc::clone(uid));
                Some(WaitingPod { name, uid, problem: problem.clone(), no_room: *no_room })
            }
            _ => None,
        };
        let waiting: Vec<_> = self.pods.iter().filter_map(waits).collect();
        if waiting != self.waiting {
            self.waiting.clone_from(&waiting);
            (self.sink)(Event::Waiting(waiting));
        }
    }

    fn problem_of(&self, enrolled: &EnrolledPod) -> Option<String> {
        let own = self.failures.get(&Some(enrolled.kernel.cookie));
        let shared = self.failures.get(&None).filter(|_| !enrolled.is_announced());
        let addresses = || enrolled.kernel.too_many().map(too_many);
        own.or(shared).cloned().or_else(addresses).or_else(|| enrolled.kernel.too_many_probes().map(too_many_probes))
    }

    /// The first failure of the data path.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.failures.values().next().map(String::as_str)
    }
}
