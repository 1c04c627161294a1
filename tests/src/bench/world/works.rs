//! The changes of a World that have a target, each of which can be made again and again. Its own file because the list grows.

use super::layout::{Change, Layout};

/// The target of a change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// CPU time in ms; operations and allocations times those of the smallest cluster.
    Change {
        /// CPU time of all threads, in ms.
        cpu_ms: f64,
        /// Counts, times those at the smallest size.
        growth: f64,
    },
    /// CPU time in ms.
    Cpu(f64),
    /// CPU time in ms: of the keeper, and of any other thread at a time.
    Mesh {
        /// The keeper's.
        keeper_ms: f64,
        /// The busiest other thread's.
        other_ms: f64,
    },
}

/// One kind of change.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// As told.
    pub name: &'static str,
    /// Its target.
    pub target: Target,
    /// The change, for the n-th time, counted from 1.
    pub change: fn(Layout, usize) -> Vec<Change>,
    /// The step that makes the next one a change again; not measured.
    pub undo: fn(Layout, usize) -> Vec<Change>,
}

/// CPU time at most 5 ms, and counts that do not follow the size of the cluster.
const SMALL: Target = Target::Change { cpu_ms: 5.0, growth: 1.5 };
/// 500 ms on the keeper, no other thread longer than 5 ms at a time.
const WHOLE_MESH: Target = Target::Mesh { keeper_ms: 500.0, other_ms: 5.0 };

/// Every kind of change.
pub const WORKS: &[Work] = &[
    Work {
        name: "a pod's label",
        target: SMALL,
        change: |layout, n| vec![Change::Put(layout.pod(layout.pods - 1, n, false))],
        undo: nothing,
    },
    Work {
        name: "a pod's addresses",
        target: SMALL,
        change: |layout, n| vec![Change::Put(layout.pod(layout.pods - 2, 0, n % 2 == 1))],
        undo: nothing,
    },
    Work {
        name: "an endpoint of a large service",
        target: SMALL,
        change: |layout, n| layout.popular_slices(0, n % 2 == 1).into_iter().map(Change::Put).collect(),
        undo: nothing,
    },
    Work {
        name: "a pod in a large namespace",
        target: SMALL,
        change: |layout, n| vec![Change::Put(layout.newcomer(n))],
        undo: |layout, n| vec![Change::Remove(layout.newcomer(n))],
    },
    Work {
        name: "a label of a node",
        target: SMALL,
        change: |layout, n| vec![Change::Put(layout.node(3, n))],
        undo: nothing,
    },
    Work {
        name: "a namespace comes into the mesh",
        target: Target::Cpu(20.0),
        change: |layout, _| vec![Change::Put(layout.later(true))],
        undo: |layout, _| vec![Change::Put(layout.later(false))],
    },
    Work {
        name: "a root policy",
        target: WHOLE_MESH,
        change: |layout, _| vec![Change::Put(layout.root_policy())],
        undo: |layout, _| vec![Change::Remove(layout.root_policy())],
    },
    Work {
        name: "root STRICT",
        target: WHOLE_MESH,
        change: |layout, _| vec![Change::Put(layout.root_strict())],
        undo: |layout, _| vec![Change::Remove(layout.root_strict())],
    },
    Work {
        name: "a trust-domain alias",
        target: WHOLE_MESH,
        change: |_, n| vec![Change::Alias(format!("alias-{n}.example"))],
        undo: nothing,
    },
];

fn nothing(_: Layout, _: usize) -> Vec<Change> {
    Vec::new()
}
