//! `underpass proxy-config secret`: the certificates that a node has for a pod, or for all of its pods. Other words of Istio's
//! `proxy-config` show a configuration that there is none of here: [`super::elsewhere`] names the command to use.

use clap::Subcommand;
use serde::Serialize;
use underpass_telemetry::admin::view::{Certificate, Workload};

use super::{certificates, describe::Named};
use crate::{
    agents::{Agents, OnNode},
    args::{Format, Way},
    error::CliError,
    output::Output,
    show::{self, Style},
};

/// Certificates, as Istio's users look for them.
#[derive(Debug, clap::Args)]
pub(crate) struct ProxyConfig {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Secret(Secret),
}

/// The certificate of a pod, or those of all pods of a node.
#[derive(Debug, clap::Args)]
#[command(visible_alias = "secrets", alias = "s")]
struct Secret {
    /// A pod (NAME, NAME.NAMESPACE or NAMESPACE/NAME), or a node; by default all certificates.
    #[arg(value_name = "POD|NODE")]
    of: Option<String>,
    /// The namespace of a POD that names none; by default the kubeconfig's, else `default`.
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    way: Way,
    /// Format of the answer.
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub(crate) fn run(args: &ProxyConfig) -> Result<Output, CliError> {
    let What::Secret(args) = &args.what;
    let agents = Agents::open(&args.way)?;
    let (mut all, silent) = agents.listed::<Certificate>("/certificates")?;
    if let Some(of) = &args.of {
        let namespace = args.namespace.as_deref().unwrap_or_else(|| agents.default_namespace());
        let workloads: Vec<Workload> = agents.any("/workloads")?;
        match pod(&Named::parse(of, namespace), &workloads) {
            Some(pod) => {
                let identity = pod.identity.as_ref().ok_or_else(|| CliError::NotFound {
                    says: format!(
                        "pod {}/{} has no certificate: it is not in the mesh ({})",
                        pod.namespace, pod.name, pod.because
                    ),
                })?;
                all.retain(|c| c.item.identity == *identity && is_of(c, pod.node.as_deref()));
            }
            None if is_node(of, &workloads) => all.retain(|c| is_of(c, Some(of))),
            None => {
                return Err(CliError::NotFound { says: format!("the mesh knows no pod and no node {of}") });
            }
        }
    }
    let (style, now) = (Style::new(args.output), show::unix_s());
    Ok(style.with_silent(style.render(&all, |wide, colour| certificates::text(&all, now, wide, colour))?, &silent))
}

fn pod<'a>(named: &Named, workloads: &'a [Workload]) -> Option<&'a Workload> {
    let found = named.find(|name| {
        let is_it = |w: &&Workload| w.namespace == name.namespace() && w.name == name.name();
        workloads.iter().find(is_it).ok_or_else(|| CliError::NotFound { says: String::new() })
    });
    found.ok()
}

fn is_node(name: &str, workloads: &[Workload]) -> bool {
    workloads.iter().any(|w| w.node.as_deref() == Some(name))
}

/// Of an agent that was asked directly all are its node's.
fn is_of<T: Serialize>(of: &OnNode<T>, node: Option<&str>) -> bool {
    of.node.is_none() || of.node.as_deref() == node
}
