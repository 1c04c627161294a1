//! Release: open connections, the end of a sandbox, an agent that comes back, a successor that fails, cleanup.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use underpass_tests::{
    apps::{
        remote::Sockets,
        servers,
        socket::{Dial, Opt, dial},
    },
    testbed::{Description, Lab, Testbed, wait::wait_until},
};

use super::agent::{Agent, Fact, Order, Sight};
use super::setup::{both, enrolled, facts, hello, traces, who, without};

pub(crate) fn a_released_pod_is_as_it_was(lab: &Lab) -> Result<()> {
    let mut description = Description::two_nodes(2)?;
    description.pods.retain(|pod| pod.name != "a2");
    let bed = Testbed::up(lab, &description)?;
    let before = traces(&bed, "default/a1")?;
    ensure!(before.is_empty(), "{before}");
    let mut agent = Agent::start(&bed, Duration::ZERO)?;
    let facts = facts(&bed);
    let _echo = servers::echo(&bed.app("default/b1")?, "[::]:8080".parse()?)?;
    let _app = servers::echo(&bed.app("default/a1")?, "[::]:8080".parse()?)?;
    for round in 1..=2 {
        agent.world(&facts)?;
        agent.wait_for("default/a1", "enrolled")?;
        ensure!(traces(&bed, "default/a1")?.contains("1777"), "no rule");
        // Open connections of every kind, in both directions and families.
        let (mut ours, mut theirs) =
            (Sockets::start(&bed.app("default/a1")?)?, Sockets::start(&bed.app("default/b2")?)?);
        let mut open = Vec::new();
        for (there, here) in both(&bed, "default/b1")?.into_iter().zip(both(&bed, "default/a1")?) {
            open.push((true, ours.connect((there, 8080).into())?));
            open.push((false, theirs.connect((here, 8080).into())?));
            if let IpAddr::V4(v4) = there {
                open.push((true, ours.connect((v4.to_ipv6_mapped(), 8080).into())?));
                // One whose mark the application took away.
                let unmarked = ours.connect((v4, 8080).into())?;
                ours.set(unmarked, Opt::Mark(0))??;
                open.push((true, unmarked));
            }
        }
        for (outgoing, id) in open.iter().take(3) {
            let sockets = if *outgoing { &mut ours } else { &mut theirs };
            let expected = if *outgoing { "tunnel" } else { "echo" };
            let app = hello(sockets, *id)?;
            ensure!(app == expected, "{app}");
        }
        agent.world(&without(&facts, "default/a1"))?;
        agent.wait_for("default/a1", "")?;
        for (outgoing, id) in open {
            let sockets = if outgoing { &mut ours } else { &mut theirs };
            let ended = match sockets.send(id, b"x")? {
                Err(e) => Err(e),
                Ok(()) => sockets.read_to_end(id)?.map(drop),
            };
            ensure!(ended.is_err() || !outgoing, "round {round}: a captured connection goes on");
        }
        drop((ours, theirs));
        let left = traces(&bed, "default/a1")?;
        ensure!(left.is_empty(), "{left}");
        let sight = agent.look()?;
        let empty = Sight { pods: 0, locals: 0, cgroups: 0, steered: 0, listeners: 0, ..sight.clone() };
        ensure!(sight == empty && sight.removed.len() == round, "{sight:?}");
        for (there, here) in both(&bed, "default/b1")?.into_iter().zip(both(&bed, "default/a1")?) {
            ensure!(who(&bed, "default/a1", (there, 8080))?.app == "echo", "still captured");
            ensure!(who(&bed, "default/b2", (here, 8080))?.app == "echo", "not reachable");
        }
    }
    agent.0.tell(&Order::Remove)?;
    agent.0.event::<()>()
}

