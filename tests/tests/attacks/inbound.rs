//! Inbound: the clients, addresses and identities that reach the application.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result, ensure};
use underpass_abi::{LocalKey, Locality, Op};
use underpass_tests::{
    apps::{
        raw::{self, Dress, Syn},
        remote::Sockets,
        servers,
        socket::{self, Dial, Dialed, Opt},
    },
    mesh::Mesh,
    testbed::{Actor, Capture, Lab, netns, packet::Segment, wait::wait_until},
};

use super::{
    guard::{Marked, send_marked},
    support::{BRIEFLY, Counts, Family, PORT, any, counted, ensure_tunnelled, mesh, tables},
};

/// Root in the pod tries what the tunnel does to reach the application: any source, the mark, the device lo.
fn hand_offs(server: &underpass_tests::testbed::Pod) -> Result<Vec<Dial>> {
    let mut dials = Vec::new();
    for (family, sources) in [
        (Family::V4, ["8.8.8.8", "10.244.2.11", "10.244.1.10"]),
        (Family::V6, ["2001:db8::8", "fd00:10:244:2::11", "fd00:10:244:1::10"]),
        (Family::Mapped, ["8.8.8.8", "10.244.2.11", "10.244.1.10"]),
    ] {
        for source in sources {
            for mark in [0x0200_0000, 0x0300_0000] {
                let dial = Dial::to(family.to(server, PORT)?).from_ip(family.name(source.parse()?)).patience(BRIEFLY);
                let dial = dial.with(Opt::Transparent).with(Opt::Mark(mark));
                dials.push(dial.clone());
                dials.push(dial.with(Opt::Device("lo".into())));
            }
        }
    }
    Ok(dials)
}

fn all_at_once(mesh: &Mesh, pod: &str, dials: Vec<Dial>) -> Result<Vec<(Dial, Dialed)>> {
    let site = mesh.bed.app(pod)?;
    let begin = |dial: Dial| Ok((dial.clone(), site.begin(socket::dial, dial)?));
    let begun: Vec<(Dial, Actor<Dialed>)> = dials.into_iter().map(begin).collect::<Result<_>>()?;
    begun.into_iter().map(|(dial, actor)| Ok((dial, actor.join()?))).collect()
}

/// The application's word for who its client is must stay the tunnel's to give.
pub(crate) fn playing_the_hand_off(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let (b, app) = (mesh.bed.pod("mesh/b")?, mesh.bed.app("mesh/b")?);
    let _server = servers::echo(&app, any(PORT))?;
    let dials = hand_offs(b)?;
    let all = dials.len() as u64;
    let (tried, counts) = counted(&mesh, "node-2", || all_at_once(&mesh, "mesh/b", dials))?;
    let mut without_route = 0;
    for (dial, outcome) in tried {
        let failure = outcome.failed().with_context(|| format!("{dial:?}"))?;
        // The connect hook takes the mark away: by lo, and without the route that it leads to, IPv6 has no way at all.
        without_route += u64::from(failure.errno == libc::ENETUNREACH);
        let hangs = failure.is_timeout() || failure.errno == libc::ENETUNREACH;
        ensure!(failure.step == "connect" && hangs, "{dial:?}: {failure}");
    }
    ensure!(without_route <= all / 6, "{without_route} of {all}");
    ensure!(counts.of("connect:local") == all && counts.of("syn:source") == all - without_route, "{all}: {counts:?}");
    ensure!(counts.of("syn:attested") == 0 && counts.of("steer:attested") == 0, "{counts:?}");
    // By raw packets, for which there is no connect(): a stranger's to the tunnel at most, never an application's.
    for (source, ipv4) in [("8.8.8.8", true), ("2001:db8::8", false)] {
        let from = SocketAddr::new(source.parse()?, 10_000);
        let syn = Syn { from, to: (b.address(ipv4)?, PORT).into(), dress: Dress::Whole };
        for device in [None, Some("lo".to_owned())] {
            let marked = Marked { mark: 0x0200_0000, device, syn };
            let (errors, counts) = counted(&mesh, "node-2", || app.act(send_marked, marked))?;
            let strange = counts.of("steer:stranger") + counts.of("steer:inbound");
            ensure!(errors == [0] && strange == 1, "{errors:?} {counts:?}");
            ensure!(counts.of("steer:attested") == 0 && counts.of("accept:bound") == 0, "{counts:?}");
        }
    }
    // The tunnel's own hand-off: the one that works.
    let dial = Dial::to(Family::V4.to(b, PORT)?);
    let talk = mesh.bed.app("mesh/a")?.act(socket::dial, dial)?.answered()?;
    ensure!(talk.who()?.peer.ip() == mesh.bed.pod("mesh/a")?.v4()?);
    twin_of_the_hand_off(&mesh)
}

