//! `underpass-bench`: the benchmarks. Started by `cargo xtask bench`, which builds it for speed.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use underpass_tests::bench::{
    allocations::Counting,
    world::{self, Options},
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const USAGE: &str = "\
usage: underpass-bench world [--quick] [--json FILE] [--publish FILE]
  --quick          small clusters and few repetitions
  --json FILE      every number, as a list of objects
  --publish FILE   the page for docs/";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["world-part", rest @ ..] => world::part(rest).map(|never| match never {}),
        ["world-agents", rest @ ..] => world::control::agents::run(rest).map(|never| match never {}),
        ["world", rest @ ..] => options(rest).and_then(|options| world::run(&std::env::current_exe()?, &options)),
        ["--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &[&str]) -> Result<Options> {
    let mut options = Options::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut file = || rest.next().map(PathBuf::from).with_context(|| format!("{argument} FILE"));
        match *argument {
            "--quick" => options.quick = true,
            "--json" => options.json = Some(file()?),
            "--publish" => options.publish = Some(file()?),
            other => bail!("no option {other}\n{USAGE}"),
        }
    }
    Ok(options)
}
