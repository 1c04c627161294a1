//! A waypoint in a mesh of one process: pods that are addresses, their nodes played by tunnels that write down what they are
//! asked, applications behind them, and clients that are tunnels.

use std::{
    cell::RefCell,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{LocalSet, spawn_local},
};
use underpass_core::{
    Identities, Identity, NamedSource, TrustDomain, World,
    addr::HBONE_PORT,
    objects::Batch,
    resolve::{Model, Sources},
    testing::name,
    world::MeshSettings,
};
use underpass_hbone::{Connect, Headers};
use underpass_identity::Authority;
use underpass_net::{
    budget::{Budget, Share},
    buffer::Buffers,
    netns::Netns,
    socket::options::Options,
    tls::Configs,
    tunnel::{ByteStream, Charge, Ended, Memory, Settings as TunnelSettings, Tunnel},
};
use underpass_proxy::credentials::{CredentialStore, Credentials};
use underpass_telemetry::{access_log::RequestLog, metrics::Registry};
use underpass_waypoint::{
    Inputs, Own, Settings, Waypoint,
    sockets::{Ends, Sockets},
};
use underpass_ztunnel::{
    sockets::{Ends as SwitchEnds, Sockets as _},
    testing::Switch,
};

use crate::applications::{Node, connection};

/// Within this, or never.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
const LIFETIME: Duration = Duration::from_secs(3600);

/// Namespaces, pods, and a Service of each kind of port behind the waypoint `shop/w`.
pub(crate) const WORLD: &str = include_str!("mesh.yaml");

pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let test = async { tokio::time::timeout(DEADLINE, test).await.expect("the test ends in time") };
    LocalSet::new().block_on(&runtime, test);
}

/// The network of the waypoint: loopback, behind the switch.
#[derive(Debug)]
struct Network(Arc<Switch>);

impl Sockets for Network {
    fn ends(&self, accepted: &TcpStream) -> io::Result<Ends> {
        let SwitchEnds { from, to } = self.0.ends(accepted)?;
        Ok(Ends { from, to })
    }

    fn open(&self, from: IpAddr, to: SocketAddr, options: &Options) -> io::Result<std::net::TcpStream> {
        self.0.to_next_hop(&Netns::own().map_err(io::Error::other)?, from, to, options)
    }
}

/// What an endpoint's node was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) pod: &'static str,
    /// The identity that the tunnel's certificate shows.
    pub(crate) by: Identity,
    pub(crate) authority: String,
    pub(crate) source: NamedSource,
}

/// The mesh.
pub(crate) struct Mesh {
    pub(crate) switch: Arc<Switch>,
    waypoint: Option<Waypoint>,
    pub(crate) authority: Authority,
    folder: tempfile::TempDir,
    model: RefCell<Model>,
    /// What the files said, by file.
    world: watch::Sender<Arc<World>>,
    sources: watch::Sender<Sources>,
    pub(crate) asked: Rc<RefCell<Vec<Asked>>>,
    pub(crate) node: Rc<Node>,
    metrics: Registry,
    door: RefCell<underpass_config::Door>,
}

const PODS: [(&str, &str); 5] =
    [("web", "10.0.0.1"), ("other", "10.0.0.4"), ("v1", "10.0.0.2"), ("v2", "10.0.0.3"), ("w", "10.0.0.100")];

pub(crate) fn ip(pod: &str) -> IpAddr {
    PODS.iter().find(|(name, _)| *name == pod).expect("a pod").1.parse().expect("address")
}

pub(crate) fn identity(pod: &str) -> Identity {
    Identity::new(&TrustDomain::default(), if pod == "web" || pod == "other" { "front" } else { "shop" }, pod)
}

pub(crate) fn store(authority: &Authority, pod: &str) -> (CredentialStore, Identity) {
    let own = identity(pod);
    let credential = Arc::new(authority.credential(&own, LIFETIME, SystemTime::now()).expect("issued"));
    let roots = Arc::new(authority.roots(1).expect("roots"));
    let credentials = Arc::new(Credentials { roots, own: [(own.clone(), credential)].into() });
    let configs = Configs::new(underpass_net::tls::Settings::default()).expect("configs");
    (CredentialStore::new(credentials, configs, &MeshSettings::default()), own)
}

pub(crate) fn charge() -> Charge {
    let share = Share::new(&Budget::new(1 << 30), 1 << 30);
    Charge { memory: Memory::new(Arc::clone(&share)), permit: share.permit() }
}

impl Mesh {
    /// A mesh with these manifests beside its own, and a waypoint.
    pub(crate) async fn new(manifests: &str) -> Self {
        Self::with(manifests, |_| {}).await
    }

    pub(crate) async fn with(manifests: &str, set: impl FnOnce(&mut Settings)) -> Self {
        Self::start(manifests, set, None).await
    }

    /// One whose waypoint writes an access log.
    pub(crate) async fn logging(manifests: &str, log: RequestLog) -> Self {
        Self::start(manifests, |_| {}, Some(Arc::new(log))).await
    }

