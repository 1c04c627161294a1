//! A mesh in the testbed: nodes and pods from manifests, an agent on every node, what the agents say. Its own room
//! because every end-to-end test and the demo stand on it.
//!
//! What must hold: a test waits on a fact. An edit is done when every agent has applied the World that it made.

mod access_log;
mod source;

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use underpass_config::door;
use underpass_core::{resolve::Model, world::MeshSettings};

use crate::{
    apps::{
        http,
        pair::Pair,
        servers::{self, Serve},
        socket::{self, Dial, Dialed},
    },
    testbed::{
        Actor, Description, Exit, Lab, Program, Running, Testbed,
        wait::{wait_for, wait_until},
    },
};

pub use self::source::{ControlPlane, Credentials, Source};

/// The variable by which `cargo xtask` names the command.
const COMMAND: &str = "UNDERPASS_CLI_BIN";
/// The filter of our programs' logs: all that is ours, and of others what they report.
pub(crate) const LOG: &str =
    "debug,h2=info,hyper=info,hyper_util=info,tonic=info,tower=info,rustls=info,kube_client=info,aya=info,aya_obj=info";

/// Nodes and pods, and the agents that run on the nodes.
#[derive(Debug)]
pub struct Mesh {
    /// Nodes and pods.
    pub bed: Testbed,
    source: Source,
    agents: BTreeMap<String, Running>,
    started: usize,
    options: Vec<String>,
    within: Vec<String>,
    files: Option<u64>,
    ipv6: bool,
    version: AgentVersion,
    stepped: bool,
}

/// A build of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentVersion {
    /// The one that is released.
    This,
    /// The one after it, whose kernel tables have other layouts.
    Next,
}

impl AgentVersion {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::This => Self::Next,
            Self::Next => Self::This,
        }
    }

    /// Of its kernel tables.
    #[must_use]
    pub const fn tables(self) -> u32 {
        match self {
            Self::This => underpass_abi::VERSION,
            Self::Next => underpass_abi::VERSION + 1,
        }
    }

    /// The agent's program.
    pub fn program(self) -> Result<PathBuf> {
        let variable = match self {
            Self::This => "UNDERPASS_AGENT_BIN",
            Self::Next => "UNDERPASS_NEXT_AGENT_BIN",
        };
        let path = std::env::var_os(variable)
            .with_context(|| format!("{variable} names the agent: run `cargo xtask test kernel`"))?;
        Ok(path.into())
    }
}

impl Mesh {
    /// Builds the nodes and pods that the manifests describe, by file name. No agent runs yet.
    pub fn up(lab: &Lab, files: &[(&str, &str)]) -> Result<Self> {
        let (manifests, description) = described(lab, files)?;
        let bed = Testbed::up(lab, &description)?;
        Ok(Self::over(bed, Source::Manifests(manifests)))
    }

    /// A mesh over these nodes and pods, of which agents learn from this source. No agent runs yet.
    #[must_use]
    pub fn over(bed: Testbed, source: Source) -> Self {
        Self {
            bed,
            source,
            agents: BTreeMap::new(),
            started: 0,
            options: Vec::new(),
            within: Vec::new(),
            files: None,
            ipv6: true,
            version: AgentVersion::This,
            stepped: false,
        }
    }

    /// What every agent that is started from now on learns from; the source before.
    pub fn set_source(&mut self, source: Source) -> Source {
        std::mem::replace(&mut self.source, source)
    }

    /// Options that every agent is started with from now on.
    pub fn options(&mut self, options: &[&str]) {
        self.options = options.iter().map(ToString::to_string).collect();
    }

    /// A program with arguments, such as `setpriv --no-new-privs --`, which every agent is started by from now on.
    pub fn within(&mut self, wrapper: &[&str]) {
        self.within = wrapper.iter().map(ToString::to_string).collect();
    }

    /// Limit of open files of every agent that is started from now on.
    pub fn files(&mut self, most: u64) {
        self.files = Some(most);
    }

    /// Every agent that is started from now on finds a kernel without IPv6.
    pub fn without_ipv6(&mut self) {
        self.ipv6 = false;
    }

    /// Every agent that is started from now on is of this version.
    pub fn agent_version(&mut self, version: AgentVersion) {
        self.version = version;
    }

    /// Whether agents that are started from now on stop before each step: a system call that changes names, pins or links.
    pub fn stepped(&mut self, stepped: bool) {
        self.stepped = stepped;
    }

