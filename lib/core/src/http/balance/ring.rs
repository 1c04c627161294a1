//! Consistent hashing on a ring: each endpoint has points on it by its address, and a key belongs to the first point at or
//! behind it (Karger et al.: "Consistent hashing and random trees", STOC 1997).
//!
//! What must hold: every replica makes the same ring; an endpoint that goes or comes moves only its own keys. For that the
//! count of an endpoint's points does not depend on the others, as far as a ring has room: see [`Ring::new`].

use super::{hash::mix, pool::Member};

/// The points, each with the number of its member, by hash.
#[derive(Clone, Debug)]
pub(super) struct Ring(Vec<(u64, u32)>);

/// A ring has room for so many points, or for twice its minimum.
const ROOM: u64 = 65_536;

impl Ring {
    /// Of members with a seed that is theirs alone. The lightest has half of `minimum` points, others as many times more as
    /// they are heavier; so a ring of two has the minimum. Where that is too much, all have half as many, or a quarter, and
    /// so on: there alone, and where the lightest weight changes by a factor of two, one that goes moves the keys of others.
    pub(super) fn new(members: &[Member], seed: impl Fn(&Member) -> u64, minimum: u64) -> Self {
        let lightest = members.iter().map(|member| member.weight).min().unwrap_or(1).max(1);
        // Down to a power of two, so that few other lightest weights are another one.
        let lightest = 1_u64 << lightest.ilog2();
        let most = u128::from(ROOM.max(minimum.saturating_mul(2)));
        let whole = |member: &Member| {
            u128::from(member.weight).saturating_mul(u128::from(minimum.div_ceil(2))).checked_div(lightest.into())
        };
        let count = |member: &Member, halvings: u32| (whole(member).unwrap_or(1) >> halvings).max(1);
        let total = |halvings: u32| members.iter().map(|member| count(member, halvings)).fold(0, u128::saturating_add);
        let halvings = (0..u128::BITS - 1).find(|n| total(*n) <= most).unwrap_or(u128::BITS - 1);
        let mut points = Vec::new();
        for (number, member) in (0_u32..).zip(members) {
            let (seed, count) = (seed(member), u64::try_from(count(member, halvings)).unwrap_or(u64::MAX));
            points.extend((0..count).map(|copy| (mix(seed ^ mix(copy)), number)));
        }
        points.sort_unstable();
        Self(points)
    }

    /// The member with the key, or the next one on the ring that fits; none: none fits.
    pub(super) fn find(&self, key: u64, fits: impl Fn(u32) -> bool) -> Option<u32> {
        let at = self.0.partition_point(|(hash, _)| *hash < key);
        let (before, behind) = self.0.split_at_checked(at)?;
        behind.iter().chain(before).map(|(_, number)| *number).find(|number| fits(*number))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
