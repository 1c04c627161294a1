//! Pods in the real kernel: found by uid, set up in their namespaces, captured, handed off, released, purged. Level kernel.
//!
//! The agent's lower half (pods, tables, data path) runs for real; in the tunnel's place stands one that says who it took
//! an outgoing connection for, and hands what comes in to the application as the client.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use underpass_abi::{Cookie, Marks, Op, limits};
use underpass_agent::pods::{self, Event, Pods};
use underpass_core::{
    ObjectName, World,
    enrol::DATAPLANE_MODE,
    labels::Labels,
    objects::{Batch, DEFAULT_WEIGHT, Object, Phase, Pod},
    resolve::{LocalPod, Model},
    world::MeshSettings,
};
use underpass_loader::Kernel;
use underpass_net::{
    netns::Netns,
    socket::{
        self,
        options::{Keepalive, Options, Role},
    },
};
use underpass_tests::{
    apps::{
        attacks::{self, Impostor},
        remote::{Id, Sockets},
        servers,
        socket::{Dial, Opt, Who, dial},
    },
    testbed::{
        Actor, Description, Io, Lab, Testbed,
        cgroup::Qos,
        wait::{wait_for, wait_until},
    },
};

underpass_tests::scenarios! {
    what_leaves_an_enrolled_pod,
    what_reaches_an_enrolled_pod,
    a_mesh_that_does_not_fit_into_the_kernel,
    a_released_pod_is_as_it_was,
    release_waits_for_open_connections,
    a_sandbox_that_ends_leaves_nothing,
    an_impostor_is_not_the_sandbox,
    secondary_addresses_are_kept_current,
    addresses_without_end_concern_one_pod,
    an_agent_that_comes_back_finds_everything,
    what_a_failed_successor_took_down_is_put_right,
    pods_that_left_while_no_agent_ran_are_released,
    cleanup_needs_no_world,
    sandboxes_are_waited_for,
    cgroups_as_the_cgroupfs_driver_lays_them_out,
    what_it_costs,
}

// ---------------------------------------------------------------------------------------------- the agent in a process

/// A pod as manifests would say it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Fact {
    name: String,
    uid: String,
    node: String,
    addresses: Vec<IpAddr>,
    enrolled: bool,
    ended: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Start {
    node: String,
    cgroup_root: PathBuf,
    bpffs: PathBuf,
    drain: Duration,
    /// Room of the table of the mesh.
    mesh_entries: u32,
}

#[derive(Debug, Serialize, Deserialize)]
enum Order {
    World(Vec<Fact>),
    Status,
    Look,
    ReleaseAll,
    StandStill,
    GoOn,
    Remove,
    Measure(String, SocketAddr),
}

/// The state of pods: name, state, problem.
type Status = Vec<(String, String, Option<String>)>;

/// The state of the kernel, and the tunnel's updates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Sight {
    pods: usize,
    locals: usize,
    cgroups: usize,
    destinations: usize,
    agents: usize,
    steered: usize,
    listeners: usize,
    added: Vec<String>,
    removed: Vec<String>,
}

/// The World of this version, and the pods of a node.
fn world(facts: &[Fact], node: &str, version: u64) -> (Arc<World>, Arc<[LocalPod]>) {
    let objects = facts.iter().map(|fact| {
        let (namespace, name) = fact.name.split_once('/').unwrap_or(("", &fact.name));
        let mut labels = Labels::new();
        labels.insert(DATAPLANE_MODE.into(), if fact.enrolled { "ambient" } else { "none" }.into());
        Object::from(Pod {
            name: ObjectName::new(namespace, name),
            uid: fact.uid.as_str().into(),
            addresses: fact.addresses.clone(),
            node: Some(fact.node.as_str().into()),
            hostname: None,
            host_network: false,
            phase: if fact.ended { Phase::Terminal } else { Phase::Running },
            ready: true,
            draining: false,
            deleted: false,
            weight: DEFAULT_WEIGHT,
            labels,
            annotations: Labels::new(),
            service_account: "default".into(),
            ports: Vec::new(),
            owner: None,
            proxy: None,
        })
    });
    let batch: Batch = objects.collect();
    let mut model = Model::empty(MeshSettings::default());
    for _ in 1..version {
        model.apply(&Batch::default());
    }
    model.apply(&batch);
    (Arc::new(model.world().clone()), model.local_pods(node).into())
}