/// Rules, routes and sysctls alone, as the enrolment makes them, would make it work.
fn twin_of_the_hand_off(mesh: &Mesh) -> Result<()> {
    let app = mesh.bed.app("out/o2")?;
    let _server = servers::echo(&app, any(PORT))?;
    for family in ["-4", "-6"] {
        for mark in ["0x01000000/0x01000000", "0x02000000/0x02000000"] {
            app.run("ip", &[family, "rule", "add", "pref", "50", "fwmark", mark, "lookup", "1777"])?;
        }
        app.run("ip", &[family, "route", "add", "local", "default", "dev", "lo", "table", "1777"])?;
    }
    app.act(
        |(): ()| {
            ["ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect"]
                .iter()
                .try_for_each(|name| netns::set(name, "1"))
        },
        (),
    )?;
    for (family, source) in [(Family::V4, "8.8.8.8"), (Family::V6, "2001:db8::8"), (Family::Mapped, "8.8.8.8")] {
        let dial = Dial::to(family.to(mesh.bed.pod("out/o2")?, PORT)?).from_ip(family.name(source.parse()?));
        let dial = dial.with(Opt::Transparent).with(Opt::Mark(0x0200_0000)).with(Opt::Device("lo".into()));
        let talk = app.act(socket::dial, dial)?.answered().with_context(|| format!("the twin, {family:?}"))?;
        ensure!(talk.who()?.peer.ip() == source.parse::<IpAddr>()?, "{talk:?}");
    }
    Ok(())
}

/// Connections of a port that are neither listening nor over.
fn half_open(port: u16) -> Result<usize> {
    const LISTEN: &str = "0A"; // include/net/tcp_states.h
    const TIME_WAIT: &str = "06";
    let mut count = 0;
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        for line in fs::read_to_string(table)?.lines().skip(1) {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            let (Some(local), Some(&state)) = (fields.get(1), fields.get(3)) else { continue };
            let is_port = local.ends_with(&format!(":{port:04X}"));
            count += usize::from(is_port && state != LISTEN && state != TIME_WAIT);
        }
    }
    Ok(count)
}

/// A mark is a matter of one namespace: a stranger's does not make him the pod, or the tunnel.
pub(crate) fn marks_do_not_cross(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let _server = servers::echo(&mesh.bed.app("mesh/a")?, any(PORT))?;
    for client in ["out/o1", "out/o2"] {
        for family in Family::ALL {
            for mark in [0, 0x0100_0000, 0x0200_0000, 0x0300_0000] {
                let dial = Dial::to(family.to(mesh.bed.pod("mesh/a")?, PORT)?).with(Opt::Mark(mark));
                let act = || mesh.bed.app(client)?.act(socket::dial, dial)?.answered();
                let (talk, counts) = counted(&mesh, "node-1", act)?;
                ensure!(talk.who()?.peer.ip() == talk.local.ip().to_canonical(), "{talk:?}");
                // To the tunnel, and by its hand to the application.
                let steered = ["steer:inbound", "steer:attested", "steer:outbound"].map(|name| counts.of(name));
                ensure!(steered == [1, 1, 0], "{client} {family:?} {mark:#x}: {counts:?}");
            }
        }
    }
    let source = mesh.bed.pod("out/o2")?.v4()?.to_string();
    let line =
        mesh.log("node-1")?.into_iter().find(|l| l["source_address"].as_str().is_some_and(|s| s.starts_with(&source)));
    ensure!(line.as_ref().is_some_and(|l| l["path"] == "plaintext" && l["source_identity"].is_null()), "{line:?}");
    Ok(())
}

