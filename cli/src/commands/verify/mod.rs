//! `underpass verify`: does an installation work? Everything of it is looked at once: the control plane, the agent of each node, what both
//! have of each other, pods that are not captured, and policies of the network that stand between them.
//!
//! What must hold: nothing is made or changed; everything that is wrong is named at once, with what to do.

mod components;
mod network;
mod pods;
mod seen;
mod trust;

use super::findings::Report;
use crate::{
    args::{Format, Only, Place},
    error::CliError,
    output::Output,
};

/// Verify an installation: control plane, agents, definitions, certificates, pods, NetworkPolicies.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 nothing is wrong, or warnings alone; 2 there are errors; 1 there is no answer.")]
pub(crate) struct Verify {
    #[command(flatten)]
    only: Only,
    /// Format of the answer.
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    place: Place,
}

pub(crate) fn run(args: &Verify) -> Result<Output, CliError> {
    let (seen, mut findings) = seen::read(&args.place.way(), args.only.namespace.as_deref())?;
    findings.extend(components::findings(&seen));
    // Of what is not there nothing else is to say.
    if components::is_installed(&seen) {
        findings.extend(trust::findings(&seen));
        findings.extend(pods::findings(&seen));
        findings.extend(network::findings(&seen));
    }
    let in_mesh = seen.workloads.iter().filter(|workload| workload.in_mesh).count();
    let looked_at = format!(
        "namespace {}: control plane {}, agents {}, pods in the mesh {in_mesh}",
        seen.namespace,
        seen.control_pods.len(),
        seen.agents.len()
    );
    Report::new(looked_at, findings).output(args.output)
}