/// The process: takes orders until the test lets go, or kills it.
fn agent(start: Start, io: &mut Io) -> Result<()> {
    let settings = underpass_loader::Settings {
        bpffs: start.bpffs,
        instance: start.node.clone(),
        cgroup_root: start.cgroup_root.clone(),
        marks: Marks::DEFAULT,
        mesh_entries: start.mesh_entries,
        log: false,
    };
    let own = pods::cgroup_id(&pods::own_alone("underpass-agent")?)?;
    let kernel = Kernel::attach(&settings)?;
    let (sender, events) = mpsc::channel();
    let sink = Box::new(move |event| drop(sender.send(event)));
    let settings_of_pods = pods::Settings {
        node: start.node.as_str().into(),
        cgroup_root: start.cgroup_root,
        agents: vec![own],
        marks: Marks::DEFAULT,
        drain: start.drain,
        keepalive: Keepalive::default(),
    };
    let handle = pods::spawn(
        Pods::adopt(settings_of_pods, kernel, Instant::now(), sink)?,
        pods::Meter::new(&underpass_telemetry::metrics::Registry::default()),
    )?;
    let mut tunnel = Tunnel { events, served: HashMap::new(), applied: 0, sight: Sight::default() };
    let mut version = 0;
    io.send(&())?;
    while let Some(order) = io.receive::<Order>()? {
        match order {
            Order::World(facts) => {
                version += 1;
                let (world, local) = world(&facts, &start.node, version);
                handle.set_world(world, local);
                while tunnel.applied < version {
                    tunnel.wait()?;
                }
                io.send(&())?;
            }
            Order::Status => {
                let of = |s: pods::PodStatus| (s.name, s.state.to_owned(), s.problem);
                let status: Status = handle.status().into_iter().map(of).collect();
                tunnel.take()?; // what it says has been announced
                io.send(&status)?;
            }
            Order::Look => {
                tunnel.take()?;
                io.send(&look(&Kernel::open(&settings)?, tunnel.sight.clone())?)?;
            }
            Order::ReleaseAll => {
                let done = handle.release_all(Instant::now() + Duration::from_secs(20));
                tunnel.take()?;
                io.send(&done)?;
            }
            Order::StandStill => {
                handle.stand_still().blocking_recv()?;
                io.send(&())?;
            }
            Order::GoOn => {
                tunnel.take()?;
                let serving = |(cookie, served): (&Cookie, &Served)| Ok((*cookie, served.listeners()?));
                handle.resume(tunnel.served.iter().map(serving).collect::<Result<_>>()?);
                io.send(&())?;
            }
            Order::Remove => {
                Kernel::remove(&settings)?;
                io.send(&())?;
            }
            Order::Measure(pod, to) => {
                tunnel.take()?;
                let served = tunnel.served.values().find(|s| s.name == pod).context("not served")?;
                io.send(&measure(&served.netns, to)?)?;
            }
        }
    }
    Ok(())
}

fn look(kernel: &Kernel, mut sight: Sight) -> Result<Sight> {
    for op in kernel.contents()? {
        match op {
            Op::SetPod(..) => sight.pods += 1,
            Op::SetLocal(..) => sight.locals += 1,
            Op::SetPodCgroup(..) => sight.cgroups += 1,
            Op::SetDestination(..) => sight.destinations += 1,
            Op::SetAgent(..) => sight.agents += 1,
            other => bail!("{other:?}"),
        }
    }
    (sight.steered, sight.listeners) = (kernel.pods()?.len(), kernel.listeners()?.len());
    Ok(sight)
}

/// Microseconds, each the median of many: entering a namespace, a connection to the application, one from the own
/// namespace.
fn measure(netns: &Netns, to: SocketAddr) -> Result<[f64; 2]> {
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    let enter = (0..2000).map(|_| {
        let begin = Instant::now();
        netns.enter_here(|| ())?;
        Ok(begin.elapsed().as_secs_f64() * 1e6)
    });
    let enter = median(enter.collect::<Result<_>>()?);
    let own = Netns::own()?.cookie();
    let nested = netns.enter_here(|| netns.enter_here(|| ()).is_err())?;
    let unwound = std::panic::catch_unwind(|| netns.enter_here(|| std::panic::resume_unwind(Box::new(())))).is_err();
    ensure!(nested && unwound && Netns::own()?.cookie() == own, "still inside");
    ensure!(netns.enter(|| Netns::own().map(|inside| inside.cookie()))?? == netns.cookie());
    let options = Options::of(Role::ToApplication, Keepalive::default());
    let connect = (0..500).map(|_| {
        let begin = Instant::now();
        let opened = socket::to_application(netns, [192, 0, 2, 7].into(), to, Marks::DEFAULT.inbound(), &options)?;
        let took = begin.elapsed().as_secs_f64() * 1e6;
        socket::reset_on_close(&opened, true);
        Ok(took)
    });
    Ok([enter, median(connect.collect::<Result<_>>()?)])
}

// --------------------------------------------------------------------------------------------- what stands for a tunnel

struct Tunnel {
    events: mpsc::Receiver<Event>,
    served: HashMap<Cookie, Served>,
    applied: u64,
    sight: Sight,
}

struct Served {
    name: String,
    netns: Arc<Netns>,
    stop: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    /// Outbound, inbound.
    listeners: (TcpListener, TcpListener),
    threads: Vec<thread::JoinHandle<()>>,
}

impl Served {
    /// The listeners, again.
    fn listeners(&self) -> Result<(TcpListener, TcpListener)> {
        Ok((self.listeners.0.try_clone()?, self.listeners.1.try_clone()?))
    }
}

impl Tunnel {
    fn wait(&mut self) -> Result<()> {
        let event = self.events.recv_timeout(Duration::from_secs(60))?;
        self.handle(event)
    }

