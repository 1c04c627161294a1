//! Consistent hashing by a table (Eisenbud et al.: "Maglev: a fast and reliable software network load balancer", NSDI
//! 2016): the members fill it in turns by weight, each in an order of its own. A key is looked up by one index.
//!
//! What must hold: every replica makes the same table; each member has its share of it to within one entry and rounding;
//! one that goes or comes moves its own keys and few others.

use super::{hash::mix, pool::Member, turns::Turns};

/// For each hash modulo the size the number of a member.
#[derive(Clone, Debug)]
pub(super) struct Maglev(Box<[u32]>);

/// An entry that no member has yet.
const FREE: u32 = u32::MAX;

impl Maglev {
    /// Of members with a seed that is theirs alone; `size` is a prime number.
    pub(super) fn new(members: &[Member], seed: impl Fn(&Member) -> u64, size: u64) -> Self {
        let size = size.max(2);
        let mut table = vec![FREE; usize::try_from(size).unwrap_or(usize::MAX)];
        // The next entry that each asks for, and from one to the next.
        let mut orders: Vec<(u64, u64)> = (members.iter())
            .map(|member| {
                let seed = seed(member);
                (seed % size, mix(seed) % size.saturating_sub(1) + 1)
            })
            .collect();
        let weight =
            |at: u32| usize::try_from(at).ok().and_then(|at| members.get(at)).map_or(1, |member| member.weight);
        let mut turns = Turns::new(members.len(), weight, |_| 0);
        for _ in 0..size {
            let Some(number) = turns.next(|at| (weight(at), 1)) else { break };
            let Some((next, skip)) = usize::try_from(number).ok().and_then(|at| orders.get_mut(at)) else { break };
            // A prime has no other divisor, so all entries come by; one of them is free.
            loop {
                let entry = usize::try_from(*next).ok().and_then(|at| table.get_mut(at));
                *next = next.wrapping_add(*skip) % size;
                match entry {
                    Some(entry) if *entry == FREE => {
                        *entry = number;
                        break;
                    }
                    Some(_) => {}
                    None => break,
                }
            }
        }
        Self(table.into())
    }

    /// The member with this key; another attempt looks elsewhere.
    pub(super) fn find(&self, key: u64, attempt: u32) -> Option<u32> {
        let key = if attempt == 0 { key } else { mix(key ^ u64::from(attempt)) };
        let at = key.checked_rem(u64::try_from(self.0.len()).ok()?)?;
        self.0.get(usize::try_from(at).ok()?).copied().filter(|number| *number != FREE)
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> &[u32] {
        &self.0
    }
}
