//! `cargo xtask test`: the test levels, cheapest first, stopping at the first red one.
//!
//! The last line is always `N passed, M failed`, over all levels that ran. A level that is red without a failed test of its own
//! (a compiler error, missing means) counts as one failure, so that red never reads `0 failed`.

pub(crate) mod means;
pub(crate) mod summary;

use std::fmt;

use anyhow::{Result, bail, ensure};

use crate::build::{self, Programs};
use crate::cluster::Cluster;
use crate::install::{h2spec, prometheus};
use crate::process::Cmd;
use crate::tidy;
use crate::vm;
use crate::workspace::Workspace;
use crate::{demo, ebpf, image};
use summary::Tally;

/// Arguments of `test`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// pure, loopback, kernel, kubernetes (default: all)
    #[arg(value_name = "LEVEL", value_parser = parse_level)]
    levels: Vec<Level>,
    /// Run the kernel level in a virtual machine with this kernel: 6.1
    #[arg(long, value_name = "VERSION", value_parser = vm::parse_version)]
    kernel: Option<vm::Version>,
    /// Passed on to the test binaries: a filter, --nocapture, ...
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// A test level, by what its tests need; in the order of their cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// Nothing: tidy, unit tests, doc tests.
    Pure,
    /// The loopback device: integration tests of the default members, and the quick form of the benchmarks.
    Loopback,
    /// Root and a kernel: the tests of tests/.
    Kernel,
    /// The same and Kubernetes' own programs: the tests of tests/ that have an API server.
    Kubernetes,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pure => "pure",
            Self::Loopback => "loopback",
            Self::Kernel => "kernel",
            Self::Kubernetes => "kubernetes",
        })
    }
}

const LEVELS: [Level; 4] = [Level::Pure, Level::Loopback, Level::Kernel, Level::Kubernetes];

/// The crate of the kernel tests, left out of cheaper levels except for [`QUICK_BENCH`], which needs no kernel.
pub(crate) const TESTBED: &str = "underpass-tests";
/// The crate that embeds the kernel programs.
const LOADER: &str = "underpass-loader";
/// The quick form of the benchmarks, which judges counts.
pub(crate) const QUICK_BENCH: &str = "bench";
/// The tests of the level `kubernetes`, as cargo's pattern of their names. They run by name alone.
pub(crate) const KUBERNETES_TESTS: &str = "kubernetes_*";

/// In a machine without hardware virtualisation a program runs 5 to 20 times slower, most of it not in what tests wait for.
const SLOW_FACTOR: &str = "4";

fn parse_level(word: &str) -> Result<Level, String> {
    match word {
        "pure" => Ok(Level::Pure),
        "loopback" => Ok(Level::Loopback),
        "kernel" => Ok(Level::Kernel),
        "kubernetes" => Ok(Level::Kubernetes),
        _ => Err("the levels are pure, loopback, kernel and kubernetes".to_owned()),
    }
}

/// Runs the levels; true if all are green.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<bool> {
    let levels = options.levels()?;
    let mut runner = Runner { workspace, options, tally: Tally::default() };
    for (at, level) in levels.iter().enumerate() {
        eprintln!("== {level}");
        let before = runner.tally;
        if let Err(error) = runner.level(*level) {
            eprintln!("error: {error:#}");
            if runner.tally.failed == before.failed {
                runner.tally.count(false);
            }
        }
        if runner.tally.failed != before.failed {
            eprintln!("== {level} is red");
            levels[at + 1..].iter().for_each(|rest| eprintln!("== {rest} was not run"));
            break;
        }
    }
    if runner.tally.total() == 0 {
        eprintln!("error: no test has a name like {:?}", options.arguments);
        runner.tally.count(false);
    }
    println!("{}", runner.tally);
    Ok(runner.tally.failed == 0)
}

impl Options {
    /// The wanted levels, cheapest first, each once.
    fn levels(&self) -> Result<Vec<Level>> {
        if self.kernel.is_some() {
            ensure!(self.levels.iter().all(|level| *level == Level::Kernel), "--kernel is for the kernel level alone");
            return Ok(vec![Level::Kernel]);
        }
        let mut levels = if self.levels.is_empty() { LEVELS.to_vec() } else { self.levels.clone() };
        levels.sort_unstable();
        levels.dedup();
        Ok(levels)
    }
}

struct Runner<'a> {
    workspace: &'a Workspace,
    options: &'a Options,
    tally: Tally,
}

