//! What control writes into the status of policies, and which of two replicas does. No agent runs: conditions depend on the
//! policy alone.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use underpass_tests::{
    cluster::{Cluster, NAMESPACE, conditions},
    testbed::{Exit, Lab, wait::wait_until},
};

use super::support::WORLD;

/// Of each kind of conditions one. The first has one of another writer, and one that an Istio left behind.
const POLICIES: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: good, namespace: mesh}
spec: {rules: [{from: [{source: {ipBlocks: [10.244.0.0/16]}}]}]}
status:
  conditions:
    - {type: Theirs, status: Unknown, reason: Asked, message: of another writer, lastTransitionTime: 2020-01-01T00:00:00Z}
    - {type: WaypointAccepted, status: 'True', reason: Accepted, message: bound, lastTransitionTime: 2020-01-01T00:00:00Z}
---
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {name: http, namespace: mesh}
spec: {action: DENY, rules: [{to: [{operation: {methods: [POST], ports: ['8080']}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: waypoint, namespace: mesh}
spec: {targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: w}], rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: broken, namespace: mesh}
spec: {rules: [{from: [{source: {ipBlocks: [10.244.0.0/99]}}]}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: mesh}
spec: {mtls: {mode: STRICT}}
";

const AGENTS: &str = "enforced by the agents of the nodes of the selected pods";
const IS_GOOD: &str = "Accepted=True/Accepted ZtunnelAccepted=True/Accepted";
const THEIRS: &str = "Theirs=Unknown/Asked";
const BLOCKS: &str = "spec.rules[0].from[0].source.ipBlocks[0]";

pub(crate) fn policies_get_conditions(lab: &Lab) -> Result<()> {
    let mut cluster = up(lab)?;
    cluster.control.start()?;
    let invalid = "Accepted=False/Invalid ZtunnelAccepted=False/Invalid";
    let good = format!("{THEIRS} {IS_GOOD}");
    is(&cluster, "good", &good, &["of another writer", AGENTS])?;
    let fields = "spec.rules[0].to[0].operation.methods";
    let stricter = "denies every connection that its other fields match";
    is(&cluster, "http", "Accepted=True/Accepted ZtunnelAccepted=True/UnsupportedValue", &[fields, stricter])?;
    let unbound = "Accepted=True/Accepted WaypointAccepted=False/AncestorNotBound";
    is(&cluster, "waypoint", unbound, &["there is no waypoint of Gateway w"])?;
    is(&cluster, "broken", invalid, &[BLOCKS, "10.244.0.0/99", "connections to what it selects are refused"])?;
    let strict = conditions(&cluster, "peerauthentication", "strict")?;
    ensure!(short(&strict) == "Accepted=True/Accepted" && text(&strict).contains(AGENTS), "{strict:?}");

    println!("a good one breaks and is repaired, and the broken one is repaired");
    let since = conditions(&cluster, "authorizationpolicy", "good")?;
    change(&cluster, "good", "10.244.0.0/99")?;
    let last = ["the last good version stays served", BLOCKS, "of another writer"];
    is(&cluster, "good", &format!("{THEIRS} {invalid}"), &last)?;
    change(&cluster, "good", "10.244.0.0/16")?;
    is(&cluster, "good", &good, &[AGENTS])?;
    change(&cluster, "broken", "10.244.0.0/24")?;
    is(&cluster, "broken", IS_GOOD, &[AGENTS])?;
    let now = conditions(&cluster, "authorizationpolicy", "good")?;
    ensure!(now["Theirs"] == since["Theirs"], "{now:?}, before {since:?}");

    println!("a pod's change writes nothing, and another replica only what differs");
    cluster.kubectl().run(&["label", "pod", "a", "-n", "mesh", "app=other", "--overwrite"])?;
    change(&cluster, "broken", "10.244.1.0/24")?;
    is(&cluster, "broken", IS_GOOD, &[])?;
    let written = written(&cluster)?;
    ensure!(written == 5 + 4, "{written} writes of 5 policies and 4 changes");
    let exit = cluster.control.terminate()?;
    ensure!(exit == Exit::Code(0), "{exit}");
    change(&cluster, "http", "10.244.1.0/24")?;
    cluster.control.start()?;
    is(&cluster, "http", IS_GOOD, &[])?;
    change(&cluster, "broken", "10.244.2.0/24")?;
    is(&cluster, "broken", IS_GOOD, &[])?;
    let written = self::written(&cluster)?;
    ensure!(written == 2, "{written} writes of 2 changes");
    Ok(())
}

pub(crate) fn one_of_two_replicas_writes(lab: &Lab) -> Result<()> {
    const LEADS: &str = "lease acquired";
    const LOST: &str = "lease lost";
    const WRITTEN: &str = "status written";
    let mut cluster = up(lab)?;
    cluster.control.start()?;
    cluster.control.running()?.wait_for_log(LEADS)?;
    let mut other = cluster.another_control("node-1")?;
    other.start()?;
    is(&cluster, "broken", "Accepted=False/Invalid ZtunnelAccepted=False/Invalid", &[])?;
    ensure!(other.metric("underpass_leader", "")? == 0 && cluster.control.metric("underpass_leader", "")? == 1);

    println!("the leader is frozen for longer than its lease");
    cluster.control.running()?.signal(Signal::SIGSTOP)?;
    other.running()?.wait_for_log(LEADS)?;
    change(&cluster, "broken", "10.244.0.0/24")?;
    is(&cluster, "broken", IS_GOOD, &[])?;
    ensure!(other.running()?.log()?.contains(WRITTEN));

    println!("it goes on while the lease is another's, who cannot write any more");
    other.kill()?;
    change(&cluster, "broken", "10.244.1.0/24")?;
    cluster.control.running()?.signal(Signal::SIGCONT)?;
    cluster.control.running()?.wait_for_log(LOST)?;
    is(&cluster, "broken", IS_GOOD, &[])?;
    let log = cluster.control.running()?.log()?;
    let mut events = log.lines().filter_map(|line| [LEADS, LOST, WRITTEN].into_iter().find(|text| line.contains(text)));
    let after: Vec<_> = events.by_ref().skip_while(|event| *event != LOST).collect();
    ensure!(after.starts_with(&[LOST, LEADS, WRITTEN]), "after the loss {after:?}: {log}");

    println!("it gives the lease back");
    let exit = cluster.control.terminate()?;
    ensure!(exit == Exit::Code(0), "{exit}");
    let lease = cluster.kubectl().get(&["lease", "underpass-control", "-n", NAMESPACE])?;
    ensure!(lease["spec"]["holderIdentity"] == "" && lease["spec"]["leaseTransitions"] == 2, "{lease}");
    other.start()?;
    other.running()?.wait_for_log(LEADS)?;
    Ok(())
}

/// A cluster with the policies. Control does not run yet.
fn up(lab: &Lab) -> Result<Cluster> {
    let cluster = Cluster::up(lab, WORLD)?;
    cluster.kubectl().populate(POLICIES)?;
    Ok(cluster)
}

/// Gives a policy another generation: one rule with this block.
fn change(cluster: &Cluster, policy: &str, block: &str) -> Result<()> {
    let spec = format!(r#"{{"spec":{{"rules":[{{"from":[{{"source":{{"ipBlocks":["{block}"]}}}}]}}]}}}}"#);
    cluster
        .kubectl()
        .run(&["patch", "authorizationpolicy", policy, "-n", "mesh", "--type=merge", "-p", &spec])
        .map(drop)
}

/// Waits until the conditions of a policy are these, of its present generation, and some message has each of these texts.
fn is(cluster: &Cluster, policy: &str, expected: &str, texts: &[&str]) -> Result<()> {
    let mut last = BTreeMap::new();
    let waited = wait_until(&format!("conditions {expected} of {policy}"), || {
        last = conditions(cluster, "authorizationpolicy", policy)?;
        Ok(short(&last) == expected && texts.iter().all(|part| text(&last).contains(part)))
    });
    waited.with_context(|| format!("they are {last:?}"))
}

/// The conditions of a policy by their types.
fn conditions(cluster: &Cluster, kind: &str, policy: &str) -> Result<BTreeMap<String, Value>> {
    Ok(conditions::by_type(&cluster.kubectl().get(&[kind, policy, "-n", "mesh"])?))
}

/// Those of another writer first, then ours.
fn short(conditions: &BTreeMap<String, Value>) -> String {
    let (theirs, ours): (Vec<_>, Vec<_>) =
        conditions::short(conditions).into_iter().partition(|one| one.starts_with("Theirs="));
    [theirs, ours].concat().join(" ")
}

/// All messages.
fn text(conditions: &BTreeMap<String, Value>) -> String {
    conditions.values().filter_map(|c| c["message"].as_str()).collect::<Vec<_>>().join("\n")
}

fn written(cluster: &Cluster) -> Result<u64> {
    cluster.control.metric("underpass_status_writes_total", r#"result="written""#)
}
