//! What the tests of tunnels share: a small mesh with a clock of its own, both ends of a tunnel on loopback, and
//! applications at both ends of that.

use std::{
    any::Any,
    cell::RefCell,
    future::Future,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{JoinHandle, LocalSet, spawn_local},
};
use underpass_core::{Identity, TrustDomain};
use underpass_hbone::{Connect, Headers};
use underpass_identity::{
    Credential, Roots,
    testing::{Leaf, TestCa, now},
};
use underpass_net::{
    budget::{Share, Stock},
    buffer::Buffers,
    pool::{Key, Pool},
    socket::{
        established, from_pod,
        options::{Keepalive, Options, Role},
        reset_on_close,
    },
    tls::{
        self, ClientConfig, Configs, Expected, ServerConfig, TrustDomains,
        testing::{ManualTime, short_lived_keys},
    },
    tunnel::{Accepted, Charge, Early, Ended, Memory, Settings, Stream, Tally, Tunnel, TunnelEnd},
};

pub(crate) const ALICE: &str = "spiffe://cluster.local/ns/default/sa/alice";
pub(crate) const BOB: &str = "spiffe://cluster.local/ns/default/sa/bob";

/// Within this, or never: everything here takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(DEADLINE, test).await.expect("the test ends in time");
    });
}

/// Waits until something holds that nobody is told about.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(DEADLINE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never: {what}"));
}

pub(crate) fn id(uri: &str) -> Identity {
    uri.parse().expect("identity")
}

/// `len` bytes that show where they belong.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 % 251) as u8).collect()
}

/// A CA, a clock, alice who connects and bob who accepts.
pub(crate) struct Mesh {
    pub(crate) ca: TestCa,
    pub(crate) alice: Credential,
    pub(crate) bob: Credential,
    pub(crate) settings: Settings,
    pub(crate) buffers: Buffers,
    /// Shows [`now`] until it is set.
    pub(crate) clock: Arc<ManualTime>,
    /// What tunnels of either end are charged to.
    pub(crate) memory: Memory,
    pub(crate) share: Arc<Share>,
    configs: RefCell<Configs>,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        let clock = ManualTime::new(now());
        let settings = tls::Settings { time: Arc::<ManualTime>::clone(&clock), ..tls::Settings::default() };
        Self::with(Configs::new(settings).expect("configs"), clock)
    }

    /// One whose keys are good for few records.
    pub(crate) fn with_short_lived_keys() -> Self {
        let clock = ManualTime::new(now());
        Self::with(short_lived_keys(64, Arc::clone(&clock)), clock)
    }

    fn with(configs: Configs, clock: Arc<ManualTime>) -> Self {
        let ca = TestCa::new("root");
        let share = Share::new(&Stock::new(1 << 30), usize::MAX);
        Self {
            memory: Memory::new(Arc::clone(&share)),
            share,
            alice: ca.credential(&Leaf::of(ALICE)),
            bob: ca.credential(&Leaf::of(BOB)),
            settings: Settings::default(),
            buffers: Buffers::default(),
            configs: RefCell::new(configs),
            clock,
            ca,
        }
    }

    /// Alice expects bob.
    pub(crate) fn client(&self) -> ClientConfig {
        self.client_of(&self.alice, &self.ca.roots(1))
    }

    /// Alice expects one of these.
    pub(crate) fn client_to(&self, expected: &Expected) -> ClientConfig {
        self.configs.borrow_mut().client(&self.alice, expected, &self.ca.roots(1)).expect("config")
    }

    pub(crate) fn client_of(&self, credential: &Credential, roots: &Roots) -> ClientConfig {
        self.configs.borrow_mut().client(credential, &Expected::new([id(BOB)]), roots).expect("config")
    }

    /// Bob accepts the mesh.
    pub(crate) fn server(&self) -> ServerConfig {
        self.server_of(&self.bob, &self.ca.roots(1))
    }

    pub(crate) fn server_of(&self, credential: &Credential, roots: &Roots) -> ServerConfig {
        let own = TrustDomains::new(TrustDomain::default(), []);
        self.configs.borrow_mut().server(credential, &own, roots).expect("config")
    }

    /// Bob, who does with CONNECTs what `accept` says.
    pub(crate) async fn serve(&self, accept: impl Fn(Accepted) + 'static) -> Server {
        Server::new(self, self.server(), "127.0.0.1:0", Rc::new(accept)).await
    }

    /// Bob, whose applications are where CONNECT says.
    pub(crate) async fn serve_applications(&self) -> Server {
        self.serve(|accepted| drop(spawn_local(connect(accepted)))).await
    }

    /// Alice's tunnel to bob.
    pub(crate) fn tunnel(&self, to: SocketAddr) -> Tunnel {
        self.tunnel_with(to, &self.client())
    }

    pub(crate) fn tunnel_with(&self, to: SocketAddr, config: &ClientConfig) -> Tunnel {
        Tunnel::client(connecting(to).into(), config, &self.settings, &self.buffers, charge(&self.memory))
            .expect("begun")
    }

    /// Both ends of a tunnel, between applications.
    pub(crate) async fn pair(&self) -> (Tunnel, Server) {
        let server = self.serve_applications().await;
        (self.tunnel(server.address), server)
    }

    /// A connection through a tunnel of the pool, opened once more where the first tunnel did not look at it.
    pub(crate) async fn pooled(self: &Rc<Self>, pool: &Rc<Pool>, next: SocketAddr, target: SocketAddr) -> Call {
        let (app, socket) = tcp_pair().await;
        let (mesh, pool) = (Rc::clone(self), Rc::clone(pool));
        let ended = spawn_local(async move {
            let (socket, tally, mut early) = (Rc::new(socket), Arc::default(), Early::default());
            let mut first = mesh.open(&pool, next, target, None, &mesh.client());
            let mut ended = first.run(&socket, &tally, &mut early).await;
            if ended == Ended::Unprocessed {
                early.rewind();
                first = mesh.open(&pool, next, target, Some(&first), &mesh.client());
                ended = first.run(&socket, &tally, &mut early).await;
            }
            close(&socket, &ended);
            ended
        });
        Call { app, ended }
    }

    /// A stream of a tunnel in the pool, or of a new one with this configuration.
    pub(crate) fn open(
        &self,
        pool: &Pool,
        next: SocketAddr,
        target: SocketAddr,
        not: Option<&Stream>,
        config: &ClientConfig,
    ) -> Stream {
        let expected = Expected::new([id(BOB)]);
        let key = Key { source: id(ALICE), expected, next, from: next.ip(), netns: 1 };
        let connect = || Ok::<_, ()>(self.tunnel_with(next, config));
        pool.open(&key, &request(target), now(), not, connect).expect("connected").expect("opened")
    }
}

