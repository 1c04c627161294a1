//! End to end: the tunnel's own sockets, as the kernel knows them. Level kernel, because only a socket that an agent holds
//! can be asked what it has, and only a kernel answers keepalive probes.

use std::{
    collections::BTreeSet,
    fmt, fs,
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use underpass_net::{
    destroy::{self, State},
    netns::Netns,
    socket::options::{Keepalive, Options, Role},
};
use underpass_tests::{
    apps::{
        crowd::Caller,
        http,
        pair::Pair,
        remote::{Id, Sockets},
        socket::{Dial, Opt},
    },
    mesh::Mesh,
    testbed::{Lab, sys, wait::wait_until},
};

underpass_tests::scenarios! {
    every_socket_has_its_options,
    a_half_lasts_as_long_as_both_ends,
    a_node_that_is_gone_is_found,
    a_host_without_ipv6,
    a_port_is_the_applications,
}

/// Two nodes: mesh/a and mesh/a2 on the first, mesh/b and mesh/b2 on the second are in the mesh; out/o1 and out/o2 are not.
const WORLD: &str = include_str!("manifests/two-nodes.yaml");
const SERVICES: &str = include_str!("manifests/services.yaml");
/// Of a service that leads to mesh/b or out/o2, by chance; so many connections leave out one of them once in a billion times.
const MIXED: [&str; 2] = ["10.96.0.5:80", "[fd00:10:96::5]:80"];
const MANY: usize = 30;
const NODES: [&str; 2] = ["node-1", "node-2"];
/// Across nodes and within one through the tunnel, and in plaintext.
const ROUTES: [[&str; 2]; 3] = [["mesh/a", "mesh/b"], ["mesh/a", "mesh/a2"], ["out/o1", "mesh/b"]];
/// Within it an end that is gone is found.
const SHORT: Keepalive = Keepalive { idle: Duration::from_secs(1), interval: Duration::from_secs(1), probes: 3 };
const SHORTLY: [&str; 6] = ["--keepalive-idle", "1s", "--keepalive-interval", "1s", "--keepalive-probes", "3"];
/// Longer than that takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// The port of the applications.
const PORT: u16 = 8080;
const HBONE: u16 = 15008;

/// A TCP socket of an agent in the namespace of a pod.
struct AgentSocket {
    fd: OwnedFd,
    role: Role,
    ipv4: bool,
    ends: (SocketAddr, Option<SocketAddr>),
}

impl fmt::Debug for AgentSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.role.as_str(), self.ends)
    }
}

impl AgentSocket {
    /// Its role, by its options in the kernel.
    fn of(socket: OwnedFd) -> Result<Self> {
        let int = |level, name| sys::option_bytes::<4>(socket.as_fd(), level, name).map(i32::from_ne_bytes);
        let device: [u8; 16] = sys::option_bytes(socket.as_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE)?;
        let (is_bound, is_on_lo) = (device[0] != 0, device.starts_with(b"lo\0"));
        let is_transparent = int(libc::SOL_IP, libc::IP_TRANSPARENT)? != 0;
        let listens = int(libc::SOL_SOCKET, libc::SO_ACCEPTCONN)? != 0;
        let stream = TcpStream::from(socket);
        let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
        let (local, remote) = (canonical(stream.local_addr()?), stream.peer_addr().ok().map(canonical));
        let role = match remote {
            _ if listens && is_bound => Role::InboundListener,
            _ if listens => Role::OutboundListener,
            Some(remote) if remote.port() == HBONE => Role::ToNextHop,
            _ if local.port() == HBONE => Role::FromTunnel,
            _ if is_on_lo => Role::ToApplication,
            _ if is_bound => Role::FromPeer,
            _ if is_transparent => Role::FromApplication,
            _ => Role::ToOutside,
        };
        Ok(Self { fd: stream.into(), role, ipv4: local.is_ipv4(), ends: (local, remote) })
    }
}