pub(crate) fn release_waits_for_open_connections(lab: &Lab) -> Result<()> {
    let (bed, mut agent, facts) = enrolled(lab, Duration::from_secs(600))?;
    let _echo = servers::echo(&bed.app("default/b1")?, "[::]:8080".parse()?)?;
    let to = SocketAddr::new(bed.pod("default/b1")?.v4()?, 8080);
    let mut sockets = Sockets::start(&bed.app("default/a1")?)?;
    let open = sockets.connect(to)?;
    ensure!(hello(&mut sockets, open)? == "tunnel");
    agent.world(&without(&facts, "default/a1"))?;
    agent.wait_for("default/a1", "releasing")?;
    ensure!(who(&bed, "default/a1", to)?.app == "echo", "new connections are captured");
    sockets.send(open, b"still there?")??;
    ensure!(sockets.receive(open, 12)?? == b"still there?", "the old one is gone");
    // Wanted again: it is captured as before, and nothing was lost.
    agent.world(&facts)?;
    agent.wait_for("default/a1", "enrolled")?;
    ensure!(who(&bed, "default/a1", to)?.app == "tunnel", "not captured again");
    sockets.send(open, b"and now?")??;
    ensure!(sockets.receive(open, 8)?? == b"and now?", "it was lost");
    agent.world(&without(&facts, "default/a1"))?;
    agent.wait_for("default/a1", "releasing")?;
    sockets.close(open)??;
    agent.wait_for("default/a1", "")?;
    ensure!(who(&bed, "default/a1", to)?.app == "echo");
    ensure!(agent.look()?.pods == 1);
    Ok(())
}

pub(crate) fn a_sandbox_that_ends_leaves_nothing(lab: &Lab) -> Result<()> {
    let (mut bed, mut agent, facts) = enrolled(lab, Duration::ZERO)?;
    // The object goes first: what still runs stays captured.
    let gone: Vec<_> = facts.iter().filter(|fact| fact.name != "default/a1").cloned().collect();
    agent.world(&gone)?;
    let to = SocketAddr::new(bed.pod("default/b1")?.v4()?, 8080);
    ensure!(who(&bed, "default/a1", to)?.app == "tunnel", "let go with its object");
    let ended: Vec<_> = facts.iter().cloned().map(|fact| Fact { ended: fact.name == "default/a1", ..fact }).collect();
    agent.world(&ended)?;
    ensure!(who(&bed, "default/a1", to)?.app == "tunnel", "let go when its object ended");
    let mut sockets = Sockets::start(&bed.app("default/a1")?)?;
    sockets.connect(to)?;
    let (device, node) = (bed.pod("default/a1")?.node_device(), bed.node("node-1")?.shell()?);
    drop(sockets);
    bed.remove_pod("default/a1")?;
    // Announced too: only then has what stands for the tunnel let go of the namespace.
    wait_until("the sandbox is purged", || agent.look().map(|sight| sight.pods == 1 && !sight.removed.is_empty()))?;
    // The device goes with the namespace, which lives as long as any process has a socket or a descriptor there.
    wait_until("the namespace is gone", || Ok(!node.run("ip", &["-o", "link"])?.contains(&format!("{device}@"))))?;
    let sight = agent.look()?;
    let left = Sight { pods: 1, locals: 3, cgroups: 1, steered: 1, listeners: 2, ..sight.clone() };
    ensure!(sight == left && sight.removed == ["default/a1"], "{sight:?}");
    Ok(())
}

pub(crate) fn an_agent_that_comes_back_finds_everything(lab: &Lab) -> Result<()> {
    let (mut bed, agent, facts) = enrolled(lab, Duration::ZERO)?;
    let _app = servers::echo(&bed.app("default/a1")?, "[::]:8080".parse()?)?;
    agent.0.kill()?;
    bed.remove_pod("default/a2")?;
    let mut waiting = Vec::new();
    for to in both(&bed, "default/b1")? {
        let patient = Dial::to((to, 8080)).patience(Duration::from_secs(60));
        waiting.push(bed.app("default/a1")?.begin(dial, patient)?);
    }
    for own in both(&bed, "default/a1")? {
        let failure = bed.app("default/b2")?.act(dial, Dial::to((own, 8080)))?.failed()?;
        ensure!(failure.step == "connect" && !failure.is_timeout(), "inbound without an agent: {failure}");
    }
    let mut agent = Agent::start(&bed, Duration::ZERO)?;
    let sight = agent.look()?;
    ensure!(sight.pods == 2 && sight.destinations == 6, "changed before it knew the World: {sight:?}");
    agent.world(&facts)?;
    agent.wait_for("default/a1", "enrolled")?;
    for waited in waiting {
        let talk = waited.join()?.answered()?;
        ensure!(talk.who()?.app == "tunnel", "{talk:?}");
    }
    for (own, client) in both(&bed, "default/a1")?.into_iter().zip(both(&bed, "default/b2")?) {
        ensure!(who(&bed, "default/b2", (own, 8080))?.peer.ip() == client);
    }
    wait_until("what ended meanwhile is purged", || Ok(agent.look()?.pods == 1))?;
    let sight = agent.look()?;
    let left = Sight { pods: 1, locals: 3, cgroups: 1, agents: 1, steered: 1, listeners: 2, ..sight.clone() };
    ensure!(sight == left, "{sight:?}");
    Ok(())
}

