//! A mesh as a user has it: the chart, installed by Helm into a whole cluster with real nodes.

mod logs;

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    cluster::NAMESPACE,
    testbed::{Kubernetes, Lab, Site, kubernetes, wait::wait_until},
};

pub use logs::AgentLogs;

/// The chart.
pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/underpass");
/// Where the image of this build is, and how it is named.
const IMAGE: [&str; 4] = ["--set", "global.hub=localhost", "--set", "global.tag=testbed"];
/// The variable by which `cargo xtask` names the command.
const COMMAND: &str = "UNDERPASS_CLI_BIN";
/// The pods of agents, by label.
const AGENTS: &str = "app.kubernetes.io/name=underpass-agent";

/// Helm's arguments that install the chart, with these further ones.
#[must_use]
pub fn install<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["install", "underpass", CHART, "-n", NAMESPACE, "--create-namespace"][..], &IMAGE, arguments].concat()
}

/// Helm's arguments that upgrade the release, with these further ones.
#[must_use]
pub fn upgrade<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["upgrade", "underpass", CHART, "-n", NAMESPACE, "--reset-then-reuse-values"][..], arguments].concat()
}

/// The command's path.
pub fn program() -> Result<String> {
    std::env::var(COMMAND).with_context(|| format!("{COMMAND} names `underpass`: run `cargo xtask test kubernetes`"))
}

/// Runs `underpass` at a site with this kubeconfig. It and its Helm have nothing of the user's own.
pub fn command(site: &Site, kubeconfig: &Path, arguments: &[&str]) -> Result<Said> {
    let (program, kubeconfig) = (program()?, kubeconfig.to_string_lossy());
    let homes = kubernetes::helm_homes(&site.lab().directory().join("helm"));
    // The last line is the exit status: a negative answer is an answer.
    let script = "\"$@\" 2>&1; echo \"exit $?\"";
    let mut all: Vec<&str> = homes.iter().map(String::as_str).collect();
    all.extend(["sh", "-c", script, "sh", &*program]);
    all.extend(arguments);
    all.extend(["--kubeconfig", &*kubeconfig]);
    let text = site.run("env", &all)?;
    let (said, exit) = text.trim_end().rsplit_once("exit ").with_context(|| text.clone())?;
    Ok(Said { exit: exit.parse()?, text: said.to_owned() })
}

/// A cluster with the mesh in it.
#[derive(Debug)]
pub struct Installed {
    /// The cluster.
    pub cluster: Kubernetes,
}

/// What the command said.
#[derive(Debug)]
pub struct Said {
    /// Its exit status.
    pub exit: i32,
    /// Both of its outputs.
    pub text: String,
}

impl Said {
    /// Its answer as JSON; an error unless it exited with this status.
    pub fn json(&self, exit: i32) -> Result<Value> {
        ensure!(self.exit == exit, "{self:?}");
        serde_json::from_str(&self.text).with_context(|| self.text.clone())
    }

    /// Its answer; an error unless it exited with this status, and said each of these.
    pub fn says(&self, exit: i32, texts: &[&str]) -> Result<()> {
        ensure!(self.exit == exit && texts.iter().all(|text| self.text.contains(text)), "{texts:?}: {self:?}");
        Ok(())
    }
}

impl Installed {
    /// Starts a cluster and installs the chart with these further arguments (`--set`, `-f`), and waits until everything of it runs.
    pub fn by_chart(lab: &Lab, nodes: usize, arguments: &[&str]) -> Result<Self> {
        let it = Self::begin(Kubernetes::start(lab, nodes)?, arguments)?;
        it.wait_until_ready()?;
        Ok(it)
    }

    /// The same by `underpass install`, which waits itself.
    pub fn by_command(lab: &Lab, nodes: usize, arguments: &[&str]) -> Result<Self> {
        let it = Self { cluster: Kubernetes::start(lab, nodes)? };
        it.load_images()?;
        let said = it.command(&[&["install", "-y"][..], &IMAGE, arguments].concat())?;
        said.says(0, &["Underpass", "is installed and ready"]).with_context(|| it.cluster.shown(NAMESPACE))?;
        Ok(it)
    }

