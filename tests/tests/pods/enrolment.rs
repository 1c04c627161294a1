//! Enrolment: connections of an enrolled pod, its addresses, sandboxes and cgroups, and a full table of the mesh.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use underpass_abi::limits;
use underpass_tests::{
    apps::{
        attacks::{self, Impostor},
        servers,
        socket::{Dial, dial},
    },
    testbed::{
        Description, Lab, Testbed,
        cgroup::Qos,
        wait::{wait_for, wait_until},
    },
};

use super::agent::{Agent, Fact, Order, Sight};
use super::setup::{both, enrolled, facts, who, without};

pub(crate) fn what_leaves_an_enrolled_pod(lab: &Lab) -> Result<()> {
    let (bed, mut agent, _) = enrolled(lab, Duration::ZERO)?;
    let _outside = servers::echo(&bed.app("default/b2")?, "[::]:8080".parse()?)?;
    let _itself = servers::echo(&bed.app("default/a1")?, "[::]:8080".parse()?)?;
    let own = both(&bed, "default/a1")?;
    for (n, own) in own.into_iter().enumerate() {
        for destination in [both(&bed, "default/b1")?[n], both(&bed, "default/a2")?[n]] {
            let to = SocketAddr::new(destination, 8080);
            let talk = bed.app("default/a1")?.act(dial, Dial::to(to))?.answered()?;
            let answer = talk.who()?;
            ensure!((answer.app.as_str(), answer.local, answer.peer.ip()) == ("tunnel", to, own), "{answer:?}");
            ensure!(talk.peer == to && talk.local.ip() == own, "{talk:?}");
        }
        let outside = who(&bed, "default/a1", (both(&bed, "default/b2")?[n], 8080))?;
        ensure!((outside.app.as_str(), outside.peer.ip()) == ("echo", own), "{outside:?}");
        let itself = who(&bed, "default/a1", (own, 8080))?;
        ensure!((itself.app.as_str(), itself.peer.ip()) == ("echo", own), "{itself:?}");
    }
    let IpAddr::V4(v4) = bed.pod("default/b1")?.v4()? else { bail!("IPv4") };
    let mapped = who(&bed, "default/a1", (IpAddr::V6(v4.to_ipv6_mapped()), 8080))?;
    ensure!(mapped.app == "tunnel" && mapped.local == SocketAddr::new(v4.into(), 8080), "{mapped:?}");
    let sight = agent.look()?;
    // Three enrolled pods of two addresses; two pods here, each with two addresses and a link-local one.
    let expected =
        Sight { pods: 2, locals: 6, cgroups: 2, destinations: 6, agents: 1, steered: 2, listeners: 4, ..sight.clone() };
    ensure!(sight == expected, "{sight:?}");
    Ok(())
}

/// Three of the mesh's six addresses have an entry: every destination is captured, in the mesh or not, until there is room again.
pub(crate) fn a_mesh_that_does_not_fit_into_the_kernel(lab: &Lab) -> Result<()> {
    let bed = Testbed::up(lab, &Description::two_nodes(2)?)?;
    let mut agent = Agent::launch("underpass-agent", &bed, "node-1", Duration::ZERO, 4)?;
    let facts = facts(&bed);
    let _outside = servers::echo(&bed.app("default/b2")?, "[::]:8080".parse()?)?;
    let _itself = servers::echo(&bed.app("default/a1")?, "[::]:8080".parse()?)?;
    let answers = |pod: &str| -> Result<Vec<String>> {
        both(&bed, pod)?.into_iter().map(|to| Ok(who(&bed, "default/a1", (to, 8080))?.app)).collect()
    };
    agent.world(&facts)?;
    agent.wait_for("default/a1", "enrolled")?;
    for (pod, expected) in [("b1", "tunnel"), ("a2", "tunnel"), ("b2", "tunnel"), ("a1", "echo")] {
        let found = answers(&format!("default/{pod}"))?;
        ensure!(found.iter().all(|app| app == expected), "{pod}: {found:?}");
    }
    ensure!(agent.look()?.destinations == 4, "{:?}", agent.look()?);

    agent.world(&without(&without(&facts, "default/b1"), "default/a2"))?;
    let found = answers("default/b2")?;
    ensure!(found.iter().all(|app| app == "echo"), "{found:?}");
    ensure!(agent.look()?.destinations == 2, "{:?}", agent.look()?);
    Ok(())
}