    fn take(&mut self) -> Result<()> {
        while let Ok(event) = self.events.try_recv() {
            self.handle(event)?;
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Applied(version) => self.applied = version.0,
            Event::NoRoom(pods) => bail!("no room for {pods:?}"),
            // It asks for no certificates.
            Event::Added(pod) => {
                self.sight.added.push(pod.pod.name.to_string());
                let (stop, open) = (Arc::default(), Arc::default());
                let addresses: Arc<[IpAddr]> = pod.pod.addresses.clone().into();
                let netns = pod.netns;
                let serve = |listener: TcpListener, outbound: bool| {
                    let (stop, open) = (Arc::clone(&stop), Arc::clone(&open));
                    let (netns, addresses) = (Arc::clone(&netns), Arc::clone(&addresses));
                    thread::spawn(move || {
                        accept(&listener, &stop, &open, |client| {
                            let (netns, addresses) = (Arc::clone(&netns), Arc::clone(&addresses));
                            let _ends_with_the_connection = match outbound {
                                true => thread::spawn(move || outgoing(&client, &addresses)),
                                false => thread::spawn(move || incoming(&client, &netns, &addresses)),
                            };
                        })
                    })
                };
                let listeners = (pod.outbound.try_clone()?, pod.inbound.try_clone()?);
                let threads = vec![serve(pod.outbound, true), serve(pod.inbound, false)];
                let name = pod.pod.name.to_string();
                self.served.insert(pod.cookie, Served { name, netns, stop, open, listeners, threads });
            }
            Event::Removed { name, cookie } => {
                self.sight.removed.push(name.to_string());
                if let Some(served) = self.served.remove(&cookie) {
                    served.stop.store(true, Ordering::Relaxed);
                    for stream in served.open.lock().iter().flat_map(|open| open.iter()) {
                        let _ = stream.shutdown(Shutdown::Both);
                    }
                    served.threads.into_iter().for_each(|thread| drop(thread.join()));
                }
            }
        }
        Ok(())
    }
}

fn accept(listener: &TcpListener, stop: &AtomicBool, open: &Mutex<Vec<TcpStream>>, serve: impl Fn(TcpStream)) {
    while !stop.load(Ordering::Relaxed) {
        let _ = poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], PollTimeout::from(20_u8));
        let Ok((client, _)) = listener.accept() else { continue };
        let _ = client.set_nonblocking(false);
        if let (Ok(copy), Ok(mut open)) = (client.try_clone(), open.lock()) {
            open.push(copy);
        }
        serve(client);
    }
}

/// Tells client and server of the connection, in the words of an echo server; then echoes.
fn outgoing(mut client: &TcpStream, addresses: &[IpAddr]) {
    let _end = End(client);
    let (Ok(to), Ok(from)) = (socket::original_destination(client), socket::peer(client)) else { return };
    let mut buffer = [0; 4096];
    if addresses.contains(&to.ip()) || !addresses.contains(&from.ip()) || client.read(&mut buffer).is_err() {
        return;
    }
    let who = Who { app: "tunnel".into(), peer: from, local: to };
    let _ = writeln!(client, "{}", serde_json::to_string(&who).unwrap_or_default());
    while let Ok(length @ 1..) = client.read(&mut buffer) {
        let _ = client.write_all(buffer.get(..length).unwrap_or_default());
    }
}

/// To the application, as the client.
fn incoming(client: &TcpStream, netns: &Netns, addresses: &[IpAddr]) {
    let (Ok(to), Ok(from)) = (socket::original_destination(client), socket::peer(client)) else { return };
    let _end = End(client);
    if !addresses.contains(&to.ip()) || addresses.contains(&from.ip()) {
        return;
    }
    let opened = socket::to_application(
        netns,
        from.ip(),
        to,
        Marks::DEFAULT.inbound(),
        &Options::of(Role::ToApplication, Keepalive::default()),
    );
    let Ok(server) = opened.inspect_err(|e| eprintln!("to {to} as {from}: {e}")) else { return };
    let _ = poll(&mut [PollFd::new(server.as_fd(), PollFlags::POLLOUT)], PollTimeout::from(5000_u16));
    if !matches!(socket::pending_error(&server), Ok(None)) || server.set_nonblocking(false).is_err() {
        return;
    }
    thread::scope(|scope| {
        scope.spawn(|| copy(client, &server));
        copy(&server, client);
    });
}

/// Ends a connection of which the tunnel keeps another descriptor.
struct End<'a>(&'a TcpStream);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

// ------------------------------------------------------------------------------------------------------- the test's side

struct Agent(Actor<()>);

impl Agent {
    fn start(bed: &Testbed, drain: Duration) -> Result<Self> {
        Self::start_on(bed, "node-1", drain)
    }

    fn start_on(bed: &Testbed, node: &str, drain: Duration) -> Result<Self> {
        Self::start_as("underpass-agent", bed, node, drain)
    }

    fn start_as(service: &str, bed: &Testbed, node: &str, drain: Duration) -> Result<Self> {
        Self::launch(service, bed, node, drain, limits::MESH)
    }

    fn launch(service: &str, bed: &Testbed, node: &str, drain: Duration, mesh_entries: u32) -> Result<Self> {
        let node = bed.node(node)?;
        let start = Start {
            node: node.spec().name.clone(),
            cgroup_root: node.cgroup().to_owned(),
            bpffs: bed.lab().bpffs().to_owned(),
            drain,
            mesh_entries,
        };
        let mut actor = node.service(service)?.spawn(agent, start)?;
        actor.event::<()>()?;
        Ok(Self(actor))
    }

    fn world(&mut self, facts: &[Fact]) -> Result<()> {
        self.0.tell(&Order::World(facts.to_vec()))?;
        self.0.event()
    }

    fn status(&mut self) -> Result<Status> {
        self.0.tell(&Order::Status)?;
        self.0.event()
    }

    fn look(&mut self) -> Result<Sight> {
        self.0.tell(&Order::Look)?;
        self.0.event()
    }

