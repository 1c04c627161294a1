//! `underpass label namespace`: puts the pods of a namespace into the mesh, or takes them out, by the label that Istio's users know.

use clap::Subcommand;
use underpass_core::enrol::DATAPLANE_MODE;
use underpass_kube::write::Labelled;

use crate::{
    agents::{connect, runtime},
    args::Cluster,
    error::CliError,
    output::{FAILED, Output, complain, one_line},
};

/// The value that puts pods into the mesh.
const AMBIENT: &str = "ambient";

/// Put the pods of namespaces into the mesh, or take them out, by label.
#[derive(Debug, clap::Args)]
pub(crate) struct Label {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Namespace(Namespace),
}

/// Put the pods of namespaces into the mesh (istio.io/dataplane-mode=ambient), or take them out.
///
/// Running pods too, without a restart. Pods with a label of their own are what that says.
#[derive(Debug, clap::Args)]
#[command(
    visible_alias = "ns",
    alias = "namespaces",
    after_help = "Examples:\n  underpass label namespace shop\n  underpass label namespace shop --remove"
)]
struct Namespace {
    /// The namespaces.
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// Replace another value of the label.
    #[arg(long, conflicts_with = "remove")]
    overwrite: bool,
    /// Take the label away.
    #[arg(long)]
    remove: bool,
    #[command(flatten)]
    cluster: Cluster,
}

pub(crate) fn run(args: &Label) -> Result<Output, CliError> {
    let What::Namespace(args) = &args.what;
    let value = (!args.remove).then_some(AMBIENT);
    runtime()?.block_on(async {
        let client = connect(&args.cluster).await?;
        let mut output = Output::ok(String::new());
        for name in &args.names {
            let done = client.label_namespace(name, DATAPLANE_MODE, value, args.overwrite).await;
            let done = done.map_err(|source| CliError::api_server(source, "get and patch namespaces".to_owned()));
            match done.and_then(|done| outcome(name, &done, args.remove)) {
                Ok(says) => output.text += &format!("namespace/{} {says}\n", one_line(name)),
                // What is done to the others is done.
                Err(e) => {
                    complain(&format!("error: {e}"));
                    output.code = FAILED;
                }
            }
        }
        Ok(output)
    })
}

fn outcome(name: &str, done: &Labelled, remove: bool) -> Result<&'static str, CliError> {
    match (done, remove) {
        (Labelled::Changed, false) => Ok("labeled"),
        (Labelled::Changed, true) => Ok("unlabeled"),
        (Labelled::Already, false) => Ok("not labeled: it has the label"),
        (Labelled::Already, true) => Ok("not unlabeled: it has no such label"),
        (Labelled::Kept { value }, _) => Err(CliError::Label {
            says: format!(
                "namespace {name} has the label {DATAPLANE_MODE}={value} already; --overwrite replaces it with {AMBIENT}"
            ),
        }),
        (Labelled::Gone, _) => Err(CliError::Label { says: format!("there is no namespace {name}") }),
    }
}