    async fn start(manifests: &str, set: impl FnOnce(&mut Settings), access_log: Option<Arc<RequestLog>>) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let authority =
            Authority::open(&folder.path().join("ca"), &TrustDomain::default(), SystemTime::now()).expect("CA");
        let files = folder.path().join("manifests");
        std::fs::create_dir(&files).expect("made");
        std::fs::write(files.join("mesh.yaml"), WORLD).expect("written");
        std::fs::write(files.join("test.yaml"), manifests).expect("written");
        let mut door = underpass_config::Door::new(&files);
        let mut model = Model::empty(MeshSettings::default());
        model.apply(&look(&mut door));
        let (world, worlds) = watch::channel(Arc::new(model.world().clone()));
        let (sources, all_sources) = watch::channel(model.sources().clone());
        let own = identity("w");
        let credential = Arc::new(authority.credential(&own, LIFETIME, SystemTime::now()).expect("issued"));
        let roots = Arc::new(authority.roots(1).expect("roots"));
        let credentials = Arc::new(Credentials { roots, own: [(own.clone(), credential)].into() });
        let metrics = Registry::default();
        let inputs = Inputs {
            world: worlds,
            sources: all_sources,
            credentials: watch::channel(credentials).1,
            metrics: metrics.clone(),
            access_log,
        };
        let switch = Arc::new(Switch::default());
        let mut settings = Settings::new(Arc::new(Network(Arc::clone(&switch))));
        settings.workers = std::num::NonZeroUsize::MIN;
        set(&mut settings);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        switch.listen(SocketAddr::new(ip("w"), HBONE_PORT), listener.local_addr().expect("name"));
        let own =
            Own { gateway: name("shop/w"), class: "istio-waypoint".into(), identity: own, addresses: vec![ip("w")] };
        let waypoint = Waypoint::start(&own, &settings, &inputs, &listener).expect("started");
        let mesh = Self {
            switch,
            waypoint: Some(waypoint),
            authority,
            folder,
            model: RefCell::new(model),
            world,
            sources,
            asked: Rc::default(),
            node: Rc::default(),
            metrics,
            door: RefCell::new(door),
        };
        for pod in ["v1", "v2"] {
            mesh.serve(pod).await;
        }
        mesh
    }

    /// There is a series that begins so.
    pub(crate) fn shows(&self, series: &str) -> bool {
        self.metrics.text().lines().any(|line| line.starts_with(series))
    }

    /// The value of a counter, over all of its series that begin so.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        self.sum(series, &[])
    }

    /// The value of a counter, over all of its series that have these labels.
    pub(crate) fn sum(&self, family: &str, labels: &[&str]) -> f64 {
        let text = self.metrics.text();
        let has_all = |line: &&str| line.starts_with(family) && labels.iter().all(|label| line.contains(label));
        let lines = text.lines().filter(has_all);
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// Other manifests, once the waypoint goes by them.
    pub(crate) async fn change(&self, manifests: &str) {
        let file = self.folder.path().join("manifests/test.yaml");
        match manifests {
            "" => std::fs::remove_file(file).expect("removed"),
            manifests => std::fs::write(file, manifests).expect("written"),
        }
        let batch = look(&mut self.door.borrow_mut());
        self.update(|model| drop(model.apply(&batch))).await;
    }

    /// Other settings of the mesh, once the waypoint goes by them.
    pub(crate) async fn set(&self, settings: MeshSettings) {
        self.update(|model| drop(model.set_settings(settings))).await;
    }

    async fn update(&self, update: impl FnOnce(&mut Model)) {
        let (version, count) = {
            let mut model = self.model.borrow_mut();
            update(&mut model);
            self.sources.send_replace(model.sources().clone());
            self.world.send_replace(Arc::new(model.world().clone()));
            (model.world().version(), model.sources().len())
        };
        let newest = self.sources.borrow().clone();
        let is_current = |world: &World, sources: &Sources| {
            world.version() >= version && sources.len() == count && sources.differences(&newest).next().is_none()
        };
        self.waypoint().caught_up(is_current).await;
    }

    /// The World as the waypoint has it.
    pub(crate) fn world(&self) -> Arc<World> {
        Arc::clone(&self.world.borrow())
    }

    pub(crate) fn waypoint(&self) -> &Waypoint {
        self.waypoint.as_ref().expect("running")
    }

    /// The node of a pod, and its applications: HTTP/1 on 8080, HTTP/2 on 9090, others as their tests say.
    async fn serve(&self, pod: &'static str) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        self.switch.listen(SocketAddr::new(ip(pod), HBONE_PORT), listener.local_addr().expect("name"));
        let (store, own) = store(&self.authority, pod);
        let (asked, node) = (Rc::clone(&self.asked), Rc::clone(&self.node));
        spawn_local(async move {
            loop {
                let (socket, _) = listener.accept().await.expect("accepted");
                let credential = store.credential(&own, SystemTime::now()).expect("valid");
                let config = store.server(&credential).expect("usable");
                let (asked, node) = (Rc::clone(&asked), Rc::clone(&node));
                let acceptor = Box::new(move |accepted| {
                    drop(spawn_local(connection(pod, accepted, Rc::clone(&asked), Rc::clone(&node))))
                });
                let settings = TunnelSettings::default();
                let buffers = Buffers::default();
                let begun =
                    Tunnel::server(socket.into(), &config, &settings, &buffers, charge(), Box::new(()), acceptor);
                let (_, driving) = begun.expect("begun");
                spawn_local(driving);
            }
        });
    }

    /// A client's tunnel to the waypoint, as its node would open it.
    pub(crate) fn tunnel(&self, pod: &str) -> Tunnel {
        let (store, own) = store(&self.authority, pod);
        let credential = store.credential(&own, SystemTime::now()).expect("valid");
        let config = store.client(&credential, &Identities::from(identity("w"))).expect("usable");
        let options = Options::of(underpass_net::socket::options::Role::ToNextHop, Default::default());
        let to = SocketAddr::new(ip("w"), HBONE_PORT);
        let socket = self.switch.to_next_hop(&Netns::own().expect("own"), ip(pod), to, &options).expect("connected");
        let socket = TcpStream::from_std(socket).expect("registered");
        let settings = TunnelSettings::default();
        Tunnel::client(socket.into(), &config, &settings, &Buffers::default(), charge()).expect("begun")
    }

    /// A connection of a client to `authority` through the waypoint; the status of a refusal.
    pub(crate) async fn connect(&self, pod: &str, authority: &str) -> Result<ByteStream, u16> {
        open(&self.tunnel(pod), authority).await
    }

    pub(crate) async fn http1(&self, pod: &str, authority: &str) -> http1::SendRequest<TestBody> {
        http1_over(self.connect(pod, authority).await.expect("accepted")).await
    }

    pub(crate) async fn http2(&self, pod: &str, authority: &str) -> http2::SendRequest<TestBody> {
        http2_over(self.connect(pod, authority).await.expect("accepted")).await
    }

    /// The answer to a GET by HTTP/1 on a connection of its own.
    pub(crate) async fn get(&self, pod: &str, authority: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut sender = self.http1(pod, authority).await;
        Answer::of(sender.send_request(request("GET", path, headers, empty())).await.expect("answered")).await
    }

    pub(crate) async fn shut_down(mut self) {
        let waypoint = self.waypoint.take().expect("running");
        tokio::task::spawn_blocking(|| waypoint.shut_down()).await.expect("ended");
    }
}

