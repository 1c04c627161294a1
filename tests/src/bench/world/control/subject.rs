//! The subject of measurement: the parts of a control plane that a change passes through, wired as `control::run` wires them,
//! without an API server. Who an agent is, is not asked: reviews are the API server's.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};
use tokio_stream::wrappers::ReceiverStream;
use underpass_control::{
    facts::{self, Followed},
    incoming,
};
use underpass_core::{Identity, Kind, TrustDomain, objects, world::MeshSettings};
use underpass_door::{Reached, Update};
use underpass_identity::{Authority, certificate::pem, rotation::values::Values};
use underpass_keeper::{Feed, Keeper, supervision::SupervisedTask};
use underpass_net::tls::{Acceptor, Protocol, Settings};
use underpass_telemetry::{admin::Readiness, metrics::Registry};
use underpass_xds::{
    access::{Authenticator, Caller, Refusal, RefusalKind},
    certificates::{Issuer, Request},
    resource::Resources,
    server::{Counters, Limits, Services, serve},
};

use super::super::{layout::Change, objects::object};

/// The name of the server in its certificate.
pub(super) const NAME: &str = "control.bench";
const DOOR: &str = "API server";
const HANDSHAKE: Duration = Duration::from_secs(60);
/// Within this, or never.
const DEADLINE: Duration = Duration::from_secs(600);

/// A running control plane.
pub(super) struct ControlPlane {
    runtime: Runtime,
    feed: Feed,
    resources: watch::Receiver<Option<Resources>>,
    handed: AtomicU64,
    /// Where agents find it.
    pub(super) address: SocketAddr,
    /// The root that they trust, in PEM.
    pub(super) root: String,
    _tasks: [SupervisedTask; 2],
}

impl ControlPlane {
    /// One that has heard of nothing yet, and serves.
    ///
    /// # Errors
    /// The failure of a start.
    pub(super) fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let _entered = runtime.enter();
        let (registry, ready) = (Registry::default(), Readiness::new());
        let mut keeper = Keeper::new(MeshSettings::default(), "", &registry);
        let feed = keeper.door(DOOR, ready.gate(DOOR, "nothing is handed over yet"));
        let (Followed { resources, .. }, following) = facts::follow(keeper.newest(), DOOR)?;
        let tasks = [
            SupervisedTask::spawn("the keeper of the World", keeper.start()?),
            SupervisedTask::spawn("the follower of the World", following),
        ];
        let (now, domain) = (SystemTime::now(), TrustDomain::default());
        let values = Values::alone(Authority::make(&domain, now)?);
        let authority = Authority::from_values("the benchmark's CA", &values, &domain, now)?;
        let root = authority.root_certificates().iter().map(|root| pem(root).to_string()).collect();
        let own = Identity::new(&domain, "bench", "control");
        let certificate = authority.serving(&[NAME], &own, Duration::from_secs(24 * 3600), now)?;
        let acceptor = Arc::new(Acceptor::new(&certificate, &Settings::default(), HANDSHAKE, Protocol::H2)?);
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let (connections, accepting) = incoming::accept(listener, acceptor);
        runtime.spawn(accepting);
        let mut newest = resources.clone();
        runtime.spawn(async move {
            let Ok(first) = newest.wait_for(Option::is_some).await.map(|first| first.clone().unwrap_or_default())
            else {
                return;
            };
            let (sender, receiver) = watch::channel(first);
            let services = Services {
                resources: receiver,
                authenticator: Arc::new(AnyCaller),
                issuer: Arc::new(NoCertificates),
                limits: Limits::default(),
                counters: Arc::new(Counters::default()),
                heard: Arc::new(()),
            };
            let publishing = async {
                while newest.changed().await.is_ok() {
                    sender.send_replace(newest.borrow_and_update().clone().unwrap_or_default());
                }
            };
            let serving = serve(ReceiverStream::new(connections), services, std::future::pending());
            tokio::join!(publishing, serving);
        });
        drop(_entered);
        Ok(Self { runtime, feed, resources, handed: AtomicU64::new(0), address, root, _tasks: tasks })
    }

    /// Hands changes to the keeper. They become visible together.
    pub(super) fn hand(&self, changes: impl IntoIterator<Item = Change>) {
        let mut batch = objects::Batch::default();
        for change in changes {
            match change {
                Change::Put(thing) => batch.put(object(thing)),
                Change::Remove(thing) => batch.remove(object(thing).key()),
                Change::Alias(_) => {}
            }
        }
        let version = self.handed.fetch_add(1, Relaxed) + 1;
        let reached = Reached { known: version, changed: version };
        let versions = [(Kind::Pod, reached)].into_iter().collect();
        self.feed.send(Update { batch, versions, ..Update::default() });
    }

    /// Waits until so many addresses are served.
    ///
    /// # Errors
    /// Where they never are.
    pub(super) fn wait_for(&self, addresses: usize) -> Result<()> {
        let mut resources = self.resources.clone();
        let served = async {
            let is_it = |now: &Option<Resources>| now.as_ref().is_some_and(|now| now.addresses.len() >= addresses);
            resources.wait_for(is_it).await.map(drop)
        };
        let served = self.runtime.block_on(async { tokio::time::timeout(DEADLINE, served).await });
        served.context("resources that are never served")?.context("the follower has ended")
    }
}

/// Takes every caller for an agent.
struct AnyCaller;

impl Authenticator for AnyCaller {
    async fn authenticate(&self, _: Option<&str>) -> Result<Caller, Refusal> {
        Ok(Caller { namespace: "bench".into(), service_account: "agent".into(), pod: None, node: None })
    }
}

/// Issues nothing.
struct NoCertificates;

impl Issuer for NoCertificates {
    async fn issue(&self, _: Caller, _: Request) -> Result<Vec<String>, Refusal> {
        Err(Refusal::new(RefusalKind::PermissionDenied, "no certificates here"))
    }
}
