//! The L7 proxy of the mesh: it stands before Services and pods that want one, ends their HBONE tunnels, carries each request
//! where its route leads, and opens HBONE tunnels of its own to the endpoints. What happens to a request is decided in
//! [`underpass_core::http`]; here are the sockets, the streams and the clock.
//!
//! ```text
//! client's tunnel --CONNECT VIP:port--> tunnel --> called --> detect --> http (hyper) --> exchange --> upstream --> endpoint's tunnel
//!                                                                    \-> tcp ---------------------------/
//! ```
//! Like the tunnel of a node it has workers, each with a thread, a runtime and connections of its own. Nothing is shared on
//! the way of a byte; what has to be exact over all workers (limits of a cluster, its ejected endpoints) is shared by cluster.
//!
//! What must hold: what cannot be routed or judged is refused, never passed on around its routes; and no connection to an
//! endpoint carries the requests of two sources.

mod access_log;
mod authorizer;
mod called;
mod carry;
mod cluster;
mod configuration;
mod connection_record;
mod detect;
mod http;
mod inbound;
mod io;
mod judging;
pub mod metrics;
mod policy;
pub mod process;
mod run;
pub mod sockets;
mod tcp;
pub mod tokens;
mod upstream;
mod way;
mod worker;

use std::{
    io as std_io,
    net::{IpAddr, TcpListener},
    num::NonZeroUsize,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};
use underpass_core::{
    Identity, ObjectName, World,
    resolve::Sources,
    world::{Service, Waypoint as WaypointFact, WaypointAt},
};
use underpass_net::socket::options::Keepalive;
use underpass_proxy::credentials::Credentials;
use underpass_telemetry::{access_log::RequestLog, metrics::Registry};

pub use self::http::ClientCert;
use self::{
    cluster::SharedClusters,
    configuration::{Configuration, publish},
    run::Message,
    sockets::Sockets,
    tokens::Keyring,
    worker::Worker,
};

/// Who a waypoint is.
#[derive(Clone, Debug)]
pub struct Own {
    /// Its Gateway.
    pub gateway: ObjectName,
    /// The GatewayClass of that.
    pub class: Arc<str>,
    /// The identity that it shows.
    pub identity: Identity,
    /// Its addresses, of each family the first counts.
    pub addresses: Vec<IpAddr>,
}

impl Own {
    /// It stands before this Service.
    #[must_use]
    pub fn serves(&self, service: &Service) -> bool {
        service.waypoint.as_ref().is_some_and(|waypoint| self.is(waypoint))
    }

    /// It is an instance of this one.
    #[must_use]
    pub fn is(&self, waypoint: &WaypointFact) -> bool {
        matches!(&waypoint.at, WaypointAt::Service(name) if *name == self.gateway)
    }

    /// The address from which it calls one of the same family.
    #[must_use]
    pub fn address(&self, is_ipv4: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|own| own.is_ipv4() == is_ipv4)
    }
}

/// Limits on what one peer can ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sockets of the whole waypoint.
    pub sockets: usize,
    /// Bytes that wait in all tunnels.
    pub waiting_bytes: usize,
    /// Unauthenticated peers: sockets in their TLS handshake.
    pub unauthenticated: usize,
    /// Bytes of a request's or response's head; above it the answer is 431, or 502.
    pub head_bytes: usize,
    /// Headers of a request; above it the answer is 431.
    pub headers: usize,
    /// Requests at once on one HTTP/2 connection of a client.
    pub concurrent_streams: u32,
    /// The time in which the head of a request must have come, once it began: else the connection is closed.
    pub head_time: Duration,
    /// Time after which a client's HTTP connection without requests is closed; none: never.
    pub idle_time: Option<Duration>,
    /// Bytes of a request's body that are kept for another try.
    pub replay_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sockets: 65_536,
            waiting_bytes: 256 << 20,
            unauthenticated: 256,
            head_bytes: 64 << 10,
            headers: 100,
            concurrent_streams: 200,
            head_time: Duration::from_secs(60),
            idle_time: Some(Duration::from_secs(3600)),
            replay_bytes: 64 << 10,
        }
    }
}

/// Settings of a waypoint.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads.
    pub workers: NonZeroUsize,
    /// HTTP/2 and timeouts of tunnels.
    pub tunnel: underpass_net::tunnel::Settings,
    /// TLS.
    pub tls: underpass_net::tls::Settings,
    /// Its network.
    pub sockets: Arc<dyn Sockets>,
    /// Keepalive of all sockets.
    pub keepalive: Keepalive,
    /// Limits on peers.
    pub limits: Limits,
    /// How long the first bytes of a connection of unknown protocol are waited for before the server is asked whether it
    /// speaks first; and those of any connection that is open when it drains.
    pub first_bytes: Duration,
    /// The metrics of requests.
    pub metrics: metrics::Settings,
    /// What endpoints are told of the client's certificate.
    pub client_cert: ClientCert,
    /// The keys of tokens.
    pub tokens: tokens::Settings,
    /// For how long the files of a DestinationRule's TLS are taken to be what they were.
    pub tls_files: Duration,
}

