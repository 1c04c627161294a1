//! A real Kubernetes API server with its etcd, on a node of the testbed. Where no controller, scheduler and kubelet runs
//! ([`super::kubernetes`] has them), what they would write is written by the test ([`Kubectl::populate`]).
//!
//! ```text
//!   node "control-plane" (network namespace; the other nodes reach it over the link)
//!     kube-apiserver  [::]:6443  ── 127.0.0.1:2379  etcd, data in memory
//! ```
//! What must hold: both are processes of the scenario, files of both lie in its directories, so that they end with it. The
//! API server is stopped before etcd. A started API server has answered that it is ready.

mod kubectl;
mod objects;
mod pki;
mod tokens;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

pub use kubectl::Kubectl;

use self::pki::Pki;
use super::{
    actor::Exit,
    lab::Site,
    node::Node,
    process::{Program, Running},
    wait::wait_until,
};
use crate::apps::http;

/// The folder of Kubernetes' programs, and the path of etcd: named by `cargo xtask test kubernetes`.
pub(super) const KUBERNETES: &str = "UNDERPASS_KUBERNETES";
const ETCD: &str = "UNDERPASS_ETCD";

/// The API server's usual port.
pub(super) const PORT: u16 = 6443;
/// etcd's port for clients and for its peers, on loopback.
const ETCD_PORTS: [u16; 2] = [2379, 2380];
/// The addresses of Services: those of the sample manifests lie in them.
const SERVICE_ADDRESSES: &str = "10.96.0.0/16,fd00:10:96::/112";
/// Its own among them: that of the Service `kubernetes`.
const SERVICE_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
/// Of tokens of service accounts; also the audience of a token that is for the API server itself.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// The bearer token of a user in the group `system:masters`.
const ADMIN_TOKEN: &str = "admin";

/// A user whom the API server knows by a bearer token.
#[derive(Clone, Debug)]
pub struct User {
    /// `system:node:node-1`; also its token.
    pub name: String,
    /// `system:nodes`; none: empty.
    pub group: &'static str,
}

/// An API server and its etcd. A guard: dropped, both are killed.
#[derive(Debug)]
pub struct ApiServer {
    // In this order they are dropped.
    server: Option<Running>,
    etcd: Running,
    program: Program,
    site: Site,
    admin: Kubectl,
    pki: Pki,
    started_in: Duration,
}

impl ApiServer {
    /// The audience of tokens for itself.
    pub const AUDIENCE: &str = ISSUER;

    /// Starts both on this node and waits until the API server is ready. It answers at all of the node's addresses; clients are
    /// told the first.
    pub fn start(node: &Node) -> Result<Self> {
        Self::start_with(node, &[])
    }

    /// The same with further users.
    pub fn start_with(node: &Node, users: &[User]) -> Result<Self> {
        let begun = Instant::now();
        let programs = named(KUBERNETES)?;
        let addresses = &node.spec().addresses;
        let first = *addresses.first().with_context(|| format!("node {} has no address", node.spec().name))?;
        let site = node.service("kube-apiserver")?;
        let folder = site.lab().directory().join("kubernetes");
        fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
        let names: Vec<_> = addresses.iter().copied().chain([SERVICE_ADDRESS]).collect();
        let pki = Pki::write(&folder, &names)?;
        let tokens = folder.join("tokens.csv");
        let lines = users.iter().map(|User { name, group }| format!("{name},{name},{name},{group}\n"));
        fs::write(&tokens, format!("{ADMIN_TOKEN},admin,admin,system:masters\n{}", lines.collect::<String>()))?;
        let etcd = node.service("etcd")?.start(&etcd(&site.lab().run_directory().join("etcd"))?)?;
        let program = server(&programs, first, &pki, &tokens);
        let url = format!("https://{}", SocketAddr::new(first, PORT));
        let admin = Kubectl::new(&site, &programs.join("kubectl"), &url, &pki.authority, "admin", ADMIN_TOKEN)?;
        let mut it = Self { server: None, etcd, program, site, admin, pki, started_in: Duration::ZERO };
        it.start_again()?;
        it.started_in = begun.elapsed();
        Ok(it)
    }

    /// The duration of the first start, until it was ready.
    #[must_use]
    pub fn started_in(&self) -> Duration {
        self.started_in
    }

    /// kubectl on the API server's node, as a user who may do everything.
    #[must_use]
    pub fn kubectl(&self) -> &Kubectl {
        &self.admin
    }

    /// kubectl there as the owner of a token; its kubeconfig, `name`, serves other clients as well.
    pub fn kubectl_as(&self, name: &str, token: &str) -> Result<Kubectl> {
        self.admin.with_token(name, token)
    }

