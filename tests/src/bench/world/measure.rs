//! One change, counted and timed: from the batch handed to the keeper to the last operation on the tables, and on until
//! nothing of it is left to do, freeing what stood before among it.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{
    layout::{Change, Layout, Stack},
    subject::{self, Batch, KEEPER, Subject, WORKER},
    works::{Target, Work},
};
use crate::bench::{
    allocations::{self, Allocations},
    process::{Thread, settle},
    report::Entry,
};

/// Tunnel workers of the agent that is measured.
pub const WORKERS: usize = 2;
/// Unit of a change's CPU time.
pub const CPU: &str = "ms CPU";
/// Unit of the time that a change takes.
pub const WALL: &str = "ms";
/// Unit of what the keeper's thread uses.
pub const KEEPER_CPU: &str = "ms CPU, keeper";
/// Unit of what the busiest other thread uses.
pub const OTHER_CPU: &str = "ms CPU, busiest other";

/// The cost of one change.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// From the batch to the last operation.
    pub wall: Duration,
    /// Of all threads.
    pub cpu: Duration,
    /// Of the thread that keeps the World.
    pub keeper: Duration,
    /// Of the busiest of the others: it did all of it at a time, so that nothing else of this thread's went on meanwhile.
    pub other: Duration,
    /// Of the busiest worker of the tunnel.
    pub worker: Duration,
    /// Of all threads.
    pub allocations: Allocations,
    /// On the tables.
    pub operations: u64,
}

/// Hands `batch` over and waits until all is done.
///
/// # Errors
/// Where it never is.
pub fn measure(subject: &Subject, batch: Batch) -> Result<Cost> {
    let before = settle()?;
    let (allocated, operations) = (allocations::so_far(), subject.operations());
    let began = Instant::now();
    subject.hand(batch)?;
    subject.wait()?;
    let wall = began.elapsed();
    let after = settle()?;
    let allocations = allocations::so_far() - allocated;
    let spent = |thread: &Thread| {
        let known = before.iter().find(|known| known.tid == thread.tid);
        thread.cpu.saturating_sub(known.map_or(Duration::ZERO, |known| known.cpu))
    };
    let busiest = |of: &dyn Fn(&Thread) -> bool| after.iter().filter(|t| of(t)).map(spent).max().unwrap_or_default();
    Ok(Cost {
        wall,
        cpu: after.iter().map(spent).sum(),
        keeper: busiest(&|thread| thread.name == KEEPER),
        other: busiest(&|thread| thread.name != KEEPER),
        worker: busiest(&|thread| thread.name.starts_with(WORKER)),
        allocations,
        operations: subject.operations() - operations,
    })
}

/// One batch with the whole cluster, into an agent that knows nothing.
///
/// # Errors
/// Where it is not applied.
pub fn load(layout: Layout) -> Result<(Subject, Cost)> {
    let subject = Subject::start(WORKERS)?;
    let batch = subject::batch(layout.objects().map(Change::Put));
    let cost = measure(&subject, batch)?;
    Ok((subject, cost))
}

/// A change again and again. The first time is not counted, because it makes what later ones find.
///
/// # Errors
/// Where it is not applied.
pub fn repeat(subject: &Subject, layout: Layout, work: &Work, times: usize) -> Result<Vec<Cost>> {
    let mut costs = Vec::new();
    for n in 0..=times {
        costs.push(measure(subject, subject::batch((work.change)(layout, n + 1)))?);
        let undo = (work.undo)(layout, n + 1);
        if !undo.is_empty() {
            subject.hand(subject::batch(undo))?;
            subject.wait()?;
        }
    }
    costs.remove(0);
    Ok(costs)
}

/// In milliseconds.
#[must_use]
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The entry of a change.
#[must_use]
pub fn entries(layout: Layout, work: &Work, costs: &[Cost]) -> Vec<Entry> {
    let Layout { pods, stack } = layout;
    let entry = |unit| new(work.name, pods, stack, unit);
    let of = |unit, time: fn(&Cost) -> Duration| {
        entry(unit).values(&costs.iter().map(|cost| ms(time(cost))).collect::<Vec<_>>())
    };
    let (allocations, operations) = counts(costs);
    let total = of(CPU, |cost| cost.cpu).counts(allocations, operations);
    let mut entries = match work.target {
        Target::Change { cpu_ms, .. } | Target::Cpu(cpu_ms) => vec![total.target(cpu_ms)],
        Target::Mesh { keeper_ms, other_ms } => vec![
            total,
            of(KEEPER_CPU, |cost| cost.keeper).target(keeper_ms),
            of(OTHER_CPU, |cost| cost.other).target(other_ms),
        ],
    };
    entries.push(of(WALL, |cost| cost.wall));
    entries
}

/// Without a value yet.
#[must_use]
pub fn new(work: &str, pods: usize, stack: Stack, unit: &str) -> Entry {
    Entry::new(work, pods, stack.as_str(), unit)
}

/// The median of what was counted: every time the same, unless something that comes by itself came just then.
#[must_use]
pub fn counts(costs: &[Cost]) -> (Allocations, u64) {
    let middle = |mut all: Vec<u64>| {
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    let of = |f: fn(&Cost) -> u64| middle(costs.iter().map(f).collect());
    let allocations = Allocations { count: of(|c| c.allocations.count), bytes: of(|c| c.allocations.bytes) };
    (allocations, of(|c| c.operations))
}
