//! `underpass analyze`: reads a cluster's objects and manifests as the mesh would, and prints problems, findings and notices like a compiler.
//! They come from config and core; here they are collected, placed on their lines and printed.

mod findings;
mod input;
mod live;
mod snippet;
mod text;

use std::{collections::BTreeMap, path::PathBuf};

use clap::ValueEnum;
use serde::Serialize;
use underpass_config::door::State;
use underpass_core::resolve::Model;
use underpass_door::Severity;
use underpass_kube::client::ConnectError;

use self::{findings::Finding, input::Inputs, live::Live};
use crate::{
    args::{Cluster, Format, Mesh, Only},
    error::CliError,
    output::{self, Output},
    show::Style,
};

/// Check a cluster's objects and manifests: errors, objects and fields that are not served, and likely mistakes.
///
/// Reads the objects of the cluster, and directories and files (.yaml, .yml, .json) as if they were applied to it, as the mesh
/// would, and reports each object and field that is broken, has no effect, or has another one than expected: its line, the
/// effect, and what to write. With -f, with --use-kube=false, and where no cluster is named or found, files are checked alone:
/// that needs no cluster, no agent and no root.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 nothing is worse than the limit, 1 there are errors (or what --deny names), or \
    there is no manifest.\n\n\
    Severities: an error is not served; a warning is served, but not as its author may think, or leaves something less \
    safe than it looks; a notice is known and has no effect.\n\n\
    Examples:\n  \
    underpass analyze\n  \
    underpass analyze mesh/new-policy.yaml\n  \
    underpass analyze -f deploy/samples/bookinfo\n  \
    underpass analyze mesh/ apps/ --deny warnings\n  \
    helm template chart/ | underpass analyze - -o json"
)]
pub(crate) struct Analyze {
    /// Directories or files of manifests, laid over the cluster's objects; `-` is standard input.
    #[arg(value_name = "DIR|FILE")]
    paths: Vec<PathBuf>,
    /// Directories or files that are checked alone, without a cluster; may be repeated.
    #[arg(short = 'f', long = "filename", value_name = "DIR|FILE")]
    filename: Vec<PathBuf>,
    /// Severity that makes the exit status 1, besides errors.
    #[arg(long, value_name = "WHAT")]
    deny: Option<Deny>,
    /// The same as Istio's command has it: Info, Warning or Error.
    #[arg(long, value_name = "LEVEL", ignore_case = true, conflicts_with = "deny")]
    failure_threshold: Option<Threshold>,
    /// Directories are read with all that is in them, with or without this.
    #[arg(short = 'R', long, hide = true)]
    _recursive: bool,
    /// Format of the answer.
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Text)]
    output: Format,
    /// Read the cluster's objects; by default where there are no files of -f, and a kubeconfig is found.
    #[arg(short = 'k', long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    use_kube: Option<bool>,
    #[command(flatten)]
    only: Only,
    #[command(flatten)]
    cluster: Cluster,
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

/// The lowest severity that fails, by Istio's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Threshold {
    Info,
    Warning,
    Error,
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
    /// The count of the cluster's objects, where it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<usize>,
}

/// The report.
pub(crate) fn run(args: &Analyze) -> Result<Output, CliError> {
    let inputs = input::read(args.paths.iter().chain(&args.filename))?;
    let live = live(args)?;
    let report = analyze(&inputs, live.as_ref(), args);
    let least = match (args.deny, args.failure_threshold) {
        (Some(Deny::Warnings), _) | (None, Some(Threshold::Warning)) => Severity::Warning,
        (Some(Deny::Notices), _) | (None, Some(Threshold::Info)) => Severity::Notice,
        (None, None | Some(Threshold::Error)) => Severity::Error,
    };
    let is_denied = report.findings.iter().any(|f| f.severity >= least);
    let code = if is_denied { output::FAILED } else { output::OK };
    Ok(Output { code, ..Style::new(args.output).render(&report, |_, colour| text::write(&report, &inputs, colour))? })
}

/// The cluster's objects, where they are wanted; without any file they are.
fn live(args: &Analyze) -> Result<Option<Live>, CliError> {
    let has_files = !args.paths.is_empty() || !args.filename.is_empty();
    let is_named = args.use_kube == Some(true) || args.cluster.is_named() || !has_files;
    match args.use_kube {
        Some(false) if !has_files => Err(CliError::NothingToAnalyze),
        Some(false) => Ok(None),
        None if !args.filename.is_empty() && !args.cluster.is_named() => Ok(None),
        _ => match Live::read(&args.cluster) {
            Ok(live) => Ok(Some(live)),
            // Files alone, as before there was a cluster.
            Err(CliError::Cluster { source: ConnectError::NoCluster(_) }) if !is_named => Ok(None),
            Err(e) => Err(e),
        },
    }
}

fn analyze(inputs: &Inputs, live: Option<&Live>, args: &Analyze) -> Report {
    let (state, update) = State::default().next(&inputs.found.contents());
    let mut model = Model::empty(args.mesh.settings());
    if let Some(live) = live {
        model.apply(&live.update.batch);
    }
    model.apply(&update.batch);
    let mut findings = findings::collect(inputs, &state, &update, live, &model);
    if let Some(namespace) = &args.only.namespace {
        findings.retain(|finding| finding.is_in(namespace));
    }
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    Report {
        errors: count(Severity::Error),
        warnings: count(Severity::Warning),
        notices: count(Severity::Notice),
        served: state.served(),
        ignored: update.ignored,
        files: inputs.found.files.len(),
        other_files: inputs.found.others,
        live: live.map(|live| live.update.batch.changes.len() + live.others.count),
        findings,
    }
}
