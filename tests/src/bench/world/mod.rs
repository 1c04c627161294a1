//! The cost of a change of the World, by the size of the cluster: 1,000, 10,000 and 100,000 pods with a tenth as many services
//! and 500 policies. Every size has a process of its own, so that memory and allocators do not mix; [`run`] starts them and
//! collects what they print, [`part`] is what one of them does.
//!
//! [`layout`] is the cluster, [`works`] what is done to it, [`measure`] how that is counted, [`storm`] and [`connections`] what it
//! does to others. [`subject`] is the agent: everything of the product that is touched for it. [`control`] is the control plane,
//! with a subject of its own.

pub mod connections;
pub mod control;
pub mod layout;
pub mod measure;
pub mod objects;
pub mod storm;
pub mod subject;
pub mod works;

use std::{
    convert::Infallible,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use self::{
    layout::{Layout, Stack},
    measure::{CPU, WALL, new},
    works::{Target, WORKS},
};
use super::{
    allocations,
    machine::Machine,
    process::{resident, settle},
    report::Entry,
    table,
};

/// Pods to which the targets of load and memory belong.
const OF_PODS: usize = 100_000;
/// A full load from nothing.
const LOAD_MS: f64 = 5000.0;
/// Resident after it, where objects are resolved.
const RESIDENT_MIB: f64 = 350.0;
/// At most, while a change is carried out, times what is resident.
const PEAK: f64 = 1.5;

/// The order of a run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Small clusters, few repetitions.
    pub quick: bool,
    /// The file of the entries, as JSON.
    pub json: Option<PathBuf>,
    /// The file of the page.
    pub publish: Option<PathBuf>,
}

/// The extent of a run.
#[derive(Clone, Copy, Debug)]
struct Effort {
    sizes: &'static [usize],
    times: usize,
    loads: usize,
    storm: Duration,
    connections: usize,
    changes: u32,
    /// Agents of a control plane, in clusters of at most so many pods; of larger ones it has none.
    agents: (usize, usize),
    pods: usize,
}

const FULL: Effort = Effort {
    sizes: &[1000, 10_000, 100_000],
    times: 7,
    loads: 3,
    storm: Duration::from_secs(60),
    connections: 100_000,
    changes: 100,
    agents: (200, 10_000),
    pods: 30,
};

const QUICK: Effort = Effort {
    sizes: &[1000, 10_000],
    times: 3,
    loads: 1,
    storm: Duration::from_secs(3),
    connections: 10_000,
    changes: 20,
    agents: (20, 1000),
    pods: 5,
};

impl Effort {
    const fn of(quick: bool) -> Self {
        if quick { QUICK } else { FULL }
    }

    fn largest(self) -> usize {
        self.sizes.iter().copied().max().unwrap_or_default()
    }
}

/// A part: what one process measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Changes,
    Connections,
    Control,
}

impl Part {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Changes => "changes",
            Self::Connections => "connections",
            Self::Control => "control",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Changes, Self::Connections, Self::Control].into_iter().find(|part| part.as_str() == text)
    }
}

/// Measures everything, in processes of `program`, which is this one.
///
/// # Errors
/// Where a part fails, or a file cannot be written.
pub fn run(program: &Path, options: &Options) -> Result<()> {
    ensure!(options.publish.is_none() || !options.quick, "what is published is the whole of it, not the quick form");
    let (effort, machine) = (Effort::of(options.quick), Machine::here());
    println!("{machine}\n\n{}", table::head());
    let mut entries: Vec<Entry> = Vec::new();
    let mut tell = |entry: Entry| {
        println!("{}", table::line(&entry));
        entries.push(entry);
    };
    for stack in [Stack::Single, Stack::Dual] {
        for size in effort.sizes {
            start(program, Part::Changes, *size, stack, options.quick, &mut tell)?;
        }
    }
    start(program, Part::Connections, effort.largest(), Stack::Single, options.quick, &mut tell)?;
    for size in effort.sizes {
        start(program, Part::Control, *size, Stack::Single, options.quick, &mut tell)?;
    }
    for entry in growth(&entries) {
        println!("{}", table::line(&entry));
        entries.push(entry);
    }
    let reached = entries.iter().filter(|entry| entry.reached == Some(true)).count();
    println!("\n{reached} of {} targets reached", entries.iter().filter(|entry| entry.reached.is_some()).count());
    if let Some(file) = &options.json {
        write(file, &(serde_json::to_string_pretty(&entries)? + "\n"))?;
    }
    if let Some(file) = &options.publish {
        write(file, &page(&machine, entries))?;
    }
    Ok(())
}