/// Every TCP socket that the agent of a node has in the namespaces of its pods.
fn agent_sockets(mesh: &mut Mesh, node: &str) -> Result<Vec<AgentSocket>> {
    let own = Netns::open(&mesh.bed.node(node)?.network_namespace())?.cookie();
    let pid = mesh.agent(node)?.pid();
    let process = underpass_net::passing::pidfd(pid)?;
    let mut all = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        // Those that were closed meanwhile are no sockets any more.
        let is_socket =
            fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        let number = entry.file_name().to_string_lossy().parse()?;
        let Some(socket) = is_socket.then(|| sys::descriptor_of(process.as_fd(), number).ok()).flatten() else {
            continue;
        };
        let protocol =
            sys::option_bytes(socket.as_fd(), libc::SOL_SOCKET, libc::SO_PROTOCOL).map(i32::from_ne_bytes)?;
        if protocol != libc::IPPROTO_TCP {
            continue;
        }
        let cookie =
            sys::option_bytes(socket.as_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE).map(u64::from_ne_bytes)?;
        if cookie != own {
            all.push(AgentSocket::of(socket)?);
        }
    }
    Ok(all)
}

/// Connections of every kind in both families, open and answered once. The processes are their applications.
fn open(mesh: &Mesh) -> Result<Vec<Sockets>> {
    let mut clients = Vec::new();
    let mixed = MIXED.into_iter().map(str::parse).collect::<Result<Vec<SocketAddr>, _>>()?;
    for (client, more) in [("mesh/a", mixed.repeat(MANY)), ("out/o1", Vec::new())] {
        let mut sockets = Sockets::start(&mesh.bed.app(client)?)?;
        for to in [mesh.at("mesh/b", true, PORT)?, mesh.at("mesh/b", false, PORT)?].into_iter().chain(more) {
            let id = sockets.connect(to).with_context(|| client.to_owned())?;
            sockets.send(id, b"hello")??;
            sockets.receive(id, 1)??;
        }
        clients.push(sockets);
    }
    Ok(clients)
}

/// Asks every socket of both agents, and finds each role in both families.
fn ask_all(mesh: &mut Mesh) -> Result<()> {
    let mut seen = BTreeSet::new();
    for node in NODES {
        for socket in agent_sockets(mesh, node)? {
            let (wanted, found) = (Options::of(socket.role, Keepalive::default()), Options::read(&socket.fd)?);
            ensure!(found == wanted, "{node}: {socket:?} has {found:?}, not {wanted:?}");
            seen.insert((socket.role, socket.ipv4));
        }
    }
    for role in Role::ALL {
        let listens = matches!(role, Role::OutboundListener | Role::InboundListener);
        for ipv4 in [true, false].into_iter().filter(|ipv4| !listens || !ipv4) {
            ensure!(seen.contains(&(role, ipv4)), "no {} socket, ipv4: {ipv4}; there are {seen:?}", role.as_str());
        }
    }
    Ok(())
}

/// Every socket that an agent made, accepted or took over has the options of the table, also a listener of an agent without them.
fn every_socket_has_its_options(lab: &Lab) -> Result<()> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD), ("services.yaml", SERVICES)])?;
    mesh.start()?;
    let _servers = mesh.echo(&["mesh/b", "out/o2"], PORT)?;
    let _clients = open(&mesh)?;
    ask_all(&mut mesh)?;

    for node in NODES {
        for listener in agent_sockets(&mut mesh, node)? {
            let socket = listener.fd.as_fd();
            sys::set_option(socket, libc::SOL_TCP, libc::TCP_NODELAY, &0_i32.to_ne_bytes())?;
            sys::set_option(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, &0_i32.to_ne_bytes())?;
        }
    }
    let error = ask_all(&mut mesh).err().context("sockets without options were taken for good")?.to_string();
    ensure!(error.contains("no_delay: false"), "{error}");
    let mut before = Vec::new();
    for node in NODES {
        before.push(mesh.take_over(node)?);
    }
    let _clients = open(&mesh)?;
    ask_all(&mut mesh).context("after a take-over")
}

fn netns(mesh: &Mesh, pod: &str) -> Result<Netns> {
    Ok(Netns::of_process(mesh.bed.pod(pod)?.sandbox_pid().cast_unsigned())?)
}

/// The options of a careful application.
fn probes(sockets: &mut Sockets, id: Id) -> Result<()> {
    let int = |level, name, value: i32| Opt::Raw { level, name, value: value.to_ne_bytes().to_vec() };
    for (name, value) in [(libc::TCP_KEEPIDLE, 1), (libc::TCP_KEEPINTVL, 1), (libc::TCP_KEEPCNT, 3)] {
        sockets.set(id, int(libc::SOL_TCP, name, value))??;
    }
    Ok(sockets.set(id, int(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1))??)
}

