//! The testbed's own tests: its nodes and pods are there, its measurements are true, and nothing is left of it. Level
//! kernel: needs root, and no mesh.

#[path = "testbed/remains.rs"]
mod remains;
#[path = "support/victim.rs"]
mod victim;

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use underpass_tests::{
    apps::{
        attacks::{self, Impostor},
        foreign::Rewriter,
        http, pattern,
        raw::{self, Dress, Syn},
        remote::Sockets,
        servers::{self, Ping},
        socket::{self, Dial, Opt},
        vip,
    },
    testbed::{
        Capture, Description, Exit, Lab, Program, Testbed,
        cgroup::Qos,
        describe::PodSpec,
        harness::{self, Scenario},
        link, netns,
        packet::Segment,
        wait::wait_until,
    },
};

use remains::{
    interrupt_ends_and_cleans_up, late_scenario_is_stopped, nothing_is_left_of_a_killed_runner,
    nothing_is_left_of_a_killed_scenario, victim, without_root_it_fails_and_says_so,
};
use victim::{MODE, VICTIM};

fn main() -> ExitCode {
    if std::env::var(MODE).as_deref() == Ok("alone") {
        return harness::main_of(Scenario::new(VICTIM, victim));
    }
    harness::main(&[
        Scenario::new("pods_talk_within_and_across_nodes", pods_talk_within_and_across_nodes),
        Scenario::new("testbed_of_sixteen_pods_is_up_soon", testbed_of_sixteen_pods_is_up_soon),
        Scenario::new("delay_of_the_link_is_seen", delay_of_the_link_is_seen),
        Scenario::new("link_is_cut_and_loses_frames", link_is_cut_and_loses_frames),
        Scenario::new("capture_sees_plaintext", capture_sees_plaintext),
        Scenario::new("cgroups_are_laid_out_as_the_kubelet_does", cgroups_are_laid_out_as_the_kubelet_does),
        Scenario::new("sandbox_is_the_oldest_process", sandbox_is_the_oldest_process),
        Scenario::new("pods_come_and_go", pods_come_and_go),
        Scenario::new("names_resolve_in_pods", names_resolve_in_pods),
        Scenario::new("closing_is_seen_by_the_other_end", closing_is_seen_by_the_other_end),
        Scenario::new("bulk_arrives_over_the_carried_link", bulk_arrives_over_the_carried_link),
        Scenario::new("odd_sockets_do_what_they_say", odd_sockets_do_what_they_say),
        Scenario::new("raw_syns_arrive", raw_syns_arrive),
        Scenario::new("attackers_are_able", attackers_are_able),
        Scenario::new("foreign_program_rewrites", foreign_program_rewrites),
        Scenario::new("programs_are_started_killed_and_logged", programs_are_started_killed_and_logged),
        Scenario::new("actors_fail_and_are_killed", actors_fail_and_are_killed),
        Scenario::outside("nothing_is_left_of_a_killed_scenario", nothing_is_left_of_a_killed_scenario),
        Scenario::outside("nothing_is_left_of_a_killed_runner", nothing_is_left_of_a_killed_runner),
        Scenario::outside("interrupt_ends_and_cleans_up", interrupt_ends_and_cleans_up),
        Scenario::outside("late_scenario_is_stopped", late_scenario_is_stopped),
        Scenario::outside("without_root_it_fails_and_says_so", without_root_it_fails_and_says_so),
        Scenario::new(VICTIM, victim).hidden(),
    ])
}

fn any(port: u16) -> Result<SocketAddr> {
    Ok(format!("[::]:{port}").parse()?)
}