    /// Starts an agent on every node, and waits until all of them have applied the manifests. With a control plane: on every
    /// node that has credentials, and until all are ready.
    pub fn start(&mut self) -> Result<()> {
        let nodes: Vec<String> = match &self.source {
            Source::Manifests(_) => self.bed.nodes().iter().map(|node| node.spec().name.clone()).collect(),
            Source::ControlPlane(control_plane) => control_plane.agents.keys().cloned().collect(),
        };
        nodes.iter().try_for_each(|node| self.launch(node))?;
        nodes.iter().try_for_each(|node| self.settled(node, 0))
    }

    /// Starts the agent of one node and waits until it has applied the manifests.
    pub fn start_on(&mut self, node: &str) -> Result<()> {
        self.launch(node)?;
        self.settled(node, 0)
    }

    /// Starts another agent of a node, which takes over from the one that runs; waits until it has. Returns the one before.
    pub fn take_over(&mut self, node: &str) -> Result<Running> {
        let mut before = self.begin_taking_over(node)?;
        if let Err(error) = self.agent(node)?.wait_for_log("take-over complete") {
            let said = before.ended()?.map(|exit| format!("ended: {exit:?}")).unwrap_or_default();
            bail!("{error:#}; the agent before it {said}:\n{}", before.log()?);
        }
        self.settled(node, 0)?;
        Ok(before)
    }

    /// The same, and waits for nothing.
    pub fn begin_taking_over(&mut self, node: &str) -> Result<Running> {
        let before = self.agents.remove(node).with_context(|| format!("no agent runs on {node}"))?;
        self.launch_with(node, &["--take-over"])?;
        Ok(before)
    }

    /// Starts the agent of one node and waits for nothing.
    pub fn launch(&mut self, name: &str) -> Result<()> {
        self.launch_with(name, &[])
    }

    fn launch_with(&mut self, name: &str, more: &[&str]) -> Result<()> {
        let node = self.bed.node(name)?;
        let lab = self.bed.lab();
        self.started += 1;
        let agent = self.version.program()?;
        let program = match self.within.split_first() {
            None => Program::new(agent),
            Some((wrapper, arguments)) => Program::new(wrapper).args(arguments).arg(agent),
        };
        let program = program
            .args(["--node", name])
            .args(self.source.arguments(lab.directory(), name)?)
            .arg("--bpffs")
            .arg(lab.bpffs())
            .arg("--cgroup-root")
            .arg(node.cgroup())
            .arg("--admin-socket")
            .arg(self.admin_socket(name))
            .arg("--access-log")
            .arg(self.access_log(name))
            .args(["--access-log-format", "json", "--log", LOG])
            .args(&self.options)
            .args(more)
            .files(self.files)
            .ipv6(self.ipv6)
            .stepped(self.stepped)
            .named(&format!("agent-{name}-{}", self.started));
        let program = self.source.environment(name).into_iter().fold(program, |to, (name, value)| to.env(name, value));
        let running = node.service("underpass-agent")?.start(&program)?;
        self.agents.insert(name.to_owned(), running);
        Ok(())
    }

