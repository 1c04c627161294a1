//! The source of what an agent knows of its mesh: a directory of manifests beside the embedded CA, or, in a cluster, the API
//! server for the pods of this node and a control plane for everything else. Checked before anything is changed; then its doors
//! are added to the keeper, and opened.

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use tokio::sync::watch;
use underpass_identity::Authority;
use underpass_keeper::{Feed, Keeper};
use underpass_telemetry::{admin::Readiness, metrics::Registry};
use underpass_xds::client::Progress;

use crate::{
    certs::{self, Ca},
    cluster::{self, Cluster, cache, redirection::Word},
    config::Config,
    preflight::{Fault, chain},
};

/// The source, checked.
#[derive(Debug)]
pub enum Source {
    /// A directory of manifests, and the embedded CA.
    Manifests {
        /// The directory.
        directory: PathBuf,
        /// The CA, open.
        authority: Box<Authority>,
    },
    /// The API server and a control plane.
    Cluster(Box<Cluster>),
}

/// The doors of a source, before they are opened.
#[derive(Debug)]
pub(crate) enum Doors {
    Manifests { directory: PathBuf, feed: Feed },
    Cluster { cluster: Box<Cluster>, pods: Feed, facts: Feed, cached: cache::Meter },
}

/// Open doors. Dropped, they close.
#[derive(Debug)]
pub(crate) enum Open {
    Manifests { _watch: underpass_config::Watch },
    Cluster(cluster::Open),
}

impl Source {
    /// Checks the source that the settings name.
    pub(crate) fn check(config: &Config, now: SystemTime) -> Result<Self, Vec<Fault>> {
        match &config.control_plane {
            None => manifests(config, now),
            Some(control_plane) => {
                make_state(&config.state).map_err(|fault| vec![fault])?;
                Cluster::check(config, control_plane).map(|cluster| Self::Cluster(Box::new(cluster)))
            }
        }
    }

    /// The keeper of the World, with the doors of this source, and the CA of the node.
    pub(crate) fn keeper(self, config: &Config, ready: &Readiness, registry: &Registry) -> (Keeper, Doors, Ca) {
        let mesh = config.mesh();
        match self {
            Self::Manifests { directory, authority } => {
                let mut keeper = Keeper::new(mesh, &config.node, registry);
                let feed = keeper.door("manifests", ready.gate("manifests", "the manifests are not read yet"));
                (keeper, Doors::Manifests { directory, feed }, Ca::Embedded(config.ca(), authority))
            }
            Self::Cluster(cluster) => {
                let mut keeper = Keeper::given_facts(mesh, &config.node, registry);
                let reason = "the API server has not named the pods of this node yet";
                let pods = keeper.door("API server", ready.gate("API server", reason));
                let reason = "the control plane has not sent the facts of the mesh yet";
                let facts = keeper.door("control plane", ready.gate("control plane", reason));
                let ca = cluster.ca();
                let cached = cache::Meter::new(registry);
                (keeper, Doors::Cluster { cluster, pods, facts, cached }, ca)
            }
        }
    }
}

impl Doors {
    /// How the door to the control plane fares; none: there is no such door.
    pub(crate) fn control_plane(&self) -> Option<watch::Receiver<Progress>> {
        match self {
            Self::Manifests { .. } => None,
            Self::Cluster { cluster, .. } => Some(cluster.progress()),
        }
    }

    /// Opens them: updates arrive at the keeper from now on.
    ///
    /// # Errors
    /// The directory cannot be watched, or no thread can be started.
    pub(crate) fn open(self, config: &Config) -> io::Result<Open> {
        match self {
            Self::Manifests { directory, feed } => {
                let watch = underpass_config::Door::new(directory).watch(move |update| feed.send(update))?;
                Ok(Open::Manifests { _watch: watch })
            }
            Self::Cluster { cluster, pods, facts, cached } => {
                cluster.open(config, pods, facts, cached).map(Open::Cluster)
            }
        }
    }
}

impl Open {
    /// What says of the pods of this node that they are captured; none: there is no API server to say it to.
    pub(crate) fn word(&self) -> Option<Word> {
        match self {
            Self::Manifests { .. } => None,
            Self::Cluster(open) => Some(open.word.clone()),
        }
    }
}

fn manifests(config: &Config, now: SystemTime) -> Result<Source, Vec<Fault>> {
    let directory = config.manifests.clone().unwrap_or_default();
    let readable = std::fs::read_dir(&directory).map_err(|e| Fault {
        found: format!("read manifests in {}: {e}", directory.display()),
        remedy: "create the directory, or name another with --manifests".to_owned(),
    });
    let authority = Authority::open(&certs::directory(&config.state), &config.trust_domain, now);
    let authority = authority.map_err(|e| Fault { found: chain(&e), remedy: UNWRITABLE_STATE.to_owned() });
    match (readable, authority) {
        (Ok(_), Ok(authority)) => Ok(Source::Manifests { directory, authority: Box::new(authority) }),
        (readable, authority) => Err(readable.err().into_iter().chain(authority.err()).collect()),
    }
}

const UNWRITABLE_STATE: &str = "name a directory that can be written with --state";

fn make_state(state: &Path) -> Result<(), Fault> {
    DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(|e| Fault {
        found: format!("make the state directory {}: {e}", state.display()),
        remedy: UNWRITABLE_STATE.to_owned(),
    })
}
