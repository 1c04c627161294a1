//! End to end: agents whose kernel tables have other layouts follow each other on a node, forwards and back, under load; and
//! processes that are killed between the steps of it. Level kernel.
//!
//! What must hold: no connection of the mesh is refused, none is on the wire in the clear, and none reaches in plaintext what is
//! STRICT. Connections that a killed process carried are cut.

#[path = "versions/scene.rs"]
mod scene;
#[path = "versions/steps.rs"]
mod steps;
mod support;

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    apps::{
        hammer::{self, Hammer},
        socket::Dial,
    },
    mesh::AgentVersion,
    testbed::{Exit, Lab, Running, Step, wait::wait_until},
};

use scene::Scene;
use steps::{Steps, begin, stepped, takes_over, wait_for_step};
use support::{
    Family, PORT, clean_up_of, ensure_hidden, ensure_tunnelled,
    load::{Open, is_cut},
    passing_pod, pod_state,
};

underpass_tests::scenarios! {
    forwards_and_back_under_load,
    what_no_world_knows_goes_with_it,
    an_earlier_agent_alone_refuses,
    cleaned_up_in_the_middle_of_an_upgrade,
    cleaned_up_in_the_middle_of_the_way_back,
    a_pod_that_a_later_successor_enrolled,
    a_pod_that_an_earlier_successor_enrolled,
    a_later_successor_is_killed_at_every_step,
    an_earlier_successor_is_killed_at_every_step,
    an_earlier_predecessor_is_killed_at_every_step,
    a_later_predecessor_is_killed_at_every_step,
    a_later_predecessor_is_killed_while_it_writes,
    both_are_killed_at_every_step_forwards,
    both_are_killed_at_every_step_back,
}

const NODE: &str = "node-1";

/// No connection fails; what is open goes on at the agent that opened it, under the programs of the other version.
fn forwards_and_back_under_load(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab, AgentVersion::This, &["--drain", "3600"])?;
    ensure!(scene.is_of(AgentVersion::This)?);
    for (round, version) in [AgentVersion::Next, AgentVersion::This, AgentVersion::Next].into_iter().enumerate() {
        let mut open = Vec::new();
        for (port, family) in (9000..).zip(Family::ALL) {
            open.push(Open::new(&scene.mesh, "mesh/a", "mesh/b", family, port)?);
            open.push(Open::new(&scene.mesh, "mesh/b", "mesh/a", family, port)?);
        }
        scene.mesh.agent_version(version);
        let mut before = scene.mesh.take_over(NODE).with_context(|| format!("round {round}"))?;
        wait_until("its version alone to have tables", || scene.is_of(version))?;
        scene.load.goes_on()?;
        open.iter_mut().try_for_each(Open::goes_on)?;
        open.into_iter().try_for_each(Open::ends_in_order)?;
        ensure!(before.wait()? == Exit::Code(0), "{}", before.log()?);
        let to_b = Dial::to(Family::V6.to(scene.mesh.bed.pod("mesh/b")?, PORT)?).say("AGAIN");
        let talk = scene.mesh.call("mesh/a", to_b)?.answered()?;
        ensure_tunnelled(&scene.mesh, &talk, "a")?;
    }
    scene.end(|_| false)
}

/// The pod that leaves the mesh while its connections may go on.
const LEAVES: (&str, &str) = ("labels: {app: a2}", "labels: {app: a2, istio.io/dataplane-mode: none}");

