//! An agent in a cluster: the pods of its node and the namespaces come from the API server, the facts of the mesh and the
//! certificates from a control plane, and the node says of its pods which of them it captures.
//!
//! ```text
//! API server -----> pods of this node, namespaces --\
//!     ^                                              >-- keeper -> World, LocalPods
//!     |        control plane --> facts -------------/
//!     |                |
//!     |                '-------- certificates --> certs
//!     |-- redirection: annotation of captured pods
//!     '-- events: pods that are not captured, or were late
//! ```
//! The doors have a thread each, because handing on waits where the keeper is busy. What they hand on is kept on the node (`cache`), and
//! served by the next agent where they have nothing to hand on.

mod api_server;
pub(crate) mod cache;
mod control_plane;
mod events;
mod facts;
mod objects;
pub(crate) mod redirection;

use std::{path::PathBuf, sync::Arc, time::Duration};

use http::uri::Authority;
use tokio::sync::watch;
use underpass_identity::{CertificateDer, Roots};
use underpass_keeper::{Feed, supervision::SupervisedTask};
use underpass_kube::Access;
use underpass_net::tls::ServerName;
use underpass_xds::{
    certificates,
    client::{Progress, Session},
    connect::ControlPlane,
};

use self::{
    control_plane::{Link, RemoteCa},
    facts::FactsDoor,
    objects::ObjectsDoor,
};
use crate::{
    certs::{Ca, Remote, read_roots},
    config::Config,
    preflight::{Fault, chain},
};

/// The time for a certificate.
const CERTIFY: Duration = Duration::from_secs(10);

/// What leads to the API server and to the control plane, checked.
#[derive(Clone, Debug)]
pub struct Cluster {
    node: Arc<str>,
    access: Access,
    link: Arc<Link>,
    control_plane: ControlPlane,
    certificates: certificates::Client,
    roots_file: PathBuf,
    roots: Vec<CertificateDer<'static>>,
    /// How the door to the control plane fares.
    progress: watch::Sender<Progress>,
}

/// Open doors. Dropped, they close.
#[derive(Debug)]
pub(crate) struct Open {
    _tasks: [SupervisedTask; 2],
    /// Of what they hand on.
    _kept: Option<cache::Writer>,
    /// Says which pods are captured, and reports those that are not.
    pub(crate) word: redirection::Word,
}

impl Cluster {
    /// Checks what the settings name, without a connection: neither of the two has to be there when an agent starts.
    pub(crate) fn check(config: &Config, authority: &Authority) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut fault = |found: String, remedy: &str| faults.push(Fault { found, remedy: remedy.to_owned() });
        let roots_file = config.control_plane_roots.clone();
        let remedy = "mount the ConfigMap istio-ca-root-cert, or name a file with --control-plane-roots";
        let roots = read_roots(&roots_file).and_then(|roots| Roots::new(0, roots).map_err(|e| chain(&e)));
        let roots = roots.map_err(|found| fault(found, remedy)).ok();
        let token = &config.control_plane_token;
        if let Err(e) = std::fs::File::open(token) {
            let found = format!("open the token {}: {e}", token.display());
            fault(
                found,
                "mount a service account token with the audience istio-ca, or name a file with --control-plane-token",
            );
        }
        let host = config.control_plane_name.as_deref().unwrap_or_else(|| authority.host());
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
        let name = name
            .map_err(|_| fault(format!("{host:?} is no DNS name and no address"), "name it with --control-plane-name"));
        let (Some(roots), Ok(name)) = (roots, name) else { return Err(faults) };
        if !faults.is_empty() {
            return Err(faults);
        }
        let one = |found: String| vec![Fault { found, remedy: "see the settings of the control plane".to_owned() }];
        let link = Link::new(authority, name, roots_file.clone(), &roots).map_err(|e| one(chain(&e)))?;
        let link = Arc::new(link);
        let control_plane = ControlPlane {
            token: Some(token.clone()),
            cluster: config.cluster.clone(),
            ..ControlPlane::new(authority.as_str())
        };
        let certificates = certificates::Client::new(control_plane.clone(), Arc::clone(&link), CERTIFY);
        let certificates = certificates.map_err(|e| one(chain(&e)))?;
        let access = match &config.kubeconfig {
            Some(path) => Access::Kubeconfig { path: path.clone(), context: None },
            None => Access::InCluster,
        };
        let node = config.node.as_str().into();
        let roots = roots.certificates().to_vec();
        let progress = watch::Sender::default();
        Ok(Self { node, access, link, control_plane, certificates, roots_file, roots, progress })
    }

    /// The control plane's CA.
    pub(crate) fn ca(&self) -> Ca {
        let certify = Arc::new(RemoteCa(self.certificates.clone()));
        let remote = Remote { roots: self.roots_file.clone(), certify, stream: self.progress() };
        Ca::Remote(remote, self.roots.clone())
    }

    /// How the door to the control plane fares, from before it is opened.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Opens the doors, and the way of the node's word about its pods.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn open(self, config: &Config, pods: Feed, facts: Feed, cached: cache::Meter) -> std::io::Result<Open> {
        let (cache::Cached { facts: held, objects, changed }, records, kept) = cache::open(config, &self.roots)?;
        let (word, due) = redirection::Word::new();
        let after = config.facts_cache_after;
        let objects = ObjectsDoor::new(objects.zip(changed), records.clone(), (pods, cached.api_server), after);
        let api_server = api_server::open(self.access, Arc::clone(&self.node), objects, due)?;
        let node = control_plane::node(config);
        let session = match &held {
            Some(held) => Session::holding(node, held.names(), held.changes.clone()),
            None => Session::new(node),
        };
        let door =
            FactsDoor::new(config.mesh(), held.zip(changed), records.clone(), (facts, cached.control_plane), after);
        let control_plane =
            control_plane::open(self.link, self.control_plane, session, door, (records, self.progress))?;
        let tasks = [
            SupervisedTask::spawn("the door to the API server", api_server),
            SupervisedTask::spawn("the door to the control plane", control_plane),
        ];
        Ok(Open { _tasks: tasks, _kept: kept, word })
    }
}
