//! The steps once everything runs. Each is an action of a user, and a look at its effect.

use anyhow::{Result, ensure};
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
pub(crate) const ALL: [fn(&mut Stage) -> Result<()>; 7] =
    [into_the_mesh, identities, refusals, policies_are_checked, what_the_command_says, an_upgrade, out_of_the_mesh];

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

fn policies_are_checked(stage: &mut Stage) -> Result<()> {
    stage.screen.step("A policy with a mistake is refused, and a good one says who enforces it");
    let file = stage.mesh.cluster.bed.lab().directory().join("typo.yaml");
    std::fs::write(&file, TYPO)?;
    TYPO.trim().lines().for_each(|line| stage.screen.quote(line));
    stage.screen.does("kubectl apply -f typo.yaml");
    let mut said = String::new();
    // The API server asks the control plane once that has told it its root certificate.
    wait::wait_until("the policy to be refused", || {
        let applied = stage.mesh.cluster.kubectl().run(&["apply", "-f", &file.to_string_lossy()]);
        said = applied.err().map(|error| format!("{error:#}")).unwrap_or_default();
        Ok(said.contains("denied the request"))
    })?;
    let reason = "spec.rules[0].to[0].operation.ports[0]: `http` is not a port";
    stage.screen.expect(&format!("refused: {reason}"), said.contains(reason), &said)?;
    let of = ["get", "authorizationpolicy", "ratings-viewer", "-n", "bookinfo", "-o"];
    let messages = "jsonpath={range .status.conditions[*]}{.type}={.status} {.message}{\"\\n\"}{end}";
    let enforced = "ZtunnelAccepted=True enforced by the agents of the nodes of the selected pods";
    wait::wait_until("the status of the policy", || {
        Ok(stage.mesh.cluster.kubectl().run(&[&of[..], &[messages]].concat())?.contains(enforced))
    })?;
    let status = stage.kubectl_shown(&[&of[..], &[messages]].concat())?;
    stage.screen.expect("the agents of the nodes enforce it", status.contains(enforced), status)
}

/// The name of a port in place of its number.
const TYPO: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: typo, namespace: bookinfo}
spec:
  rules: [{to: [{operation: {ports: [http]}}]}]
";

fn what_the_command_says(stage: &mut Stage) -> Result<()> {
    stage.screen.step("The command, by your kubeconfig: what the agents say of their nodes");
    let status = underpass(stage, &["status"])?;
    let rows = stage.mesh.command(&["status", "-o", "json"])?.json(0)?;
    let ready =
        rows.as_array().is_some_and(|rows| rows.len() == NODES.len() && rows.iter().all(|row| row["ready"] == true));
    stage.screen.expect("both nodes are ready", ready, status)?;
    let workloads = underpass(stage, &["workloads", "-n", "bookinfo"])?;
    let has = workloads.contains("productpage-v1");
    stage.screen.expect("productpage is among the workloads", has, workloads)?;
    let certificates = underpass(stage, &["certificates"])?;
    stage.screen.expect("productpage has a certificate", certificates.contains(PRODUCTPAGE), certificates)?;
    underpass(stage, &["x", "describe", "service", "ratings.bookinfo"]).map(drop)
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

/// Asks the command from outside the cluster, and shows its answer.
fn underpass(stage: &Stage, arguments: &[&str]) -> Result<String> {
    stage.screen.does(&typed("underpass", arguments));
    let said = stage.mesh.command(arguments)?;
    ensure!(said.exit == 0, "{said:?}");
    said.text.lines().for_each(|line| stage.screen.quote(line.trim_end()));
    Ok(said.text)
}