    /// Waits until the pod stands so; empty: until nothing is known of it.
    fn wait_for(&mut self, pod: &str, state: &str) -> Result<()> {
        let mut before = Status::new();
        wait_until(&format!("{pod} is {state:?}"), || {
            let status = self.status()?;
            if status != before {
                println!("{status:?}");
                before.clone_from(&status);
            }
            let now = status.iter().find(|(name, ..)| name == pod).map_or("", |(_, now, _)| now);
            Ok(now == state)
        })
    }
}

/// Two nodes with two pods each; every pod but the last is in the mesh.
fn facts(bed: &Testbed) -> Vec<Fact> {
    let fact = |pod: &underpass_tests::testbed::Pod| Fact {
        name: pod.spec().full_name(),
        uid: pod.spec().uid.clone(),
        node: pod.spec().node.clone(),
        addresses: pod.spec().addresses.clone(),
        enrolled: pod.spec().name != "b2",
        ended: false,
    };
    bed.pods().map(fact).collect()
}

fn without(facts: &[Fact], name: &str) -> Vec<Fact> {
    let mut facts = facts.to_vec();
    facts.iter_mut().filter(|fact| fact.name == name).for_each(|fact| fact.enrolled = false);
    facts
}

/// node-1's pods are enrolled by an agent, node-2 has none.
fn enrolled(lab: &Lab, drain: Duration) -> Result<(Testbed, Agent, Vec<Fact>)> {
    let mut description = Description::two_nodes(2)?;
    description.pods.iter_mut().filter(|p| p.name == "a2").for_each(|p| p.qos = Qos::Burstable);
    let bed = Testbed::up(lab, &description)?;
    let mut agent = Agent::start(&bed, drain)?;
    let facts = facts(&bed);
    agent.world(&facts)?;
    agent.wait_for("default/a1", "enrolled")?;
    agent.wait_for("default/a2", "enrolled")?;
    Ok((bed, agent, facts))
}

/// The application that answers a connection between two pods.
fn who(bed: &Testbed, from: &str, to: impl Into<SocketAddr>) -> Result<Who> {
    bed.app(from)?.act(dial, Dial::to(to.into()))?.answered()?.who()
}

/// Says hello on an open connection; who answers.
fn hello(sockets: &mut Sockets, id: Id) -> Result<String> {
    sockets.send(id, b"hello\n")??;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        line.extend(sockets.receive(id, 1)??);
    }
    Ok(serde_json::from_slice::<Who>(&line)?.app)
}

fn both(bed: &Testbed, pod: &str) -> Result<[IpAddr; 2]> {
    Ok([bed.pod(pod)?.v4()?, bed.pod(pod)?.v6()?])
}

/// Rules, routes and settings of a pod that are ours; nothing where it is as it was.
fn traces(bed: &Testbed, pod: &str) -> Result<String> {
    let app = bed.app(pod)?;
    let mut found = String::new();
    for family in ["-4", "-6"] {
        found += &app.run("/bin/sh", &["-c", &format!("ip {family} rule | grep 1777; true")])?;
        found += &app.run("/bin/sh", &["-c", &format!("ip {family} route show table 1777 2>/dev/null; true")])?;
    }
    // "connected" is all but listening and closed.
    found += &app.run("ss", &["-tanHO", "state", "connected", "exclude", "time-wait"])?;
    for name in ["ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect"] {
        let value = app.run("cat", &[&format!("/proc/sys/net/{name}")])?;
        if value.trim() != "0" {
            found += &format!("{name} = {value}");
        }
    }
    Ok(found)
}

fn what_leaves_an_enrolled_pod(lab: &Lab) -> Result<()> {
    let (bed, mut agent, _) = enrolled(lab, Duration::ZERO)?;
    let _outside = servers::echo(&bed.app("default/b2")?, "[::]:8080".parse()?)?;
    let _itself = servers::echo(&bed.app("default/a1")?, "[::]:8080".parse()?)?;
    let own = both(&bed, "default/a1")?;
    for (n, own) in own.into_iter().enumerate() {
        for destination in [both(&bed, "default/b1")?[n], both(&bed, "default/a2")?[n]] {
            let to = SocketAddr::new(destination, 8080);
            let talk = bed.app("default/a1")?.act(dial, Dial::to(to))?.answered()?;
            let answer = talk.who()?;
            ensure!((answer.app.as_str(), answer.local, answer.peer.ip()) == ("tunnel", to, own), "{answer:?}");
            ensure!(talk.peer == to && talk.local.ip() == own, "{talk:?}");
        }
        let outside = who(&bed, "default/a1", (both(&bed, "default/b2")?[n], 8080))?;
        ensure!((outside.app.as_str(), outside.peer.ip()) == ("echo", own), "{outside:?}");
        let itself = who(&bed, "default/a1", (own, 8080))?;
        ensure!((itself.app.as_str(), itself.peer.ip()) == ("echo", own), "{itself:?}");
    }
    let IpAddr::V4(v4) = bed.pod("default/b1")?.v4()? else { bail!("IPv4") };
    let mapped = who(&bed, "default/a1", (IpAddr::V6(v4.to_ipv6_mapped()), 8080))?;
    ensure!(mapped.app == "tunnel" && mapped.local == SocketAddr::new(v4.into(), 8080), "{mapped:?}");
    let sight = agent.look()?;
    // Three enrolled pods of two addresses; two pods here, each with two addresses and a link-local one.
    let expected =
        Sight { pods: 2, locals: 6, cgroups: 2, destinations: 6, agents: 1, steered: 2, listeners: 4, ..sight.clone() };
    ensure!(sight == expected, "{sight:?}");
    Ok(())
}

