//! `underpass crd`: the definitions of the mesh's kinds, printed, applied to a cluster and deleted from it. Those of another
//! owner, such as Istio, are used and never touched.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Subcommand;
use underpass_config::definitions::{self, Definition};
use underpass_core::ObjectName;
use underpass_kube::{
    Client,
    write::{AppliedDefinition, DefinitionState, FoundDefinition},
};

use crate::{
    agents,
    args::Cluster,
    confirm::confirm,
    error::CliError,
    output::{self, Output, complain, one_line},
};

/// The pause between two looks at a definition that is not what it will be.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// The definitions of the mesh's kinds: AuthorizationPolicy and PeerAuthentication of security.istio.io.
#[derive(Debug, clap::Args)]
pub(crate) struct Crd {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the definitions as YAML.
    #[command(after_help = "Example:\n  underpass crd print > crds.yaml")]
    Print,
    /// Apply each where it is absent, or one of ours that is not later than this command, and wait until it is established.
    ///
    /// Definitions of another owner (Istio, a release of its charts) are used as they are. With their objects they stay
    /// when the mesh is uninstalled.
    #[command(after_help = "Exit status: 0 the cluster has the definitions, 1 it does not.")]
    Apply {
        #[command(flatten)]
        cluster: Cluster,
        #[command(flatten)]
        patience: Patience,
    },
    /// Delete those that are ours, with all AuthorizationPolicies and PeerAuthentications, after a question.
    #[command(after_help = "Exit status: 0 they are gone, 2 the answer was no, 1 something failed.")]
    Delete {
        #[command(flatten)]
        cluster: Cluster,
        #[command(flatten)]
        patience: Patience,
        /// Do not ask.
        #[arg(short = 'y', long)]
        yes: bool,
    },
}

/// The time to wait for the API server's part.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Patience {
    /// The longest time to wait for the API server, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = Self::default().timeout)]
    timeout: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self { timeout: 60 }
    }
}

pub(crate) fn run(args: &Crd) -> Result<Output, CliError> {
    match &args.action {
        Action::Print => print(&definitions::all()),
        Action::Apply { cluster, patience } => Session::open(cluster, *patience)?.apply(),
        Action::Delete { cluster, patience, yes } => delete(cluster, *patience, *yes),
    }
}

fn delete(cluster: &Cluster, patience: Patience, is_confirmed: bool) -> Result<Output, CliError> {
    let session = Session::open(cluster, patience)?;
    let survey = session.survey()?;
    if !survey.doomed.is_empty() && !is_confirmed && !confirm("Delete?", "-y deletes without a question")? {
        return Ok(Output { text: survey.text + "nothing is deleted\n", code: output::NO });
    }
    session.delete(survey)
}

/// The definitions that a deletion takes, by name and uid, and lines about the others.
struct Survey {
    text: String,
    doomed: Vec<(String, Arc<str>)>,
}

/// A deletion for a command that asks once for more than this.
pub(crate) struct Deletion(Survey);

impl Deletion {
    /// Lists what goes; nothing is deleted yet.
    pub(crate) fn plan(cluster: &Cluster) -> Result<Self, CliError> {
        Session::open(cluster, Patience::default())?.survey().map(Self)
    }

    /// Deletes what was listed.
    pub(crate) fn carry_out(self, cluster: &Cluster) -> Result<Output, CliError> {
        Session::open(cluster, Patience::default())?.delete(self.0)
    }
}

fn print(all: &[Definition]) -> Result<Output, CliError> {
    let document = |definition: &Definition| {
        let yaml = serde_saphyr::to_string(&definition.object).map_err(|source| CliError::Yaml { source })?;
        Ok(format!("---\n{}\n", yaml.trim_end()))
    };
    Ok(Output::ok(all.iter().map(document).collect::<Result<String, CliError>>()?))
}

/// A cluster, and the time until which is waited for it.
struct Session {
    runtime: tokio::runtime::Runtime,
    client: Client,
    deadline: Instant,
}

impl Session {
    fn open(cluster: &Cluster, patience: Patience) -> Result<Self, CliError> {
        let runtime = agents::runtime()?;
        let client = runtime.block_on(agents::connect(cluster))?;
        let deadline = Instant::now() + Duration::from_secs(patience.timeout);
        Ok(Self { runtime, client, deadline })
    }

    /// Every definition is tried, also where another has failed.
    fn apply(&self) -> Result<Output, CliError> {
        let mut all = Output::ok(String::new());
        for definition in definitions::all() {
            let name = &definition.name;
            let done = self.apply_one(&definition).and_then(|applied| {
                all.text += &format!("{name}: {}\n", one_line(&applied.to_string()));
                self.wait_until(name, is_established)
            });
            let problem = match done {
                Ok(None) => continue,
                Ok(Some(found)) => format!("is not established: {}", found.as_ref().map_or("it is gone", state)),
                Err(error) => error.to_string(),
            };
            complain(&format!("error: {name}: {problem}"));
            all.code = output::FAILED;
        }
        Ok(all)
    }

