//! The definitions of AuthorizationPolicy and PeerAuthentication: applied by `underpass crd`, and what an API server makes of them.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use underpass_tests::{
    cluster,
    testbed::{ApiServer, Description, Kubectl, Lab, Testbed},
};

const NAMES: [&str; 2] = ["authorizationpolicies.security.istio.io", "peerauthentications.security.istio.io"];

fn up(lab: &Lab) -> Result<(Testbed, ApiServer)> {
    let description = Description::default().node("control-plane", &["172.18.0.10", "fd00:172:18::10"])?;
    let bed = Testbed::up(lab, &description)?;
    let server = ApiServer::start(bed.node("control-plane")?)?;
    Ok((bed, server))
}

/// `underpass crd`, with the rights of this user; what it says on standard output.
fn crd(bed: &Testbed, user: &Kubectl, arguments: &[&str]) -> Result<String> {
    let program = std::env::var("UNDERPASS_CLI_BIN")
        .context("UNDERPASS_CLI_BIN names `underpass`: run `cargo xtask test kubernetes`")?;
    let kubeconfig = user.kubeconfig().to_string_lossy();
    let all = [&["crd"], arguments, &["--kubeconfig", &*kubeconfig]].concat();
    bed.node("control-plane")?.shell()?.run(&program, &all)
}

fn refusal<T>(outcome: Result<T>) -> Result<String> {
    Ok(format!("{:#}", outcome.err().context("it is not refused")?))
}

/// Both lines say the same of their definitions.
fn both(says: &str) -> String {
    NAMES.map(|name| format!("{name}: {says}\n")).concat()
}

pub(crate) fn are_applied_where_they_are_ours(lab: &Lab) -> Result<()> {
    let (bed, server) = up(lab)?;
    let admin = server.kubectl();
    admin.run(&["create", "namespace", cluster::NAMESPACE])?;
    admin.apply(cluster::RIGHTS)?;
    let token = admin.token_of_account(&format!("{}/underpass-crds", cluster::NAMESPACE), ApiServer::AUDIENCE)?;
    let hook = server.kubectl_as("underpass-crds", &token)?;
    let apply = || crd(&bed, &hook, &["apply"]);
    let definition = |name: &str| admin.get(&["customresourcedefinition", name]);

    println!("made, with the rights of the chart's hook");
    ensure!(apply()? == both("created"));
    for name in NAMES {
        let made = definition(name)?;
        let conditions = made["status"]["conditions"].as_array().context("conditions")?;
        let is = |name: &str| conditions.iter().any(|one| one["type"] == name && one["status"] == "True");
        ensure!(is("Established") && is("NamesAccepted") && !is("NonStructuralSchema"), "{made}");
    }
    ensure!(apply()? == both("unchanged"));
    // Another program of ours may have changed them; an older one has another version.
    for (label, expected) in
        [("0", both("updated")), ("99", both("left: version 99 is later than 1, which this program has"))]
    {
        for name in NAMES {
            let version = format!("underpass.dev/definitions-version={label}");
            admin.run(&["annotate", "customresourcedefinition", name, "--overwrite", &version])?;
        }
        ensure!(apply()? == expected, "{label}");
    }

    println!("another owner's are left as they are");
    let owner = "app.kubernetes.io/managed-by=Helm";
    admin.run(&["label", "customresourcedefinition", NAMES[0], "--overwrite", owner])?;
    let before = definition(NAMES[0])?;
    let says = apply()?;
    ensure!(
        says.starts_with(&format!("{}: left: it is of another owner ({owner}), and serves v1, v1beta1\n", NAMES[0])),
        "{says}"
    );
    ensure!(definition(NAMES[0])? == before, "it is written");

    println!("deleted after a question");
    admin.apply(&format!("{MTLS}\n---\n{ALLOW}"))?;
    let refused = refusal(crd(&bed, admin, &["delete"]))?;
    ensure!(refused.contains("1 PeerAuthentication goes with it") && refused.contains("shop/default"), "{refused}");
    ensure!(refused.contains("-y deletes without a question"), "{refused}");
    definition(NAMES[1])?;
    let says = crd(&bed, admin, &["delete", "-y"])?;
    ensure!(
        says.contains(&format!("{}: deleted\n", NAMES[1])) && says.contains(&format!("{}: left: ", NAMES[0])),
        "{says}"
    );
    definition(NAMES[1]).err().context("it is gone")?;
    admin.get(&["authorizationpolicy", "web", "-n", "shop"])?;
    ensure!(apply()?.ends_with(&format!("{}: created\n", NAMES[1])));
    Ok(())
}

