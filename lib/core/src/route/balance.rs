//! Weighted load balancing: at random, or by client address (session affinity).
//!
//! What must hold: every node gives the same answer, on every processor and with every compiler. So there is no
//! floating point here; the logarithms come from a table that is computed at compile time.

use std::{cmp::Ordering, net::IpAddr};

/// One of `all`, as likely as its weight where `roll` is uniform over `u64`. Exact: of any run of as many rolls as the
/// weights sum up to, each gets its weight. Where nothing has a weight all are alike.
pub(super) fn by_dice<T>(all: &[T], weight: impl Fn(&T) -> u16, roll: u64) -> Option<&T> {
    let weight = or_alike(all, weight);
    let total: u64 = all.iter().map(|one| u64::from(weight(one))).sum();
    let mut left = roll.checked_rem(total)?;
    all.iter().find(|one| {
        let weight = u64::from(weight(one));
        let found = left < weight;
        left = left.saturating_sub(weight);
        found
    })
}

/// The one of `all` that belongs to `client`, by weighted rendezvous hashing: each bids for each client by a hash of
/// both addresses alone, and the highest bid wins. So an endpoint that goes or comes moves only its own clients,
/// every node computes the same answer, and nothing is stored. Each gets its weight's share of many clients.
pub(super) fn by_client<T>(
    all: &[T],
    weight: impl Fn(&T) -> u16,
    address: impl Fn(&T) -> IpAddr,
    client: IpAddr,
) -> Option<&T> {
    let weight = or_alike(all, weight);
    let bid = |one: &T| Bid { weight: weight(one), cost: cost(hash(client, address(one))) };
    all.iter().max_by(|a, b| bid(a).compare(bid(b)).then_with(|| address(a).cmp(&address(b))))
}

/// The weights, or 1 for each where all are 0.
fn or_alike<T>(all: &[T], weight: impl Fn(&T) -> u16) -> impl Fn(&T) -> u16 {
    let alike = all.iter().all(|one| weight(one) == 0);
    move |one| if alike { 1 } else { weight(one) }
}

/// `weight / -log2(u)` for a `u` between 0 and 1 that the two addresses determine: the highest of such bids is each
/// bidder's with the probability of its share of the weights (Schindelhauer, Schomaker: "Weighted distributed hash
/// tables", SPAA 2005, the logarithmic method; the base of the logarithm is a factor that all bids share).
#[derive(Clone, Copy)]
struct Bid {
    weight: u16,
    /// `-log2(u)`, [`LOG2_BITS`] of them behind the point.
    cost: u64,
}

impl Bid {
    /// By cross-multiplication, so that nothing is rounded. A cost is at most 64, so the products fit.
    fn compare(self, other: Self) -> Ordering {
        let product = |weight: u16, cost: u64| u64::from(weight).saturating_mul(cost);
        product(self.weight, other.cost).cmp(&product(other.weight, self.cost))
    }
}

/// Binary digits behind the point of a logarithm.
const LOG2_BITS: u32 = 40;
/// The count of a number's digits that choose the table's entry; between two entries logarithms are interpolated, which
/// errs by less than 2^-22.
const TABLE_BITS: u32 = 10;
const TABLE_LEN: usize = (1 << TABLE_BITS) + 1;

/// `log2(1 + i / 2^TABLE_BITS)`.
static LOG2: [u64; TABLE_LEN] = table();

const fn table() -> [u64; TABLE_LEN] {
    let mut table = [0; TABLE_LEN];
    let mut at = 0;
    while at < TABLE_LEN {
        table[at] = log2_of((1 << 62) + ((at as u64) << (62 - TABLE_BITS)));
        at += 1;
    }
    table
}

/// The logarithm of `x / 2^62`, which is 1 to 2, digit by digit: squaring a number doubles its logarithm, and a square
/// of 2 and more has a 1 there.
const fn log2_of(mut x: u64) -> u64 {
    if x == 1 << 63 {
        return 1 << LOG2_BITS;
    }
    let (mut log, mut digit) = (0, LOG2_BITS);
    while digit > 0 {
        digit -= 1;
        let square = (x as u128 * x as u128) >> 62;
        let carries = square >> 63 != 0;
        log |= (carries as u64) << digit;
        x = if carries { square >> 1 } else { square } as u64;
    }
    log
}

/// `-log2(u)` for the `u` in the middle of what `hash` says of 2^63 equal parts: never 0.
fn cost(hash: u64) -> u64 {
    let odd = hash | 1;
    let zeros = odd.leading_zeros();
    // Behind the leading 1 stand the digits that choose the entry, then those between it and the next.
    let digits = odd << zeros << 1;
    let entry = (digits >> (64 - TABLE_BITS)) as usize;
    let between = digits << TABLE_BITS >> 32;
    let at = |entry: usize| LOG2.get(entry).copied().unwrap_or(1 << LOG2_BITS);
    let (low, high) = (at(entry), at(entry.saturating_add(1)));
    let log = low + ((high.saturating_sub(low) * between) >> 32);
    (u64::from(zeros.saturating_add(1)) << LOG2_BITS).saturating_sub(log)
}

fn hash(client: IpAddr, endpoint: IpAddr) -> u64 {
    [client, endpoint].into_iter().flat_map(words).fold(0, |hash, word| mix(hash ^ word))
}

