//! End to end: authorization policies. Level kernel: needs root, the kernel programs and the agent. Every behaviour has its
//! failing twin: what a policy refuses passes without it, and what it does not name passes with it.
//!
//! What must hold in all of them: a denied call gets a reset, and both nodes' access logs name it.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error as TlsError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::TLS13,
};
use underpass_tests::{
    apps::{
        crowd::Caller,
        remote::Sockets,
        socket::{Dial, PATIENCE},
    },
    mesh::Mesh,
    testbed::{
        Actor, Lab,
        wait::{slowness, wait_until},
    },
};

underpass_tests::scenarios! {
    every_field_allows_and_denies,
    policies_have_a_scope,
    a_change_closes_exactly_what_it_denies,
    a_policy_that_flips_leaves_nothing_open,
    identities_follow_the_world,
    a_dry_run_never_denies,
    what_needs_a_waypoint_is_denied_and_said,
    plaintext_from_outside_is_judged,
    the_last_good_version_keeps_serving,
    a_renamed_manifest_leaves_no_gap,
    strangers_at_the_tunnel_port,
    a_flood_of_strangers_does_not_keep_friends_out,
}

const WORLD: &str = include_str!("manifests/two-nodes.yaml");
const FILE: &str = "policy.yaml";
const PORT: u16 = 8080;

/// The callers of mesh/b: from the other node, from its own node, and from outside of the mesh.
const CALLERS: [&str; 4] = ["mesh/a", "mesh/a2", "mesh/b2", "out/o1"];

/// The mesh with echo servers on all of its pods.
fn mesh(lab: &Lab) -> Result<(Mesh, Vec<Actor<()>>)> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    mesh.start()?;
    let servers = mesh.echo(&["mesh/a", "mesh/a2", "mesh/b", "mesh/b2"], PORT)?;
    Ok((mesh, servers))
}

/// An AuthorizationPolicy of namespace mesh for the pods labelled `app`.
fn policy(name: &str, app: &str, action: &str, rules: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: mesh}}
spec:
  selector: {{matchLabels: {{app: {app}}}}}
  action: {action}
  rules: {rules}
---
"
    )
}

/// One that denies this principal's calls to mesh/b.
fn deny(name: &str, service_account: &str) -> String {
    policy(
        name,
        "b",
        "DENY",
        &format!("[{{from: [{{source: {{principals: [cluster.local/ns/mesh/sa/{service_account}]}}}}]}}]"),
    )
}

/// A PeerAuthentication of namespace mesh.
fn mutual_tls(name: &str, spec: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: mesh}}
spec: {spec}
---
"
    )
}

fn pod_name(pod: &str) -> &str {
    pod.rsplit_once('/').map_or(pod, |(_, name)| name)
}

/// A call that passes.
fn passes(mesh: &Mesh, from: &str, to: &str, ipv4: bool) -> Result<()> {
    let talk = mesh.call(from, Dial::to(mesh.at(to, ipv4, PORT)?))?.answered();
    let who = talk.and_then(|talk| talk.who()).with_context(|| format!("{from} to {to}"))?;
    ensure!(who.peer.ip() == mesh.bed.pod(from)?.address(ipv4)?, "{who:?}");
    Ok(())
}

/// A call that is denied: reset for the application, and named by both nodes.
fn denied(mesh: &Mesh, from: &str, to: &str, ipv4: bool, why: &[(&str, &str)]) -> Result<()> {
    let (here, there) = (mesh.node_of(from)?, mesh.node_of(to)?);
    let before = (mesh.log(here)?.len(), mesh.log(there)?.len());
    mesh.is_reset(from, Dial::to(mesh.at(to, ipv4, PORT)?))?;
    let at = mesh.at(to, ipv4, PORT)?.to_string();
    let of = [("source_workload", pod_name(from)), ("destination_address", at.as_str())];
    let inbound = [&of[..], &[("direction", "inbound")], why].concat();
    mesh.logged_after(there, before.1, &inbound).with_context(|| format!("{from} to {to}"))?;
    if from.starts_with("mesh/") {
        let detail = [("direction", "outbound"), ("reason", "refused"), ("reason_detail", "refused with status 401")];
        mesh.logged_after(here, before.0, &[&of[..], &detail].concat()).with_context(|| format!("{from} to {to}"))?;
    }
    Ok(())
}

