//! Outbound: an application's options of its socket before and after connect(), and foreign programs at connect().

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV4},
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{
    MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, sendto, socket as new_socket,
};
use underpass_tests::{
    apps::{
        foreign::Rewriter,
        servers::{self, Ping},
        socket::{self, Dial, Dialed, Failure, Opt, PATIENCE, Talk, family},
    },
    mesh::Mesh,
    testbed::{Actor, Lab, sys, wait},
};

use super::support::{BRIEFLY, Family, PORT, any, counted, ensure_hidden, ensure_tunnelled, mesh};

/// A pod in the mesh and one out of it, and whether it is in the mesh.
const CLIENTS: [(&str, bool); 2] = [("mesh/a", true), ("out/o1", false)];

/// The mark that the connect hook sets.
const OUTBOUND: u32 = 0x0100_0000;

/// Marks of both directions, fast open in both of its forms, a socket that had another connection before, a bound
/// source: all are captured, and the application's own bits of the mark stay.
pub(crate) fn captured_with_any_options(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let (_b, _o2) =
        (servers::echo(&mesh.bed.app("mesh/b")?, any(PORT))?, servers::echo(&mesh.bed.app("out/o2")?, any(PORT))?);
    for (client, captured) in CLIENTS {
        let site = mesh.bed.app(client)?;
        for family in Family::ALL {
            let (to, own) = (family.to(mesh.bed.pod("mesh/b")?, PORT)?, family.to(mesh.bed.pod(client)?, 0)?);
            let dial = || Dial::to(to).say("SECRET");
            let dials = [
                (dial(), 0),
                (dial().with(Opt::Mark(0x0300_0005)), 5),
                (dial().with(Opt::Mark(0x0200_0000)), 0),
                (dial().with(Opt::Mark(0x0100_0000)), 0),
                (dial().with(Opt::Mark(0xfcff_ffff)), 0xfcff_ffff),
                (dial().with(Opt::FastOpen), 0),
                (dial().from_address(own), 0),
                (dial().with(Opt::Transparent), 0),
                (dial().with(Opt::Raw { level: libc::SOL_IP, name: libc::IP_TOS, value: vec![0x10, 0, 0, 0] }), 0),
            ];
            let wire = mesh.bed.capture_wire("node-1")?;
            for (dial, mark) in dials {
                let what = format!("{client} {dial:?}");
                let act = || site.act(socket::dial, dial)?.answered().context(what.clone());
                let (talk, counts) = counted(&mesh, "node-1", act)?;
                ensure!(talk.who()?.peer.ip() == own.ip().to_canonical(), "{what}: {talk:?}");
                ensure!(counts.of("connect:captured") == u64::from(captured), "{what}: {counts:?}");
                ensure!(counts.of("steer:outbound") == u64::from(captured), "{what}: {counts:?}");
                if captured {
                    ensure!(talk.mark == mark | OUTBOUND, "{what}: {talk:?}");
                    ensure_tunnelled(&mesh, &talk, "a").context(what)?;
                }
            }
            // The kernel connects when the first bytes are sent: no connect() at all.
            let act = || site.act(send_at_once, to);
            let (answer, counts) = counted(&mesh, "node-1", act)?;
            ensure!(answer.contains("echo") && counts.of("connect:captured") == u64::from(captured), "{counts:?}");
            // Connected to a pod out of the mesh, and disconnected, the decision of then does not hold.
            let elsewhere = family.to(mesh.bed.pod("out/o2")?, PORT)?;
            let (talks, counts) =
                counted(&mesh, "node-1", || site.act(one_after_the_other, vec![elsewhere, to, elsewhere]))?;
            ensure!(counts.of("connect:captured") == u64::from(captured), "{counts:?}");
            let marked: Vec<bool> = talks.iter().map(|(_, mark)| mark & OUTBOUND != 0).collect();
            ensure!(marked == [false, captured, false], "{client} {family:?}: {talks:?}");
            if captured {
                // The wire has seen o2 in the clear, as it must.
                ensure_hidden(&mesh, &wire, "mesh/a", "mesh/b", "SECRET")?;
            } else {
                ensure!(wire.contains(b"SECRET")?, "the twin: not even in the clear");
            }
        }
    }
    Ok(())
}