/// A release in progress is one after the upgrade as well, and after the way back; no connection of others notices.
fn what_no_world_knows_goes_with_it(lab: &Lab) -> Result<()> {
    let options = ["--drain", "3600", "--release-drain", "3600"];
    let mut scene = Scene::new(lab, AgentVersion::This, &options)?;
    let mut open = Open::new(&scene.mesh, "mesh/a2", "mesh/b", Family::V4, 9000)?;
    let mut incoming = Open::new(&scene.mesh, "mesh/b", "mesh/a2", Family::V4, 9001)?;
    let world = scene.mesh.manifest("world.yaml")?;
    ensure!(world.matches(LEAVES.0).count() == 1);
    scene.mesh.edit("world.yaml", Some(&world.replace(LEAVES.0, LEAVES.1)))?;
    scene.mesh.agent(NODE)?.wait_for_log("pod release started")?;
    let mut draining = Vec::new();
    for version in [AgentVersion::Next, AgentVersion::This] {
        scene.mesh.agent_version(version);
        draining.push(scene.mesh.take_over(NODE)?);
        wait_until("its version alone to have tables", || scene.is_of(version))?;
        open.goes_on()?;
        incoming.goes_on()?;
        let state = || pod_state(&scene.mesh, NODE, "mesh/a2");
        wait_until("the release to go on", || Ok(state()?.as_deref() == Some("releasing")))?;
    }
    let pins = scene.mesh.bed.lab().pins(NODE).join("pods");
    let steered = || -> Result<usize> { Ok(fs::read_dir(&pins)?.count()) };
    ensure!(steered()? == 2, "a pod is not steered while what it opened is carried");
    open.ends_in_order()?;
    // What is left is carried by the first of the agents, which drains; the last one ends the steering meanwhile.
    wait_until("the end of the steering", || Ok(steered()? == 1))?;
    incoming.goes_on()?;
    incoming.ends_in_order()?;
    wait_until("the release to end", || Ok(pod_state(&scene.mesh, NODE, "mesh/a2")?.is_none()))?;
    for mut agent in draining {
        ensure!(agent.wait()? == Exit::Code(0), "{}", agent.log()?);
    }
    // The stranger may reach a2, which has left the mesh.
    let Scene { mesh, wire, load, stranger: _stranger } = scene;
    let (answered, failed) = load.end()?;
    // Its own connect() that was captured just before may be refused.
    let is_its_own = |what: &String| what.starts_with("mesh/a2 ") && is_cut(what);
    ensure!(answered > 60 && failed.keys().all(is_its_own), "{answered} answered, {failed:?}");
    ["OPEN", "THERE", "BACK"].into_iter().try_for_each(|secret| ensure_hidden(&mesh, &wire, "mesh/a", "mesh/b", secret))
}

fn cleaned_up_in_the_middle_of_an_upgrade(lab: &Lab) -> Result<()> {
    cleaned_up_in_the_middle(lab, AgentVersion::This)
}

fn cleaned_up_in_the_middle_of_the_way_back(lab: &Lab) -> Result<()> {
    cleaned_up_in_the_middle(lab, AgentVersion::Next)
}

/// Both agents are gone, and `connect` is one version's while the tables of the other count. The cleanup of an agent that knows
/// them leaves no socket that is captured: it would go on in the clear.
fn cleaned_up_in_the_middle(lab: &Lab, from: AgentVersion) -> Result<()> {
    /// Two pods', guard, on_tcp, connect4 and connect6: before bind4.
    const LINKS: usize = 6;
    let mut scene = Scene::new(lab, from, &["--drain", "1"])?;
    fs::write(scene.load.until(), "")?;
    let (before, stepper) = stepped(&mut scene, from)?;
    let mut links = 0;
    let is_over = |scene: &mut Scene| takes_over(scene, from.other());
    let swapped = wait_for_step(&mut scene, &stepper, is_over, |step| {
        links += usize::from(*step == Step::Bpf("update link"));
        links > LINKS
    })?;
    swapped.context("it has not stopped")?;
    before.kill()?;
    scene.mesh.kill(NODE)?;
    // One connect() after the other, also between the end of those that are captured and the end of the programs.
    let a = scene.mesh.bed.app("mesh/a")?;
    let until = lab.run_directory().join("cleaned-up");
    let to = Family::V4.to(scene.mesh.bed.pod("mesh/b")?, PORT)?;
    let mut connecting = hammer::start(&a, Hammer::new(vec![to], "AFTERWARDS", &until))?;
    let marked = || -> Result<Vec<String>> {
        let sockets = a.run("ss", &["-Htne", "state", "connected", "exclude", "time-wait"])?;
        Ok(sockets.lines().filter(|line| line.contains("fwmark:")).map(ToOwned::to_owned).collect())
    };
    wait_until("a captured connect() to wait", || Ok(!marked()?.is_empty()))?;
    let (exit, said) = clean_up_of(&scene.mesh, from, "state")?;
    ensure!(exit == Exit::Code(0) && said.contains("captured sockets of 2 pods"), "{exit}: {said}");
    ensure!(!lab.pins(NODE).exists(), "pins are left");
    let left = marked()?;
    ensure!(left.is_empty(), "captured sockets go on in the clear: {left:?}");
    hammer::answers(&mut connecting, 1)?; // without the mesh, as it should
    fs::write(until, "")?;
    connecting.join()?;
    Ok(())
}

