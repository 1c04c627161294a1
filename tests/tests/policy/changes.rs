//! Changes: of policies, identities and manifests, under open connections.

use std::fs;

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    apps::{crowd::Caller, socket::Dial},
    mesh::Mesh,
    testbed::{Lab, wait::wait_until},
};

use super::setup::{
    CALLERS, FILE, PORT, denied, deny, exactly, mesh, mutual_tls, passes, pod_name, policy, policy_of_no_pod,
};

pub(crate) fn a_change_closes_exactly_what_it_denies(lab: &Lab) -> Result<()> {
    let (mut mesh, _servers) = mesh(lab)?;
    let clients = [("mesh/a", true), ("mesh/a", false), ("mesh/a2", true), ("mesh/b2", false), ("out/o1", true)];
    let strict = mutual_tls("strict", "{selector: {matchLabels: {app: b}}, mtls: {mode: STRICT}}");
    let allow = policy("only-a2", "b", "ALLOW", "[{from: [{source: {serviceAccounts: [a2]}}]}]");
    let changes: [(&str, &[&str], &str, &str); 3] = [
        (&deny("not-a", "a"), &["mesh/a"], "denied", "mesh/not-a"),
        (&allow, &["mesh/a", "mesh/b2", "out/o1"], "not_allowed", "mesh/only-a2"),
        (&strict, &["out/o1"], "plaintext_refused", "mesh/strict"),
    ];
    for (text, closed, reason, policy) in changes {
        let mut pairs = Vec::new();
        for (client, ipv4) in clients {
            pairs.push((client, mesh.pair(client, "mesh/b", ipv4)?));
        }
        // Another destination is none of the policy's business.
        let mut elsewhere = mesh.pair("mesh/a", "mesh/b2", true)?;
        elsewhere.exchange()?;
        for (_, pair) in &mut pairs {
            pair.exchange()?;
        }
        mesh.edit(FILE, Some(text))?;
        for (client, pair) in &mut pairs {
            if !closed.contains(client) {
                pair.exchange().with_context(|| format!("{client} stays open after {policy}"))?;
                continue;
            }
            pair.is_reset().with_context(|| format!("{client} is closed by {policy}"))?;
            let to = pair.to.to_string();
            let of = [("destination_address", to.as_str()), ("source_workload", pod_name(client))];
            let counted = [("bytes_received", "4"), ("bytes_sent", "4")];
            let why = [("direction", "inbound"), ("reason", reason), ("policy", policy)];
            mesh.logged("node-2", &[&of[..], &counted, &why].concat())?;
            if client.starts_with("mesh/") {
                let out = [("direction", "outbound"), ("reason", "server_reset")];
                mesh.logged(mesh.node_of(client)?, &[&of[..], &counted, &out].concat())?;
            }
        }
        elsewhere.exchange().context("to another destination")?;
        // One that changes nothing closes nothing.
        let open = mesh.connections("node-2", &[("direction", "inbound")])?.len();
        mesh.edit("other.yaml", Some(&policy_of_no_pod(policy)))?;
        ensure!(mesh.connections("node-2", &[("direction", "inbound")])?.len() == open);
        mesh.edit("other.yaml", None)?;
        mesh.edit(FILE, None)?;
        exactly(&mesh, &CALLERS, &[])?;
    }
    Ok(())
}

pub(crate) fn a_policy_that_flips_leaves_nothing_open(lab: &Lab) -> Result<()> {
    const FLIPS: usize = 10;
    const MOST: usize = 60;
    let (mut mesh, _servers) = mesh(lab)?;
    let closed = policy("closed", "b", "DENY", "[{}]");
    let mut callers = Vec::new();
    for (from, ipv4) in [("mesh/a", true), ("mesh/b2", false), ("out/o1", true)] {
        let dial = Dial::to(mesh.at("mesh/b", ipv4, PORT)?);
        callers.push((from, Caller::keeping(&mesh.bed.app(from)?, dial, MOST)?));
    }
    for _ in 0..FLIPS {
        for (from, caller) in &mut callers {
            wait_until("connections", || Ok(caller.seen()?.open > 0)).with_context(|| format!("open from {from}"))?;
        }
        mesh.edit(FILE, Some(&closed))?;
        for (from, caller) in &mut callers {
            // A call that was under way may still have been answered: not the next ones.
            let before = caller.wait_for_calls(2)?;
            wait_until("no connection", || Ok(caller.seen()?.open == 0)).with_context(|| format!("denied {from}"))?;
            // They go on calling, and none comes through.
            let after = caller.wait_for_calls(5)?;
            ensure!(after.answered == before.answered && after.open == 0, "{from}: {before:?}, then {after:?}");
        }
        let inbound = [("direction", "inbound")];
        wait_until("no connection to be listed", || Ok(mesh.connections("node-2", &inbound)?.is_empty()))?;
        mesh.edit(FILE, None)?;
    }
    for (from, caller) in &mut callers {
        wait_until("connections", || Ok(caller.seen()?.open > 0))?;
        let seen = caller.stop()?;
        println!("{from}: {} answered, {} denied", seen.answered, seen.failed.len());
        let strange = seen.failed.iter().find(|failure| failure.errno != libc::ECONNRESET);
        ensure!(strange.is_none(), "{from}: {strange:?}");
    }
    Ok(())
}

