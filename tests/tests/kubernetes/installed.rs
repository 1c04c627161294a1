//! A mesh that Helm installed into a cluster with real nodes: what a user does first, and what must hold then. Level kubernetes.

#[path = "installed/command.rs"]
mod command;
#[path = "installed/labels.rs"]
mod labels;
#[path = "installed/policies.rs"]
mod policies;
#[path = "installed/self_test.rs"]
mod self_test;
#[path = "installed/traffic.rs"]
mod traffic;
#[path = "installed/upgrade.rs"]
mod upgrade;

use std::process::ExitCode;

use anyhow::{Context, Result};
use underpass_tests::{
    installed::{Installed, install},
    testbed::{
        Kubernetes, Lab, Site,
        harness::{self, Scenario},
    },
};

fn main() -> ExitCode {
    // All of it is in one cluster.
    harness::main(&[
        Scenario::new("a_label_puts_running_pods_into_the_mesh", a_label_puts_running_pods_into_the_mesh).lasting(2)
    ])
}

/// Pods in namespaces `shop` and `legacy`.
const APPLICATION: &str = include_str!("installed.yaml");
/// The nodes of the cluster.
const NODES: [&str; 2] = ["node-1", "node-2"];
/// The port of its servers.
const PORT: u16 = 9080;

fn a_label_puts_running_pods_into_the_mesh(lab: &Lab) -> Result<()> {
    let cluster = Kubernetes::start(lab, NODES.len())?;
    for image in ["underpass", "underpass-testapp"] {
        cluster.load_image(image)?;
    }
    let mesh = Installed { cluster };
    command::finds_a_bare_cluster_fit(&mesh)?;
    mesh.cluster.helm(&install(&["--set", "meshConfig.accessLogEncoding=JSON"]))?;
    mesh.wait_until_ready()?;
    self_test::shows_mutual_tls_and_a_denied_call(&mesh)?;
    mesh.cluster.kubectl().apply(APPLICATION)?;
    for (namespace, what) in
        [("shop", "deployment/server"), ("shop", "deployment/client"), ("legacy", "deployment/outsider")]
    {
        mesh.cluster.wait_for_rollout(namespace, what)?;
    }
    policies::are_defined_and_reviewed(&mesh)?;
    labels::on_and_off_under_traffic(&mesh)
}

/// The container of the one pod of an application, `namespace/app`.
fn site(mesh: &Installed, application: &str) -> Result<Site> {
    mesh.cluster.container(&pod(mesh, application)?, "main")
}

/// The one pod of an application, `namespace/app`.
fn pod(mesh: &Installed, application: &str) -> Result<String> {
    let (namespace, app) = application.split_once('/').context("namespace/app")?;
    let mut pods = mesh.cluster.pods(namespace, &format!("app={app}"))?;
    pods.pop().with_context(|| format!("{application} has no pod"))
}
