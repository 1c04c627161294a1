//! The tunnel of a node: it accepts captured connections, judges, carries and records them.
//!
//! * `outbound`: from a captured socket, by [`underpass_core::route`], over HBONE or plain.
//! * `inbound`: HBONE from other nodes, judged by [`underpass_core::admit`](mod@underpass_core::admit), to the
//!   application.
//! * `plaintext`: from outside the mesh, judged the same way.
//!
//! The common parts of all proxies (credentials, pool, judging) are `lib/proxy`'s.
//!
//! Nothing is shared on the data path: every pod has a home `worker`, which owns its listeners, its tunnels and its
//! buffers. Decisions are core's; this crate opens, copies, closes and records.

mod accept;
mod app;
mod budgets;
mod connections;
mod copy;
mod drain;
mod inbound;
mod message;
pub mod metrics;
mod open_connection;
mod open_connections;
mod outbound;
mod plaintext;
mod pod;
mod refusals;
mod run;
pub mod sockets;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod warning;
mod worker;
mod worker_pod;

use std::{io, num::NonZeroUsize, sync::Arc, thread::JoinHandle};

use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot, watch},
};
use underpass_core::{
    ObjectName, World,
    world::{Account, Version},
};
use underpass_net::socket::options::{Keepalive, Options, Role};
use underpass_proxy::credentials::Credentials;
use underpass_telemetry::{access_log::AccessLog, metrics::Registry};

pub use self::{
    budgets::{
        Budgets, FAMILIES as BUDGET_FAMILIES, Limits, PodBudget, PodUsage, SOCKETS_PER_CONNECTION, SOCKETS_PER_POD,
    },
    connections::Connections,
    message::{Accepting, PodListeners},
    pod::Pod,
    refusals::{Refusals, RefusedHandshake},
};
use self::{
    connections::WorkerHandle,
    message::Message,
    metrics::Metrics,
    open_connections::ConnectionIds,
    sockets::{InPods, Sockets},
    worker::{Shared, Worker},
};

/// The inputs of the tunnel.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The World, newest.
    pub world: watch::Receiver<Arc<World>>,
    /// The certificates, newest.
    pub credentials: watch::Receiver<Arc<Credentials>>,
    /// The access log.
    pub access_log: Arc<AccessLog>,
    /// The registry of its metrics.
    pub metrics: Registry,
}

/// The settings of the tunnel.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads. Each pod has a home among them.
    pub workers: NonZeroUsize,
    /// Tunnels.
    pub tunnel: underpass_net::tunnel::Settings,
    /// TLS.
    pub tls: underpass_net::tls::Settings,
    /// The sockets of the node.
    pub sockets: Arc<dyn Sockets>,
    /// Keepalive of connections: when a silent peer or application is taken for gone.
    pub keepalive: Keepalive,
    /// Limit of unauthenticated peers of one pod: sockets on 15008 in their TLS handshake.
    pub most_unauthenticated: usize,
    /// The limits of the node and its pods.
    pub limits: Limits,
    /// The metrics of traffic.
    pub metrics: metrics::Settings,
}

impl Settings {
    /// The wire contract's values; `inbound_mark` is the kernel data path's.
    #[must_use]
    pub fn new(inbound_mark: u32) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            workers: NonZeroUsize::new(cores.min(4)).unwrap_or(NonZeroUsize::MIN),
            tunnel: underpass_net::tunnel::Settings::default(),
            tls: underpass_net::tls::Settings::default(),
            sockets: Arc::new(InPods { inbound_mark }),
            keepalive: Keepalive::default(),
            most_unauthenticated: 256,
            limits: Limits::default(),
            metrics: metrics::Settings::default(),
        }
    }

    fn options(&self, role: Role) -> Options {
        Options::of(role, self.keepalive)
    }

    /// Sets the options of an accepted socket, which as a rule has inherited those of its `role`.
    fn accepted(&self, role: Role, socket: &TcpStream) {
        // Fails only where the connection is gone, and that is found by its first use.
        let _ = self.options(role).set_accepted(socket);
    }
}