fn pods_talk_within_and_across_nodes(lab: &Lab) -> Result<()> {
    let bed = Testbed::up(lab, &Description::two_nodes(2)?)?;
    let mut servers = Vec::new();
    for pod in ["default/a2", "default/b1"] {
        servers.push(servers::echo(&bed.app(pod)?, any(8080)?)?);
        servers.push(servers::udp_echo(&bed.app(pod)?, any(8081)?)?);
    }
    let (client, app) = (bed.pod("default/a1")?, bed.app("default/a1")?);
    for server in ["default/a2", "default/b1"] {
        for ipv4 in [true, false] {
            let to = bed.pod(server)?.address(ipv4)?;
            let talk =
                app.act(socket::dial, Dial::to((to, 8080)))?.answered().with_context(|| format!("{server} {to}"))?;
            let who = talk.who()?;
            ensure!(who.peer == talk.local && who.peer.ip() == client.address(ipv4)?, "{who:?} {talk:?}");
            ensure!(who.local == talk.peer && who.local == SocketAddr::new(to, 8080), "{who:?} {talk:?}");
            let pong = app.act(servers::udp_ask, Ping { to: (to, 8081).into(), say: "ping".into() })?;
            ensure!(pong == "ping", "{pong}");
        }
    }
    let mapped: SocketAddr = format!("[::ffff:{}]:8080", bed.pod("default/b1")?.v4()?).parse()?;
    let who = app.act(socket::dial, Dial::to(mapped))?.answered()?.who()?;
    ensure!(who.peer.ip() == client.v4()?, "{who:?}");
    // A node reaches its pods, as the kubelet must.
    let probe = Dial::to((bed.pod("default/a2")?.v4()?, 8080));
    ensure!(bed.node("node-1")?.kubelet()?.act(socket::dial, probe)?.answered()?.who()?.app == "echo");
    let refused = app.act(socket::dial, Dial::to((bed.pod("default/b1")?.v6()?, 1)))?.failed()?;
    ensure!(refused.errno == libc::ECONNREFUSED, "{refused}");
    Ok(())
}

fn testbed_of_sixteen_pods_is_up_soon(lab: &Lab) -> Result<()> {
    let started = Instant::now();
    let bed = Testbed::up(lab, &Description::two_nodes(8)?)?;
    println!("2 nodes, {} pods: {:?}", bed.pods().count(), started.elapsed());
    // Ready means ready: the very first packet of every pod arrives, in both families.
    let _server = servers::echo(&bed.app("default/b8")?, any(80)?)?;
    for pod in bed.pods() {
        for ipv4 in [true, false] {
            let dial = Dial::to((bed.pod("default/b8")?.address(ipv4)?, 80)).with(Opt::SynRetries(1));
            pod.app()?.act(socket::dial, dial)?.answered().with_context(|| pod.spec().full_name())?;
        }
    }
    Ok(())
}

/// The duration of connect() from a1 to b1.
fn connect_time(bed: &Testbed) -> Result<Duration> {
    let dial = Dial::to((bed.pod("default/b1")?.v4()?, 8080));
    Ok(bed.app("default/a1")?.act(socket::dial, dial)?.answered()?.connected_after)
}

fn delay_of_the_link_is_seen(lab: &Lab) -> Result<()> {
    let bed = Testbed::up(lab, &Description::two_nodes(1)?)?;
    let _server = servers::echo(&bed.app("default/b1")?, any(8080)?)?;
    let bare = connect_time(&bed)?;
    bed.fabric().delay(Duration::from_millis(150))?;
    let delayed = connect_time(&bed)?;
    ensure!(delayed >= Duration::from_millis(300), "a round trip of 300 ms took {delayed:?}");
    bed.fabric().heal()?;
    let healed = connect_time(&bed)?;
    ensure!(healed < delayed && bare < delayed, "bare {bare:?}, delayed {delayed:?}, healed {healed:?}");
    // One direction alone.
    let path = link::Path { delay: Duration::from_millis(200), ..link::Path::default() };
    bed.fabric().set("node-2", "node-1", path)?;
    let one_way = connect_time(&bed)?;
    ensure!(one_way >= Duration::from_millis(200), "200 ms one way took {one_way:?}");
    Ok(())
}

fn link_is_cut_and_loses_frames(lab: &Lab) -> Result<()> {
    let bed = Testbed::up(lab, &Description::two_nodes(2)?)?;
    let _servers =
        [servers::echo(&bed.app("default/b1")?, any(8080)?)?, servers::echo(&bed.app("default/a2")?, any(8080)?)?];
    bed.fabric().cut()?;
    let dial = Dial::to((bed.pod("default/b1")?.v6()?, 8080)).patience(Duration::from_millis(300));
    let failure = bed.app("default/a1")?.act(socket::dial, dial)?.failed()?;
    ensure!(failure.is_timeout(), "{failure}");
    let near = Dial::to((bed.pod("default/a2")?.v6()?, 8080));
    bed.app("default/a1")?.act(socket::dial, near)?.answered().context("within the node")?;
    bed.fabric().heal()?;
    connect_time(&bed)?;
    // TCP repairs what is lost.
    bed.fabric().shape(|path| path.lose_every = 50)?;
    transfer(&bed, 2 << 20)
}

