//! Istio's base chart and ours in one cluster, in both orders, by the real Helm. Neither istiod nor agents run, and no
//! controller is there that would run a hook: what ours does, `underpass crd apply`, is run by hand.
//!
//! What must hold: the definitions of policies belong to the chart that came first, until a user gives them to the
//! other; no step takes a policy away, or leaves one that cannot be changed.

use std::cell::Cell;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use underpass_tests::{
    cluster::{NAMESPACE, istiod},
    installed::{self, Said},
    testbed::{ApiServer, Description, Kubectl, Lab, Site, Testbed, wait::wait_until},
};

use super::{
    guide,
    helm::{CHART, Helm},
};

const NAMES: [&str; 2] = ["authorizationpolicies.security.istio.io", "peerauthentications.security.istio.io"];
/// The namespace of Istio's release.
const SYSTEM: &str = "istio-system";
/// Istio's chart without the definitions that are ours.
const EXCLUDED: &str =
    "base.excludedCRDs={authorizationpolicies.security.istio.io,peerauthentications.security.istio.io}";
/// Istio's chart without the webhook that only an istiod answers.
const NO_WEBHOOK: &str = "defaultRevision=";
/// What `underpass crd apply` says of one of Istio's.
const ISTIOS: &str = "left: it is of another owner (app.kubernetes.io/managed-by=Helm), and serves v1, v1beta1";

const POLICIES: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: before, namespace: shop}
spec: {rules: [{to: [{operation: {ports: ['80']}}]}]}
---
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: {name: before, namespace: shop}
spec: {mtls: {mode: STRICT}}
";

/// A cluster without nodes, Helm, and both charts.
struct Scene {
    _bed: Testbed,
    server: ApiServer,
    helm: Helm,
    site: Site,
    base: String,
    /// Changes of policies so far.
    changes: Cell<usize>,
}

impl Scene {
    fn up(lab: &Lab) -> Result<Self> {
        let description = Description::default().node("control-plane", &["172.18.0.10", "fd00:172:18::10"])?;
        let bed = Testbed::up(lab, &description)?;
        let server = ApiServer::start(bed.node("control-plane")?)?;
        let site = bed.node("control-plane")?.shell()?;
        let helm = Helm::of(bed.node("control-plane")?.service("helm")?, server.kubectl().kubeconfig())?;
        let base = istiod::base_chart()?.to_string_lossy().into_owned();
        server.kubectl().apply(guide::BEFORE)?;
        Ok(Self { _bed: bed, server, helm, site, base, changes: Cell::new(0) })
    }

    fn kubectl(&self) -> &Kubectl {
        self.server.kubectl()
    }

    fn command(&self, arguments: &[&str]) -> Result<Said> {
        installed::command(&self.site, self.kubectl().kubeconfig(), arguments)
    }

    /// `underpass crd apply` says this of both.
    fn crd_apply_says(&self, expected: &str) -> Result<()> {
        let lines = NAMES.map(|name| format!("{name}: {expected}\n"));
        self.command(&["crd", "apply"])?.says(0, &[&lines[0], &lines[1]])
    }

    /// Istio's release: `install` or `upgrade` with these further arguments.
    fn base(&self, word: &str, arguments: &[&str]) -> Result<()> {
        self.helm.run(&[&[word, "istio-base", &*self.base, "-n", SYSTEM], arguments].concat())?;
        wait_until("every definition to be established", || self.are_established())?;
        self.is_deployed("istio-base", SYSTEM)
    }

    fn are_established(&self) -> Result<bool> {
        let all = self.kubectl().get(&["customresourcedefinitions"])?;
        let is = |one: &Value| {
            let conditions = one["status"]["conditions"].as_array().into_iter().flatten();
            conditions.into_iter().any(|c| c["type"] == "Established" && c["status"] == "True")
        };
        Ok(all["items"].as_array().context("a list")?.iter().all(is))
    }

    /// Our release, the same.
    fn ours(&self, word: &str, arguments: &[&str]) -> Result<()> {
        self.helm.run(&[&[word, "underpass", CHART, "-n", NAMESPACE, "--no-hooks"], arguments].concat())?;
        self.is_deployed("underpass", NAMESPACE)
    }

    fn is_deployed(&self, release: &str, namespace: &str) -> Result<()> {
        let said = self.helm.run(&["status", release, "-n", namespace])?;
        ensure!(said.contains("STATUS: deployed"), "{said}");
        Ok(())
    }

    fn definitions(&self) -> Result<Vec<Value>> {
        NAMES.iter().map(|name| self.kubectl().get(&["customresourcedefinition", name])).collect()
    }

    /// Nothing has written the definitions since they were like this.
    fn are_untouched(&self, before: &[Value]) -> Result<()> {
        let now = self.definitions()?;
        ensure!(now == before, "they were {before:#?}, and are {now:#?}");
        Ok(())
    }