/// For a socket that nobody counts.
pub(crate) fn charge(memory: &Memory) -> Charge {
    Charge { memory: memory.clone(), place: Share::new(&Stock::new(1), 1).hold(1) }
}

fn options(role: Role) -> Options {
    Options::of(role, Keepalive::default())
}

/// A socket whose connect() was begun.
fn connecting(to: SocketAddr) -> TcpStream {
    let netns = underpass_net::netns::Netns::own().expect("own namespace");
    let socket = from_pod(&netns, to.ip(), to, &options(Role::ToNextHop)).expect("begun");
    TcpStream::from_std(socket).expect("registered")
}

/// Tunnels that end here.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// All that were accepted, in order.
    pub(crate) tunnels: Rc<RefCell<Vec<Tunnel>>>,
    ended: RefCell<mpsc::UnboundedReceiver<TunnelEnd>>,
    /// One more reference for each socket whose peer is not known.
    pub(crate) admission: Rc<()>,
}

impl Server {
    pub(crate) async fn new(mesh: &Mesh, tls: ServerConfig, at: &str, accept: Rc<dyn Fn(Accepted)>) -> Self {
        let listener = TcpListener::bind(at).await.expect("bound");
        let address = listener.local_addr().expect("name");
        let (ends, ended) = mpsc::unbounded_channel();
        let (tunnels, admission) = (Rc::<RefCell<Vec<Tunnel>>>::default(), Rc::new(()));
        let (settings, buffers, memory) = (mesh.settings.clone(), mesh.buffers.clone(), mesh.memory.clone());
        let (all, slots) = (Rc::clone(&tunnels), Rc::clone(&admission));
        spawn_local(async move {
            loop {
                let (socket, _) = listener.accept().await.expect("accepted");
                options(Role::FromTunnel).set(&socket).expect("options");
                let accept = Rc::clone(&accept);
                let acceptor = Box::new(move |accepted: Accepted| accept(accepted));
                let slot: Box<dyn Any> = Box::new(Rc::clone(&slots));
                let begun = Tunnel::server(socket.into(), &tls, &settings, &buffers, charge(&memory), slot, acceptor);
                let (tunnel, driving) = begun.expect("begun");
                all.borrow_mut().push(tunnel);
                let ends = ends.clone();
                spawn_local(async move { drop(ends.send(driving.await)) });
            }
        });
        Self { address, tunnels, ended: RefCell::new(ended), admission }
    }

    /// How the next tunnel ended.
    #[allow(clippy::await_holding_refcell_ref, reason = "one test waits at a time")]
    pub(crate) async fn ended(&self) -> TunnelEnd {
        self.ended.borrow_mut().recv().await.expect("a tunnel ended")
    }

    /// The only tunnel.
    pub(crate) fn tunnel(&self) -> Tunnel {
        let tunnels = self.tunnels.borrow();
        let [tunnel] = &tunnels[..] else { panic!("{} tunnels", tunnels.len()) };
        tunnel.clone()
    }

