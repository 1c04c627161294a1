//! The cost of a stream, by its ends: requests of 100 bytes one after the other on 16 connections, and bytes one way
//! on one of them. Client and server are a thread each, on loopback; CPU is of the whole process, applications included.
//! `cargo run --release -p underpass-net --example streams [socket|bytes|nested]`

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use nix::sys::resource::{UsageWho, getrusage};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{LocalSet, spawn_local},
    time::Instant,
};
use underpass_core::{Identities, TrustDomain};
use underpass_hbone::{Connect, Headers};
use underpass_identity::testing::{Leaf, TestCa, now};
use underpass_net::{
    budget::{Budget, Share},
    buffer::Buffers,
    tls::{self, Configs, TrustDomains, testing::ManualTime},
    tunnel::{Accepted, ByteStream, Charge, EarlyData, Memory, Settings, Stream, Tunnel},
};

const CONNECTIONS: usize = 16;
const MESSAGE: usize = 100;
const LASTS: Duration = Duration::from_secs(4);
const BLOCK: usize = 256 << 10;
const ALICE: &str = "spiffe://cluster.local/ns/default/sa/alice";
const BOB: &str = "spiffe://cluster.local/ns/default/sa/bob";

/// The ends of a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// Sockets of applications.
    Sockets,
    /// Programs, without a socket.
    Bytes,
    /// Sockets, and the tunnel runs in a stream of another one.
    Nested,
}

fn main() {
    let asked = std::env::args().nth(1);
    for (name, ends) in [("socket", Ends::Sockets), ("bytes", Ends::Bytes), ("nested", Ends::Nested)] {
        if asked.as_ref().is_none_or(|asked| asked == name) {
            measure(name, ends);
        }
    }
}

fn measure(name: &str, ends: Ends) {
    let ca = Arc::new(TestCa::new("root"));
    let (sender, address) = std::sync::mpsc::channel();
    let of_server = Arc::clone(&ca);
    // Ends with the process.
    std::thread::spawn(move || run(async { serve(&of_server, ends, &sender).await }));
    let address = address.recv().expect("served");
    run(async {
        let tunnel = End::new().connect(&ca, address, ends).await;
        let (count, wall, cpu) = requests(&tunnel, ends).await;
        let per_second = count as f64 / wall.as_secs_f64();
        let each = cpu.as_secs_f64() * 1e6 / count as f64;
        println!("{name}: {per_second:.0} requests/s, {each:.2} us CPU each");
        let (bytes, wall, cpu) = bulk(&tunnel, ends).await;
        let gib = bytes as f64 / f64::from(1 << 30);
        println!("{name}: {:.2} GiB/s, {:.2} s CPU per GiB", gib / wall.as_secs_f64(), cpu.as_secs_f64() / gib);
    });
}

fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    LocalSet::new().block_on(&runtime, future);
}

/// One process's part of a mesh.
struct End {
    settings: Settings,
    buffers: Buffers,
    memory: Memory,
    configs: Configs,
}

impl End {
    fn new() -> Self {
        let tls = tls::Settings { time: ManualTime::new(now()), ..tls::Settings::default() };
        let configs = Configs::new(tls).expect("configs");
        let memory = Memory::new(Share::new(&Budget::new(1 << 30), usize::MAX));
        Self { settings: Settings::default(), buffers: Buffers::default(), memory, configs }
    }

    fn charge(&self) -> Charge {
        Charge { memory: self.memory.clone(), permit: Share::new(&Budget::new(1), 1).permit() }
    }

    async fn connect(mut self, ca: &TestCa, to: SocketAddr, ends: Ends) -> Tunnel {
        let expected = Identities::new([BOB.parse().expect("identity")]);
        let config = self.configs.client(&ca.credential(&Leaf::of(ALICE)), &expected, &ca.roots(1)).expect("config");
        let socket = TcpStream::connect(to).await.expect("connected");
        socket.set_nodelay(true).expect("option");
        let begin = |transport| Tunnel::client(transport, &config, &self.settings, &self.buffers, self.charge());
        let outer = begin(socket.into()).expect("begun");
        match ends {
            Ends::Nested => begin(open(&outer, "inner").into()).expect("begun"),
            Ends::Sockets | Ends::Bytes => outer,
        }
    }
}

