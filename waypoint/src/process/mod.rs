//! The process of a waypoint, from its command line to its exit status. The agent of its node starts it, in a network namespace of
//! its own, with two descriptors: a control socket, by which it is told who it is and given certificates
//! ([`underpass_proxy::child`]), and a listener, which outlives the process: what connects while it is started again waits there.
//!
//! ```text
//! started --begin--> opens its source; metrics, readiness --credentials, first World--> SERVING --drain--> ends
//!                                                              |  credentials, mesh: goes by them
//! ```
//! Asked to drain by the agent, by the end of the agent, or by SIGTERM or SIGINT, it sends GOAWAY and ends when nothing is open
//! or its time is over; a second signal ends it at once.
//!
//! What must hold: it accepts nothing before it has a World and a certificate, and no key leaves it.

mod inherited;
mod options;
mod servers;
mod source;

use std::{
    io,
    net::TcpListener,
    os::fd::{OwnedFd, RawFd},
    process::ExitCode,
    sync::Arc,
};

use clap::Parser as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use underpass_keeper::supervision::TaskEnded;
use underpass_net::open_files;
use underpass_proxy::{
    child::{self, Begin, ChildEnd, FromChild, ToChild},
    credentials::Credentials,
};
use underpass_telemetry::{
    access_log::RequestLog,
    admin::{Gate, Readiness},
    log::{self, LogError},
    metrics::{Family, Registry, process},
};

use self::{inherited::Inherited, options::Options, servers::Servers, source::Source};
use crate::{Inputs, Own, Settings, StartError, Waypoint, sockets::OwnNetwork};

static BUILD: Family = Family::gauge("underpass_build_info", "Version of the build; always 1.", &["version"]);
/// The families of this room.
pub const FAMILIES: &[&Family] = &[&BUILD];