/// Three of the mesh's six addresses have an entry: every destination is captured, in the mesh or not, until there is room again.
fn a_mesh_that_does_not_fit_into_the_kernel(lab: &Lab) -> Result<()> {
    let bed = Testbed::up(lab, &Description::two_nodes(2)?)?;
    let mut agent = Agent::launch("underpass-agent", &bed, "node-1", Duration::ZERO, 4)?;
    let facts = facts(&bed);
    let _outside = servers::echo(&bed.app("default/b2")?, "[::]:8080".parse()?)?;
    let _itself = servers::echo(&bed.app("default/a1")?, "[::]:8080".parse()?)?;
    let answers = |pod: &str| -> Result<Vec<String>> {
        both(&bed, pod)?.into_iter().map(|to| Ok(who(&bed, "default/a1", (to, 8080))?.app)).collect()
    };
    agent.world(&facts)?;
    agent.wait_for("default/a1", "enrolled")?;
    for (pod, expected) in [("b1", "tunnel"), ("a2", "tunnel"), ("b2", "tunnel"), ("a1", "echo")] {
        let found = answers(&format!("default/{pod}"))?;
        ensure!(found.iter().all(|app| app == expected), "{pod}: {found:?}");
    }
    ensure!(agent.look()?.destinations == 4, "{:?}", agent.look()?);

    agent.world(&without(&without(&facts, "default/b1"), "default/a2"))?;
    let found = answers("default/b2")?;
    ensure!(found.iter().all(|app| app == "echo"), "{found:?}");
    ensure!(agent.look()?.destinations == 2, "{:?}", agent.look()?);
    Ok(())
}

fn what_reaches_an_enrolled_pod(lab: &Lab) -> Result<()> {
    let (bed, _agent, _) = enrolled(lab, Duration::ZERO)?;
    let _app = servers::echo(&bed.app("default/a1")?, "[::]:8080".parse()?)?;
    let _speaks = servers::server_first(&bed.app("default/a1")?, "[::]:8081".parse()?)?;
    for (own, client) in both(&bed, "default/a1")?.into_iter().zip(both(&bed, "default/b2")?) {
        for _ in 0..20 {
            let answer = who(&bed, "default/b2", (own, 8080))?;
            ensure!((answer.app.as_str(), answer.peer.ip()) == ("echo", client), "{answer:?}");
            ensure!(answer.local == SocketAddr::new(own, 8080), "{answer:?}");
        }
        let answer = bed.app("default/b2")?.act(dial, Dial::to((own, 8081)).say(""))?.answered()?.who()?;
        ensure!((answer.app.as_str(), answer.peer.ip()) == ("server-first", client), "{answer:?}");
        let unanswered = bed.app("default/b2")?.act(dial, Dial::to((own, 8099)))?;
        ensure!(
            unanswered.clone().answered().is_ok_and(|talk| talk.reply.is_empty()) || unanswered.failed().is_ok(),
            "answered"
        );
    }
    Ok(())
}

fn a_released_pod_is_as_it_was(lab: &Lab) -> Result<()> {
    let mut description = Description::two_nodes(2)?;
    description.pods.retain(|pod| pod.name != "a2");
    let bed = Testbed::up(lab, &description)?;
    let before = traces(&bed, "default/a1")?;
    ensure!(before.is_empty(), "{before}");
    let mut agent = Agent::start(&bed, Duration::ZERO)?;
    let facts = facts(&bed);
    let _echo = servers::echo(&bed.app("default/b1")?, "[::]:8080".parse()?)?;
    let _app = servers::echo(&bed.app("default/a1")?, "[::]:8080".parse()?)?;
    for round in 1..=2 {
        agent.world(&facts)?;
        agent.wait_for("default/a1", "enrolled")?;
        ensure!(traces(&bed, "default/a1")?.contains("1777"), "no rule");
        // Open connections of every kind, in both directions and families.
        let (mut ours, mut theirs) =
            (Sockets::start(&bed.app("default/a1")?)?, Sockets::start(&bed.app("default/b2")?)?);
        let mut open = Vec::new();
        for (there, here) in both(&bed, "default/b1")?.into_iter().zip(both(&bed, "default/a1")?) {
            open.push((true, ours.connect((there, 8080).into())?));
            open.push((false, theirs.connect((here, 8080).into())?));
            if let IpAddr::V4(v4) = there {
                open.push((true, ours.connect((v4.to_ipv6_mapped(), 8080).into())?));
                // One whose mark the application took away.
                let unmarked = ours.connect((v4, 8080).into())?;
                ours.set(unmarked, Opt::Mark(0))??;
                open.push((true, unmarked));
            }
        }
        for (outgoing, id) in open.iter().take(3) {
            let sockets = if *outgoing { &mut ours } else { &mut theirs };
            let expected = if *outgoing { "tunnel" } else { "echo" };
            let app = hello(sockets, *id)?;
            ensure!(app == expected, "{app}");
        }
        agent.world(&without(&facts, "default/a1"))?;
        agent.wait_for("default/a1", "")?;
        for (outgoing, id) in open {
            let sockets = if outgoing { &mut ours } else { &mut theirs };
            let ended = match sockets.send(id, b"x")? {
                Err(e) => Err(e),
                Ok(()) => sockets.read_to_end(id)?.map(drop),
            };
            ensure!(ended.is_err() || !outgoing, "round {round}: a captured connection goes on");
        }
        drop((ours, theirs));
        let left = traces(&bed, "default/a1")?;
        ensure!(left.is_empty(), "{left}");
        let sight = agent.look()?;
        let empty = Sight { pods: 0, locals: 0, cgroups: 0, steered: 0, listeners: 0, ..sight.clone() };
        ensure!(sight == empty && sight.removed.len() == round, "{sight:?}");
        for (there, here) in both(&bed, "default/b1")?.into_iter().zip(both(&bed, "default/a1")?) {
            ensure!(who(&bed, "default/a1", (there, 8080))?.app == "echo", "still captured");
            ensure!(who(&bed, "default/b2", (here, 8080))?.app == "echo", "not reachable");
        }
    }
    agent.0.tell(&Order::Remove)?;
    agent.0.event::<()>()
}