async fn serve(ca: &TestCa, ends: Ends, address: &std::sync::mpsc::Sender<SocketAddr>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    address.send(listener.local_addr().expect("name")).expect("asked");
    let mut end = End::new();
    let accepted = TrustDomains::new(TrustDomain::default(), []);
    let config = end.configs.server(&ca.credential(&Leaf::of(BOB)), &accepted, &ca.roots(1)).expect("config");
    let (end, config) = (Rc::new(end), Rc::new(config));
    loop {
        let (socket, _) = listener.accept().await.expect("accepted");
        socket.set_nodelay(true).expect("option");
        drive(&end, &config, socket.into(), ends);
    }
}

fn drive(end: &Rc<End>, config: &Rc<tls::ServerConfig>, transport: underpass_net::tunnel::Transport, ends: Ends) {
    let (of_acceptor, tls) = (Rc::clone(end), Rc::clone(config));
    let acceptor = Box::new(move |Accepted { stream, request, .. }: Accepted| {
        stream.respond(200, &Headers::new());
        match &request.authority[..] {
            b"inner" => drive(&of_acceptor, &tls, stream.into(), ends),
            service => drop(spawn_local(application(stream, service == b"echo", ends))),
        }
    });
    let admission = Box::new(());
    let begun = Tunnel::server(transport, config, &end.settings, &end.buffers, end.charge(), admission, acceptor);
    let (tunnel, driving) = begun.expect("begun");
    spawn_local(async move {
        driving.await;
        drop(tunnel);
    });
}

/// The application behind a stream: it sends back what comes, or takes it.
async fn application(stream: Stream, echoes: bool, ends: Ends) {
    let Ends::Bytes = ends else {
        let (app, socket) = pair().await;
        spawn_local(
            async move { drop(stream.run(&Rc::new(socket), &Arc::default(), &mut EarlyData::default()).await) },
        );
        return answer(app, echoes).await;
    };
    answer(ByteStream::from(stream), echoes).await;
}

async fn answer(mut app: impl Client, echoes: bool) {
    let mut buffer = vec![0; BLOCK];
    let mut taken: u64 = 0;
    while let Ok(n @ 1..) = app.read(&mut buffer).await {
        taken += n as u64;
        if echoes && app.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
    if !echoes {
        // Fails where the client is gone.
        let _ = app.write_u64(taken).await;
        let _ = app.shutdown().await;
    }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let near = TcpStream::connect(listener.local_addr().expect("name"));
    let (near, far) = tokio::join!(near, listener.accept());
    let (near, (far, _)) = (near.expect("connected"), far.expect("accepted"));
    [&near, &far].into_iter().for_each(|socket| socket.set_nodelay(true).expect("option"));
    (near, far)
}

fn open(tunnel: &Tunnel, service: &str) -> Stream {
    tunnel.open(&Connect { authority: service.into(), headers: Headers::new() }).expect("opened")
}

/// A client's end of a new connection.
async fn client(tunnel: &Tunnel, service: &str, ends: Ends) -> Box<dyn Client> {
    let stream = open(tunnel, service);
    if ends == Ends::Bytes {
        return Box::new(ByteStream::from(stream));
    }
    let (app, socket) = pair().await;
    spawn_local(async move { drop(stream.run(&Rc::new(socket), &Arc::default(), &mut EarlyData::default()).await) });
    Box::new(app)
}

trait Client: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Client for T {}

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("usage");
    let time = |of: nix::sys::time::TimeVal| Duration::new(of.tv_sec() as u64, of.tv_usec() as u32 * 1000);
    time(usage.user_time()) + time(usage.system_time())
}

async fn requests(tunnel: &Tunnel, ends: Ends) -> (u64, Duration, Duration) {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = client(tunnel, "echo", ends).await;
        ask(&mut client).await;
        clients.push(client);
    }
    let (begun, before) = (Instant::now(), cpu());
    let asking: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            spawn_local(async move {
                let mut count = 0_u64;
                while begun.elapsed() < LASTS {
                    ask(&mut client).await;
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut count = 0;
    for asking in asking {
        count += asking.await.expect("no panic");
    }
    (count, begun.elapsed(), cpu() - before)
}

async fn ask(client: &mut Box<dyn Client>) {
    let mut answer = [0; MESSAGE];
    client.write_all(&[7; MESSAGE]).await.expect("sent");
    client.read_exact(&mut answer).await.expect("answered");
}

async fn bulk(tunnel: &Tunnel, ends: Ends) -> (u64, Duration, Duration) {
    let mut client = client(tunnel, "sink", ends).await;
    let (block, begun, before) = (vec![7; BLOCK], Instant::now(), cpu());
    while begun.elapsed() < LASTS {
        client.write_all(&block).await.expect("sent");
    }
    client.shutdown().await.expect("ended");
    let taken = client.read_u64().await.expect("answered");
    (taken, begun.elapsed(), cpu() - before)
}