    /// Sockets whose peers are not known yet.
    pub(crate) fn unauthenticated(&self) -> usize {
        Rc::strong_count(&self.admission) - 2 // ours, and the acceptor's
    }
}

/// What the server's end does with a CONNECT: the application is where it says.
pub(crate) async fn connect(accepted: Accepted) -> Ended {
    let target: SocketAddr = String::from_utf8_lossy(&accepted.request.authority).parse().expect("address");
    let socket = TcpStream::connect(target).await.expect("application");
    accepted.stream.respond(200, &Headers::new());
    carry(&accepted.stream, socket).await
}

/// Carries an application's connection, and closes it the way that it ended.
pub(crate) async fn carry(stream: &Stream, socket: TcpStream) -> Ended {
    carry_counted(stream, socket, &Arc::default()).await
}

/// The same, by this count.
pub(crate) async fn carry_counted(stream: &Stream, socket: TcpStream, tally: &Arc<Tally>) -> Ended {
    socket.set_nodelay(true).expect("option");
    let socket = Rc::new(socket);
    let ended = stream.run(&socket, tally, &mut Early::default()).await;
    close(&socket, &ended);
    ended
}

fn close(socket: &TcpStream, ended: &Ended) {
    if *ended != Ended::Finished {
        reset_on_close(socket, true);
    }
}

pub(crate) fn request(target: impl ToString) -> Connect {
    let headers = Headers::from_iter([("baggage", "a=b")]);
    Connect { authority: target.to_string().into_bytes(), headers }
}

/// A client's application and how its connection ends.
pub(crate) struct Call {
    pub(crate) app: TcpStream,
    pub(crate) ended: JoinHandle<Ended>,
}

impl Call {
    pub(crate) async fn ended(self) -> Ended {
        self.ended.await.expect("no panic")
    }
}

/// An application's connection through this tunnel.
pub(crate) async fn call(tunnel: &Tunnel, target: impl ToString) -> Call {
    let (app, socket) = tcp_pair().await;
    let stream = tunnel.open(&request(target)).expect("opened");
    Call { app, ended: spawn_local(async move { carry(&stream, socket).await }) }
}

/// A connection and its other end.
pub(crate) async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let near = TcpStream::connect(listener.local_addr().expect("name"));
    let (near, far) = tokio::join!(near, listener.accept());
    let (near, (far, _)) = (near.expect("connected"), far.expect("accepted"));
    for socket in [&near, &far] {
        socket.set_nodelay(true).expect("option");
    }
    (near, far)
}

/// An application that hands out its connections.
pub(crate) struct Application {
    pub(crate) address: SocketAddr,
    listener: TcpListener,
}

impl Application {
    pub(crate) async fn new(at: &str) -> Self {
        let listener = TcpListener::bind(at).await.expect("bound");
        Self { address: listener.local_addr().expect("name"), listener }
    }

    pub(crate) async fn accept(&self) -> TcpStream {
        let (socket, _) = self.listener.accept().await.expect("accepted");
        socket.set_nodelay(true).expect("option");
        socket
    }
}

/// An application that sends back what it gets.
pub(crate) async fn echo(at: &str) -> SocketAddr {
    let application = Application::new(at).await;
    let address = application.address;
    spawn_local(async move {
        loop {
            let mut socket = application.accept().await;
            spawn_local(async move {
                let (mut from, mut to) = socket.split();
                // Fails where the test resets its end.
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    address
}

/// Sends, ends its half, reads the answer to its end.
pub(crate) async fn converse(app: &mut TcpStream, payload: &[u8]) -> io::Result<Vec<u8>> {
    let (mut from, mut to) = app.split();
    let mut answer = Vec::new();
    let sent = async {
        to.write_all(payload).await?;
        to.shutdown().await
    };
    let (sent, read) = tokio::join!(sent, from.read_to_end(&mut answer));
    sent.and(read)?;
    Ok(answer)
}

/// The kind of error that ends reading; `None`: the end of the stream.
pub(crate) async fn last_word(app: &mut TcpStream) -> Option<io::ErrorKind> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match app.read(&mut buffer).await {
            Ok(0) => return None,
            Ok(_) => {}
            Err(e) => return Some(e.kind()),
        }
    }
}

/// Closes with RST.
pub(crate) fn reset(app: TcpStream) {
    reset_on_close(&app, true);
}

/// A plain connection to somebody, from nobody.
pub(crate) async fn raw(to: SocketAddr) -> TcpStream {
    let socket = std::net::TcpStream::connect(to).expect("connected");
    socket.set_nonblocking(true).expect("option");
    established(socket).await.expect("open")
}

/// The clock that the certificates of [`Mesh`] are valid on.
pub(crate) fn clock() -> SystemTime {
    now()
}
