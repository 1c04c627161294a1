//! Enrolment: the tunnel's listeners inside a pod, the agent's cgroup, an impostor with a pod's addresses.

use std::{fs, net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    apps::{
        attacks::{self, Impostor},
        remote::Sockets,
        servers::{self, Serve},
        socket::{self, Dial, Opt},
    },
    mesh::Mesh,
    testbed::{Lab, cgroup},
};

use super::support::{Family, PORT, WORLD, any, counted, ensure_hidden, ensure_tunnelled, mesh};

/// With SO_REUSEPORT on the tunnel's listeners, a root process of the pod would get a share of the pod's connections.
pub(crate) fn listeners_cannot_be_joined(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let (a, app) = (mesh.bed.pod("mesh/a")?, mesh.bed.app("mesh/a")?);
    let ports = app.act(attacks::listening_ports, ())?;
    ensure!(ports.len() == 2, "the tunnel's listeners: {ports:?}");
    let mut thief = Sockets::start(&app)?;
    for &port in &ports {
        for ip in ["::", "0.0.0.0", "::1", "127.0.0.1", &a.v6()?.to_string(), &a.v4()?.to_string()] {
            let address = SocketAddr::new(ip.parse()?, port);
            for options in [vec![Opt::ReusePort], vec![Opt::ReusePort, Opt::Device("eth0".into())]] {
                if ip == "::1" && options.len() > 1 {
                    continue; // not on that device, says bind()
                }
                let joined = thief.try_listen(address, &options)?.err();
                let failure = joined.with_context(|| format!("joined {address} with {options:?}"))?;
                ensure!(failure.errno == libc::EADDRINUSE, "{address} {options:?}: {failure}");
            }
        }
        // Where the tunnel is bound to the pod's device, another device is free. Nothing comes there.
        let _may_work = thief.try_listen(any(port), &[Opt::ReusePort, Opt::Device("lo".into())])?;
    }
    let (_here, _there) = (servers::echo(&app, any(PORT))?, servers::echo(&mesh.bed.app("mesh/b")?, any(PORT))?);
    for (client, server) in [("mesh/a", "mesh/b"), ("mesh/b", "mesh/a"), ("out/o2", "mesh/a")] {
        for family in Family::ALL.into_iter().cycle().take(30) {
            let dial = Dial::to(family.to(mesh.bed.pod(server)?, PORT)?);
            let talk = mesh.bed.app(client)?.act(socket::dial, dial)?.answered().context("stolen")?;
            ensure!(talk.who()?.app == "echo", "{talk:?}");
        }
    }
    twin_listeners_can_be_joined(&mesh)
}

/// Listeners that do have the option can be joined, and are robbed.
fn twin_listeners_can_be_joined(mesh: &Mesh) -> Result<()> {
    let o1 = mesh.bed.app("out/o1")?;
    let shared = |app| Serve { options: vec![Opt::ReusePort], ..Serve::new(app, any(PORT)) };
    let (_owner, _thief) = (servers::start(&o1, shared("owner"))?, servers::start(&o1, shared("thief"))?);
    let mut stolen = 0;
    for _ in 0..60 {
        let dial = Dial::to(Family::V4.to(mesh.bed.pod("out/o1")?, PORT)?);
        stolen += usize::from(mesh.bed.app("out/o2")?.act(socket::dial, dial)?.answered()?.who()?.app == "thief");
    }
    ensure!(stolen > 0, "a listener with SO_REUSEPORT was not robbed");
    Ok(())
}

/// Their ports can be found out and called, from inside and from outside. That is no captured connection, and no hand-off.
pub(crate) fn listeners_by_their_own_ports(lab: &Lab) -> Result<()> {
    let mesh = mesh(lab)?;
    let (a, app) = (mesh.bed.pod("mesh/a")?, mesh.bed.app("mesh/a")?);
    let ports = app.act(attacks::listening_ports, ())?;
    ensure!(ports.len() == 2, "the tunnel's listeners: {ports:?}");
    let _server = servers::echo(&app, any(PORT))?;
    let inside = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"].map(|ip| ip.parse());
    let mut calls: Vec<(&str, _)> = Vec::new();
    for ip in inside {
        calls.push(("mesh/a", ip?));
    }
    for client in ["mesh/a", "mesh/a2", "mesh/b", "out/o1", "out/o2"] {
        for family in Family::ALL {
            calls.push((client, family.to(a, 0)?.ip()));
        }
    }
    for (client, ip) in calls {
        let site = mesh.bed.app(client)?;
        for &port in &ports {
            let dialed = site.act(socket::dial, Dial::to((ip, port)))?;
            let failure = dialed.failed().with_context(|| format!("{client} to {ip}:{port}"))?;
            ensure!(!failure.is_timeout(), "{client} to {ip}:{port}: {failure}");
        }
        // The twin: an application's listener is there for all of them.
        let talk = site.act(socket::dial, Dial::to((ip, PORT)))?.answered();
        ensure!(talk.with_context(|| format!("{client} to {ip}"))?.who()?.app == "echo");
    }
    mesh.logged("node-1", &[("direction", "outbound"), ("reason", "bad_source"), ("path", "none")]).map(drop)
}