    fn apply_one(&self, definition: &Definition) -> Result<AppliedDefinition, CliError> {
        loop {
            let applied = self.runtime.block_on(self.client.apply_definition(definition)).map_err(api_server)?;
            if applied != AppliedDefinition::Deleting || Instant::now() >= self.deadline {
                return Ok(applied);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Looks at what a deletion would take, and lists it on standard error.
    fn survey(&self) -> Result<Survey, CliError> {
        let mut survey = Survey { text: String::new(), doomed: Vec::new() };
        for definition in definitions::all() {
            match self.found(&definition.name)? {
                None => survey.text += &format!("{}: absent\n", definition.name),
                Some(FoundDefinition { owner: Some(owner), .. }) => {
                    survey.text += &one_line(&format!("{}: left: it is of {owner}", definition.name));
                    survey.text.push('\n');
                }
                Some(found) => {
                    let names = self.runtime.block_on(self.client.names_of(definition.kind)).map_err(api_server)?;
                    listed(&definition, &names).iter().for_each(|line| complain(line));
                    survey.doomed.push((definition.name, found.uid));
                }
            }
        }
        Ok(survey)
    }

    /// Deletes what was listed, and nothing that came in its place.
    fn delete(&self, survey: Survey) -> Result<Output, CliError> {
        let mut all = Output::ok(survey.text);
        for (name, uid) in survey.doomed {
            let deleted = self.runtime.block_on(self.client.delete_definition(&name, &uid)).map_err(api_server)?;
            let left = self.wait_until(&name, |found| found.is_none_or(|found| found.uid != uid))?;
            match left {
                Some(_) => {
                    complain(&format!(
                        "error: {name}: is being deleted, and not gone yet: its objects have finalizers?"
                    ));
                    all.code = output::FAILED;
                }
                None if deleted => all.text += &format!("{name}: deleted\n"),
                None => all.text += &format!("{name}: absent\n"),
            }
        }
        Ok(all)
    }

    fn found(&self, name: &str) -> Result<Option<FoundDefinition>, CliError> {
        self.runtime.block_on(self.client.definition(name)).map_err(api_server)
    }

    /// Looks until the definition is as wanted; what it was at the deadline instead.
    fn wait_until(
        &self,
        name: &str,
        is_wanted: impl Fn(Option<&FoundDefinition>) -> bool,
    ) -> Result<Option<Option<FoundDefinition>>, CliError> {
        loop {
            let found = self.found(name)?;
            if is_wanted(found.as_ref()) {
                return Ok(None);
            }
            if Instant::now() >= self.deadline {
                return Ok(Some(found));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn is_established(found: Option<&FoundDefinition>) -> bool {
    found.is_some_and(|found| found.state == DefinitionState::Established)
}

fn state(found: &FoundDefinition) -> &str {
    match &found.state {
        DefinitionState::Established => "established",
        DefinitionState::Waiting(says) if says.is_empty() => "the API server has not seen it yet",
        DefinitionState::Waiting(says) => says,
        DefinitionState::Deleting => "it is being deleted",
    }
}

fn api_server(source: underpass_kube::client::Error) -> CliError {
    CliError::api_server(source, "get, create, patch and delete CustomResourceDefinitions".to_owned())
}

/// The objects that go with their definition.
fn listed(definition: &Definition, names: &[ObjectName]) -> Vec<String> {
    let kind = definition.kind.as_str();
    let head = match names.len() {
        0 => format!("{}: there is no {kind}", definition.name),
        1 => format!("{}: 1 {kind} goes with it", definition.name),
        count => format!("{}: {count} objects of kind {kind} go with it", definition.name),
    };
    let names = names.iter().map(|name| format!("  {}/{}", name.namespace(), name.name()));
    std::iter::once(head).chain(names).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

    use super::*;

    /// Users without the command apply the file.
    #[test]
    fn the_file_is_what_is_printed() {
        let head = "# Generated from the code: `UPDATE_EXPECT=1 cargo test -p underpass-cli crd`.\n";
        let printed = print(&definitions::all()).unwrap_or_else(|e| panic!("{e}"));
        expect_file!["../../../deploy/crds.yaml"].assert_eq(&format!("{head}{}", printed.text));
    }

    /// YAML means the same as what is applied: a number stays text.
    #[test]
    fn what_is_printed_is_what_is_applied() {
        let text = print(&definitions::all()).unwrap_or_else(|e| panic!("{e}")).text;
        let read: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text).unwrap();
        let objects: Vec<_> = definitions::all().into_iter().map(|definition| definition.object).collect();
        assert_eq!(read, objects);
    }

    #[test]
    fn what_goes_is_counted_and_named() {
        let definition = &definitions::all()[1];
        let check = |names: &[ObjectName], lines: &[&str]| assert_eq!(listed(definition, names), lines);
        let [a, b] = ["a", "b"].map(|name| ObjectName::new("shop", name));
        check(&[], &["peerauthentications.security.istio.io: there is no PeerAuthentication"]);
        check(
            std::slice::from_ref(&a),
            &["peerauthentications.security.istio.io: 1 PeerAuthentication goes with it", "  shop/a"],
        );
        let two = "peerauthentications.security.istio.io: 2 objects of kind PeerAuthentication go with it";
        check(&[a, b], &[two, "  shop/a", "  shop/b"]);
    }
}
