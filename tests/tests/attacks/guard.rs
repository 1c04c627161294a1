//! Guard: no TCP gets past the tunnel, by a mark of the application, by rules and routes, or by raw sockets.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use underpass_tests::{
    apps::{
        attacks,
        raw::{self, Dress, Syn},
        remote::{Id, Sockets},
        servers,
        socket::{self, Dial, Dialed, Opt},
    },
    mesh::Mesh,
    testbed::{Capture, Io, Lab, sys, wait::wait_until},
};

use super::support::{BRIEFLY, Counts, Family, PORT, WORLD, any, counted, ensure_hidden, ensure_tunnelled, mesh};

const CLIENTS: [(&str, bool); 2] = [("mesh/a", true), ("out/o1", false)];

/// An open connection to a server that the test drives.
struct Open {
    client: Sockets,
    out: Id,
    accepted: Id,
}

impl Open {
    fn new(mesh: &Mesh, client: &str, server: &mut Sockets, listener: Id, to: SocketAddr) -> Result<Self> {
        let mut client = Sockets::start(&mesh.bed.app(client)?)?;
        let out = client.connect(to)?;
        client.send(out, b"before")??;
        let (accepted, _) = server.accept(listener)?;
        ensure!(server.receive(accepted, 6)?? == b"before");
        Ok(Self { client, out, accepted })
    }
}

/// Without its mark, an open captured connection is routed to the device of the pod. Nothing of it leaves; with its mark it
/// goes on.
pub(crate) fn a_captured_socket_without_its_mark(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let mut server = Sockets::start(&mesh.bed.app("mesh/b")?)?;
    let listener = server.listen(any(PORT))?;
    for (client, captured) in CLIENTS {
        for family in Family::ALL {
            let wire = mesh.bed.capture_wire("node-1")?;
            let to = family.to(mesh.bed.pod("mesh/b")?, PORT)?;
            let mut open = Open::new(&mesh, client, &mut server, listener, to)?;
            let before = Counts::read(&mesh, "node-1")?;
            open.client.set(open.out, Opt::Mark(0))??;
            open.client.send(open.out, b"SECRET")??;
            if captured {
                wait_until("guard to drop it", || Ok(before.since(&mesh, "node-1")?.of("guard:device") > 0))?;
                ensure_hidden(&mesh, &wire, "mesh/a", "mesh/b", "SECRET")?;
                // It was held, not lost: the connection is whole.
                open.client.set(open.out, Opt::Mark(0x0100_0000))??;
            }
            ensure!(server.receive(open.accepted, 6)?? == b"SECRET", "{client} {family:?}");
            ensure!(wire.contains(b"SECRET")? != captured, "{client} {family:?}");
            // So may its end be: the FIN waits as well.
            open.client.set(open.out, Opt::Mark(0))??;
            open.client.close(open.out)??;
            if captured {
                ensure_hidden(&mesh, &wire, "mesh/a", "mesh/b", "SECRET")?;
            }
        }
    }
    Ok(())
}