/// Only the later one knows both; without it the earlier one says which version there is, and changes nothing.
fn an_earlier_agent_alone_refuses(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab, AgentVersion::Next, &["--drain", "1"])?;
    ensure!(scene.mesh.kill(NODE)? == Exit::Signal(9));
    scene.mesh.agent_version(AgentVersion::This);
    for options in [&["--drain", "1", "--take-over"][..], &["--drain", "1"]] {
        scene.mesh.options(options);
        scene.mesh.launch(NODE)?;
        let mut refused = scene.mesh.release(NODE)?;
        ensure!(refused.wait()? == Exit::Code(1));
        let said = refused.log()?;
        let theirs = format!("they have version {}", AgentVersion::Next.tables());
        ensure!(said.contains("cannot start") && said.contains(&theirs) && said.contains("--take-over"), "{said}");
    }
    ensure!(scene.is_of(AgentVersion::Next)?, "{:?}", scene.versions()?);
    scene.start(AgentVersion::Next)?;
    scene.load.goes_on()?;
    scene.take_over(AgentVersion::This)?;
    scene.load.goes_on()?;
    scene.end(|what| is_cut(what) || what.starts_with("out/"))
}

fn a_pod_that_a_later_successor_enrolled(lab: &Lab) -> Result<()> {
    the_successor_enrolled_it(lab, AgentVersion::This)
}

fn a_pod_that_an_earlier_successor_enrolled(lab: &Lab) -> Result<()> {
    the_successor_enrolled_it(lab, AgentVersion::Next)
}

/// A pod that comes while one agent follows the other is in the successor's tables. They do not count when that one is killed;
/// the pod stays captured all the same.
fn the_successor_enrolled_it(lab: &Lab, from: AgentVersion) -> Result<()> {
    const BRIEF: Duration = Duration::from_millis(20);
    let mut scene = Scene::new(lab, from, &["--drain", "1"])?;
    let (mut before, stepper) = stepped(&mut scene, from)?;
    let call = wait_for_step(
        &mut scene,
        &stepper,
        |scene| takes_over(scene, from.other()),
        |step| *step == Step::Bpf("update link"),
    )?;
    let call = call.context("it has not stopped")?;
    let (spec, text) = passing_pod(0, 0, "ambient")?;
    scene.mesh.bed.add_pods(std::slice::from_ref(&spec))?;
    scene.mesh.write("passing.yaml", Some(&text))?;
    stepper.let_go(&call)?;
    let next = lab.pins(NODE).join("next");
    let commits = |step: &Step| *step == Step::Name("remove", next.clone());
    wait_for_step(&mut scene, &stepper, |scene| takes_over(scene, from.other()), commits)?
        .context("it has not stopped")?;

    let pod = spec.full_name();
    let to = Family::ALL
        .into_iter()
        .map(|family| family.to(scene.mesh.bed.pod("mesh/b")?, PORT))
        .collect::<Result<Vec<_>>>()?;
    let order = Hammer::new(to, "PASSED", scene.load.until()).patience(BRIEF);
    let mut passing = hammer::start(&scene.mesh.bed.app(&pod)?, order)?;
    hammer::answers(&mut passing, 3)?;
    ensure!(scene.mesh.kill(NODE)? == Exit::Signal(9));
    before.wait()?;
    scene.start(from)?;
    hammer::answers(&mut passing, 3)?;
    scene.load.goes_on()?;
    fs::write(scene.load.until(), "")?;
    passing.join()?;
    ensure_hidden(&scene.mesh, &scene.wire, &pod, "mesh/b", "PASSED")?;
    scene.end(|what| is_cut(what) && (what.starts_with("out/") || !what.contains("ECONNREFUSED")))
}

/// The agent that is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Successor,
    Predecessor,
    Both,
}

fn a_later_successor_is_killed_at_every_step(lab: &Lab) -> Result<()> {
    at_every_step(lab, AgentVersion::This, Victim::Successor)
}

fn an_earlier_successor_is_killed_at_every_step(lab: &Lab) -> Result<()> {
    at_every_step(lab, AgentVersion::Next, Victim::Successor)
}

fn an_earlier_predecessor_is_killed_at_every_step(lab: &Lab) -> Result<()> {
    at_every_step(lab, AgentVersion::This, Victim::Predecessor)
}

fn a_later_predecessor_is_killed_at_every_step(lab: &Lab) -> Result<()> {
    at_every_step(lab, AgentVersion::Next, Victim::Predecessor)
}

fn both_are_killed_at_every_step_forwards(lab: &Lab) -> Result<()> {
    at_every_step(lab, AgentVersion::This, Victim::Both)
}

fn both_are_killed_at_every_step_back(lab: &Lab) -> Result<()> {
    at_every_step(lab, AgentVersion::Next, Victim::Both)
}