/// A successor changes what it likes while the agent before it stands still; where it dies, that one puts its pods right: the
/// listeners in the kernel are its own again, and a pod that was released is in the mesh.
pub(crate) fn what_a_failed_successor_took_down_is_put_right(lab: &Lab) -> Result<()> {
    let (bed, mut agent, facts) = enrolled(lab, Duration::ZERO)?;
    let _apps = [
        servers::echo(&bed.app("default/a1")?, "[::]:8080".parse()?)?,
        servers::echo(&bed.app("default/b1")?, "[::]:8080".parse()?)?,
    ];
    let before = agent.look()?;
    agent.0.tell(&Order::StandStill)?;
    agent.0.event::<()>()?;
    let mut successor = Agent::start_as("successor", &bed, "node-1", Duration::ZERO)?;
    successor.world(&without(&facts, "default/a1"))?;
    successor.wait_for("default/a2", "enrolled")?;
    wait_until("a1 is released", || Ok(successor.look()?.pods == 1))?;
    ensure!(who(&bed, "default/a1", (bed.pod("default/b1")?.v4()?, 8080))?.app == "echo", "it is in the mesh");
    successor.0.kill()?;

    agent.0.tell(&Order::GoOn)?;
    agent.0.event::<()>()?;
    wait_until("everything is as before", || Ok(agent.look()? == before))?;
    for pod in ["default/a1", "default/a2"] {
        for to in both(&bed, "default/b1")? {
            ensure!(who(&bed, pod, (to, 8080))?.app == "tunnel", "{pod} to {to} leaves in the clear");
        }
    }
    for (own, client) in both(&bed, "default/a1")?.into_iter().zip(both(&bed, "default/b2")?) {
        ensure!(who(&bed, "default/b2", (own, 8080))?.peer.ip() == client);
    }
    Ok(())
}

pub(crate) fn pods_that_left_while_no_agent_ran_are_released(lab: &Lab) -> Result<()> {
    let (bed, agent, facts) = enrolled(lab, Duration::ZERO)?;
    let _echo = servers::echo(&bed.app("default/b1")?, "[::]:8080".parse()?)?;
    agent.0.kill()?;
    let mut agent = Agent::start(&bed, Duration::ZERO)?;
    agent.world(&without(&facts, "default/a1"))?;
    wait_until("a1 is released", || Ok(agent.look()?.pods == 1))?;
    wait_until("nothing of the mesh is left in the pod", || Ok(traces(&bed, "default/a1")?.is_empty()))?;
    ensure!(who(&bed, "default/a1", (bed.pod("default/b1")?.v4()?, 8080))?.app == "echo");
    ensure!(who(&bed, "default/a2", (bed.pod("default/b1")?.v4()?, 8080))?.app == "tunnel");
    Ok(())
}

pub(crate) fn cleanup_needs_no_world(lab: &Lab) -> Result<()> {
    let (bed, agent, _) = enrolled(lab, Duration::ZERO)?;
    let _echo = servers::echo(&bed.app("default/b1")?, "[::]:8080".parse()?)?;
    agent.0.kill()?;
    let mut agent = Agent::start(&bed, Duration::ZERO)?;
    agent.0.tell(&Order::ReleaseAll)?;
    ensure!(agent.0.event::<bool>()?, "not everything was released");
    for pod in ["default/a1", "default/a2"] {
        let left = traces(&bed, pod)?;
        ensure!(left.is_empty(), "{left}");
        ensure!(who(&bed, pod, (bed.pod("default/b1")?.v4()?, 8080))?.app == "echo");
    }
    let sight = agent.look()?;
    ensure!(Sight { destinations: 6, agents: 1, ..Sight::default() } == sight, "{sight:?}");
    agent.0.tell(&Order::Remove)?;
    agent.0.event::<()>()
}
