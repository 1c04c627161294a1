//! The stage of the demo in Kubernetes: the cluster with the mesh, and the few things that steps do with it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;
use underpass_tests::{
    cluster::NAMESPACE,
    installed::{CHART, Installed},
    testbed::wait,
};

use super::super::{
    access_log::field,
    page::{self, Answer},
    screen::Screen,
};

/// The repository, where the demo's relative paths begin.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../");
/// The sample.
pub(crate) const SAMPLE: &str = "deploy/samples/bookinfo-kubernetes";
/// Its policies, which both forms of the sample share.
pub(crate) const SECURITY: &str = "deploy/samples/bookinfo/security.yaml";
/// The label that puts a namespace into the mesh.
pub(crate) const LABEL: &str = "istio.io/dataplane-mode";

pub(crate) const NODES: [&str; 2] = ["node-1", "node-2"];
/// The namespaces that come into the mesh.
pub(crate) const NAMESPACES: [&str; 2] = ["bookinfo", "client"];
/// A pod by its Deployment, `namespace/name`.
pub(crate) const CLIENT: &str = "client/sleep";
pub(crate) const OUTSIDER: &str = "legacy/curl";
/// The HTTP client in every pod.
pub(crate) const GET: [&str; 2] = ["underpass-testapp", "get"];

/// The newest lines of a log that are looked at.
const LOG_LINES: usize = 500;

/// Which container runs in which pod, and how often it was restarted.
pub(crate) type Containers = BTreeMap<String, (String, u64)>;

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) screen: Screen,
    pub(crate) mesh: Installed,
    /// The sample's containers before the mesh.
    pub(crate) began_with: Containers,
}

impl Stage {
    /// Runs kubectl, shown as a user types it; its output.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.screen.does(&typed("kubectl", arguments));
        self.mesh.cluster.kubectl().run(&absolute(arguments).iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The same, and shows its output.
    pub(crate) fn kubectl_shown(&self, arguments: &[&str]) -> Result<String> {
        let output = self.kubectl(arguments)?;
        output.lines().for_each(|line| self.screen.quote(line.trim_end()));
        Ok(output)
    }

    /// Adds the label to the namespaces of the mesh or takes it away, and waits until their nodes say that it is so.
    pub(crate) fn label(&self, is_there: bool) -> Result<()> {
        let label = if is_there { format!("{LABEL}=ambient") } else { format!("{LABEL}-") };
        self.kubectl(&[&["label", "namespace"][..], &NAMESPACES, &[&label]].concat())?;
        NAMESPACES.iter().try_for_each(|namespace| self.mesh.wait_for_redirection(namespace, is_there))
    }

    /// Waits for a line of a node's access log that has these values, the names of pods up to their random ends. The last one
    /// of the newest lines: no traffic is to run meanwhile.
    pub(crate) fn logged(&self, node: &str, want: &[(&str, &str)]) -> Result<Value> {
        let agent = self.mesh.agent(node)?;
        let name = agent.rsplit('/').next().unwrap_or_default();
        let tail = format!("--tail={LOG_LINES}");
        wait::wait_for(&format!("a line of {node}'s access log with {want:?}"), || {
            let log = self.mesh.cluster.kubectl().run(&["logs", "-n", NAMESPACE, name, "-c", "agent", &tail])?;
            let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let is = |is: &str, value: &str| {
                is.strip_prefix(value).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
            };
            Ok(lines.rfind(|line| want.iter().all(|(key, value)| is(field(line, key), value))))
        })
    }

    /// The sample's containers now.
    pub(crate) fn containers(&self) -> Result<Containers> {
        let mut all = Containers::new();
        for namespace in NAMESPACES {
            let pods = self.mesh.cluster.kubectl().get(&["pods", "-n", namespace])?;
            for pod in pods["items"].as_array().into_iter().flatten() {
                let name = pod["metadata"]["name"].as_str().context("a name")?.to_owned();
                let status = &pod["status"]["containerStatuses"][0];
                let id = status["containerID"].as_str().with_context(|| format!("{name} does not run"))?.to_owned();
                all.insert(name, (id, status["restartCount"].as_u64().context("a number of restarts")?));
            }
        }
        Ok(all)
    }

    /// Shows that these containers are those that ran before the mesh.
    pub(crate) fn same_containers(&mut self) -> Result<()> {
        let now = self.containers()?;
        let (pod, (id, restarts)) =
            now.iter().find(|(pod, _)| pod.starts_with("productpage")).context("productpage has no pod")?;
        let short = id.get(.."containerd://".len() + 12).unwrap_or(id);
        let promised = format!("nothing was restarted: {pod} is still {short}..., {restarts} restarts");
        self.screen.expect(&promised, now == self.began_with, (&self.began_with, &now))
    }

    /// The client calls productpage until every version of reviews has answered.
    pub(crate) fn visit(&mut self) -> Result<()> {
        let Self { screen, mesh, .. } = self;
        page::visit(screen, &exec(CLIENT, &page::url()), || get(mesh, CLIENT, &page::url()))
    }
}

/// GETs from a pod, by `kubectl exec`.
pub(crate) fn get(mesh: &Installed, pod: &str, url: &str) -> Result<Answer> {
    let (namespace, name) = pod.split_once('/').context("namespace/name")?;
    let deployment = format!("deploy/{name}");
    let arguments = [&["exec", "-n", namespace, &deployment, "--"][..], &GET, &[url]].concat();
    match mesh.cluster.kubectl().run(&arguments) {
        Ok(text) => Ok(Ok(serde_json::from_str(&text).with_context(|| text.clone())?)),
        Err(why) => Ok(Err(said(&format!("{why:#}")))),
    }
}

/// The command line of such a call.
pub(crate) fn exec(pod: &str, url: &str) -> String {
    let (namespace, name) = pod.split_once('/').unwrap_or_default();
    format!("kubectl exec -n {namespace} deploy/{name} -- {} {url}", GET.join(" "))
}

/// A command line as a user types it in the repository.
pub(crate) fn typed(program: &str, arguments: &[&str]) -> String {
    let words = arguments.iter().map(|word| if *word == CHART { "deploy/helm/underpass" } else { word });
    std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ")
}

/// Paths of the sample, wherever the demo was started.
fn absolute(arguments: &[&str]) -> Vec<String> {
    let path = |word: &&str| if word.starts_with("deploy/samples") { format!("{ROOT}{word}") } else { (*word).into() };
    arguments.iter().map(path).collect()
}

/// What the program in the pod said of its failure, without kubectl's words around it.
fn said(error: &str) -> String {
    let (_, output) = error.split_once("exit status: 1: ").unwrap_or(("", error));
    output.lines().filter(|line| !line.starts_with("command terminated")).collect::<Vec<_>>().join("; ")
}
