//! `cargo xtask bench`: builds the benchmarks, a program of tests/, in the release profile and replaces itself by them.

use anyhow::{Context, Result};

use crate::build;
use crate::workspace::Workspace;

/// The program of the benchmarks.
const PROGRAM: &str = "underpass-bench";

/// Arguments of `bench`.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(clap::Subcommand)]
enum Bench {
    /// The cost of a change of the World, by the size of the cluster: time, allocations, table operations, memory
    World(World),
}

#[derive(clap::Args)]
struct World {
    /// Small clusters and few repetitions: a minute instead of ten
    #[arg(long)]
    quick: bool,
    /// The file that gets every number, as JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench/world.json")]
    json: String,
    /// Write docs/bench/world.md
    #[arg(long, conflicts_with = "quick")]
    publish: bool,
}

impl World {
    fn arguments(&self) -> Vec<&str> {
        let mut arguments = vec!["world", "--json", &self.json];
        arguments.extend(self.quick.then_some("--quick"));
        if self.publish {
            arguments.extend(["--publish", "docs/bench/world.md"]);
        }
        arguments
    }
}

/// Does not return unless it cannot be built.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let Bench::World(world) = &options.bench;
    let build = workspace.cargo().args(["build", "--release", "-p", "underpass-tests", "--bin", PROGRAM]);
    let found = build::executables(build)?;
    let program =
        found.into_iter().find(|executable| executable.name == PROGRAM).context("cargo built no benchmark")?;
    let bench = crate::process::Cmd::new(program.path).current_dir(workspace.root());
    Err(bench.args(world.arguments()).exec())
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

    fn arguments(line: &str) -> Result<String, String> {
        let words = ["bench"].into_iter().chain(line.split_whitespace());
        let Line { options } = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        let Bench::World(world) = &options.bench;
        Ok(world.arguments().join(" "))
    }

    #[test]
    fn the_benchmark_is_told_what_was_asked_for() {
        assert_eq!(arguments("world").as_deref(), Ok("world --json target/bench/world.json"));
        assert_eq!(arguments("world --quick --json a.json").as_deref(), Ok("world --json a.json --quick"));
        let published = "world --json target/bench/world.json --publish docs/bench/world.md";
        assert_eq!(arguments("world --publish").as_deref(), Ok(published));
        assert!(arguments("world --quick --publish").is_err_and(|says| says.contains("cannot be used with")));
        assert!(arguments("").is_err());
    }
}