fn start(
    program: &Path,
    part: Part,
    size: usize,
    stack: Stack,
    quick: bool,
    tell: &mut impl FnMut(Entry),
) -> Result<()> {
    let effort = if quick { "quick" } else { "full" };
    let arguments = ["world-part", part.as_str(), &size.to_string(), stack.as_str(), effort];
    let mut child = Command::new(program).args(arguments).stdout(Stdio::piped()).spawn().context("start a part")?;
    let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    for line in lines {
        tell(serde_json::from_str(&line.context("read from a part")?).context("an entry")?);
    }
    let status = child.wait().context("wait for a part")?;
    ensure!(status.success(), "{} ended with {status}", arguments.join(" "));
    Ok(())
}

/// One part, which prints its entries as JSON, each on a line, and then ends the process: what waits still is not waited for.
///
/// # Errors
/// Where the arguments are not [`run`]'s, or something cannot be measured.
pub fn part(arguments: &[&str]) -> Result<Infallible> {
    allocations::apart();
    let [part, size, stack, effort] = arguments else { anyhow::bail!("world-part PART SIZE STACK EFFORT") };
    let layout = Layout::new(size.parse().context("SIZE")?, Stack::parse(stack).context("STACK")?);
    let effort = Effort::of(*effort == "quick");
    let mut tell = |entries: Vec<Entry>| -> Result<()> {
        let mut out = std::io::stdout().lock();
        entries.iter().try_for_each(|entry| Ok(writeln!(out, "{}", serde_json::to_string(entry)?)?))
    };
    match Part::parse(part).context("PART")? {
        Part::Changes => match changes(layout, effort, &mut tell)? {},
        Part::Connections => {
            progress(layout, "open connections");
            let (subject, _) = measure::load(layout)?;
            tell(connections::connections(&subject, layout, effort.connections, effort.changes)?)?;
            std::process::exit(0)
        }
        Part::Control => {
            progress(layout, "a control plane");
            let (agents, at_most) = effort.agents;
            let agents = if layout.pods <= at_most { agents } else { 0 };
            tell(control::control(&std::env::current_exe()?, layout, agents, effort.pods)?)?;
            std::process::exit(0)
        }
    }
}

fn changes(layout: Layout, effort: Effort, tell: &mut impl FnMut(Vec<Entry>) -> Result<()>) -> Result<Infallible> {
    progress(layout, "load");
    let (mut subject, first) = measure::load(layout)?;
    ensure!(first.operations >= layout.destinations() as u64, "only {} operations", first.operations);
    let loaded = resident()?;
    for work in WORKS {
        progress(layout, work.name);
        let costs = measure::repeat(&subject, layout, work, effort.times)?;
        tell(measure::entries(layout, work, &costs))?;
    }
    let peak = resident()?.peak;
    let mut loads = vec![first];
    while loads.len() < effort.loads {
        progress(layout, "load again");
        drop(subject);
        settle()?;
        let (again, cost) = measure::load(layout)?;
        subject = again;
        loads.push(cost);
    }
    let Layout { pods, stack } = layout;
    let entry = |work, unit| new(work, pods, stack, unit);
    let times =
        |time: fn(&measure::Cost) -> Duration| -> Vec<f64> { loads.iter().map(|c| measure::ms(time(c))).collect() };
    let (allocations, operations) = measure::counts(&loads);
    let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
    // These targets are for that many pods.
    let aim = |entry: Entry, target| if pods >= OF_PODS { entry.target(target) } else { entry };
    tell(vec![
        entry("a full load", CPU).values(&times(|cost| cost.cpu)).counts(allocations, operations),
        aim(entry("a full load", WALL).values(&times(|cost| cost.wall)), LOAD_MS),
        aim(entry("resident after a load", "MiB").value(mib(loaded.now)), RESIDENT_MIB),
        aim(entry("peak of load and changes", "times resident").value(peak as f64 / loaded.now as f64), PEAK),
    ])?;
    if stack == Stack::Single {
        progress(layout, "1,000 changes a second");
        tell(storm::storm(&subject, layout, effort.storm)?)?;
    }
    std::process::exit(0) // what waits still is not waited for
}

