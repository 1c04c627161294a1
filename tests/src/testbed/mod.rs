//! The testbed: nodes and pods as network namespaces and cgroups, a link between the nodes with settable delay,
//! applications in the pods, packet capture anywhere. Real kernel, no cluster; where a test wants it an API server
//! ([`ApiServer`]), or a whole cluster whose pods are containers ([`Kubernetes`]).
//!
//! ```text
//!   lab (network namespace of the scenario)
//!     fabric ── n0 ═══ eth0  node-1  br0 ── v0 ═══ eth0  pod default/a1      <scenario cgroup>/node-1/kubepods...
//!            └─ n1 ═══ eth0  node-2  br0 ── v1 ═══ eth0  pod default/b1      <scenario cgroup>/node-2/kubepods...
//! ```
//! A test target lists functions in [`scenarios!`](crate::scenarios); each runs with a [`Lab`] in a child process with
//! PID, mount and network namespaces of its own ([`harness`]), builds a [`Testbed`] from a [`Description`]
//! and runs functions ([`Site::act`]) and programs ([`Site::start`]) in its pods and nodes.
//!
//! What must hold: when the child dies, by any signal, the kernel removes everything but cgroups, and the runner
//! those. So nothing here has a name outside the scenario: no named network namespace, no pin outside its own bpffs.

mod actor;
mod api_server;
pub mod capture;
pub mod cgroup;
mod child;
pub mod describe;
pub mod harness;
pub mod kubernetes;
mod lab;
pub mod link;
pub mod netns;
pub mod node;
pub mod packet;
pub mod pod;
mod process;
mod shim;
mod stepper;
pub mod sys;
pub mod wait;

use std::collections::BTreeMap;

use anyhow::{Context, Result};

pub use actor::{Actor, Exit, Io};
pub use api_server::{ApiServer, Kubectl, User};
pub use capture::Capture;
pub use describe::Description;
pub use kubernetes::Kubernetes;
pub use lab::{Lab, Site};
pub use link::Fabric;
pub use nix::sys::signal::Signal;
pub use node::Node;
pub use pod::Pod;
pub use process::{Program, Running};
pub use stepper::{Call, Step, Stepper};

use self::describe::{PodSpec, ServiceSpec};

/// Nodes and pods that run.
#[derive(Debug)]
pub struct Testbed {
    lab: Lab,
    services: Vec<ServiceSpec>,
    nodes: Vec<Node>,
    pods: BTreeMap<String, Pod>,
    fabric: Fabric,
    next_pod: usize,
}

impl Testbed {
    /// Builds what `description` says.
    pub fn up(lab: &Lab, description: &Description) -> Result<Self> {
        let mut bed = Self::without_pods(lab, description)?;
        bed.add_pods(&description.pods)?;
        Ok(bed)
    }

    /// The same but for the pods, which may come later: their subnets are there.
    pub fn without_pods(lab: &Lab, description: &Description) -> Result<Self> {
        let layout = description.layout()?;
        let specs = description.nodes.iter().enumerate();
        let mut nodes = specs.map(|(n, spec)| Node::begin(lab, spec, n, &layout)).collect::<Result<Vec<_>>>()?;
        nodes.iter_mut().try_for_each(Node::wait)?;
        let fabric = Fabric::connect(lab, &nodes)?;
        let mut batches = Vec::new();
        for node in &nodes {
            let others: Vec<_> = nodes.iter().filter(|other| other.spec().name != node.spec().name).collect();
            batches.push((node.shell()?, node.commands(&others)));
        }
        netns::configure_all(&batches)?;
        let (services, pods, next_pod) = (description.services.clone(), BTreeMap::new(), 0);
        Ok(Self { lab: lab.clone(), services, nodes, pods, fabric, next_pod })
    }

    /// Adds a pod while everything runs. Its addresses lie in its node's subnets.
    pub fn add_pod(&mut self, spec: &PodSpec) -> Result<&Pod> {
        self.add_pods(std::slice::from_ref(spec))?;
        self.pod(&spec.full_name())
    }

    /// The same for many at once, which is much cheaper.
    pub fn add_pods(&mut self, specs: &[PodSpec]) -> Result<()> {
        let mut pods = Vec::new();
        for spec in specs {
            anyhow::ensure!(!self.pods.contains_key(&spec.full_name()), "pod {} is there", spec.full_name());
            pods.push(Pod::begin(self.node(&spec.node)?, spec, self.next_pod, &self.services)?);
            self.next_pod += 1;
        }
        pods.iter_mut().try_for_each(Pod::wait)?;
        let (mut of_nodes, mut of_pods) = (Vec::new(), Vec::new());
        for node in &self.nodes {
            let own: Vec<_> =
                pods.iter().filter(|p| p.spec().node == node.spec().name && !p.spec().host_network).collect();
            if !own.is_empty() {
                of_nodes.push((node.shell()?, own.iter().flat_map(|p| p.node_commands()).collect()));
            }
            for pod in own {
                of_pods.push((pod.outside(), pod.commands(node.subnets(), &node.bridge_mac())));
            }
        }
        netns::configure_all(&of_nodes)?;
        netns::configure_all(&of_pods)?;
        self.pods.extend(pods.into_iter().map(|p| (p.spec().full_name(), p)));
        Ok(())
    }

    /// Deletes a pod: kills its processes and removes its cgroup; its network namespace lives on as long as a process
    /// holds it.
    pub fn remove_pod(&mut self, full_name: &str) -> Result<()> {
        self.pods.remove(full_name).with_context(|| format!("no pod {full_name}"))?.remove()
    }

    /// Services are these from now on: names in pods resolve accordingly.
    pub fn set_services(&mut self, services: &[ServiceSpec]) -> Result<()> {
        self.services = services.to_vec();
        self.pods.values().try_for_each(|pod| pod.set_services(services))
    }

    /// The services.
    #[must_use]
    pub fn services(&self) -> &[ServiceSpec] {
        &self.services
    }

    /// The scenario that this is a part of.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Nodes in the order of the description.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|n| n.spec().name == name).with_context(|| format!("no node {name}"))
    }

    /// Pods by name.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// The pod `namespace/name`.
    pub fn pod(&self, full_name: &str) -> Result<&Pod> {
        self.pods.get(full_name).with_context(|| format!("no pod {full_name}"))
    }

    /// The application's container of the pod `namespace/name`.
    pub fn app(&self, full_name: &str) -> Result<Site> {
        self.pod(full_name)?.app()
    }

    /// The link between the nodes.
    #[must_use]
    pub fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    /// Captures what enters and leaves a node by the link.
    pub fn capture_wire(&self, node: &str) -> Result<Capture> {
        Capture::start(&self.lab.here(), &self.fabric.device(node)?)
    }
}
