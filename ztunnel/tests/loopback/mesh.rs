//! A node of one process: pods that are addresses, their applications on loopback, real certificates, and the access log
//! as it is written.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener as Listener},
    path::PathBuf,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use underpass_core::{
    Few, Identity, TrustDomain, World,
    addr::HBONE_PORT,
    objects::{self, Batch, Object},
    resolve::Model,
    testing::{ambient, model, name, pod},
    world::{Account, MeshSettings, Uid, Version},
};
use underpass_identity::Authority;
use underpass_net::netns::Netns;
use underpass_proxy::credentials::Credentials;
use underpass_telemetry::{
    Format,
    access_log::{self, AccessLog, Target},
    metrics::Registry,
};
use underpass_ztunnel::{Inputs, Pod, SOCKETS_PER_POD, Settings, Ztunnel, sockets::Ends, testing::Switch};

/// Within this, or never.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
const LIFETIME: Duration = Duration::from_secs(3600);

/// Pods `default/NAME` that tests use, and their addresses. `z` is not in the mesh.
const PODS: [(&str, &str); 4] = [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3"), ("z", "10.0.0.9")];

pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async { tokio::time::timeout(DEADLINE, test).await.expect("the test ends in time") });
}

pub(crate) fn ip(pod: &str) -> IpAddr {
    let (_, address) = PODS.iter().find(|(name, _)| *name == pod).expect("a pod");
    address.parse().expect("address")
}

pub(crate) fn at(pod: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(pod), port)
}

fn object(name: &str, address: &str) -> objects::Pod {
    let full = format!("default/{name}");
    if name == "z" { pod(&full, address) } else { ambient(&full, address, "") }
}

/// The loopback addresses of a pod's listeners.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home {
    pub(crate) outbound: SocketAddr,
    pub(crate) inbound: SocketAddr,
}

/// One node with every pod of the mesh.
pub(crate) struct Mesh {
    pub(crate) switch: Arc<Switch>,
    pub(crate) ztunnel: Ztunnel,
    pub(crate) homes: BTreeMap<&'static str, Home>,
    pub(crate) authority: Authority,
    model: RefCell<Model>,
    world: watch::Sender<Arc<World>>,
    pub(crate) credentials: watch::Sender<Arc<Credentials>>,
    access_log: Arc<AccessLog>,
    log: PathBuf,
    _folder: tempfile::TempDir,
}

impl Mesh {
    pub(crate) fn new(objects: impl IntoIterator<Item = Object>) -> Self {
        Self::with(objects, |_| {})
    }

    pub(crate) fn with(objects: impl IntoIterator<Item = Object>, set: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let authority = authority(&folder.path().join("ca"));
        let pods = PODS.map(|(name, address)| Object::from(object(name, address)));
        let model = model(pods.into_iter().chain(objects));
        let (world, worlds) = watch::channel(Arc::new(model.world().clone()));
        let (credentials, all_credentials) = watch::channel(Arc::new(issue(&authority, 1)));
        let log = folder.path().join("access.log");
        let to_file =
            access_log::Settings { format: Format::Json, target: Target::File(log.clone()), ..Default::default() };
        let access_log = Arc::new(AccessLog::start(&to_file).expect("log"));
        let inputs = Inputs {
            world: worlds,
            credentials: all_credentials,
            access_log: Arc::clone(&access_log),
            metrics: Registry::default(),
        };
        let switch = Arc::new(Switch::default());
        let mut settings = Settings::new(0);
        settings.sockets = Arc::<Switch>::clone(&switch);
        set(&mut settings);
        let ztunnel = Ztunnel::start(&settings, &inputs).expect("started");
        let homes = PODS.iter().filter(|(name, _)| *name != "z");
        let homes = homes.map(|(name, _)| (*name, add(&ztunnel, &switch, name, None))).collect();
        let model = RefCell::new(model);
        Self { switch, ztunnel, homes, authority, model, world, credentials, access_log, log, _folder: folder }
    }

