//! The control plane as one process, its parts wired together.
//!
//! ```text
//! API server --> door --> keeper: resolve, World --> resources --> xDS      (facts)
//!     |                                         \--> placement --\
//!     |-- Secret --> CA ----------------------------> issuer -----+--> CreateCertificate
//!     |               \--> serving certificate, ConfigMap of roots
//!     |-- lease --> leader: status of policies
//!     |-- TokenReview --> callers
//!     '-- AdmissionReview --> admission, whose webhook's roots are kept
//! ```
//! What must hold: nothing is served before every kind has been read and resolved.

use std::{future::pending, io, sync::Arc};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use underpass_core::Kind;
use underpass_keeper::{
    Feed, Keeper,
    supervision::{SupervisedTask, TaskEnded, on_thread},
};
use underpass_kube::{Access, Client, Door, Overtaken, Selection};
use underpass_net::tls::Protocol;
use underpass_telemetry::{
    admin::{AdminError, Limits, Listener, Readiness, Router},
    metrics::{Registry, routes},
};
use underpass_xds::{
    resource::Resources,
    server::{Counters, Services, serve},
};

use crate::{
    admission,
    ca::{
        callers::TokenReviews,
        expiry,
        issuer::{Counted, Known, MeshCa},
        roots,
        serving::{Serving, ServingError},
        source::Location,
    },
    config::Config,
    facts::{self, Followed},
    incoming, leader, metrics,
    replicas::Replicas,
    status, taint,
};

/// The name of the door, in reports and metrics.
const DOOR: &str = "API server";

/// Agents that may have told at once what other replicas have read.
const OVERTAKEN: usize = 64;