/// Root of the pod removes what leads captured packets to the tunnel: open and new connections stop, they do not go on in the
/// clear.
pub(crate) fn rules_and_routes_flushed(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let mut server = Sockets::start(&mesh.bed.app("mesh/b")?)?;
    let (listener, _echo) = (server.listen(any(9000))?, servers::echo(&mesh.bed.app("mesh/b")?, any(PORT))?);
    let b = mesh.bed.pod("mesh/b")?;
    for (client, captured) in CLIENTS {
        let site = mesh.bed.app(client)?;
        let mut open = Vec::new();
        for family in Family::ALL {
            open.push(Open::new(&mesh, client, &mut server, listener, family.to(b, 9000)?)?);
        }
        let wire = mesh.bed.capture_wire("node-1")?;
        const TABLE: u32 = 1777;
        ensure!(site.run("ip", &["rule"])?.contains("1777") == captured);
        site.act(attacks::flush_rules_and_routes, TABLE)?;
        ensure!(!site.run("ip", &["rule"])?.contains("1777"));
        for one in &mut open {
            let before = Counts::read(&mesh, "node-1")?;
            one.client.send(one.out, b"SECRET")??;
            if captured {
                wait_until("guard to drop it", || Ok(before.since(&mesh, "node-1")?.of("guard:device") > 0))?;
            } else {
                ensure!(server.receive(one.accepted, 6)?? == b"SECRET");
            }
        }
        let dial = |family: Family| Ok(Dial::to(family.to(b, PORT)?).say("SECRET").patience(BRIEFLY));
        let begin = |dial: Result<Dial>| site.begin(socket::dial, dial?);
        let all = || -> Result<Vec<Dialed>> {
            let begun: Vec<_> = Family::ALL.into_iter().map(dial).map(begin).collect::<Result<_>>()?;
            begun.into_iter().map(|actor| actor.join()).collect()
        };
        let (dialed, counts) = counted(&mesh, "node-1", all)?;
        for outcome in dialed {
            match captured {
                true => ensure!(outcome.failed()?.is_timeout()),
                false => ensure!(outcome.answered()?.who()?.app == "echo"),
            }
        }
        ensure!((counts.of("guard:device") >= 3) == captured, "{counts:?}");
        ensure!(wire.contains(b"SECRET")? != captured);
        if captured {
            ensure!(wire.count(|s| s.has_port(PORT) || s.has_port(9000))? == 0, "captured connections on the wire");
        }
    }
    Ok(())
}

/// The number of packets of any protocol that were seen from one address to another.
fn packets(capture: &Capture, from: IpAddr, to: IpAddr) -> Result<usize> {
    capture.count(|_| false)?; // an error where frames were lost
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (from, to) = (octets(from), octets(to));
    // Behind 14 bytes of Ethernet: RFC 791, 3.1 and RFC 8200, 3.
    let at = if from.len() == 4 { 14 + 12 } else { 14 + 8 };
    let fits = |bytes: &[u8]| bytes.get(at..).is_some_and(|rest| rest.starts_with(&[&*from, &*to].concat()));
    Ok(capture.frames()?.iter().filter(|frame| fits(&frame.bytes)).count())
}

/// The ways to send a SYN without connect(), each with the number of packets that it takes.
const DRESSES: [(bool, Dress, u64); 15] = [
    (true, Dress::Whole, 1),
    (true, Dress::KernelHeader, 1),
    (true, Dress::ConnectedKernelHeader, 1),
    (true, Dress::Connected, 1),
    (true, Dress::Fragments, 2),
    (true, Dress::FragmentedData, 2),
    (false, Dress::Whole, 1),
    (false, Dress::KernelHeader, 1),
    (false, Dress::ConnectedKernelHeader, 1),
    (false, Dress::Connected, 1),
    (false, Dress::Fragments, 2),
    (false, Dress::FragmentedData, 2),
    (false, Dress::Options, 1),
    (false, Dress::ManyOptions, 1),
    (false, Dress::FragmentedOptions, 2),
];

