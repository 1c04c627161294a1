//! Sources of answers: agents, or a directory of manifests that is read now. Commands ask for views and
//! do not know the source.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use underpass_config::door::{self, Files, State};
use underpass_core::{
    ObjectName,
    explain::{Asked, Behind, Explanation, explain_connection, explain_request},
    resolve::Model,
};
use underpass_door::Path as FieldPath;
use underpass_telemetry::admin::{
    encode_query,
    view::{self, PodDescription, Policy, Service, ServiceDescription, Workload},
};

use crate::{
    agents::Agents,
    args::{From, Mesh},
    error::CliError,
    lines::Lines,
    output,
};

/// Agents, or the objects of manifests and their World.
pub(crate) enum Source {
    Agents(Agents),
    Manifests(Box<Model>, Box<Origin>),
}

/// The files that objects are of.
pub(crate) struct Origin {
    path: PathBuf,
    files: Files,
    state: State,
}

impl Origin {
    /// File and line of each object's field.
    fn locate(&self, behind: &mut [Behind]) {
        let mut lines = Lines::new(&self.state, self.files.contents());
        for one in behind {
            let place = lines.of(&one.object, &FieldPath::parse(&one.field));
            one.place = place.map(|(file, line)| {
                let path = if self.path.is_dir() { self.path.join(&**file) } else { self.path.clone() };
                format!("{}:{line}", path.display())
            });
        }
    }
}

/// An answer, and a line for each part that is missing: of an agent that gave none.
pub(crate) struct Found<T> {
    pub(crate) all: Vec<T>,
    pub(crate) silent: Vec<String>,
}

impl<T> Found<T> {
    const fn whole(all: Vec<T>) -> Self {
        Self { all, silent: Vec::new() }
    }
}

impl Source {
    /// Reads the manifests, and reports their problems; an agent is not asked yet.
    pub(crate) fn open(from: &From) -> Result<Self, CliError> {
        match &from.filename {
            None => Ok(Self::Agents(Agents::open(&from.way)?)),
            Some(path) => {
                let (model, origin) = read(path, &from.mesh)?;
                Ok(Self::Manifests(Box::new(model), Box::new(origin)))
            }
        }
    }

    /// Of a cluster every agent is asked for the pods of its own node, whose state it alone knows, and one of them for all others.
    pub(crate) fn workloads(&self) -> Result<Found<Workload>, CliError> {
        match self {
            Self::Agents(Agents::Local(agent)) => agent.get("/workloads").map(Found::whole),
            Self::Agents(Agents::Cluster(fleet)) => {
                if fleet.node().is_some() {
                    return fleet.any("/workloads").map(Found::whole);
                }
                let own = |node: &str| format!("/workloads?node={}", encode_query(node));
                let (answers, mut silent) = fleet.every_by::<Vec<Workload>>(own)?.split()?;
                let agents: Vec<_> = answers.iter().map(|(agent, _)| agent.clone()).collect();
                let whole = fleet.any_of(&agents, "/workloads").unwrap_or_else(|e| {
                    silent.push(e.to_string());
                    Vec::new()
                });
                let own = answers.into_iter().map(|(agent, said)| (agent.node, said));
                Ok(Found { all: merge(own, whole), silent })
            }
            Self::Manifests(model, _) => Ok(Found::whole(view::workloads(model.world()))),
        }
    }

    pub(crate) fn services(&self) -> Result<Vec<Service>, CliError> {
        match self {
            Self::Agents(agents) => agents.any("/services"),
            Self::Manifests(model, _) => Ok(view::services(model.world())),
        }
    }

    /// Agents of a cluster have no PeerAuthentications: those are the API server's.
    pub(crate) fn policies(&self) -> Result<Found<Policy>, CliError> {
        match self {
            Self::Agents(Agents::Local(agent)) => agent.get("/policies").map(Found::whole),
            Self::Agents(Agents::Cluster(fleet)) => {
                let mut found = Found::whole(fleet.any("/policies")?);
                match fleet.peer_authentications() {
                    Ok(more) => found.all.extend(more),
                    Err(e) => found.silent.push(e.to_string()),
                }
                Ok(found)
            }
            Self::Manifests(model, _) => Ok(Found::whole(view::policies(model.world(), model.sources()))),
        }
    }

    /// A connection; with files its route as well, of one of TLS by the server name that it asks for.
    pub(crate) fn explain(
        &self,
        source: &str,
        destination: &str,
        server_name: Option<&str>,
    ) -> Result<Explanation, CliError> {
        match self {
            Self::Agents(_) if server_name.is_some() => Err(CliError::RequestOfFiles),
            Self::Agents(agents) => {
                let query = format!("source={}&destination={}", encode_query(source), encode_query(destination));
                agents.beside(source, &format!("/explain?{query}"))
            }
            Self::Manifests(model, origin) => {
                let (world, sources) = (model.world(), model.sources());
                let mut explanation = explain_connection(world, sources, source, destination, server_name)
                    .map_err(|source| CliError::Explain { source })?;
                explanation.tcp.iter_mut().for_each(|tcp| origin.locate(&mut tcp.objects));
                Ok(explanation)
            }
        }
    }