fn release_waits_for_open_connections(lab: &Lab) -> Result<()> {
    let (bed, mut agent, facts) = enrolled(lab, Duration::from_secs(600))?;
    let _echo = servers::echo(&bed.app("default/b1")?, "[::]:8080".parse()?)?;
    let to = SocketAddr::new(bed.pod("default/b1")?.v4()?, 8080);
    let mut sockets = Sockets::start(&bed.app("default/a1")?)?;
    let open = sockets.connect(to)?;
    ensure!(hello(&mut sockets, open)? == "tunnel");
    agent.world(&without(&facts, "default/a1"))?;
    agent.wait_for("default/a1", "releasing")?;
    ensure!(who(&bed, "default/a1", to)?.app == "echo", "new connections are captured");
    sockets.send(open, b"still there?")??;
    ensure!(sockets.receive(open, 12)?? == b"still there?", "the old one is gone");
    // Wanted again: it is captured as before, and nothing was lost.
    agent.world(&facts)?;
    agent.wait_for("default/a1", "enrolled")?;
    ensure!(who(&bed, "default/a1", to)?.app == "tunnel", "not captured again");
    sockets.send(open, b"and now?")??;
    ensure!(sockets.receive(open, 8)?? == b"and now?", "it was lost");
    agent.world(&without(&facts, "default/a1"))?;
    agent.wait_for("default/a1", "releasing")?;
    sockets.close(open)??;
    agent.wait_for("default/a1", "")?;
    ensure!(who(&bed, "default/a1", to)?.app == "echo");
    ensure!(agent.look()?.pods == 1);
    Ok(())
}

fn a_sandbox_that_ends_leaves_nothing(lab: &Lab) -> Result<()> {
    let (mut bed, mut agent, facts) = enrolled(lab, Duration::ZERO)?;
    // The object goes first: what still runs stays captured.
    let gone: Vec<_> = facts.iter().filter(|fact| fact.name != "default/a1").cloned().collect();
    agent.world(&gone)?;
    let to = SocketAddr::new(bed.pod("default/b1")?.v4()?, 8080);
    ensure!(who(&bed, "default/a1", to)?.app == "tunnel", "let go with its object");
    let ended: Vec<_> = facts.iter().cloned().map(|fact| Fact { ended: fact.name == "default/a1", ..fact }).collect();
    agent.world(&ended)?;
    ensure!(who(&bed, "default/a1", to)?.app == "tunnel", "let go when its object ended");
    let mut sockets = Sockets::start(&bed.app("default/a1")?)?;
    sockets.connect(to)?;
    let (device, node) = (bed.pod("default/a1")?.node_device(), bed.node("node-1")?.shell()?);
    drop(sockets);
    bed.remove_pod("default/a1")?;
    // Announced too: only then has what stands for the tunnel let go of the namespace.
    wait_until("the sandbox is purged", || agent.look().map(|sight| sight.pods == 1 && !sight.removed.is_empty()))?;
    // The device goes with the namespace, which lives as long as any process has a socket or a descriptor there.
    wait_until("the namespace is gone", || Ok(!node.run("ip", &["-o", "link"])?.contains(&format!("{device}@"))))?;
    let sight = agent.look()?;
    let left = Sight { pods: 1, locals: 3, cgroups: 1, steered: 1, listeners: 2, ..sight.clone() };
    ensure!(sight == left && sight.removed == ["default/a1"], "{sight:?}");
    Ok(())
}

fn an_impostor_is_not_the_sandbox(lab: &Lab) -> Result<()> {
    let bed = Testbed::up(lab, &Description::two_nodes(2)?)?;
    let addresses = bed.pod("default/a1")?.spec().addresses.clone();
    let mut impostors = Vec::new();
    for unprivileged in [true, false] {
        let impostor = Impostor { addresses: addresses.clone(), unprivileged };
        let mut actor = bed.app("default/a1")?.spawn(attacks::impersonate, impostor)?;
        actor.event::<()>()?;
        impostors.push(actor);
    }
    let mut agent = Agent::start(&bed, Duration::ZERO)?;
    agent.world(&facts(&bed))?;
    agent.wait_for("default/a1", "enrolled")?;
    let answer = who(&bed, "default/a1", (bed.pod("default/b1")?.v4()?, 8080))?;
    ensure!(answer.app == "tunnel", "{answer:?}");
    Ok(())
}

