//! Sources of answers: an agent's admin API, or a directory of manifests that is read now. Commands ask for views and
//! do not know the source.

use std::{fs, io, path::Path};

use serde::de::DeserializeOwned;
use underpass_config::door::{self, Files, State};
use underpass_core::{
    explain::{Explanation, explain},
    resolve::Model,
};
use underpass_telemetry::admin::{
    Client, encode_query,
    view::{self, Policy, Service, Workload},
};

use crate::{
    args::{Agent, From, Mesh},
    error::CliError,
    output,
};

/// An agent that answers.
pub(crate) struct Asked {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Asked {
    pub(crate) fn new(agent: &Agent) -> Result<Self, CliError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self {
            runtime: runtime.map_err(|source| CliError::Runtime { source })?,
            client: Client::new(agent.agent.clone()),
        })
    }

    /// The answer to `GET path`.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.runtime.block_on(self.client.json(path)).map_err(CliError::from)
    }

    /// Requests an action: `POST path`.
    pub(crate) fn post(&self, path: &str) -> Result<(), CliError> {
        self.runtime.block_on(self.client.post(path)).map_err(CliError::from)
    }

    pub(crate) fn set_log_level(&self, level: &str) -> Result<(), CliError> {
        self.runtime.block_on(self.client.set_log_level(level)).map_err(CliError::from)
    }
}

/// An agent, or the objects of manifests and their World.
pub(crate) enum Source {
    Agent(Asked),
    Manifests(Box<Model>),
}

impl Source {
    /// Reads the manifests, and reports their problems; an agent is not asked yet.
    pub(crate) fn open(from: &From) -> Result<Self, CliError> {
        match &from.filename {
            None => Ok(Self::Agent(Asked::new(&from.agent)?)),
            Some(path) => Ok(Self::Manifests(Box::new(read(path, &from.mesh)?))),
        }
    }

    pub(crate) fn workloads(&self) -> Result<Vec<Workload>, CliError> {
        match self {
            Self::Agent(agent) => agent.get("/workloads"),
            Self::Manifests(model) => Ok(view::workloads(model.world())),
        }
    }

    pub(crate) fn services(&self) -> Result<Vec<Service>, CliError> {
        match self {
            Self::Agent(agent) => agent.get("/services"),
            Self::Manifests(model) => Ok(view::services(model.world())),
        }
    }

    pub(crate) fn policies(&self) -> Result<Vec<Policy>, CliError> {
        match self {
            Self::Agent(agent) => agent.get("/policies"),
            Self::Manifests(model) => Ok(view::policies(model.world(), model.sources())),
        }
    }

    pub(crate) fn explain(&self, source: &str, destination: &str) -> Result<Explanation, CliError> {
        match self {
            Self::Agent(agent) => {
                let (source, destination) = (encode_query(source), encode_query(destination));
                agent.get(&format!("/explain?source={source}&destination={destination}"))
            }
            Self::Manifests(model) => explain(model.world(), Some(model.sources()), source, destination)
                .map_err(|source| CliError::Explain { source }),
        }
    }
}

/// The objects of a directory of manifests, and their World. Problems go to standard error, one per line.
fn read(path: &Path, mesh: &Mesh) -> Result<Model, CliError> {
    let files = files(path)?;
    let (_, update) = State::default().next(&files.contents());
    let mut model = Model::empty(mesh.settings());
    model.apply(&update.batch);
    for problem in update.problems.iter().chain(&update.notices) {
        output::complain(&problem.to_string());
    }
    for finding in model.sources().findings() {
        let field = if finding.field.is_empty() { String::new() } else { format!(": {}", finding.field) };
        output::complain(&format!("warning: {}{field}: {}", finding.object, finding.says));
    }
    Ok(model)
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
