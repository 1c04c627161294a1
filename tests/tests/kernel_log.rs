//! End to end: the kernel's decisions in the agent's log. Level kernel, because the programs that say them must pass a real
//! verifier, the pod's own among them.

mod support;

use anyhow::{Context, Result, ensure};
use support::{BRIEFLY, PORT, WORLD, any};
use underpass_tests::{
    apps::{servers, socket::Dial},
    mesh::Mesh,
    testbed::Lab,
};

underpass_tests::scenarios! {
    decisions_are_in_the_agents_log,
}

const NODE: &str = "node-1";

/// A connection into the mesh is captured and steered, one out of it left alone, and one from an address that is not the pod's
/// dropped by guard. An agent without the setting says none of it, also where it took over from one that had it.
fn decisions_are_in_the_agents_log(lab: &Lab) -> Result<()> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    mesh.options(&["--kernel-log"]);
    mesh.start()?;
    let _servers = ["mesh/b", "out/o2"]
        .into_iter()
        .map(|pod| servers::echo(&mesh.bed.app(pod)?, any(PORT)))
        .collect::<Result<Vec<_>>>()?;
    let cookie = cookie(&mut mesh)?;
    for ipv4 in [true, false] {
        let (b, outside) = (mesh.at("mesh/b", ipv4, PORT)?, mesh.at("out/o2", ipv4, PORT)?);
        mesh.call("mesh/a", Dial::to(b).say("hello"))?.answered()?;
        mesh.call("mesh/a", Dial::to(outside).say("hello"))?.answered()?;
        let loopback = if ipv4 { "127.0.0.1" } else { "::1" };
        mesh.call("mesh/a", Dial::to(b).from_ip(loopback.parse()?).patience(BRIEFLY))?.failed()?;

        let source = mesh.bed.pod("mesh/a")?.address(ipv4)?;
        let agent = mesh.agent(NODE)?;
        let mut said = |hook: &str, event: &str, verdict: &str, from: &str, to: &str| -> Result<()> {
            let what = format!("hook=\"{hook}\" event=\"{event}\" verdict=\"{verdict}\" cookie={cookie}");
            let line = agent.wait_for_line(&[&what, from, &format!("destination={to}")])?;
            ensure!(line.contains("kernel decision"), "{line}");
            Ok(())
        };
        said("connect", "captured", "passed", "", &b.to_string())?;
        said("steer", "outbound", "passed", &format!("source={}", bracketed(source)), &b.to_string())?;
        said("connect", "leave", "passed", "", &outside.to_string())?;
        said("syn", "source", "refused", &format!("source={}", bracketed(loopback.parse()?)), &b.to_string())?;
        said("guard", "denied", "refused", &format!("source={}", bracketed(loopback.parse()?)), &b.to_string())?;
    }

    mesh.options(&[]);
    mesh.take_over(NODE)?.wait()?;
    let to = mesh.at("mesh/b", true, PORT)?;
    mesh.call("mesh/a", Dial::to(to).say("hello"))?.answered()?;
    mesh.logged(NODE, &[("destination_address", &to.to_string())])?;
    let log = mesh.agent(NODE)?.log()?;
    ensure!(!log.contains("kernel decision"), "{log}");
    Ok(())
}

/// The cookie of mesh/a, as its agent says it.
fn cookie(mesh: &mut Mesh) -> Result<u64> {
    let line = mesh.agent(NODE)?.wait_for_line(&["pod enrolled", "pod=mesh/a "])?;
    let cookie = line.split("cookie=").nth(1).and_then(|rest| rest.split_whitespace().next());
    cookie.and_then(|cookie| cookie.parse().ok()).with_context(|| format!("a cookie in {line}"))
}

/// An address as it stands before a port.
fn bracketed(ip: std::net::IpAddr) -> String {
    if ip.is_ipv6() { format!("[{ip}]:") } else { format!("{ip}:") }
}
