//! Shared parts: a mesh whose pods are probed, processes of the node that call them, and what comes of their calls.

use anyhow::{Context, Result, bail, ensure};
use underpass_abi::Op;
use underpass_tests::{
    apps::socket::{Dial, Dialed, dial},
    mesh::Mesh,
    testbed::{Actor, Exit, Io, Lab, Site, wait::wait_until},
};

use super::support::{Counts, Family, WORLD, counted, tables};

/// The port that pod a's readiness probe names, and one that none names.
pub(crate) const PROBED: u16 = 8080;
pub(crate) const OTHER: u16 = 9090;

pub(crate) const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: mesh}
spec: {mtls: {mode: STRICT}}
";

/// The containers of pod a: by the name of a port.
pub(crate) const BY_NAME: &str = "{name: app, image: app, ports: [{name: http, containerPort: 8080}], \
                                  readinessProbe: {httpGet: {path: /, port: http}}}";

/// The world, in which these pods of namespace mesh have these containers.
pub(crate) fn world(pods: &[(&str, &str)]) -> String {
    pods.iter().fold(WORLD.to_owned(), |text, (pod, containers)| {
        let own = "containers: [{name: app, image: app}]";
        let (before, after) = text.split_once(&format!("\n  name: {pod}\n")).expect("a pod of the world");
        let after = after.replacen(own, &format!("containers: [{containers}]"), 1);
        format!("{before}\n  name: {pod}\n{after}")
    })
}

/// The mesh under STRICT with these containers; servers on both ports of a and a2.
pub(crate) fn mesh(lab: &Lab, options: &[&str], pods: &[(&str, &str)]) -> Result<(Mesh, Vec<Actor<()>>)> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", &world(pods)), ("strict.yaml", STRICT)])?;
    mesh.options(options);
    mesh.start()?;
    let mut servers = Vec::new();
    for port in [PROBED, OTHER] {
        servers.extend(mesh.echo(&["mesh/a", "mesh/a2"], port)?);
    }
    Ok((mesh, servers))
}

/// A process of the node that is named as the kubelet is.
#[derive(Debug)]
pub(crate) struct Kubelet(Actor<()>);

impl Kubelet {
    pub(crate) fn start(site: &Site) -> Result<Self> {
        let mut actor = site.spawn(play, ())?;
        actor.event::<()>()?;
        Ok(Self(actor))
    }

    /// In the cgroup of the kubelet's service on node-1, and found by its agent.
    pub(crate) fn found(mesh: &mut Mesh) -> Result<Self> {
        let kubelet = Self::start(&mesh.bed.node("node-1")?.kubelet()?)?;
        mesh.agent("node-1")?.wait_for_log("kubelet found")?;
        wait_until("the kubelet to be in the kernel's table", || Ok(kubelets(mesh)? == 1))?;
        Ok(kubelet)
    }

    fn dial(&mut self, to: Dial) -> Result<Dialed> {
        self.0.tell(&to)?;
        self.0.event()
    }

    pub(crate) fn kill(self) -> Result<Exit> {
        self.0.kill()
    }
}

fn play(_: (), io: &mut Io) -> Result<()> {
    nix::sys::prctl::set_name(c"kubelet")?;
    io.send(&())?;
    while let Some(to) = io.receive::<Dial>()? {
        io.send(&dial(to)?)?;
    }
    Ok(())
}

/// Where a call of the node comes from.
pub(crate) enum From<'a> {
    Kubelet(&'a mut Kubelet),
    Site(&'a Site),
}

impl From<'_> {
    fn dial(&mut self, to: Dial) -> Result<Dialed> {
        match self {
            Self::Kubelet(kubelet) => kubelet.dial(to),
            Self::Site(site) => site.act(dial, to),
        }
    }
}

