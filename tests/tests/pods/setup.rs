//! Shared parts: the testbed with an agent, calls, and the traces of the mesh in a pod.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use underpass_tests::{
    apps::{
        remote::{Id, Sockets},
        socket::{Dial, Who, dial},
    },
    testbed::{Description, Lab, Testbed, cgroup::Qos},
};

use super::agent::{Agent, Fact};

/// Two nodes with two pods each; every pod but the last is in the mesh.
pub(crate) fn facts(bed: &Testbed) -> Vec<Fact> {
    let fact = |pod: &underpass_tests::testbed::Pod| Fact {
        name: pod.spec().full_name(),
        uid: pod.spec().uid.clone(),
        node: pod.spec().node.clone(),
        addresses: pod.spec().addresses.clone(),
        enrolled: pod.spec().name != "b2",
        ended: false,
    };
    bed.pods().map(fact).collect()
}

pub(crate) fn without(facts: &[Fact], name: &str) -> Vec<Fact> {
    let mut facts = facts.to_vec();
    facts.iter_mut().filter(|fact| fact.name == name).for_each(|fact| fact.enrolled = false);
    facts
}

/// node-1's pods are enrolled by an agent, node-2 has none.
pub(crate) fn enrolled(lab: &Lab, drain: Duration) -> Result<(Testbed, Agent, Vec<Fact>)> {
    let mut description = Description::two_nodes(2)?;
    description.pods.iter_mut().filter(|p| p.name == "a2").for_each(|p| p.qos = Qos::Burstable);
    let bed = Testbed::up(lab, &description)?;
    let mut agent = Agent::start(&bed, drain)?;
    let facts = facts(&bed);
    agent.world(&facts)?;
    agent.wait_for("default/a1", "enrolled")?;
    agent.wait_for("default/a2", "enrolled")?;
    Ok((bed, agent, facts))
}

/// The application that answers a connection between two pods.
pub(crate) fn who(bed: &Testbed, from: &str, to: impl Into<SocketAddr>) -> Result<Who> {
    bed.app(from)?.act(dial, Dial::to(to.into()))?.answered()?.who()
}

/// Says hello on an open connection; who answers.
pub(crate) fn hello(sockets: &mut Sockets, id: Id) -> Result<String> {
    sockets.send(id, b"hello\n")??;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        line.extend(sockets.receive(id, 1)??);
    }
    Ok(serde_json::from_slice::<Who>(&line)?.app)
}

pub(crate) fn both(bed: &Testbed, pod: &str) -> Result<[IpAddr; 2]> {
    Ok([bed.pod(pod)?.v4()?, bed.pod(pod)?.v6()?])
}

/// Rules, routes and settings of a pod that are ours; nothing where it is as it was.
pub(crate) fn traces(bed: &Testbed, pod: &str) -> Result<String> {
    let app = bed.app(pod)?;
    let mut found = String::new();
    for family in ["-4", "-6"] {
        found += &app.run("/bin/sh", &["-c", &format!("ip {family} rule | grep 1777; true")])?;
        found += &app.run("/bin/sh", &["-c", &format!("ip {family} route show table 1777 2>/dev/null; true")])?;
    }
    // "connected" is all but listening and closed.
    found += &app.run("ss", &["-tanHO", "state", "connected", "exclude", "time-wait"])?;
    for name in ["ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect"] {
        let value = app.run("cat", &[&format!("/proc/sys/net/{name}")])?;
        if value.trim() != "0" {
            found += &format!("{name} = {value}");
        }
    }
    Ok(found)
}