/// Fast open without connect(): sendto() with MSG_FASTOPEN. What was answered.
fn send_at_once(to: SocketAddr) -> Result<String> {
    const MSG_FASTOPEN: i32 = 0x2000_0000; // include/linux/socket.h
    let fd = new_socket(family(&to), SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)?;
    Opt::FastOpen.apply(&fd, family(&to))?;
    sendto(fd.as_raw_fd(), b"SECRET", &SockaddrStorage::from(to), MsgFlags::from_bits_retain(MSG_FASTOPEN))?;
    answer(std::net::TcpStream::from(fd))
}

fn answer(mut stream: std::net::TcpStream) -> Result<String> {
    use std::io::Read as _;
    stream.set_read_timeout(Some(PATIENCE * wait::slowness()))?;
    let mut reply = vec![0; 4096];
    let length = stream.read(&mut reply)?;
    Ok(String::from_utf8_lossy(reply.get(..length).unwrap_or_default()).into_owned())
}

/// Connects one socket to all of these in turn; each one's answer and the mark that the socket had.
fn one_after_the_other(destinations: Vec<SocketAddr>) -> Result<Vec<(String, u32)>> {
    use std::io::Write as _;
    let first = destinations.first().context("somewhere")?;
    let fd = new_socket(family(first), SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)?;
    let each = destinations.into_iter().map(|to| {
        sys::disconnect(fd.as_fd()).context("disconnect")?;
        connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).with_context(|| format!("connect to {to}"))?;
        let mark = u32::from_ne_bytes(sys::option_bytes(fd.as_fd(), libc::SOL_SOCKET, libc::SO_MARK)?);
        let mut stream = std::net::TcpStream::from(fd.try_clone()?);
        stream.write_all(b"TO-EITHER")?;
        Ok((answer(stream)?, mark))
    });
    each.collect()
}

/// Steering knows captured connections by the pod's addresses. A socket with another source gets nowhere.
pub(crate) fn sources_before_connect(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let _server = servers::echo(&mesh.bed.app("mesh/b")?, any(PORT))?;
    for (client, addresses) in
        [("mesh/a", ["10.244.1.77", "fd00:10:244:1::77"]), ("out/o1", ["10.244.1.78", "fd00:10:244:1::78"])]
    {
        for (ip, length) in addresses.into_iter().zip([24, 64]) {
            mesh.bed.app(client)?.run("ip", &["addr", "add", &format!("{ip}/{length}"), "dev", "eth0"])?;
        }
    }
    let b = mesh.bed.pod("mesh/b")?;
    let dial = |family: Family, source: &str| -> Result<Dial> {
        Ok(Dial::to(family.to(b, PORT)?).from_ip(family.name(source.parse()?)).say("SECRET").patience(BRIEFLY))
    };
    let own = [
        dial(Family::V4, "127.0.0.1")?,
        dial(Family::V6, "::1")?,
        dial(Family::Mapped, "127.0.0.1")?,
        dial(Family::V4, "10.244.1.77")?,
        dial(Family::V6, "fd00:10:244:1::77")?,
        dial(Family::Mapped, "10.244.1.77")?,
    ];
    let foreign = [
        dial(Family::V4, "8.8.8.8")?,
        dial(Family::V6, "2001:db8::8")?,
        dial(Family::Mapped, "8.8.8.8")?,
        dial(Family::V4, "10.244.1.11")?, // a neighbour's
        dial(Family::V6, "fd00:10:244:1::11")?,
        dial(Family::V4, "10.244.2.10")?, // the destination's
        dial(Family::V6, "fd00:10:244:2::10")?,
    ];
    let marks = [0, 0x0300_0000].map(Opt::Mark);
    let of = |source: &Dial| marks.clone().map(|mark| source.clone().with(Opt::Transparent).with(mark));
    let dials: Vec<Dial> = own.iter().cloned().chain(foreign.iter().flat_map(of)).collect();
    let wire = mesh.bed.capture_wire("node-1")?;
    let all = dials.len() as u64;
    let (failures, counts) = counted(&mesh, "node-1", || try_all(&mesh, "mesh/a", dials))?;
    for (dial, outcome) in failures {
        let failure = outcome.failed().with_context(|| format!("{dial:?}"))?;
        ensure!(failure.step == "connect" && failure.is_timeout(), "{dial:?}: {failure}");
    }
    ensure!(counts.of("connect:captured") == all && counts.of("syn:source") == all, "{all}: {counts:?}");
    ensure!(counts.of("guard:denied") >= all && counts.of("steer:outbound") == 0, "{counts:?}");
    ensure_hidden(&mesh, &wire, "mesh/a", "mesh/b", "SECRET")?;

    // The twin: where there is no mesh, a secondary address is as good as any, and a spoofed one gets out.
    for (family, source) in
        [(Family::V4, "10.244.1.78"), (Family::V6, "fd00:10:244:1::78"), (Family::Mapped, "10.244.1.78")]
    {
        let talk = mesh.bed.app("out/o1")?.act(socket::dial, dial(family, source)?.patience(PATIENCE))?.answered()?;
        ensure!(talk.who()?.peer.ip() == source.parse::<IpAddr>()?, "{talk:?}");
    }
    let spoofed = foreign.iter().take(3).map(|dial| dial.clone().with(Opt::Transparent)).collect();
    try_all(&mesh, "out/o1", spoofed)?;
    for source in ["8.8.8.8", "2001:db8::8"] {
        let source: IpAddr = source.parse()?;
        ensure!(wire.count(|s| s.source.ip() == source && s.is_opening())? > 0, "{source} was not on the wire");
    }
    Ok(())
}