/// Only status.podIPs are the pod. What else the namespace holds is refused to strangers, known to the agent or not yet.
pub(crate) fn addresses_that_are_not_the_pods(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let (a, o1) = (mesh.bed.app("mesh/a")?, mesh.bed.app("out/o1")?);
    let _servers = (servers::echo(&a, any(PORT))?, servers::echo(&o1, any(PORT))?);
    let link_local = |site: &underpass_tests::testbed::Site| -> Result<IpAddr> {
        let text = site.run("ip", &["-o", "-6", "addr", "show", "dev", "eth0", "scope", "link"])?;
        let address = text.split_ascii_whitespace().nth(3).and_then(|a| a.split('/').next());
        Ok(address.with_context(|| format!("fe80:: in {text:?}"))?.parse()?)
    };
    for (site, addresses) in [(&a, ["10.244.1.77", "fd00:10:244:1::77"]), (&o1, ["10.244.1.78", "fd00:10:244:1::78"])] {
        for (ip, length) in addresses.into_iter().zip([24, 64]) {
            site.run("ip", &["addr", "add", &format!("{ip}/{length}"), "dev", "eth0"])?;
        }
    }
    let strangers = [
        ("out/o1", a.clone(), ["10.244.1.77", "fd00:10:244:1::77"]),
        ("mesh/a", o1, ["10.244.1.78", "fd00:10:244:1::78"]),
    ];
    for (client, server, addresses) in strangers {
        let refused = client == "out/o1"; // who calls the other way round is the twin
        let mut dials = Vec::new();
        for ip in addresses {
            dials.push(Dial::to((ip.parse::<IpAddr>()?, PORT)));
        }
        dials.push(Dial::to((Family::Mapped.name(addresses[0].parse()?), PORT)));
        dials.push(Dial::to((link_local(&server)?, PORT)).with(Opt::Device("eth0".into())));
        for dial in dials {
            let what = format!("{client} {dial:?}");
            let (dialed, counts) = counted(&mesh, "node-1", || mesh.bed.app(client)?.act(socket::dial, dial))?;
            if refused {
                let failure = dialed.failed().context(what.clone())?;
                ensure!(!failure.is_timeout(), "{what}: {failure}");
                ensure!(counts.of("steer:inbound") == 1 && counts.of("syn:attested") == 0, "{what}: {counts:?}");
            } else {
                ensure!(dialed.answered().context(what)?.who()?.app == "echo");
            }
        }
    }
    mesh.logged(
        "node-1",
        &[("direction", "inbound"), ("destination_address", "10.244.1.77:8080"), ("reason", "not_served_here")],
    )?;
    // The same once the agent has seen them, which makes them local to the pod and nothing more.
    known(&mesh, "mesh/a", "10.244.1.77".parse()?)?;
    let dial = Dial::to((IpAddr::from([10, 244, 1, 77]), PORT));
    let failure = mesh.bed.app("out/o1")?.act(socket::dial, dial)?.failed()?;
    ensure!(!failure.is_timeout(), "{failure}");
    Ok(())
}

/// Waits until the kernel tables have an address as a secondary one.
fn known(mesh: &Mesh, pod: &str, address: IpAddr) -> Result<()> {
    wait_until(&format!("{address} of {pod} in the kernel tables"), || {
        let has =
            |op: &Op| matches!(op, Op::SetLocal(LocalKey { address: a, .. }, Locality::OTHER) if *a == address.into());
        Ok(tables(mesh, "node-1")?.contents()?.iter().any(has))
    })
}