pub(crate) fn what_reaches_an_enrolled_pod(lab: &Lab) -> Result<()> {
    let (bed, _agent, _) = enrolled(lab, Duration::ZERO)?;
    let _app = servers::echo(&bed.app("default/a1")?, "[::]:8080".parse()?)?;
    let _speaks = servers::server_first(&bed.app("default/a1")?, "[::]:8081".parse()?)?;
    for (own, client) in both(&bed, "default/a1")?.into_iter().zip(both(&bed, "default/b2")?) {
        for _ in 0..20 {
            let answer = who(&bed, "default/b2", (own, 8080))?;
            ensure!((answer.app.as_str(), answer.peer.ip()) == ("echo", client), "{answer:?}");
            ensure!(answer.local == SocketAddr::new(own, 8080), "{answer:?}");
        }
        let answer = bed.app("default/b2")?.act(dial, Dial::to((own, 8081)).say(""))?.answered()?.who()?;
        ensure!((answer.app.as_str(), answer.peer.ip()) == ("server-first", client), "{answer:?}");
        let unanswered = bed.app("default/b2")?.act(dial, Dial::to((own, 8099)))?;
        ensure!(
            unanswered.clone().answered().is_ok_and(|talk| talk.reply.is_empty()) || unanswered.failed().is_ok(),
            "answered"
        );
    }
    Ok(())
}

pub(crate) fn an_impostor_is_not_the_sandbox(lab: &Lab) -> Result<()> {
    let bed = Testbed::up(lab, &Description::two_nodes(2)?)?;
    let addresses = bed.pod("default/a1")?.spec().addresses.clone();
    let mut impostors = Vec::new();
    for unprivileged in [true, false] {
        let impostor = Impostor { addresses: addresses.clone(), unprivileged };
        let mut actor = bed.app("default/a1")?.spawn(attacks::impersonate, impostor)?;
        actor.event::<()>()?;
        impostors.push(actor);
    }
    let mut agent = Agent::start(&bed, Duration::ZERO)?;
    agent.world(&facts(&bed))?;
    agent.wait_for("default/a1", "enrolled")?;
    let answer = who(&bed, "default/a1", (bed.pod("default/b1")?.v4()?, 8080))?;
    ensure!(answer.app == "tunnel", "{answer:?}");
    Ok(())
}

pub(crate) fn secondary_addresses_are_kept_current(lab: &Lab) -> Result<()> {
    let (bed, mut agent, _) = enrolled(lab, Duration::ZERO)?;
    let before = agent.look()?.locals;
    for text in ["10.244.1.77/24", "fd00:10:244:1::77/64"] {
        bed.app("default/a1")?.run("ip", &["addr", "add", text, "dev", "eth0"])?;
    }
    wait_until("new addresses are known", || Ok(agent.look()?.locals == before + 2))?;
    bed.app("default/a1")?.run("ip", &["addr", "del", "10.244.1.77/24", "dev", "eth0"])?;
    wait_until("an address that went is forgotten", || Ok(agent.look()?.locals == before + 1))
}

