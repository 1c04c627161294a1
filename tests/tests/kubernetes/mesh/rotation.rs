//! The root of the control plane's CA is replaced while pods call each other without a pause. Here nothing forwards ports to agents,
//! so the command's steps are taken with --now; that it waits for agents is a matter of whole clusters.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use underpass_tests::{
    cluster::{Cluster, NAMESPACE},
    testbed::{
        Lab,
        wait::{slowness, wait_until},
    },
};

use super::{
    NODES, PODS,
    support::{
        Family, WORLD,
        load::{Load, Open},
    },
};

/// As short as the waits below are to be, and longer on a slow machine.
const LIFETIME_S: u32 = 10;

pub(crate) fn the_root_is_replaced_under_load(lab: &Lab) -> Result<()> {
    let mut cluster = Cluster::up(lab, WORLD)?;
    cluster.control.options(&["--certificate-lifetime", &(LIFETIME_S * slowness()).to_string()]);
    cluster.start()?;
    cluster.wait_for_annotated(&PODS)?;
    cluster.wait_for_enrolled(&PODS)?;
    let mut open = Open::new(&cluster.mesh, "mesh/a", "mesh/b", Family::V4, 9000)?;
    let mut load = Load::begin(&cluster.mesh, lab)?;
    let [old] = &roots(&cluster, "node-1")?.trusted()?[..] else { anyhow::bail!("one root") };

    println!("both are trusted, the old one signs");
    step(&cluster, &["prepare"])?;
    arrives(&cluster, 2, |roots| Ok(roots.trusted()?.len() == 2))?;
    for node in NODES {
        ensure!(roots(&cluster, node)?.signers()? == [old.as_str()], "{node}");
    }
    load.goes_on()?;
    let new = roots(&cluster, "node-1")?.trusted()?.into_iter().find(|root| root != old).context("a new root")?;

    println!("the new one signs, also for the control plane's own port");
    step(&cluster, &["activate", "--now"])?;
    arrives(&cluster, 2, |roots| Ok(roots.signers()? == [new.as_str()]))?;
    load.goes_on()?;
    open.goes_on()?;
    is_renewed(&cluster)?;
    let mut later = Open::new(&cluster.mesh, "mesh/b2", "mesh/a2", Family::V6, 9001)?;

    println!("the old one is trusted no more");
    let early = format!("{:#}", step(&cluster, &["retire", "--timeout", "1"]).err().context("a day has not passed")?);
    ensure!(early.contains("cannot retire the old CA") && early.contains("too early"), "{early}");
    step(&cluster, &["retire", "--now"])?;
    arrives(&cluster, 1, |roots| Ok(roots.trusted()? == [new.as_str()]))?;
    load.goes_on()?;
    later.goes_on()?;
    later.ends_in_order()?;
    open.ends_in_a_reset()?;

    // A control plane that starts now has the new root alone.
    cluster.control.kill()?;
    cluster.control.start()?;
    ensure!(cluster.roots("mesh")? == cluster.roots(NAMESPACE)?, "roots differ between namespaces");
    load.goes_on()?;
    let (answered, failed) = load.end()?;
    ensure!(answered > 0 && failed.is_empty(), "{answered} answered, {failed:?}");
    Ok(())
}

/// What an agent says of its roots, by serial number.
struct Roots(Value);

fn roots(cluster: &Cluster, node: &str) -> Result<Roots> {
    cluster.mesh.admin(node, "/roots").map(Roots)
}

impl Roots {
    fn trusted(&self) -> Result<Vec<String>> {
        let all = self.0["trusted"].as_array().context("a list")?;
        all.iter().map(|serial| serial.as_str().map(str::to_owned).context("text")).collect()
    }

    /// Those that the certificates of its pods lead to.
    fn signers(&self) -> Result<Vec<String>> {
        Ok(self.0["certificates"].as_object().context("an object")?.keys().cloned().collect())
    }
}

/// Waits for so many roots in the control plane's namespace, has them where agents look, and waits for every agent.
fn arrives(cluster: &Cluster, count: usize, holds: impl Fn(&Roots) -> Result<bool>) -> Result<()> {
    let mounted = std::fs::read_to_string(cluster.files().join("root-cert.pem"))?;
    wait_until(&format!("{count} roots in the ConfigMap"), || {
        let text = cluster.roots(NAMESPACE)?.unwrap_or_default();
        Ok(text != mounted && text.matches("BEGIN CERTIFICATE").count() == count)
    })?;
    cluster.mount_roots()?;
    for node in NODES {
        wait_until(&format!("the roots of {node}"), || holds(&roots(cluster, node)?))?;
    }
    Ok(())
}

/// Waits until no tunnel that takes a connection is left of certificates of now: they are renewed after 45 % of their life at the
/// earliest.
fn is_renewed(cluster: &Cluster) -> Result<()> {
    let serials = |node: &str| -> Result<Vec<Value>> {
        let all = cluster.mesh.admin(node, "/certificates")?;
        Ok(all.as_array().context("a list")?.iter().map(|own| own["serial"].clone()).collect())
    };
    for _ in 0..3 {
        let [one, two] = NODES.map(serials);
        let before = [one?, two?].concat();
        for node in NODES {
            wait_until(&format!("other certificates on {node}"), || {
                Ok(!serials(node)?.iter().any(|serial| before.contains(serial)))
            })?;
        }
    }
    Ok(())
}

/// A step, as its operator takes it.
fn step(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let program = std::env::var("UNDERPASS_CLI_BIN")
        .context("UNDERPASS_CLI_BIN names `underpass`: run `cargo xtask test kubernetes`")?;
    let kubeconfig = cluster.kubectl().kubeconfig().to_string_lossy();
    let all = [&["ca"], arguments, &["--kubeconfig", &*kubeconfig]].concat();
    cluster.mesh.bed.node(underpass_tests::cluster::CONTROL_NODE)?.shell()?.run(&program, &all)
}