/// Sends the pattern from a1 to b1, checked there.
fn transfer(bed: &Testbed, length: u64) -> Result<()> {
    let to = SocketAddr::new(bed.pod("default/b1")?.v4()?, 9000);
    let (mut sender, mut receiver) =
        (Sockets::start(&bed.app("default/a1")?)?, Sockets::start(&bed.app("default/b1")?)?);
    let listener = receiver.listen(any(9000)?)?;
    let out = sender.connect(to)?;
    let (inn, _) = receiver.accept(listener)?;
    sender.set_patience(out, Duration::from_secs(60))??;
    receiver.set_patience(inn, Duration::from_secs(60))??;
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| sender.send_pattern(out, length));
        receiver.receive_pattern(inn, length, 256 << 10, Duration::ZERO)??;
        sending.join().map_err(|_| anyhow::anyhow!("panicked"))???;
        Ok(())
    })
}

fn bulk_arrives_over_the_carried_link(lab: &Lab) -> Result<()> {
    let bed = Testbed::up(lab, &Description::two_nodes(1)?)?;
    const LENGTH: u64 = 256 << 20;
    let started = Instant::now();
    transfer(&bed, LENGTH).context("by the bridge")?;
    let bridge = started.elapsed();
    bed.fabric().delay(Duration::from_millis(1))?;
    transfer(&bed, LENGTH).context("carried")?;
    println!("256 MiB: {bridge:?} by the bridge, {:?} carried", started.elapsed() - bridge);
    Ok(())
}

fn capture_sees_plaintext(lab: &Lab) -> Result<()> {
    const SECRET: &str = "in plain sight";
    let bed = Testbed::up(lab, &Description::two_nodes(2)?)?;
    let _servers =
        [servers::echo(&bed.app("default/b1")?, any(8080)?)?, servers::echo(&bed.app("default/a2")?, any(8080)?)?];
    let wire = bed.capture_wire("node-1")?;
    let pod = Capture::start(&bed.app("default/b1")?, "eth0")?;
    let dial = |to: IpAddr| Dial::to((to, 8080)).say(SECRET);
    let app = bed.app("default/a1")?;
    app.act(socket::dial, dial(bed.pod("default/a2")?.v4()?))?.answered()?;
    ensure!(!wire.contains(SECRET.as_bytes())?, "traffic within a node was on the wire");
    app.act(socket::dial, dial(bed.pod("default/b1")?.v6()?))?.answered()?;
    for (name, capture) in [("wire", &wire), ("pod", &pod)] {
        ensure!(capture.contains(SECRET.as_bytes())?, "not seen on the {name}");
        let opened = capture.count(|s| s.is_opening() && s.destination.port() == 8080)?;
        ensure!(opened == 1, "{opened} SYNs on the {name}");
        capture.wait_for("the payload", |s| s.payload == SECRET.as_bytes())?;
    }
    ensure!(pod.frames()?.iter().any(|f| f.outgoing) && pod.frames()?.iter().any(|f| !f.outgoing));
    // A needle is found across segments, and after a change to the carried link.
    wire.clear()?;
    bed.fabric().delay(Duration::ZERO)?;
    let (mut client, mut server) = (Sockets::start(&app)?, Sockets::start(&bed.app("default/b1")?)?);
    let listener = server.listen(any(9000)?)?;
    let id = client.connect((bed.pod("default/b1")?.v4()?, 9000).into())?;
    let (accepted, _) = server.accept(listener)?;
    client.send_byte_by_byte(id, SECRET.as_bytes())??;
    ensure!(server.receive(accepted, SECRET.len())?? == SECRET.as_bytes());
    ensure!(wire.contains(SECRET.as_bytes())?, "not seen across segments");
    let file = lab.directory().join("wire.pcap");
    wire.write_pcap(&file)?;
    let frames = wire.frames()?;
    let expected = 24 + frames.iter().map(|f| 16 + f.bytes.len()).sum::<usize>();
    let written = fs::read(&file)?;
    ensure!(written.len() >= expected && written.starts_with(&[0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0]), "{written:x?}");
    Ok(())
}