/// Exactly these callers of mesh/b pass, in both families; the others are denied for `why`.
fn exactly(mesh: &Mesh, passing: &[&str], why: &[(&str, &str)]) -> Result<()> {
    for from in CALLERS {
        for ipv4 in [true, false] {
            match passing.contains(&from) {
                true => passes(mesh, from, "mesh/b", ipv4)?,
                false => denied(mesh, from, "mesh/b", ipv4, why)?,
            }
        }
    }
    Ok(())
}

fn every_field_allows_and_denies(lab: &Lab) -> Result<()> {
    let (mut mesh, _servers) = mesh(lab)?;
    exactly(&mesh, &CALLERS, &[])?;
    let of_source = |source: &str| format!("[{{from: [{{source: {source}}}]}}]");
    let of_operation = |operation: &str| format!("[{{to: [{{operation: {operation}}}]}}]");
    let when = |key: &str, list: &str| format!("[{{when: [{{key: {key}, {list}}}]}}]");
    let table: [(String, &[&str]); 16] = [
        (of_source("{principals: [cluster.local/ns/mesh/sa/a]}"), &["mesh/a"]),
        (of_source("{notPrincipals: [cluster.local/ns/mesh/sa/a]}"), &["mesh/a2", "mesh/b2", "out/o1"]),
        (of_source("{principals: ['*']}"), &["mesh/a", "mesh/a2", "mesh/b2"]),
        (of_source("{namespaces: [mesh]}"), &["mesh/a", "mesh/a2", "mesh/b2"]),
        (of_source("{notNamespaces: [mesh]}"), &["out/o1"]),
        (of_source("{namespaces: [out]}"), &[]),
        (of_source("{serviceAccounts: [mesh/a2, b2]}"), &["mesh/a2", "mesh/b2"]),
        (of_source("{ipBlocks: [10.244.1.10, 'fd00:10:244:1::10']}"), &["mesh/a"]),
        (of_source("{ipBlocks: [10.244.1.0/24, 'fd00:10:244:1::/64']}"), &["mesh/a", "mesh/a2", "out/o1"]),
        (of_source("{notIpBlocks: [10.244.1.0/24, 'fd00:10:244:1::/64']}"), &["mesh/b2"]),
        (of_operation("{ports: ['8080']}"), &CALLERS),
        (of_operation("{notPorts: ['8080']}"), &[]),
        (of_operation("{ports: ['80', '9090']}"), &[]),
        ("[{from: [{source: {namespaces: [mesh]}}], to: [{operation: {notPorts: ['8080']}}]}]".into(), &[]),
        (when("source.principal", "values: [cluster.local/ns/mesh/sa/b2]"), &["mesh/b2"]),
        (when("destination.port", "notValues: ['8080']"), &[]),
    ];
    for (rules, matching) in table {
        let others: Vec<_> = CALLERS.into_iter().filter(|caller| !matching.contains(caller)).collect();
        mesh.edit(FILE, Some(&policy("p", "b", "ALLOW", &rules)))?;
        exactly(&mesh, matching, &[("reason", "not_allowed"), ("policy", "mesh/p")]).context(rules.clone())?;
        mesh.edit(FILE, Some(&policy("p", "b", "DENY", &rules)))?;
        exactly(&mesh, &others, &[("reason", "denied"), ("policy", "mesh/p")]).context(rules)?;
    }
    mesh.edit(FILE, None)?;
    exactly(&mesh, &CALLERS, &[])
}

