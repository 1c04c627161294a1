//! The command's own ways to install, with the real Helm and a real API server: no kubelet is there, so nothing runs, and nothing is
//! waited for. Where pods run it installs the scenario `nodes_without_an_agent`.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use underpass_tests::{
    cluster::NAMESPACE,
    installed::{self, Said},
    testbed::{ApiServer, Kubectl, Lab, Site, Testbed, kubernetes},
};

use super::{
    helm::{Helm, at, strings},
    installed::up,
    values,
};

/// An installation that no kubelet and no controller takes part in.
const HERE: [&str; 2] = ["--no-hooks", "--wait=false"];

/// As users of Istio's installer have it.
const OPERATOR: &str = "
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
metadata: {name: mesh}
spec:
  profile: ambient
  hub: docker.io/istio
  meshConfig: {accessLogEncoding: JSON}
  components:
    pilot: {k8s: {replicaCount: 3}}
    cni: {enabled: false}
    ingressGateways: [{name: istio-ingressgateway, enabled: true}]
";

/// A cluster without nodes, and the command at it.
struct Bed {
    _bed: Testbed,
    server: ApiServer,
    site: Site,
}

impl Bed {
    fn up(lab: &Lab) -> Result<Self> {
        let (bed, server, _) = up(lab)?;
        let site = bed.node("control-plane")?.shell()?;
        Ok(Self { _bed: bed, server, site })
    }

    fn kubectl(&self) -> &Kubectl {
        self.server.kubectl()
    }

    fn command(&self, arguments: &[&str]) -> Result<Said> {
        installed::command(&self.site, self.kubectl().kubeconfig(), arguments)
    }

    fn apply(&self, word: &str, arguments: &[&str]) -> Result<Said> {
        self.command(&[&[word, "-y"][..], &HERE, arguments].concat())
    }

