//! Shared parts of the attacks and the fail-closed tests: the mesh of two nodes, the address families of a call, the kernel's
//! counters before and after, and the packets on the wire.
//!
//! What must hold: counters are read from the pinned tables, not from the agent, so that they can be asked for while no
//! agent runs.

#![allow(dead_code, reason = "each test target uses its part of it")]

pub(crate) mod load;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use underpass_abi::{Marks, limits};
use underpass_loader::Kernel;
use underpass_tests::{
    apps::socket::Talk,
    mesh::{AgentVersion, Mesh},
    testbed::{Capture, Exit, Lab, Pod, Program, describe::PodSpec, packet::Segment},
};

/// Two nodes; a and a2 on the first, b and b2 on the second, in namespace `mesh`, which is in the mesh; o1 and o2 of `out`
/// are not.
pub(crate) const WORLD: &str = include_str!("../manifests/two-nodes.yaml");

/// The port of the applications.
pub(crate) const PORT: u16 = 8080;

/// Patience with a connection that must not come about, and is not refused either.
pub(crate) const BRIEFLY: Duration = Duration::from_millis(600);

/// The mesh with an agent on both nodes.
pub(crate) fn mesh(lab: &Lab) -> Result<Mesh> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    mesh.start()?;
    Ok(mesh)
}

/// `[::]:port`.
pub(crate) fn any(port: u16) -> SocketAddr {
    SocketAddr::from(([0; 16], port))
}

/// The address family of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// By an IPv4 socket.
    V4,
    /// By an IPv6 socket.
    V6,
    /// By an IPv6 socket, at the pod's IPv4 address.
    Mapped,
}

impl Family {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Mapped];

    /// The pod's address as a socket of this family takes it, with a port.
    pub(crate) fn to(self, pod: &Pod, port: u16) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.name(pod.address(self != Self::V6)?), port))
    }

    /// An address as a socket of this family takes it.
    pub(crate) fn name(self, address: IpAddr) -> IpAddr {
        match (self, address) {
            (Self::Mapped, IpAddr::V4(v4)) => v4.to_ipv6_mapped().into(),
            _ => address,
        }
    }
}

/// The counters of a node's kernel programs.
#[derive(Clone)]
pub(crate) struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    /// So far.
    pub(crate) fn read(mesh: &Mesh, node: &str) -> Result<Self> {
        let counts = tables(mesh, node)?.counts()?;
        Ok(Self(counts.into_iter().map(|(counter, count)| (counter.name(), count)).collect()))
    }

    /// Since these.
    pub(crate) fn since(&self, mesh: &Mesh, node: &str) -> Result<Self> {
        let Self(now) = Self::read(mesh, node)?;
        Ok(Self(now.into_iter().map(|(name, count)| (name, count - self.0.get(name).unwrap_or(&0))).collect()))
    }

    /// One of them.
    ///
    /// # Panics
    /// Where there is no such counter.
    pub(crate) fn of(&self, name: &str) -> u64 {
        *self.0.get(name).unwrap_or_else(|| panic!("no counter {name}"))
    }
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().filter(|(_, count)| **count > 0)).finish()
    }
}

/// The state of a pod as its agent sees it; nothing where it is not one of its.
pub(crate) fn pod_state(mesh: &Mesh, node: &str, pod: &str) -> Result<Option<String>> {
    let dump = mesh.admin(node, "/config_dump")?;
    let pods = dump["pods"].as_array().context("pods")?;
    Ok(pods.iter().find(|p| p["name"] == pod).map(|p| p["state"].as_str().unwrap_or_default().to_owned()))
}

