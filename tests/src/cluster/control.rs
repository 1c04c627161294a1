//! A control plane of a cluster, killed and started again as a test wants it: `underpass-control`, or [`istiod`](super::istiod).

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    apps::http,
    mesh::LOG,
    testbed::{Exit, Node, Program, Running, Site, wait::wait_until},
};

/// The variable by which `cargo xtask` names the program.
const PROGRAM: &str = "UNDERPASS_CONTROL_BIN";
/// A name in its certificate: its Service's.
pub const NAME: &str = "underpass-control.underpass-system.svc";
/// The port of facts and certificates.
const PORT: u16 = 15012;
/// The port of readiness and metrics.
const MONITORING: u16 = 15014;

/// A control plane. A guard: dropped, it is killed.
#[derive(Debug)]
pub struct Control {
    pub(super) site: Site,
    pub(super) shell: Site,
    pub(super) program: Program,
    pub(super) running: Option<Running>,
    pub(super) known: Known,
}

/// How others know a control plane.
#[derive(Debug)]
pub(super) struct Known {
    /// The address of facts and certificates.
    pub(super) address: SocketAddr,
    /// A name in its certificate.
    pub(super) name: &'static str,
    /// The ConfigMap with the roots that it is known by.
    pub(super) roots: &'static str,
    /// The address of its metrics.
    pub(super) monitoring: SocketAddr,
    /// The URL that answers with 200 once it is ready.
    pub(super) readiness: String,
}

impl Control {
    /// On this node, with this way to the API server. It does not run yet.
    pub(super) fn new(node: &Node, kubeconfig: &Path) -> Result<Self> {
        let path = std::env::var_os(PROGRAM)
            .with_context(|| format!("{PROGRAM} names the control plane: run `cargo xtask test kubernetes`"))?;
        let ip = *node.spec().addresses.first().context("an address")?;
        let [address, monitoring] = [PORT, MONITORING].map(|port| SocketAddr::new(ip, port));
        let program = Program::new(path)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args([
                "--xds-address",
                &address.to_string(),
                "--monitoring-address",
                &monitoring.to_string(),
                "--log",
                LOG,
            ])
            .named("control");
        let readiness = format!("http://{monitoring}/healthz/ready");
        let known = Known { address, name: NAME, roots: "istio-ca-root-cert", monitoring, readiness };
        Ok(Self { site: node.service("underpass-control")?, shell: node.shell()?, program, running: None, known })
    }

    /// The address of facts and certificates.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.known.address
    }

    /// Options that it is started with from now on.
    pub fn options(&mut self, options: &[&str]) {
        self.program = self.program.clone().args(options);
    }

    /// Starts it and waits until it is ready.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_until_ready()
    }

    /// Starts it and waits for nothing.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "the control plane runs");
        self.running = Some(self.site.start(&self.program)?);
        Ok(())
    }

    /// Waits until it says that it is ready.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let mut last = String::new();
        let waited = wait_until("the control plane to be ready", || {
            if let Some(exit) = self.running()?.ended()? {
                bail!("the control plane ended: {exit}");
            }
            let asked = self.fetch(&self.known.readiness);
            last = asked.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
            Ok(asked.is_ok())
        });
        waited.context(last)
    }

    /// It says that it is ready.
    pub fn is_ready(&self) -> bool {
        self.fetch(&self.known.readiness).is_ok()
    }

    /// Kills it: kill -9.
    pub fn kill(&mut self) -> Result<Exit> {
        self.running.take().context("the control plane does not run")?.kill()
    }

    /// Asks it to end, and waits for that.
    pub fn terminate(&mut self) -> Result<Exit> {
        self.running.take().context("the control plane does not run")?.terminate()
    }

    /// The process.
    pub fn running(&mut self) -> Result<&mut Running> {
        self.running.as_mut().context("the control plane does not run")
    }

    /// The value of a metric: of the series with these labels, as they are written.
    pub fn metric(&self, family: &str, labels: &str) -> Result<u64> {
        let page = self.fetch(&format!("http://{}/metrics", self.known.monitoring))?;
        let series = if labels.is_empty() { family.to_owned() } else { format!("{family}{{{labels}}}") };
        let line = page.lines().find_map(|line| line.strip_prefix(&series)?.strip_prefix(' '));
        line.unwrap_or("0").trim().parse().with_context(|| format!("{series} in {page}"))
    }

    fn fetch(&self, url: &str) -> Result<String> {
        self.shell.act(http::fetch, url.to_owned())
    }
}