    /// A connection, and a request over it.
    pub(crate) fn explain_request(
        &self,
        source: &str,
        destination: &str,
        asked: &Asked,
    ) -> Result<Explanation, CliError> {
        let Self::Manifests(model, origin) = self else { return Err(CliError::RequestOfFiles) };
        let mut explanation = explain_request(model.world(), model.sources(), source, destination, asked)
            .map_err(|source| CliError::Explain { source })?;
        explanation.http.iter_mut().for_each(|http| origin.locate(&mut http.objects));
        Ok(explanation)
    }

    pub(crate) fn describe_pod(&self, name: &ObjectName) -> Result<PodDescription, CliError> {
        match self {
            Self::Agents(agents) => {
                let name = name.to_string();
                agents.beside(&name, &format!("/describe/pod?name={}", encode_query(&name)))
            }
            Self::Manifests(model, _) => view::describe_pod(model.world(), model.sources(), name)
                .ok_or_else(|| CliError::NotFound { says: format!("the manifests have no pod {name}") }),
        }
    }

    pub(crate) fn describe_service(&self, name: &ObjectName) -> Result<ServiceDescription, CliError> {
        match self {
            Self::Agents(agents) => agents.any(&format!("/describe/service?name={}", encode_query(&name.to_string()))),
            Self::Manifests(model, _) => view::describe_service(model.world(), model.sources(), name)
                .ok_or_else(|| CliError::NotFound { says: format!("the manifests have no service {name}") }),
        }
    }

    /// The namespace of a name without one: the kubeconfig's, where a cluster is asked.
    pub(crate) fn default_namespace(&self) -> &str {
        match self {
            Self::Agents(agents) => agents.default_namespace(),
            Self::Manifests(..) => "default",
        }
    }
}

/// What agents say of pods, by name: of a pod the word of its own node's agent, else what all of them know.
fn merge(own: impl Iterator<Item = (Arc<str>, Vec<Workload>)>, whole: Vec<Workload>) -> Vec<Workload> {
    let mut all: BTreeMap<(String, String), Workload> = BTreeMap::new();
    // An agent of another version may tell more than it is asked for.
    let own = own.flat_map(|(node, said)| said.into_iter().filter(move |w| w.node.as_deref() == Some(&*node)));
    for w in own.chain(whole) {
        all.entry((w.namespace.clone(), w.name.clone())).or_insert(w);
    }
    all.into_values().collect()
}

/// The objects of a directory of manifests, and their World. Problems go to standard error, one per line.
fn read(path: &Path, mesh: &Mesh) -> Result<(Model, Origin), CliError> {
    let files = files(path)?;
    let (state, update) = State::default().next(&files.contents());
    let mut model = Model::empty(mesh.settings());
    model.apply(&update.batch);
    for problem in update.problems.iter().chain(&update.notices) {
        output::complain(&problem.to_string());
    }
    for finding in model.sources().findings() {
        let field = if finding.field.is_empty() { String::new() } else { format!(": {}", finding.field) };
        output::complain(&format!("warning: {}{field}: {}", finding.object, finding.says));
    }
    Ok((model, Origin { path: path.to_owned(), files, state }))
}

/// The manifests of a directory, or one file. The door serves all that it can read, also an empty directory: for
/// a single command a directory that does not exist or has no manifest is an error.
pub(crate) fn files(path: &Path) -> Result<Files, CliError> {
    check_readable(path).map_err(|source| CliError::Manifests { path: path.to_owned(), source })?;
    let files = door::files(path);
    if files.files.is_empty() {
        return Err(CliError::NoManifests { path: path.to_owned(), others: files.others });
    }
    Ok(files)
}

fn check_readable(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.is_dir() { fs::read_dir(path).map(drop) } else { fs::File::open(path).map(drop) }
}

#[cfg(test)]
pub(crate) mod tests {
    use underpass_telemetry::admin::view::PodState;

    use super::*;

    pub(crate) fn workload(name: &str, node: &str, state: Option<&str>) -> Workload {
        let (namespace, name) = name.split_once('/').unwrap();
        Workload {
            namespace: namespace.into(),
            name: name.into(),
            node: Some(node.into()),
            addresses: Vec::new(),
            in_mesh: true,
            because: String::new(),
            identity: None,
            ready: true,
            state: state.map(|state| PodState { state: state.into(), problem: None }),
        }
    }

    #[test]
    fn each_pod_is_as_its_own_node_says() {
        let (first, second) = (
            vec![workload("b/x", "n-1", Some("enrolled")), workload("a/y", "n-2", None)],
            vec![workload("a/y", "n-2", Some("waiting")), workload("c/new", "n-2", Some("waiting"))],
        );
        let whole = vec![workload("b/x", "n-1", None), workload("a/y", "n-2", None), workload("a/z", "n-3", None)];
        let said: Vec<String> = merge([("n-1".into(), first), ("n-2".into(), second)].into_iter(), whole)
            .iter()
            .map(|w| format!("{}/{} {}", w.namespace, w.name, w.state.as_ref().map_or("-", |s| &s.state)))
            .collect();
        assert_eq!(said, ["a/y waiting", "a/z -", "b/x enrolled", "c/new waiting"]);
    }
}
