//! `underpass install` and `underpass upgrade`: Helm with the chart that is in this command, after a look at what is there and a
//! question.

mod plan;
mod progress;

use std::path::PathBuf;

use underpass_kube::{Access, Client};

use self::plan::Plan;
pub(crate) use self::progress::watched;
use crate::{
    agents::{connect, runtime},
    args::Place,
    chart::{
        ChartError, POD_SECURITY, Unpacked,
        helm::{self, Before, Helm, Way},
        release::{self, Release},
        values::{Given, Values},
    },
    confirm::confirm,
    error::CliError,
    output::{self, Output, complain, one_line},
};

pub(crate) const EXAMPLES: &str = "Examples:
  underpass install --set global.hub=registry.example/mesh
  underpass install --profile demo -f istio-operator.yaml --dry-run

Exit status: 0 installed and ready, 2 the answer was no, 1 something failed.";
pub(crate) const EXIT_STATUS: &str = "Exit status: 0 upgraded and ready, 2 the answer was no, 1 something failed.";
const WITHOUT_QUESTION: &str = "-y goes on without a question";

#[derive(Debug, clap::Args)]
pub(crate) struct Install {
    #[command(flatten)]
    values: Given,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    run: Run,
    /// Print what would be applied, as Helm has it, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// How Helm is run.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The run")]
pub(crate) struct Run {
    /// Do not ask.
    #[arg(short = 'y', long, visible_alias = "skip-confirmation")]
    pub(crate) yes: bool,
    /// Whether to wait until everything is ready, or gone.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    wait: bool,
    /// The longest time for that: 90s, 5m0s.
    #[arg(long, visible_alias = "timeout", value_name = "DURATION", default_value = "5m0s", value_parser = duration)]
    readiness_timeout: String,
    /// Leave the chart's hooks out, which apply definitions before an installation and clean nodes after a removal.
    #[arg(long)]
    no_hooks: bool,
    #[command(flatten)]
    program: Program,
}

/// Helm.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The run")]
pub(crate) struct Program {
    /// Helm, 3.14 or later.
    #[arg(long, env = "UNDERPASS_HELM", hide_env_values = true, value_name = "PATH", default_value = "helm")]
    pub(crate) helm: PathBuf,
}

impl Run {
    pub(crate) const fn program(&self) -> &Program {
        &self.program
    }

    pub(crate) fn way(&self) -> Way {
        Way { wait: self.wait.then(|| self.readiness_timeout.clone()), hooks: !self.no_hooks }
    }
}

/// A duration as Go reads it, without fractions and signs.
fn duration(text: &str) -> Result<String, &'static str> {
    let bad = "a duration is numbers with units, as 90s or 5m0s";
    let parts: Vec<&str> = text.split_inclusive(|c: char| c.is_ascii_alphabetic()).collect();
    let is_one = |part: &&str| {
        part.len() > 1 && part.ends_with(['h', 'm', 's']) && part.bytes().rev().skip(1).all(|b| b.is_ascii_digit())
    };
    if !parts.is_empty() && parts.iter().all(is_one) { Ok(text.to_owned()) } else { Err(bad) }
}

pub(crate) fn install(args: &Install) -> Result<Output, CliError> {
    let values = args.values.read()?;
    runtime()?.block_on(apply(args, &values, Before::Forgotten))
}

pub(crate) fn upgrade(args: &Install) -> Result<Output, CliError> {
    let values = args.values.read()?;
    runtime()?.block_on(apply(args, &values, Before::Kept))
}

/// A cluster, Helm for it, and the release that is there.
pub(crate) struct Found {
    pub(crate) client: Client,
    pub(crate) helm: Helm,
    /// How a user knows the cluster: its context.
    pub(crate) cluster: String,
    pub(crate) release: Option<Release>,
}