pub(crate) fn identities_follow_the_world(lab: &Lab) -> Result<()> {
    let (mut mesh, _servers) = mesh(lab)?;
    // The caller gets another identity.
    mesh.edit(FILE, Some(&policy("only-x", "b", "ALLOW", "[{from: [{source: {serviceAccounts: [x]}}]}]")))?;
    denied(&mesh, "mesh/a", "mesh/b", true, &[("reason", "not_allowed"), ("policy", "mesh/only-x")])?;
    let mut old = mesh.pair("mesh/a", "mesh/b2", true)?;
    old.exchange()?;
    mesh.replace("world.yaml", "serviceAccountName: a\n", "serviceAccountName: x\n")?;
    // The connections that it opened with its earlier identity have ended.
    old.is_reset()?;
    let lines = mesh.log("node-2")?.len();
    passes(&mesh, "mesh/a", "mesh/b", true)?;
    passes(&mesh, "mesh/a", "mesh/b", false)?;
    let now = "spiffe://cluster.local/ns/mesh/sa/x";
    mesh.logged_after(
        "node-2",
        lines,
        &[("source_workload", "a"), ("source_identity", now), ("policy", "mesh/only-x")],
    )?;
    denied(&mesh, "mesh/a2", "mesh/b", true, &[("reason", "not_allowed"), ("policy", "mesh/only-x")])?;
    mesh.replace("world.yaml", "serviceAccountName: x\n", "serviceAccountName: a\n")?;
    denied(&mesh, "mesh/a", "mesh/b", true, &[("reason", "not_allowed"), ("policy", "mesh/only-x")])?;
    // The policy's object loses the label that it is selected by.
    mesh.replace("world.yaml", "labels: {app: b}\n", "labels: {app: c}\n")?;
    exactly(&mesh, &CALLERS, &[])?;
    mesh.replace("world.yaml", "labels: {app: c}\n", "labels: {app: b}\n")?;
    exactly(&mesh, &[], &[("reason", "not_allowed"), ("policy", "mesh/only-x")])?;
    mesh.edit(FILE, None)?;
    // The called pod gets another identity.
    passes(&mesh, "mesh/a", "mesh/b", true)?;
    mesh.replace("world.yaml", "serviceAccountName: b\n", "serviceAccountName: z\n")?;
    let lines = mesh.log("node-1")?.len();
    exactly(&mesh, &CALLERS, &[])?;
    let now = "spiffe://cluster.local/ns/mesh/sa/z";
    mesh.logged_after("node-1", lines, &[("destination_workload", "b"), ("destination_identity", now)])?;
    Ok(())
}

/// Nothing is wrong with the manifests of any node.
fn no_problems(mesh: &Mesh) -> Result<()> {
    for node in ["node-1", "node-2"] {
        wait_until("no problems", || {
            let dump = mesh.admin(node, "/config_dump")?;
            Ok(dump["reports"]["manifests"]["problems"].as_array().is_some_and(Vec::is_empty))
        })?;
    }
    Ok(())
}