/// In one piece, because another process writes lines to the same terminal.
fn progress(layout: Layout, what: &str) {
    let line = format!("{} pods, {} stack: {what}\n", table::count(layout.pods as u64), layout.stack.as_str());
    let _ = std::io::stderr().write_all(line.as_bytes()); // a reader that has gone misses nothing that counts
}

/// The count of small changes at the largest size, divided by their count at the smallest.
fn growth(entries: &[Entry]) -> Vec<Entry> {
    let mut grown = Vec::new();
    let small = WORKS.iter().filter_map(|work| match work.target {
        Target::Change { growth, .. } => Some((work.name, growth)),
        _ => None,
    });
    for (work, growth) in small.chain([(control::CHANGE, control::GROWTH)]) {
        for stack in [Stack::Single, Stack::Dual] {
            let of = |e: &&Entry| e.work == work && e.stack == stack.as_str() && e.unit == CPU;
            let (least, most) =
                (entries.iter().filter(of).min_by_key(|e| e.size), entries.iter().filter(of).max_by_key(|e| e.size));
            let (Some(least), Some(most)) = (least, most) else { continue };
            let times = |f: fn(&Entry) -> Option<u64>| {
                Some(f(most)?.max(1) as f64 / f(least)?.max(1) as f64).filter(|_| most.size > least.size)
            };
            for (what, times) in
                [("allocations", times(|e| e.allocations.map(|a| a.count))), ("operations", times(|e| e.operations))]
            {
                let unit = format!("{what}, times {}", table::count(least.size as u64));
                grown.extend(times.map(|times| new(work, most.size, stack, &unit).value(times).target(growth)));
            }
        }
    }
    grown
}

fn page(machine: &Machine, mut entries: Vec<Entry>) -> String {
    // What belongs to one work stands together.
    let mut order: Vec<String> = Vec::new();
    for entry in &entries {
        if !order.contains(&entry.work) {
            order.push(entry.work.clone());
        }
    }
    let place = |work: &str| order.iter().position(|known| known == work);
    entries.sort_by_key(|entry| (place(&entry.work), entry.stack == "dual"));
    format!(
        "# What a change of the World costs\n\n\
         Written by `cargo xtask bench world --publish`, which takes about ten minutes and wants a machine that does nothing\n\
         else; `--quick` is a short look. From the batch handed to the keeper to the last operation on the tables, which are in\n\
         memory, and on until nothing of it is left to do; without YAML, without enrolment, no new identity. Times are medians\n\
         with their range, counts are exact, of all threads. What the works are: `tests/src/bench/world/works.rs`.\n\n\
         Those of a control plane end where its agents have received a change over TLS; the agents are another process on the same\n\
         cores: `tests/src/bench/world/control.rs`.\n\n\
         Measured on {machine}.\n\n{}",
        table::markdown(&entries)
    )
}

fn write(file: &Path, text: &str) -> Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    fs::write(file, text).with_context(|| format!("write {}", file.display()))
}
