//! The release of a pod: from the first connection that is not captured any more to the last trace of the mesh. [`step`] decides,
//! [`super::enrolled`] does.
//!
//! ```text
//!              nothing that its applications              nothing is captured,
//!              opened is captured                         or the deadline
//! steered --------------------------------------> open ---------------------------> torn ----> gone
//!   | ^                                            | |                               ^ ^
//!   | +-- Keep ------------------------------------+ +-- wanted in another form -----+ |
//!   +-- the deadline; or nothing is captured of one that is wanted in another form ----+
//! ```
//! What must hold: a pod is open only while its node says that it is outside the mesh, and while no captured connection of its
//! applications is left: an application that listens in the pod would get it instead of the tunnel. Who calls a pod without a
//! pause has always another captured connection while it is steered, so the steering ends before they are waited for.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use underpass_abi::Phase;
use underpass_core::resolve::Local;

use super::{Event, LOOK_AGAIN, PodUid, Pods, Result, enrolled::EnrolledPod, state::State};
use crate::datapath::DataPath;

/// The interval between two looks at a pod in release.
const LOOK: Duration = Duration::from_millis(100);
/// The time before the first look. By then callers on other nodes know that it takes no new tunnels, and every connect() that
/// was decided on before is an open connection.
pub(super) const CALLERS_HEAR: Duration = Duration::from_secs(1);

/// What a look at a pod in release finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    /// What arrives is steered to the tunnel.
    steered: bool,
    /// It is to be outside the mesh. Otherwise it is wanted in another form, and enrolled anew.
    leaves: bool,
    /// Captured sockets of connections that its applications opened.
    outbound: usize,
    /// All captured sockets.
    all: usize,
}

/// The next step of a release whose deadline is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Wait,
    EndSteering,
    /// What is captured is destroyed.
    TakeDown,
    /// Nothing is captured: rules and routes are all that is left.
    Undo,
}

const fn step(look: &Look) -> Step {
    match *look {
        Look { steered: true, leaves: true, outbound: 0, .. } => Step::EndSteering,
        Look { steered: true, leaves: false, all: 0, .. } => Step::TakeDown,
        Look { steered: true, .. } => Step::Wait,
        // Wanted again: meanwhile it would take anything in the clear.
        Look { leaves: false, .. } => Step::TakeDown,
        Look { all: 0, .. } => Step::Undo,
        Look { .. } => Step::Wait,
    }
}

impl<D: DataPath> Pods<D> {
    pub(super) fn release(&mut self, uid: &PodUid, now: Instant) {
        if let Some(State::Enrolled(enrolled)) = self.pods.remove(uid) {
            self.begin_release(Arc::clone(uid), enrolled, true, false, now);
        }
    }

    /// `steered`, `torn`: as in [`State::Releasing`].
    pub(super) fn begin_release(
        &mut self,
        uid: PodUid,
        mut enrolled: Box<EnrolledPod>,
        steered: bool,
        torn: bool,
        now: Instant,
    ) {
        tracing::info!(pod = %enrolled.pod.name, cookie = enrolled.kernel.cookie.0, "pod release started");
        enrolled.kernel.phase = Phase::RELEASING;
        let deadline = now + self.settings.drain;
        let again = if torn { now } else { deadline.min(now + CALLERS_HEAR) };
        self.pods
            .insert(uid, State::Releasing { enrolled, deadline, steered, torn, halfway: false, again, problem: None });
    }

    /// Cancels a release. What it has taken down is set up again, also by a step that failed half-way.
    pub(super) fn keep(&mut self, uid: &PodUid, now: Instant) {
        let Some(State::Releasing { enrolled, steered, halfway, .. }) = self.pods.get_mut(uid) else { return };
        let untouched = *steered && !*halfway;
        let restored = if untouched { Ok(()) } else { enrolled.restore(&mut self.path, &self.settings, None) };
        self.kept(uid, restored, now);
    }

    /// `restored`: all that was taken down is set up again. A failure is tried again, and nothing more is taken down: a pod that
    /// nothing is known of would never be enrolled anew.
    pub(super) fn kept(&mut self, uid: &PodUid, restored: Result<()>, now: Instant) {
        let Some(State::Releasing { enrolled, halfway, again, problem, .. }) = self.pods.get_mut(uid) else { return };
        if let Err(e) = restored {
            tracing::warn!(pod = %enrolled.pod.name, error = %e, "cancelling the release of a pod failed");
            return (*halfway, *again, *problem) = (true, now + LOOK_AGAIN, Some(e.to_string()));
        }
        if let Some(State::Releasing { mut enrolled, steered, .. }) = self.pods.remove(uid) {
            tracing::info!(pod = %enrolled.pod.name, "pod release cancelled");
            enrolled.kernel.phase = Phase::ENROLLED;
            if !steered {
                (self.sink)(Event::Steered { cookie: enrolled.kernel.cookie, steered: true });
            }
            self.pods.insert(Arc::clone(uid), State::Enrolled(enrolled));
        }
    }

