//! The next step for each pod of this node, as a pure function of the wanted state, the actual state and the time.
//!
//! ```text
//!              Enrol fails             Enrol succeeds
//!   (none) ------------> Waiting ----------------------> Enrolled
//!     ^  ^                 |  Forget: not wanted          |  ^ |
//!     |  +-----------------+                      Release |  | | its sandbox ended
//!     |                                                   v  | |
//!     |   Continue: drained, torn down                Releasing| Purge
//!     +--------------------------------------------------+-----+
//!                                      (Keep: wanted again, or nothing is known of it, before anything was torn down)
//! ```
//! What must hold: a pod whose object is gone, or has ended, is kept as it is until its sandbox ends: what still runs there
//! is captured and refused, never let past the mesh. Only an object that says that it is not in the mesh releases its pod. So a
//! release goes on only while the object says that, or wants the pod in another form; otherwise it is cancelled, and until that
//! succeeds nothing more is taken down.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Instant};

use underpass_core::Few;

/// `metadata.uid` of a pod.
pub type PodUid = Arc<str>;

/// The wanted state of a pod of this node. Absent: as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// In the mesh, with these addresses.
    Enrolled {
        /// status.podIPs.
        addresses: Few<IpAddr>,
    },
    /// Present, and not in the mesh.
    Released,
}

/// The actual state of a pod. Absent: nothing was done yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actual {
    /// Its enrolment failed, and is tried again.
    Waiting {
        /// The time of the next try.
        again: Instant,
    },
    /// In the mesh.
    Enrolled {
        /// The addresses that it was enrolled with.
        addresses: Few<IpAddr>,
        /// Its sandbox is gone.
        ended: bool,
    },
    /// In release.
    Releasing {
        /// The addresses that it was enrolled with.
        addresses: Few<IpAddr>,
        /// Its sandbox is gone.
        ended: bool,
        /// Something has been torn down: there is no way back.
        torn: bool,
        /// A step failed half-way, or was not taken back.
        halfway: bool,
        /// The time of the next look.
        again: Instant,
    },
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Find its sandbox and set everything up.
    Enrol(PodUid),
    /// Find its sandbox; an orphan is in release from then on.
    Adopt(PodUid),
    /// Stop capturing.
    Release(PodUid),
    /// Capture again: it stays in the mesh.
    Keep(PodUid),
    /// Take the next step of the release.
    Continue(PodUid),
    /// Remove everything of it: its sandbox is gone.
    Purge(PodUid),
    /// Wait for it no longer.
    Forget(PodUid),
}

/// The steps that are due, at most one for each pod. `orphans`: there are some.
#[must_use]
pub fn plan(
    wanted: &BTreeMap<PodUid, Wanted>,
    actual: &BTreeMap<PodUid, Actual>,
    orphans: bool,
    now: Instant,
) -> Vec<Action> {
    let fresh = wanted.iter().filter(|(uid, _)| !actual.contains_key(*uid));
    let fresh = fresh.filter_map(|(uid, wanted)| match wanted {
        Wanted::Enrolled { .. } => Some(Action::Enrol(Arc::clone(uid))),
        Wanted::Released => orphans.then(|| Action::Adopt(Arc::clone(uid))),
    });
    let known = actual.iter().filter_map(|(uid, actual)| {
        let step = step(wanted.get(uid), actual, now)?;
        Some(step(Arc::clone(uid)))
    });
    fresh.chain(known).collect()
}

fn step(wanted: Option<&Wanted>, actual: &Actual, now: Instant) -> Option<fn(PodUid) -> Action> {
    let enrolled_with =
        |with: &[IpAddr]| matches!(wanted, Some(Wanted::Enrolled { addresses }) if are_the_same(addresses, with));
    match actual {
        Actual::Enrolled { ended: true, .. } | Actual::Releasing { ended: true, .. } => Some(Action::Purge),
        Actual::Waiting { again } => match wanted {
            Some(Wanted::Enrolled { .. }) => (*again <= now).then_some(Action::Enrol as _),
            _ => Some(Action::Forget),
        },
        Actual::Enrolled { addresses, .. } if wanted.is_none() || enrolled_with(addresses) => None,
        // Not wanted, or with other addresses: then it is enrolled anew.
        Actual::Enrolled { .. } => Some(Action::Release),
        Actual::Releasing { addresses, torn: false, halfway, again, .. }
            if wanted.is_none() || enrolled_with(addresses) =>
        {
            (!halfway || *again <= now).then_some(Action::Keep as _)
        }
        Actual::Releasing { again, .. } => (*again <= now).then_some(Action::Continue as _),
    }
}

/// The same addresses, in any order: a runtime may list them in another one than the object does.
fn are_the_same(some: &[IpAddr], others: &[IpAddr]) -> bool {
    some.len() == others.len() && some.iter().all(|ip| others.contains(ip))
}

