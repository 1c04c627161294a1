//! The queue of dependencies whose open connections are still to be judged after a change. Its own file because it is pure: how
//! many are judged in one turn of the worker is [`super`]'s.
//!
//! ```text
//! add --> waiting, in order, each dependency once --first--> begun: connections by number, a few at a time --last--> done
//! ```
//! What must hold: every connection that a dependency had when it was added, and still has, is returned by [`Pending::next`]
//! before the position in line that [`Pending::last`] named then is done; also where the same dependencies are added again and
//! again.

use std::collections::{HashSet, VecDeque};

use super::index::{Dependency, Index};

/// Groups that wait, and one that has been begun.
#[derive(Debug, Default)]
pub(super) struct Pending {
    waiting: VecDeque<Dependency>,
    /// The waiting dependencies, to find them.
    waits: HashSet<Dependency>,
    /// With the number of the connection to go on from. One that is added again meanwhile waits again.
    begun: Option<(Dependency, u64)>,
    done: u64,
}

impl Pending {
    /// True where no connection is to be judged.
    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_none() && self.waiting.is_empty()
    }

    /// Adds a dependency: all of its connections are to be judged.
    pub(super) fn add(&mut self, dependency: Dependency) {
        if self.waits.insert(dependency.clone()) {
            self.waiting.push_back(dependency);
        }
    }

    /// The last position in line now, for [`Self::is_done`].
    pub(super) fn last(&self) -> u64 {
        self.done + self.waiting.len() as u64 + u64::from(self.begun.is_some())
    }

    /// True if everything up to this position has been judged.
    pub(super) const fn is_done(&self, position: u64) -> bool {
        self.done >= position
    }

    /// The connections to judge next, at most `most`. One may be among them more than once.
    pub(super) fn next(&mut self, index: &Index, most: usize) -> Vec<u64> {
        let mut found = Vec::new();
        while found.len() < most {
            let Some((dependency, from)) = self.begun.take().or_else(|| self.begin()) else { break };
            found.extend(index.members(&dependency, from).take(most - found.len()));
            match found.last() {
                Some(last) if found.len() == most => self.begun = Some((dependency, last + 1)),
                _ => self.done += 1,
            }
        }
        found
    }

    fn begin(&mut self) -> Option<(Dependency, u64)> {
        let dependency = self.waiting.pop_front()?;
        self.waits.remove(&dependency);
        Some((dependency, 0))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        net::{IpAddr, SocketAddr},
    };

    use proptest::{collection::vec, prelude::*};
    use underpass_core::{
        World,
        rejudge::{Basis, Judged, OutboundPath},
        world::{MeshSettings, Uid, Version},
    };

    use super::*;

    /// A plain connection of this pod.
    fn of_pod(pod: u8) -> Judged {
        let target = SocketAddr::from(([10, 0, 0, 9], 80));
        let from = IpAddr::from([10, 0, 0, pod]);
        let basis = Basis::Outbound { from, service: None, target, path: OutboundPath::Plain };
        Judged { pod: Uid::new(pod.to_string()), basis, judged_at: Version(1) }
    }

    fn dependency(pod: u8) -> Dependency {
        Dependency::Outbound(of_pod(pod).pod)
    }

    #[derive(Clone, Debug)]
    enum Step {
        Open(u8),
        End(usize),
        Add(u8),
        Next(usize),
        Ask,
    }

    fn some_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3u8).prop_map(Step::Open),
            1 => (0..8usize).prop_map(Step::End),
            2 => (0..3u8).prop_map(Step::Add),
            3 => (1..6usize).prop_map(Step::Next),
            1 => Just(Step::Ask),
        ]
    }

    /// True if no position is done before the connections that it has to wait for.
    fn is_kept(pending: &Pending, asked: &[(u64, BTreeSet<u64>)]) -> bool {
        asked.iter().all(|(position, owed)| !pending.is_done(*position) || owed.is_empty())
    }

    proptest! {
        #[test]
        fn a_position_is_done_after_its_connections_were_judged(steps in vec(some_step(), 0..80)) {
            let world = World::empty(MeshSettings::default());
            let (mut index, mut pending) = (Index::default(), Pending::default());
            let (mut open, mut id) = (BTreeMap::<u64, u8>::new(), 0);
            let mut owed = BTreeSet::new();
            let mut asked: Vec<(u64, BTreeSet<u64>)> = Vec::new();
            for step in steps {
                match step {
                    Step::Open(pod) => {
                        id += 1;
                        index.add(&world, id, &of_pod(pod));
                        open.insert(id, pod);
                    }
                    Step::End(n) => {
                        let Some((id, pod)) = open.iter().nth(n).map(|(id, pod)| (*id, *pod)) else { continue };
                        index.remove(id, &of_pod(pod));
                        open.remove(&id);
                        owed.remove(&id);
                        asked.iter_mut().for_each(|(_, owed)| owed.retain(|other| *other != id));
                    }
                    Step::Add(pod) => {
                        owed.extend(open.iter().filter(|(_, of)| **of == pod).map(|(id, _)| *id));
                        pending.add(dependency(pod));
                    }
                    Step::Next(most) => {
                        let answered = pending.next(&index, most);
                        prop_assert!(answered.len() <= most);
                        for id in answered {
                            owed.remove(&id);
                            asked.iter_mut().for_each(|(_, owed)| owed.retain(|other| *other != id));
                        }
                        prop_assert!(!pending.is_empty() || owed.is_empty(), "forgotten: {owed:?}");
                    }
                    Step::Ask => asked.push((pending.last(), owed.clone())),
                }
                prop_assert!(is_kept(&pending, &asked), "{pending:?} {asked:?}");
            }
            while !pending.is_empty() {
                let next: BTreeSet<u64> = pending.next(&index, 3).into_iter().collect();
                asked.iter_mut().for_each(|(_, owed)| owed.retain(|id| !next.contains(id)));
            }
            prop_assert!(asked.iter().all(|(position, _)| pending.is_done(*position)) && is_kept(&pending, &asked));
        }
    }

    #[test]
    fn a_dependency_that_is_added_again_and_again_is_judged() {
        let world = World::empty(MeshSettings::default());
        let (mut index, mut pending) = (Index::default(), Pending::default());
        for id in 0..100 {
            index.add(&world, id, &of_pod(1));
        }
        pending.add(dependency(1));
        let position = pending.last();
        let mut judged = BTreeSet::new();
        // More is added than is judged meanwhile.
        for _ in 0..20 {
            judged.extend(pending.next(&index, 10));
            pending.add(dependency(1));
            pending.add(dependency(2));
        }
        assert_eq!(judged.len(), 100);
        assert!(pending.is_done(position) && !pending.is_empty());
    }
}