fn policies_have_a_scope(lab: &Lab) -> Result<()> {
    let (mut mesh, _servers) = mesh(lab)?;
    // (namespace, selector, who is closed to mesh/a)
    let (b, a2) = (("mesh/b", "mesh/b is closed"), ("mesh/a2", "mesh/a2 is closed"));
    for (namespace, selector, closed) in [
        ("mesh", "selector: {matchLabels: {app: b}}", vec![b]),
        ("mesh", "", vec![b, a2]),
        ("istio-system", "", vec![b, a2]),
        ("istio-system", "selector: {matchLabels: {app: a2}}", vec![a2]),
        ("out", "", vec![]),
        ("mesh", "selector: {matchLabels: {app: none}}", vec![]),
    ] {
        let text = format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: {namespace}}}, \
             spec: {{action: DENY, rules: [{{}}]{}{selector}}}}}",
            if selector.is_empty() { "" } else { ", " }
        );
        mesh.edit(FILE, Some(&text))?;
        for to in ["mesh/b", "mesh/a2"] {
            match closed.iter().find(|(pod, _)| *pod == to) {
                None => passes(&mesh, "mesh/a", to, true).with_context(|| text.clone())?,
                Some((_, what)) => {
                    let name = format!("{namespace}/p");
                    denied(&mesh, "mesh/a", to, false, &[("reason", "denied"), ("policy", &name)]).context(*what)?;
                }
            }
        }
    }
    // Several: DENY goes first, and one ALLOW is enough.
    let several =
        [policy("every-client", "b", "ALLOW", "[{}]"), policy("no-client", "b", "ALLOW", "[]"), deny("not-a", "a")];
    mesh.edit(FILE, Some(&several.concat()))?;
    exactly(&mesh, &["mesh/a2", "mesh/b2", "out/o1"], &[("reason", "denied"), ("policy", "mesh/not-a")])?;
    mesh.edit(FILE, Some(&several[1]))?;
    exactly(&mesh, &[], &[("reason", "not_allowed"), ("policy", "mesh/no-client")])
}