fn cgroups_are_laid_out_as_the_kubelet_does(lab: &Lab) -> Result<()> {
    let mut description = Description::two_nodes(3)?;
    for (n, pod) in description.pods.iter_mut().enumerate() {
        pod.qos = [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort][n % 3];
    }
    let bed = Testbed::up(lab, &description)?;
    for pod in bed.pods() {
        let node = bed.node(&pod.spec().node)?;
        let (uid, slice_uid) = (&pod.spec().uid, pod.spec().uid.replace('-', "_"));
        let expected = match (pod.spec().node.as_str(), pod.spec().qos) {
            ("node-1", Qos::Guaranteed) => format!("kubepods.slice/kubepods-pod{slice_uid}.slice"),
            ("node-1", Qos::Burstable) => {
                format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice_uid}.slice")
            }
            ("node-1", Qos::BestEffort) => {
                format!("kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{slice_uid}.slice")
            }
            (_, Qos::Guaranteed) => format!("kubepods/pod{uid}"),
            (_, Qos::Burstable) => format!("kubepods/burstable/pod{uid}"),
            (_, Qos::BestEffort) => format!("kubepods/besteffort/pod{uid}"),
        };
        ensure!(pod.cgroup() == node.cgroup().join(&expected), "{} is not {expected}", pod.cgroup().display());
        let mut sockets = Vec::new();
        for container in ["app", "helper"] {
            let site = pod.container(container)?;
            sockets.push(Sockets::start(&site)?);
            let name = site.cgroup().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
            let id = name.strip_prefix("cri-containerd-").and_then(|n| n.strip_suffix(".scope"));
            let id = if pod.spec().node == "node-1" { id.context("a scope")? } else { &name };
            ensure!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
        }
        // One process each: the sandbox and two containers, seen by the scenario's own pids.
        let containers: Vec<_> = fs::read_dir(pod.cgroup())?.flatten().filter(|e| e.path().is_dir()).collect();
        ensure!(containers.len() == 3, "{containers:?}");
        for container in containers {
            let processes = fs::read_to_string(container.path().join("cgroup.procs"))?;
            ensure!(processes.lines().count() == 1, "{}: {processes:?}", container.path().display());
        }
    }
    let shown = fs::read_to_string(format!("/proc/{}/cgroup", bed.pod("default/a1")?.sandbox_pid()))?;
    ensure!(shown.contains("/node-1/kubepods.slice/"), "{shown}");
    Ok(())
}

fn sandbox_is_the_oldest_process(lab: &Lab) -> Result<()> {
    let bed = Testbed::up(lab, &Description::two_nodes(1)?)?;
    let pod = bed.pod("default/a1")?;
    let actor = pod.app()?.spawn(|(): (), io| io.wait_for_end(), ())?;
    let start = |pid: i32| -> Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let after_name = stat.rsplit_once(')').context("a name")?.1;
        Ok(after_name.split_whitespace().nth(19).context("22 fields")?.parse()?)
    };
    ensure!(start(pod.sandbox_pid())? <= start(actor.pid())? && pod.sandbox_pid() < actor.pid());
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/net"));
    ensure!(namespace(pod.sandbox_pid())? == namespace(actor.pid())?);
    ensure!(namespace(pod.sandbox_pid())? != namespace(std::process::id() as i32)?);
    ensure!(fs::read_to_string(format!("/proc/{}/comm", pod.sandbox_pid()))?.trim() == "pause");
    // The PID namespace is the scenario's: its init is process 1, and little else is there.
    ensure!(fs::metadata("/proc/1")?.is_dir() && std::process::id() == 2, "pid {}", std::process::id());
    Ok(())
}

fn pods_come_and_go(lab: &Lab) -> Result<()> {
    let mut bed = Testbed::up(lab, &Description::two_nodes(1)?)?;
    let _server = servers::echo(&bed.app("default/b1")?, any(8080)?)?;
    let to = bed.pod("default/b1")?.v6()?;
    let spec = PodSpec::new("late", "comer", "node-1", &["10.244.1.77", "fd00:10:244:1::77"])?;
    let cgroup = bed.add_pod(&spec)?.cgroup().to_owned();
    let who = bed.app("late/comer")?.act(socket::dial, Dial::to((to, 8080)))?.answered()?.who()?;
    ensure!(who.peer.ip() == "fd00:10:244:1::77".parse::<IpAddr>()?, "{who:?}");
    ensure!(bed.add_pod(&spec).is_err(), "the same pod twice");
    bed.remove_pod("late/comer")?;
    ensure!(!cgroup.exists() && bed.pod("late/comer").is_err());
    // Its address is free again once the kernel has taken the namespace apart.
    let shell = bed.node("node-1")?.shell()?;
    wait_until("the device of the deleted pod to go", || Ok(!shell.run("ip", &["-o", "link"])?.contains(" v2@")))?;
    bed.add_pod(&spec)?;
    bed.app("late/comer")?.act(socket::dial, Dial::to((to, 8080)))?.answered()?;
    // A pod on the host's network has the node's addresses.
    let host = PodSpec { host_network: true, ..PodSpec::new("late", "host", "node-1", &["172.30.0.1"])? };
    bed.add_pod(&host)?;
    let who =
        bed.app("late/host")?.act(socket::dial, Dial::to((bed.pod("default/b1")?.v4()?, 8080)))?.answered()?.who()?;
    ensure!(who.peer.ip() == "172.30.0.1".parse::<IpAddr>()?, "{who:?}");
    Ok(())
}