/// SYNs with sources that no remote client can have, and real connections from a link-local one. No application sees them.
pub(crate) fn sources_of_no_client(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let (a, app) = (mesh.bed.pod("mesh/a")?, mesh.bed.app("mesh/a")?);
    let _servers = (servers::echo(&app, any(PORT))?, servers::echo(&mesh.bed.app("out/o1")?, any(PORT))?);
    let seen = Capture::start(&app, "eth0")?;
    let (v4, v6) = (a.v4()?.to_string(), a.v6()?.to_string());
    let forged =
        [&*v4, "127.0.0.1", "127.0.0.53", "224.0.0.1", "255.255.255.255", &v6, "::1", "ff02::1", "::ffff:127.0.0.1"];
    for (number, source) in forged.into_iter().enumerate() {
        let from = SocketAddr::new(source.parse()?, 5000 + number as u16);
        let syn = Syn { from, to: (a.address(from.is_ipv4())?, PORT).into(), dress: Dress::Whole };
        let before = Counts::read(&mesh, "node-1")?;
        let sent = mesh.bed.app("out/o1")?.act(raw::send_syn, syn)?;
        ensure!(sent == [0], "{syn:?}: {sent:?}");
        let arrived = |s: &Segment<'_>| s.is_opening() && s.source.port() == from.port();
        seen.wait_for(&format!("{syn:?} at the pod"), arrived)?;
        let counts = before.since(&mesh, "node-1")?;
        ensure!(counts.of("syn:attested") == 0 && counts.of("steer:attested") == 0, "{syn:?}: {counts:?}");
    }
    // The twin: a SYN with its sender's address is answered, and what looks for connections finds one.
    let o1 = mesh.bed.pod("out/o1")?;
    for ipv4 in [true, false] {
        let to = SocketAddr::new(a.address(ipv4)?, PORT);
        let syn = Syn { from: (o1.address(ipv4)?, 6000).into(), to, dress: Dress::Whole };
        mesh.bed.app("out/o1")?.act(raw::send_syn, syn)?;
        seen.wait_for("the answer", |s| s.source == to && s.destination == syn.from && s.flags & 0x12 == 0x12)?;
    }
    // Some are dropped by the kernel, some are refused; none is taken for a connection.
    let forged = |s: &Segment<'_>| s.source.port() == PORT && (5000..5100).contains(&s.destination.port());
    let frames = seen.frames()?;
    let answers: Vec<_> = frames.iter().filter_map(|f| f.segment()).filter(|s| forged(s) && !s.is_reset()).collect();
    ensure!(answers.is_empty(), "answers to forged sources: {answers:?}");
    let half_open_now = app.act(half_open, PORT)?;
    ensure!(half_open_now == 0, "{half_open_now} connections at the application");
    let mut neighbour = Sockets::start(&mesh.bed.app("out/o1")?)?;
    let open = neighbour.connect((a.v4()?, PORT).into())?;
    wait_until("an open connection to be found", || Ok(app.act(half_open, PORT)? > 0))?;
    neighbour.close(open)??;

    // The unspecified address, which the kernel lets through in IPv6.
    let syn = Syn { from: "[::]:7000".parse()?, to: (a.v6()?, PORT).into(), dress: Dress::Whole };
    let before = Counts::read(&mesh, "node-1")?;
    mesh.bed.app("out/o1")?.act(raw::send_syn, syn)?;
    wait_until("it to be refused", || Ok(before.since(&mesh, "node-1")?.of("steer:stranger") == 1))?;
    let answered = seen.count(|s| s.destination == syn.from && s.flags & 0x02 != 0)?;
    ensure!(answered == 0, "a SYN from the unspecified address was answered");

    // A neighbour's link-local address is a real one, and no identity.
    let link_local = |pod: &str| -> Result<IpAddr> {
        let text = mesh.bed.app(pod)?.run("ip", &["-o", "-6", "addr", "show", "dev", "eth0", "scope", "link"])?;
        let address = text.split_ascii_whitespace().nth(3).and_then(|a| a.split('/').next());
        Ok(address.with_context(|| format!("fe80:: in {text:?}"))?.parse()?)
    };
    for (client, server) in [("out/o1", "mesh/a"), ("mesh/a", "out/o1")] {
        let dial = Dial::to((mesh.bed.pod(server)?.v6()?, PORT)).with(Opt::Device("eth0".into()));
        let dialed = mesh.bed.app(client)?.act(socket::dial, dial.from_ip(link_local(client)?))?;
        if server == "mesh/a" {
            ensure!(!dialed.failed().context("from fe80::")?.is_timeout());
            mesh.logged("node-1", &[("direction", "inbound"), ("reason", "bad_source")])?;
        } else {
            ensure!(dialed.answered().context("the twin")?.who()?.app == "echo");
        }
    }
    Ok(())
}

/// The tunnel wears the client's address and a port of its own choice. The client itself may use the same port.
pub(crate) fn a_client_may_use_the_tunnels_port(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let _server = servers::echo(&mesh.bed.app("mesh/b")?, any(PORT))?;
    let b = mesh.bed.pod("mesh/b")?;
    for family in Family::ALL {
        let mut first = Sockets::start(&mesh.bed.app("out/o2")?)?;
        let open = first.connect(family.to(b, PORT)?)?;
        first.send(open, b"hello")??;
        let line = first.receive(open, 1)??;
        ensure!(line == b"{", "the echo server's answer");
        let mut line = line;
        while !line.ends_with(b"\n") {
            line.extend(first.receive(open, 1)??);
        }
        let who: socket::Who = serde_json::from_slice(&line)?;
        ensure!(who.peer.ip() == mesh.bed.pod("out/o2")?.address(family != Family::V6)?, "{who:?}");
        let same = SocketAddr::new(family.name(who.peer.ip()), who.peer.port());
        let dial = Dial::to(family.to(b, PORT)?).from_address(same).with(Opt::ReuseAddress);
        let act = || mesh.bed.app("out/o2")?.act(socket::dial, dial)?.answered().context("the same port");
        let (talk, counts) = counted(&mesh, "node-2", act)?;
        ensure!(talk.local.port() == who.peer.port(), "{talk:?} {who:?}");
        // Not taken for the tunnel's: it came from outside, and the tunnel handed it over with another port.
        let steered = ["steer:inbound", "steer:attested", "syn:attested"].map(|name| counts.of(name));
        ensure!(steered == [1, 1, 1] && talk.who()?.peer.port() != who.peer.port(), "{counts:?} {talk:?}");
        // And the first one is as it was.
        first.send(open, b"still there?")??;
        ensure!(first.receive(open, 12)?? == b"still there?");
    }
    let talk = mesh.bed.app("mesh/a")?.act(socket::dial, Dial::to(Family::V4.to(b, PORT)?))?.answered()?;
    ensure_tunnelled(&mesh, &talk, "a")
}