fn a_change_closes_exactly_what_it_denies(lab: &Lab) -> Result<()> {
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

/// A policy that selects no pod.
fn policy_of_no_pod(after: &str) -> String {
    policy(&format!("after-{}", pod_name(after)), "none", "DENY", "[{}]")
}

fn a_policy_that_flips_leaves_nothing_open(lab: &Lab) -> Result<()> {
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

fn identities_follow_the_world(lab: &Lab) -> Result<()> {
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

fn a_dry_run_never_denies(lab: &Lab) -> Result<()> {
    let (mut mesh, _servers) = mesh(lab)?;
    let dry =
        |text: &str| text.replace("namespace: mesh}", "namespace: mesh, annotations: {istio.io/dry-run: 'true'}}");
    for (action, rules, reason) in [("DENY", "[{}]", "denied"), ("ALLOW", "[]", "not_allowed")] {
        let real = policy("tried", "b", action, rules);
        mesh.edit(FILE, Some(&dry(&real)))?;
        let mut open = mesh.pair("mesh/a", "mesh/b", true)?;
        let lines = mesh.log("node-2")?.len();
        exactly(&mesh, &CALLERS, &[])?;
        open.exchange()?;
        let would_be_denied = [("reason", "finished"), ("dry_run_denied_by", "mesh/tried")];
        for path in ["hbone", "plaintext"] {
            mesh.logged_after("node-2", lines, &[&would_be_denied[..], &[("path", path)]].concat())?;
        }
        // The twin: the same in earnest.
        mesh.edit(FILE, Some(&real))?;
        open.is_reset()?;
        exactly(&mesh, &[], &[("reason", reason), ("policy", "mesh/tried")])?;
    }
    Ok(())
}

fn what_needs_a_waypoint_is_denied_and_said(lab: &Lab) -> Result<()> {
    let (mut mesh, _servers) = mesh(lab)?;
    let says = |fields: &str| format!("needs a waypoint: {fields}");
    for (action, rules, passing, fields) in [
        ("DENY", "[{to: [{operation: {methods: [GET]}}]}]", &[][..], "methods"),
        (
            "DENY",
            "[{from: [{source: {serviceAccounts: [a]}}], to: [{operation: {methods: [GET], paths: ['/x']}}]}]",
            &CALLERS[1..],
            "methods, paths",
        ),
        ("DENY", "[{to: [{operation: {methods: [GET], ports: ['9090']}}]}]", &CALLERS[..], "methods"),
        ("ALLOW", "[{to: [{operation: {methods: [GET]}}]}]", &[], "methods"),
        (
            "ALLOW",
            "[{from: [{source: {serviceAccounts: [a]}}]}, {to: [{operation: {hosts: [b]}}]}]",
            &["mesh/a"],
            "hosts",
        ),
    ] {
        mesh.edit(FILE, Some(&policy("by-http", "b", action, rules)))?;
        let why = [("reason", "needs_waypoint"), ("reason_detail", &*says(fields)), ("policy", "mesh/by-http")];
        exactly(&mesh, passing, &why).context(rules)?;
        // And loudly: on the object.
        let dump = mesh.admin("node-2", "/config_dump")?;
        let findings = dump["findings"].as_array().context("findings")?;
        let said = findings.iter().any(|finding| {
            finding["object"].to_string().contains("by-http")
                && finding["says"].as_str().is_some_and(|says| says.contains("can only be judged by a waypoint"))
        });
        ensure!(said, "{findings:#?}");
    }
    Ok(())
}

fn plaintext_from_outside_is_judged(lab: &Lab) -> Result<()> {
    let (mut mesh, _servers) = mesh(lab)?;
    let refused = |mesh: &Mesh, name: &str| -> Result<()> {
        let why = [("path", "plaintext"), ("reason", "plaintext_refused"), ("policy", name), ("source_identity", "-")];
        for (from, ipv4) in [("out/o1", true), ("out/o1", false), ("out/o2", true), ("out/o2", false)] {
            denied(mesh, from, "mesh/b", ipv4, &why)?;
        }
        passes(mesh, "mesh/a", "mesh/b", true).context("mutual TLS")?;
        passes(mesh, "mesh/b2", "mesh/b", false).context("mutual TLS")
    };
    let passed = |mesh: &Mesh| -> Result<()> {
        for (from, ipv4) in [("out/o1", true), ("out/o1", false), ("out/o2", true), ("out/o2", false)] {
            let lines = mesh.log("node-2")?.len();
            // With the client's address, which `passes` looks at.
            passes(mesh, from, "mesh/b", ipv4)?;
            let line =
                mesh.logged_after("node-2", lines, &[("source_workload", pod_name(from)), ("reason", "finished")])?;
            let known = [("path", "plaintext"), ("direction", "inbound"), ("source_namespace", "out")];
            ensure!(
                known.iter().all(|(key, value)| line[*key] == *value) && line["source_identity"].is_null(),
                "{line:#}"
            );
        }
        // A client that is no pod, from an IPv6 socket.
        let mapped: SocketAddr = format!("[::ffff:{}]:{PORT}", mesh.bed.pod("mesh/b")?.v4()?).parse()?;
        let host = mesh.bed.node("node-1")?.shell()?;
        let who = host.act(underpass_tests::apps::socket::dial, Dial::to(mapped))?.answered()?.who()?;
        let own = mesh.bed.node("node-1")?.spec().addresses.clone();
        ensure!(own.contains(&who.peer.ip()), "{who:?}");
        Ok(())
    };
    passed(&mesh).context("nothing said")?;
    mesh.edit(FILE, Some(&mutual_tls("strict", "{mtls: {mode: STRICT}}")))?;
    refused(&mesh, "mesh/strict")?;
    // The most specific says: the port, the workload, the namespace, the mesh.
    let by_port = |mode: &str| {
        format!(
            "{{selector: {{matchLabels: {{app: b}}}}, mtls: {{mode: STRICT}}, portLevelMtls: {{8080: {{mode: {mode}}}}}}}"
        )
    };
    for mode in ["PERMISSIVE", "DISABLE"] {
        mesh.edit(FILE, Some(&(mutual_tls("strict", "{mtls: {mode: STRICT}}") + &mutual_tls("port", &by_port(mode)))))?;
        passed(&mesh).context(mode)?;
    }
    let workload = mutual_tls("workload", "{selector: {matchLabels: {app: b}}, mtls: {mode: STRICT}}");
    mesh.edit(FILE, Some(&(mutual_tls("permissive", "{mtls: {mode: PERMISSIVE}}") + &workload)))?;
    refused(&mesh, "mesh/workload")?;
    let mesh_wide =
        mutual_tls("strict", "{mtls: {mode: STRICT}}").replace("namespace: mesh", "namespace: istio-system");
    mesh.edit(FILE, Some(&mesh_wide))?;
    refused(&mesh, "istio-system/strict")?;
    mesh.edit(FILE, Some(&(mesh_wide + &mutual_tls("permissive", "{mtls: {mode: PERMISSIVE}}"))))?;
    passed(&mesh).context("the namespace's own")
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

fn the_last_good_version_keeps_serving(lab: &Lab) -> Result<()> {
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

fn a_renamed_manifest_leaves_no_gap(lab: &Lab) -> Result<()> {
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
            fs::rename(mesh.path_of(from), mesh.path_of(to))?;
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

/// Writes to the tunnel's port and returns what comes back until the connection ends, in order or by a reset.
fn write_and_read((to, bytes, then_end): (SocketAddr, Vec<u8>, bool)) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE * slowness()))?;
    let mut answer = Vec::new();
    let mut talk = || {
        stream.write_all(&bytes)?;
        if then_end {
            stream.shutdown(std::net::Shutdown::Write)?;
        }
        stream.read_to_end(&mut answer)
    };
    match talk() {
        Ok(_) => Ok(answer),
        Err(e) if e.raw_os_error().is_some_and(|e| [libc::ECONNRESET, libc::EPIPE, libc::ENOTCONN].contains(&e)) => {
            Ok(answer)
        }
        Err(e) => bail!("not closed: {e}"),
    }
}

/// Takes every certificate: these tests are about the client's.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("not TLS 1.3".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Speaks TLS without a certificate of its own; what it is told.
fn without_a_certificate(to: SocketAddr) -> Result<String> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting));
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut tls = ClientConnection::new(Arc::new(config), ServerName::from(to.ip()))?;
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE * slowness()))?;
    let mut tls = rustls::Stream::new(&mut tls, &mut stream);
    // A client of TLS 1.3 is done before the server has seen its certificate, and learns what it thinks when it reads.
    let talked = tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").and_then(|()| tls.read(&mut [0; 1024]));
    match talked {
        Ok(n) => bail!("answered with {n} bytes"),
        Err(e) => Ok(e.to_string()),
    }
}