/// The call reaches the application as it is, in every family: it was attested, and no tunnel saw it.
pub(crate) fn attested(mesh: &Mesh, mut from: From<'_>, pod: &str, port: u16) -> Result<()> {
    for family in Family::ALL {
        let to = Dial::to(family.to(mesh.bed.pod(pod)?, port)?);
        let (dialed, counts) = counted(mesh, "node-1", || from.dial(to))?;
        let talk = dialed.answered().with_context(|| format!("{pod}:{port}, {family:?}; {counts:?}"))?;
        let who = talk.who()?;
        ensure!(who.app == pod && who.peer.port() == talk.local.port(), "{who:?} {talk:?}");
        ensure!(who.peer.ip() == talk.local.ip().to_canonical(), "the node's own address: {who:?} {talk:?}");
        let expected = [("connect:probe", 1), ("syn:attested", 1), ("steer:attested", 1), ("steer:inbound", 0)];
        ensure!(expected.iter().all(|(name, count)| counts.of(name) == *count), "{family:?} {counts:?}");
    }
    Ok(())
}

/// The call reaches the tunnel, which refuses plaintext, in every family.
pub(crate) fn refused(mesh: &Mesh, mut from: From<'_>, pod: &str, port: u16) -> Result<()> {
    for family in Family::ALL {
        let to = family.to(mesh.bed.pod(pod)?, port)?;
        let lines = mesh.log("node-1")?.len();
        let (dialed, counts) = counted(mesh, "node-1", || from.dial(Dial::to(to)))?;
        let failure = dialed.failed().with_context(|| format!("{pod}:{port}, {family:?}; {counts:?}"))?;
        ensure!(failure.errno == libc::ECONNRESET, "{failure}");
        ensure!(none_attested(&counts) && counts.of("steer:inbound") == 1, "{family:?} {counts:?}");
        let address = std::net::SocketAddr::new(to.ip().to_canonical(), port).to_string();
        let of = [("destination_address", address.as_str()), ("direction", "inbound"), ("reason", "plaintext_refused")];
        mesh.logged_after("node-1", lines, &of)?;
    }
    Ok(())
}

/// The call reaches the application by way of the tunnel, which lets plaintext pass.
pub(crate) fn carried(mesh: &Mesh, mut from: From<'_>, pod: &str, port: u16) -> Result<()> {
    for family in Family::ALL {
        let to = Dial::to(family.to(mesh.bed.pod(pod)?, port)?);
        let (dialed, counts) = counted(mesh, "node-1", || from.dial(to))?;
        let who = dialed.answered().with_context(|| format!("{pod}:{port}, {family:?}; {counts:?}"))?.who()?;
        ensure!(who.app == pod && counts.of("connect:probe") == 0 && counts.of("steer:inbound") == 1, "{counts:?}");
    }
    Ok(())
}

fn none_attested(counts: &Counts) -> bool {
    ["connect:probe", "syn:attested", "steer:attested"].iter().all(|name| counts.of(name) == 0)
}

/// The probe targets in the kernel's table of node-1: address and port, in order.
pub(crate) fn probes(mesh: &Mesh) -> Result<Vec<String>> {
    let contents = tables(mesh, "node-1")?.contents()?;
    let target = |op: &Op| match op {
        Op::SetProbe(key, _) => Some(format!("{} {}", key.address.ip(), key.port.number())),
        _ => None,
    };
    let mut probes: Vec<_> = contents.iter().filter_map(target).collect();
    probes.sort();
    Ok(probes)
}

/// Waits until these are the probe targets of node-1.
pub(crate) fn wait_for_probes(mesh: &Mesh, expected: &[&str]) -> Result<()> {
    wait_until(&format!("the probe targets to be {expected:?}"), || Ok(probes(mesh)? == expected))
}

/// The number of kubelets in the kernel's table of node-1.
pub(crate) fn kubelets(mesh: &Mesh) -> Result<usize> {
    let contents = tables(mesh, "node-1")?.contents()?;
    Ok(contents.iter().filter(|op| matches!(op, Op::SetKubelet(..))).count())
}

/// The site of a service of node-1.
pub(crate) fn service(mesh: &Mesh, name: &str) -> Result<Site> {
    mesh.bed.node("node-1")?.service(name)
}

/// Whether the cgroup of this site is the kubelet's in the kernel's table of node-1.
pub(crate) fn is_kubelet(mesh: &Mesh, site: &Site) -> Result<bool> {
    let Some(cgroup) = site.cgroup() else { bail!("a site without a cgroup") };
    let id = underpass_agent::pods::cgroup_id(cgroup)?;
    let contents = tables(mesh, "node-1")?.contents()?;
    Ok(contents.iter().any(|op| matches!(op, Op::SetKubelet(cgroup, _) if *cgroup == id)))
}
