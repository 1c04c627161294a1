//! Many open connections, and changes that do not concern them: what a worker's turn takes longer than without them. The
//! connections have no sockets; they are registered, listed and judged like any other.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{
    layout::{Change, Layout},
    measure::{counts, measure, ms, new},
    subject::{self, Subject},
};
use crate::bench::report::Entry;

/// Changes of one second.
const RATE: u32 = 100;
/// The number of reads of the connections.
const READS: usize = 7;
/// Limit of the additional time of a turn.
const LONGER_MS: f64 = 1.0;

/// Changes the label of one pod after the other, first without and then with `open` connections of other pods.
///
/// # Errors
/// Where a connection is not open, at the beginning or at the end.
pub fn connections(subject: &Subject, layout: Layout, open: usize, changes: u32) -> Result<Vec<Entry>> {
    let alone = changed(subject, layout, changes, 1)?;
    subject.open((0..open).map(|n| layout.connection(n)));
    ensure!(subject.connections() == open, "{} of {open} are open", subject.connections());
    let with = changed(subject, layout, changes, 2)?;
    ensure!(subject.connections() == open, "a change ended connections: {} of {open}", subject.connections());
    let turns = |costs: &[_]| -> Vec<f64> { costs.iter().map(|cost: &super::measure::Cost| ms(cost.worker)).collect() };
    let (alone, with, counted) = (turns(&alone), turns(&with), counts(&with));
    let longest = |turns: &[f64]| turns.iter().copied().fold(0.0, f64::max);
    let work = format!("a change beside {} connections", crate::bench::table::count(open as u64));
    let entry = |unit| new(&work, layout.pods, layout.stack, unit);
    let mut entries = vec![
        entry("ms CPU, a worker's turn").values(&with).counts(counted.0, counted.1),
        entry("ms CPU, longest turn longer").value((longest(&with) - longest(&alone)).max(0.0)).target(LONGER_MS),
    ];
    entries.extend(readers(subject, layout, open)?);
    Ok(entries)
}

/// How long workers take to answer while their connections are read: they answer readers a few connections at a time.
fn readers(subject: &Subject, layout: Layout, open: usize) -> Result<Vec<Entry>> {
    ensure!(subject.list() == open, "{} of {open} are listed", subject.list());
    let answers =
        |read: &(dyn Fn() + Sync)| -> Vec<f64> { (0..READS).map(|_| ms(subject.longest_answer(read))).collect() };
    let of = crate::bench::table::count(open as u64);
    let entry = |work: &str, read: &(dyn Fn() + Sync)| {
        let work = format!("{work} {of} connections");
        new(&work, layout.pods, layout.stack, "ms, a worker's longest answer").values(&answers(read))
    };
    Ok(vec![
        entry("no reader of", &|| std::thread::sleep(Duration::from_millis(200))),
        entry("a list of", &|| assert_eq!(subject.list(), open)),
        entry("a scrape of", &|| assert_eq!(subject.scrape(), open)),
    ])
}

fn changed(subject: &Subject, layout: Layout, changes: u32, turn: usize) -> Result<Vec<super::measure::Cost>> {
    let began = Instant::now();
    let mut costs = Vec::new();
    for n in 0..changes {
        if let Some(pause) = (Duration::from_secs(1) * n / RATE).checked_sub(began.elapsed()) {
            std::thread::sleep(pause);
        }
        // From the last one down: of the many namespaces, where no connection leads.
        let pod = layout.pod(layout.pods - 1 - n as usize % 100, turn, false);
        costs.push(measure(subject, subject::batch([Change::Put(pod)]))?);
    }
    Ok(costs)
}
