//! A mesh in a cluster: a real API server and the control plane on a node of their own, and agents that take everything from
//! the two.
//!
//! ```text
//!   node "control-plane"   kube-apiserver, etcd      underpass-control 172.18.0.10:15012 (facts, certificates), :15014
//!   every other node       underpass-agent: pods of the node from the API server, facts and certificates from control
//! ```
//! The manifests of a test are populated into the API server, and describe the testbed. What kubelets would do for the two
//! programs is done here: their pods are objects alone, whose tokens and ConfigMap are files.
//!
//! What must hold: pods have the uids that the API server gave them. A test waits on a fact: objects have an effect when
//! control and the agents have heard of them.

pub mod conditions;
mod control;
pub mod istiod;
mod own;

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

pub use self::{
    control::{Control, NAME as CONTROL_NAME},
    own::{AUDIENCE, CONTROL_NODE, NAMESPACE, RIGHTS, agent_pod},
};

use crate::{
    mesh::{self, ControlPlane, Credentials, Mesh, Source},
    testbed::{
        ApiServer, Description, Kubectl, Lab, Testbed,
        wait::{wait_for, wait_until},
    },
};

/// The webhook of admission, and what leads an API server to it.
pub const WEBHOOK: &str = include_str!("webhook.yaml");
/// The annotation of captured pods, and its value.
const REDIRECTION: [&str; 2] = ["ambient.istio.io/redirection", "enabled"];

/// A mesh in a cluster.
#[derive(Debug)]
pub struct Cluster {
    // In this order they are dropped.
    /// Nodes, pods and agents.
    pub mesh: Mesh,
    /// The control plane.
    pub control: Control,
    /// The API server.
    pub server: ApiServer,
    agents: BTreeMap<String, Credentials>,
    files: PathBuf,
    manifests: PathBuf,
}

impl Cluster {
    /// Builds the nodes and pods that the manifests describe, and has them in an API server. Neither the control plane nor an
    /// agent runs yet.
    pub fn up(lab: &Lab, manifests: &str) -> Result<Self> {
        Self::defined(lab, manifests, &definitions())
    }

    /// The same with these definitions of the mesh's kinds, manifests, instead of Underpass' own.
    pub fn defined(lab: &Lab, manifests: &str, definitions: &str) -> Result<Self> {
        let (directory, mut description) =
            mesh::described(lab, &[("mesh.yaml", manifests), ("place.yaml", own::PLACE)])?;
        let nodes: Vec<_> = description.nodes.iter().filter(|node| node.name != CONTROL_NODE).cloned().collect();
        let pods = own::pods(&nodes);
        fs::write(directory.join("own.yaml"), &pods)?;
        let bed = Testbed::without_pods(lab, &description)?;
        let server = ApiServer::start(bed.node(CONTROL_NODE)?)?;
        let kubectl = server.kubectl();
        kubectl.define(definitions)?;
        kubectl.populate(&[own::PLACE, RIGHTS, &pods, manifests].join("\n---\n"))?;
        let bed = with_pods(bed, &mut description, kubectl)?;
        let files = lab.directory().join("cluster");
        fs::create_dir(&files)?;
        let control = Control::new(bed.node(CONTROL_NODE)?, &own::kubeconfig(&server, "underpass-control")?)?;
        let agents = nodes.iter().map(|node| Ok((node.name.clone(), own::credentials(&server, &node.name, &files)?)));
        let agents = agents.collect::<Result<BTreeMap<_, _>>>()?;
        let mesh = Mesh::over(bed, source(&control, files.join("root-cert.pem"), &agents));
        Ok(Self { mesh, control, server, agents, files, manifests: directory })
    }

    /// Agents that are started from now on ask the control plane at this address.
    pub fn lead_agents_to(&mut self, address: SocketAddr) -> Result<()> {
        match self.mesh.set_source(Source::Manifests(PathBuf::new())) {
            Source::ControlPlane(source) => {
                drop(self.mesh.set_source(Source::ControlPlane(ControlPlane { address, ..source })));
                Ok(())
            }
            Source::Manifests(_) => bail!("the agents of a cluster have no manifests"),
        }
    }