const MTLS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
";

const ALLOW: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec: {}
";

/// Specs that are taken as they are.
const GOOD: &[(&str, &str)] = &[
    ("AuthorizationPolicy", "{}"),
    ("AuthorizationPolicy", "{action: DENY, selector: {matchLabels: {app: web}}, rules: [{}]}"),
    (
        "AuthorizationPolicy",
        "{action: CUSTOM, provider: {name: opa}, rules: [{when: [{key: 'request.headers[x]', notValues: ['']}]}]}",
    ),
    (
        "AuthorizationPolicy",
        "{targetRefs: [{group: '', kind: Service, name: web}, {group: gateway.networking.k8s.io, kind: Gateway, name: w, namespace: ''}]}",
    ),
    ("AuthorizationPolicy", "{targetRef: {kind: Service, name: web}, action: AUDIT}"),
    (
        "AuthorizationPolicy",
        "{rules: [{from: [{source: {serviceAccounts: [shop/a], trustDomains: [td], ipBlocks: [10.0.0.0/8]}}], to: [{operation: {hosts: [a], notPaths: [/x], ports: ['80']}}]}]}",
    ),
    (
        "AuthorizationPolicy",
        "{rules: [{from: [{source: {principals: ['*'], notNamespaces: [a], requestPrincipals: ['*'], remoteIpBlocks: [1.2.3.4]}}]}]}",
    ),
    // What the converter refuses, and no definition.
    ("AuthorizationPolicy", "{rules: [{from: [], to: [{operation: {ports: [http]}}]}], selector: {}}"),
    ("PeerAuthentication", "{}"),
    (
        "PeerAuthentication",
        "{selector: {matchLabels: {app: web}}, mtls: {mode: UNSET}, portLevelMtls: {'8080': {mode: DISABLE}, '65535': {}}}",
    ),
];

/// Specs that are refused, and a part of what the user reads.
const BAD: &[(&str, &str, &str)] = &[
    ("AuthorizationPolicy", "{action: DENNY}", "spec.action: Unsupported value"),
    (
        "AuthorizationPolicy",
        "{selector: {}, targetRefs: [{kind: Service, name: a}]}",
        "selector, targetRef and targetRefs exclude one another",
    ),
    (
        "AuthorizationPolicy",
        "{targetRef: {kind: Service, name: a}, targetRefs: [{kind: Service, name: a}]}",
        "exclude one another",
    ),
    ("AuthorizationPolicy", "{targetRefs: [{kind: Service}]}", "spec.targetRefs[0].name: Required value"),
    (
        "AuthorizationPolicy",
        "{targetRefs: [{kind: Service, name: a, namespace: b}]}",
        "another namespace cannot be named",
    ),
    ("AuthorizationPolicy", "{targetRef: {kind: '1', name: a}}", "spec.targetRef.kind"),
    ("AuthorizationPolicy", "{targetRef: {kind: Service, name: a, group: 'a..b'}}", "spec.targetRef.group"),
    ("AuthorizationPolicy", "{selector: {matchLabels: {'': a}}}", "a key is not empty"),
    ("AuthorizationPolicy", "{selector: {matchLabels: {app: 'a*'}}}", "a value has no `*`"),
    ("AuthorizationPolicy", "{rules: [{when: [{values: [a]}]}]}", "spec.rules[0].when[0].key: Required value"),
    (
        "AuthorizationPolicy",
        "{rules: [{from: [{source: {serviceAccounts: [a], namespaces: [b]}}]}]}",
        "spec.rules[0].from[0].source",
    ),
    (
        "AuthorizationPolicy",
        "{rules: [{from: [{source: {notServiceAccounts: [a], notPrincipals: [b]}}]}]}",
        "serviceAccounts and notServiceAccounts exclude",
    ),
    ("AuthorizationPolicy", "{rules: [{to: [{operation: {ports: [80]}}]}]}", "spec.rules[0].to[0].operation.ports[0]"),
    ("AuthorizationPolicy", "{rules: [{from: [{sources: {}}]}]}", "sources"),
    ("PeerAuthentication", "{mtls: {mode: strict}}", "spec.mtls.mode: Unsupported value"),
    ("PeerAuthentication", "{portLevelMtls: {'80': {}}}", "portLevelMtls needs a selector with matchLabels"),
    (
        "PeerAuthentication",
        "{selector: {matchLabels: {}}, portLevelMtls: {'80': {}}}",
        "portLevelMtls needs a selector",
    ),
    ("PeerAuthentication", "{selector: {matchLabels: {a: b}}, portLevelMtls: {'65536': {}}}", "a key is a port"),
    ("PeerAuthentication", "{selector: {matchLabels: {a: b}}, portLevelMtls: {'0': {}}}", "a key is a port"),
    ("PeerAuthentication", "{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {}}}", "spec.portLevelMtls"),
    ("PeerAuthentication", "{selector: {matchLabels: {a: b}}, portLevelMtls: {}}", "spec.portLevelMtls"),
];

