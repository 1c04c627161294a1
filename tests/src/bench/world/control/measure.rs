//! The numbers: load, connecting agents, one change after the other.

use std::{
    io::{BufRead as _, BufReader, Lines},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    super::{
        layout::{Change, Layout},
        measure::{ms, new},
    },
    agents::{self, COMPLETE},
    subject::ControlPlane,
};
use crate::bench::{
    allocations::{self, Allocations},
    process::{Thread, resident, settle},
    report::{Entry, median},
    table,
};

/// The change that agents wait for.
pub const CHANGE: &str = "a new pod, to every agent";
/// Counts of the change, times those at the smallest size.
pub const GROWTH: f64 = 1.5;
/// Until the last but one of a hundred agents has it.
const VISIBLE_MS: f64 = 100.0;
/// Resident, for 100,000 pods.
const RESIDENT_MIB: f64 = 250.0;
const OF_PODS: usize = 100_000;
const MIB: f64 = 1024.0 * 1024.0;

/// Of every thread together, since `before`.
fn spent(before: &[Thread], after: &[Thread]) -> Duration {
    let of = |thread: &Thread| {
        let known = before.iter().find(|known| known.tid == thread.tid);
        thread.cpu.saturating_sub(known.map_or(Duration::ZERO, |known| known.cpu))
    };
    after.iter().map(of).sum()
}

/// Loads the cluster, lets so many agents connect (none: only loads), and makes a pod come and go `times` times.
///
/// # Errors
/// Where an agent does not hear of it.
pub fn control(program: &Path, layout: Layout, count: usize, times: usize) -> Result<Vec<Entry>> {
    let entry = |work: &str, unit: &str| new(work, layout.pods, layout.stack, unit);
    let control = ControlPlane::start()?;
    let (before, began) = (settle()?, Instant::now());
    control.hand(layout.objects().map(Change::Put));
    // An update becomes visible whole.
    control.wait_for(layout.pods)?;
    let (wall, after) = (began.elapsed(), settle()?);
    let loaded = resident()?.now;
    let work = "a control plane's full load";
    let held = entry("a control plane, resident", "MiB").value(loaded as f64 / MIB);
    let mut entries = vec![
        entry(work, "ms CPU").value(ms(spent(&before, &after))),
        entry(work, "ms").value(ms(wall)),
        if layout.pods >= OF_PODS { held.target(RESIDENT_MIB) } else { held },
    ];
    if count == 0 {
        return Ok(entries);
    }
    let (before, began) = (settle()?, agents::now()?);
    let mut agents = Agents::start(program, &control, count)?;
    let complete = agents.times(COMPLETE)?;
    let after = settle()?;
    let work = format!("{} agents connect", table::count(count as u64));
    let since = |began: u64, at: &u64| at.saturating_sub(began) as f64 / 1e6;
    let last = complete.iter().map(|at| since(began, at)).fold(0.0, f64::max);
    let more = resident()?.now.saturating_sub(loaded) as f64 / 1024.0 / count as f64;
    entries.extend([
        entry(&work, "ms CPU, control plane").value(ms(spent(&before, &after))),
        entry(&work, "ms, last has everything").value(last),
        entry(&work, "KiB resident, each").value(more),
    ]);
    let (mut visible, mut cpu, mut counted) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..=times {
        let (before, allocated, began) = (settle()?, allocations::so_far(), agents::now()?);
        control.hand([Change::Put(layout.newcomer(n))]);
        let seen = agents.times(&format!("/new-{n}"))?;
        let (after, allocated) = (settle()?, allocations::so_far() - allocated);
        control.hand([Change::Remove(layout.newcomer(n))]);
        agents.times(&format!("/new-{n}"))?;
        // The first makes what later ones find.
        if n > 0 {
            visible.extend(seen.iter().map(|at| since(began, at)));
            cpu.push(ms(spent(&before, &after)));
            counted.push(allocated);
        }
    }
    let mut ordered = visible.clone();
    ordered.sort_by(f64::total_cmp);
    let p99 = ordered.get(ordered.len() * 99 / 100).copied().unwrap_or_default();
    let mut of_cpu = entry(CHANGE, "ms CPU").values(&cpu);
    of_cpu.allocations = middle(&counted);
    let middle_of = median(&visible).map_or(0.0, |(value, _)| value);
    entries.extend([
        of_cpu,
        entry(CHANGE, "ms visible, median").value(middle_of),
        entry(CHANGE, "ms visible, p99").value(p99).target(VISIBLE_MS),
        entry(CHANGE, "ms visible, longest").value(ordered.last().copied().unwrap_or_default()),
    ]);
    Ok(entries)
}

fn middle(counted: &[Allocations]) -> Option<Allocations> {
    let mut sorted = counted.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

/// The process of the agents. Dropped, it is killed.
struct Agents {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// The file of the root that they trust.
    _root: tempfile::NamedTempFile,
}

impl Agents {
    fn start(program: &Path, control: &ControlPlane, count: usize) -> Result<Self> {
        let root = tempfile::NamedTempFile::new().context("make a file")?;
        std::fs::write(&root, &control.root).context("write the root")?;
        let mut child = Command::new(program)
            .args(["world-agents", &control.address.to_string()])
            .arg(root.path())
            .arg(count.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the agents")?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        Ok(Self { child, lines, _root: root })
    }

    /// When each of them saw the next resource whose name ends so; other resources are passed over.
    fn times(&mut self, name: &str) -> Result<Vec<u64>> {
        loop {
            let line = self.lines.next().context("the agents have ended")??;
            let (what, times) = agents::read(&line)?;
            if what.ends_with(name) {
                return Ok(times);
            }
        }
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has ended
        let _ = self.child.wait();
    }
}