/// The reason why the process ends with a failure.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// It was not started by an agent.
    #[error(
        "the agent of a node starts this program, and hands it a {what} as descriptor {number}: it cannot be started by hand"
    )]
    NotAChild { what: &'static str, number: RawFd, source: io::Error },
    #[error("cannot start the log")]
    Log(#[source] LogError),
    #[error("cannot {operation}")]
    Io { operation: &'static str, source: io::Error },
    #[error("cannot talk to the agent")]
    Control(#[source] child::Error),
    #[error("the agent's first message is {found}, and no introduction")]
    NotBegun { found: &'static str },
    #[error("the agent introduces this waypoint a second time")]
    BegunTwice,
    #[error("cannot write the access log")]
    AccessLog(#[source] options::AccessLogFailure),
    #[error("cannot start the waypoint")]
    Start(#[source] StartError),
    #[error("the waypoint cannot follow the manifests")]
    Followed(#[source] TaskEnded),
}

/// Runs the process.
#[must_use]
pub fn main() -> ExitCode {
    // Keys live in this process: no core file may hold them, no other process may read them.
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        eprintln!("underpass-waypoint: cannot keep keys out of core files: {error}");
        return ExitCode::FAILURE;
    }
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
            let text = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
            eprintln!("underpass-waypoint: {text}");
            ExitCode::FAILURE
        }
    }
}

#[allow(unsafe_code, reason = "the descriptors that an agent hands its child have no owner yet")]
fn run(options: &Options) -> Result<(), Error> {
    // SAFETY: nothing has been opened yet, and this is the one call.
    let Inherited { control, listener } = unsafe { Inherited::take() }?;
    log::init(options.log_format, options.log.clone()).map_err(Error::Log)?;
    open_files::raise_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(failed("start a runtime"))?;
    let ran = runtime.block_on(live(options, control, listener));
    runtime.shutdown_background();
    ran
}

/// From the introduction to the end.
async fn live(options: &Options, control: OwnedFd, listener: TcpListener) -> Result<(), Error> {
    let control = ChildEnd::new(control).map_err(Error::Control)?;
    let mut signals = Signals::watch()?;
    let begin = tokio::select! {
        begin = introduction(&control) => begin?,
        () = signals.next() => None,
    };
    let Some(begin) = begin else { return Ok(()) };
    tracing::info!(pod = %begin.pod, gateway = %begin.gateway, addresses = ?begin.addresses, "waypoint begins");
    let mut process = Process::new(options, begin, control, signals)?;
    let Some(credentials) = process.first().await? else { return process.drained().await };
    let waypoint = process.start(options, &credentials, listener)?;
    process.serve(&waypoint, &credentials).await?;
    process.drain(waypoint).await
}

/// The introduction; none where the agent is gone already.
async fn introduction(control: &ChildEnd) -> Result<Option<Box<Begin>>, Error> {
    let found = match control.receive().await.map_err(Error::Control)? {
        Some(ToChild::Begin(begin)) => return Ok(Some(begin)),
        None => return Ok(None),
        Some(ToChild::Credentials(_)) => "credentials",
        Some(ToChild::Mesh(_)) => "settings of the mesh",
        Some(ToChild::Drain) => "a drain",
    };
    Err(Error::NotBegun { found })
}

/// What the process has before it serves, and while it does.
struct Process {
    begin: Box<Begin>,
    control: ChildEnd,
    signals: Signals,
    registry: Registry,
    source: Source,
    certificate: Gate,
    serving: Gate,
    servers: Option<Servers>,
    access_log: Option<Arc<RequestLog>>,
}

/// What happened meanwhile.
enum News {
    Credentials(Credentials),
    /// It has to end.
    Drain,
}

impl Process {
    fn new(options: &Options, begin: Box<Begin>, control: ChildEnd, signals: Signals) -> Result<Self, Error> {
        let (registry, readiness) = (Registry::default(), Readiness::new());
        let access_log = options.access_log().map_err(Error::AccessLog)?.map(Arc::new);
        access_log.iter().for_each(|log| log.measure(&registry));
        registry.gauge(&BUILD).with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        process::measure(&registry);
        let source = Source::open(&begin, &readiness, &registry).map_err(failed("watch the manifests"))?;
        let certificate = readiness.gate("certificate", "the agent has sent none yet");
        let serving = readiness.gate("waypoint", "it does not accept yet");
        let servers = Some(Servers::new(&begin.addresses, &registry, &readiness));
        Ok(Self { begin, control, signals, registry, source, certificate, serving, servers, access_log })
    }

    /// The next thing that concerns the waypoint. Settings of the mesh are taken meanwhile.
    async fn news(&mut self, before: Option<&Credentials>) -> Result<News, Error> {
        loop {
            let message = tokio::select! {
                message = self.control.receive() => message.map_err(Error::Control)?,
                () = self.signals.next() => Some(ToChild::Drain),
                ended = self.source.ended() => return Err(Error::Followed(ended)),
            };
            match message {
                Some(ToChild::Credentials(text)) => {
                    let credentials = text.read(&self.begin.identity, before).map_err(Error::Control)?;
                    self.certificate.open();
                    return Ok(News::Credentials(credentials));
                }
                Some(ToChild::Mesh(mesh)) => self.source.mesh.set(mesh),
                Some(ToChild::Drain) => return Ok(News::Drain),
                Some(ToChild::Begin(_)) => return Err(Error::BegunTwice),
                None => {
                    tracing::warn!("the agent is gone");
                    return Ok(News::Drain);
                }
            }
        }
    }

    /// Waits for the first credentials and the first World; none where it has to end before.
    async fn first(&mut self) -> Result<Option<watch::Sender<Arc<Credentials>>>, Error> {
        let mut credentials: Option<watch::Sender<Arc<Credentials>>> = None;
        let mut world = self.source.world.clone();
        loop {
            let before = credentials.as_ref().map(|known| Arc::clone(&known.borrow()));
            let news = tokio::select! {
                // The sender lives as long as the keeper, whose end is news.
                Ok(_) = world.wait_for(|world| world.version().0 > 0), if credentials.is_some() => return Ok(credentials),
                news = self.news(before.as_deref()) => news?,
            };
            match news {
                News::Credentials(next) => credentials = Some(watch::Sender::new(Arc::new(next))),
                News::Drain => return Ok(None),
            }
        }
    }

    fn start(
        &self,
        options: &Options,
        credentials: &watch::Sender<Arc<Credentials>>,
        listener: TcpListener,
    ) -> Result<Waypoint, Error> {
        let network = OwnNetwork::new().map_err(failed("open the own network namespace"))?;
        let mut settings = Settings::new(Arc::new(network));
        settings.workers = options.workers.unwrap_or(settings.workers);
        settings.limits.sockets = settings.limits.sockets.min(open_files::for_connections());
        settings.metrics.cluster = Arc::clone(&self.begin.mesh.cluster);
        let own = Own {
            gateway: self.begin.gateway.clone(),
            class: Arc::clone(&self.begin.class),
            identity: self.begin.identity.clone(),
            addresses: self.begin.addresses.clone(),
        };
        let inputs = Inputs {
            world: self.source.world.clone(),
            sources: self.source.sources.clone(),
            credentials: credentials.subscribe(),
            metrics: self.registry.clone(),
            access_log: self.access_log.clone(),
        };
        Waypoint::start(&own, &settings, &inputs, &listener).map_err(Error::Start)
    }

    /// Serves until it has to end.
    async fn serve(&mut self, waypoint: &Waypoint, credentials: &watch::Sender<Arc<Credentials>>) -> Result<(), Error> {
        waypoint.caught_up(|world, _| world.version().0 > 0).await;
        let version = self.source.world.borrow().version().0;
        self.serving.open();
        tracing::info!(version, "waypoint serves");
        // Where the agent is gone, the next news says so.
        let _ = self.control.send(FromChild::Serving { version }).await;
        loop {
            let before = Arc::clone(&credentials.borrow());
            match self.news(Some(&before)).await? {
                News::Credentials(next) => drop(credentials.send_replace(Arc::new(next))),
                News::Drain => return Ok(()),
            }
        }
    }

    /// Lets what is open go on for its time, or until a signal.
    async fn drain(mut self, waypoint: Waypoint) -> Result<(), Error> {
        self.serving.close("it drains");
        // The next process of this pod has their ports at once.
        self.servers = None;
        tracing::info!(at_most = ?self.begin.drain, "waypoint drains");
        tokio::select! {
            () = waypoint.drain() => {}
            () = tokio::time::sleep(self.begin.drain) => tracing::warn!("connections were open until the end of the drain"),
            () = self.signals.next() => tracing::warn!("a signal ends the drain"),
        }
        waypoint.shut_down();
        self.drained().await
    }

    async fn drained(self) -> Result<(), Error> {
        let _ = self.control.send(FromChild::Drained).await; // the agent may be gone
        tracing::info!("waypoint ends");
        Ok(())
    }
}

/// The signals that ask for an end: SIGTERM and SIGINT. From now on they end nothing by themselves.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn watch() -> Result<Self, Error> {
        let watch = |kind| signal(kind).map_err(failed("watch signals"));
        Ok(Self { terminate: watch(SignalKind::terminate())?, interrupt: watch(SignalKind::interrupt())? })
    }

    /// Completes with the next one. Dropped before that, nothing is lost.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { operation, source }
}