/// Connections between the pods of each route in both families, of which one end has ended its half: the client or the server.
/// It closes (`gone`), or goes on listening.
fn halves(mesh: &Mesh, gone: bool) -> Result<Vec<(&'static str, bool, Pair)>> {
    let mut halves = Vec::new();
    for [client, server] in ROUTES {
        for (ipv4, by_client) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut pair = mesh.pair(client, server, ipv4)?;
            probes(&mut pair.client, pair.out)?;
            probes(&mut pair.server, pair.inn)?;
            let Pair { client: a, server: b, out, inn, .. } = &mut pair;
            let (ends, id, stays, other) = if by_client { (a, *out, b, *inn) } else { (b, *inn, a, *out) };
            ends.send(id, b"x")??;
            if gone {
                ends.close(id)??
            } else {
                ends.shutdown_write(id)??
            }
            ensure!(stays.read_to_end(other)?? == b"x");
            halves.push((if by_client { server } else { client }, by_client, pair));
        }
    }
    Ok(halves)
}

/// One end closes and is forgotten by its kernel; the other one never closes, and asks whether it is there.
fn all_end(mesh: &Mesh) -> Result<()> {
    let gone = halves(mesh, true)?;
    wait_until("the other ends to be told", || {
        for (stays, _, pair) in &gone {
            let is_open = |s: &destroy::TcpSocket| s.state != State::LISTEN;
            let of_pair = |s: &destroy::TcpSocket| [s.local, s.remote].iter().any(|end| end.port() == pair.to.port());
            if destroy::list(&netns(mesh, stays)?)?.iter().any(|socket| is_open(socket) && of_pair(socket)) {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// A half-closed connection has no limit of time while both applications are there, and ends with either of them, as it does
/// without a mesh.
fn a_half_lasts_as_long_as_both_ends(lab: &Lab) -> Result<()> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    for pod in ROUTES.as_flattened() {
        // Its kernel forgets a socket that was closed and heard no more.
        netns(&mesh, pod)?.set_sysctl("net.ipv4.tcp_fin_timeout", "1")?;
    }
    all_end(&mesh).context("without a mesh")?;
    mesh.options(&SHORTLY);
    mesh.start()?;
    let mut silent = halves(&mesh, false)?;
    let since = Instant::now();
    all_end(&mesh)?;
    for (node, direction) in [("node-1", "outbound"), ("node-2", "inbound")] {
        for reason in ["client_reset", "server_reset"] {
            mesh.logged(node, &[("direction", direction), ("reason", reason)])?;
        }
    }
    wait_until("twice the time of the probes", || Ok(since.elapsed() > 2 * SHORT.limit()))?;
    for (_, by_client, pair) in &mut silent {
        let Pair { client, server, out, inn, .. } = pair;
        let (ended, id, stays, other) =
            if *by_client { (client, *out, server, *inn) } else { (server, *inn, client, *out) };
        stays.send(other, b"the rest")??;
        stays.close(other)??;
        ensure!(ended.read_to_end(id)?? == b"the rest");
    }
    Ok(())
}

/// An idle connection, and one of its nodes is gone: the remaining end is told.
fn a_node_that_is_gone_is_found(lab: &Lab) -> Result<()> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    mesh.options(&SHORTLY);
    mesh.start()?;
    let mut pairs = Vec::new();
    for [client, server] in [["mesh/a", "mesh/b"], ["out/o1", "mesh/b"]] {
        for ipv4 in [true, false] {
            let mut pair = mesh.pair(client, server, ipv4)?;
            pair.exchange()?;
            pair.patience(PATIENCE)?;
            probes(&mut pair.client, pair.out)?;
            pairs.push(pair);
        }
    }
    mesh.bed.fabric().cut()?;
    for pair in &mut pairs {
        let read = pair.client_reads()?;
        ensure!(read.is_err(), "the client of {}: {read:?}", pair.to);
        let read = pair.server_reads()?;
        ensure!(
            read.as_ref().is_err_and(|failure| failure.errno == libc::ECONNRESET),
            "the server of {}: {read:?}",
            pair.to
        );
    }
    Ok(())
}

/// Where the kernel knows no IPv6, listeners are for IPv4, and all of it works as it does elsewhere, also when it is taken over.
fn a_host_without_ipv6(lab: &Lab) -> Result<()> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    mesh.without_ipv6();
    mesh.start()?;
    let mut before = Vec::new();
    for round in 0..2 {
        let listeners: Vec<_> = agent_sockets(&mut mesh, "node-2")?
            .into_iter()
            .filter(|socket| socket.ends.1.is_none())
            .map(|socket| socket.ends.0)
            .collect();
        ensure!(listeners.len() == 4 && listeners.iter().all(SocketAddr::is_ipv4), "{listeners:?}");
        for [client, server] in ROUTES {
            let mut pair = mesh.pair(client, server, true).with_context(|| format!("round {round}"))?;
            pair.exchange()?;
            pair.close()?;
            mesh.logged(
                mesh.node_of(server)?,
                &[("destination_address", &pair.to.to_string()), ("reason", "finished")],
            )?;
        }
        for port in [15020, 15021] {
            let url = format!("http://127.0.0.1:{port}{}", if port == 15021 { "/healthz/ready" } else { "/metrics" });
            mesh.bed.node("node-2")?.shell()?.act(http::fetch, url)?;
        }
        before.push(mesh.take_over("node-2")?);
    }
    Ok(())
}

/// Listens without SO_REUSEADDR; the errno where that is refused.
fn listens(sockets: &mut Sockets, address: &str) -> Result<Result<Id, i32>> {
    let no_reuse = Opt::Raw { level: libc::SOL_SOCKET, name: libc::SO_REUSEADDR, value: 0_i32.to_ne_bytes().to_vec() };
    Ok(sockets.try_listen(address.parse()?, &[no_reuse])?.map_err(|failure| failure.errno))
}

/// The answer of bind() without SO_REUSEADDR, in every state in which the port can be. `fresh`: two unused ports.
fn as_the_application_expects(mesh: &Mesh, fresh: [u16; 2]) -> Result<()> {
    for (ipv4, any, fresh) in [(true, "0.0.0.0", fresh[0]), (false, "[::]", fresh[1])] {
        // The pod has connections to this port of another one, and a client in plaintext tries it here.
        let mut client = Sockets::start(&mesh.bed.app("mesh/a")?)?;
        client.connect(mesh.at("mesh/b", ipv4, PORT)?)?;
        let used = format!("{any}:{PORT}");
        let mut own = Sockets::start(&mesh.bed.app("mesh/a")?)?;
        let mut tries = Caller::start(&mesh.bed.app("out/o1")?, Dial::to(mesh.at("mesh/a", ipv4, PORT)?).silent())?;
        for round in 0..300 {
            let id = listens(&mut own, &used)?.map_err(|errno| anyhow!("{used}: {errno} in round {round}"))?;
            own.close(id)??;
        }
        tries.stop()?;
        // One that listens is in the way of another, and so is what it has accepted, open and in TIME_WAIT.
        let used = format!("{any}:{fresh}");
        let mut first = Sockets::start(&mesh.bed.app("mesh/b")?)?;
        let mut second = Sockets::start(&mesh.bed.app("mesh/b")?)?;
        let listener = listens(&mut first, &used)?.map_err(|errno| anyhow!("{used}: {errno}"))?;
        ensure!(listens(&mut second, &used)? == Err(libc::EADDRINUSE), "two listen");
        let mut peer = Sockets::start(&mesh.bed.app("out/o1")?)?;
        peer.connect(mesh.at("mesh/b", ipv4, fresh)?)?;
        first.accept(listener)?;
        first.close(listener)??;
        ensure!(listens(&mut second, &used)? == Err(libc::EADDRINUSE), "beside an open connection");
        first.kill()?;
        peer.kill()?;
        ensure!(listens(&mut second, &used)? == Err(libc::EADDRINUSE), "beside a connection that has just ended");
    }
    Ok(())
}

/// A port is refused to an application where it would be without a mesh, and nowhere else: not because of the tunnel's sockets.
fn a_port_is_the_applications(lab: &Lab) -> Result<()> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    let _server = mesh.echo(&["mesh/b"], PORT)?;
    as_the_application_expects(&mesh, [9090, 9091]).context("without a mesh")?;
    mesh.start()?;
    as_the_application_expects(&mesh, [9092, 9093])
}