impl Runner<'_> {
    fn level(&mut self, level: Level) -> Result<()> {
        let before = self.tally;
        match (level, self.options.kernel) {
            (Level::Pure, _) => self.pure()?,
            (Level::Loopback, _) => self.loopback()?,
            (Level::Kernel, None) => self.kernel()?,
            (Level::Kernel, Some(version)) => self.kernel_in_vm(version)?,
            (Level::Kubernetes, _) => self.kubernetes()?,
        }
        // With a filter a level may well have nothing to run; `run` refuses a filter that nothing matches.
        ensure!(
            self.tally != before || !self.options.arguments.is_empty(),
            "no test ran: a level passes by its tests only"
        );
        Ok(())
    }

    fn pure(&mut self) -> Result<()> {
        if self.options.arguments.is_empty() {
            self.tally.add(tidy::run(self.workspace, &tidy::Options::default())?);
        }
        self.tests(self.user_space().args(["--lib", "--bins"]))?;
        self.tests(self.user_space().arg("--doc"))
    }

    fn loopback(&mut self) -> Result<()> {
        let h2spec = h2spec::ensure(self.workspace)?;
        let tests = self.user_space().args(["--test", "*", "--features", "underpass-net/h2spec"]);
        self.tests(tests.env("H2SPEC", h2spec))?;
        self.tests(self.cargo_test().args(["-p", TESTBED, "--test", QUICK_BENCH]))
    }

    fn kernel(&mut self) -> Result<()> {
        means::ensure()?;
        ebpf::build(self.workspace)?;
        // Only now are there objects for it to embed, and its tests to look at.
        for features in [&[][..], &["--features", ebpf::NEXT]] {
            self.tests(self.cargo_test().args(["-p", LOADER, "--lib"]).args(features))?;
        }
        let programs = Programs::build(self.workspace)?.with_next(self.workspace)?;
        let prometheus = prometheus::ensure(self.workspace)?;
        let tests = self.cargo_test().args(["-p", TESTBED]);
        let tests = prometheus.environment().into_iter().fold(tests, |tests, (name, path)| tests.env(name, path));
        self.tests(programs.environment()?.iter().fold(tests, |tests, (name, path)| tests.env(name, path)))?;
        if self.options.arguments.is_empty() {
            let shown = demo::on_nodes(self.workspace, &programs, Some(&prometheus))?.arg("--check").status()?;
            self.tally.count(shown.success());
        }
        Ok(())
    }

    fn kernel_in_vm(&mut self, version: vm::Version) -> Result<()> {
        let machine = vm::Machine::prepare(self.workspace, version)?;
        ebpf::build(self.workspace)?;
        let programs = Programs::build(self.workspace)?.with_next(self.workspace)?;
        let tests = build::executables(self.cargo_test().args(["-p", TESTBED, "--no-run"]))?;
        let tests: Vec<_> = tests.into_iter().filter(|executable| executable.is_test).collect();
        let mut job = vm::Job::default();
        for program in means::PROGRAMS {
            job.program(program.name)?;
        }
        job.variable("UNDERPASS_SLOW", SLOW_FACTOR);
        programs.paths().for_each(|path| job.file(path));
        for (name, path) in programs.environment()? {
            job.variable(name, &path.to_string_lossy());
        }
        for (name, path) in prometheus::ensure(self.workspace)?.environment() {
            job.file(path);
            job.variable(name, &path.to_string_lossy());
        }
        // Tests read the sample manifests where they are in the checkout.
        job.file(&self.workspace.root().join("deploy"));
        for test in &tests {
            job.file(&test.path);
            job.command(&test.package, &test.path, &self.options.arguments);
        }
        job.file(&self.workspace.root().join("tests"));
        let tally = &mut self.tally;
        let before = *tally;
        let code = machine.run(&job, |line| tally.read(line))?;
        ensure!(code == 0 || tally.failed != before.failed, "the tests in the virtual machine ended with {code}");
        Ok(())
    }

    fn kubernetes(&mut self) -> Result<()> {
        means::ensure()?;
        ebpf::build(self.workspace)?;
        let programs = Programs::build(self.workspace)?.with_next(self.workspace)?;
        let cluster = Cluster::prepare(self.workspace)?;
        image::next_for_testbed(self.workspace, &programs)?;
        // An API server that starts again beside a load takes its time.
        let tests = self.cargo_test().args(["-p", TESTBED, "--test", KUBERNETES_TESTS]);
        let tests = tests.env("UNDERPASS_TEST_DEADLINE_S", "300");
        let tests = cluster.environment().into_iter().fold(tests, |tests, (name, path)| tests.env(name, path));
        self.tests(programs.environment()?.iter().fold(tests, |tests, (name, path)| tests.env(name, path)))?;
        if self.options.arguments.is_empty() {
            let shown = demo::in_kubernetes(self.workspace, &programs, &cluster)?.arg("--check").status()?;
            self.tally.count(shown.success());
        }
        Ok(())
    }

    fn user_space(&self) -> Cmd {
        self.cargo_test().args(["--workspace", "--exclude", TESTBED])
    }

    fn cargo_test(&self) -> Cmd {
        self.workspace.cargo().args(["test", "--no-fail-fast"])
    }

    fn tests(&mut self, command: Cmd) -> Result<()> {
        count(command, &self.options.arguments, &mut self.tally)
    }
}

/// Runs test binaries with these arguments, and counts what they say.
pub(crate) fn count(command: Cmd, arguments: &[String], total: &mut Tally) -> Result<()> {
    let command = command.arg("--").args(arguments);
    let line = command.line();
    let mut tally = Tally::default();
    let status = command.lines(|line| {
        tally.read(line);
        true
    })?;
    total.add(tally);
    if !status.success() && tally.failed == 0 {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn levels(line: &str) -> Result<Vec<Level>, String> {
        let words = ["test"].into_iter().chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.options.levels().map_err(|error| error.to_string())
    }

    #[test]
    fn levels_are_ordered_by_cost() {
        assert_eq!(levels(""), Ok(LEVELS.to_vec()));
        assert_eq!(levels("kubernetes kernel pure kernel"), Ok(vec![Level::Pure, Level::Kernel, Level::Kubernetes]));
        assert_eq!(levels("loopback -- some_filter --nocapture"), Ok(vec![Level::Loopback]));
        assert_eq!(levels("--kernel 6.1"), Ok(vec![Level::Kernel]));
        assert_eq!(levels("kernel --kernel 6.1 -- filter"), Ok(vec![Level::Kernel]));
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        for (line, want) in [
            ("everything", "the levels are"),
            ("pure --kernel 6.1", "for the kernel level alone"),
            ("kubernetes --kernel 6.1", "for the kernel level alone"),
            ("--kernel 5.4", "6.1"),
        ] {
            let error = levels(line).unwrap_err();
            assert!(error.contains(want), "{line}: {error}");
        }
    }
}