/// A status as Istio and Underpass write it.
const STATUS: &str = r#"{"status":{"observedGeneration":"1","conditions":[
    {"type":"Accepted","status":"True","reason":"Valid","message":"","lastTransitionTime":"2026-01-01T00:00:00Z","lastProbeTime":"2026-01-01T00:00:00Z","observedGeneration":1}],
    "validationMessages":[{"level":"WARNING","documentationUrl":"u","type":{"code":"IST1","name":"N"}}]}}"#;

pub(crate) fn take_what_istios_take(lab: &Lab) -> Result<()> {
    let (bed, server) = up(lab)?;
    let kubectl = server.kubectl();
    // The printed text, as a user has it without the command.
    kubectl.define(&print(&bed)?)?;
    kubectl.run(&["create", "namespace", "shop"])?;
    let object = |kind: &str, version: &str, spec: &str| {
        format!(
            "apiVersion: security.istio.io/{version}\nkind: {kind}\nmetadata: {{name: x, namespace: shop}}\nspec: {spec}\n"
        )
    };
    // Every field is known: one that were pruned would be an error.
    let apply = |manifest: &str| {
        let file = lab.directory().join("object.yaml");
        std::fs::write(&file, manifest)?;
        kubectl.run(&["apply", "--validate=strict", "--warnings-as-errors", "-f", &file.to_string_lossy()])
    };
    for version in ["v1", "v1beta1"] {
        for (kind, spec) in GOOD {
            apply(&object(kind, version, spec)).with_context(|| format!("{kind} {spec}"))?;
            kubectl.run(&["delete", kind, "x", "-n", "shop"])?;
        }
        for (kind, spec, reason) in BAD {
            let refused = refusal(apply(&object(kind, version, spec))).with_context(|| format!("{kind} {spec}"))?;
            ensure!(refused.contains(reason), "{kind} {spec}: {refused}");
        }
    }
    for guide in [
        include_str!("../../../../cli/tests/analyze/guide/authz.yaml"),
        include_str!("../../../../cli/tests/analyze/guide/mtls.yaml"),
    ] {
        for namespace in ["staging", "istio-system"] {
            let _ = kubectl.run(&["create", "namespace", namespace]);
        }
        apply(guide)?;
    }

    println!("status and columns");
    apply(&object("PeerAuthentication", "v1", "{mtls: {mode: STRICT}}"))?;
    kubectl.run(&["patch", "pa", "x", "-n", "shop", "--subresource", "status", "--type", "merge", "-p", STATUS])?;
    let kept = kubectl.get(&["pa", "x", "-n", "shop"])?;
    let wanted: Value = serde_json::from_str(STATUS)?;
    ensure!(kept["status"] == wanted["status"], "{kept}");
    let listed = kubectl.run(&["get", "istio-io", "-n", "shop"])?;
    ensure!(listed.contains("MODE") && listed.contains("STRICT"), "{listed}");
    let explained = kubectl.run(&["explain", "ap.spec.rules.from.source.principals"])?;
    ensure!(explained.contains("TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT"), "{explained}");
    Ok(())
}

/// It asks no cluster.
fn print(bed: &Testbed) -> Result<String> {
    let program = std::env::var("UNDERPASS_CLI_BIN").context("UNDERPASS_CLI_BIN")?;
    bed.node("control-plane")?.shell()?.run(&program, &["crd", "print"])
}