pub(crate) fn the_last_good_version_keeps_serving(lab: &Lab) -> Result<()> {
    let (mut mesh, _servers) = mesh(lab)?;
    let [not_a, not_a2, not_b2] =
        [("not-a", "a"), ("not-a2", "a2"), ("not-b2", "b2")].map(|(name, who)| deny(name, who));
    let by = |name: &'static str| [("reason", "denied"), ("policy", name)];
    let both = ["node-1", "node-2"];
    mesh.edit(FILE, Some(&not_a))?;
    denied(&mesh, "mesh/a", "mesh/b", true, &by("mesh/not-a"))?;
    passes(&mesh, "mesh/a2", "mesh/b", true)?;

    // One object of a file is broken: it keeps its last good version, and its neighbour is applied.
    let broken = not_a.replace("principals: [cluster.local/ns/mesh/sa/a]", "ipBlocks: [nonsense]");
    ensure!(broken != not_a);
    mesh.edit(FILE, Some(&(broken.clone() + &not_a2)))?;
    for node in both {
        let problem = mesh.problem(
            node,
            &[
                ("severity", "error"),
                ("file", FILE),
                ("object", "AuthorizationPolicy mesh/not-a"),
                ("field", "spec.rules[0].from[0].source.ipBlocks[0]"),
                ("effect", "last-good"),
            ],
        )?;
        ensure!(problem["reason"].as_str().is_some_and(|reason| reason.contains("nonsense")), "{problem:#}");
        ensure!(problem["line"].as_u64().is_some_and(|line| line > 1), "{problem:#}");
    }
    denied(&mesh, "mesh/a", "mesh/b", true, &by("mesh/not-a"))?;
    denied(&mesh, "mesh/a2", "mesh/b", false, &by("mesh/not-a2"))?;

    // The file is no YAML any more: all that was in it keeps serving; another file is applied.
    mesh.write(FILE, Some("kind: [\n"))?;
    both.iter().try_for_each(|node| {
        mesh.problem(node, &[("file", FILE), ("object", "-"), ("effect", "last-good")]).map(drop)
    })?;
    mesh.edit("other.yaml", Some(&not_b2))?;
    denied(&mesh, "mesh/a", "mesh/b", false, &by("mesh/not-a"))?;
    denied(&mesh, "mesh/a2", "mesh/b", true, &by("mesh/not-a2"))?;
    denied(&mesh, "mesh/b2", "mesh/b", true, &by("mesh/not-b2"))?;

    // Mended, and shorter: what is not in it any more is gone.
    mesh.edit(FILE, Some(&not_a))?;
    no_problems(&mesh)?;
    exactly(&mesh, &["mesh/a2", "out/o1"], &[("reason", "denied")])?;
    mesh.edit("other.yaml", None)?;
    exactly(&mesh, &["mesh/a2", "mesh/b2", "out/o1"], &by("mesh/not-a"))?;
    mesh.edit(FILE, None)?;
    exactly(&mesh, &CALLERS, &[])?;

    // One that never had a good version is closed, not open.
    mesh.edit(FILE, Some(&broken))?;
    both.iter().try_for_each(|node| {
        mesh.problem(node, &[("object", "AuthorizationPolicy mesh/not-a"), ("effect", "closed")]).map(drop)
    })?;
    exactly(&mesh, &[], &by("mesh/not-a"))?;
    passes(&mesh, "mesh/a", "mesh/b2", true)?;
    mesh.edit(FILE, None)?;
    no_problems(&mesh)?;
    exactly(&mesh, &CALLERS, &[])
}

pub(crate) fn a_renamed_manifest_leaves_no_gap(lab: &Lab) -> Result<()> {
    const RENAMES: usize = 8;
    let (mut mesh, _servers) = mesh(lab)?;
    mesh.edit(FILE, Some(&deny("not-a", "a")))?;
    let mut open = mesh.pair("mesh/a2", "mesh/b", true)?;
    open.exchange()?;
    let dial = Dial::to(mesh.at("mesh/b", true, PORT)?);
    let mut denied_caller = Caller::start(&mesh.bed.app("mesh/a")?, dial.clone())?;
    let mut caller = Caller::start(&mesh.bed.app("mesh/a2")?, dial)?;
    let versions = [mesh.version("node-1")?, mesh.version("node-2")?];
    let mut names = [[FILE, "renamed.yaml"], ["world.yaml", "moved.yaml"]];
    for n in 0..RENAMES {
        for [from, to] in &mut names {
            fs::rename(mesh.path_of(from)?, mesh.path_of(to)?)?;
            std::mem::swap(from, to);
            denied_caller.wait_for_calls(10)?;
            caller.wait_for_calls(10)?;
        }
        // A change that is seen to be applied, after the consequences of the renaming.
        mesh.edit("other.yaml", Some(&policy_of_no_pod(&n.to_string())))?;
    }
    let (denied, passed) = (denied_caller.stop()?, caller.stop()?);
    ensure!(denied.answered == 0 && !denied.failed.is_empty(), "{} denied calls were answered", denied.answered);
    ensure!(passed.failed.is_empty(), "{:?}", passed.failed);
    open.exchange().context("a connection that was open all the time")?;
    // Renaming is no change: each World is one of the edits.
    let now = [mesh.version("node-1")?, mesh.version("node-2")?];
    ensure!(now == versions.map(|version| version + RENAMES as u64), "{versions:?}, then {now:?}");
    no_problems(&mesh)?;
    exactly(&mesh, &["mesh/a2", "mesh/b2", "out/o1"], &[("reason", "denied"), ("policy", "mesh/not-a")])
}