fn names_resolve_in_pods(lab: &Lab) -> Result<()> {
    let backends: Vec<SocketAddr> = vec!["10.244.2.11:9080".parse()?, "[fd00:10:244:2::11]:9080".parse()?];
    let ratings: Vec<SocketAddr> = vec!["10.244.1.12:9080".parse()?];
    let description = Description::two_nodes(2)?
        .service("default/reviews", &["10.96.0.10", "fd96::10"], 80, &backends)?
        .service("other/ratings", &["10.96.0.11"], 9080, &ratings)?;
    let mut bed = Testbed::up(lab, &description)?;
    let service = |name: &str, calls: &[&str]| http::Service {
        name: name.into(),
        version: "v1".into(),
        address: SocketAddr::from(([0; 16], 9080)),
        calls: calls.iter().map(|&c| c.into()).collect(),
    };
    let _reviews = http::start(&bed.app("default/b1")?, service("reviews", &["http://ratings.other:9080/ratings/0"]))?;
    let _ratings = http::start(&bed.app("default/a2")?, service("ratings", &[]))?;
    let _proxies = bed.nodes().iter().map(|n| vip::start(n, bed.services())).collect::<Result<Vec<_>>>()?;
    let client = bed.app("default/a1")?;
    for name in ["reviews", "reviews.default", "reviews.default.svc", "reviews.default.svc.cluster.local"] {
        let answer = client.act(http::fetch, format!("http://{name}/reviews/0"))?;
        ensure!(
            answer.contains("\"service\": \"reviews\"") && answer.contains("\"service\": \"ratings\""),
            "{name}: {answer}"
        );
    }
    let unknown = client.act(http::fetch, "http://unknown.default/".to_owned());
    ensure!(unknown.is_err_and(|e| format!("{e:#}").contains("resolve")), "an unknown name resolves");
    bed.set_services(&[])?;
    let gone = client.act(http::fetch, "http://reviews/".to_owned());
    ensure!(gone.is_err_and(|e| format!("{e:#}").contains("resolve")), "a removed service resolves");
    Ok(())
}

fn closing_is_seen_by_the_other_end(lab: &Lab) -> Result<()> {
    let bed = Testbed::up(lab, &Description::two_nodes(1)?)?;
    let (mut client, mut server) = (Sockets::start(&bed.app("default/a1")?)?, Sockets::start(&bed.app("default/b1")?)?);
    let listener = server.listen(any(9000)?)?;
    let to = SocketAddr::new(bed.pod("default/b1")?.v4()?, 9000);
    let pair = |client: &mut Sockets, server: &mut Sockets| -> Result<_> {
        let id = client.connect(to)?;
        let (accepted, peer) = server.accept(listener)?;
        ensure!(peer.ip() == bed.pod("default/a1")?.v4()?);
        Ok((id, accepted))
    };
    // Half-close, both ways: what is read after the own FIN still comes.
    let (c, s) = pair(&mut client, &mut server)?;
    client.send(c, b"question")??;
    client.shutdown_write(c)??;
    ensure!(server.read_to_end(s)?? == b"question");
    server.send(s, b"answer")??;
    server.close(s)??;
    ensure!(client.read_to_end(c)?? == b"answer");
    let (c, s) = pair(&mut client, &mut server)?;
    server.shutdown_write(s)??;
    ensure!(client.read_to_end(c)??.is_empty());
    client.send(c, b"later")??;
    client.close(c)??;
    ensure!(server.read_to_end(s)?? == b"later");
    // RST, both ways.
    let (c, s) = pair(&mut client, &mut server)?;
    client.reset(c)??;
    let failure = server.read_to_end(s)?.err().context("no error")?;
    ensure!(failure.errno == libc::ECONNRESET, "{failure}");
    let (c, s) = pair(&mut client, &mut server)?;
    server.reset(s)??;
    let failure = client.receive(c, 1)?.err().context("no error")?;
    ensure!(failure.errno == libc::ECONNRESET, "{failure}");
    // A reader that has stalled stops the writer, and nothing is lost.
    let (c, s) = pair(&mut client, &mut server)?;
    let written = client.fill(c)??;
    ensure!(written > 0 && written < 64 << 20, "{written} bytes between two ends");
    client.shutdown_write(c)??;
    server.receive_pattern(s, written, 10_000, Duration::ZERO)??;
    ensure!(pattern::at(written, 1).len() == 1 && server.read_to_end(s)??.is_empty());
    Ok(())
}

