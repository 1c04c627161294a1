//! `underpass check`: is a cluster fit for an installation? What the API server says of it is read first; what only a program on a node
//! can say is asked of a pod there, where an image is named.
//!
//! What must hold: everything that is wrong is named at once, with what to do; a part that cannot be asked is a finding; nothing that the
//! command makes stays.

mod cluster;
mod job;
mod meshes;
mod nodes;
mod rights;
mod seen;

use std::time::Duration;

pub(super) use self::meshes::certificates;

use super::findings::{Finding, Report};
use crate::{
    agents::{connect, runtime},
    args::{Format, Place},
    error::CliError,
    output::Output,
};

/// Check a cluster before an installation: nodes, rights, definitions, other meshes and networks.
///
/// Without --image (or --hub) the API server alone is asked. With it a pod on each node looks at the kernel, at programs and listeners of
/// others and at the CNI configuration, changes nothing, and is removed, also after a Ctrl-C.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 nothing is wrong, or warnings alone; 2 there are errors; 1 there is no answer.\n\n\
    Examples:\n  underpass check\n  underpass check --image registry.example/underpass:1.0 -o json"
)]
pub(crate) struct Check {
    /// The image by which nodes are looked at: HUB/underpass:TAG.
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["hub", "tag"])]
    image: Option<String>,
    /// The same by its registry, as the chart's value global.hub.
    #[arg(long, value_name = "HUB")]
    hub: Option<String>,
    /// Its tag; by default this command's version.
    #[arg(long, value_name = "TAG", requires = "hub")]
    tag: Option<String>,
    /// This node alone.
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// The nodes' directory of CNI configurations, as the chart's value cni.confDir; empty: without the CNI plugin.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    cni_conf_dir: String,
    /// The time for each node's pod.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u32).range(1..=3600))]
    timeout: u32,
    /// Format of the answer.
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    place: Place,
}

impl Check {
    fn image(&self) -> Option<String> {
        let by_hub = |hub: &String| {
            let tag = self.tag.as_deref().unwrap_or(env!("CARGO_PKG_VERSION"));
            format!("{}/underpass:{tag}", hub.trim_end_matches('/'))
        };
        self.image.clone().or_else(|| self.hub.as_ref().map(by_hub))
    }
}

pub(crate) fn run(args: &Check) -> Result<Output, CliError> {
    runtime()?.block_on(async {
        let client = connect(&args.place.cluster).await?;
        let (seen, mut findings) = seen::read(&client, &args.place.system_namespace, args.node.as_deref()).await?;
        findings.extend(cluster::findings(&seen));
        findings.extend(meshes::findings(&seen));
        findings.extend(rights::findings(&seen.denied));
        match args.image() {
            None => findings.push(Finding::info(
                "the nodes",
                "their kernels, programs, ports and CNI configurations were not looked at",
                "name the image: --image HUB/underpass:TAG, or --hub HUB",
            )),
            Some(image) => {
                let plan = nodes::Plan {
                    image,
                    cni_conf_dir: args.cni_conf_dir.clone(),
                    patience: Duration::from_secs(args.timeout.into()),
                };
                findings.extend(nodes::look(&client, &seen, &plan).await?);
            }
        }
        let count = seen.nodes.len();
        let looked_at =
            format!("Kubernetes {}, {count} node{}", seen.version.git_version, if count == 1 { "" } else { "s" });
        Report::new(looked_at, findings).output(args.output)
    })
}
