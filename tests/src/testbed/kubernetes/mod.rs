//! A whole Kubernetes cluster: an API server with its controllers, and nodes that run containers.
//!
//! ```text
//!   node "control-plane" 172.18.0.10   etcd, kube-apiserver, kube-controller-manager, kube-scheduler; no pods
//!   node "node-1"        172.18.0.11   containerd, kubelet, kube-proxy (nftables); pods 10.244.1.0/24, fd00:10:244:1::/64
//!   node "node-2"        172.18.0.12   the same; CoreDNS answers at 10.96.0.10
//! ```
//! Every component is the real one. Nodes are namespaces, not machines ([`Machine`]); what is missing of a real cluster is in
//! the documents of [`Kubernetes::start`].
//!
//! What must hold: everything is a process of the scenario, every file lies in its directory, and nothing has a name on the
//! machine, so that it all ends with the scenario.

mod containers;
mod machine;
mod reboot;
mod scripts;

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

pub use machine::Machine;

use super::{
    ApiServer, Description, Kubectl, Lab, Program, Running, Site, Testbed, User,
    api_server::{KUBERNETES, named},
    netns,
    wait::wait_until,
};

/// The node of the API server.
pub const CONTROL_NODE: &str = "control-plane";
/// The addresses of all pods.
const PODS: &str = "10.244.0.0/16,fd00:10:244::/48";
/// The objects of the DNS server, as a user would install them.
const DNS: &str = include_str!("dns.yaml");
/// The folder of images, as archives.
const IMAGES: &str = "UNDERPASS_IMAGES";

/// A node that has not joined.
#[derive(Debug)]
struct Later {
    kubelet: User,
    subnets: Subnets,
}

/// A cluster. A guard: dropped, its programs are killed.
#[derive(Debug)]
pub struct Kubernetes {
    // In this order they are dropped.
    machines: Vec<Machine>,
    _controllers: [Running; 2],
    later: VecDeque<Later>,
    proxy: User,
    /// The API server.
    pub server: ApiServer,
    /// Nodes and the link between them.
    pub bed: Testbed,
}

impl Kubernetes {
    /// Starts a cluster with this many nodes for pods, and waits until they are ready and names resolve.
    ///
    /// There is no registry: images are loaded ([`Self::load`]), and pods say `imagePullPolicy: IfNotPresent` or `Never`. Kubelets
    /// take every caller for an administrator. Nothing leads out of the cluster.
    pub fn start(lab: &Lab, nodes: usize) -> Result<Self> {
        Self::start_with_more(lab, nodes, 0)
    }

    /// The same with so many nodes more, which join when they are told to ([`Self::join`]): `node-3` after two.
    pub fn start_with_more(lab: &Lab, nodes: usize, more: usize) -> Result<Self> {
        let all = nodes + more;
        let mut description = Description::default().node(CONTROL_NODE, &["172.18.0.10", "fd00:172:18::10"])?;
        for n in 1..=all {
            let addresses = [format!("172.18.0.{}", 10 + n), format!("fd00:172:18::{}", 10 + n)];
            description = description.node(&format!("node-{n}"), &addresses.each_ref().map(String::as_str))?;
        }
        let bed = Testbed::without_pods(lab, &description)?;
        let controllers = ["kube-controller-manager", "kube-scheduler"].map(|name| User::component(name, ""));
        let proxy = User::component("kube-proxy", "");
        let kubelets: Vec<_> = (1..=all).map(|n| User::component(&format!("node:node-{n}"), "system:nodes")).collect();
        let users: Vec<_> = controllers.iter().chain([&proxy]).chain(&kubelets).cloned().collect();
        let server = ApiServer::start_with(bed.node(CONTROL_NODE)?, &users)?;
        let controllers = controllers.each_ref().map(|user| controller(&bed, &server, user));
        let [manager, scheduler] = controllers;
        let controllers = [manager?, scheduler?];
        let subnets: Vec<_> = (1..=all).map(Subnets::of).collect();
        connect(&bed, &subnets)?;
        let later = kubelets.into_iter().zip(subnets).map(|(kubelet, subnets)| Later { kubelet, subnets });
        let mut it =
            Self { machines: Vec::new(), _controllers: controllers, later: later.collect(), proxy, server, bed };
        for _ in 0..nodes {
            it.begin_next(&[])?;
        }
        it.load_image("coredns")?;
        it.kubectl().apply(DNS)?;
        it.wait_for_nodes()?;
        it.wait_for_rollout("kube-system", "deployment/coredns")?;
        Ok(it)
    }

    /// Has the next node join, with these taints (keys, `NoSchedule`) from its beginning, and waits until it is ready.
    /// It has no image but that of sandboxes. Its name.
    pub fn join(&mut self, taints: &[&str]) -> Result<String> {
        let name = self.begin_next(taints)?;
        self.wait_for_nodes()?;
        Ok(name)
    }

