//! `underpass-cluster`: a cluster of the testbed with the mesh in it, for people. Started and ended by `cargo xtask cluster`, which
//! builds its parts and says where they are.
//!
//! It runs until it is told to end, and everything of it ends with it. It writes scripts for its user into a folder; the last one,
//! `in`, is there once all is ready.

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    installed::Installed,
    testbed::{
        Kubernetes, Lab,
        harness::{self, Scenario},
    },
};

/// The folder of the scripts.
const FOLDER: &str = "UNDERPASS_CLUSTER";
/// The number of nodes for pods.
const NODES: &str = "UNDERPASS_CLUSTER_NODES";
/// Set: without the mesh.
const BARE: &str = "UNDERPASS_CLUSTER_BARE";

fn main() -> ExitCode {
    harness::main_of(Scenario::new("cluster", run))
}

fn run(lab: &Lab) -> Result<()> {
    let folder = PathBuf::from(
        env::var_os(FOLDER).with_context(|| format!("{FOLDER} names no folder: run `cargo xtask cluster up`"))?,
    );
    let nodes =
        env::var(NODES).ok().map_or(Ok(2), |text| text.parse()).with_context(|| format!("{NODES} is no number"))?;
    ensure!((1..=9).contains(&nodes), "{nodes} nodes: 1 to 9 can be had");
    // A guard: all of it ends with this process.
    let (_mesh, _cluster);
    if env::var_os(BARE).is_some() {
        let cluster = Kubernetes::start(lab, nodes)?;
        ["underpass", "underpass-testapp"].iter().try_for_each(|image| cluster.load_image(image))?;
        cluster.write_scripts(&folder)?;
        _cluster = cluster;
    } else {
        let mesh = Installed::by_chart(lab, nodes, &[])?;
        mesh.cluster.write_scripts(&folder)?;
        _mesh = mesh;
    }
    loop {
        std::thread::park(); // a signal ends the process, and the runner removes everything
    }
}