/// Tries them all at the same time.
fn try_all(mesh: &Mesh, pod: &str, dials: Vec<Dial>) -> Result<Vec<(Dial, Dialed)>> {
    let site = mesh.bed.app(pod)?;
    let begin = |dial: Dial| Ok((dial.clone(), site.begin(socket::dial, dial)?));
    let begun: Vec<(Dial, Actor<Dialed>)> = dials.into_iter().map(begin).collect::<Result<_>>()?;
    begun.into_iter().map(|(dial, actor)| Ok((dial, actor.join()?))).collect()
}

/// It would not be routed over lo: refused, and counted. Out of the mesh it is let be.
pub(crate) fn bound_to_a_device(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let (_b, _o2) =
        (servers::echo(&mesh.bed.app("mesh/b")?, any(PORT))?, servers::echo(&mesh.bed.app("out/o2")?, any(PORT))?);
    let wire = mesh.bed.capture_wire("node-1")?;
    for family in Family::ALL {
        let dial = |server: &str, device: &str| -> Result<Dial> {
            let to = family.to(mesh.bed.pod(server)?, PORT)?;
            Ok(Dial::to(to).with(Opt::Device(device.into())).say("SECRET"))
        };
        for device in ["eth0", "lo"] {
            let act = || mesh.bed.app("mesh/a")?.act(socket::dial, dial("mesh/b", device)?)?.failed();
            let (failure, counts) = counted(&mesh, "node-1", act)?;
            ensure!(
                failure == Failure { step: "connect".into(), errno: libc::EPERM },
                "{family:?} {device}: {failure}"
            );
            ensure!(counts.of("connect:bound-device") == 1 && counts.of("connect:captured") == 0, "{counts:?}");
        }
        ensure_hidden(&mesh, &wire, "mesh/a", "mesh/b", "SECRET")?;
        mesh.bed.app("mesh/a")?.act(socket::dial, dial("out/o2", "eth0")?)?.answered()?;
        mesh.bed.app("out/o1")?.act(socket::dial, dial("mesh/b", "eth0")?)?.answered()?;
        wire.clear()?;
    }
    Ok(())
}