fn secondary_addresses_are_kept_current(lab: &Lab) -> Result<()> {
    let (bed, mut agent, _) = enrolled(lab, Duration::ZERO)?;
    let before = agent.look()?.locals;
    for text in ["10.244.1.77/24", "fd00:10:244:1::77/64"] {
        bed.app("default/a1")?.run("ip", &["addr", "add", text, "dev", "eth0"])?;
    }
    wait_until("new addresses are known", || Ok(agent.look()?.locals == before + 2))?;
    bed.app("default/a1")?.run("ip", &["addr", "del", "10.244.1.77/24", "dev", "eth0"])?;
    wait_until("an address that went is forgotten", || Ok(agent.look()?.locals == before + 1))
}

/// Root in a pod adds what it likes: it takes no room of others, who come and go as before, and is captured as before itself.
fn addresses_without_end_concern_one_pod(lab: &Lab) -> Result<()> {
    let (bed, mut agent, facts) = enrolled(lab, Duration::ZERO)?;
    let others = agent.look()?.locals / 2;
    let add = "for n in $(seq 1 250); do echo addr add 10.77.1.$n/32 dev lo; echo addr add fd77::$n/128 dev lo; done | ip -batch -";
    bed.app("default/a1")?.run("/bin/sh", &["-c", add])?;
    wait_until("as many as are known of one pod", || {
        Ok(agent.look()?.locals == others + limits::POD_ADDRESSES as usize)
    })?;
    let problem = agent.status()?.into_iter().find_map(|(pod, _, problem)| (pod == "default/a1").then_some(problem));
    ensure!(problem.flatten().is_some_and(|problem| problem.contains("addresses in its namespace")), "not named");
    for to in both(&bed, "default/b1")? {
        ensure!(who(&bed, "default/a1", (to, 8080))?.app == "tunnel", "{to}");
    }
    agent.world(&without(&facts, "default/a2"))?;
    agent.wait_for("default/a2", "")?;
    agent.world(&facts)?;
    agent.wait_for("default/a2", "enrolled")
}

fn an_agent_that_comes_back_finds_everything(lab: &Lab) -> Result<()> {
    let (mut bed, agent, facts) = enrolled(lab, Duration::ZERO)?;
    let _app = servers::echo(&bed.app("default/a1")?, "[::]:8080".parse()?)?;
    agent.0.kill()?;
    bed.remove_pod("default/a2")?;
    let mut waiting = Vec::new();
    for to in both(&bed, "default/b1")? {
        let patient = Dial::to((to, 8080)).patience(Duration::from_secs(60));
        waiting.push(bed.app("default/a1")?.begin(dial, patient)?);
    }
    for own in both(&bed, "default/a1")? {
        let failure = bed.app("default/b2")?.act(dial, Dial::to((own, 8080)))?.failed()?;
        ensure!(failure.step == "connect" && !failure.is_timeout(), "inbound without an agent: {failure}");
    }
    let mut agent = Agent::start(&bed, Duration::ZERO)?;
    let sight = agent.look()?;
    ensure!(sight.pods == 2 && sight.destinations == 6, "changed before it knew the World: {sight:?}");
    agent.world(&facts)?;
    agent.wait_for("default/a1", "enrolled")?;
    for waited in waiting {
        let talk = waited.join()?.answered()?;
        ensure!(talk.who()?.app == "tunnel", "{talk:?}");
    }
    for (own, client) in both(&bed, "default/a1")?.into_iter().zip(both(&bed, "default/b2")?) {
        ensure!(who(&bed, "default/b2", (own, 8080))?.peer.ip() == client);
    }
    wait_until("what ended meanwhile is purged", || Ok(agent.look()?.pods == 1))?;
    let sight = agent.look()?;
    let left = Sight { pods: 1, locals: 3, cgroups: 1, agents: 1, steered: 1, listeners: 2, ..sight.clone() };
    ensure!(sight == left, "{sight:?}");
    Ok(())
}

/// A successor changes what it likes while the agent before it stands still; where it dies, that one puts its pods right: the
/// listeners in the kernel are its own again, and a pod that was released is in the mesh.
fn what_a_failed_successor_took_down_is_put_right(lab: &Lab) -> Result<()> {
    let (bed, mut agent, facts) = enrolled(lab, Duration::ZERO)?;
    let _apps = [
        servers::echo(&bed.app("default/a1")?, "[::]:8080".parse()?)?,
        servers::echo(&bed.app("default/b1")?, "[::]:8080".parse()?)?,
    ];
    let before = agent.look()?;
    agent.0.tell(&Order::StandStill)?;
    agent.0.event::<()>()?;
    let mut successor = Agent::start_as("successor", &bed, "node-1", Duration::ZERO)?;
    successor.world(&without(&facts, "default/a1"))?;
    successor.wait_for("default/a2", "enrolled")?;
    wait_until("a1 is released", || Ok(successor.look()?.pods == 1))?;
    ensure!(who(&bed, "default/a1", (bed.pod("default/b1")?.v4()?, 8080))?.app == "echo", "it is in the mesh");
    successor.0.kill()?;

    agent.0.tell(&Order::GoOn)?;
    agent.0.event::<()>()?;
    wait_until("everything is as before", || Ok(agent.look()? == before))?;
    for pod in ["default/a1", "default/a2"] {
        for to in both(&bed, "default/b1")? {
            ensure!(who(&bed, pod, (to, 8080))?.app == "tunnel", "{pod} to {to} leaves in the clear");
        }
    }
    for (own, client) in both(&bed, "default/a1")?.into_iter().zip(both(&bed, "default/b2")?) {
        ensure!(who(&bed, "default/b2", (own, 8080))?.peer.ip() == client);
    }
    Ok(())
}