fn words(ip: IpAddr) -> [u64; 2] {
    let bits = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

/// One step of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014). Of this
/// code's own, because a hash of the standard library may change with the compiler, and clients would move.
pub(crate) const fn mix(word: u64) -> u64 {
    let z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    type One = (IpAddr, u16);

    fn endpoints(weights: &[u16]) -> Vec<One> {
        (1u8..).zip(weights).map(|(n, weight)| (IpAddr::from([10, 0, 0, n]), *weight)).collect()
    }

    fn client(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0x0a80_0000 + n).into()
    }

    fn of_client(all: &[One], n: u32) -> Option<IpAddr> {
        by_client(all, |e| e.1, |e| e.0, client(n)).map(|e| e.0)
    }

    #[test]
    fn without_endpoints_none_is_chosen() {
        assert_eq!(by_dice(&endpoints(&[]), |e| e.1, 7), None);
        assert_eq!(of_client(&[], 7), None);
    }

    #[test]
    fn clients_are_shared_by_weight() {
        let check = |weights: &[u16]| {
            let all = endpoints(weights);
            let mut count: BTreeMap<IpAddr, u32> = all.iter().map(|e| (e.0, 0)).collect();
            (0..20_000).for_each(|n| *count.get_mut(&of_client(&all, n).unwrap()).unwrap() += 1);
            let total: u32 = weights.iter().map(|w| u32::from(*w)).sum();
            for (ip, weight) in all {
                let (got, want) = (count[&ip], 20_000 * u32::from(weight) / total);
                // five standard deviations of a fair coin's
                assert!(got.abs_diff(want) < 360, "{weights:?}: {ip} has {got} clients, not {want}");
            }
        };
        check(&[1, 1, 1]);
        check(&[1, 2, 5]);
        check(&[0, 3, 1]);
        check(&[u16::MAX, u16::MAX, 1]);
    }

    /// Pinned: another answer on another processor, or of another version, would move clients.
    #[test]
    fn endpoints_of_clients() {
        let all = endpoints(&[1, 2, 5, 1]);
        let chosen: Vec<u8> = (0..16)
            .map(|n| match of_client(&all, n) {
                Some(IpAddr::V4(v4)) => v4.octets()[3],
                _ => 0,
            })
            .collect();
        assert_eq!(chosen, [3, 2, 2, 3, 3, 2, 4, 2, 3, 3, 2, 3, 3, 1, 3, 3]);
        let whole = |n: u64| n << LOG2_BITS;
        assert_eq!([0, 1, 1 << 63].map(cost), [whole(64), whole(64), whole(1)]);
        assert_eq!([u64::MAX, 0x0123_4567_89ab_cdef].map(cost), [1, 8_591_343_321_794]);
    }

    proptest! {
        #[test]
        fn a_cost_is_a_logarithm(hash in any::<u64>(), shift in 0u32..64) {
            let hash = hash >> shift;
            let exact = 64.0 - ((hash | 1) as f64).log2();
            let got = cost(hash) as f64 / (1u64 << LOG2_BITS) as f64;
            prop_assert!((got - exact).abs() < 2f64.powi(-21), "{hash}: {got} is not {exact}");
            prop_assert!(cost(hash) > 0 && cost(hash) <= 64 << LOG2_BITS);
            prop_assert!(cost(hash) >= cost(hash.saturating_add(2)), "{hash}");
        }

        #[test]
        fn dice_follow_the_weights_exactly(weights in vec(0u16..20, 1..12), first in any::<u32>()) {
            let all = endpoints(&weights);
            let alike = weights.iter().all(|w| *w == 0);
            let expect: BTreeMap<IpAddr, u64> = all.iter()
                .map(|e| (e.0, if alike { 1 } else { u64::from(e.1) })).filter(|(_, w)| *w > 0).collect();
            let total: u64 = expect.values().sum();
            let mut count: BTreeMap<IpAddr, u64> = BTreeMap::new();
            for roll in (0..total).map(|n| u64::from(first) + n) {
                *count.entry(by_dice(&all, |e| e.1, roll).unwrap().0).or_default() += 1;
            }
            prop_assert_eq!(count, expect);
        }

        #[test]
        fn only_the_clients_of_who_went_move(weights in vec(0u16..5, 2..12), gone in any::<prop::sample::Index>(), v6 in any::<bool>()) {
            let mut all = endpoints(&weights);
            if v6 {
                all.iter_mut().for_each(|e| if let IpAddr::V4(v4) = e.0 { e.0 = v4.to_ipv6_mapped().into() });
            }
            let mut fewer = all.clone();
            let gone = fewer.remove(gone.index(all.len()));
            // Where no remaining one has a weight, those of weight 0 count from now on.
            prop_assume!(fewer.iter().any(|e| e.1 > 0));
            for n in 0..200 {
                let (before, after) = (of_client(&all, n).unwrap(), of_client(&fewer, n).unwrap());
                prop_assert!(before == after || before == gone.0, "client {} went from {} to {}", n, before, after);
            }
        }

        #[test]
        fn order_does_not_matter(weights in vec(0u16..5, 1..12), n in any::<u16>()) {
            let all = endpoints(&weights);
            let reversed: Vec<_> = all.iter().rev().copied().collect();
            prop_assert_eq!(of_client(&all, n.into()), of_client(&reversed, n.into()));
        }
    }
}