/// The kernel itself would open further subflows, which no connect hook sees.
pub(crate) fn multipath_is_refused(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let _server = servers::echo(&mesh.bed.app("mesh/b")?, any(PORT))?;
    for family in Family::ALL {
        let dial = || -> Result<Dial> { Ok(Dial::to(family.to(mesh.bed.pod("mesh/b")?, PORT)?).mptcp()) };
        let act = || mesh.bed.app("mesh/a")?.act(socket::dial, dial()?)?.failed();
        let (failure, counts) = counted(&mesh, "node-1", act)?;
        match mesh.bed.app("out/o1")?.act(socket::dial, dial()?)? {
            Dialed::Answered(_) => {
                ensure!(failure == Failure { step: "socket".into(), errno: libc::EPERM }, "{family:?}: {failure}");
                ensure!(counts.of("create:mptcp") == 1, "{counts:?}");
            }
            // This kernel has no such sockets: neither pod gets one.
            Dialed::Failed(twin) => ensure!(twin.step == "socket" && twin == failure, "{family:?}: {failure}, {twin}"),
        }
    }
    Ok(())
}

/// Another connect program turns a destination into one of the mesh. After ours, the decision does not hold: nothing leaves.
/// Before ours, what it became is captured.
pub(crate) fn foreign_programs_that_rewrite(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let _servers = ["mesh/b", "mesh/b2", "out/o2"]
        .map(|pod| servers::echo(&mesh.bed.app(pod)?, any(PORT)))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let v4 = |pod: &str| match mesh.bed.pod(pod)?.v4()? {
        IpAddr::V4(ip) => anyhow::Ok(ip),
        IpAddr::V6(_) => bail!("IPv4"),
    };
    let (unknown, b2) = ([10, 99, 9, 9].into(), SocketAddrV4::new(v4("mesh/b2")?, PORT));
    let (node, pod) = (mesh.bed.node("node-1")?.cgroup().to_owned(), mesh.bed.pod("mesh/a")?.cgroup().to_owned());
    let call = |client: &str, to| -> Result<Dialed> {
        mesh.bed.app(client)?.act(socket::dial, Dial::to((to, PORT)).say("SECRET").patience(BRIEFLY))
    };
    // After ours: captured, out of the mesh, the pod's own address, a loopback address.
    for (from, decided) in [
        (v4("mesh/b")?, "connect:captured"),
        (unknown, "connect:leave"),
        (v4("mesh/a")?, "connect:local"),
        ([127, 0, 0, 1].into(), "connect:local"),
    ] {
        let _rewriter = Rewriter::attach(&node, from, b2)?;
        let wire = mesh.bed.capture_wire("node-1")?;
        let (dialed, counts) = counted(&mesh, "node-1", || call("mesh/a", from))?;
        let failure = dialed.failed().with_context(|| format!("{from} became {b2}"))?;
        ensure!(failure.step == "connect" && failure.is_timeout(), "{from}: {failure}");
        ensure!(counts.of(decided) == 1 && counts.of("syn:rewritten") == 1, "{from}: {counts:?}");
        ensure!(counts.of("guard:denied") > 0 && counts.of("steer:outbound") == 0, "{from}: {counts:?}");
        ensure_hidden(&mesh, &wire, "mesh/a", "mesh/b2", "SECRET")?;
        // The twin: a pod that is not in the mesh is let be.
        if from == unknown {
            ensure!(call("out/o1", from)?.answered()?.who()?.local.ip() == IpAddr::from(*b2.ip()));
            ensure!(wire.contains(b"SECRET")?);
        }
    }
    // After ours, from the mesh to out of it: the tunnel carries it there, because it was captured.
    let rewriter = Rewriter::attach(&node, v4("mesh/b")?, SocketAddrV4::new(v4("out/o2")?, PORT))?;
    let (dialed, counts) = counted(&mesh, "node-1", || call("mesh/a", v4("mesh/b")?))?;
    let who = dialed.answered()?.who()?;
    ensure!(who.local.ip() == IpAddr::from(v4("out/o2")?) && who.peer.ip() == IpAddr::from(v4("mesh/a")?), "{who:?}");
    ensure!(counts.of("steer:outbound") == 1 && counts.of("syn:rewritten") == 0, "{counts:?}");
    drop(rewriter);
    // Before ours.
    let _rewriter = Rewriter::attach(&pod, unknown, b2)?;
    let wire = mesh.bed.capture_wire("node-1")?;
    let (dialed, counts) = counted(&mesh, "node-1", || call("mesh/a", unknown))?;
    let talk = dialed.answered()?;
    ensure!(talk.who()?.local.ip() == IpAddr::from(*b2.ip()), "{talk:?}");
    ensure!(counts.of("connect:captured") == 1 && counts.of("syn:rewritten") == 0, "{counts:?}");
    ensure_tunnelled(&mesh, &talk, "a")?;
    ensure_hidden(&mesh, &wire, "mesh/a", "mesh/b2", "SECRET")
}

