//! `underpass uninstall`: Helm removes the release, and its hook cleans the nodes. Policies and their definitions stay, unless they are
//! asked for.

use underpass_core::enrol::{DATAPLANE_MODE, ISTIO_INJECTION};

use super::{
    crd,
    install::{Found, Run, watched},
};
use crate::{
    agents::runtime,
    args::Place,
    chart::{
        ChartError,
        helm::{self, Helm},
    },
    confirm::confirm,
    error::CliError,
    output::{self, Output, complain, one_line},
    table::few,
};

/// Remove the mesh from a cluster, and everything of it from the nodes.
///
/// AuthorizationPolicies, PeerAuthentications and their definitions stay, unless --crds is given; so do the root namespace and the Secret of
/// the CA.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 it is gone and every node is clean, 2 the answer was no, 1 something failed: \
                        also nodes that could not be cleaned, each named with what cleans it.")]
pub(crate) struct Uninstall {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    run: Run,
    /// Delete the definitions of the mesh's kinds too, where they are ours, with all AuthorizationPolicies and PeerAuthentications.
    #[arg(long)]
    crds: bool,
    /// Say what would be removed, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Taken and without effect: there is one installation, which goes as a whole.
    #[arg(long, hide = true)]
    _purge: bool,
    /// Refused: there are no revisions.
    #[arg(short = 'r', long, value_name = "NAME", hide = true)]
    revision: Option<String>,
}

pub(crate) fn run(args: &Uninstall) -> Result<Output, CliError> {
    if args.revision.is_some() {
        let instead = "there are no revisions; underpass uninstall removes the mesh";
        return Err(ChartError::Option { option: "--revision", instead }.into());
    }
    let runtime = runtime()?;
    let found = runtime.block_on(look(args))?;
    let definitions = args.crds.then(|| crd::Deletion::plan(&args.place.cluster)).transpose()?;
    if args.dry_run {
        complain("- nothing was changed (--dry-run)");
        return Ok(Output::ok(String::new()));
    }
    // One question, before anything is done: a Ctrl-C is Helm's from then on.
    if !args.run.yes && !confirm("Proceed?", "-y removes it without a question")? {
        return Ok(Output { text: "nothing is changed\n".to_owned(), code: output::NO });
    }
    let removed = runtime.block_on(remove(args, &found))?;
    let Some(definitions) = definitions else { return Ok(removed) };
    let deleted = definitions.carry_out(&args.place.cluster)?;
    Ok(Output { text: removed.text + &deleted.text, code: deleted.code })
}

/// What is there, told.
async fn look(args: &Uninstall) -> Result<Found, CliError> {
    let namespace = &*args.place.system_namespace;
    let found = Found::ask(&args.place, args.run.program()).await?;
    let Some(release) = &found.release else {
        let help = "there is nothing to remove";
        return Err(ChartError::Absent { namespace: namespace.to_owned(), help }.into());
    };
    complain(&format!(
        "This will remove Underpass {} from namespace {namespace} of {}, and from its nodes.",
        release.version, found.cluster
    ));
    let enrolled = enrolled(&found).await?;
    if !enrolled.is_empty() {
        complain(&still_enrolled(&enrolled));
    }
    Ok(found)
}

async fn remove(args: &Uninstall, found: &Found) -> Result<Output, CliError> {
    let namespace = &*args.place.system_namespace;
    complain("- helm removes the release, and its hook cleans the nodes");
    let status = watched(found, namespace, &Helm::uninstall(&args.run.way())).await?;
    helm::succeeded("uninstall", status, || after_a_failure(namespace))?;
    Ok(Output::ok("Underpass is removed.\n".to_owned()))
}

/// The namespaces whose label puts their pods into the mesh, by name.
async fn enrolled(found: &Found) -> Result<Vec<String>, CliError> {
    let mut all = Vec::new();
    for (key, value) in [(DATAPLANE_MODE, "ambient"), (ISTIO_INJECTION, "enabled")] {
        let names = found.client.namespaces_labelled(key, value).await;
        let names = names.map_err(|source| CliError::api_server(source, "list namespaces".to_owned()))?;
        all.extend(names.iter().map(|name| name.name().to_owned()));
    }
    all.sort();
    all.dedup();
    Ok(all)
}

/// The most namespaces that a line names.
const NAMED: usize = 10;

fn still_enrolled(namespaces: &[String]) -> String {
    let named = few(namespaces, NAMED);
    format!(
        "Pods of these namespaces are in the mesh by label: {named}. Their open connections are reset, and new ones fail until their \
         node is clean; underpass label namespace NAME --remove takes them out before, without that."
    )
}

/// Helm has said what failed; where a hook did, its log names the nodes.
fn after_a_failure(namespace: &str) -> String {
    let namespace = one_line(namespace);
    format!(
        "; where nodes were not cleaned, the release is gone all the same, and kubectl -n {namespace} logs job/underpass-cleanup names each node \
         with the command that cleans it (docs/install.md#removal)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_named_up_to_a_limit() {
        let names = |count: usize| (0..count).map(|n| format!("n{n}")).collect::<Vec<_>>();
        assert!(still_enrolled(&names(2)).contains("label: n0, n1. Their"), "{}", still_enrolled(&names(2)));
        assert!(still_enrolled(&names(12)).contains("n9 and 2 more. Their"), "{}", still_enrolled(&names(12)));
    }

    #[test]
    fn a_failure_says_where_the_nodes_are_named() {
        let help = after_a_failure("mesh");
        assert!(
            help.contains("-n mesh logs job/underpass-cleanup") && help.contains("docs/install.md#removal"),
            "{help}"
        );
    }
}
