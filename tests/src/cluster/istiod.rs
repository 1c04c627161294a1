//! istiod beside our own control plane: the same node, the same API server, other ports, and another ConfigMap for its roots, so that
//! neither is in the other's way.
//!
//! What must hold: it is configured as Istio's chart does for ambient mode, but for what is named here.

use std::{fs, net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result};

use super::{CONTROL_NODE, Cluster, Control, NAMESPACE, control::Known};
use crate::testbed::Program;

/// The variables by which `cargo xtask interop` names the program, and the folder of Istio's base chart.
const PROGRAM: &str = "UNDERPASS_ISTIOD";
const BASE: &str = "UNDERPASS_ISTIO_BASE";
/// The file of definitions in the chart.
const DEFINITIONS: &str = "files/crd-all.gen.yaml";
/// The namespace of Istio.
const SYSTEM: &str = "istio-system";
/// A name in its certificate: its Service's.
const NAME: &str = "istiod.istio-system.svc";
/// The ConfigMap of its roots. Istio's own name for it is that of our control plane too.
const ROOTS: &str = "istiod-root-cert";
/// The ports of facts and certificates, of metrics, of readiness, of webhooks, and of facts in the clear.
const PORTS: [u16; 5] = [16012, 16014, 16080, 16017, 16010];

/// The definitions of Istio's kinds, manifests.
pub fn definitions() -> Result<String> {
    let path = base_chart()?.join(DEFINITIONS);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// The folder of Istio's base chart.
pub fn base_chart() -> Result<PathBuf> {
    named(BASE)
}

/// istiod, for this cluster. It does not run yet.
pub fn beside(cluster: &Cluster) -> Result<Control> {
    let node = cluster.mesh.bed.node(CONTROL_NODE)?;
    let ip = *node.spec().addresses.first().context("an address")?;
    let [facts, monitoring, readiness, webhooks, clear] = PORTS.map(|port| SocketAddr::new(ip, port));
    let configuration = cluster.files().join("istiod-mesh.yaml");
    fs::write(&configuration, format!("rootNamespace: {SYSTEM}\ntrustDomain: cluster.local\n"))?;
    let trusted = format!("{NAMESPACE}/underpass-agent");
    let program = Program::new(named(PROGRAM)?)
        .args(["discovery", "--domain", "cluster.local", "--shutdownDuration", "1s", "--ctrlz_port", "0"])
        // Its rights are not what is looked at.
        .arg("--kubeconfig")
        .arg(cluster.kubectl().kubeconfig())
        .arg("--meshConfig")
        .arg(&configuration)
        .args(["--secureGRPCAddr", &facts.to_string(), "--monitoringAddr", &monitoring.to_string()])
        .args(["--httpAddr", &readiness.to_string(), "--httpsAddr", &webhooks.to_string()])
        .args(["--grpcAddr", &clear.to_string()])
        .env("PILOT_ENABLE_AMBIENT", "true")
        .env("CA_TRUSTED_NODE_ACCOUNTS", &trusted)
        .env("PILOT_CA_CERT_CONFIGMAP", ROOTS)
        .env("CLUSTER_ID", "Kubernetes")
        .env("REVISION", "default")
        .env("POD_NAME", "istiod")
        .env("POD_NAMESPACE", SYSTEM)
        .env("SERVICE_ACCOUNT", "istiod")
        .named("istiod");
    let known = Known {
        address: facts,
        name: NAME,
        roots: ROOTS,
        monitoring,
        readiness: format!("http://{}/ready", readiness),
    };
    Ok(Control { site: node.service("istiod")?, shell: node.shell()?, program, running: None, known })
}

fn named(variable: &str) -> Result<PathBuf> {
    let path = std::env::var_os(variable);
    path.map(PathBuf::from).with_context(|| format!("{variable} does not say where it is: run `cargo xtask interop`"))
}
