//! Rules: every field, the scope of a policy, dry runs, rules that need a waypoint, plaintext.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use underpass_tests::{apps::socket::Dial, mesh::Mesh, testbed::Lab};

use super::setup::{CALLERS, FILE, PORT, denied, deny, exactly, mesh, mutual_tls, passes, pod_name, policy};

pub(crate) fn every_field_allows_and_denies(lab: &Lab) -> Result<()> {
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

pub(crate) fn policies_have_a_scope(lab: &Lab) -> Result<()> {
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

pub(crate) fn a_dry_run_never_denies(lab: &Lab) -> Result<()> {
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

pub(crate) fn what_needs_a_waypoint_is_denied_and_said(lab: &Lab) -> Result<()> {
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

pub(crate) fn plaintext_from_outside_is_judged(lab: &Lab) -> Result<()> {
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
