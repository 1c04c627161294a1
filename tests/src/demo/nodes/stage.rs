//! The stage of the demo on plain nodes: nodes, pods, agents and the applications of the bookinfo sample, and the few things that
//! steps do with them.

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use underpass_tests::{
    apps::{
        http::{self, Service},
        servers, vip,
    },
    mesh::Mesh,
    testbed::{Actor, Lab, wait},
};

use super::{
    super::{
        access_log::field,
        page::{Answer, PORT, url_of},
        screen::Screen,
    },
    processes::{self, Process},
};

/// The sample, by file.
const SAMPLE: [(&str, &str); 5] = [
    (NAMESPACES, include_str!("../../../../deploy/samples/bookinfo/namespaces.yaml")),
    ("nodes.yaml", include_str!("../../../../deploy/samples/bookinfo/nodes.yaml")),
    ("pods.yaml", include_str!("../../../../deploy/samples/bookinfo/pods.yaml")),
    (SECURITY, include_str!("../../../../deploy/samples/bookinfo/security.yaml")),
    ("services.yaml", include_str!("../../../../deploy/samples/bookinfo/services.yaml")),
];
/// The file with the label.
pub(crate) const NAMESPACES: &str = "namespaces.yaml";
/// The file with the policies.
pub(crate) const SECURITY: &str = "security.yaml";
/// The label that puts a namespace into the mesh.
const LABEL: &str = "  labels:\n    istio.io/dataplane-mode: ambient\n";
/// An echo server beside ratings, for a connection that stays open.
pub(crate) const ECHO_PORT: u16 = 9081;

/// Lifetime of certificates, in seconds: short, so that one is renewed during the demo.
const LIFETIME_S: &str = "8";

pub(crate) const PRODUCTPAGE: &str = "bookinfo/productpage-v1";
pub(crate) const DETAILS: &str = "bookinfo/details-v1";
pub(crate) const RATINGS: &str = "bookinfo/ratings-v1";
pub(crate) const CLIENT: &str = "client/sleep";
pub(crate) const OUTSIDER: &str = "legacy/curl";

/// Path of the command line tool.
const CLI: &str = "UNDERPASS_CLI_BIN";

/// Applications, by pod.
pub(crate) type Processes = BTreeMap<String, Process>;

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) screen: Screen,
    pub(crate) mesh: Mesh,
    pub(crate) cli: PathBuf,
    /// The applications before the first step.
    pub(crate) began_with: Processes,
    applications: BTreeMap<String, Actor<()>>,
    _others: Vec<Actor<()>>,
}

impl Stage {
    /// Nodes, pods, applications, agents. No namespace has the label.
    pub(crate) fn up(lab: &Lab, screen: Screen) -> Result<Self> {
        let cli = std::env::var_os(CLI).with_context(|| format!("{CLI} names `underpass`: run `cargo xtask demo`"))?;
        screen.title("Underpass: two nodes, the bookinfo sample, an agent on each node");
        let unlabelled = namespaces(false)?;
        let files = SAMPLE.map(|(name, text)| (name, if name == NAMESPACES { unlabelled.as_str() } else { text }));
        let mut mesh = Mesh::up(lab, &files)?;
        let applications = start_applications(&mesh)?;
        let services = mesh.bed.services();
        let mut others = mesh.bed.nodes().iter().map(|node| vip::start(node, services)).collect::<Result<Vec<_>>>()?;
        others.push(servers::echo(&mesh.bed.app(RATINGS)?, format!("[::]:{ECHO_PORT}").parse()?)?);
        mesh.options(&["--certificate-lifetime", LIFETIME_S]);
        mesh.start()?;
        let (cli, began_with) = (cli.into(), Processes::new());
        let mut it = Self { screen, mesh, cli, began_with, applications, _others: others };
        it.began_with = it.processes()?;
        for node in it.mesh.bed.nodes() {
            let name = &node.spec().name;
            let pods = it.mesh.bed.pods().filter(|pod| pod.spec().node == *name);
            it.screen
                .quote(&format!("{name}  {}", pods.map(|pod| pod.spec().full_name()).collect::<Vec<_>>().join(" ")));
        }
        Ok(it)
    }