    /// The address of a pod's application.
    pub fn at(&self, pod: &str, ipv4: bool, port: u16) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.bed.pod(pod)?.address(ipv4)?, port))
    }

    /// Tries a connection from a pod.
    pub fn call(&self, pod: &str, dial: Dial) -> Result<Dialed> {
        self.bed.app(pod)?.act(socket::dial, dial)
    }

    /// Starts an echo server on each of these pods, on `[::]:port`; in its answers it is called as the pod is.
    pub fn echo(&self, pods: &[&str], port: u16) -> Result<Vec<Actor<()>>> {
        let address = SocketAddr::from(([0u16; 8], port));
        pods.iter().map(|pod| servers::start(&self.bed.app(pod)?, Serve::new(pod, address))).collect()
    }

    /// A connection from one pod to another.
    pub fn pair(&self, client: &str, server: &str, ipv4: bool) -> Result<Pair> {
        let address = self.bed.pod(server)?.address(ipv4)?;
        Pair::open(&self.bed.app(client)?, &self.bed.app(server)?, address)
            .with_context(|| format!("from {client} to {server}"))
    }

    /// The node of a pod.
    pub fn node_of(&self, pod: &str) -> Result<&str> {
        Ok(&self.bed.pod(pod)?.spec().node)
    }

    /// A pod's connection is reset, after it was connected as far as its application knows.
    pub fn is_reset(&self, pod: &str, dial: Dial) -> Result<()> {
        let to = dial.to;
        let failure = self.call(pod, dial)?.failed().with_context(|| format!("{pod} to {to}"))?;
        ensure!(failure.errno == libc::ECONNRESET, "{pod} to {to}: {failure}");
        Ok(())
    }

    /// The agent of a node.
    pub fn agent(&mut self, node: &str) -> Result<&mut Running> {
        self.agents.get_mut(node).with_context(|| format!("no agent runs on {node}"))
    }

    /// The nodes that an agent runs on.
    pub fn agents(&self) -> impl Iterator<Item = &str> {
        self.agents.keys().map(String::as_str)
    }

    /// The agent of a node, for the test to keep: the mesh forgets it.
    pub fn release(&mut self, node: &str) -> Result<Running> {
        self.agents.remove(node).with_context(|| format!("no agent runs on {node}"))
    }

    /// This one is the agent of a node.
    pub fn adopt(&mut self, node: &str, agent: Running) {
        self.agents.insert(node.to_owned(), agent);
    }

    /// Kills the agent of a node: kill -9.
    pub fn kill(&mut self, node: &str) -> Result<Exit> {
        self.agents.remove(node).with_context(|| format!("no agent runs on {node}"))?.kill()
    }

    /// Asks the agent of a node to end.
    pub fn terminate(&mut self, node: &str) -> Result<Exit> {
        self.agents.remove(node).with_context(|| format!("no agent runs on {node}"))?.terminate()
    }

    /// Writes a manifest (nothing: removes it) and waits until every agent has applied it.
    pub fn edit(&mut self, file: &str, text: Option<&str>) -> Result<()> {
        let nodes: Vec<String> = self.agents.keys().cloned().collect();
        let before = nodes.iter().map(|node| self.taken(node)).collect::<Result<Vec<_>>>()?;
        self.write(file, text)?;
        nodes.iter().zip(before).try_for_each(|(node, before)| self.settled(node, before + 1))
    }

    /// Waits until no node with an agent has a pod in the mesh, nor one that is leaving it: what arrives at such a pod is still
    /// steered, and judged by its policies.
    pub fn wait_until_all_left(&self) -> Result<()> {
        self.agents().try_for_each(|node| {
            wait_until(&format!("the pods of {node} to be out of the mesh"), || {
                let status: Value = serde_json::from_str(&self.underpass(node, &["status", "-o", "json"])?)?;
                let pods = status["pods"]["by_state"].as_object().with_context(|| status.to_string())?;
                Ok(pods.values().all(|number| *number == 0))
            })
        })
    }

    /// Writes a manifest (nothing: removes it) and waits for nothing.
    pub fn write(&self, file: &str, text: Option<&str>) -> Result<()> {
        let path = self.path_of(file)?;
        match text {
            None => fs::remove_file(&path)?,
            // As editors do: a reader sees the old file or the new one.
            Some(text) => {
                let aside = path.with_file_name(format!(".{file}.new"));
                fs::write(&aside, text)?;
                fs::rename(&aside, &path)?;
            }
        }
        Ok(())
    }

    /// The path of a manifest.
    pub fn path_of(&self, file: &str) -> Result<PathBuf> {
        Ok(self.source.manifests()?.join(file))
    }

    /// The content of a manifest now.
    pub fn manifest(&self, file: &str) -> Result<String> {
        Ok(fs::read_to_string(self.path_of(file)?)?)
    }

    /// Replaces a text that stands in a manifest exactly once, as [`Mesh::edit`] does.
    pub fn replace(&mut self, file: &str, old: &str, new: &str) -> Result<()> {
        let text = self.manifest(file)?;
        ensure!(text.matches(old).count() == 1, "{old:?} stands {} times in {file}", text.matches(old).count());
        self.edit(file, Some(&text.replace(old, new)))
    }

    /// Waits until a node's agent has taken so many updates of the manifests (with a control plane: until it is ready), and has
    /// applied the newest World that it has.
    fn settled(&mut self, node: &str, taken: u64) -> Result<()> {
        let running = self.agent(node)?;
        let log = running.log_path().to_owned();
        let mut ended = None;
        wait_until(&format!("the agent of {node} to apply update {taken} of the manifests"), || {
            if let Some(exit) = self.agent(node)?.ended()? {
                ended = Some(exit);
                return Ok(true);
            }
            let Some(applied) = last_applied(&log)? else { return Ok(false) };
            let is_taken = match self.source {
                Source::Manifests(_) => self.taken(node)? >= taken.max(1),
                Source::ControlPlane(_) => self.is_ready(node)?,
            };
            Ok(is_taken && applied == self.version(node)?)
        })?;
        match ended {
            Some(exit) => bail!("the agent of {node} ended: {exit:?}"),
            None => Ok(()),
        }
    }

    /// The version of the World that a node's agent has.
    pub fn version(&self, node: &str) -> Result<u64> {
        let dump = self.admin(node, "/config_dump")?;
        dump["world"]["version"].as_u64().context("a version in /config_dump")
    }

    /// The agent of a node says that it is ready.
    pub fn is_ready(&self, node: &str) -> Result<bool> {
        let shell = self.bed.node(node)?.shell()?;
        Ok(shell.act(http::fetch, "http://127.0.0.1:15021/healthz/ready".to_owned()).is_ok())
    }

    /// The number of updates of the manifests that a node's agent has taken: its World is as new.
    fn taken(&self, node: &str) -> Result<u64> {
        let dump = self.admin(node, "/config_dump")?;
        Ok(dump["reports"]["manifests"]["taken"].as_u64().unwrap_or(0))
    }

    /// Waits for something that a node's agent has to say about the manifests, and returns it.
    pub fn problem(&self, node: &str, want: &[(&str, &str)]) -> Result<Value> {
        wait_for(&format!("a problem with {want:?} on {node}"), || {
            let dump = self.admin(node, "/config_dump")?;
            Ok(dump["reports"]["manifests"]["problems"]
                .as_array()
                .and_then(|all| all.iter().find(|p| fits(p, want)).cloned()))
        })
    }

    /// The open connections of a node that have these values.
    pub fn connections(&self, node: &str, want: &[(&str, &str)]) -> Result<Vec<Value>> {
        let open = self.admin(node, "/connections")?;
        let open = open.as_array().context("a list of connections")?;
        Ok(open.iter().filter(|connection| fits(connection, want)).cloned().collect())
    }

    /// The answer of the admin API of a node's agent.
    pub fn admin(&self, node: &str, path: &str) -> Result<Value> {
        let shell = self.bed.node(node)?.shell()?;
        let text = shell.act(http::fetch, format!("http://127.0.0.1:15000{path}"))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The metrics of a node's agent, as text.
    pub fn metrics(&self, node: &str) -> Result<String> {
        self.bed.node(node)?.shell()?.act(http::fetch, "http://127.0.0.1:15020/metrics".to_owned())
    }

    /// The command's output about the agent of a node; an error unless it exits with 0.
    pub fn underpass(&self, node: &str, arguments: &[&str]) -> Result<String> {
        let command = std::env::var(COMMAND)
            .with_context(|| format!("{COMMAND} names `underpass`: run `cargo xtask test kernel`"))?;
        let agent = self.target(node);
        self.bed.node(node)?.shell()?.run(&command, &[arguments, &["--agent", &agent]].concat())
    }

    /// The agent of a node as the command's `--agent` names it.
    #[must_use]
    pub fn target(&self, node: &str) -> String {
        format!("unix:{}", self.admin_socket(node).display())
    }

    /// A kernel counter of a node, summed over its CPUs.
    pub fn counter(&self, node: &str, name: &str) -> Result<u64> {
        let dump = self.admin(node, "/config_dump")?;
        dump["kernel"][name].as_u64().with_context(|| format!("no counter {name} in {}", dump["kernel"]))
    }

    /// The full address of the admin API of a node's agent.
    #[must_use]
    pub fn admin_socket(&self, node: &str) -> PathBuf {
        self.bed.lab().run_directory().join(node).join("admin.sock")
    }
}

/// Writes the manifests into a directory of the scenario; the directory, and the testbed that they describe.
pub(crate) fn described(lab: &Lab, files: &[(&str, &str)]) -> Result<(PathBuf, Description)> {
    let manifests = lab.directory().join("manifests");
    fs::create_dir(&manifests)?;
    for (name, text) in files {
        fs::write(manifests.join(name), text)?;
    }
    let update = door::read(&manifests);
    if let Some(problem) = update.errors().next() {
        bail!("{problem}");
    }
    let mut model = Model::empty(MeshSettings::default());
    model.apply(&update.batch);
    Ok((manifests, Description::from_model(&model)?))
}

fn fits(value: &Value, want: &[(&str, &str)]) -> bool {
    want.iter().all(|(key, expected)| text_of(&value[*key]) == *expected)
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// The version that an agent's log names last as applied.
fn last_applied(log: &Path) -> Result<Option<u64>> {
    let text = fs::read_to_string(log)?;
    let line = text.lines().rfind(|line| line.contains("applied version="));
    let version = line.and_then(|line| line.split("applied version=").nth(1));
    version.map(|v| v.split_whitespace().next().unwrap_or("").parse().context("a version")).transpose()
}
