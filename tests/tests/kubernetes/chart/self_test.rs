//! The objects of `helm test`: a server whose one port is guarded, callers that look at it, and no rights.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    helm::{Helm, NAMESPACE, Objects, at, containers, strings},
    programs::{program, says_help},
    values,
};

/// The callers, and whether each is in the mesh.
const CALLERS: [(&str, &str); 3] = [("outside", "none"), ("denied", "ambient"), ("allowed", "ambient")];
const CONTROL: &str = "/usr/local/bin/underpass-control";

/// All are hooks that go again, the policies are made first, and no pod has a token.
pub(crate) fn leaves_nothing() -> Result<()> {
    for values in [values::NONE, values::ALL, values::ISTIO] {
        let objects = Helm::new()?.render(values)?;
        let mut weights = Vec::new();
        for object in objects.hooks("test") {
            let annotations = &object["metadata"]["annotations"];
            ensure!(annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded", "{object}");
            ensure!(object["metadata"]["namespace"] == NAMESPACE, "{object}");
            let weight = annotations["helm.sh/hook-weight"].as_str().and_then(|weight| weight.parse::<i32>().ok());
            let kind = object["kind"].as_str().unwrap_or_default();
            weights.push((weight.context("a weight")?, kind));
            ensure!(!["Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"].contains(&kind), "{object}");
            let pod = at(object, "spec.template.spec");
            if pod.is_object() {
                ensure!(pod["automountServiceAccountToken"] == false && pod["hostNetwork"].is_null(), "{pod}");
                ensure!(pod["securityContext"]["runAsNonRoot"] == true, "{pod}");
                for container in containers(pod) {
                    let context = &container["securityContext"];
                    ensure!(context["capabilities"] == json!({"drop": ["ALL"]}), "{context}");
                    ensure!(context["allowPrivilegeEscalation"] == false, "{context}");
                }
            }
        }
        weights.sort_unstable();
        let order: Vec<_> = weights.into_iter().map(|(_, kind)| kind).collect();
        let expected = [
            &["AuthorizationPolicy", "PeerAuthentication"][..],
            &["Service"],
            &["ServiceAccount"; 4],
            &["Deployment"],
            &["Job"; 3],
        ];
        ensure!(order == expected.concat(), "{order:?}");
    }
    Ok(())
}

/// The server's port that the policies guard is the one that callers take for it; the identity that they name is that of the caller
/// which says so, and programs take what they are asked.
pub(crate) fn names_one_guarded_port_and_one_identity() -> Result<()> {
    for (values, domain) in [(values::NONE, "cluster.local"), (values::ALL, "mesh.example")] {
        let objects = Helm::new()?.render(values)?;
        let server = at(objects.one("Deployment", "underpass-test-server")?, "spec.template");
        let container = &server["spec"]["containers"][0];
        let served = strings(&container["args"]);
        ensure!(served == ["--guarded=9443", "--open=9080"], "{served:?}");
        takes(container, "serve")?;
        ensure!(server["metadata"]["labels"]["istio.io/dataplane-mode"] == "ambient", "{server}");

        let tls = objects.one("PeerAuthentication", "underpass-test")?;
        ensure!(at(tls, "spec.mtls.mode") == "STRICT", "{tls}");
        ensure!(tls["spec"]["portLevelMtls"] == json!({"9080": {"mode": "PERMISSIVE"}}), "{tls}");
        let policy = objects.one("AuthorizationPolicy", "underpass-test")?;
        let principal = format!("{domain}/ns/{NAMESPACE}/sa/underpass-test-allowed");
        let rules = json!([
            {"from": [{"source": {"principals": [principal]}}]},
            {"to": [{"operation": {"ports": ["9080"]}}]},
        ]);
        ensure!(policy["spec"]["rules"] == rules, "{policy}");
        let service = objects.one("Service", "underpass-test-server")?;
        let ports: Vec<_> = service["spec"]["ports"].as_array().into_iter().flatten().map(|one| &one["port"]).collect();
        ensure!(ports == [9443, 9080], "{service}");
        for selector in [
            at(tls, "spec.selector.matchLabels"),
            at(policy, "spec.selector.matchLabels"),
            &service["spec"]["selector"],
        ] {
            let selector = selector.as_object().context("a selector")?;
            ensure!(!selector.is_empty(), "{selector:?}");
            let has = |labels: &Value| selector.iter().all(|(key, value)| labels[key] == *value);
            ensure!(has(&server["metadata"]["labels"]), "{selector:?}");
            for (role, _) in CALLERS {
                ensure!(!has(at(caller(&objects, role)?, "metadata.labels")), "{role}: {selector:?}");
            }
        }
        for (role, mode) in CALLERS {
            let pod = caller(&objects, role)?;
            ensure!(pod["spec"]["serviceAccountName"] == format!("underpass-test-{role}"), "{pod}");
            ensure!(pod["metadata"]["labels"]["istio.io/dataplane-mode"] == mode, "{pod}");
            let container = &pod["spec"]["containers"][0];
            let arguments = strings(&container["args"]);
            for expected in [
                format!("--as={role}"),
                "--guarded=underpass-test-server:9443".to_owned(),
                "--open=underpass-test-server:9080".to_owned(),
            ] {
                ensure!(arguments.contains(&expected), "no {expected}: {arguments:?}");
            }
            takes(container, "call")?;
        }
    }
    Ok(())
}

/// The pod of a caller, as its Job makes it.
fn caller<'a>(objects: &'a Objects, role: &str) -> Result<&'a Value> {
    Ok(at(objects.one("Job", &format!("underpass-test-{role}"))?, "spec.template"))
}

/// The control plane's program takes what a container asks.
fn takes(container: &Value, part: &str) -> Result<()> {
    let command = strings(&container["command"]);
    ensure!(command == [CONTROL, "self-test", part], "{command:?}");
    let arguments = [&command[1..], &strings(&container["args"])[..]].concat();
    says_help(&program("UNDERPASS_CONTROL_BIN")?, &arguments, &format!("Usage: underpass-control self-test {part}"))
}