/// No line about this connection in a node's access log.
fn ensure_not_logged(mesh: &Mesh, node: &str, talk: &Talk) -> Result<()> {
    let source = SocketAddr::new(talk.local.ip().to_canonical(), talk.local.port()).to_string();
    let line = mesh.log(node)?.into_iter().find(|line| line["source_address"] == source.as_str());
    ensure!(line.is_none(), "the tunnel had it: {line:?}");
    Ok(())
}

/// A connection out of the mesh meets no proxy: same addresses, same errors, not a line in the log.
pub(crate) fn out_of_the_mesh_is_untouched(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let (_b, _o2) =
        (servers::echo(&mesh.bed.app("mesh/b")?, any(PORT))?, servers::echo(&mesh.bed.app("out/o2")?, any(PORT))?);
    let site = mesh.bed.app("mesh/a")?;
    for family in Family::ALL {
        let wire = mesh.bed.capture_wire("node-1")?;
        let dial = |server: &str, port| -> Result<Dialed> {
            site.act(
                socket::dial,
                Dial::to(family.to(mesh.bed.pod(server)?, port)?).say("SECRET").with(Opt::Mark(0x0300_0005)),
            )
        };
        let (talk, counts) = counted(&mesh, "node-1", || dial("out/o2", PORT)?.answered())?;
        let who = talk.who()?;
        ensure!(
            who.peer.port() == talk.local.port() && who.peer.ip() == talk.local.ip().to_canonical(),
            "{who:?} {talk:?}"
        );
        ensure!(talk.mark == 5 && wire.contains(b"SECRET")?, "{talk:?}");
        ensure!(counts.of("connect:leave") == 1 && counts.of("connect:captured") == 0, "{counts:?}");
        let (refused, counts) = counted(&mesh, "node-1", || dial("out/o2", 1)?.failed())?;
        ensure!(refused == Failure { step: "connect".into(), errno: libc::ECONNREFUSED }, "{refused}");
        ensure!(counts.of("connect:leave") == 1, "{counts:?}");
        // The twin. By the time that its line is there, the other's would be.
        let captured = dial("mesh/b", PORT)?.answered()?;
        ensure_tunnelled(&mesh, &captured, "a")?;
        ensure_not_logged(&mesh, "node-1", &talk)?;
    }
    // Of those who are not in the mesh, the kernel programs count nothing at all.
    let (_, counts) = counted(&mesh, "node-1", || {
        let to = Family::V4.to(mesh.bed.pod("out/o2")?, PORT)?;
        mesh.bed.app("out/o1")?.act(socket::dial, Dial::to(to))?.answered()
    })?;
    ensure!(format!("{counts:?}") == "{}", "{counts:?}");
    Ok(())
}

