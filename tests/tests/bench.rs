//! The quick form of `cargo xtask bench world`: counts, never times. Loopback level; `cargo xtask test loopback` runs it by name.
//!
//! One process, one test, because allocations of all threads are counted. The table says what each change may cost: a change
//! costs what it touches, however large the World.

use std::collections::BTreeMap;

use underpass_tests::bench::{
    allocations::{self, Counting},
    world::{
        layout::{LATER, Layout, Stack},
        measure::{self, Cost},
        works::{WORKS, Work},
    },
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SMALL: usize = 1000;
const LARGE: usize = 4000;
/// Repetitions of each change.
const TIMES: usize = 3;

/// Per change: operations with one address family, twice as many with both; allocations in a cluster four
/// times as large, at most times those in the small one.
const BOUNDS: &[(&str, u64, f64)] = &[
    ("a pod's label", 0, 1.5),
    ("a pod's addresses", 2, 1.5),
    ("an endpoint of a large service", 0, 1.5),
    ("a pod in a large namespace", 1, 1.5),
    ("a label of a node", 0, 1.5),
    ("a namespace comes into the mesh", (LATER + LATER / 10) as u64, 1.5),
    ("a root policy", 0, 1.5),
    ("root STRICT", 0, 1.5),
    ("a trust-domain alias", 0, 1.5),
];

type Costs = BTreeMap<&'static str, Vec<Cost>>;

fn costs(layout: Layout) -> Costs {
    let (subject, load) = measure::load(layout).expect("loaded");
    let agents = 1;
    assert_eq!(load.operations, layout.destinations() as u64 + agents, "{layout:?}");
    let cost = |work: &'static Work| {
        let costs = measure::repeat(&subject, layout, work, TIMES).unwrap_or_else(|e| panic!("{}: {e:#}", work.name));
        (work.name, costs)
    };
    WORKS.iter().map(cost).collect()
}

/// Every time as many operations.
fn check_operations(costs: &Costs, families: usize) {
    for (work, operations, _) in BOUNDS {
        let counted: Vec<_> = costs[work].iter().map(|cost| cost.operations).collect();
        assert_eq!(counted, vec![operations * families as u64; TIMES], "{work}, with {families} address families");
    }
}

fn check_allocations(small: &Costs, large: &Costs) {
    for (work, _, allocations) in BOUNDS {
        let count = |costs: &Costs| measure::counts(&costs[work]).0.count.max(1);
        let (few, many) = (count(small), count(large));
        let grown = many as f64 / few as f64;
        println!("{work}: {few} and {many} allocations, {grown:.2} times");
        assert!(grown <= *allocations, "{work}: {grown:.2} times as many allocations, at most {allocations}");
    }
}

#[test]
fn a_change_costs_what_it_may() {
    allocations::apart();
    let works: Vec<_> = WORKS.iter().map(|work| work.name).collect();
    assert_eq!(works, BOUNDS.iter().map(|(work, ..)| *work).collect::<Vec<_>>(), "each work has its bound");
    let small = costs(Layout::new(SMALL, Stack::Single));
    check_operations(&small, 1);
    check_operations(&costs(Layout::new(SMALL, Stack::Dual)), 2);
    let large = costs(Layout::new(LARGE, Stack::Single));
    check_operations(&large, 1);
    check_allocations(&small, &large);
    // The counter counts: no change can do with nothing.
    assert!(small.values().flatten().all(|cost| cost.allocations.count > 0));
}