    /// The policies of before are there, are the same objects, and can be changed.
    fn policies_hold(&self, uids: &[Value]) -> Result<()> {
        ensure!(self.uids()? == uids, "policies are other objects");
        self.change()
    }

    fn uids(&self) -> Result<Vec<Value>> {
        let kinds = ["authorizationpolicy", "peerauthentication"];
        let uid = |kind| Ok(self.kubectl().get(&[kind, "before", "-n", "shop"])?["metadata"]["uid"].clone());
        kinds.into_iter().map(uid).collect()
    }

    fn change(&self) -> Result<()> {
        self.changes.set(self.changes.get() + 1);
        let label = format!("change=no-{}", self.changes.get());
        let label = ["label", "authorizationpolicy,peerauthentication", "before", "-n", "shop", "--overwrite", &*label];
        self.kubectl().run(&label).map(drop)
    }

    fn are_labelled(&self, owner: &str) -> Result<()> {
        for one in self.definitions()? {
            ensure!(one["metadata"]["labels"]["app.kubernetes.io/managed-by"] == owner, "{}", one["metadata"]);
        }
        Ok(())
    }

    /// Our chart and two policies; the definitions, and the uids of the policies.
    fn with_ours(lab: &Lab) -> Result<(Self, Vec<Value>, Vec<Value>)> {
        let scene = Self::up(lab)?;
        scene.crd_apply_says("created")?;
        scene.ours("install", &["--create-namespace"])?;
        scene.kubectl().apply(POLICIES)?;
        let (before, uids) = (scene.definitions()?, scene.uids()?);
        Ok((scene, before, uids))
    }
}

pub(crate) fn comes_after_ours(lab: &Lab) -> Result<()> {
    let (scene, before, uids) = Scene::with_ours(lab)?;
    println!("Helm refuses what is not its own");
    let refused = scene.base("install", &[]).err().context("Istio's chart takes over what is not its own")?;
    let refused = format!("{refused:#}");
    ensure!(refused.contains(NAMES[0]) && refused.contains("app.kubernetes.io/managed-by"), "{refused}");
    scene.are_untouched(&before)?;

    println!("Istio's chart passes over ours");
    scene.base("install", &["--set", EXCLUDED, "--set", NO_WEBHOOK])?;
    scene.kubectl().get(&["virtualservices", "-A"])?;
    scene.policies_hold(&uids)?;
    scene.base("upgrade", &["--reuse-values", "--set", "global.enableReaderRBAC=false"])?;
    scene.crd_apply_says("unchanged")?;
    scene.ours("upgrade", &["--set", "agent.settings.workers=2"])?;
    scene.policies_hold(&uids)?;
    let said = scene.command(&["check"])?;
    ensure!(said.exit == 0 && !said.text.contains("CustomResourceDefinition"), "{said:?}");

    println!("one goes, then the other");
    scene.helm.run(&["uninstall", "istio-base", "-n", SYSTEM])?;
    scene.policies_hold(&uids)?;
    scene.helm.run(&["uninstall", "underpass", "-n", NAMESPACE, "--no-hooks"])?;
    scene.policies_hold(&uids)?;
    scene.are_untouched(&before)
}

pub(crate) fn takes_definitions_over_from_ours(lab: &Lab) -> Result<()> {
    let (scene, before, uids) = Scene::with_ours(lab)?;
    scene.base("install", &["--set", NO_WEBHOOK, "--take-ownership", "--force-conflicts"])?;
    scene.are_labelled("Helm")?;
    scene.policies_hold(&uids)?;
    let istios = scene.definitions()?;
    ensure!(istios.iter().zip(&before).all(|(now, before)| now["spec"] != before["spec"]), "they are ours still");

    println!("ours leaves them alone");
    scene.crd_apply_says(ISTIOS)?;
    scene.ours("upgrade", &["--set", "agent.settings.workers=2"])?;
    scene.helm.run(&["uninstall", "underpass", "-n", NAMESPACE, "--no-hooks"])?;
    scene.command(&["crd", "delete", "-y"])?.says(0, &["left: it is of another owner"])?;
    scene.are_untouched(&istios)?;
    // Nothing of ours stands in the way of the next version.
    scene.base("upgrade", &["--set", NO_WEBHOOK])?;
    scene.policies_hold(&uids)?;

    println!("Istio goes, and gives them back");
    scene.helm.run(&["uninstall", "istio-base", "-n", SYSTEM])?;
    scene.policies_hold(&uids)?;
    scene.crd_apply_says(ISTIOS)?;
    let label = ["app.kubernetes.io/managed-by=underpass", "--overwrite"];
    scene.kubectl().run(&[&["label", "customresourcedefinition", NAMES[0], NAMES[1]][..], &label].concat())?;
    scene.crd_apply_says("updated")?;
    ensure!(scene.definitions()?.iter().zip(&before).all(|(now, before)| now["spec"] == before["spec"]));
    scene.policies_hold(&uids)
}

