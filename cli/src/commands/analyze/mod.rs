//! `underpass analyze`: reads manifests as the mesh would, and prints problems, findings and notices like a compiler.
//! They come from config and core; here they are collected, placed on their lines and printed.

mod findings;
mod input;
mod snippet;
mod text;

use std::{collections::BTreeMap, path::PathBuf};

use clap::ValueEnum;
use serde::Serialize;
use underpass_config::door::State;
use underpass_core::resolve::Model;
use underpass_door::Severity;

use self::{findings::Finding, input::Inputs};
use crate::{
    args::{Format, Mesh},
    error::CliError,
    output::{self, Output},
    show::Style,
};

/// Check manifests: errors, objects and fields that are not served, and likely mistakes.
///
/// Reads directories and files (.yaml, .yml, .json) as the mesh would, and reports each object and field that is
/// broken, has no effect, or has another one than expected: its line, the effect, and what to write. Needs no cluster,
/// no agent and no root.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 nothing is worse than the limit, 1 there are errors (or what --deny names), or \
    there is no manifest.\n\n\
    Severities: an error is not served; a warning is served, but not as its author may think, or leaves something less \
    safe than it looks; a notice is known and has no effect.\n\n\
    Examples:\n  \
    underpass analyze deploy/samples/bookinfo\n  \
    underpass analyze mesh/ apps/ --deny warnings\n  \
    helm template chart/ | underpass analyze - -o json"
)]
pub(crate) struct Analyze {
    /// Directories or files of manifests; `-` is standard input.
    #[arg(value_name = "DIR|FILE", required_unless_present = "filename")]
    paths: Vec<PathBuf>,
    /// The same, as kubectl names it; may be repeated.
    #[arg(short = 'f', long = "filename", value_name = "DIR|FILE")]
    filename: Vec<PathBuf>,
    /// Severity that makes the exit status 1, besides errors.
    #[arg(long, value_name = "WHAT")]
    deny: Option<Deny>,
    /// Format of the answer.
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    mesh: Mesh,
}

/// The lowest severity that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Deny {
    /// Warnings fail like errors.
    Warnings,
    /// Notices fail as well: nothing may be without effect.
    Notices,
}

/// The report.
#[derive(Debug, Serialize)]
struct Report {
    /// By file and line.
    findings: Vec<Finding>,
    errors: usize,
    warnings: usize,
    notices: usize,
    /// The count of served objects.
    served: usize,
    /// The counts of objects of other kinds, by `apiVersion kind`.
    ignored: BTreeMap<String, usize>,
    /// The count of files read.
    files: usize,
    /// The count of files that are neither YAML nor JSON.
    other_files: usize,
}

/// The report.
pub(crate) fn run(args: &Analyze) -> Result<Output, CliError> {
    let inputs = input::read(args.paths.iter().chain(&args.filename))?;
    let report = analyze(&inputs, args);
    let least = match args.deny {
        None => Severity::Error,
        Some(Deny::Warnings) => Severity::Warning,
        Some(Deny::Notices) => Severity::Notice,
    };
    let is_denied = report.findings.iter().any(|f| f.severity >= least);
    let code = if is_denied { output::FAILED } else { output::OK };
    Ok(Output { code, ..Style::new(args.output).render(&report, |_, colour| text::write(&report, &inputs, colour))? })
}

fn analyze(inputs: &Inputs, args: &Analyze) -> Report {
    let (state, update) = State::default().next(&inputs.found.contents());
    let mut model = Model::empty(args.mesh.settings());
    model.apply(&update.batch);
    let findings = findings::collect(inputs, &state, &update, &model);
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    Report {
        errors: count(Severity::Error),
        warnings: count(Severity::Warning),
        notices: count(Severity::Notice),
        served: state.len(),
        ignored: update.ignored,
        files: inputs.found.files.len(),
        other_files: inputs.found.others,
        findings,
    }
}
