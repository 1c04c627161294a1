//! Replicas of the control plane die one after the other, and one stands still meanwhile, while policies change.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use underpass_tests::{
    apps::{
        hammer::{self, Hammer},
        relay::Relay,
    },
    cluster::{CONTROL_NODE, Cluster, Control},
    testbed::{Lab, wait::wait_until},
};

use super::{
    NODES, PODS,
    policy::{denied, passes, policy},
    support::{BRIEFLY, PORT, WORLD},
};

/// A port beside control's.
const RELAY: u16 = 15112;

pub(crate) fn no_agent_goes_back_to_an_older_policy(lab: &Lab) -> Result<()> {
    let mut cluster = Cluster::up(lab, WORLD)?;
    let mut address = cluster.control.address();
    address.set_port(RELAY);
    let mut relay = Relay::start(&cluster.mesh.bed.node(CONTROL_NODE)?.shell()?, address)?;
    cluster.lead_agents_to(address)?;
    relay.lead_to(cluster.control.address())?;
    cluster.start()?;
    cluster.wait_for_enrolled(&PODS)?;
    let [mut second, mut third] = [cluster.another_control(NODES[0])?, cluster.another_control(NODES[1])?];
    second.start()?;
    third.start()?;
    let _servers = cluster.mesh.echo(&["mesh/a2", "mesh/b2"], PORT)?;
    passes(&cluster.mesh, "out/o1", "mesh/b2", true)?;

    println!("the third stands still, and a policy is made that it does not know");
    third.running()?.signal(Signal::SIGSTOP)?;
    cluster.kubectl().apply(&policy("always", "b2", "DENY", "[{}]"))?;
    cluster.wait_for_policy("mesh/always", true)?;
    denied(&cluster.mesh, "out/o1", "mesh/b2", true, &[("reason", "denied"), ("policy", "mesh/always")])?;
    let until = lab.run_directory().join("stop");
    let to = vec![cluster.mesh.at("mesh/b2", true, PORT)?];
    let order = Hammer::new(to, "HAMMERED", &until).patience(BRIEFLY);
    let hammer = hammer::start(&cluster.mesh.bed.app("out/o1")?, order)?;
    let mut versions = Versions::of(&cluster)?;

    println!("the first dies, and the second serves");
    cluster.control.kill()?;
    relay.lead_to(second.address())?;
    versions.grow_with(&cluster, "one")?;

    println!("the second dies, and the third goes on from where it was");
    second.kill()?;
    third.running()?.signal(Signal::SIGCONT)?;
    relay.lead_to(third.address())?;
    versions.grow_with(&cluster, "two")?;

    println!("the first serves again, and has listed everything anew");
    third.running()?.signal(Signal::SIGSTOP)?;
    cluster.control.start()?;
    relay.lead_to(cluster.control.address())?;
    versions.grow_with(&cluster, "three")?;

    println!("it dies, and the third, which knows kinds up to older versions, hears of that and lists them anew");
    cluster.control.kill()?;
    let before = lists(&mut third)?;
    third.running()?.signal(Signal::SIGCONT)?;
    relay.lead_to(third.address())?;
    versions.grow_with(&cluster, "four")?;
    wait_until("the third to list anew", || Ok(lists(&mut third)? > before))?;

    std::fs::write(&until, "")?;
    let (answered, failed) = hammer.join()?;
    ensure!(answered == 0 && !failed.is_empty(), "{answered} were let in, {failed:?}");
    cluster.kubectl().run(&["delete", "authorizationpolicy", "always", "-n", "mesh"])?;
    cluster.wait_for_policy("mesh/always", false)?;
    passes(&cluster.mesh, "out/o1", "mesh/b2", true)
}

/// How often a replica has listed a kind anew because agents knew more of it.
fn lists(control: &mut Control) -> Result<usize> {
    Ok(control.running()?.log()?.matches("another replica has read more").count())
}

/// The versions of the facts that the agents have applied.
struct Versions([u64; 2]);

impl Versions {
    fn of(cluster: &Cluster) -> Result<Self> {
        let [one, two] = NODES.map(|node| cluster.link(node)?["version"].as_u64().context("a version"));
        Ok(Self([one?, two?]))
    }

    /// A policy that is made now comes to every agent, and no agent goes back meanwhile. It denies the calls to mesh/a2.
    fn grow_with(&mut self, cluster: &Cluster, name: &str) -> Result<()> {
        let full_name = format!("mesh/{name}");
        cluster.kubectl().apply(&policy(name, "a2", "DENY", "[{}]"))?;
        wait_until(&format!("{full_name} to be there"), || {
            let Self(now) = Self::of(cluster)?;
            ensure!(now.iter().zip(self.0).all(|(now, before)| *now >= before), "{now:?} after {:?}", self.0);
            self.0 = now;
            let mut are_there = true;
            for node in NODES {
                let policies = cluster.mesh.admin(node, "/policies")?;
                let has = |name: &str| policies.as_array().is_some_and(|all| all.iter().any(|p| p["name"] == name));
                ensure!(has("always"), "{node} has gone back: {policies}");
                are_there &= has(name);
            }
            Ok(are_there)
        })
    }
}
