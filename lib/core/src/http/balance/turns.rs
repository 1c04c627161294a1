//! Turns by weight: who comes next where each is due as often as its share, and no one's turns come in a row. Earliest
//! deadline first, as Envoy's round robin.
//!
//! What must hold: of any run of turns each gets its share of it, but for one turn.

use std::{cmp::Reverse, collections::BinaryHeap};

/// When the members of a group, by their numbers, are due next. A turn costs the logarithm of their count.
#[derive(Clone, Debug)]
pub(super) struct Turns(BinaryHeap<Reverse<(u128, u32)>>);

/// The time between two turns of the weight 1.
const ONE: u128 = 1 << 64;

impl Turns {
    /// Of so many members. `phase` says for each how much of its first interval is over, of `u64::MAX`: where chance says
    /// it, replicas that begin at once do not all begin with the same endpoint.
    pub(super) fn new(count: usize, weight: impl Fn(u32) -> u64, phase: impl Fn(u32) -> u64) -> Self {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Self((0..count).map(|at| Reverse((first(interval(weight(at), 1), phase(at)), at))).collect())
    }

    /// The next one. `weight` is what it has by now, and the cost of this turn, which is 1 or more: with a cost of 2 the
    /// next one comes half as soon.
    pub(super) fn next(&mut self, weight: impl FnOnce(u32) -> (u64, u32)) -> Option<u32> {
        let mut top = self.0.peek_mut()?;
        let Reverse((due, at)) = *top;
        let (weight, cost) = weight(at);
        *top = Reverse((due.saturating_add(interval(weight, cost)), at));
        Some(at)
    }
}

fn interval(weight: u64, cost: u32) -> u128 {
    ONE.saturating_mul(cost.max(1).into()).checked_div(weight.into()).unwrap_or(ONE).max(1)
}

/// What is left of an interval.
fn first(interval: u128, phase: u64) -> u128 {
    let over = (interval >> 32).saturating_mul(u128::from(phase >> 32));
    interval.saturating_sub(over)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn run(weights: &[u64], phases: &[u64], count: usize) -> Vec<u32> {
        let of = |all: &[u64], at: u32| all[at as usize];
        let mut turns = Turns::new(weights.len(), |at| of(weights, at), |at| of(phases, at));
        (0..count).map(|_| turns.next(|at| (of(weights, at), 1)).unwrap()).collect()
    }

    #[test]
    fn turns_are_interleaved() {
        assert_eq!(run(&[1, 1, 1], &[0; 3], 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(run(&[3, 1], &[0; 2], 8), [0, 0, 0, 1, 0, 0, 0, 1]);
        assert_eq!(run(&[4, 2, 1], &[0; 3], 7), [0, 0, 1, 0, 0, 1, 2]);
        assert_eq!(run(&[1, 1, 1], &[0, u64::MAX, u64::MAX / 2], 6), [1, 2, 0, 1, 2, 0]);
        assert_eq!(Turns::new(0, |_| 1, |_| 0).next(|_| (1, 1)), None);
    }

    #[test]
    fn a_dear_turn_comes_later() {
        let mut turns = Turns::new(2, |_| 1, |_| 0);
        let got: Vec<_> = (0..9).map(|_| turns.next(|at| (1, [1, 2][at as usize])).unwrap()).collect();
        assert_eq!(got.iter().filter(|at| **at == 1).count(), 3, "{got:?}");
    }

    proptest! {
        #[test]
        fn each_gets_its_share_of_any_run(
            members in vec((1u64..50, any::<u64>()), 1..20), from in 0usize..300, length in 1usize..300,
        ) {
            let (weights, phases): (Vec<_>, Vec<_>) = members.into_iter().unzip();
            let total: u64 = weights.iter().sum();
            let turns = run(&weights, &phases, from + length);
            for (at, weight) in weights.iter().enumerate() {
                let got = turns[from..].iter().filter(|turn| **turn as usize == at).count() as f64;
                let exact = length as f64 * *weight as f64 / total as f64;
                // One for its own interval, and its share of one of each of the others'.
                let slack = 1.0 + (1.0 + weights.len() as f64) * *weight as f64 / total as f64;
                prop_assert!((got - exact).abs() <= slack, "{} of {}: {} is not {}", at, length, got, exact);
            }
        }
    }
}
