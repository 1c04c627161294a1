//! A test mesh: a CA, a clock, both ends of a tunnel on loopback, and applications behind each. Behind the feature `testing`.

#![allow(clippy::missing_panics_doc, reason = "tests alone use it, and want to panic")]

use std::{
    any::Any,
    cell::RefCell,
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    budget::{Budget, Share},
    buffer::Buffers,
    socket::{
        established, from_pod,
        options::{Keepalive, Options, Role},
        reset_on_close,
    },
    tls::{
        self, ClientConfig, Configs, ServerConfig, TrustDomains,
        testing::{ManualTime, short_lived_keys},
    },
    tunnel::{Accepted, Charge, EarlyData, Ended, Memory, Settings, Stream, Tally, Tunnel, TunnelEnd},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{JoinHandle, LocalSet, spawn_local},
};
use underpass_core::{Identities, Identity, TrustDomain};
use underpass_hbone::{Connect, Headers};
use underpass_identity::{
    Credential, Roots,
    testing::{Leaf, TestCa, now},
};

/// The client's identity.
pub const ALICE: &str = "spiffe://cluster.local/ns/default/sa/alice";
/// The server's identity.
pub const BOB: &str = "spiffe://cluster.local/ns/default/sa/bob";

/// The deadline of every wait: what is waited for takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs a test on a `LocalSet`, until a deadline.
pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(DEADLINE, test).await.expect("the test ends in time");
    });
}

/// Waits until a condition holds that has no event, by polling.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(DEADLINE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// An identity by its SPIFFE id.
pub fn id(uri: &str) -> Identity {
    uri.parse().expect("identity")
}

/// `len` bytes that show where they belong.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 % 251) as u8).collect()
}

/// A CA, a clock, alice who connects and bob who accepts.
pub struct Mesh {
    /// The CA that both ends trust.
    pub ca: TestCa,
    /// The certificate of [`ALICE`].
    pub alice: Credential,
    /// The certificate of [`BOB`].
    pub bob: Credential,
    /// Of the tunnels of either end.
    pub settings: Settings,
    /// Of the one worker that both ends have.
    pub buffers: Buffers,
    /// Shows [`now`] until it is set.
    pub clock: Arc<ManualTime>,
    /// The memory that tunnels of either end are charged to.
    pub memory: Memory,
    /// The budget of bytes behind [`Self::memory`].
    pub share: Arc<Share>,
    configs: RefCell<Configs>,
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").finish_non_exhaustive()
    }
}

impl Default for Mesh {
    fn default() -> Self {
        Self::new()
    }
}

impl Mesh {
    /// One with plenty of memory.
    pub fn new() -> Self {
        let clock = ManualTime::new(now());
        let settings = tls::Settings { time: Arc::<ManualTime>::clone(&clock), ..tls::Settings::default() };
        Self::with(Configs::new(settings).expect("configs"), clock)
    }

    /// One whose keys are good for few records.
    pub fn with_short_lived_keys() -> Self {
        let clock = ManualTime::new(now());
        Self::with(short_lived_keys(64, Arc::clone(&clock)), clock)
    }