    /// Takes the next step of a release.
    pub(super) fn continue_release(&mut self, uid: &PodUid, now: Instant) {
        let leaves = self.leaving || self.local(uid).is_some_and(|pod| pod.local == Local::Released);
        let Some(State::Releasing { enrolled, deadline, steered, torn, halfway, again, problem }) =
            self.pods.get_mut(uid)
        else {
            return;
        };
        *again = now + LOOK;
        let (marks, cookie) = (self.settings.marks, enrolled.kernel.cookie);
        if self.there.pod(cookie).is_some_and(|pod| pod.phase == Phase::ENROLLED) {
            *problem = self.failures.get(&Some(cookie)).cloned(); // connections are still being captured
            return;
        }
        let next = if *torn || *deadline <= now {
            Ok(Step::TakeDown)
        } else {
            let look = |[outbound, all]: [usize; 2]| Look { steered: *steered, leaves, outbound, all };
            enrolled.count_captured(marks).map(|counted| step(&look(counted)))
        };
        match next {
            Ok(Step::Wait) => {}
            Ok(Step::EndSteering) => {
                // Said first: while the node says that it is captured, it is.
                (self.sink)(Event::Steered { cookie, steered: false });
                match enrolled.end_steering(&mut self.path, marks) {
                    Ok(()) => (*steered, *halfway, *problem) = (false, false, None),
                    Err(e) => {
                        (*halfway, *problem) = (true, Some(e.to_string()));
                        (self.sink)(Event::Steered { cookie, steered: true });
                    }
                }
            }
            Ok(Step::TakeDown) => self.take_down(uid, false, now),
            Ok(Step::Undo) => self.take_down(uid, true, now),
            Err(e) => *problem = Some(e.to_string()),
        }
    }

    /// Takes everything down, in an order in which nothing goes on in the clear that began in the mesh. `drained`: nothing is
    /// captured. A look at the sockets of one namespace costs one at those of all, so that they are not listed again.
    fn take_down(&mut self, uid: &PodUid, drained: bool, now: Instant) {
        let Some(State::Releasing { enrolled, torn, again, problem, .. }) = self.pods.get_mut(uid) else { return };
        *torn = true;
        let (marks, cookie) = (self.settings.marks, enrolled.kernel.cookie);
        (self.sink)(Event::Steered { cookie, steered: false });
        let ops = self.there.without_pod(cookie);
        let outcome = (|| -> Result<usize> {
            if drained { enrolled.undo(marks) } else { enrolled.take_down(&mut self.path, marks) }?;
            self.path.apply(&ops)?;
            ops.iter().for_each(|op| self.there.apply(op));
            enrolled.remove_listeners(&mut self.path)?;
            // Connections that the tunnel accepted meanwhile.
            Ok(enrolled.destroy_captured(marks)?)
        })();
        match outcome {
            Ok(ended) => {
                tracing::info!(pod = %enrolled.pod.name, ended, "pod released");
                let name = enrolled.pod.name.clone();
                self.pods.remove(uid);
                (self.sink)(Event::Removed { name, cookie });
            }
            Err(e) => {
                tracing::warn!(pod = %enrolled.pod.name, error = %e, "releasing a pod failed");
                (*again, *problem) = (now + LOOK_AGAIN, Some(e.to_string()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step() {
        let check = |steered, leaves, [outbound, all]: [usize; 2], expected| {
            let look = Look { steered, leaves, outbound, all };
            assert_eq!(step(&look), expected, "{look:?}");
        };
        // Callers go on and on.
        check(true, true, [0, 6], Step::EndSteering);
        check(false, true, [0, 6], Step::Wait);
        check(false, true, [0, 0], Step::Undo);
        // No call: what was accepted a moment ago is counted at the next look.
        check(true, true, [0, 0], Step::EndSteering);
        // What applications opened is steered to the tunnel until it has ended.
        check(true, true, [2, 2], Step::Wait);
        check(true, true, [2, 8], Step::Wait);
        check(false, true, [2, 8], Step::Wait);
        // Wanted with other addresses: nothing arrives in the clear.
        check(true, false, [0, 6], Step::Wait);
        check(true, false, [2, 8], Step::Wait);
        check(true, false, [0, 0], Step::TakeDown);
        for captured in [[0, 0], [0, 6], [2, 8]] {
            check(false, false, captured, Step::TakeDown);
        }
    }
}
