//! A Deployment that is rolled over and over while a client calls it: what the mesh must not add to what a rollout costs anyway.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use underpass_tests::{
    apps::hammer::{self, Hammer},
    installed::Installed,
};

use super::site;

/// Rollouts, one after another.
const ROLLOUTS: usize = 10;
/// Connections before the first rollout and after the last one.
const MANY: u64 = 100;

pub(crate) fn lose_no_connection(mesh: &Installed) -> Result<()> {
    let kubectl = mesh.cluster.kubectl();
    let service = kubectl.get(&["service", "server", "-n", "shop"])?;
    let vip: SocketAddr = format!("{}:80", service["spec"]["clusterIP"].as_str().context("an address")?).parse()?;
    let until = mesh.cluster.bed.lab().directory().join("rollouts");
    let client = site(mesh, "client")?.with_files_of_the_lab();
    let mut calls = hammer::start(&client, Hammer::new(vec![vip], "rollouts", &until))?;
    hammer::answers(&mut calls, MANY)?;
    for _ in 0..ROLLOUTS {
        kubectl.run(&["rollout", "restart", "-n", "shop", "deployment/server"])?;
        mesh.cluster.wait_for_rollout("shop", "deployment/server")?;
    }
    hammer::answers(&mut calls, MANY)?;
    std::fs::write(&until, "")?;
    hammer::ensure_none_failed(calls).map(drop)
}
