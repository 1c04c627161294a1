//! Endpoints among which one method chooses: a priority's, or those of one of its shares.

use std::time::Duration;

use super::{
    Method,
    hash::{self, below, mix},
    host::{Host, Hosts, WARM, warm},
    maglev::Maglev,
    ring::Ring,
    turns::Turns,
};
use crate::objects::Warmup;

/// An endpoint of a pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) slot: u32,
    /// Above 0.
    pub(super) weight: u64,
}

/// The endpoints, and what the method needs to choose one.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    members: Vec<Member>,
    choice: Choice,
}

#[derive(Clone, Debug)]
enum Choice {
    RoundRobin(Turns),
    /// Where all are alike, the less busy one of two; else by turns.
    LeastRequest {
        turns: Option<Turns>,
        are_alike: bool,
        /// From then on all are warm.
        warm_at: Duration,
    },
    /// The sums of the weights up to each.
    Random(Vec<u64>),
    Ring(Ring),
    Maglev(Maglev),
}

/// What one choice depends on beside the endpoints.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw {
    pub(super) key: u64,
    pub(super) dice: u64,
    pub(super) now: Duration,
    pub(super) warmup: Option<Warmup>,
}

/// Choices by the method before one is taken that is not avoided, by looking through all.
const ATTEMPTS: u32 = 4;

impl Pool {
    /// Of these members, which are in an order that every replica has.
    pub(super) fn new(method: Method, members: Vec<Member>, hosts: &Hosts, draw: &Draw) -> Self {
        let first = members.first().map_or(1, |member| member.weight);
        let are_alike = members.iter().all(|member| member.weight == first);
        let warm_at = (members.iter().filter_map(|member| hosts.at(member.slot)))
            .map(|host| host.joined.saturating_add(draw.warmup.map_or(Duration::ZERO, |warmup| warmup.duration)))
            .max()
            .unwrap_or_default();
        let seed = |member: &Member| hosts.at(member.slot).map_or(0, |host| hash::of_address(host.target));
        let turns = || {
            let weight = |at: u32| member(&members, at).map_or(1, |member| draw.weight(member, hosts.at(member.slot)));
            Turns::new(members.len(), weight, |at| mix(draw.dice ^ mix(at.into())))
        };
        let choice = match method {
            Method::RoundRobin => Choice::RoundRobin(turns()),
            Method::LeastRequest => {
                let needs_turns = !are_alike || warm_at > draw.now;
                Choice::LeastRequest { turns: needs_turns.then(turns), are_alike, warm_at }
            }
            Method::Random => Choice::Random(
                (members.iter())
                    .scan(0_u64, |sum, member| {
                        *sum = sum.saturating_add(member.weight);
                        Some(*sum)
                    })
                    .collect(),
            ),
            Method::Ring(minimum) => Choice::Ring(Ring::new(&members, seed, minimum)),
            Method::Maglev(size) => Choice::Maglev(Maglev::new(&members, seed, size)),
        };
        Self { members, choice }
    }

    /// The slot of the chosen one that is not avoided; none: all are.
    pub(super) fn pick(&mut self, hosts: &Hosts, draw: &Draw, avoids: &impl Fn(u32) -> bool) -> Option<u32> {
        let fits = |slot: &u32| !avoids(*slot);
        if let Choice::Ring(ring) = &self.choice {
            let fits = |at| member(&self.members, at).is_some_and(|member| !avoids(member.slot));
            return member(&self.members, ring.find(draw.key, fits)?).map(|member| member.slot);
        }
        let chosen = (0..ATTEMPTS).find_map(|attempt| {
            let at = self.choice.choose(&self.members, hosts, draw, attempt)?;
            member(&self.members, at).map(|member| member.slot).filter(fits)
        });
        chosen.or_else(|| {
            let start = index(below(draw.throw(u32::MAX), count(&self.members)));
            let (before, behind) = self.members.split_at_checked(start)?;
            behind.iter().chain(before).map(|member| member.slot).find(fits)
        })
    }
}

impl Choice {
    /// The number of a member.
    fn choose(&mut self, members: &[Member], hosts: &Hosts, draw: &Draw, attempt: u32) -> Option<u32> {
        let host = |at: u32| member(members, at).and_then(|member| hosts.at(member.slot));
        let weight = |at: u32| member(members, at).map_or(1, |member| draw.weight(member, host(at)));
        let active = |at: u32| host(at).map_or(0, |host| host.active);
        match self {
            Self::RoundRobin(turns) => turns.next(|at| (weight(at), 1)),
            Self::LeastRequest { turns: Some(turns), are_alike, warm_at } if !*are_alike || *warm_at > draw.now => {
                turns.next(|at| (weight(at), active(at).saturating_add(1)))
            }
            Self::LeastRequest { .. } => {
                let one_of = |throw| u32::try_from(below(draw.throw(throw), count(members))).ok();
                let (one, other) =
                    (one_of(attempt.saturating_mul(2))?, one_of(attempt.saturating_mul(2).saturating_add(1))?);
                Some(if active(other) < active(one) { other } else { one })
            }
            Self::Random(sums) => {
                let roll = below(draw.throw(attempt), *sums.last()?);
                u32::try_from(sums.partition_point(|sum| *sum <= roll)).ok()
            }
            Self::Ring(ring) => ring.find(draw.key, |_| true),
            Self::Maglev(table) => table.find(draw.key, attempt),
        }
    }
}

impl Draw {
    /// What a member has of its weight, in parts.
    fn weight(&self, member: &Member, host: Option<&Host>) -> u64 {
        let joined = host.map_or(Duration::ZERO, |host| host.joined);
        let parts = self.warmup.map_or(WARM, |warmup| warm(&warmup, self.now.saturating_sub(joined)));
        member.weight.saturating_mul(parts)
    }

    /// A random number, independent of those of other numbers.
    fn throw(&self, number: u32) -> u64 {
        mix(self.dice ^ mix(u64::from(number).wrapping_add(1)))
    }
}

fn member(members: &[Member], at: u32) -> Option<&Member> {
    members.get(index(at.into()))
}

fn index(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

fn count(members: &[Member]) -> u64 {
    u64::try_from(members.len()).unwrap_or(u64::MAX)
}