/// Root in a pod adds what it likes: it takes no room of others, who come and go as before, and is captured as before itself.
pub(crate) fn addresses_without_end_concern_one_pod(lab: &Lab) -> Result<()> {
    let (bed, mut agent, facts) = enrolled(lab, Duration::ZERO)?;
    let others = agent.look()?.locals / 2;
    let add = "for n in $(seq 1 250); do echo addr add 10.77.1.$n/32 dev lo; echo addr add fd77::$n/128 dev lo; done | ip -batch -";
    bed.app("default/a1")?.run("/bin/sh", &["-c", add])?;
    wait_until("as many as are known of one pod", || {
        Ok(agent.look()?.locals == others + limits::POD_ADDRESSES as usize)
    })?;
    let problem = agent.status()?.into_iter().find_map(|(pod, _, problem)| (pod == "default/a1").then_some(problem));
    ensure!(problem.flatten().is_some_and(|problem| problem.contains("addresses in its namespace")), "not named");
    for to in both(&bed, "default/b1")? {
        ensure!(who(&bed, "default/a1", (to, 8080))?.app == "tunnel", "{to}");
    }
    agent.world(&without(&facts, "default/a2"))?;
    agent.wait_for("default/a2", "")?;
    agent.world(&facts)?;
    agent.wait_for("default/a2", "enrolled")
}

pub(crate) fn sandboxes_are_waited_for(lab: &Lab) -> Result<()> {
    let mut bed = Testbed::up(lab, &Description::two_nodes(1)?)?;
    let mut agent = Agent::start(&bed, Duration::ZERO)?;
    let mut late = underpass_tests::testbed::describe::PodSpec::new(
        "default",
        "late",
        "node-1",
        &["10.244.1.50", "fd00:10:244:1::50"],
    )?;
    late.qos = Qos::Guaranteed;
    let mut facts = facts(&bed);
    facts.push(Fact {
        name: late.full_name(),
        uid: late.uid.clone(),
        node: "node-1".into(),
        addresses: late.addresses.clone(),
        enrolled: true,
        ended: false,
    });
    agent.world(&facts)?;
    let (_, state, problem) = wait_for("the late pod is known", || {
        Ok(agent.status()?.into_iter().find(|(name, ..)| name == "default/late"))
    })?;
    ensure!(state == "waiting" && problem.as_deref().is_some_and(|p| p.starts_with("no cgroup of pod")), "{problem:?}");
    bed.add_pod(&late)?;
    agent.wait_for("default/late", "enrolled")?;
    let answer = who(&bed, "default/late", (bed.pod("default/b1")?.v4()?, 8080))?;
    ensure!(answer.app == "tunnel", "{answer:?}");
    Ok(())
}

/// node-1, in the other scenarios, has those of systemd.
pub(crate) fn cgroups_as_the_cgroupfs_driver_lays_them_out(lab: &Lab) -> Result<()> {
    let mut description = Description::two_nodes(3)?;
    let classes = [("b1", Qos::Guaranteed), ("b2", Qos::Burstable), ("b3", Qos::BestEffort)];
    for pod in &mut description.pods {
        pod.qos = classes.iter().find(|(name, _)| *name == pod.name).map_or(pod.qos, |(_, class)| *class);
    }
    let bed = Testbed::up(lab, &description)?;
    let mut agent = Agent::start_on(&bed, "node-2", Duration::ZERO)?;
    let facts: Vec<_> = facts(&bed).into_iter().map(|fact| Fact { enrolled: true, ..fact }).collect();
    agent.world(&facts)?;
    for pod in ["default/b1", "default/b2", "default/b3"] {
        agent.wait_for(pod, "enrolled")?;
        ensure!(who(&bed, pod, (bed.pod("default/a1")?.v6()?, 8080))?.app == "tunnel", "{pod} is not captured");
    }
    Ok(())
}

/// Not a bound, but a look: entering a namespace for a socket must not cost what a connection costs.
pub(crate) fn what_it_costs(lab: &Lab) -> Result<()> {
    let (bed, mut agent, _) = enrolled(lab, Duration::ZERO)?;
    let _app = servers::echo(&bed.app("default/a1")?, "[::]:8080".parse()?)?;
    agent.0.tell(&Order::Measure("default/a1".into(), (bed.pod("default/a1")?.v4()?, 8080).into()))?;
    let [enter, connect] = agent.0.event::<[f64; 2]>()?;
    println!("entering {enter:.1} us, a connection to the application {connect:.1} us");
    ensure!(enter < connect, "entering costs more than the connection it is for");
    Ok(())
}