    /// Installs the chart into a cluster that has nothing of it; does not wait.
    pub fn begin(cluster: Kubernetes, arguments: &[&str]) -> Result<Self> {
        let it = Self { cluster };
        it.load_images()?;
        it.cluster.helm(&install(arguments))?;
        Ok(it)
    }

    fn load_images(&self) -> Result<()> {
        ["underpass", "underpass-testapp"].into_iter().try_for_each(|image| self.cluster.load_image(image))
    }

    /// Upgrades the release with these further arguments; does not wait.
    pub fn upgrade(&self, arguments: &[&str]) -> Result<()> {
        self.cluster.helm(&upgrade(arguments)).map(drop)
    }

    /// Waits until the control plane and an agent on every node are ready, of the newest version of each.
    pub fn wait_until_ready(&self) -> Result<()> {
        for what in ["deployment/underpass-control", "daemonset/underpass-agent"] {
            self.cluster.wait_for_rollout(NAMESPACE, what)?;
        }
        Ok(())
    }

    /// The pod of a node's agent, `namespace/name`.
    pub fn agent(&self, node: &str) -> Result<String> {
        let pods = self.cluster.kubectl().get(&["pods", "-n", NAMESPACE, "-l", AGENTS])?;
        let of_node = |pod: &&Value| pod["spec"]["nodeName"] == node && pod["metadata"]["deletionTimestamp"].is_null();
        let pod = pods["items"].as_array().into_iter().flatten().find(of_node);
        let name = pod.and_then(|pod| pod["metadata"]["name"].as_str());
        Ok(format!("{NAMESPACE}/{}", name.with_context(|| format!("{node} has no agent"))?))
    }

    /// Runs `underpass` beside a node's agent, by `kubectl exec`.
    pub fn underpass(&self, node: &str, arguments: &[&str]) -> Result<String> {
        let agent = self.agent(node)?;
        let name = agent.rsplit('/').next().unwrap_or_default();
        let mut exec = vec!["exec", "-n", NAMESPACE, name, "-c", "agent", "--", "underpass"];
        exec.extend(arguments);
        self.cluster.kubectl().run(&exec)
    }

    /// Runs the host's `underpass` with the kubeconfig of the cluster's user, from outside the nodes.
    pub fn command(&self, arguments: &[&str]) -> Result<Said> {
        command(&self.cluster.outside()?, self.cluster.kubectl().kubeconfig(), arguments)
    }

    /// The access log and log of a node's agent.
    pub fn log(&self, node: &str) -> Result<String> {
        let agent = self.agent(node)?;
        let name = agent.rsplit('/').next().unwrap_or_default();
        self.cluster.kubectl().run(&["logs", "-n", NAMESPACE, name, "-c", "agent"])
    }

    /// Waits until a line of a node's agent has all of these texts.
    pub fn wait_for_line(&self, node: &str, texts: &[&str]) -> Result<String> {
        crate::testbed::wait::wait_for(&format!("{texts:?} in the log of {node}"), || {
            let log = self.log(node)?;
            Ok(log.lines().find(|line| texts.iter().all(|text| line.contains(text))).map(str::to_owned))
        })
    }

    /// Waits until all pods of a namespace are in the mesh by the word of their nodes, or none is.
    pub fn wait_for_redirection(&self, namespace: &str, enabled: bool) -> Result<()> {
        let mut last = BTreeMap::new();
        let waited = wait_until(&format!("redirection of the pods of {namespace}: {enabled}"), || {
            let pods = self.cluster.kubectl().get(&["pods", "-n", namespace])?;
            let pods = pods["items"].as_array().context("a list")?;
            ensure!(!pods.is_empty(), "{namespace} has no pods");
            let said = |pod: &Value| pod["metadata"]["annotations"]["ambient.istio.io/redirection"] == "enabled";
            last = pods.iter().map(|pod| (pod["metadata"]["name"].to_string(), said(pod))).collect();
            Ok(last.values().all(|is| *is == enabled))
        });
        waited.with_context(|| format!("{last:?}\n{}", self.cluster.shown(NAMESPACE)))
    }
}