fn strangers_at_the_tunnel_port(lab: &Lab) -> Result<()> {
    let (mut mesh, _servers) = mesh(lab)?;
    passes(&mesh, "mesh/a", "mesh/b", true)?;
    let pid = mesh.agent("node-2")?.pid();
    // A record header of TLS that promises 512 bytes, and a few of them.
    let hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[7; 40]].concat();
    let noise: Vec<u8> = (0..20_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let table: [(&str, Vec<u8>, bool, &[&str]); 6] = [
        ("garbage", noise, false, &["tls_protocol"]),
        ("plain HTTP/1.1", b"GET / HTTP/1.1\r\nhost: b\r\n\r\n".to_vec(), false, &["tls_protocol"]),
        ("plain HTTP/2", preface, false, &["tls_protocol"]),
        ("a truncated record", hello.clone(), true, &["tunnel_closed", "tls_protocol"]),
        ("a handshake that ends", hello, true, &["tunnel_closed", "tls_protocol"]),
        ("nothing", Vec::new(), true, &["tunnel_closed"]),
    ];
    for (what, bytes, then_end, reasons) in table {
        // From the other node, from this one, and from within the mesh.
        for (from, ipv4) in [("out/o1", true), ("out/o2", false), ("out/o2", true)] {
            let lines = mesh.log("node-2")?.len();
            let to = mesh.at("mesh/b", ipv4, 15008)?;
            let answer = mesh.bed.app(from)?.act(write_and_read, (to, bytes.clone(), then_end)).context(what)?;
            ensure!(answer.len() < 64, "{what}: {} bytes of answer", answer.len());
            let to = to.to_string();
            let of =
                [("source_workload", pod_name(from)), ("destination_address", to.as_str()), ("direction", "inbound")];
            let line = mesh.logged_after("node-2", lines, &of).context(what)?;
            let reason = line["reason"].as_str().unwrap_or_default();
            ensure!(reasons.contains(&reason) && line["source_identity"].is_null(), "{what}: {line:#}");
            passes(&mesh, "mesh/a", "mesh/b", ipv4).with_context(|| format!("after {what}"))?;
        }
    }
    for ipv4 in [true, false] {
        let lines = mesh.log("node-2")?.len();
        let to = mesh.at("mesh/b", ipv4, 15008)?;
        let told = mesh.bed.app("out/o1")?.act(without_a_certificate, to)?;
        ensure!(told.contains("CertificateRequired"), "{told}");
        mesh.logged_after(
            "node-2",
            lines,
            &[("source_workload", "o1"), ("reason", "tls_no_certificate"), ("source_identity", "-")],
        )?;
        passes(&mesh, "mesh/a2", "mesh/b", ipv4)?;
    }
    // An enrolled pod that speaks to the port itself is captured, and CONNECT to our own port is refused.
    let to = mesh.at("mesh/b", true, 15008)?;
    let answer = mesh.bed.app("mesh/a")?.act(write_and_read, (to, b"hello".to_vec(), false))?;
    ensure!(answer.is_empty());
    mesh.logged(
        "node-2",
        &[("source_workload", "a"), ("destination_address", &to.to_string()), ("reason", "not_served_here")],
    )?;
    ensure!(mesh.agent("node-2")?.ended()?.is_none() && mesh.agent("node-2")?.pid() == pid);
    wait_until("no connection", || Ok(mesh.connections("node-2", &[])?.is_empty()))
}

