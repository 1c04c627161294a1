//! Which open connections are still to be judged after a change. Its own file because it is pure: how many are judged in one
//! turn of the worker is [`super`]'s.
//!
//! ```text
//! add --> waiting, in order, each group once --first--> begun: connections by number, a few at a time --last--> done
//! ```
//! What must hold: every connection that a group had when it was added, and still has, is answered by [`Pending::next`] before
//! the place in line that [`Pending::last`] named then is done; also where the same groups are added again and again.

use std::collections::{HashSet, VecDeque};

use super::index::{Group, Index};

/// Groups that wait, and one that has been begun.
#[derive(Debug, Default)]
pub(super) struct Pending {
    waiting: VecDeque<Group>,
    /// What waits, to find it there.
    waits: HashSet<Group>,
    /// With the number of the connection to go on from. One that is added again meanwhile waits again.
    begun: Option<(Group, u64)>,
    done: u64,
}

impl Pending {
    /// Nothing is to be judged.
    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_none() && self.waiting.is_empty()
    }

    /// All connections of this group are to be judged.
    pub(super) fn add(&mut self, group: Group) {
        if self.waits.insert(group.clone()) {
            self.waiting.push_back(group);
        }
    }

    /// The last place in line now, for [`Self::is_done`].
    pub(super) fn last(&self) -> u64 {
        self.done + self.waiting.len() as u64 + u64::from(self.begun.is_some())
    }

    /// Everything up to this place has been judged.
    pub(super) const fn is_done(&self, place: u64) -> bool {
        self.done >= place
    }

    /// The connections to judge next, not more than `most`. One may be among them more than once.
    pub(super) fn next(&mut self, index: &Index, most: usize) -> Vec<u64> {
        let mut found = Vec::new();
        while found.len() < most {
            let Some((group, from)) = self.begun.take().or_else(|| self.begin()) else { break };
            found.extend(index.members(&group, from).take(most - found.len()));
            match found.last() {
                Some(last) if found.len() == most => self.begun = Some((group, last + 1)),
                _ => self.done += 1,
            }
        }
        found
    }

    fn begin(&mut self) -> Option<(Group, u64)> {
        let group = self.waiting.pop_front()?;
        self.waits.remove(&group);
        Some((group, 0))
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
        rejudge::{Judged, Over, Way},
        world::{MeshSettings, Uid, Version},
    };

    use super::*;

    /// A plain connection of this pod.
    fn of_pod(pod: u8) -> Judged {
        let target = SocketAddr::from(([10, 0, 0, 9], 80));
        let from = IpAddr::from([10, 0, 0, pod]);
        let way = Way::Outbound { from, service: None, target, over: Over::Plain };
        Judged { pod: Uid::new(pod.to_string()), way, judged_at: Version(1) }
    }

    fn group(pod: u8) -> Group {
        Group::Outbound(of_pod(pod).pod)
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

    /// What was asked for, at its place: the connections that are still owed to it.
    fn is_kept(pending: &Pending, asked: &[(u64, BTreeSet<u64>)]) -> bool {
        asked.iter().all(|(place, owed)| !pending.is_done(*place) || owed.is_empty())
    }

    proptest! {
        #[test]
        fn what_is_done_has_been_judged(steps in vec(some_step(), 0..80)) {
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
                        pending.add(group(pod));
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
            prop_assert!(asked.iter().all(|(place, _)| pending.is_done(*place)) && is_kept(&pending, &asked));
        }
    }

    #[test]
    fn what_is_added_again_and_again_starves_nobody() {
        let world = World::empty(MeshSettings::default());
        let (mut index, mut pending) = (Index::default(), Pending::default());
        for id in 0..100 {
            index.add(&world, id, &of_pod(1));
        }
        pending.add(group(1));
        let place = pending.last();
        let mut judged = BTreeSet::new();
        // More is added than is judged meanwhile.
        for _ in 0..20 {
            judged.extend(pending.next(&index, 10));
            pending.add(group(1));
            pending.add(group(2));
        }
        assert_eq!(judged.len(), 100);
        assert!(pending.is_done(place) && !pending.is_empty());
    }
}