    /// How the agent of a node fares with its control plane, as its command shows it.
    pub fn link(&self, node: &str) -> Result<Value> {
        Ok(self.mesh.admin(node, "/status")?["control_plane"].take())
    }

    /// Another replica of the control plane, on a node without an agent. It does not run yet.
    pub fn another_control(&self, node: &str) -> Result<Control> {
        Control::new(self.mesh.bed.node(node)?, &own::kubeconfig(&self.server, "underpass-control")?)
    }

    /// Starts the control plane, then an agent on every other node, and waits until all of them are ready.
    pub fn start(&mut self) -> Result<()> {
        self.control.start()?;
        self.mount_roots()?;
        self.mesh.start()
    }

    /// Waits for the roots that the control plane writes into its namespace, and has them where agents look for them.
    pub fn mount_roots(&self) -> Result<()> {
        self.mount(self.control.known.roots, &self.files.join("root-cert.pem"))
    }

    fn mount(&self, config_map: &str, path: &Path) -> Result<()> {
        let roots = wait_for("the roots of the mesh", || self.roots_in(config_map, NAMESPACE))?;
        fs::write(path, roots).with_context(|| format!("write {}", path.display()))
    }

    /// Every agent that is started from now on is one of our control plane, which runs.
    pub fn follow_own(&mut self) -> Result<()> {
        self.mount_roots()?;
        self.mesh.set_source(source(&self.control, self.files.join("root-cert.pem"), &self.agents));
        Ok(())
    }

    /// Every agent that is started from now on is one of this control plane, which runs.
    pub fn follow(&mut self, control: &Control) -> Result<()> {
        let roots = self.files.join(format!("{}.pem", control.known.roots));
        self.mount(control.known.roots, &roots)?;
        self.mesh.set_source(source(control, roots, &self.agents));
        Ok(())
    }

    /// From now on the node may have an agent: it has an agent's pod.
    pub fn admit(&mut self, node: &str) -> Result<()> {
        let spec = self.mesh.bed.node(node)?.spec().clone();
        self.kubectl().populate(&own::agent(&spec))?;
        self.agents.insert(spec.name.clone(), own::credentials(&self.server, &spec.name, &self.files)?);
        Ok(())
    }

