//! `underpass kube-inject`: there is nothing to inject. What a pipeline built for sidecars hands over comes out as it went in.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use crate::{
    error::CliError,
    output::{self, Output},
};

/// Print manifests unchanged: this mesh has no sidecars to inject.
///
/// For pipelines that were built for sidecars. Pods are in the mesh by the label of their namespace: `underpass label namespace`.
#[derive(Debug, clap::Args)]
pub(crate) struct KubeInject {
    /// The manifests; `-` or nothing is standard input.
    #[arg(short = 'f', long, value_name = "FILE")]
    filename: Option<PathBuf>,
    /// Write them here instead of to standard output.
    #[arg(short = 'o', long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Taken and without effect: what a sidecar would be made of.
    #[arg(
        long = "injectConfigFile",
        alias = "meshConfigFile",
        alias = "valuesFile",
        alias = "injectConfigMapName",
        alias = "meshConfigMapName",
        alias = "revision",
        alias = "operatorFileName",
        alias = "webhookConfig",
        value_name = "FILE",
        hide = true
    )]
    _inject_config_file: Vec<String>,
}

pub(crate) fn run(args: &KubeInject) -> Result<Output, CliError> {
    let bytes = match args.filename.as_deref().filter(|file| *file != Path::new("-")) {
        Some(file) => {
            let unreadable = |source| CliError::Manifests { path: file.to_owned(), source };
            std::fs::read(file).map_err(unreadable)?
        }
        None => {
            let mut bytes = Vec::new();
            let unreadable = |source| CliError::Manifests { path: "-".into(), source };
            io::stdin().lock().read_to_end(&mut bytes).map_err(unreadable)?;
            bytes
        }
    };
    output::complain(
        "nothing is injected: this mesh has no sidecars; underpass label namespace NAME puts pods into it",
    );
    match &args.output {
        Some(path) => {
            let written = File::create(path).and_then(|mut file| file.write_all(&bytes));
            written.map_err(|source| CliError::Page { path: path.clone(), source })?;
        }
        None => match io::stdout().lock().write_all(&bytes) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(CliError::Write { source: e }),
            _ => {}
        },
    }
    Ok(Output::ok(String::new()))
}
