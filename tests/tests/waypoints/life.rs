//! The life of a waypoint that its node's agent starts: it comes and goes with its Gateway, and comes back.

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use underpass_tests::{
    apps::{
        http::{self, Request, Response},
        socket::Dial,
    },
    testbed::{
        Actor, Exit, Lab,
        wait::{wait_for, wait_until},
    },
};

use crate::{CLIENT, NODES, Scene, WORLD, get};

/// The Gateway of namespace default, as it stands in the world.
fn gateway() -> Result<&'static str> {
    let mut documents = WORLD.split("---\n");
    documents.find(|d| d.contains("kind: Gateway") && d.contains("namespace: default")).context("the Gateway")
}

/// The waypoints of a node, as its agent says.
fn waypoints(scene: &Scene, node: &str) -> Result<Vec<Value>> {
    let status: Value = serde_json::from_str(&scene.mesh.underpass(node, &["status", "-o", "json"])?)?;
    Ok(status["waypoints"].as_array().with_context(|| status.to_string())?.clone())
}

/// The node of the waypoint of namespace default, and its process. An agent that restarts one has status 2, and no answer here.
fn waypoint_of_default(scene: &Scene) -> Result<(&'static str, Pid)> {
    wait_for("a waypoint of namespace default", || {
        for node in NODES {
            let Ok(all) = waypoints(scene, node) else { continue };
            let own = all.iter().find(|one| one["gateway"] == "default/waypoint" && one["state"] == "serving");
            if let Some(pid) = own.and_then(|one| one["pid"].as_i64()) {
                return Ok(Some((node, Pid::from_raw(pid.try_into()?))));
            }
        }
        Ok(None)
    })
}

fn is_gone(pid: Pid) -> bool {
    kill(pid, None).is_err()
}

/// The client asks so many times, one after another, meanwhile.
fn asks(scene: &Scene, times: usize) -> Result<Actor<Vec<Response>>> {
    let request = get("reviews", "/");
    scene.mesh.bed.app(CLIENT)?.begin(http::ask_all, vec![request; times])
}

fn all_answered(answers: &[Response]) -> Result<()> {
    let failed: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
    ensure!(failed.is_empty(), "{} of {} requests failed: {:?}", failed.len(), answers.len(), failed.first());
    Ok(())
}

pub(crate) fn a_waypoint_comes_and_goes_with_its_gateway(lab: &Lab) -> Result<()> {
    let mut scene = Scene::up(lab)?;
    let (_, pid) = waypoint_of_default(&scene)?;
    scene.mesh.edit("world.yaml", Some(&WORLD.replace(gateway()?, "")))?;
    wait_until("the waypoint to end", || Ok(is_gone(pid)))?;
    // Refused: its routes and policies are not known.
    let vip = scene.mesh.bed.services().iter().find(|s| s.name == "reviews").context("reviews")?.addresses[0];
    scene.mesh.is_reset(CLIENT, Dial::to((vip, 80)))?;
    let want = [("direction", "outbound"), ("reason", "waypoint_missing")];
    let node = scene.mesh.node_of(CLIENT)?.to_owned();
    scene.mesh.logged(&node, &want)?;
    // Others go on.
    ensure!(scene.ask(CLIENT, get("production/api", "/"))?.status == 200);
    scene.mesh.edit("world.yaml", Some(WORLD))?;
    scene.reaches("default/reviews")?;
    // Without an agent it ends as well.
    let (node, pid) = waypoint_of_default(&scene)?;
    ensure!(scene.mesh.terminate(node)? == Exit::Code(0));
    wait_until("the waypoint to end with its agent", || Ok(is_gone(pid)))
}

pub(crate) fn a_killed_waypoint_is_started_again(lab: &Lab) -> Result<()> {
    let mut scene = Scene::up(lab)?;
    let (_, pid) = waypoint_of_default(&scene)?;
    kill(pid, Signal::SIGKILL)?;
    wait_until("the waypoint to be gone", || Ok(is_gone(pid)))?;
    // New connections wait for the next one.
    all_answered(&asks(&scene, 20)?.join()?)?;
    let again = waypoint_of_default(&scene)?.1;
    ensure!(again != pid);
    // So it is with the agent: what it has started ends with it, and the next one starts it anew.
    let (node, _) = waypoint_of_default(&scene)?;
    scene.mesh.kill(node)?;
    wait_until("the waypoint to end with its agent", || Ok(is_gone(again)))?;
    scene.mesh.start_on(node)?;
    scene.reaches("default/reviews")
}

pub(crate) fn a_successor_starts_its_own_waypoint(lab: &Lab) -> Result<()> {
    let mut scene = Scene::up(lab)?;
    let (node, pid) = waypoint_of_default(&scene)?;
    let asking = asks(&scene, 400)?;
    let mut before = scene.mesh.take_over(node)?;
    ensure!(before.wait()? == Exit::Code(0));
    ensure!(is_gone(pid), "the predecessor has left its waypoint behind");
    all_answered(&asking.join()?)?;
    ensure!(waypoint_of_default(&scene)?.1 != pid);
    all_answered(&asks(&scene, 20)?.join()?)
}

pub(crate) fn without_a_node_for_it_calls_are_refused(lab: &Lab) -> Result<()> {
    let world = WORLD.replace("  annotations: {underpass.dev/waypoint-range", "  annotations: {other/waypoint-range");
    let mut scene = Scene::of(lab, &world)?;
    let vip = scene.mesh.bed.services().iter().find(|s| s.name == "reviews").context("reviews")?.addresses[0];
    scene.mesh.is_reset(CLIENT, Dial::to((vip, 80)))?;
    for node in NODES {
        let all = waypoints(&scene, node)?;
        ensure!(all.is_empty(), "{node}: {all:?}");
    }
    // By a pod's own address nothing passes a waypoint.
    let pod = scene.mesh.at("default/reviews-v1", true, crate::PORT)?;
    ensure!(scene.ask(CLIENT, Request::get(&format!("http://{pod}/")))?.status == 200);
    scene.mesh.edit("world.yaml", Some(WORLD))?;
    scene.reaches("default/reviews")
}