/// From an agent of version `from` to one of the other, once for every step of it: kill -9 before it is done. Then either the other
/// agent goes on, or the next one that starts completes or undoes what is begun.
fn at_every_step(lab: &Lab, from: AgentVersion, victim: Victim) -> Result<()> {
    let mut scene = Scene::new(lab, from, &["--drain", "1"])?;
    let mut steps = Vec::new();
    for n in 0.. {
        let Some((call, before, stepper)) = begin(&mut scene, from, n)? else { break };
        let what = format!("step {n}: {}", call.step);
        println!("{what}");
        match victim {
            Victim::Successor => successor_is_killed(&mut scene, before),
            Victim::Predecessor => {
                before.kill()?;
                stepper.let_go(&call)?;
                stepper.go_on();
                is_completed(&mut scene, from.other())
            }
            Victim::Both => both_are_killed(&mut scene, n, before),
        }
        .with_context(|| what.clone())?;
        steps.push(call.step);
        scene.load.goes_on().with_context(|| what.clone())?;
        let running = scene.counting()?;
        ensure!(scene.is_of(running)?, "{what}: {:?}", scene.versions()?);
        if running != from {
            scene.take_over(from).with_context(|| what.clone())?;
        }
    }
    let has = |step: &Step| steps.contains(step);
    let moves = steps.iter().filter(|step| **step == Step::Bpf("update link")).count();
    let marker = Step::Name("rename to", lab.pins(NODE).join("current"));
    ensure!(moves >= 9 && has(&marker), "{moves} links, of two pods and the node, and the marker: {steps:?}");
    scene.end(|what| is_cut(what) && (what.starts_with("out/") || !what.contains("ECONNREFUSED")))
}

/// On the way back the later agent writes the tables first: killed before any step of that, it leaves the earlier one without
/// them, which ends. The next one that starts undoes it.
fn a_later_predecessor_is_killed_while_it_writes(lab: &Lab) -> Result<()> {
    let mut scene = Scene::new(lab, AgentVersion::Next, &["--drain", "1"])?;
    let mut steps = 0;
    loop {
        scene.mesh.kill(NODE)?;
        scene.mesh.stepped(true);
        scene.mesh.agent_version(AgentVersion::Next);
        scene.mesh.launch(NODE)?;
        scene.mesh.stepped(false);
        let stepper = scene.mesh.agent(NODE)?.stepper()?;
        let serves = |scene: &mut Scene| Ok(scene.mesh.agent(NODE)?.log()?.contains("applied version"));
        wait_for_step(&mut scene, &stepper, serves, |_| false)?;
        scene.mesh.agent_version(AgentVersion::This);
        let mut before = scene.mesh.begin_taking_over(NODE)?;
        let mut numbers = Steps::default();
        let is_back = |scene: &mut Scene| takes_over(scene, AgentVersion::This);
        let call = wait_for_step(&mut scene, &stepper, is_back, |step| numbers.number(step) == Some(steps))?;
        let Some(call) = call else {
            stepper.go_on();
            before.wait()?;
            break;
        };
        println!("step {steps}: {}", call.step);
        steps += 1;
        before.kill()?;
        let mut alone = scene.mesh.release(NODE)?;
        ensure!(alone.wait()? == Exit::Code(1), "{}", alone.log()?);
        scene.start(AgentVersion::Next).with_context(|| format!("step {steps}: {}", call.step))?;
        scene.load.goes_on()?;
    }
    ensure!(steps >= 3, "what is left goes, a directory, tables: {steps} steps");
    scene.end(|what| is_cut(what) && (what.starts_with("out/") || !what.contains("ECONNREFUSED")))
}

/// The predecessor goes on, or has left already: then the next agent that starts finds what is begun.
fn successor_is_killed(scene: &mut Scene, mut before: Running) -> Result<()> {
    let goes_on = "hand-over failed, resuming";
    let undone = before.log()?.matches(goes_on).count();
    ensure!(scene.mesh.kill(NODE)? == Exit::Signal(9));
    wait_until("the predecessor to notice", || {
        Ok(before.log()?.matches(goes_on).count() > undone || before.ended()?.is_some())
    })?;
    if before.ended()?.is_some() {
        return scene.start_next();
    }
    scene.mesh.adopt(NODE, before);
    let running = scene.counting()?;
    wait_until("its programs and tables to be back", || scene.is_of(running))
}

/// The successor, whose predecessor is gone, completes it.
fn is_completed(scene: &mut Scene, to: AgentVersion) -> Result<()> {
    scene.mesh.agent(NODE)?.wait_for_log("take-over complete")?;
    wait_until("its version alone to have tables", || scene.is_of(to))
}

/// The next agent is one that knows what is begun: it completes, or undoes it.
fn both_are_killed(scene: &mut Scene, n: usize, before: Running) -> Result<()> {
    before.kill()?;
    ensure!(scene.mesh.kill(NODE)? == Exit::Signal(9));
    let counting = scene.counting()?;
    let next = if n.is_multiple_of(2) { counting } else { AgentVersion::Next };
    println!("{next:?} starts, {counting:?} counts");
    scene.start(next)
}
