//! What is still to be looked at: policies that are new or have changed, each with the time when it is due. Pure: times are
//! arguments.
//!
//! What must hold: of a policy only the newest version waits; one that fails again and again waits ever longer and holds
//! up no other; and what another writer has made of our conditions is not fought over.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::{Duration, Instant},
};

use underpass_core::ObjectKey;
use underpass_kube::write::{Condition, Conditioned, Statuses};

/// The pause between two writes: 20 a second, however many policies there are.
const PACE: Duration = Duration::from_millis(50);
/// The pause after the first failure of a policy, and the longest one.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);

/// The policies that wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<ObjectKey, Waiting>,
    /// Their keys, the next one first.
    order: BTreeSet<(Instant, ObjectKey)>,
    /// Of each policy, what its conditions were set to last.
    done: BTreeMap<ObjectKey, u64>,
    /// No write before this.
    not_before: Option<Instant>,
}

/// A policy that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The policy.
    pub(super) found: Conditioned,
    due: Instant,
    /// Looks in vain since it last changed.
    failures: u32,
    /// A failure of a write was logged since then.
    pub(super) is_told: bool,
}

impl Queue {
    /// Takes what is new.
    pub(super) fn take(&mut self, change: Statuses, now: Instant) {
        let new = |found| Waiting { found, due: now, failures: 0, is_told: false };
        match change {
            Statuses::One(found) => self.put(new(*found)),
            Statuses::Gone(key) => {
                self.remove(&key);
                self.done.remove(&key);
            }
            Statuses::All(kind, all) => {
                let keys: BTreeSet<&ObjectKey> = all.iter().map(|found| &found.claim.key).collect();
                let is_gone = |key: &ObjectKey| key.kind == kind && !keys.contains(key);
                self.done.retain(|key, _| !is_gone(key));
                let gone: Vec<_> = self.waiting.keys().filter(|key| is_gone(key)).cloned().collect();
                gone.iter().for_each(|key| drop(self.remove(key)));
                all.into_iter().for_each(|found| self.put(new(found)));
            }
        }
    }

    /// The time when the next one is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let (due, _) = self.order.first()?;
        Some(self.not_before.map_or(*due, |pause| pause.max(*due)))
    }

    /// The next one, if one is due.
    pub(super) fn next(&mut self, now: Instant) -> Option<Waiting> {
        if self.due()? > now {
            return None;
        }
        let (_, key) = self.order.first()?.clone();
        self.remove(&key)
    }

    /// It is to be looked at again, ever later.
    pub(super) fn again(&mut self, waiting: Waiting, now: Instant) {
        let failures = waiting.failures.saturating_add(1);
        let due = now.checked_add(delay(failures)).unwrap_or(now);
        self.put(Waiting { due, failures, ..waiting });
    }

    fn put(&mut self, waiting: Waiting) {
        let key = waiting.found.claim.key.clone();
        self.remove(&key);
        self.order.insert((waiting.due, key.clone()));
        self.waiting.insert(key, waiting);
    }

    fn remove(&mut self, key: &ObjectKey) -> Option<Waiting> {
        let waiting = self.waiting.remove(key)?;
        self.order.remove(&(waiting.due, key.clone()));
        Some(waiting)
    }

    /// A write was sent: the next one follows after a pause.
    pub(super) fn wrote(&mut self, now: Instant) {
        self.not_before = now.checked_add(PACE);
    }

    /// Its conditions are these.
    pub(super) fn done(&mut self, found: &Conditioned, conditions: &[Condition]) {
        self.done.insert(found.claim.key.clone(), fingerprint(found, conditions));
    }

    /// Its conditions have been set to these already: who changed them since then is another writer.
    pub(super) fn is_done(&self, found: &Conditioned, conditions: &[Condition]) -> bool {
        self.done.get(&found.claim.key) == Some(&fingerprint(found, conditions))
    }
}

fn fingerprint(found: &Conditioned, conditions: &[Condition]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&found.uid, found.generation, conditions).hash(&mut hasher);
    hasher.finish()
}

