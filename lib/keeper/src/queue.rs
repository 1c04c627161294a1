//! The queue before the keeper: of each door one pending batch, coalesced by key, and the newest report. Its own file because it
//! is shared by two threads, and bounded.
//!
//! What must hold: a door with [`MOST_KEYS`] pending keys waits, and makes no other wait. An update is taken whole: changes
//! of one update become visible together. One that is larger by itself is let in where nothing else of its door waits.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use underpass_core::{
    ObjectKey,
    bulk::alternating,
    objects::{Batch, Change},
    world::{FactChange, FactKey, Facts, MeshSettings},
};
use underpass_telemetry::metrics::IntGauge;

use super::Report;

/// The limit of pending keys of one door.
pub(super) const MOST_KEYS: usize = 10_000;

/// An entry of the queue, as the keeper takes it.
#[derive(Debug)]
pub(super) enum Taken {
    /// Settings.
    Mesh(MeshSettings),
    /// The updates of one door, merged.
    Update { door: usize, batch: Batch, facts: Facts, report: Report },
    /// A door is gone, and nothing of it waits.
    Gone(usize),
}

/// Shared by the keeper and the doors.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Something waits, or a door is gone.
    work: Condvar,
    /// Something was taken.
    room: Condvar,
}

#[derive(Debug, Default)]
struct State {
    doors: Vec<Door>,
    mesh: Option<MeshSettings>,
    /// The keeper has ended.
    ended: bool,
}

#[derive(Debug)]
struct Door {
    changes: BTreeMap<ObjectKey, Change>,
    facts: BTreeMap<FactKey, FactChange>,
    report: Option<Report>,
    waiting: IntGauge,
    gone: Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gone {
    No,
    /// Gone, and the keeper does not know.
    Unreported,
    Reported,
}

impl State {
    fn next(&mut self, passed: &BTreeSet<usize>) -> Option<Taken> {
        if let Some(mesh) = self.mesh.take() {
            return Some(Taken::Mesh(mesh));
        }
        for (n, door) in self.doors.iter_mut().enumerate().filter(|(n, _)| !passed.contains(n)) {
            if let Some(report) = door.report.take() {
                // Each is of another key, so that their order says nothing.
                let batch = Batch { changes: alternating(door.changes.values()).cloned().collect() };
                let facts = Facts { changes: alternating(door.facts.values()).cloned().collect() };
                door.changes.clear();
                door.facts.clear();
                door.waiting.set(0);
                return Some(Taken::Update { door: n, batch, facts, report });
            }
            if door.gone == Gone::Unreported {
                door.gone = Gone::Reported;
                return Some(Taken::Gone(n));
            }
        }
        None
    }
}

impl Door {
    fn pending(&self) -> usize {
        self.changes.len() + self.facts.len()
    }
}

impl Queue {
    /// One more door: its number.
    pub(super) fn add(&self, waiting: IntGauge) -> usize {
        let mut state = self.lock();
        state.doors.push(Door {
            changes: BTreeMap::new(),
            facts: BTreeMap::new(),
            report: None,
            waiting,
            gone: Gone::No,
        });
        state.doors.len() - 1
    }

    /// Waits for room, and hands over: of two changes of one object or fact the later counts.
    pub(super) fn push(&self, door: usize, batch: Batch, facts: Facts, report: Report) {
        let full = |state: &mut State| {
            let waits = state.doors.get(door).map_or(0, Door::pending);
            !state.ended && waits > 0 && waits + batch.changes.len() + facts.changes.len() > MOST_KEYS
        };
        let mut state = self.room.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        if let Some(door) = state.doors.get_mut(door) {
            let key = |change: &Change| match change {
                Change::Put(object) => object.key(),
                Change::Remove(key) => key.clone(),
            };
            let key_of_fact = |change: &FactChange| match change {
                FactChange::Put(fact) => fact.key(),
                FactChange::Remove(key) => key.clone(),
            };
            door.changes.extend(batch.changes.into_iter().map(|change| (key(&change), change)));
            door.facts.extend(facts.changes.into_iter().map(|change| (key_of_fact(&change), change)));
            door.report = Some(report);
            door.waiting.set(i64::try_from(door.pending()).unwrap_or(i64::MAX));
        }
        self.work.notify_one();
    }

    /// Sets the settings of the mesh, from the next World on.
    pub(super) fn set_mesh(&self, mesh: MeshSettings) {
        self.lock().mesh = Some(mesh);
        self.work.notify_one();
    }

    /// Closes a door.
    pub(super) fn leave(&self, door: usize) {
        if let Some(door) = self.lock().doors.get_mut(door) {
            door.gone = Gone::Unreported;
        }
        self.work.notify_one();
    }

    /// Ends the queue with the keeper: no door waits for it.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.room.notify_all();
    }