    /// The pod is served anew, from listeners of its own; those that it had go on as they may.
    pub(crate) fn add(&mut self, pod: &'static str) -> Home {
        let home = add(&self.ztunnel, &self.switch, pod, None);
        self.homes.insert(pod, home).expect("it was served before")
    }

    /// The same of a pod whose connections wait until the mesh knows it.
    pub(crate) async fn expect(&mut self, pod: &'static str, within: Duration) {
        self.ztunnel.remove(&name(&format!("default/{pod}")), cookie(pod)).await;
        let home = add(&self.ztunnel, &self.switch, pod, Some(within));
        self.homes.insert(pod, home);
    }

    /// Publishes the next World, and waits until every worker goes by it.
    pub(crate) async fn change(&self, change: impl FnOnce(&mut Batch)) {
        self.publish(change);
        self.ztunnel.caught_up().await;
    }

    /// The next World.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut Batch)) -> Version {
        let mut batch = Batch::default();
        change(&mut batch);
        let mut model = self.model.borrow_mut();
        model.apply(&batch);
        let next = Arc::new(model.world().clone());
        let version = next.version();
        self.world.send_replace(next);
        version
    }

    /// The World under other settings, once every worker goes by it.
    pub(crate) async fn settings(&self, settings: MeshSettings) {
        self.model.borrow_mut().set_settings(settings);
        self.world.send_replace(Arc::new(self.model.borrow().world().clone()));
        self.ztunnel.caught_up().await;
    }

    /// The newest World, to wait until it is freed.
    pub(crate) fn newest(&self) -> Weak<World> {
        Arc::downgrade(&self.world.borrow())
    }

    /// An application that sends back what it gets.
    pub(crate) async fn echo(&self, address: SocketAddr) {
        let application = self.application(address).await;
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = application.accept().await.expect("accepted");
                tokio::spawn(async move {
                    let (mut from, mut to) = socket.split();
                    // Fails where a connection is reset.
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                    let _ = to.shutdown().await;
                });
            }
        });
    }

    pub(crate) async fn application(&self, address: SocketAddr) -> TcpListener {
        let application = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        self.switch.listen(address, application.local_addr().expect("name"));
        application
    }

    /// A connection that an application of `pod` opened and the kernel handed over.
    pub(crate) fn captured(&self, pod: &str, to: SocketAddr) -> TcpStream {
        self.opened(self.homes[pod].outbound, at(pod, 50_000), to)
    }

    /// A connection from `from` that arrived at the pod which has the address `to`.
    pub(crate) fn arrived(&self, from: SocketAddr, pod: &str, to: SocketAddr) -> TcpStream {
        self.opened(self.homes[pod].inbound, from, to)
    }

    fn opened(&self, really: SocketAddr, from: SocketAddr, to: SocketAddr) -> TcpStream {
        let socket = self.switch.connect(really, Ends { from, to }).expect("connected");
        TcpStream::from_std(socket).expect("registered")
    }

    /// Lines of the log that have these fields, once there are `n`.
    pub(crate) async fn lines(&self, n: usize, fields: &[(&str, &str)]) -> Vec<Value> {
        let found = self.at_least(n, fields).await;
        assert_eq!(found.len(), n, "{fields:?}: {found:?}");
        found
    }

    async fn at_least(&self, n: usize, fields: &[(&str, &str)]) -> Vec<Value> {
        loop {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
            let found: Vec<_> = lines.filter(|line| fields.iter().all(|(k, v)| line[*k] == **v)).collect();
            if found.len() >= n {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The first line that has these fields, of however many.
    pub(crate) async fn first(&self, fields: &[(&str, &str)]) -> Value {
        self.at_least(1, fields).await.remove(0)
    }

    /// The one line that has these fields.
    pub(crate) async fn line(&self, fields: &[(&str, &str)]) -> Value {
        self.lines(1, fields).await.remove(0)
    }

    /// Forgets the lines that were written.
    pub(crate) fn clear(&self) {
        std::fs::File::options().write(true).truncate(true).open(&self.log).expect("emptied");
    }

    /// Waits until this many connections are open.
    pub(crate) async fn open(&self, n: usize) {
        while self.ztunnel.connections().len() != n {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until a pod holds this many sockets beside those that it is served by.
    pub(crate) async fn accepted(&self, pod: &str, n: usize) {
        let name = name(&format!("default/{pod}"));
        let held = || self.ztunnel.budgets().pods().into_iter().find(|pod| pod.name == name).map(|pod| pod.sockets.0);
        while held() != Some(SOCKETS_PER_POD + n) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Stops, and answers the whole log.
    pub(crate) fn stop(self) -> Vec<Value> {
        let Self { ztunnel, access_log, log, .. } = self;
        ztunnel.shut_down();
        let counts = Arc::into_inner(access_log).expect("no other owner").stop(DEADLINE);
        let text = std::fs::read_to_string(log).expect("written");
        assert_eq!((counts.written, counts.dropped), (text.lines().count() as u64, 0));
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

pub(crate) fn authority(folder: &std::path::Path) -> Authority {
    Authority::open(folder, &TrustDomain::default(), SystemTime::now()).expect("CA")
}

/// Certificates for all pods of the mesh.
pub(crate) fn issue(authority: &Authority, generation: u64) -> Credentials {
    let identities = PODS.iter().map(|(name, _)| identity(name));
    let own = identities.map(|identity| {
        let credential = authority.credential(&identity, LIFETIME, SystemTime::now()).expect("issued");
        (identity, Arc::new(credential))
    });
    Credentials { own: own.collect(), roots: Arc::new(authority.roots(generation).expect("roots")) }
}

pub(crate) fn identity(pod: &str) -> Identity {
    Identity::new(&TrustDomain::default(), "default", pod)
}

pub(crate) fn account(name: &str) -> Account {
    Account { namespace: "default".into(), name: name.into() }
}

pub(crate) fn cookie(pod: &str) -> u64 {
    PODS.iter().position(|(name, _)| *name == pod).expect("a pod") as u64 + 1
}

fn add(ztunnel: &Ztunnel, switch: &Switch, pod: &str, expected_within: Option<Duration>) -> Home {
    let listener = || {
        let listener = Listener::bind("127.0.0.1:0").expect("bound");
        listener.set_nonblocking(true).expect("option");
        (listener.local_addr().expect("name"), listener)
    };
    let ((outbound_at, outbound), (inbound_at, inbound)) = (listener(), listener());
    switch.listen(at(pod, HBONE_PORT), inbound_at);
    let netns = Arc::new(Netns::own().expect("own namespace"));
    let name = name(&format!("default/{pod}"));
    let uid = Uid::of_pod(&MeshSettings::default().cluster, &name);
    let addresses = Few::one(ip(pod));
    let (account, cookie) = (account(pod), cookie(pod));
    ztunnel.add(Pod { name, uid, addresses, account, cookie, netns, outbound, inbound, expected_within });
    Home { outbound: outbound_at, inbound: inbound_at }
}

/// One question and its echo on an open connection.
pub(crate) async fn talk(app: &mut TcpStream) {
    app.write_u8(7).await.expect("sent");
    assert_eq!(app.read_u8().await.expect("heard"), 7);
}

/// Sends, ends its half, reads to the end.
pub(crate) async fn converse(app: &mut TcpStream, payload: &[u8]) -> Vec<u8> {
    app.write_all(payload).await.expect("sent");
    app.shutdown().await.expect("ended");
    let mut answer = Vec::new();
    app.read_to_end(&mut answer).await.expect("answered");
    answer
}

/// The connection is reset, not ended.
pub(crate) async fn is_reset(app: &mut TcpStream) {
    let mut buffer = [0; 1024];
    loop {
        match app.read(&mut buffer).await {
            Ok(0) => panic!("ended in order"),
            Ok(_) => {}
            Err(e) => return assert_eq!(e.kind(), ErrorKind::ConnectionReset),
        }
    }
}