/// The agent's exact cgroup, as this scenario sees it.
fn agent_cgroup(mesh: &mut Mesh, node: &str) -> Result<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{}/cgroup", mesh.agent(node)?.pid()))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).context("a cgroup2 path")?;
    Ok(cgroup::mount_point()?.join(path))
}

/// Its own sockets are known by its exact cgroup, never by a mark: not those of a process below it, nor those of one that
/// enters the pod's namespace from elsewhere.
pub(crate) fn only_the_agents_cgroup_is_the_agent(lab: &Lab) -> Result<()> {
    let mut mesh = mesh(lab)?;
    let _server = servers::echo(&mesh.bed.app("mesh/b")?, any(PORT))?;
    let agent = agent_cgroup(&mut mesh, "node-1")?;
    let parent = agent.parent().context("a parent")?.to_owned();
    let foreign = mesh.bed.node("node-1")?.cgroup().join("foreign");
    let (app, b) = (mesh.bed.app("mesh/a")?, mesh.bed.pod("mesh/b")?);
    for (site, is_agent) in
        [(agent.join("below"), false), (parent.join("beside"), false), (foreign, false), (agent, true)]
    {
        for family in Family::ALL {
            let site = app.in_cgroup(&site)?;
            let wire = mesh.bed.capture_wire("node-1")?;
            // A mark makes no process the agent.
            for mark in [0, 0x0200_0000, 0x0300_0000] {
                let dial = Dial::to(family.to(b, PORT)?).say("SECRET").with(Opt::Mark(mark));
                let (talk, counts) =
                    counted(&mesh, "node-1", || site.act(socket::dial, dial)?.answered().context("not answered"))?;
                ensure!(talk.who()?.app == "echo");
                ensure!(counts.of("connect:captured") == u64::from(!is_agent), "{site:?} {family:?}: {counts:?}");
                if !is_agent {
                    ensure_tunnelled(&mesh, &talk, "a")?;
                }
            }
            if is_agent {
                // The twin: a process there is believed to be the agent, and speaks in the clear.
                ensure!(wire.contains(b"SECRET")?, "{site:?} {family:?}");
            } else {
                ensure_hidden(&mesh, &wire, "mesh/a", "mesh/b", "SECRET")
                    .with_context(|| format!("{site:?} {family:?}"))?;
            }
        }
    }
    Ok(())
}

/// Any process may make a network namespace and put the pod's addresses on it. The pod's is that of its oldest process.
pub(crate) fn an_impostor_is_not_the_pod(lab: &Lab) -> Result<()> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    let _server = servers::echo(&mesh.bed.app("mesh/b")?, any(PORT))?;
    let captured = |mesh: &Mesh, expected: bool| -> Result<()> {
        for family in Family::ALL {
            let wire = mesh.bed.capture_wire("node-1")?;
            let dial = Dial::to(family.to(mesh.bed.pod("mesh/b")?, PORT)?).say("SECRET");
            let talk = mesh.bed.app("mesh/a")?.act(socket::dial, dial)?.answered()?;
            ensure!(wire.contains(b"SECRET")? != expected, "{family:?}: captured is not {expected}");
            if expected {
                ensure_tunnelled(mesh, &talk, "a")?;
            }
        }
        Ok(())
    };
    let impersonate = |mesh: &Mesh, unprivileged| {
        let addresses = mesh.bed.pod("mesh/a")?.spec().addresses.clone();
        let mut impostor = mesh.bed.app("mesh/a")?.spawn(attacks::impersonate, Impostor { addresses, unprivileged })?;
        impostor.event::<()>()?;
        anyhow::Ok(impostor)
    };
    // Before there is an agent, and the twin: until then everything is in the clear.
    let _early = [impersonate(&mesh, true)?, impersonate(&mesh, false)?];
    captured(&mesh, false)?;
    mesh.start()?;
    captured(&mesh, true)?;
    let cookie = |mesh: &Mesh| -> Result<u64> {
        let dump = mesh.admin("node-1", "/config_dump")?;
        let pods = dump["pods"].as_array().context("pods")?;
        let pod = pods.iter().find(|pod| pod["name"] == "mesh/a").context("mesh/a")?;
        pod["cookie"].as_u64().context("a cookie")
    };
    let before = cookie(&mesh)?;
    // While it is enrolled, and before the next agent looks for it.
    let _late = [impersonate(&mesh, true)?, impersonate(&mesh, false)?];
    captured(&mesh, true)?;
    mesh.kill("node-1")?;
    mesh.start_on("node-1")?;
    ensure!(cookie(&mesh)? == before, "another namespace is taken for the pod");
    captured(&mesh, true)
}
