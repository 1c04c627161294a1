//! `underpass manifest generate`: what would be installed, as manifests for kubectl.

use clap::Subcommand;
use underpass_config::definitions;

use super::install::Program;
use crate::{
    agents::runtime,
    args::Place,
    chart::{Unpacked, helm::Helm, rendered, values::Given},
    error::CliError,
    output::{Output, complain},
};

/// What would be installed, as manifests.
#[derive(Debug, clap::Args)]
pub(crate) struct Manifest {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the manifests of an installation, for a tool that applies them. No cluster is asked.
    ///
    /// The namespace comes first, then the definitions of the mesh's kinds (unless crds.enabled=false), then the rest. There are no hooks:
    /// what deletes these manifests leaves captured pods on the nodes, and policies go with their definitions.
    #[command(
        after_help = "Example:\n  underpass manifest generate --set global.hub=registry.example/mesh | kubectl apply -f -"
    )]
    Generate {
        #[command(flatten)]
        values: Given,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        program: Program,
    },
}

pub(crate) fn run(args: &Manifest) -> Result<Output, CliError> {
    let Action::Generate { values, place, program } = &args.action;
    let values = values.read()?;
    for note in &values.notes {
        complain(&format!("note: {note}"));
    }
    let unpacked = Unpacked::new()?;
    let layers = unpacked.layers(&values.layers)?;
    let chart = unpacked.chart();
    let (rendered, told) = runtime()?.block_on(async {
        // Nothing of a kubeconfig matters to what is rendered.
        let helm = Helm::find(&program.helm, None, None, &place.system_namespace).await?;
        let rendered = helm.read("template", &Helm::template(&chart, &layers, &values)).await?;
        let told = match helm.notes(&chart, &layers, &values) {
            Some(arguments) => helm.try_read(&arguments).await,
            None => None,
        };
        Ok::<_, CliError>((rendered, told))
    })?;
    match told.as_deref().and_then(rendered::without_effect) {
        Some(names) => names.iter().for_each(|name| complain(&format!("note: {name}: has no effect here"))),
        None => complain(
            "note: underpass install --dry-run names the values without an effect: Helm 3 needs a cluster for it",
        ),
    }
    Ok(Output::ok(rendered::manifests(&rendered, &place.system_namespace, &definitions::all())?))
}