/// A raw socket's SYN in every dress, and all that cannot be told apart from one. Raw packets that are no TCP pass.
pub(crate) fn raw_segments_do_not_leave(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    for (server, site) in [("mesh/b", mesh.bed.app("mesh/b")?), ("mesh/a2", mesh.bed.app("mesh/a2")?)] {
        let seen = Capture::start(&site, "eth0")?;
        let server = mesh.bed.pod(server)?;
        for (client, captured) in CLIENTS {
            let pod = mesh.bed.pod(client)?;
            for (number, (ipv4, dress, packets_of_it)) in DRESSES.into_iter().enumerate() {
                let (from, to) = (pod.address(ipv4)?, server.address(ipv4)?);
                let syn = Syn { from: (from, 5555).into(), to: (to, 7000 + number as u16).into(), dress };
                seen.clear()?;
                let act = || mesh.bed.app(client)?.act(raw::send_syn, syn);
                let (errors, counts) = counted(&mesh, "node-1", act)?;
                let what = format!("{client} {syn:?}: {errors:?} {counts:?}");
                ensure!(errors.len() as u64 == packets_of_it, "{what}");
                let expected = if captured { libc::EPERM } else { 0 };
                ensure!(errors.iter().all(|errno| *errno == expected), "{what}");
                ensure!(counts.of("guard:raw") == if captured { packets_of_it } else { 0 }, "{what}");
                if captured {
                    ensure!(packets(&seen, from, to)? == 0, "{what}");
                } else {
                    wait_until(&what, || Ok(packets(&seen, from, to)? as u64 >= packets_of_it))?;
                }
            }
        }
        // Last of all a packet of another pod came through, so any that had been let out before would have been seen.
        let IpAddr::V4(to) = server.v4()? else { anyhow::bail!("IPv4") };
        for (client, _) in CLIENTS {
            ensure!(mesh.bed.app(client)?.act(raw::ping, to)?, "{client}: raw ICMP");
        }
    }
    // Sent by lo, with the mark of a captured connection, it reaches the tunnel at most, which answers, and the kernel of the
    // pod refuses the answer. That RST belongs to no socket and may leave; neither a SYN nor a byte does.
    let wire = mesh.bed.capture_wire("node-1")?;
    for ipv4 in [true, false] {
        let (from, to) = (mesh.bed.pod("mesh/a")?.address(ipv4)?, mesh.bed.pod("mesh/b")?.address(ipv4)?);
        let syn = Syn { from: (from, 5555).into(), to: (to, PORT).into(), dress: Dress::Whole };
        let act = || mesh.bed.app("mesh/a")?.act(send_marked, Marked { mark: 0x0100_0000, device: None, syn });
        let (errors, counts) = counted(&mesh, "node-1", act)?;
        ensure!(errors == [0] && counts.of("steer:outbound") == 1, "{errors:?} {counts:?}");
        let out = wire.count(|s| s.source == syn.from && !(s.is_reset() && s.payload.is_empty()))?;
        ensure!(out == 0, "{out} segments of a marked SYN on the wire");
    }
    Ok(())
}

/// A SYN from a raw socket that has a mark, and may be bound to a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Marked {
    /// SO_MARK.
    pub(crate) mark: u32,
    /// SO_BINDTODEVICE.
    pub(crate) device: Option<String>,
    /// The packet.
    pub(crate) syn: Syn,
}

/// Sends it; the errno of each packet.
pub(crate) fn send_marked(marked: Marked) -> Result<Vec<i32>> {
    const OWN_HEADER: i32 = 255; // IPPROTO_RAW
    let family = socket::family(&marked.syn.to);
    let socket = sys::raw_socket(family as i32, OWN_HEADER)?;
    Opt::Mark(marked.mark).apply(&socket, family)?;
    if let Some(device) = marked.device {
        Opt::Device(device).apply(&socket, family)?;
    }
    raw::send_by(&socket, marked.syn)
}

/// Sockets that are made at once and used when the test says so: twice, before and after the enrolment.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Old {
    syns: Vec<Syn>,
    to: Vec<SocketAddr>,
}

