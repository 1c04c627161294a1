//! The steps once everything runs. Each is an action of a user, and a look at its effect.

use anyhow::{Context, Result};
use serde_json::Value;
use underpass_tests::{cluster::NAMESPACE, installed, testbed::wait};

use super::{
    super::{
        access_log::{self, field},
        link::{self, TUNNEL_PORT},
        page::{self, Answer, PORT, RATINGS_URL},
    },
    stage::{CLIENT, NODES, OUTSIDER, SECURITY, Stage, exec, get, typed},
    traffic::Traffic,
};

/// In the order in which they are shown: each begins where the one before has ended.
pub(crate) const ALL: [fn(&mut Stage) -> Result<()>; 6] =
    [into_the_mesh, identities, refusals, what_the_agents_say, an_upgrade, out_of_the_mesh];

const PRODUCTPAGE: &str = "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-productpage";
const DETAILS: &str = "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-details";

fn into_the_mesh(stage: &mut Stage) -> Result<()> {
    stage.screen.step("Into the mesh by a label, under traffic: mutual TLS on the link");
    let traffic = Traffic::start(stage)?;
    stage.label(true)?;
    // Each node learns a moment later what the other one has captured.
    wait::wait_until("mutual TLS between all pods", || {
        let wire = stage.mesh.cluster.bed.capture_wire("node-1")?;
        let toured = page::tour(|| get(&stage.mesh, CLIENT, &page::url()))?;
        Ok(toured.is_ok() && link::segments_in_the_clear(&wire)? == 0)
    })?;
    traffic.end(stage)?;
    stage.same_containers()?;
    let wire = stage.mesh.cluster.bed.capture_wire("node-1")?;
    stage.visit()?;
    link::shows_tls_alone(&mut stage.screen, &wire)
}

fn identities(stage: &mut Stage) -> Result<()> {
    stage.screen.step("Identities of both ends, proved by certificates");
    for (node, direction) in NODES.into_iter().zip(["outbound", "inbound"]) {
        let names = [("source_workload", "productpage-v1"), ("destination_workload", "details-v1")];
        let line = stage.logged(node, &[&names[..], &[("path", "hbone"), ("direction", direction)]].concat())?;
        access_log::print_line(&stage.screen, node, &line);
        for (end, identity) in [("source", PRODUCTPAGE), ("destination", DETAILS)] {
            let seen = field(&line, &format!("{end}_identity"));
            stage.screen.expect(&format!("{end}: {identity}"), seen == identity, seen)?;
        }
    }
    Ok(())
}

fn refusals(stage: &mut Stage) -> Result<()> {
    stage.screen.step("Refusals: a denied call, and a call in plaintext");
    stage.kubectl_shown(&["apply", "-f", SECURITY])?;
    // Policies hold a moment after they were applied.
    let denied = refusal(stage, CLIENT, RATINGS_URL)?;
    stage.screen.does(&exec(CLIENT, RATINGS_URL));
    page::refused(&mut stage.screen, &denied)?;
    let want = [("direction", "inbound"), ("source_workload", "sleep"), ("destination_workload", "ratings-v1")];
    let line = stage.logged("node-1", &[&want[..], &[("reason", "not_allowed")]].concat())?;
    access_log::print_line(&stage.screen, "node-1", &line);
    let policy = field(&line, "policy");
    let promised = "reason: not_allowed, policy: bookinfo/ratings-viewer (ALLOW, but not for this client)";
    stage.screen.expect(promised, policy == "bookinfo/ratings-viewer", policy)?;

    let url = format!("http://details.bookinfo:{PORT}/details");
    let refused = refusal(stage, OUTSIDER, &url)?;
    stage.screen.does(&format!("{OUTSIDER} is not in the mesh"));
    stage.screen.does(&exec(OUTSIDER, &url));
    page::refused(&mut stage.screen, &refused)?;
    let line = stage.logged("node-2", &[("direction", "inbound"), ("reason", "plaintext_refused")])?;
    access_log::print_line(&stage.screen, "node-2", &line);
    let policy = field(&line, "policy");
    let promised = "reason: plaintext_refused, policy: bookinfo/default (PeerAuthentication, STRICT)";
    stage.screen.expect(promised, policy == "bookinfo/default", policy)?;
    stage.visit()
}