/// The time of the next step, if nothing happens before.
#[must_use]
pub(super) fn next_due(actual: &BTreeMap<PodUid, Actual>) -> Option<Instant> {
    let due = actual.values().filter_map(|actual| match actual {
        Actual::Waiting { again } | Actual::Releasing { again, .. } => Some(*again),
        Actual::Enrolled { .. } => None,
    });
    due.min()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const A: [u8; 4] = [10, 0, 0, 1];
    const B: [u8; 4] = [10, 0, 0, 2];

    fn enrolled(address: [u8; 4]) -> Option<Wanted> {
        Some(Wanted::Enrolled { addresses: Few::one(address.into()) })
    }

    #[test]
    fn every_actual_and_wanted_state() {
        let now = Instant::now();
        let (past, future) = (now, now + Duration::from_secs(1));
        let is = |ended| Some(Actual::Enrolled { addresses: Few::one(A.into()), ended });
        let at = |ended, torn, halfway, again| {
            let addresses = Few::one(A.into());
            Some(Actual::Releasing { addresses, ended, torn, halfway, again })
        };
        let out = |ended, torn, again| at(ended, torn, false, again);
        let half = |again| at(false, false, true, again);
        let waits = |again| Some(Actual::Waiting { again });
        let released = || Some(Wanted::Released);
        let check = |wanted: Option<Wanted>, actual: Option<Actual>, expected: Option<fn(PodUid) -> Action>| {
            let uid: PodUid = "u".into();
            let map = |v: Option<Wanted>| v.into_iter().map(|v| (Arc::clone(&uid), v)).collect();
            let there: BTreeMap<_, _> = actual.clone().into_iter().map(|v| (Arc::clone(&uid), v)).collect();
            let expected: Vec<_> = expected.into_iter().map(|step| step(Arc::clone(&uid))).collect();
            assert_eq!(plan(&map(wanted.clone()), &there, false, now), expected, "{wanted:?} {actual:?}");
        };
        check(None, None, None);
        check(released(), None, None);
        check(enrolled(A), None, Some(Action::Enrol));
        // a sandbox that does not exist yet
        check(enrolled(A), waits(future), None);
        check(enrolled(A), waits(past), Some(Action::Enrol));
        check(released(), waits(future), Some(Action::Forget));
        check(None, waits(future), Some(Action::Forget));
        // enrolled
        check(enrolled(A), is(false), None);
        check(enrolled(B), is(false), Some(Action::Release));
        check(released(), is(false), Some(Action::Release));
        check(None, is(false), None); // the object is gone, the sandbox lives
        for wanted in [None, released(), enrolled(A), enrolled(B)] {
            check(wanted.clone(), is(true), Some(Action::Purge));
            check(wanted.clone(), out(true, false, future), Some(Action::Purge));
            check(wanted, out(true, true, future), Some(Action::Purge));
        }
        // on the way out
        check(released(), out(false, false, future), None);
        check(released(), out(false, false, past), Some(Action::Continue));
        check(enrolled(A), out(false, false, future), Some(Action::Keep));
        check(None, out(false, false, future), Some(Action::Keep));
        check(enrolled(B), out(false, false, past), Some(Action::Continue));
        check(enrolled(A), out(false, true, past), Some(Action::Continue));
        check(enrolled(A), out(false, true, future), None);
        check(None, out(false, true, past), Some(Action::Continue));
        // cancelled, whenever it is: nothing is taken down
        for again in [past, future] {
            check(enrolled(A), out(false, false, again), Some(Action::Keep));
            check(None, out(false, false, again), Some(Action::Keep));
        }
        // a step, or its being taken back, failed half-way
        check(enrolled(A), half(past), Some(Action::Keep));
        check(None, half(past), Some(Action::Keep));
        for wanted in [None, released(), enrolled(A), enrolled(B)] {
            check(wanted, half(future), None);
        }
        check(released(), half(past), Some(Action::Continue));
        check(enrolled(B), half(past), Some(Action::Continue));
        check(None, at(true, false, true, future), Some(Action::Purge));
    }

    #[test]
    fn the_order_of_addresses_is_nothing() {
        let now = Instant::now();
        let check = |wanted: &[[u8; 4]], is: &[[u8; 4]], expected: bool| {
            let list = |of: &[[u8; 4]]| of.iter().map(|ip| IpAddr::from(*ip)).collect();
            let wanted = BTreeMap::from([("u".into(), Wanted::Enrolled { addresses: list(wanted) })]);
            let is = BTreeMap::from([("u".into(), Actual::Enrolled { addresses: list(is), ended: false })]);
            assert_eq!(plan(&wanted, &is, false, now).is_empty(), expected, "{wanted:?} {is:?}");
        };
        check(&[A, B], &[A, B], true);
        check(&[A, B], &[B, A], true);
        check(&[A], &[A, B], false);
        check(&[A, B], &[A], false);
    }

    #[test]
    fn what_an_earlier_agent_left_is_looked_for() {
        let now = Instant::now();
        let uid: PodUid = "u".into();
        let wanted = BTreeMap::from([(Arc::clone(&uid), Wanted::Released)]);
        assert_eq!(plan(&wanted, &BTreeMap::new(), true, now), [Action::Adopt(Arc::clone(&uid))]);
        let waiting = BTreeMap::from([(uid, Actual::Waiting { again: now })]);
        assert_eq!(next_due(&waiting), Some(now));
        assert_eq!(next_due(&BTreeMap::new()), None);
    }
}