pub(crate) fn comes_before_ours(lab: &Lab) -> Result<()> {
    let scene = Scene::up(lab)?;
    let kubectl = scene.kubectl();
    scene.base("install", &["--create-namespace"])?;
    kubectl.apply(POLICIES)?;
    let (before, uids) = (scene.definitions()?, scene.uids()?);

    println!("ours uses what is there");
    let of_istio = format!("CustomResourceDefinition {}", NAMES[1]);
    scene.command(&["check"])?.says(0, &[&of_istio, "it is of another owner (app.kubernetes.io/managed-by=Helm)"])?;
    scene.crd_apply_says(ISTIOS)?;
    let root = kubectl.get(&["namespace", SYSTEM])?;
    scene.ours("install", &["--create-namespace"])?;
    scene.crd_apply_says(ISTIOS)?;
    scene.ours("upgrade", &["--set", "agent.settings.workers=2"])?;
    ensure!(kubectl.get(&["namespace", SYSTEM])? == root, "Istio's namespace is written");
    scene.policies_hold(&uids)?;

    println!("Istio's webhook, without an istiod");
    const WEBHOOK: &str = "ValidatingWebhookConfiguration istiod-default-validator: it has the API server ask Service istio-system/istiod";
    let said = scene.command(&["check"])?;
    ensure!(!said.text.contains(WEBHOOK), "{said:?}");
    scene.base("upgrade", &[])?;
    let refused = format!("{:#}", scene.change().err().context("a policy goes in")?);
    ensure!(refused.contains("validation.istio.io"), "{refused}");
    scene.command(&["check"])?.says(0, &["warning: ", WEBHOOK])?;
    scene.command(&["verify"])?.says(2, &[&format!("error: {WEBHOOK}"), "defaultRevision="])?;
    scene.base("upgrade", &["--set", NO_WEBHOOK])?;
    scene.policies_hold(&uids)?;
    let said = scene.command(&["verify"])?;
    ensure!(said.exit == 2 && !said.text.contains(WEBHOOK) && !said.text.contains("CustomResource"), "{said:?}");

    println!("ours goes, and comes back; then Istio goes");
    scene
        .command(&["uninstall", "-y", "--no-hooks", "--wait=false", "--crds"])?
        .says(0, &["left: it is of another owner"])?;
    scene.policies_hold(&uids)?;
    scene.ours("install", &["--create-namespace"])?;
    scene.are_untouched(&before)?;
    scene.helm.run(&["uninstall", "istio-base", "-n", SYSTEM])?;
    scene.crd_apply_says(ISTIOS)?;
    scene.policies_hold(&uids)
}

/// What of a guide is not served here goes in where Istio's definitions are, and `underpass analyze` names it.
pub(crate) fn has_the_kinds_of_a_guide(lab: &Lab) -> Result<()> {
    let scene = Scene::up(lab)?;
    scene.base("install", &["--create-namespace", "--set", NO_WEBHOOK])?;
    guide::apply(scene.kubectl(), guide::Definitions::Istios)?;
    scene.kubectl().apply(MORE)?;
    let said = scene.command(&["analyze", "--deny", "notices"])?;
    let later = "known, not yet served";
    said.says(
        1,
        &[
            &format!("{later}: connections to its hosts go to every ready endpoint"),
            "= in: VirtualService default/cart",
            "= in: VirtualService default/cart: spec.http[1].route[0].weight",
            &format!("{later}: connections to its host are balanced and limited"),
            "= in: DestinationRule default/cart",
            // The same is said of it.
            "= in: DestinationRule shop/cart",
            "= in: EnvoyFilter istio-system/span-tags: spec.configPatches",
            "= in: RequestAuthentication shop/tokens",
            "= in: Telemetry istio-system/spans",
            "= in: Gateway shop/front",
        ],
    )?;
    let narrow = scene.command(&["analyze", "-n", "default"])?;
    ensure!(
        narrow.text.contains("DestinationRule default/cart") && !narrow.text.contains("Gateway shop/front"),
        "{narrow:?}"
    );
    Ok(())
}

/// Further kinds of Istio's, as its definitions have them.
const MORE: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec: {host: cart}
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: span-tags, namespace: istio-system}
spec: {configPatches: [{applyTo: NETWORK_FILTER}]}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: shop}
spec: {jwtRules: [{issuer: example.com}]}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: spans, namespace: istio-system}
spec: {tracing: [{randomSamplingPercentage: 10}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front, namespace: shop}
spec: {servers: [{hosts: ['*'], port: {number: 80, name: http, protocol: HTTP}}]}
";