/// A control plane that cannot run, or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no way to the API server.
    #[error("API server")]
    Connect(#[from] underpass_kube::client::ConnectError),
    /// The port of xDS and certificates.
    #[error(transparent)]
    Serving(#[from] ServingError),
    /// Readiness and metrics.
    #[error("readiness and metrics")]
    Monitoring(#[from] AdminError),
    /// A supervised task.
    #[error(transparent)]
    Task(#[from] TaskEnded),
    /// A thread or a socket.
    #[error("{operation}")]
    Io {
        /// A verb and its object.
        operation: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
}

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { operation, source }
}

/// Runs until it is asked to end, and drains.
///
/// # Errors
/// A part cannot be started, or has ended.
pub async fn run(config: &Config) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(failed("watch signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("watch signals"))?;
    let (stop, stopping) = watch::channel(false);
    let mut asked = stopping.clone();
    let running = start(config, stopping);
    tokio::pin!(running);
    tokio::select! {
        ran = &mut running => return ran,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("control plane stopping");
    stop.send_replace(true);
    let drained = async {
        let _ = asked.wait_for(|is_stopping| *is_stopping).await;
        tokio::time::sleep(config.drain).await;
    };
    tokio::select! {
        ran = running => ran,
        () = drained => Ok(()),
    }
}

async fn start(config: &Config, mut stopping: watch::Receiver<bool>) -> Result<(), Error> {
    let access = match &config.kubeconfig {
        Some(path) => Access::Kubeconfig { path: path.clone(), context: None },
        None => Access::InCluster,
    };
    let (registry, ready) = (Registry::default(), Readiness::new());
    let certified = ready.gate("certificate authority", "there is none yet");
    let resolved = ready.gate("xDS", "the objects of the API server are not resolved yet");
    let router = routes(ready.routes(Router::new()), &registry);
    let _monitoring = Listener::any(config.monitoring_address)?.serve(router, Limits::default())?;
    let listener = TcpListener::bind(config.xds_address).await.map_err(failed("listen for xDS"))?;
    let webhook = TcpListener::bind(config.admission_address).await.map_err(failed("listen for admission reviews"))?;

    let client = Client::connect(&access, "control").await?;
    let mut keeper = Keeper::new(config.mesh(), "", &registry);
    let feed = keeper.door(DOOR, ready.gate(DOOR, "its objects are not read yet"));
    let (overtaken, waited_for) = mpsc::channel(OVERTAKEN);
    let (newest, reports, sources) = (keeper.newest(), keeper.reports(), keeper.sources());
    let (Followed { resources, placed }, following) = facts::follow(newest, DOOR).map_err(failed("start a thread"))?;
    let mut tasks = vec![
        SupervisedTask::spawn("the keeper of the World", keeper.start().map_err(failed("start a thread"))?),
        SupervisedTask::spawn("the follower of the World", following),
        SupervisedTask::spawn(
            "the door to the API server",
            open(access, feed, waited_for).map_err(failed("start a thread"))?,
        ),
    ];
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "control plane started");

    let location = Location { namespace: config.namespace.clone(), trust_domain: config.trust_domain.clone() };
    let (authority, following) = location.open(client.clone()).await;
    certified.open();
    tasks.push(SupervisedTask::spawn("the follower of the certificate authority", following));
    let writing = roots::write(client.clone(), authority.clone(), sources.clone());
    tasks.push(SupervisedTask::spawn("the writer of root certificates", writing));
    tasks.push(SupervisedTask::spawn("the warning of the CA's end", expiry::tell(authority.clone())));
    if config.remove_startup_taint {
        let untainting = taint::remove(client.clone(), config.namespace.clone(), sources.clone());
        tasks.push(SupervisedTask::spawn("the remover of startup taints", untainting));
    }
    let serving = Serving::new(config.names(), &config.trust_domain, &config.namespace);
    let (reviewing, renewing) = serving.clone().start(authority.clone(), Protocol::Http1)?;
    tasks.push(SupervisedTask::spawn("the renewal of the webhook's certificate", renewing));
    let (connections, accepting) = incoming::accept(webhook, reviewing);
    tasks.push(SupervisedTask::spawn("the accepting of the API server's connections", accepting));
    let reviews = admission::serve(connections, incoming::peer, config.mesh(), &registry);
    tasks.push(SupervisedTask::spawn("admission", reviews));
    let (acceptor, renewing) = serving.start(authority.clone(), Protocol::H2)?;
    tasks.push(SupervisedTask::spawn("the renewal of the serving certificate", renewing));

    let counters = Arc::new(Counters::default());
    metrics::measure(&registry, &counters, authority.clone());
    let webhook_authority = authority.clone();
    let known = Known::new(sources.clone(), placed, client.clone());
    let (settings, agents, lifetime) = (config.mesh(), config.agents(), config.certificate_lifetime);
    let counted = Counted::new(&registry);
    let issuer = Arc::new(MeshCa { authority, settings, agents, lifetime, known, counted });
    let resources = whole(resources).await;
    let heard = Arc::new(Replicas { agents: config.agents(), resources: resources.clone(), overtaken });
    resolved.open();
    let (leadership, released, electing) =
        leader::elect(client.clone(), &config.namespace, &registry, stopping.clone());
    tasks.push(SupervisedTask::spawn("the election of the leader", electing));
    let keeping = admission::webhook::keep(
        client.clone(),
        webhook_authority,
        config.admission_webhook.clone(),
        leadership.clone(),
    );
    tasks.push(SupervisedTask::spawn("the keeper of the webhook's roots", keeping));
    let writer = status::Writer::new(client.clone(), leadership, sources, (reports, DOOR), &registry);
    tasks.push(SupervisedTask::spawn("the writer of the status of policies", writer.run()));
    let (connections, accepting) = incoming::accept(listener, acceptor);
    tasks.push(SupervisedTask::spawn("the accepting of connections", accepting));
    let authenticator = Arc::new(TokenReviews::new(client, &registry));
    let limits = underpass_xds::server::Limits { end: config.drain, ..Default::default() };
    let services = Services { resources, authenticator, issuer, limits, counters, heard };
    let shutdown = async move {
        if stopping.wait_for(|is_stopping| *is_stopping).await.is_err() {
            pending::<()>().await;
        }
    };
    tokio::select! {
        () = serve(ReceiverStream::new(connections), services, shutdown) => {
            released.wait().await;
            Ok(())
        }
        ended = any(&mut tasks) => Err(ended.into()),
    }
}

/// The end of the first task that ends.
async fn any(tasks: &mut [SupervisedTask]) -> TaskEnded {
    let ended = tasks.iter_mut().map(|task| Box::pin(task.ended()));
    futures_util::future::select_all(ended).await.0
}

/// The resources of the newest World, once there is one.
async fn whole(mut newest: watch::Receiver<Option<Resources>>) -> watch::Receiver<Resources> {
    let first = match newest.wait_for(Option::is_some).await {
        Ok(first) => first.clone().unwrap_or_default(),
        // The follower has ended, which ends the process.
        Err(_) => pending().await,
    };
    let (sender, resources) = watch::channel(first);
    tokio::spawn(async move {
        while newest.changed().await.is_ok() {
            let next = newest.borrow_and_update().clone();
            if let Some(next) = next
                && sender.send(next).is_err()
            {
                return;
            }
        }
    });
    resources
}

/// Opens the door, on a thread of its own: handing on waits where the keeper is busy.
fn open(
    access: Access,
    feed: Feed,
    waited_for: mpsc::Receiver<Overtaken>,
) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    on_thread("API server", move || {
        runtime.block_on(async {
            // A connection of this runtime's own.
            match Client::connect(&access, "control").await {
                Ok(client) => {
                    // What no fact follows from is a waypoint's to read.
                    let kinds = Kind::ALL.into_iter().filter(|kind| !kind.is_of_waypoints());
                    let selections = kinds.map(Selection::all).collect();
                    Door::new(client, selections).overtaken_by(waited_for).run(|update| feed.send(update)).await;
                }
                Err(error) => tracing::error!(error = %crate::chain(&error), "API server cannot be asked"),
            }
        });
    })
}