impl Found {
    /// Asks Helm and the cluster.
    pub(crate) async fn ask(place: &Place, program: &Program) -> Result<Self, CliError> {
        let Place { cluster, system_namespace } = place;
        let access = Access::Kubectl { path: cluster.kubeconfig.clone(), context: cluster.context.clone() };
        let context = access.context().map_err(|source| CliError::Cluster { source })?;
        let cluster_name = context.as_deref().map_or("this pod's cluster".to_owned(), |name| format!("context {name}"));
        let helm = Helm::find(&program.helm, cluster.kubeconfig.clone(), context, system_namespace).await?;
        let client = connect(cluster).await?;
        complain(&format!("- asking the cluster ({cluster_name})"));
        // Its answer says more than Helm's about a cluster that does not answer.
        client.namespace_labels(system_namespace).await.map_err(|e| api_server(e, "get namespaces"))?;
        let listed = helm.read("list", &Helm::list()).await?;
        let release = release::find(&listed, system_namespace)?;
        Ok(Self { client, helm, cluster: cluster_name, release })
    }
}

fn api_server(source: underpass_kube::client::Error, to: &str) -> CliError {
    CliError::api_server(source, to.to_owned())
}

async fn apply(args: &Install, values: &Values, before: Before) -> Result<Output, CliError> {
    for note in &values.notes {
        complain(&format!("note: {note}"));
    }
    let found = Found::ask(&args.place, &args.run.program).await?;
    let namespace = &*args.place.system_namespace;
    if before == Before::Kept && found.release.is_none() {
        let help = "underpass install makes one";
        return Err(ChartError::Absent { namespace: namespace.to_owned(), help }.into());
    }
    let is_namespace_there = may_run_agents(&found.client, namespace).await?;
    let plan = Plan { found: found.release.as_ref(), cluster: &found.cluster, namespace, values, before };
    plan.lines().iter().for_each(|line| complain(line));
    if !args.dry_run && !args.run.yes && !confirm("Proceed?", WITHOUT_QUESTION)? {
        return Ok(Output { text: "nothing is changed\n".to_owned(), code: output::NO });
    }
    // After the question, at which a Ctrl-C would leave the directory.
    let unpacked = Unpacked::new()?;
    let layers = unpacked.layers(&values.layers)?;
    if args.dry_run {
        let tried = Helm::try_out(&unpacked.chart(), &layers, values, before);
        let status = watched(&found, namespace, &tried).await?;
        helm::succeeded("upgrade --dry-run", status, String::new)?;
        complain("- nothing was changed (--dry-run)");
        return Ok(Output::ok(String::new()));
    }
    if !is_namespace_there {
        make_namespace(&found.client, namespace).await?;
    }
    let way = args.run.way();
    complain(&match &way.wait {
        Some(timeout) => format!("- helm applies the chart, and waits until everything is ready ({timeout} at most)"),
        None => "- helm applies the chart".to_owned(),
    });
    let arguments = Helm::apply(&unpacked.chart(), &layers, values, before, &way);
    let status = watched(&found, namespace, &arguments).await?;
    helm::succeeded("upgrade --install", status, || plan::after_a_failure(namespace))?;
    Ok(Output::ok(plan.outcome(way.wait.is_some())))
}

/// Whether the namespace is there.
///
/// # Errors
/// Where its label forbids the agents' pods, which would never come.
async fn may_run_agents(client: &Client, namespace: &str) -> Result<bool, CliError> {
    let labels = client.namespace_labels(namespace).await.map_err(|e| api_server(e, "get namespaces"))?;
    let [key, needed] = POD_SECURITY;
    match labels.as_ref().and_then(|labels| labels.get(key)) {
        Some(level) if **level != *needed => {
            let level = one_line(level).into_owned();
            Err(ChartError::PodSecurity { namespace: namespace.to_owned(), level }.into())
        }
        _ => Ok(labels.is_some()),
    }
}

async fn make_namespace(client: &Client, namespace: &str) -> Result<(), CliError> {
    let [key, value] = POD_SECURITY;
    complain(&format!("- namespace {namespace} with the label {key}={value}"));
    client.make_namespace(namespace, &[POD_SECURITY]).await.map_err(|e| api_server(e, "create namespaces")).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_helm() {
        for good in ["90s", "5m0s", "1h", "300s"] {
            assert!(duration(good).is_ok(), "{good}");
        }
        for bad in ["", "5", "s", "5x", "5m0", "-1s", "1.5m", "5 m"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