fn a_flood_of_strangers_does_not_keep_friends_out(lab: &Lab) -> Result<()> {
    /// As many as one pod takes.
    const MOST: usize = 256;
    let (mesh, _servers) = mesh(lab)?;
    passes(&mesh, "mesh/a", "mesh/b", true)?;
    let to = mesh.at("mesh/b", true, 15008)?;
    let mut flood = Sockets::start(&mesh.bed.app("out/o2")?)?;
    let mut silent = (0..MOST).map(|_| flood.connect(to)).collect::<Result<Vec<_>>>()?;
    // One more takes the place of the first.
    silent.push(flood.connect(to)?);
    let told = flood.receive(silent.remove(0), 1)?;
    ensure!(told.as_ref().map_or_else(|e| e.errno == libc::ECONNRESET, Vec::is_empty), "{told:?}");
    mesh.logged("node-2", &[("source_workload", "o2"), ("reason", "limit")])?;
    // Who has a tunnel goes on using it, who needs one gets it, other pods are as they were, and so is plaintext.
    passes(&mesh, "mesh/a", "mesh/b", true)?;
    passes(&mesh, "mesh/a2", "mesh/b", false)?;
    passes(&mesh, "mesh/a", "mesh/b2", true)?;
    passes(&mesh, "out/o1", "mesh/b", true)?;
    for id in silent {
        flood.close(id)??;
    }
    wait_until("the last of them to be forgotten", || {
        Ok(mesh.log("node-2")?.iter().filter(|line| line["source_workload"] == "o2").count() > MOST)
    })?;
    passes(&mesh, "mesh/a2", "mesh/b", true)?;
    let mut still = mesh.pair("mesh/a2", "mesh/b", false)?;
    still.patience(Duration::from_secs(10))?;
    still.exchange()
}