    fn begin_next(&mut self, taints: &[&str]) -> Result<String> {
        let Later { kubelet, subnets } = self.later.pop_front().context("no node is left to join")?;
        let name = kubelet.name.rsplit(':').next().unwrap_or_default().to_owned();
        let mut machine = Machine::begin(self.bed.node(&name)?, subnets, taints)?;
        machine.install_runtime()?;
        machine.start_runtime()?;
        machine.load(&named(IMAGES)?.join("pause.tar"))?;
        machine.start_kubelet(&self.server.kubeconfig_of(&kubelet)?, &self.server.kubeconfig_of(&self.proxy)?)?;
        self.machines.push(machine);
        Ok(name)
    }

    /// kubectl, as a user who may do everything.
    #[must_use]
    pub fn kubectl(&self) -> &Kubectl {
        self.server.kubectl()
    }

    /// Runs Helm, as that user.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        let site = self.bed.node(CONTROL_NODE)?.service("helm")?;
        helm(&Self::helm_program()?, &site, self.kubectl().kubeconfig(), arguments)
    }

    /// Where a user of the cluster is: no node of it.
    pub fn outside(&self) -> Result<Site> {
        self.bed.node(CONTROL_NODE)?.service("user")
    }

    /// Helm.
    pub fn helm_program() -> Result<PathBuf> {
        named("UNDERPASS_HELM")
    }

    /// The nodes that run pods.
    #[must_use]
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// The node of this name.
    pub fn machine(&self, name: &str) -> Result<&Machine> {
        self.machines.iter().find(|machine| machine.name() == name).with_context(|| format!("no node {name}"))
    }

    /// The node of this name, to be changed.
    pub fn machine_mut(&mut self, name: &str) -> Result<&mut Machine> {
        self.machines.iter_mut().find(|machine| machine.name() == name).with_context(|| format!("no node {name}"))
    }

    /// Loads an image (an OCI archive) on every node.
    pub fn load(&self, archive: &Path) -> Result<()> {
        self.machines.iter().try_for_each(|machine| machine.load(archive))
    }

    /// Loads an image that `cargo xtask` made, as `localhost/underpass:testbed` or `localhost/underpass-testapp:testbed`.
    pub fn load_image(&self, name: &str) -> Result<()> {
        self.load(&named(IMAGES)?.join(format!("{name}.tar")))
    }

    /// The same on one node.
    pub fn load_image_on(&self, node: &str, name: &str) -> Result<()> {
        self.machine(node)?.load(&named(IMAGES)?.join(format!("{name}.tar")))
    }

    /// A container of the running pod `namespace/name`, as a site: its cgroup, network and files, where a test runs functions as if
    /// by `kubectl exec`.
    pub fn container(&self, pod: &str, container: &str) -> Result<Site> {
        let (namespace, name) = pod.split_once('/').with_context(|| format!("{pod} is no namespace/name"))?;
        let object = self.kubectl().get(&["pod", name, "-n", namespace])?;
        let node = object["spec"]["nodeName"].as_str().with_context(|| format!("{pod} has no node"))?;
        let statuses = object["status"]["containerStatuses"].as_array().into_iter().flatten();
        let status = statuses.into_iter().find(|status| status["name"] == container);
        let id = status.and_then(|status| status["containerID"].as_str()?.strip_prefix("containerd://"));
        let id = id.with_context(|| format!("{pod} has no running container {container}: {}", object["status"]))?;
        self.machine(node)?.container(id)
    }

    /// The names of the pods of a namespace that have a label (`app=sleep`), sorted, `namespace/name`.
    pub fn pods(&self, namespace: &str, label: &str) -> Result<Vec<String>> {
        let pods = self.kubectl().get(&["pods", "-n", namespace, "-l", label])?;
        let names = pods["items"].as_array().into_iter().flatten().filter_map(|pod| pod["metadata"]["name"].as_str());
        let mut names: Vec<_> = names.map(|name| format!("{namespace}/{name}")).collect();
        names.sort();
        Ok(names)
    }

    /// Waits until a Deployment, DaemonSet or StatefulSet runs as it is specified, on every node where it belongs.
    pub fn wait_for_rollout(&self, namespace: &str, what: &str) -> Result<()> {
        let mut last = String::new();
        let waited = wait_until(&format!("{what} of {namespace} to run"), || {
            let asked = self.kubectl().run(&["rollout", "status", "-n", namespace, what, "--timeout", "1s"]);
            last = asked.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
            Ok(asked.is_ok())
        });
        waited.with_context(|| format!("{last}\n{}", self.shown(namespace)))
    }

    /// What kubectl tells about the pods of a namespace, what became of them and what they said, for a failed test.
    #[must_use]
    pub fn shown(&self, namespace: &str) -> String {
        let of = |arguments: &[&str]| self.kubectl().run(arguments).unwrap_or_else(|error| format!("{error:#}\n"));
        let pods = of(&["get", "pods", "-n", namespace, "-o", "wide"]);
        let events = of(&["get", "events", "-n", namespace, "--sort-by", ".lastTimestamp"]);
        let mut text = pods + &events;
        for pod in self.pods(namespace, "").unwrap_or_default() {
            let name = pod.rsplit('/').next().unwrap_or_default();
            text += &of(&["logs", "-n", namespace, name, "--all-containers", "--prefix", "--tail", "40"]);
        }
        text
    }

    fn wait_for_nodes(&self) -> Result<()> {
        let wanted = self.machines.len();
        wait_until("the nodes to be ready", || {
            let nodes = self.kubectl().get(&["nodes"])?;
            let is_ready = |node: &&serde_json::Value| {
                let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
                conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
            };
            Ok(nodes["items"].as_array().into_iter().flatten().filter(is_ready).count() == wanted)
        })
    }
}