fn odd_sockets_do_what_they_say(lab: &Lab) -> Result<()> {
    let bed = Testbed::up(lab, &Description::two_nodes(1)?)?;
    let (app, to) = (bed.app("default/a1")?, SocketAddr::new(bed.pod("default/b1")?.v4()?, 8080));
    let _server = servers::echo(&bed.app("default/b1")?, any(8080)?)?;
    let _first = servers::server_first(&bed.app("default/b1")?, any(8081)?)?;
    let own = bed.pod("default/a1")?.v4()?;
    let marked = app.act(socket::dial, Dial::to(to).with(Opt::Mark(0x0500_0001)))?.answered()?;
    ensure!(marked.mark == 0x0500_0001, "{marked:?}");
    for dial in [
        Dial::to(to).with(Opt::Device("eth0".into())),
        Dial::to(to).with(Opt::FastOpen),
        Dial::to(to).from_ip(own),
        Dial::to(to).with(Opt::ReusePort).from_address((own, 4567).into()),
        Dial::to((to.ip(), 8081)).say(""),
    ] {
        let talk = app.act(socket::dial, dial.clone())?.answered().with_context(|| format!("{dial:?}"))?;
        ensure!(talk.who()?.peer.ip() == own, "{dial:?}: {talk:?}");
        let port = dial.from.map_or(0, |f| f.port());
        ensure!(port == 0 || talk.local.port() == port, "{dial:?}: {talk:?}");
    }
    let loopback = Dial::to(to).from_ip("127.0.0.1".parse()?).patience(Duration::from_millis(300));
    let failure = app.act(socket::dial, loopback)?.failed()?;
    ensure!(failure.step == "connect", "{failure}");
    let spoofed = Dial::to(to).with(Opt::Transparent).from_ip("8.8.8.8".parse()?).patience(Duration::from_millis(300));
    let wire = bed.capture_wire("node-1")?;
    let failure = app.act(socket::dial, spoofed)?.failed()?;
    ensure!(failure.is_timeout(), "{failure}");
    ensure!(wire.count(|s| s.source.ip() == "8.8.8.8".parse::<IpAddr>().ok().unwrap_or(own))? > 0, "no spoofed SYN");
    // MPTCP may not be in this kernel; if it is, it connects.
    match app.act(socket::dial, Dial::to(to).mptcp())? {
        socket::Dialed::Answered(talk) => ensure!(talk.who()?.peer.ip() == own, "{talk:?}"),
        socket::Dialed::Failed(failure) => ensure!(failure.step == "socket", "{failure}"),
    }
    // Wide enough for every form of an application's SYN under SYN cookies.
    bed.app("default/b1")?.act(|(): ()| netns::set("ipv4/tcp_syncookies", "2"), ())?;
    app.act(socket::dial, Dial::to(to))?.answered().context("under SYN cookies")?;
    Ok(())
}

