//! A node: a network namespace with a bridge for its pods and a device on the link between nodes, and a subtree of
//! cgroups that stands for its cgroup root.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};

use super::{
    actor::{Actor, Io},
    child::Isolation,
    describe::{Layout, NodeSpec, Subnet},
    lab::{Lab, Site},
    netns,
};

/// A node that runs.
#[derive(Debug)]
pub struct Node {
    spec: NodeSpec,
    lab: Lab,
    number: usize,
    cgroup: PathBuf,
    subnets: Vec<Subnet>,
    holder: Actor<()>,
}

impl Node {
    pub(super) fn begin(lab: &Lab, spec: &NodeSpec, number: usize, layout: &Layout) -> Result<Self> {
        let cgroup = lab.cgroup().join(&spec.name);
        let init = cgroup.join(spec.driver.service("init"));
        lab.make_cgroup(&init)?;
        let site = Site::new(lab, Isolation { cgroup: Some(init), ..Isolation::default() });
        let holder = site.spawn(hold, ())?;
        let subnets = layout.subnets(&spec.name).collect();
        Ok(Self { spec: spec.clone(), lab: lab.clone(), number, cgroup, subnets, holder })
    }

    /// Waits until its namespace is there.
    pub(super) fn wait(&mut self) -> Result<()> {
        self.holder.event().with_context(|| format!("node {}", self.spec.name))
    }

    /// The commands that configure it: bridge, own addresses, ways to the other nodes and their pods. The device on
    /// the link is there already.
    pub(super) fn commands(&self, others: &[&Self]) -> Vec<String> {
        let mut commands = vec![
            "link set lo up".to_owned(),
            // Snooping would hold back neighbour discovery; spanning tree would hold back everything.
            format!("link add br0 address {} type bridge mcast_snooping 0 stp_state 0", self.bridge_mac()),
            "link set br0 up".into(),
        ];
        for subnet in &self.subnets {
            let nodad = if subnet.gateway.is_ipv6() { " nodad" } else { "" };
            commands.push(format!("addr add {}/{} dev br0{nodad}", subnet.gateway, subnet.net.prefix_len()));
        }
        for address in &self.spec.addresses {
            let nodad = if address.is_ipv6() { " nodad" } else { "" };
            commands.push(format!("addr add {} dev eth0{nodad}", netns::host(*address)));
        }
        commands.push("link set eth0 up".into());
        for other in others {
            for address in &other.spec.addresses {
                // A next hop only serves a node that has an address of that family itself.
                if self.spec.addresses.iter().any(|own| own.is_ipv4() == address.is_ipv4()) {
                    commands.push(format!("route add {} dev eth0", netns::host(*address)));
                    commands.push(format!("neigh replace {address} lladdr {} dev eth0 nud permanent", other.mac()));
                }
            }
            for net in other.subnets.iter().map(|subnet| &subnet.net).chain(&other.spec.waypoints) {
                let ipv4 = net.addr().is_ipv4();
                let next = other.spec.addresses.iter().find(|a| a.is_ipv4() == ipv4);
                if let (Some(next), true) = (next, self.spec.addresses.iter().any(|a| a.is_ipv4() == ipv4)) {
                    commands.push(format!("route add {net} via {next} dev eth0 onlink"));
                }
            }
        }
        commands
    }

    /// Its specification.
    #[must_use]
    pub fn spec(&self) -> &NodeSpec {
        &self.spec
    }

    pub(super) fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The subnets of its pods.
    #[must_use]
    pub fn subnets(&self) -> &[Subnet] {
        &self.subnets
    }

    /// Its cgroup root: what an agent is told instead of the machine's.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    pub(super) fn holder_pid(&self) -> i32 {
        self.holder.pid()
    }

    /// The path of its network namespace within the scenario.
    #[must_use]
    pub fn network_namespace(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.holder_pid()))
    }

    /// MAC address on the link.
    pub(super) fn mac(&self) -> String {
        netns::mac(1, self.number)
    }

    pub(super) fn bridge_mac(&self) -> String {
        netns::mac(3, self.number)
    }

    /// The node's network namespace, in the cgroup of a service of the node: where `kubelet` or an agent with
    /// hostNetwork runs.
    pub fn service(&self, name: &str) -> Result<Site> {
        let cgroup = self.cgroup.join(self.spec.driver.service(name));
        self.lab.make_cgroup(&cgroup)?;
        Ok(Site::new(
            &self.lab,
            Isolation { cgroup: Some(cgroup), network_of: Some(self.holder_pid()), ..Isolation::default() },
        ))
    }

    /// The site of the kubelet, the source of probes.
    pub fn kubelet(&self) -> Result<Site> {
        self.service("kubelet")
    }

    /// The node's network namespace, in no cgroup of its own.
    pub fn shell(&self) -> Result<Site> {
        self.service("shell")
    }
}

fn hold(_: (), io: &mut Io) -> Result<()> {
    nix::sys::prctl::set_name(c"node")?;
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")?;
    netns::write_settings(true)?;
    io.send(&())?;
    io.wait_for_end()
}