fn delay(failures: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    FIRST.saturating_mul(doubled).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use underpass_core::Kind;

    use super::*;

    const KIND: Kind = Kind::AuthorizationPolicy;

    fn found(name: &str, uid: &str, generation: u32) -> Conditioned {
        let text = format!(
            r#"{{"apiVersion": "security.istio.io/v1", "metadata": {{"name": "{name}", "namespace": "a", "uid": "{uid}", "generation": {generation}}}, "spec": {{}}}}"#
        );
        Conditioned::read(KIND, &text).unwrap()
    }

    fn one(name: &str, generation: u32) -> Statuses {
        Statuses::One(Box::new(found(name, "u", generation)))
    }

    struct Scene {
        queue: Queue,
        start: Instant,
    }

    impl Scene {
        fn new() -> Self {
            Self { queue: Queue::default(), start: Instant::now() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn take(&mut self, change: Statuses, ms: u64) {
            self.queue.take(change, self.at(ms));
        }

        /// Name and generation of the next one.
        fn next(&mut self, ms: u64) -> Option<(String, i64)> {
            let waiting = self.queue.next(self.at(ms))?;
            Some((waiting.found.claim.key.name.name().to_owned(), waiting.found.generation))
        }

        fn due(&self) -> Option<u64> {
            Some((self.queue.due()? - self.start).as_millis() as u64)
        }
    }

    #[test]
    fn of_each_policy_the_newest_waits() {
        let mut scene = Scene::new();
        assert_eq!((scene.due(), scene.next(0)), (None, None));
        for (name, generation) in [("p", 1), ("q", 1), ("p", 2)] {
            scene.take(one(name, generation), 5);
        }
        assert_eq!((scene.due(), scene.next(4)), (Some(5), None));
        assert_eq!([scene.next(5), scene.next(5)], [Some(("p".into(), 2)), Some(("q".into(), 1))]);
        assert_eq!(scene.next(5), None);
        scene.take(one("p", 3), 6);
        scene.take(Statuses::Gone(found("p", "u", 3).claim.key), 6);
        assert_eq!((scene.due(), scene.next(6)), (None, None));
        // all of a kind take the place of all of it
        scene.take(one("p", 4), 7);
        scene.take(Statuses::All(Kind::PeerAuthentication, Vec::new()), 7);
        scene.take(Statuses::All(KIND, vec![found("r", "u", 1)]), 7);
        assert_eq!([scene.next(7), scene.next(7)], [Some(("r".into(), 1)), None]);
    }

    #[test]
    fn writes_keep_a_distance_and_failures_hold_up_no_other() {
        let mut scene = Scene::new();
        for name in ["p", "q"] {
            scene.take(one(name, 1), 0);
        }
        let failed = scene.queue.next(scene.at(0)).unwrap();
        scene.queue.wrote(scene.at(10));
        scene.queue.again(failed, scene.at(10));
        assert_eq!((scene.due(), scene.next(59)), (Some(60), None));
        assert_eq!(scene.next(60), Some(("q".into(), 1)));
        assert_eq!(scene.due(), Some(110));
        let failed = scene.queue.next(scene.at(110)).unwrap();
        assert_eq!(failed.failures, 1);
        scene.queue.again(failed, scene.at(110));
        assert_eq!(scene.due(), Some(310));
        // a new version is looked at at once
        scene.take(one("p", 2), 120);
        assert_eq!((scene.due(), scene.next(120)), (Some(120), Some(("p".into(), 2))));
        assert_eq!([1, 2, 5, 99].map(|n| delay(n).as_millis()), [100, 200, 1_600, 60_000]);
    }

    #[test]
    fn what_was_set_once_is_not_fought_over() {
        let mut scene = Scene::new();
        let condition = |message: &str| Condition { r#type: "t", is_true: true, reason: "r", message: message.into() };
        let (is, other) = ([condition("m")], [condition("n")]);
        let queue = &mut scene.queue;
        assert!(!queue.is_done(&found("p", "u", 1), &is));
        queue.done(&found("p", "u", 1), &is);
        assert!(queue.is_done(&found("p", "u", 1), &is));
        assert!(!queue.is_done(&found("p", "u", 2), &is), "another generation");
        assert!(!queue.is_done(&found("p", "v", 1), &is), "another object");
        assert!(!queue.is_done(&found("p", "u", 1), &other));
        assert!(!queue.is_done(&found("q", "u", 1), &is));
        queue.take(Statuses::Gone(found("p", "u", 1).claim.key), Instant::now());
        assert!(!queue.is_done(&found("p", "u", 1), &is));
    }
}