fn what_the_agents_say(stage: &mut Stage) -> Result<()> {
    stage.screen.step("What an agent says of its node");
    let status = underpass(stage, &["status"])?;
    let json: Value = serde_json::from_str(&stage.mesh.underpass(NODES[0], &["status", "-o", "json"])?)?;
    let ready = json["waiting"].as_array().is_some_and(Vec::is_empty);
    stage.screen.expect("it waits for nothing", ready, status)?;
    let workloads = underpass(stage, &["workloads"])?;
    let has = workloads.contains("productpage-v1");
    stage.screen.expect("productpage is among its workloads", has, workloads)?;
    let certificates = underpass(stage, &["certificates"])?;
    stage.screen.expect("productpage has a certificate", certificates.contains(PRODUCTPAGE), certificates)
}

/// The change of an upgrade that brings no other image.
const CHANGE: [&str; 2] = ["--set", "agent.podAnnotations.demo=upgraded"];

fn an_upgrade(stage: &mut Stage) -> Result<()> {
    stage.screen.step("An upgrade: on each node another agent takes over, under traffic");
    let agents = |stage: &Stage| NODES.iter().map(|node| stage.mesh.agent(node)).collect::<Result<Vec<_>>>();
    let before = agents(stage)?;
    let traffic = Traffic::start(stage)?;
    stage.screen.does(&typed("helm", &installed::upgrade(&CHANGE)));
    stage.mesh.upgrade(&CHANGE)?;
    stage.screen.does(&format!("kubectl rollout status -n {NAMESPACE} daemonset/underpass-agent"));
    stage.mesh.wait_until_ready()?;
    let after = agents(stage)?;
    for (was, is) in before.iter().zip(&after) {
        stage.screen.quote(&format!("{was} was replaced by {is}"));
    }
    let all_new = after.iter().all(|agent| !before.contains(agent));
    stage.screen.expect("every agent is another one", all_new, (&before, &after))?;
    traffic.end(stage)
}

fn out_of_the_mesh(stage: &mut Stage) -> Result<()> {
    stage.screen.step("Out of the mesh: the label is gone, under traffic; plaintext again");
    stage.screen.does("first the policies, which would refuse plaintext");
    stage.kubectl(&["delete", "-f", SECURITY])?;
    wait::wait_until("every service to answer an outsider", || {
        let answers = ["details", "ratings", "reviews", "productpage"]
            .map(|service| get(&stage.mesh, OUTSIDER, &format!("http://{service}.bookinfo:{PORT}/")));
        Ok(answers.into_iter().collect::<Result<Vec<_>>>()?.iter().all(Answer::is_ok))
    })?;
    let traffic = Traffic::start(stage)?;
    stage.label(false)?;
    let bed = &stage.mesh.cluster.bed;
    wait::wait_until("all pods to be out of the mesh", || {
        let wire = bed.capture_wire("node-1")?;
        let toured = page::tour(|| get(&stage.mesh, CLIENT, &page::url()))?;
        Ok(toured.is_ok() && wire.count(|s| s.is_opening() && s.has_port(TUNNEL_PORT))? == 0)
    })?;
    traffic.end(stage)?;
    let wire = stage.mesh.cluster.bed.capture_wire("node-1")?;
    stage.visit()?;
    link::shows_plaintext(&mut stage.screen, &wire)?;
    let tunnels = wire.count(|s| s.is_opening() && s.has_port(TUNNEL_PORT))?;
    stage.screen.expect("on the link: no new tunnel", tunnels == 0, tunnels)?;
    stage.same_containers()
}

/// Calls until there is no answer, which is returned.
fn refusal(stage: &Stage, pod: &str, url: &str) -> Result<Answer> {
    wait::wait_for(&format!("{pod} to be refused by {url}"), || {
        Ok(Some(get(&stage.mesh, pod, url)?).filter(Answer::is_err))
    })
}

/// Asks the command beside the agent of the first node, by `kubectl exec`, and shows its answer.
fn underpass(stage: &Stage, arguments: &[&str]) -> Result<String> {
    let agent = stage.mesh.agent(NODES[0])?;
    let pod = agent.rsplit('/').next().context("a pod")?;
    let exec = ["exec", "-n", NAMESPACE, pod, "-c", "agent", "--", "underpass"];
    stage.kubectl_shown(&[&exec[..], arguments].concat())
}