impl User {
    /// `system:NAME`.
    fn component(name: &str, group: &'static str) -> Self {
        Self { name: format!("system:{name}"), group }
    }
}

/// Runs Helm at a site with this kubeconfig. Its files lie in the scenario's directory: it has nothing of the user's own.
pub fn helm(program: &Path, site: &Site, kubeconfig: &Path, arguments: &[&str]) -> Result<String> {
    let homes = helm_homes(&site.lab().directory().join("helm"));
    let (program, kubeconfig) = (program.to_string_lossy(), kubeconfig.to_string_lossy());
    let mut all: Vec<&str> = homes.iter().map(String::as_str).collect();
    all.extend([&*program, "--kubeconfig", &*kubeconfig]);
    all.extend(arguments);
    site.run("env", &all)
}

/// The variables by which Helm has nothing of the user's own, and leaves nothing there: what it learns of an API server is in `HOME`.
#[must_use]
pub fn helm_homes(home: &Path) -> [String; 4] {
    ["HOME", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"].map(|name| format!("{name}={}", home.display()))
}

/// The addresses of a node's pods.
#[derive(Debug)]
struct Subnets {
    v4: String,
    v6: String,
}

impl Subnets {
    fn of(node: usize) -> Self {
        Self { v4: format!("10.244.{node}.0/24"), v6: format!("fd00:10:244:{node}::/64") }
    }
}

/// Routes from every node to the pods of the others, and for the rest to the first node, which leads nowhere.
fn connect(bed: &Testbed, subnets: &[Subnets]) -> Result<()> {
    let mut batches = Vec::new();
    for node in bed.nodes() {
        let mut commands = Vec::new();
        for (other, subnets) in bed.nodes().iter().skip(1).zip(subnets) {
            if other.spec().name == node.spec().name {
                continue;
            }
            for address in &other.spec().addresses {
                let subnet = if address.is_ipv4() { &subnets.v4 } else { &subnets.v6 };
                commands.push(format!("route add {subnet} via {address} dev eth0 onlink"));
            }
        }
        // The addresses of Services have no other route; the last rule of a packet's way out gives it a pod's.
        if let (Some(control), true) = (bed.nodes().first(), node.spec().name != CONTROL_NODE) {
            let gateways = control.spec().addresses.iter();
            commands.extend(gateways.map(|gateway| {
                let everywhere = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
                format!("route add {everywhere} via {gateway} dev eth0 onlink")
            }));
        }
        batches.push((node.shell()?, commands));
    }
    netns::configure_all(&batches)
}

/// Starts a controller beside the API server.
fn controller(bed: &Testbed, server: &ApiServer, user: &User) -> Result<Running> {
    let name = user.name.trim_start_matches("system:");
    let file = |option: &str, path: &Path| format!("--{option}={}", path.display());
    let mut program = Program::new(named(KUBERNETES)?.join(name))
        .arg(file("kubeconfig", &server.kubeconfig_of(user)?))
        .args(["--leader-elect=false", "--bind-address=127.0.0.1"])
        .named(name);
    if name == "kube-controller-manager" {
        let [authority, signing] = server.files();
        program = program
            .arg(file("root-ca-file", authority))
            .arg(file("service-account-private-key-file", signing))
            .arg("--use-service-account-credentials=true")
            // By default it is made below /usr.
            .arg(file("flex-volume-plugin-dir", &server.folder().join("volume-plugins")))
            // A pod leaves a node that is gone soon.
            .arg("--node-monitor-grace-period=16s");
    }
    bed.node(CONTROL_NODE)?.service(name)?.start(&program)
}