    /// Puts new tokens in the place of those that the agent of a node has, as its kubelet does. Their life ends so many
    /// seconds from now; with a negative number it has ended.
    pub fn exchange_tokens(&self, node: &str, end_in_s: i64) -> Result<()> {
        let Credentials { pod, token, kubeconfig } = self.agents.get(node).context("an agent")?;
        for (audience, path) in [(AUDIENCE, token), (ApiServer::AUDIENCE, &kubeconfig.with_extension("token"))] {
            let token = self.server.token_that_ends(pod, audience, end_in_s)?;
            fs::write(path, token).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    /// The roots of the mesh, in PEM, as a namespace has them; none: it does not have them yet.
    pub fn roots(&self, namespace: &str) -> Result<Option<String>> {
        self.roots_in(self.control.known.roots, namespace)
    }

    fn roots_in(&self, config_map: &str, namespace: &str) -> Result<Option<String>> {
        let list = self.kubectl().get(&["configmaps", "-n", namespace])?;
        let items = list["items"].as_array().context("a list")?;
        let map = items.iter().find(|map| map["metadata"]["name"] == config_map);
        Ok(map.and_then(|map| map["data"]["root-cert.pem"].as_str()).map(str::to_owned))
    }

    /// kubectl, as a user who may do everything.
    #[must_use]
    pub fn kubectl(&self) -> &Kubectl {
        self.server.kubectl()
    }

    /// The directory of the manifests that describe this cluster.
    #[must_use]
    pub fn manifests(&self) -> &Path {
        &self.manifests
    }

    /// The directory of what the agents have mounted: `root-cert.pem`, and tokens.
    #[must_use]
    pub fn files(&self) -> &Path {
        &self.files
    }

    /// The pods (`namespace/name`) whose nodes say that they are captured, sorted.
    pub fn annotated(&self) -> Result<Vec<String>> {
        let pods = self.kubectl().get(&["pods", "-A"])?;
        let [key, value] = REDIRECTION;
        let pods = pods["items"].as_array().context("a list")?;
        let mut names: Vec<_> =
            pods.iter().filter(|pod| pod["metadata"]["annotations"][key] == value).map(full_name).collect();
        names.sort();
        Ok(names)
    }

    /// Waits until the pods whose nodes say that they are captured are these; sorted.
    pub fn wait_for_annotated(&self, pods: &[&str]) -> Result<()> {
        let mut last = Vec::new();
        let waited = wait_until(&format!("{pods:?} to be annotated"), || {
            last = self.annotated()?;
            Ok(last == pods)
        });
        waited.with_context(|| format!("{last:?} are"))
    }

    /// Waits until these pods, and no others, are in the mesh for every agent; sorted.
    pub fn wait_for_enrolled(&self, pods: &[&str]) -> Result<()> {
        for node in self.mesh.agents() {
            let mut last = Vec::new();
            let waited = wait_until(&format!("{pods:?} to be in the mesh for {node}"), || {
                let workloads = self.mesh.admin(node, "/workloads")?;
                let workloads = workloads.as_array().context("a list of workloads")?;
                let name = |w: &Value| [&w["namespace"], &w["name"]].map(|part| part.as_str().unwrap_or("")).join("/");
                last = workloads.iter().filter(|w| w["in_mesh"] == true).map(name).collect();
                last.sort();
                Ok(last == pods)
            });
            waited.with_context(|| format!("{last:?} are"))?;
        }
        Ok(())
    }

    /// Waits until every agent has the policy `namespace/name`, or none has it.
    pub fn wait_for_policy(&self, policy: &str, is_there: bool) -> Result<()> {
        for node in self.mesh.agents() {
            wait_until(&format!("policy {policy} on {node} to be there: {is_there}"), || {
                let policies = self.mesh.admin(node, "/policies")?;
                let policies = policies.as_array().context("a list of policies")?;
                let is_it = |p: &Value| {
                    policy.split_once('/').is_some_and(|(ns, name)| p["namespace"] == ns && p["name"] == name)
                };
                Ok(policies.iter().any(is_it) == is_there)
            })?;
        }
        Ok(())
    }
}

/// The definitions of the mesh's kinds, as manifests.
#[must_use]
pub fn definitions() -> String {
    let objects = underpass_config::definitions::all().into_iter().map(|definition| definition.object.to_string());
    objects.collect::<Vec<_>>().join("\n---\n")
}

/// What leads these agents to a control plane.
fn source(control: &Control, roots: PathBuf, agents: &BTreeMap<String, Credentials>) -> Source {
    let (address, name) = (control.known.address, control.known.name.to_owned());
    Source::ControlPlane(ControlPlane { address, name, roots, agents: agents.clone() })
}

/// Adds the pods of the description, with the uids that they have at the API server.
fn with_pods(mut bed: Testbed, description: &mut Description, kubectl: &Kubectl) -> Result<Testbed> {
    let served = kubectl.get(&["pods", "-A"])?;
    let served = served["items"].as_array().context("a list")?;
    let uids: BTreeMap<String, &Value> = served.iter().map(|pod| (full_name(pod), &pod["metadata"]["uid"])).collect();
    for pod in &mut description.pods {
        let uid = uids.get(&pod.full_name()).and_then(|uid| uid.as_str());
        pod.uid = uid.with_context(|| format!("no uid of {}", pod.full_name()))?.to_owned();
    }
    bed.add_pods(&description.pods)?;
    Ok(bed)
}

fn full_name(object: &Value) -> String {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}