fn raw_syns_arrive(lab: &Lab) -> Result<()> {
    let bed = Testbed::up(lab, &Description::two_nodes(1)?)?;
    let (a, b) = (bed.pod("default/a1")?, bed.pod("default/b1")?);
    let at_b = Capture::start(&b.app()?, "eth0")?;
    // Whether the flags are in the first packet, and whether what arrives is a segment at last.
    let dresses = [
        (true, Dress::Whole, true, true),
        (true, Dress::KernelHeader, true, true),
        (true, Dress::Connected, true, true),
        (true, Dress::Fragments, false, true),
        (true, Dress::FragmentedData, true, true),
        (false, Dress::Whole, true, true),
        (false, Dress::Fragments, false, false),
        (false, Dress::FragmentedData, true, true),
        (false, Dress::Options, true, true),
        (false, Dress::ManyOptions, true, true),
        (false, Dress::FragmentedOptions, false, false),
    ];
    for (n, (ipv4, dress, has_flags, is_whole)) in dresses.into_iter().enumerate() {
        let port = 7000 + n as u16;
        at_b.clear()?;
        let syn = Syn { from: (a.address(ipv4)?, 5555).into(), to: (b.address(ipv4)?, port).into(), dress };
        let sent = a.app()?.act(raw::send_syn, syn)?;
        ensure!(!sent.is_empty() && sent.iter().all(|errno| *errno == 0), "{dress:?}: {sent:?}");
        if is_whole {
            // It is answered: the kernel there put it together, and no application listens.
            let answered = |s: &Segment<'_>| s.is_reset() && s.source.port() == port;
            at_b.wait_for(&format!("the RST for {dress:?}"), answered)?;
        } else {
            const NEXT_HEADER_FRAGMENT: Option<&u8> = Some(&44);
            wait_until(&format!("both packets of {dress:?}"), || {
                Ok(at_b.frames()?.iter().filter(|f| f.bytes.get(20) == NEXT_HEADER_FRAGMENT).count() == 2)
            })?;
        }
        let seen = at_b.count(|s| s.is_opening() && s.destination.port() == port)?;
        ensure!((seen == 1) == has_flags, "{dress:?}: {seen} SYNs with flags");
    }
    let IpAddr::V4(to) = b.v4()? else { bail!("IPv4") };
    ensure!(a.app()?.act(raw::ping, to)?, "no echo");
    Ok(())
}

fn attackers_are_able(lab: &Lab) -> Result<()> {
    let bed = Testbed::up(lab, &Description::two_nodes(1)?)?;
    let app = bed.app("default/a1")?;
    let mut owner = Sockets::start(&app)?;
    owner.try_listen(any(8090)?, &[Opt::ReusePort])??;
    owner.listen(any(8091)?)?;
    ensure!(app.act(attacks::listening_ports, ())? == [8090, 8091]);
    ensure!(app.act(attacks::join_listener, any(8090)?)?.is_none(), "a shared port can be joined");
    let refused = app.act(attacks::join_listener, any(8091)?)?.context("joined a port of its own")?;
    ensure!(refused.errno == libc::EADDRINUSE, "{refused}");
    netns::configure(
        &app,
        &["rule add pref 50 fwmark 1/1 lookup 1777".into(), "route add local 0.0.0.0/0 dev lo table 1777".into()],
    )?;
    ensure!(app.run("ip", &["rule"])?.contains("1777"));
    app.act(attacks::flush_rules_and_routes, 1777)?;
    ensure!(
        !app.run("ip", &["rule"])?.contains("1777") && app.run("ip", &["route", "show", "table", "1777"])?.is_empty()
    );
    connect_refused(&bed)?; // the pod still reaches others
    for unprivileged in [false, true] {
        let addresses = bed.pod("default/a1")?.spec().addresses.clone();
        let mut impostor = app.spawn(attacks::impersonate, Impostor { addresses, unprivileged })?;
        impostor.event::<()>().with_context(|| format!("unprivileged: {unprivileged}"))?;
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/net"));
        ensure!(namespace(impostor.pid())? != namespace(bed.pod("default/a1")?.sandbox_pid())?);
    }
    Ok(())
}

fn connect_refused(bed: &Testbed) -> Result<()> {
    let closed = Dial::to((bed.pod("default/b1")?.v4()?, 1));
    let failure = bed.app("default/a1")?.act(socket::dial, closed)?.failed()?;
    ensure!(failure.errno == libc::ECONNREFUSED, "{failure}");
    Ok(())
}

fn foreign_program_rewrites(lab: &Lab) -> Result<()> {
    let bed = Testbed::up(lab, &Description::two_nodes(1)?)?;
    let _server = servers::echo(&bed.app("default/b1")?, any(8080)?)?;
    let (app, elsewhere) = (bed.app("default/a1")?, Dial::to(([10, 99, 9, 9], 1)).patience(Duration::from_millis(500)));
    let failure = app.act(socket::dial, elsewhere.clone())?.failed()?;
    ensure!(failure.step == "connect", "{failure}");
    let IpAddr::V4(to) = bed.pod("default/b1")?.v4()? else { bail!("IPv4") };
    let rewriter =
        Rewriter::attach(bed.node("node-1")?.cgroup(), [10, 99, 9, 9].into(), (to.to_string() + ":8080").parse()?)?;
    ensure!(app.act(socket::dial, elsewhere.clone())?.answered()?.who()?.app == "echo");
    drop(rewriter);
    ensure!(app.act(socket::dial, elsewhere)?.failed().is_ok());
    Ok(())
}