    /// The kubeconfig of a user.
    pub(super) fn kubeconfig_of(&self, user: &User) -> Result<PathBuf> {
        Ok(self.kubectl_as(&user.name.replace(':', "-"), &user.name)?.kubeconfig().to_owned())
    }

    /// The folder of its files.
    pub(super) fn folder(&self) -> &Path {
        self.pki.authority.parent().unwrap_or(Path::new("/nonexistent"))
    }

    /// The certificate of its CA, and the key that signs the tokens of service accounts.
    pub(super) fn files(&self) -> [&Path; 2] {
        [&self.pki.authority, &self.pki.signing]
    }

    /// Kills the API server: kill -9. etcd goes on.
    pub fn kill(&mut self) -> Result<Exit> {
        self.server.take().context("the API server does not run")?.kill()
    }

    /// Starts the API server after it was killed, with what etcd has, and waits until it is ready.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.server.is_none(), "the API server runs");
        let server = self.server.insert(self.site.start(&self.program)?);
        // Looked for first because kubectl is a heavy way to ask.
        server.wait_for_log("Serving securely on")?;
        self.wait_until_ready()
    }

    /// Waits until the API server says that it is ready and has made the namespaces that every cluster has.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let server = self.server.as_mut().context("the API server does not run")?;
        let admin = &self.admin;
        let mut last = String::new();
        let waited = wait_until("the API server to be ready", || {
            if let Some(exit) = server.ended()? {
                bail!("the API server ended: {exit}");
            }
            let asked = admin.is_ready().and_then(|()| admin.run(&["get", "namespace", "default"]));
            last = asked.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
            Ok(asked.is_ok())
        });
        waited.context(last)
    }

    /// Stops etcd in its tracks: the API server waits for it, and is not ready.
    pub fn pause_etcd(&mut self) -> Result<()> {
        self.etcd.signal(Signal::SIGSTOP)
    }

    /// Has etcd forget every state before the present one: a watch that has not seen that begins with a list anew.
    pub fn compact_etcd(&self) -> Result<()> {
        self.site.act(compact, ETCD_PORTS[0])
    }

    /// Lets etcd go on.
    pub fn resume_etcd(&mut self) -> Result<()> {
        self.etcd.signal(Signal::SIGCONT)
    }
}

/// By etcd's JSON gateway.
fn compact(port: u16) -> Result<()> {
    let ask = |method: &str, body: &str| http::post(&format!("http://127.0.0.1:{port}/v3/kv/{method}"), body);
    let answer: Value = serde_json::from_str(&ask("range", r#"{"key":"AA=="}"#)?)?;
    let revision = answer["header"]["revision"].as_str().with_context(|| format!("no revision in {answer}"))?;
    ask("compaction", &format!(r#"{{"revision":"{revision}","physical":true}}"#)).map(drop)
}

pub(super) fn named(variable: &str) -> Result<PathBuf> {
    let path = std::env::var_os(variable);
    path.map(PathBuf::from)
        .with_context(|| format!("{variable} does not say where the programs are: run `cargo xtask test kubernetes`"))
}

/// One member, whose data are worth nothing after the scenario.
fn etcd(data: &Path) -> Result<Program> {
    let [clients, peers] = ETCD_PORTS.map(|port| format!("http://127.0.0.1:{port}"));
    let program = Program::new(named(ETCD)?)
        .args(["--name", "etcd", "--data-dir"])
        .arg(data)
        .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
        .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
        .args(["--initial-cluster", &format!("etcd={peers}")])
        .named("etcd");
    Ok(program)
}

fn server(programs: &Path, address: IpAddr, pki: &Pki, tokens: &Path) -> Program {
    let [etcd, _] = ETCD_PORTS;
    let file = |option: &str, path: &Path| format!("--{option}={}", path.display());
    Program::new(programs.join("kube-apiserver"))
        .arg(format!("--etcd-servers=http://127.0.0.1:{etcd}"))
        .arg(format!("--advertise-address={address}"))
        .arg(format!("--secure-port={PORT}"))
        .arg(format!("--service-cluster-ip-range={SERVICE_ADDRESSES}"))
        .arg(file("tls-cert-file", &pki.certificate))
        .arg(file("tls-private-key-file", &pki.key))
        .arg(file("token-auth-file", tokens))
        .arg(format!("--service-account-issuer={ISSUER}"))
        .arg(file("service-account-signing-key-file", &pki.signing))
        .arg(file("service-account-key-file", &pki.verifying))
        .args(["--authorization-mode=Node,RBAC", "--allow-privileged=true"])
        // Names of nodes resolve nowhere, and a webhook may be a pod that no Service leads to from here.
        .args(["--kubelet-preferred-address-types=InternalIP", "--enable-aggregator-routing=true"])
        .named("kube-apiserver")
}
