//! `underpass explain`: reads the manifests, asks core, and prints. Nothing is decided here.

mod text;

use std::{fs, path::Path};

use underpass_config::door;
use underpass_core::{
    World,
    explain::{Answer, explain},
};

use crate::{
    args::{Explain, Format},
    error::CliError,
    output::{self, Colour, Output},
};

/// The answer. Problems of the manifests are told on the way.
pub(crate) fn run(args: &Explain) -> Result<Output, CliError> {
    let unreadable = |source| CliError::Manifests { path: args.filename.clone(), source };
    check_readable(&args.filename).map_err(unreadable)?;
    let update = door::read(&args.filename);
    let world = World::empty(args.mesh.settings()).apply(&update.batch);
    for problem in update.problems.iter().chain(&update.notices) {
        output::complain(&problem.to_string());
    }
    for finding in world.findings() {
        let field = if finding.field.is_empty() { String::new() } else { format!(": {}", finding.field) };
        output::complain(&format!("warning: {}{field}: {}", finding.object, finding.says));
    }
    let answer = explain(&world, &args.source, &args.destination).map_err(|source| CliError::Explain { source })?;
    let text = match args.output {
        Format::Text => text::write(&answer, Colour::of_stdout()),
        Format::Json => {
            let json = serde_json::to_string_pretty(&answer).map_err(|source| CliError::Json { source })?;
            json + "\n"
        }
    };
    let code = match answer.verdict {
        Answer::Allow => output::OK,
        Answer::Deny => output::DENIED,
    };
    Ok(Output { text, code })
}

/// The door serves what it can read, and nothing is a valid directory: here, where somebody asks once, a directory that
/// is not there is an error.
fn check_readable(path: &Path) -> std::io::Result<()> {
    if fs::metadata(path)?.is_dir() { fs::read_dir(path).map(drop) } else { fs::File::open(path).map(drop) }
}