    fn with(configs: Configs, clock: Arc<ManualTime>) -> Self {
        let ca = TestCa::new("root");
        let share = Share::new(&Budget::new(1 << 30), usize::MAX);
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
    pub fn client(&self) -> ClientConfig {
        self.client_of(&self.alice, &self.ca.roots(1))
    }

    /// Alice expects one of these.
    pub fn client_to(&self, expected: &Identities) -> ClientConfig {
        self.configs.borrow_mut().client(&self.alice, expected, &self.ca.roots(1)).expect("config")
    }

    /// The owner of this certificate expects bob.
    pub fn client_of(&self, credential: &Credential, roots: &Roots) -> ClientConfig {
        self.configs.borrow_mut().client(credential, &Identities::from(id(BOB)), roots).expect("config")
    }

    /// Bob accepts the mesh.
    pub fn server(&self) -> ServerConfig {
        self.server_of(&self.bob, &self.ca.roots(1))
    }

    /// The owner of this certificate accepts the mesh.
    pub fn server_of(&self, credential: &Credential, roots: &Roots) -> ServerConfig {
        let own = TrustDomains::new(TrustDomain::default(), []);
        self.configs.borrow_mut().server(credential, &own, roots).expect("config")
    }

    /// Bob, whose CONNECTs `accept` handles.
    pub async fn serve(&self, accept: impl Fn(Accepted) + 'static) -> Server {
        Server::new(self, self.server(), "127.0.0.1:0", Rc::new(accept)).await
    }

    /// Bob, whose applications are at the CONNECT's authority.
    pub async fn serve_applications(&self) -> Server {
        self.serve(|accepted| drop(spawn_local(connect(accepted)))).await
    }

    /// Alice's tunnel to bob.
    pub fn tunnel(&self, to: SocketAddr) -> Tunnel {
        self.tunnel_with(to, &self.client())
    }

    /// A client's tunnel by this configuration.
    pub fn tunnel_with(&self, to: SocketAddr, config: &ClientConfig) -> Tunnel {
        Tunnel::client(connecting(to).into(), config, &self.settings, &self.buffers, charge(&self.memory))
            .expect("begun")
    }

    /// Both ends of a tunnel, between applications.
    pub async fn pair(&self) -> (Tunnel, Server) {
        let server = self.serve_applications().await;
        (self.tunnel(server.address), server)
    }
}

/// A charge without limits.
pub fn charge(memory: &Memory) -> Charge {
    Charge { memory: memory.clone(), permit: Share::new(&Budget::new(1), 1).permit() }
}

fn options(role: Role) -> Options {
    Options::of(role, Keepalive::default())
}

/// A socket whose connect() was begun.
fn connecting(to: SocketAddr) -> TcpStream {
    let netns = crate::netns::Netns::own().expect("own namespace");
    let socket = from_pod(&netns, to.ip(), to, &options(Role::ToNextHop)).expect("begun");
    TcpStream::from_std(socket).expect("registered")
}

/// Tunnels that end here.
#[derive(Debug)]
pub struct Server {
    /// Its address.
    pub address: SocketAddr,
    /// All that were accepted, in order.
    pub tunnels: Rc<RefCell<Vec<Tunnel>>>,
    ended: RefCell<mpsc::UnboundedReceiver<TunnelEnd>>,
    /// One more reference for each socket whose peer is not known.
    pub admission: Rc<()>,
}

impl Server {
    /// Accepts at this address; `accept` handles CONNECTs.
    pub async fn new(mesh: &Mesh, tls: ServerConfig, at: &str, accept: Rc<dyn Fn(Accepted)>) -> Self {
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

    /// The end of the next tunnel.
    #[allow(clippy::await_holding_refcell_ref, reason = "one test waits at a time")]
    pub async fn ended(&self) -> TunnelEnd {
        self.ended.borrow_mut().recv().await.expect("a tunnel ended")
    }

    /// The only tunnel.
    pub fn tunnel(&self) -> Tunnel {
        let tunnels = self.tunnels.borrow();
        let [tunnel] = &tunnels[..] else { panic!("{} tunnels", tunnels.len()) };
        tunnel.clone()
    }

    /// Sockets whose peers are not known yet.
    pub fn unauthenticated(&self) -> usize {
        Rc::strong_count(&self.admission) - 2 // ours, and the acceptor's
    }
}

/// Connects a CONNECT at the server's end to the application at its authority, and carries the connection.
pub async fn connect(accepted: Accepted) -> Ended {
    let target: SocketAddr = String::from_utf8_lossy(&accepted.request.authority).parse().expect("address");
    let socket = TcpStream::connect(target).await.expect("application");
    accepted.stream.respond(200, &Headers::new());
    carry(&accepted.stream, socket).await
}

/// Carries an application's connection, and closes it the way that it ended.
pub async fn carry(stream: &Stream, socket: TcpStream) -> Ended {
    carry_counted(stream, socket, &Arc::default()).await
}

/// The same, with bytes counted by `tally`.
pub async fn carry_counted(stream: &Stream, socket: TcpStream, tally: &Arc<Tally>) -> Ended {
    socket.set_nodelay(true).expect("option");
    let socket = Rc::new(socket);
    let ended = stream.run(&socket, tally, &mut EarlyData::default()).await;
    close(&socket, &ended);
    ended
}

/// Closes an application's connection the way that its stream ended.
pub fn close(socket: &TcpStream, ended: &Ended) {
    if *ended != Ended::Finished {
        reset_on_close(socket, true);
    }
}

/// A CONNECT to this authority.
pub fn request(target: impl ToString) -> Connect {
    let headers = Headers::from_iter([("baggage", "a=b")]);
    Connect { authority: target.to_string().into_bytes(), headers }
}

/// A client's application and the end of its connection.
#[derive(Debug)]
pub struct Call {
    /// The application's end.
    pub app: TcpStream,
    /// The end of its stream.
    pub ended: JoinHandle<Ended>,
}

impl Call {
    /// Waits for its end.
    pub async fn ended(self) -> Ended {
        self.ended.await.expect("no panic")
    }
}

/// An application's connection through this tunnel.
pub async fn call(tunnel: &Tunnel, target: impl ToString) -> Call {
    let (app, socket) = tcp_pair().await;
    let stream = tunnel.open(&request(target)).expect("opened");
    Call { app, ended: spawn_local(async move { carry(&stream, socket).await }) }
}

/// A connection and its other end.
pub async fn tcp_pair() -> (TcpStream, TcpStream) {
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
#[derive(Debug)]
pub struct Application {
    /// Its address.
    pub address: SocketAddr,
    listener: TcpListener,
}

impl Application {
    /// Listens at this address.
    pub async fn new(at: &str) -> Self {
        let listener = TcpListener::bind(at).await.expect("bound");
        Self { address: listener.local_addr().expect("name"), listener }
    }

    /// Its next connection.
    pub async fn accept(&self) -> TcpStream {
        let (socket, _) = self.listener.accept().await.expect("accepted");
        socket.set_nodelay(true).expect("option");
        socket
    }
}

/// An application that sends back what it gets.
pub async fn echo(at: &str) -> SocketAddr {
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
pub async fn converse(app: &mut (impl AsyncRead + AsyncWrite + Unpin), payload: &[u8]) -> io::Result<Vec<u8>> {
    let (mut from, mut to) = split(app);
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
pub async fn last_word(app: &mut TcpStream) -> Option<io::ErrorKind> {
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
pub fn reset(app: TcpStream) {
    reset_on_close(&app, true);
}

/// A plain connection.
pub async fn raw(to: SocketAddr) -> TcpStream {
    let socket = std::net::TcpStream::connect(to).expect("connected");
    socket.set_nonblocking(true).expect("option");
    established(socket).await.expect("open")
}

/// The clock that the certificates of [`Mesh`] are valid on.
pub fn clock() -> SystemTime {
    now()
}

/// A leaf that is not valid any more, or not yet.
pub fn dated(uri: &str, from_s: i64, until_s: i64) -> Leaf {
    let at = |s: i64| {
        let by = Duration::from_secs(s.unsigned_abs());
        if s < 0 { now() - by } else { now() + by }
    };
    Leaf { not_before: at(from_s), not_after: at(until_s), ..Leaf::of(uri) }
}

/// An application whose connection is carried until it ends it.
pub async fn carried(stream: Stream) -> TcpStream {
    let (app, socket) = tcp_pair().await;
    spawn_local(async move { carry(&stream, socket).await });
    app
}

/// One byte to an application that echoes, and back.
pub async fn talk(app: &mut TcpStream) {
    app.write_u8(7).await.expect("sent");
    assert_eq!(app.read_u8().await.expect("heard"), 7);
}