    /// Takes the next entry: settings first, then the doors in their order, but for those that were `passed`. None: none came
    /// within `patience`.
    pub(super) fn take(&self, passed: &BTreeSet<usize>, patience: Option<Duration>) -> Option<Taken> {
        let mut state = self.lock();
        let mut taken = state.next(passed);
        while taken.is_none() {
            state = match patience {
                Some(Duration::ZERO) => return None,
                Some(patience) => {
                    let waited = self.work.wait_timeout(state, patience);
                    let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                    if timeout.timed_out() {
                        return None;
                    }
                    state
                }
                None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            taken = state.next(passed);
        }
        self.room.notify_all();
        taken
    }

    /// The number of pending keys of a door.
    #[cfg(test)]
    pub(super) fn waiting(&self, door: usize) -> usize {
        self.lock().doors.get(door).map_or(0, Door::pending)
    }

    /// Nothing is left half-done where a holder panics: every change of the state is one step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use underpass_core::testing::pod;
    use underpass_telemetry::metrics::Registry;

    use super::{super::meter::Meter, *};

    fn queue(doors: &[&'static str]) -> Queue {
        let (queue, meter) = (Queue::default(), Meter::new(&Registry::default()));
        for door in doors {
            let _ = queue.add(meter.waiting(door));
        }
        queue
    }

    fn pods(names: impl IntoIterator<Item = usize>, address: &str) -> Batch {
        names.into_iter().map(|n| pod(&format!("default/p{n}"), address).into()).collect()
    }

    fn taken(queue: &Queue, passed: &[usize]) -> String {
        match queue.take(&passed.iter().copied().collect(), Some(Duration::ZERO)) {
            None => "nothing".to_owned(),
            Some(Taken::Mesh(mesh)) => format!("settings {}", mesh.root_namespace),
            Some(Taken::Update { door, batch, .. }) => format!("{} of {door}", batch.changes.len()),
            Some(Taken::Gone(door)) => format!("{door} is gone"),
        }
    }

    #[test]
    fn what_is_taken_next() {
        let queue = queue(&["pods", "manifests"]);
        assert_eq!(taken(&queue, &[]), "nothing");
        queue.push(1, pods(0..3, "10.0.0.1"), Facts::default(), Report::default());
        queue.push(1, pods(2..5, "10.0.0.2"), Facts::default(), Report::default());
        queue.push(0, Batch::default(), Facts::default(), Report::default());
        for namespace in ["a", "b"] {
            queue.set_mesh(MeshSettings { root_namespace: namespace.into(), ..MeshSettings::default() });
        }
        assert_eq!(taken(&queue, &[]), "settings b", "the last ones");
        assert_eq!(taken(&queue, &[]), "0 of 0", "an answer, though nothing changes");
        queue.push(0, pods(0..1, "10.0.0.3"), Facts::default(), Report::default());
        assert_eq!(taken(&queue, &[0]), "5 of 1", "each door once, and each object once");
        queue.leave(0);
        assert_eq!(taken(&queue, &[]), "1 of 0", "the update of a door before its end");
        assert_eq!([taken(&queue, &[]), taken(&queue, &[])], ["0 is gone", "nothing"]);
    }

    #[test]
    fn of_two_changes_of_an_object_the_later_counts() {
        let queue = queue(&["manifests"]);
        let (mut batch, last) = (pods(0..1, "10.0.0.1"), pods(0..1, "10.0.0.2"));
        batch.remove(underpass_core::objects::Object::from(pod("default/p1", "")).key());
        queue.push(0, batch, Facts::default(), Report::default());
        queue.push(0, last.clone(), Facts::default(), Report::default());
        let Some(Taken::Update { batch, .. }) = queue.take(&BTreeSet::new(), None) else { panic!("nothing") };
        assert_eq!(batch.changes[..1], last.changes[..]);
        assert!(matches!(batch.changes[1..], [Change::Remove(_)]));
    }

    #[test]
    fn a_door_that_is_full_waits_and_makes_no_other_wait() {
        let queue = queue(&["pods", "manifests"]);
        let half = MOST_KEYS / 2;
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                (0..3).for_each(|n| {
                    queue.push(1, pods(n * half..(n + 1) * half, "10.0.0.1"), Facts::default(), Report::default())
                });
            });
            while queue.waiting(1) < MOST_KEYS {
                std::thread::yield_now();
            }
            queue.push(0, pods(0..1, "10.0.0.1"), Facts::default(), Report::default());
            assert!(!sender.is_finished());
            assert_eq!([taken(&queue, &[]), taken(&queue, &[])], ["1 of 0".to_owned(), format!("{MOST_KEYS} of 1")]);
        });
        assert_eq!(taken(&queue, &[]), format!("{half} of 1"));
        // One that is larger by itself is taken whole, and once nothing is taken any more no door waits.
        queue.push(1, pods(0..2 * MOST_KEYS, "10.0.0.1"), Facts::default(), Report::default());
        assert_eq!(queue.waiting(1), 2 * MOST_KEYS);
        queue.end();
        queue.push(1, pods(0..1, "10.0.0.1"), Facts::default(), Report::default());
    }
}
