//! `cargo xtask`: every developer and CI command, so that a laptop and CI run exactly the same thing.
//!
//! It installs, builds and starts programs, and holds no logic of the mesh: it uses none of our crates, so that it
//! compiles in seconds and still runs when they do not compile. What a command needs and can install, it installs; what it
//! cannot, it names together with the exact command to run.

mod bench;
mod build;
mod cluster;
mod demo;
mod ebpf;
mod image;
mod install;
mod interop;
mod metadata;
mod process;
mod test;
mod tidy;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Developer and CI commands of Underpass.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the kernel programs into target/ebpf: those of every agent, and those of `--kernel-log`
    BuildEbpf,
    /// Check what a machine can check: headers, lengths, storeys, licences, bans, format, lints, docs
    Tidy(tidy::Options),
    /// Run the test levels, cheapest first, stopping at the first red one
    Test(test::Options),
    /// Run one command as root on the minimum kernel in a virtual machine
    Boot(vm::Options),
    /// Build everything and start two nodes, or a Kubernetes cluster, with a sample application on this machine
    Demo(demo::Options),
    /// Write the container image as a file, without a container runtime, or its files into a folder
    Image(image::Options),
    /// A Kubernetes cluster with the mesh in it on this machine, for people
    Cluster(cluster::Options),
    /// Run agents against a real istiod, built from source: certificates, facts, policies
    Interop(interop::Options),
    /// Measure, with the targets beside the numbers
    Bench(bench::Options),
}

fn run(task: Task) -> Result<bool> {
    let workspace = Workspace::find()?;
    match task {
        Task::BuildEbpf => ebpf::build(&workspace).map(|()| true),
        Task::Tidy(options) => tidy::run(&workspace, &options).map(|tally| tally.failed == 0),
        Task::Test(options) => test::run(&workspace, &options),
        Task::Boot(options) => vm::run(&workspace, &options),
        Task::Demo(options) => demo::run(&workspace, &options).map(|()| true),
        Task::Image(options) => image::run(&workspace, &options).map(|()| true),
        Task::Cluster(options) => cluster::run(&workspace, &options).map(|()| true),
        Task::Interop(options) => interop::run(&workspace, &options),
        Task::Bench(options) => bench::run(&workspace, &options).map(|()| true),
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