/// Own addresses and loopback: to itself, as if there were no mesh, with any mark.
pub(crate) fn the_pod_itself_is_untouched(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let (a, site) = (mesh.bed.pod("mesh/a")?, mesh.bed.app("mesh/a")?);
    let _servers = (servers::echo(&site, any(PORT))?, servers::echo(&mesh.bed.app("mesh/b")?, any(PORT))?);
    for address in ["10.244.1.77/24", "fd00:10:244:1::77/64"] {
        site.run("ip", &["addr", "add", address, "dev", "eth0"])?;
    }
    let (v4, v6) = (a.v4()?.to_string(), a.v6()?.to_string());
    let mapped = [format!("::ffff:{v4}"), "::ffff:127.0.0.1".into()];
    let own = [
        &*v4,
        &v6,
        "127.0.0.1",
        "127.0.0.53",
        "::1",
        "0.0.0.0",
        "::",
        &mapped[0],
        &mapped[1],
        "10.244.1.77",
        "fd00:10:244:1::77",
    ];
    for ip in own {
        for mark in [0, 0x0300_0000] {
            let dial = Dial::to((ip.parse::<IpAddr>()?, PORT)).with(Opt::Mark(mark));
            let act = || site.act(socket::dial, dial)?.answered().with_context(|| format!("{ip}, mark {mark:#x}"));
            let (talk, counts) = counted(&mesh, "node-1", act)?;
            let who = talk.who()?;
            ensure!(who.peer.port() == talk.local.port() && talk.mark == 0, "{ip}: {who:?} {talk:?}");
            ensure!(who.peer.ip() == talk.local.ip().to_canonical(), "{ip}: {who:?} {talk:?}");
            let touched =
                ["connect:captured", "steer:outbound", "steer:inbound", "steer:stranger"].map(|name| counts.of(name));
            ensure!(touched == [0; 4], "{ip}: {counts:?}");
            ensure_not_logged(&mesh, "node-1", &talk)?;
        }
    }
    let twin = site.act(socket::dial, Dial::to(Family::V4.to(mesh.bed.pod("mesh/b")?, PORT)?))?.answered()?;
    ensure_tunnelled(&mesh, &twin, "a")
}

/// The tunnel's own connections, to the next hop and to the application, are the agent's and are not captured; the
/// application's, in the same namespace, is.
pub(crate) fn the_agents_own_sockets(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let _server = servers::echo(&mesh.bed.app("mesh/b")?, any(PORT))?;
    for family in [Family::V4, Family::V6] {
        let wire = mesh.bed.capture_wire("node-1")?;
        let act = || {
            let dial = Dial::to(family.to(mesh.bed.pod("mesh/b")?, PORT)?);
            counted(&mesh, "node-2", || mesh.bed.app("mesh/a")?.act(socket::dial, dial)?.answered())
        };
        let ((talk, there), here) = counted(&mesh, "node-1", act)?;
        ensure_tunnelled(&mesh, &talk, "a")?;
        ensure!(here.of("connect:captured") == 1 && here.of("connect:agent") == 1, "{here:?}");
        ensure!(there.of("connect:agent") == 1 && there.of("connect:captured") == 0, "{there:?}");
        ensure!(there.of("syn:attested") == 1 && there.of("steer:attested") == 1, "{there:?}");
        ensure!(there.of("accept:bound") == 1 && there.of("steer:inbound") == 1, "{there:?}");
        const HBONE: u16 = 15008;
        ensure!(wire.count(|s| s.destination.port() == HBONE && s.is_opening())? == 1, "no tunnel on the wire");
    }
    Ok(())
}

/// Only TCP is captured, and the documents say so.
pub(crate) fn udp_is_left_alone(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let b = mesh.bed.app("mesh/b")?;
    let (_udp, _tcp) = (servers::udp_echo(&b, any(PORT))?, servers::echo(&b, any(PORT))?);
    for family in Family::ALL {
        let (site, to) = (mesh.bed.app("mesh/a")?, family.to(mesh.bed.pod("mesh/b")?, PORT)?);
        let wire = mesh.bed.capture_wire("node-1")?;
        site.act(socket::dial, Dial::to(to).say("OVER-TCP"))?.answered()?;
        ensure_hidden(&mesh, &wire, "mesh/a", "mesh/b", "OVER-TCP")?;
        let ask = || site.act(servers::udp_ask, Ping { to, say: "OVER-UDP".into() });
        let (answer, counts) = counted(&mesh, "node-1", ask)?;
        ensure!(answer == "OVER-UDP" && wire.contains(b"OVER-UDP")?, "{answer}");
        ensure!(format!("{counts:?}") == "{}", "{counts:?}");
    }
    Ok(())
}
