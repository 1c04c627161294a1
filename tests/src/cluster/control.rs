//! The control plane of a cluster: `underpass-control` on its node, killed and started again as a test wants it.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

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

/// The control plane. A guard: dropped, it is killed.
#[derive(Debug)]
pub struct Control {
    site: Site,
    shell: Site,
    address: IpAddr,
    program: Program,
    running: Option<Running>,
}

impl Control {
    /// On this node, with this way to the API server. It does not run yet.
    pub(super) fn new(node: &Node, kubeconfig: &Path) -> Result<Self> {
        let path = std::env::var_os(PROGRAM)
            .with_context(|| format!("{PROGRAM} names the control plane: run `cargo xtask test kubernetes`"))?;
        let address = *node.spec().addresses.first().context("an address")?;
        let at = |port| SocketAddr::new(address, port).to_string();
        let program = Program::new(path)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["--xds-address", &at(PORT), "--monitoring-address", &at(MONITORING), "--log", LOG])
            .named("control");
        Ok(Self { site: node.service("underpass-control")?, shell: node.shell()?, address, program, running: None })
    }

    /// The address of facts and certificates.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.address, PORT)
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
            let asked = self.fetch("/healthz/ready");
            last = asked.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
            Ok(asked.is_ok())
        });
        waited.context(last)
    }

    /// It says that it is ready.
    pub fn is_ready(&self) -> bool {
        self.fetch("/healthz/ready").is_ok()
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
        let page = self.fetch("/metrics")?;
        let series = if labels.is_empty() { family.to_owned() } else { format!("{family}{{{labels}}}") };
        let line = page.lines().find_map(|line| line.strip_prefix(&series)?.strip_prefix(' '));
        line.unwrap_or("0").trim().parse().with_context(|| format!("{series} in {page}"))
    }

    fn fetch(&self, path: &str) -> Result<String> {
        self.shell.act(http::fetch, format!("http://{}{path}", SocketAddr::new(self.address, MONITORING)))
    }
}