impl Settings {
    /// The defaults, in this network.
    #[must_use]
    pub fn new(sockets: Arc<dyn Sockets>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            workers: NonZeroUsize::new(cores.min(4)).unwrap_or(NonZeroUsize::MIN),
            tunnel: underpass_net::tunnel::Settings::default(),
            tls: underpass_net::tls::Settings::default(),
            sockets,
            keepalive: Keepalive::default(),
            limits: Limits::default(),
            first_bytes: Duration::from_millis(500),
            metrics: metrics::Settings::default(),
            client_cert: ClientCert::default(),
            tokens: tokens::Settings::default(),
            tls_files: Duration::from_secs(10),
        }
    }
}

/// What a waypoint is given, and goes on being given.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The World.
    pub world: watch::Receiver<Arc<World>>,
    /// The objects of a waypoint's kinds, and those of pods.
    pub sources: watch::Receiver<Sources>,
    /// Its certificate, and the roots of the mesh.
    pub credentials: watch::Receiver<Arc<Credentials>>,
    /// Metrics.
    pub metrics: Registry,
    /// The access log of requests; none: no line is written.
    pub access_log: Option<Arc<RequestLog>>,
}

/// The reason why a waypoint cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No thread, or no runtime for it.
    #[error("cannot start a thread of the waypoint")]
    Thread(#[source] std_io::Error),
    /// The listener.
    #[error("cannot use the waypoint's listener")]
    Listener(#[source] std_io::Error),
    /// The settings of TLS cannot be met.
    #[error("cannot configure TLS")]
    Tls(#[source] underpass_net::tls::ConfigError),
}

/// A running waypoint. Dropping it stops accepting and ends its connections.
#[derive(Debug)]
pub struct Waypoint {
    workers: Vec<(mpsc::UnboundedSender<Message>, JoinHandle<()>)>,
    configuration: watch::Receiver<Arc<Configuration>>,
}

impl Waypoint {
    /// Starts it: `listener` is accepted from by all workers.
    ///
    /// # Errors
    /// Where a thread or its runtime cannot be made, the listener cannot be used, or TLS cannot be configured.
    pub fn start(own: &Own, settings: &Settings, inputs: &Inputs, listener: &TcpListener) -> Result<Self, StartError> {
        listener.set_nonblocking(true).map_err(StartError::Listener)?;
        let (world, sources) = (Arc::clone(&inputs.world.borrow()), inputs.sources.borrow().clone());
        let first = Arc::new(Configuration::new(own, world, sources));
        let (sender, configuration) = watch::channel(first);
        Self::publish(own.clone(), inputs, sender)?;
        let shared = Arc::new(SharedClusters::default());
        let metrics = metrics::Metrics::new(&settings.metrics);
        metrics.collect(&inputs.metrics, inputs.world.clone(), configuration.clone(), &shared);
        let keyring = Keyring::default();
        let mut workers = Vec::new();
        for index in 0..settings.workers.get() {
            let listener = listener.try_clone().map_err(StartError::Listener)?;
            let parts = run::Parts {
                own: own.clone(),
                settings: settings.clone(),
                configuration: configuration.clone(),
                credentials: inputs.credentials.clone(),
                metrics: Arc::clone(&metrics),
                registry: inputs.metrics.clone(),
                shared: Arc::clone(&shared),
                log: inputs.access_log.clone(),
                keyring: keyring.clone(),
                fetches_keys: index == 0,
            };
            workers.push(Worker::spawn(index, listener, parts)?);
        }
        Ok(Self { workers, configuration })
    }

    fn publish(own: Own, inputs: &Inputs, sender: watch::Sender<Arc<Configuration>>) -> Result<(), StartError> {
        let (world, sources) = (inputs.world.clone(), inputs.sources.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(StartError::Thread)?;
        let run = move || {
            let run = std::panic::AssertUnwindSafe(|| runtime.block_on(publish(own, world, sources, sender)));
            if std::panic::catch_unwind(run).is_err() {
                std::process::abort(); // policies would stay as they are, without a sign
            }
        };
        std::thread::Builder::new().name("configuration".into()).spawn(run).map_err(StartError::Thread)?;
        Ok(())
    }

    /// Completes when every worker goes by what was published before the call.
    pub async fn caught_up(&self, is_current: impl Fn(&World, &Sources) -> bool) {
        let mut configuration = self.configuration.clone();
        // The sender lives as long as its inputs.
        let _ = configuration.wait_for(|c| is_current(&c.world, &c.sources)).await;
        for asked in self.ask(Message::CatchUp) {
            let _ = asked.await; // a worker that is gone goes by nothing
        }
    }

    /// Takes no new connections and requests beyond those that its clients have on the way; completes when nothing is open.
    pub fn drain(&self) -> impl Future<Output = ()> + use<> {
        let asked = self.ask(Message::Drain);
        async {
            for drained in asked {
                let _ = drained.await; // a worker that ended has closed everything
            }
        }
    }

    /// Closes everything and waits for the workers.
    pub fn shut_down(self) {
        for (sender, thread) in self.workers {
            drop(sender);
            let _ = thread.join(); // a worker that panics aborts the process
        }
    }

    fn ask(&self, question: impl Fn(oneshot::Sender<()>) -> Message) -> Vec<oneshot::Receiver<()>> {
        let ask = |(worker, _): &(mpsc::UnboundedSender<Message>, JoinHandle<()>)| {
            let (answer, answered) = oneshot::channel();
            // Fails only where the worker ended, and then the process ends.
            let _ = worker.send(question(answer));
            answered
        };
        self.workers.iter().map(ask).collect()
    }
}
