//! A real Prometheus that scrapes the agents of a mesh, and its promtool. Its own room because a test and the demo ask
//! the same questions.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    mesh::Mesh,
    testbed::{Lab, Program, Running, Site, wait::wait_until},
};

/// The variable by which `cargo xtask` names the programs.
const SERVER: &str = "UNDERPASS_PROMETHEUS";
const PROMTOOL: &str = "UNDERPASS_PROMTOOL";
/// The agents' port for scrapes.
const METRICS_PORT: u16 = 15020;
/// Its own address, on its node.
const ADDRESS: &str = "127.0.0.1:9090";

/// One series of an answer: its labels, and its value.
pub type Series = (BTreeMap<String, String>, f64);

/// A Prometheus that runs on a node.
#[derive(Debug)]
pub struct Prometheus {
    site: Site,
    promtool: String,
    _running: Running,
}

impl Prometheus {
    /// Starts it on a node, and waits until it has scraped the agents of all nodes, every one over this family of
    /// addresses.
    pub fn start(mesh: &Mesh, node: &str, ipv4: bool) -> Result<Self> {
        let targets = mesh.bed.nodes().iter().map(|node| {
            let address = node.spec().addresses.iter().find(|address| address.is_ipv4() == ipv4);
            let address: IpAddr = *address.with_context(|| format!("an address of {}", node.spec().name))?;
            Ok(SocketAddr::new(address, METRICS_PORT).to_string())
        });
        let targets = targets.collect::<Result<Vec<_>>>()?;
        let folder = mesh.bed.lab().directory().join("prometheus");
        fs::create_dir_all(&folder)?;
        let config = folder.join("prometheus.yml");
        let scrape = serde_json::json!({
            "global": { "scrape_interval": "1s", "scrape_timeout": "1s" },
            "scrape_configs": [{ "job_name": "underpass", "static_configs": [{ "targets": targets }] }],
        });
        fs::write(&config, scrape.to_string())?;
        let site = mesh.bed.node(node)?.shell()?;
        let program = Program::new(named(SERVER)?)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={ADDRESS}"));
        let running = site.start(&program)?;
        let promtool = named(PROMTOOL)?.to_string_lossy().into_owned();
        let prometheus = Self { site, promtool, _running: running };
        #[expect(clippy::cast_precision_loss, reason = "a handful of nodes")]
        let all = mesh.bed.nodes().len() as f64;
        wait_until("Prometheus to scrape every agent", || {
            Ok(prometheus.query("sum(up)").is_ok_and(|answer| answer.first().is_some_and(|(_, n)| *n == all)))
        })?;
        Ok(prometheus)
    }

    /// The answer to a query of PromQL, as of now.
    pub fn query(&self, query: &str) -> Result<Vec<Series>> {
        let url = format!("http://{ADDRESS}");
        let answer = self.site.run(&self.promtool, &["query", "-o", "json", "instant", &url, query])?;
        let answer: Value = serde_json::from_str(&answer).with_context(|| answer.clone())?;
        let series = answer.as_array().with_context(|| format!("{query}: a vector, not {answer}"))?;
        series.iter().map(read_series).collect()
    }
}

fn read_series(series: &Value) -> Result<Series> {
    let labels = series["metric"].as_object().with_context(|| format!("labels in {series}"))?;
    let labels = labels.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()));
    let value = series["value"][1].as_str().with_context(|| format!("a value in {series}"))?;
    Ok((labels.collect(), value.parse()?))
}

/// `cargo xtask` has said where it is.
#[must_use]
pub fn is_there() -> bool {
    named(SERVER).is_ok() && named(PROMTOOL).is_ok()
}

/// promtool's tests of rules, in a file that names those.
pub fn test_rules(lab: &Lab, file: &Path) -> Result<()> {
    let promtool = named(PROMTOOL)?.to_string_lossy().into_owned();
    let file = file.to_str().context("UTF-8")?;
    lab.here().run(&promtool, &["test", "rules", file]).map(drop)
}

/// promtool's findings about the metrics of an agent: none, where they are as Prometheus recommends.
pub fn lint(mesh: &Mesh, page: &str) -> Result<()> {
    let file = mesh.bed.lab().directory().join("metrics.txt");
    fs::write(&file, page)?;
    let command = format!("{} check metrics < {}", named(PROMTOOL)?.display(), file.display());
    let said = mesh.bed.lab().here().run("sh", &["-c", &command])?;
    ensure!(said.trim().is_empty(), "{said}");
    Ok(())
}

fn named(variable: &str) -> Result<PathBuf> {
    let path = std::env::var_os(variable);
    path.map(PathBuf::from).with_context(|| format!("{variable} names the program: run `cargo xtask test kernel`"))
}