/// Sends the SYNs each time that it is told to; the second time it also connects the TCP sockets.
fn old_sockets(old: Old, io: &mut Io) -> Result<()> {
    use std::os::fd::AsRawFd as _;

    use nix::sys::socket::{SockFlag, SockProtocol, SockType, SockaddrStorage, connect, socket as new_socket};
    const OWN_HEADER: i32 = 255;
    let raws = old.syns.iter().map(|syn| sys::raw_socket(socket::family(&syn.to) as i32, OWN_HEADER));
    let raws = raws.collect::<std::io::Result<Vec<_>>>()?;
    let tcps = old
        .to
        .iter()
        .map(|to| new_socket(socket::family(to), SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp));
    let tcps = tcps.collect::<nix::Result<Vec<_>>>()?;
    io.send(&())?;
    let mut tcps = Some(tcps);
    for round in 0..2 {
        io.receive::<()>()?;
        let sent = raws.iter().zip(&old.syns).map(|(socket, syn)| raw::send_by(socket, *syn));
        let sent: Vec<i32> = sent.collect::<Result<Vec<_>>>()?.concat();
        io.send(&sent)?;
        if round == 1 {
            for (fd, to) in tcps.take().into_iter().flatten().zip(&old.to) {
                connect(fd.as_raw_fd(), &SockaddrStorage::from(*to))?;
                let stream = std::net::TcpStream::from(fd);
                std::io::Write::write_all(&mut &stream, b"SECRET")?;
                let mut reply = [0; 1];
                std::io::Read::read_exact(&mut &stream, &mut reply)?;
                io.send(&stream.local_addr()?)?;
            }
        }
    }
    io.wait_for_end()
}

/// Sockets that are older than the enrolment carry no stamp: a raw one is known by the cgroup of its packets, a TCP one is
/// captured by its connect().
pub(crate) fn sockets_older_than_the_enrolment(lab: &Lab) -> Result<()> {
    const ON: &str = "istio.io/dataplane-mode: ambient";
    const OFF: &str = "istio.io/dataplane-mode: none";
    let mut mesh = Mesh::up(lab, &[("world.yaml", &WORLD.replace(ON, OFF))])?;
    mesh.start()?;
    let _server = servers::echo(&mesh.bed.app("mesh/b")?, any(PORT))?;
    let wire = mesh.bed.capture_wire("node-1")?;
    let (mut old, mut ends) = (Old { syns: Vec::new(), to: Vec::new() }, Vec::new());
    for ipv4 in [true, false] {
        let (from, to) = (mesh.bed.pod("mesh/a")?.address(ipv4)?, mesh.bed.pod("mesh/b")?.address(ipv4)?);
        old.syns.push(Syn { from: (from, 5555).into(), to: (to, 7000).into(), dress: Dress::Whole });
        ends.push((from, to));
    }
    for family in Family::ALL {
        old.to.push(family.to(mesh.bed.pod("mesh/b")?, PORT)?);
    }
    let mut actor = mesh.bed.app("mesh/a")?.spawn(old_sockets, old)?;
    actor.event::<()>()?;
    // The twin: until the pod is in the mesh, they are on the wire.
    let (sent, counts) = counted(&mesh, "node-1", || {
        actor.tell(&())?;
        actor.event::<Vec<i32>>()
    })?;
    ensure!(sent == [0, 0] && counts.of("guard:raw") == 0, "{sent:?} {counts:?}");
    for (from, to) in &ends {
        wait_until("the SYN on the wire", || Ok(packets(&wire, *from, *to)? > 0))?;
    }
    mesh.replace("world.yaml", OFF, ON)?;
    wire.clear()?;
    let (sent, counts) = counted(&mesh, "node-1", || {
        actor.tell(&())?;
        actor.event::<Vec<i32>>()
    })?;
    ensure!(sent == [libc::EPERM; 2] && counts.of("guard:raw") == 2, "{sent:?} {counts:?}");
    for _ in Family::ALL {
        let local: SocketAddr = actor.event().context("captured")?;
        let source = SocketAddr::new(local.ip().to_canonical(), local.port()).to_string();
        mesh.logged("node-1", &[("direction", "outbound"), ("path", "hbone"), ("source_address", &source)])?;
    }
    for (from, to) in &ends {
        // Only tunnels: nothing raw, and no application's port.
        ensure!(wire.count(|s| s.source.ip() == *from && s.destination == (*to, 7000).into())? == 0);
    }
    ensure_hidden(&mesh, &wire, "mesh/a", "mesh/b", "SECRET")?;
    let talk = mesh.bed.app("mesh/a")?.act(socket::dial, Dial::to(Family::V4.to(mesh.bed.pod("mesh/b")?, PORT)?))?;
    ensure_tunnelled(&mesh, &talk.answered()?, "a")
}