/// HTTP/1 on a connection that is there.
pub(crate) async fn http1_over(stream: ByteStream) -> http1::SendRequest<TestBody> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("begun");
    spawn_local(connection);
    sender
}

/// The same with HTTP/2.
pub(crate) async fn http2_over(stream: ByteStream) -> http2::SendRequest<TestBody> {
    let (sender, connection) = http2::handshake(Local, TokioIo::new(stream)).await.expect("begun");
    spawn_local(connection);
    sender
}

/// Reads the manifests; a mistake in one is a mistake of the test.
fn look(door: &mut underpass_config::Door) -> Batch {
    let update = door.look();
    let wrong = update.problems.iter().filter(|problem| problem.severity() == underpass_door::Severity::Error);
    assert_eq!(wrong.count(), 0, "{:?}", update.problems);
    update.batch
}

/// Opens a stream; the status of a refusal.
pub(crate) async fn open(tunnel: &Tunnel, authority: &str) -> Result<ByteStream, u16> {
    let connect = Connect { authority: authority.into(), headers: Headers::new() };
    let stream = tunnel.open(&connect).expect("opened");
    match stream.response().await {
        Ok(response) if response.status == 200 => Ok(stream.into()),
        Ok(response) => Err(response.status),
        Err(Ended::Refused(status)) => Err(status),
        Err(ended) => panic!("{ended}"),
    }
}

/// The body of a test's request.
pub(crate) type TestBody = BoxBody<Bytes, Infallible>;

pub(crate) fn empty() -> TestBody {
    Full::new(Bytes::new()).boxed()
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> TestBody {
    Full::new(bytes.into()).boxed()
}

/// A body that is fed by a channel.
pub(crate) fn fed() -> (tokio::sync::mpsc::UnboundedSender<Bytes>, TestBody) {
    let (sender, mut chunks) = tokio::sync::mpsc::unbounded_channel();
    let stream = futures_util::stream::poll_fn(move |cx| {
        chunks.poll_recv(cx).map(|chunk: Option<Bytes>| chunk.map(|chunk| Ok(Frame::data(chunk))))
    });
    (sender, StreamBody::new(stream).boxed())
}

pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: TestBody) -> Request<TestBody> {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") && path.starts_with('/') {
        request = request.header("host", "cart");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).expect("request")
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) async fn of(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body");
        let trailers = body.trailers().cloned();
        Self { status: parts.status.as_u16(), headers: parts.headers, body: body.to_bytes(), trailers }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// Status and pod.
    pub(crate) fn short(&self) -> String {
        format!("{} {}", self.status, self.header("x-pod")).trim_end().to_owned()
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Local;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        spawn_local(task);
    }
}

/// Waits until it is so.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(DEADLINE / 2, waited).await.unwrap_or_else(|_| panic!("{what}: not in time"));
}