fn pods_that_left_while_no_agent_ran_are_released(lab: &Lab) -> Result<()> {
    let (bed, agent, facts) = enrolled(lab, Duration::ZERO)?;
    let _echo = servers::echo(&bed.app("default/b1")?, "[::]:8080".parse()?)?;
    agent.0.kill()?;
    let mut agent = Agent::start(&bed, Duration::ZERO)?;
    agent.world(&without(&facts, "default/a1"))?;
    wait_until("a1 is released", || Ok(agent.look()?.pods == 1))?;
    wait_until("nothing of the mesh is left in the pod", || Ok(traces(&bed, "default/a1")?.is_empty()))?;
    ensure!(who(&bed, "default/a1", (bed.pod("default/b1")?.v4()?, 8080))?.app == "echo");
    ensure!(who(&bed, "default/a2", (bed.pod("default/b1")?.v4()?, 8080))?.app == "tunnel");
    Ok(())
}

fn cleanup_needs_no_world(lab: &Lab) -> Result<()> {
    let (bed, agent, _) = enrolled(lab, Duration::ZERO)?;
    let _echo = servers::echo(&bed.app("default/b1")?, "[::]:8080".parse()?)?;
    agent.0.kill()?;
    let mut agent = Agent::start(&bed, Duration::ZERO)?;
    agent.0.tell(&Order::ReleaseAll)?;
    ensure!(agent.0.event::<bool>()?, "not everything was released");
    for pod in ["default/a1", "default/a2"] {
        let left = traces(&bed, pod)?;
        ensure!(left.is_empty(), "{left}");
        ensure!(who(&bed, pod, (bed.pod("default/b1")?.v4()?, 8080))?.app == "echo");
    }
    let sight = agent.look()?;
    ensure!(Sight { destinations: 6, agents: 1, ..Sight::default() } == sight, "{sight:?}");
    agent.0.tell(&Order::Remove)?;
    agent.0.event::<()>()
}

fn sandboxes_are_waited_for(lab: &Lab) -> Result<()> {
    let mut bed = Testbed::up(lab, &Description::two_nodes(1)?)?;
    let mut agent = Agent::start(&bed, Duration::ZERO)?;
    let mut late = underpass_tests::testbed::describe::PodSpec::new(
        "default",
        "late",
        "node-1",
        &["10.244.1.50", "fd00:10:244:1::50"],
    )?;
    late.qos = Qos::Guaranteed;
    let mut facts = facts(&bed);
    facts.push(Fact {
        name: late.full_name(),
        uid: late.uid.clone(),
        node: "node-1".into(),
        addresses: late.addresses.clone(),
        enrolled: true,
        ended: false,
    });
    agent.world(&facts)?;
    let (_, state, problem) = wait_for("the late pod is known", || {
        Ok(agent.status()?.into_iter().find(|(name, ..)| name == "default/late"))
    })?;
    ensure!(state == "waiting" && problem.as_deref().is_some_and(|p| p.starts_with("no cgroup of pod")), "{problem:?}");
    bed.add_pod(&late)?;
    agent.wait_for("default/late", "enrolled")?;
    let answer = who(&bed, "default/late", (bed.pod("default/b1")?.v4()?, 8080))?;
    ensure!(answer.app == "tunnel", "{answer:?}");
    Ok(())
}

/// node-1, in the other scenarios, has those of systemd.
fn cgroups_as_the_cgroupfs_driver_lays_them_out(lab: &Lab) -> Result<()> {
    let mut description = Description::two_nodes(3)?;
    let classes = [("b1", Qos::Guaranteed), ("b2", Qos::Burstable), ("b3", Qos::BestEffort)];
    for pod in &mut description.pods {
        pod.qos = classes.iter().find(|(name, _)| *name == pod.name).map_or(pod.qos, |(_, class)| *class);
    }
    let bed = Testbed::up(lab, &description)?;
    let mut agent = Agent::start_on(&bed, "node-2", Duration::ZERO)?;
    let facts: Vec<_> = facts(&bed).into_iter().map(|fact| Fact { enrolled: true, ..fact }).collect();
    agent.world(&facts)?;
    for pod in ["default/b1", "default/b2", "default/b3"] {
        agent.wait_for(pod, "enrolled")?;
        ensure!(who(&bed, pod, (bed.pod("default/a1")?.v6()?, 8080))?.app == "tunnel", "{pod} is not captured");
    }
    Ok(())
}

/// Not a bound, but a look: entering a namespace for a socket must not cost what a connection costs.
fn what_it_costs(lab: &Lab) -> Result<()> {
    let (bed, mut agent, _) = enrolled(lab, Duration::ZERO)?;
    let _app = servers::echo(&bed.app("default/a1")?, "[::]:8080".parse()?)?;
    agent.0.tell(&Order::Measure("default/a1".into(), (bed.pod("default/a1")?.v4()?, 8080).into()))?;
    let [enter, connect] = agent.0.event::<[f64; 2]>()?;
    println!("entering {enter:.1} us, a connection to the application {connect:.1} us");
    ensure!(enter < connect, "entering costs more than the connection it is for");
    Ok(())
}