/// The reason why the tunnel cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No thread, or no runtime for it.
    #[error("cannot start the thread of a worker")]
    Thread(#[source] io::Error),
    /// The settings of TLS cannot be met.
    #[error("cannot configure TLS")]
    Tls(#[source] underpass_net::tls::ConfigError),
}

/// The tunnel of a node. Dropping it stops accepting and ends its connections.
#[derive(Debug)]
pub struct Ztunnel {
    workers: Vec<(mpsc::UnboundedSender<Message>, JoinHandle<()>)>,
    connections: Connections,
    budgets: Arc<Budgets>,
}

impl Ztunnel {
    /// Starts the workers.
    ///
    /// # Errors
    /// Where a worker's thread or its runtime cannot be made, or TLS cannot be configured.
    pub fn start(settings: &Settings, inputs: &Inputs) -> Result<Self, StartError> {
        let shared = Shared {
            refusals: Arc::default(),
            budgets: Budgets::new(settings.limits),
            metrics: Metrics::new(&settings.metrics),
        };
        let budgets = Arc::clone(&shared.budgets);
        budgets.measure(&inputs.metrics);
        let (mut workers, mut connections) = (Vec::new(), Vec::new());
        for index in 0..settings.workers.get() {
            let numbers = ConnectionIds::new(index, settings.workers.get());
            let open = numbers.open();
            let worker = Worker::spawn(index, numbers, settings.clone(), inputs.clone(), shared.clone())?;
            connections.push(WorkerHandle { messages: worker.0.downgrade(), open });
            workers.push(worker);
        }
        let connections = Connections { workers: connections.into(), refusals: shared.refusals };
        let folded = connections.clone();
        shared.metrics.collect(&inputs.metrics, inputs.world.clone(), move || folded.fold());
        Ok(Self { workers, connections, budgets })
    }

    /// The budgets of the pods.
    #[must_use]
    pub fn budgets(&self) -> &Arc<Budgets> {
        &self.budgets
    }

    /// The open connections.
    #[must_use]
    pub const fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Serves a pod: its listeners are accepted from, until [`Ztunnel::remove`].
    pub fn add(&self, pod: Pod) {
        self.send(pod.cookie, Message::Add(Box::new(pod)));
    }

    /// Changes the service account of a served pod, as its node knows it: until the World has the same, new connections are refused.
    pub fn rename(&self, cookie: u64, account: Account) {
        self.send(cookie, Message::Rename { cookie, account });
    }

    /// Stops serving a pod: its listeners and all of its connections are closed. Returns at once; what it returns
    /// completes when they are.
    pub fn remove(&self, name: &ObjectName, cookie: u64) -> impl Future<Output = ()> + use<> {
        let (done, closed) = oneshot::channel();
        self.send(cookie, Message::Remove { name: name.clone(), cookie, done });
        async {
            // A worker that is gone has closed everything.
            let _ = closed.await;
        }
    }

    /// Completes when every worker goes by the World and the certificates that were published before the call: from
    /// then on no connection is judged, nor routed, by an earlier one, and none is open that it denies but those that are
    /// being closed. The oldest World that any worker goes by; none where no worker is left.
    pub fn caught_up(&self) -> impl Future<Output = Option<Version>> + use<> {
        let asked = self.ask(Message::CatchUp);
        async {
            let mut oldest: Option<Version> = None;
            for caught_up in asked {
                if let Ok(version) = caught_up.await {
                    oldest = Some(oldest.map_or(version, |oldest| oldest.min(version)));
                }
            }
            oldest
        }
    }

    /// Drains: every tunnel sends GOAWAY, and open connections go on, judged as before. Completes when nothing is open any more.
    pub fn drain(&self, accepting: Accepting) -> impl Future<Output = ()> + use<> {
        let drained = self.ask(|done| Message::Drain(accepting, done));
        async {
            for drained in drained {
                let _ = drained.await; // a worker that ended has closed everything
            }
        }
    }

    /// Duplicates of every pod's listeners: for a process that is to accept from them beside this one.
    ///
    /// An error is that of one pod: no descriptor is left.
    pub fn lend_listeners(&self) -> impl Future<Output = Vec<io::Result<PodListeners>>> + use<> {
        let lent = self.ask(Message::LendListeners);
        async {
            let mut all = Vec::new();
            for lent in lent {
                all.extend(lent.await.unwrap_or_default());
            }
            all
        }
    }

    /// Closes everything and waits for the workers.
    pub fn shut_down(self) {
        for (sender, thread) in self.workers {
            drop(sender);
            let _ = thread.join(); // a worker that panics aborts the process
        }
    }

    /// Asks every worker.
    fn ask<T>(&self, question: impl Fn(oneshot::Sender<T>) -> Message) -> Vec<oneshot::Receiver<T>> {
        let ask = |(worker, _): &(mpsc::UnboundedSender<Message>, JoinHandle<()>)| {
            let (answer, answered) = oneshot::channel();
            // Fails only where the worker ended, and then the process ends.
            let _ = worker.send(question(answer));
            answered
        };
        self.workers.iter().map(ask).collect()
    }

    fn send(&self, cookie: u64, message: Message) {
        let home = (cookie % self.workers.len() as u64) as usize;
        if let Some((worker, _)) = self.workers.get(home) {
            // Fails only where the worker ended, and then the process ends.
            let _ = worker.send(message);
        }
    }
}