    /// Directory of the demo's own copy of the sample.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.mesh.bed.lab().directory().join("manifests")
    }

    /// Adds the label to the namespaces bookinfo and client, or takes it away; waits until the agents have applied it.
    pub(crate) fn label(&mut self, is_there: bool) -> Result<()> {
        let sign = if is_there { '+' } else { '-' };
        self.screen.does(&format!("{NAMESPACES}, bookinfo and client: {sign} istio.io/dataplane-mode: ambient"));
        self.mesh.edit(NAMESPACES, Some(&namespaces(is_there)?))?;
        if is_there { Ok(()) } else { self.mesh.wait_until_all_left() }
    }

    /// The processes of all applications now.
    pub(crate) fn processes(&self) -> Result<Processes> {
        let pids: Vec<_> = self.applications.values().map(Actor::pid).collect();
        let found = self.mesh.bed.lab().here().act(processes::look, pids)?;
        let process = |(pod, actor): (&String, &Actor<()>)| {
            let process = found.get(&actor.pid()).with_context(|| format!("the application of {pod} has ended"))?;
            Ok((pod.clone(), *process))
        };
        self.applications.iter().map(process).collect()
    }

    /// The number of lines of each node's access log: later lines are new.
    pub(crate) fn marks(&self) -> Result<BTreeMap<String, usize>> {
        let nodes = self.mesh.bed.nodes().iter().map(|node| node.spec().name.clone());
        nodes.map(|node| Ok((node.clone(), self.mesh.log(&node)?.len()))).collect()
    }

    /// Waits for a line of the access log of the node of `pod` that has these values.
    pub(crate) fn logged(&self, marks: &BTreeMap<String, usize>, pod: &str, want: &[(&str, &str)]) -> Result<Value> {
        let node = &self.mesh.bed.pod(pod)?.spec().node;
        let mark = marks.get(node).copied().unwrap_or_default();
        wait::wait_for(&format!("a line of {node}'s access log with {want:?}"), || {
            let fits = |line: &Value| want.iter().all(|(key, value)| field(line, key) == *value);
            Ok(self.mesh.log(node)?.into_iter().skip(mark).find(fits))
        })
    }

    /// Asks the command on a node, about the agent there.
    pub(crate) fn underpass(&self, node: &str, arguments: &[&str]) -> Result<String> {
        self.screen.does(&format!("{node}: underpass {}", arguments.join(" ")));
        self.mesh.underpass(node, arguments)
    }

    /// Asks `underpass explain` and prints of its answer the first line and what policy says; its exit status and first
    /// line.
    pub(crate) fn explain(&self, source: &str, destination: &str) -> Result<(Option<i32>, String)> {
        self.explain_request(source, destination, &[])
    }

    /// The same of a request, which options say more of.
    pub(crate) fn explain_request(
        &self,
        source: &str,
        destination: &str,
        options: &[&str],
    ) -> Result<(Option<i32>, String)> {
        let question = [&[source, destination], options].concat();
        self.screen.does(&format!("underpass explain -f manifests {}", question.join(" ")));
        let output = Command::new(&self.cli)
            .args(["explain", "-f"])
            .arg(self.manifests())
            .args(question)
            .output()
            .with_context(|| format!("start {}", self.cli.display()))?;
        let answer = String::from_utf8_lossy(&output.stdout);
        let problems = String::from_utf8_lossy(&output.stderr);
        let lines = || answer.lines().chain(problems.lines()).filter(|line| !line.trim().is_empty());
        let before_policy = |line: &&str| !line.trim_start().starts_with("peer-authentication");
        lines().take(1).chain(lines().skip_while(before_policy)).for_each(|line| self.screen.quote(line));
        Ok((output.status.code(), lines().next().unwrap_or_default().to_owned()))
    }
}

/// GETs from a pod.
pub(crate) fn get(mesh: &Mesh, pod: &str, url: &str) -> Result<Answer> {
    match mesh.bed.app(pod)?.act(http::fetch, url.to_owned()) {
        Ok(text) => Ok(Ok(serde_json::from_str(&text).with_context(|| text.clone())?)),
        Err(why) => Ok(Err(format!("{why:#}"))),
    }
}

/// The sample's namespaces, with the label or without.
fn namespaces(is_labelled: bool) -> Result<String> {
    let labelled = SAMPLE.iter().find(|(name, _)| *name == NAMESPACES).map_or("", |(_, text)| text);
    ensure!(labelled.contains(LABEL), "the sample's namespaces have no label");
    Ok(if is_labelled { labelled.to_owned() } else { labelled.replace(LABEL, "") })
}

/// One application in every pod of the namespace bookinfo, called as its labels say.
fn start_applications(mesh: &Mesh) -> Result<BTreeMap<String, Actor<()>>> {
    let pods: Vec<_> = mesh.bed.pods().filter(|pod| pod.spec().namespace == "bookinfo").collect();
    let start = |pod: &&underpass_tests::testbed::Pod| {
        let label = |name: &str| pod.spec().labels.get(name).cloned().unwrap_or_default();
        let (name, version) = (label("app"), label("version"));
        let called: &[&str] = match (name.as_str(), version.as_str()) {
            ("productpage", _) => &["details", "reviews"],
            ("reviews", "v2" | "v3") => &["ratings"],
            _ => &[],
        };
        let calls = called.iter().map(|service| url_of(service)).collect();
        let address = format!("[::]:{PORT}").parse()?;
        let actor = http::start(&pod.app()?, Service { name, version, address, calls })?;
        Ok((pod.spec().full_name(), actor))
    };
    pods.iter().map(start).collect()
}