/// A pod of node-1 that comes and goes, and its manifest.
pub(crate) fn passing_pod(round: usize, i: usize, mode: &str) -> Result<(PodSpec, String)> {
    let (v4, v6) = (format!("10.244.1.{}", 100 + i), format!("fd00:10:244:1::{}", 100 + i));
    let spec = PodSpec::new("mesh", &format!("p{round}-{i}"), "node-1", &[&v4, &v6])?;
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  {{name: {}, namespace: mesh, uid: {}, labels: {{istio.io/dataplane-mode: {mode}}}}}\n\
         spec: {{nodeName: node-1, serviceAccountName: p{i}, containers: [{{name: app, image: app}}]}}\n\
         status: {{phase: Running, podIP: {v4}, podIPs: [{{ip: {v4}}}, {{ip: \"{v6}\"}}]}}\n---\n",
        spec.name, spec.uid
    );
    Ok((spec, text))
}

/// Runs the cleanup of node-1 by an agent of this version, with its state in this directory; what it says.
pub(crate) fn clean_up_of(mesh: &Mesh, version: AgentVersion, state: &str) -> Result<(Exit, String)> {
    let lab = mesh.bed.lab();
    let program = Program::new(version.program()?)
        .args(["cleanup", "--node", "node-1"])
        .arg("--state")
        .arg(lab.directory().join(state))
        .arg("--bpffs")
        .arg(lab.bpffs())
        .arg("--cgroup-root")
        .arg(mesh.bed.node("node-1")?.cgroup())
        .named("cleanup");
    let mut running = mesh.bed.node("node-1")?.service("cleanup")?.start(&program)?;
    Ok((running.wait()?, running.log()?))
}

/// The kernel tables of a node.
pub(crate) fn tables(mesh: &Mesh, node: &str) -> Result<Kernel> {
    let settings = underpass_loader::Settings {
        bpffs: mesh.bed.lab().bpffs().into(),
        instance: node.into(),
        cgroup_root: mesh.bed.node(node)?.cgroup().into(),
        marks: Marks::DEFAULT,
        mesh_entries: limits::MESH,
        log: false,
    };
    Ok(Kernel::open(&settings)?)
}

/// Does something, and says what the kernel of `node` counted meanwhile.
pub(crate) fn counted<T>(mesh: &Mesh, node: &str, act: impl FnOnce() -> Result<T>) -> Result<(T, Counts)> {
    let before = Counts::read(mesh, node)?;
    let outcome = act()?;
    Ok((outcome, before.since(mesh, node)?))
}

/// Between these two pods nothing but their tunnels was on the wire, and these bytes were not.
pub(crate) fn ensure_hidden(mesh: &Mesh, wire: &Capture, client: &str, server: &str, secret: &str) -> Result<()> {
    const HBONE: u16 = 15008;
    /// RFC 9293, 3.1.
    const RST: u8 = 0x04;
    let (client, server) = (mesh.bed.pod(client)?, mesh.bed.pod(server)?);
    let is = |pod: &Pod, end: &SocketAddr| pod.spec().addresses.contains(&end.ip());
    let between = |a: &SocketAddr, b: &SocketAddr| is(client, a) && is(server, b);
    // A reset that belongs to no socket is the kernel's own: no program sees it leave, and it carries nothing.
    let is_bare_reset = |s: &Segment<'_>| s.flags & RST != 0 && s.payload.is_empty();
    let plain = |s: &Segment<'_>| {
        !is_bare_reset(s)
            && (between(&s.source, &s.destination) || between(&s.destination, &s.source))
            && !s.has_port(HBONE)
    };
    let frames = wire.frames()?;
    let seen: Vec<_> = frames.iter().filter_map(|f| f.segment()).filter(plain).collect();
    ensure!(seen.is_empty(), "on the wire: {seen:?}");
    ensure!(!wire.contains(secret.as_bytes())?, "{secret:?} on the wire");
    Ok(())
}

/// The connection of a dial from node-1 to node-2 went through the tunnels, as `account` of namespace mesh.
pub(crate) fn ensure_tunnelled(mesh: &Mesh, talk: &Talk, account: &str) -> Result<()> {
    let source = SocketAddr::new(talk.local.ip().to_canonical(), talk.local.port()).to_string();
    let (out, path) = (("direction", "outbound"), ("path", "hbone"));
    mesh.logged("node-1", &[out, path, ("source_address", &source)])?;
    let identity = format!("spiffe://cluster.local/ns/mesh/sa/{account}");
    mesh.logged("node-2", &[("direction", "inbound"), path, ("source_identity", &identity)])
        .map(drop)
        .context("at the destination")
}