fn programs_are_started_killed_and_logged(lab: &Lab) -> Result<()> {
    let bed = Testbed::up(lab, &Description::two_nodes(1)?)?;
    let site = bed.node("node-1")?.service("underpass-agent")?;
    let shell = |script: &str| Program::new("/bin/sh").arg("-c").arg(script).named("shell");
    let mut agent = site.start(&shell("echo ready >&2; ip -o addr; cat /proc/self/cgroup; exec sleep 1000"))?;
    agent.wait_for_log("ready")?;
    let line = agent.wait_for_log("0::/")?;
    ensure!(line.ends_with("/node-1/system.slice/underpass-agent.service"), "{line}");
    ensure!(agent.log()?.contains("172.30.0.1") && agent.ended()?.is_none(), "{}", agent.log()?);
    ensure!(Path::new(&format!("/proc/{}", agent.pid())).exists());
    ensure!(agent.kill()? == Exit::Signal(9));
    let polite = site.start(&shell("exec sleep 1000"))?;
    ensure!(polite.log_path().ends_with("shell.1.log"), "{}", polite.log_path().display());
    ensure!(polite.terminate()? == Exit::Signal(15));
    let mut short = site.start(&shell("echo bye; exit 7"))?;
    ensure!(short.wait()? == Exit::Code(7));
    let error = short.wait_for_log("ready").err().context("it never wrote that")?.to_string();
    ensure!(error.contains("exit code 7") && error.contains("bye"), "{error}");
    let absent = site.start(&Program::new("/no/such/program")).err().context("it does not exist")?;
    ensure!(format!("{absent:#}").contains("No such file"), "{absent:#}");
    // Its own bpffs, and no other scenario's.
    // (The kernel may put iterators of its own there: maps.debug, progs.debug.)
    let pins = fs::read_dir(lab.bpffs())?.flatten().filter(|e| !e.file_name().to_string_lossy().ends_with(".debug"));
    ensure!(pins.count() == 0);
    ensure!(fs::read_to_string("/proc/self/mounts")?.contains(&format!("{} bpf ", lab.bpffs().display())));
    // The applications are a program, too.
    let testapp = Program::new(env!("CARGO_BIN_EXE_underpass-testapp"));
    let _echo = bed.app("default/a1")?.start(&testapp.clone().args(["echo", "[::]:8080", "program"]))?;
    let dial = || bed.app("default/a1")?.act(socket::dial, Dial::to(([127, 0, 0, 1], 8080)));
    wait_until("the program to listen", || Ok(matches!(dial()?, socket::Dialed::Answered(_))))?;
    ensure!(dial()?.answered()?.who()?.app == "program");
    Ok(())
}

fn actors_fail_and_are_killed(lab: &Lab) -> Result<()> {
    let here = lab.here();
    let error = here.act(|(): ()| -> Result<()> { bail!("on purpose") }, ()).err().context("it failed")?;
    ensure!(error.to_string() == "on purpose", "{error}");
    let error = here.act(|(): ()| -> Result<()> { panic!("on purpose") }, ()).err().context("it panicked")?;
    ensure!(error.to_string().contains("panicked"), "{error}");
    let mut talking = here.spawn(
        |start: u64, io| -> Result<u64> {
            io.send(&(start + 1))?;
            Ok(io.receive::<u64>()?.context("a number")? * 2)
        },
        1,
    )?;
    ensure!(talking.event::<u64>()? == 2);
    talking.tell(&21_u64)?;
    ensure!(talking.join()? == 42);
    let waiting = here.spawn(|(): (), io| io.wait_for_end(), ())?;
    let path = format!("/proc/{}", waiting.pid());
    ensure!(Path::new(&path).exists());
    drop(waiting);
    ensure!(!Path::new(&path).exists(), "an actor outlives its handle");
    let mut dies = here.spawn(|(): (), _| -> Result<()> { Ok(nix::sys::signal::raise(Signal::SIGKILL)?) }, ())?;
    let error = dies.event::<()>().err().context("it died")?.to_string();
    ensure!(error.contains("SIGKILL"), "{error}");
    Ok(())
}