    fn file(&self, name: &str, text: &str) -> Result<String> {
        let path: PathBuf = self.site.lab().directory().join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Replicas and arguments of the control plane.
    fn control(&self) -> Result<(Value, Vec<String>)> {
        let control = self.kubectl().get(&["deployment", "underpass-control", "-n", NAMESPACE])?;
        let container = &at(&control, "spec.template.spec.containers")[0];
        Ok((control["spec"]["replicas"].clone(), strings(&container["args"])))
    }

    fn namespaces(&self) -> Result<Vec<String>> {
        let all = self.kubectl().get(&["namespaces"])?;
        let names = all["items"].as_array().into_iter().flatten();
        Ok(names.filter_map(|one| one["metadata"]["name"].as_str().map(str::to_owned)).collect())
    }
}

/// What is printed is what the chart fills in: rendered, both are the same.
pub(crate) fn a_dumped_profile_is_the_profile() -> Result<()> {
    let helm = Helm::new()?;
    for profile in ["default", "demo", "minimal"] {
        let output = Command::new(installed::program()?).args(["profile", "dump", profile]).output()?;
        let dumped = String::from_utf8(output.stdout)?;
        ensure!(output.status.success() && dumped.contains(&format!("profile: {profile}\n")), "{dumped}");
        // Nothing of it is left to the profile.
        let alone = dumped.replace(&format!("profile: {profile}\n"), "profile: default\n");
        let expected = helm.text(&format!("profile: {profile}"))?;
        ensure!(helm.text(&alone)? == expected, "{profile} is rendered otherwise than it is dumped:\n{alone}");
    }
    Ok(())
}

/// A trial, a question without an answer, and words that do not fit leave a cluster as it is.
pub(crate) fn changes_nothing_unasked(lab: &Lab) -> Result<()> {
    let bed = Bed::up(lab)?;
    let kubectl = bed.kubectl();
    kubectl.run(&["create", "namespace", "locked"])?;
    kubectl.run(&["label", "namespace", "locked", "pod-security.kubernetes.io/enforce=restricted"])?;
    let before = bed.namespaces()?;
    let istio = bed.file("istio.yaml", values::ISTIO)?;

    let tried = bed.command(&["install", "--dry-run", "-f", &istio])?;
    tried.says(
        0,
        &[
            "kind: DaemonSet",
            "These values have no effect in Underpass",
            "meshConfig.enableTracing",
            "nothing was changed",
        ],
    )?;
    let misspelt = ["install", "--dry-run", "--set", "agent.drianSeconds=1"];
    bed.command(&misspelt)?.says(1, &["drianSeconds", "helm upgrade --dry-run failed"])?;
    bed.command(&["install"])?
        .says(1, &["This will install Underpass", "context admin", "-y goes on without a question"])?;
    bed.command(&["upgrade", "-y"])?.says(1, &["no release of Underpass", NAMESPACE, "underpass install"])?;
    bed.command(&["uninstall", "-y"])?.says(1, &["no release of Underpass", "nothing to remove"])?;
    bed.command(&["install", "-y", "-i", "locked"])?.says(1, &["namespace locked", "enforce=restricted"])?;
    bed.command(&["install", "-y", "--profile", "openshift"])?.says(1, &["openshift", "default, demo, minimal"])?;
    bed.command(&["install", "-y", "--helm", "/nonexistent"])?.says(1, &["/nonexistent", "https://helm.sh"])?;
    bed.command(&["install", "-y", "--helm", "/bin/true"])?.says(1, &["/bin/true", "3.14 or later"])?;
    ensure!(bed.namespaces()? == before, "{:?}", bed.namespaces()?);
    let roles = kubectl.get(&["clusterroles"])?.to_string();
    ensure!(!roles.contains("underpass"), "{roles}");
    Ok(())
}

/// An IstioOperator is an installation, an upgrade keeps its values, and another installation forgets them.
pub(crate) fn installs_and_upgrades(lab: &Lab) -> Result<()> {
    let bed = Bed::up(lab)?;
    let kubectl = bed.kubectl();
    let operator = bed.file("operator.yaml", OPERATOR)?;

    let said =
        bed.apply("install", &["-f", &operator, "--set", "values.global.proxy.clusterDomain=cluster.example"])?;
    let named = ["spec.hub: names Istio's image", "not installed: spec.components.ingressGateways[0]"];
    said.says(
        0,
        &[&named[..], &["(profile default)", "STATUS: deployed", "is installed", "underpass label namespace"]].concat(),
    )?;
    let labels = kubectl.get(&["namespace", NAMESPACE])?["metadata"]["labels"].clone();
    ensure!(labels["pod-security.kubernetes.io/enforce"] == "privileged", "{labels}");
    let has = |arguments: &[String], one: &str| arguments.iter().any(|argument| argument == one);
    let (replicas, arguments) = bed.control()?;
    ensure!(replicas == json!(3) && has(&arguments, "--cluster-domain=cluster.example"), "{replicas} {arguments:?}");
    let image = kubectl.get(&["daemonset", "underpass-agent", "-n", NAMESPACE])?.to_string();
    ensure!(image.contains("\"localhost/underpass:") && !image.contains("docker.io/istio"), "{image}");

    // One release serves a cluster.
    bed.apply("install", &["-i", "other"])?
        .says(1, &["release underpass of namespace", NAMESPACE, "--system-namespace"])?;
    ensure!(!bed.namespaces()?.contains(&"other".to_owned()), "the namespace of a refused release is made");

    let said = bed.apply("upgrade", &["--set", "control.logLevel=debug"])?;
    said.says(0, &["again", "stay as they are", "is applied"])?;
    let (replicas, arguments) = bed.control()?;
    let kept = has(&arguments, "--cluster-domain=cluster.example") && has(&arguments, "--log=debug");
    ensure!(replicas == json!(3) && kept, "{replicas} {arguments:?}");

    bed.apply("install", &["--profile", "demo"])?.says(0, &["(profile demo)", "become the chart's own"])?;
    let (replicas, arguments) = bed.control()?;
    let forgotten = has(&arguments, "--cluster-domain=cluster.local") && has(&arguments, "--log=info");
    ensure!(replicas == json!(1) && forgotten, "{replicas} {arguments:?}");

    kubectl.run(&["create", "namespace", "shop"])?;
    bed.command(&["label", "namespace", "shop"])?.says(0, &["labeled"])?;
    bed.command(&["uninstall", "--dry-run"])?
        .says(0, &["This will remove", "by label: shop", "nothing was changed"])?;
    bed.control()?;
    bed.command(&["crd", "apply"])?.says(0, &["created"])?;
    bed.command(&["uninstall", "--crds"])?
        .says(1, &["authorizationpolicies.security.istio.io: there is no", "-y removes it"])?;
    bed.control()?;
    bed.apply("uninstall", &["--purge", "--crds"])?.says(0, &["by label: shop", "is removed", "istio.io: deleted"])?;
    bed.control().err().context("the control plane is there still")?;
    bed.apply("uninstall", &[])?.says(1, &["nothing to remove"])
}

/// `underpass manifest generate | kubectl apply -f -` on a fresh cluster: namespace, definitions and the mesh, in this order.
pub(crate) fn its_manifests_are_a_whole_mesh(lab: &Lab) -> Result<()> {
    let bed = Bed::up(lab)?;
    let kubectl = bed.kubectl();
    let operator = bed.file("operator.yaml", OPERATOR)?;
    let more = ["--set", "meshConfig.enableTracing=true"];
    let generate = |arguments: &[&str]| -> Result<Output> {
        let homes = kubernetes::helm_homes(&bed.site.lab().directory().join("helm"));
        // Neither the user's own Helm nor the user's cluster has a part in it.
        let mut command = Command::new("env");
        command.args(homes).arg("KUBECONFIG=/nonexistent").arg(installed::program()?).args(["manifest", "generate"]);
        Ok(command.args(arguments).output()?)
    };
    let output = generate(&[&["-f", &*operator][..], &more].concat())?;
    let notes = String::from_utf8_lossy(&output.stderr).into_owned();
    let named = ["spec.hub: names Istio's image", "note: meshConfig.enableTracing: has no effect here"];
    ensure!(output.status.success() && named.iter().all(|text| notes.contains(text)), "{notes}");
    let file = bed.file("manifests.yaml", &String::from_utf8(output.stdout)?)?;
    let said = kubectl.run(&["apply", "--validate=strict", "--warnings-as-errors", "-f", &file])?;
    ensure!(!said.contains("job") && !said.contains("underpass-cleanup"), "hooks are applied: {said}");
    let (replicas, _) = bed.control()?;
    ensure!(replicas == json!(3), "{replicas}");
    kubectl.get(&["daemonset", "underpass-agent", "-n", NAMESPACE])?;
    kubectl.run(&[
        "wait",
        "--for",
        "condition=Established",
        "--timeout=60s",
        "crd/authorizationpolicies.security.istio.io",
    ])?;
    // The command knows them for its own.
    bed.command(&["crd", "apply"])?.says(0, &["peerauthentications.security.istio.io: "])?;

    let output = generate(&["--set", "crds.enabled=false", "-i", "mesh"])?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(text.contains("name: \"mesh\"\n") && !text.contains("CustomResourceDefinition"), "{text}");
    Ok(())
}
