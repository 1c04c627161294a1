//! One address for one pod after the other, of two identities in turn: what is known of the one that had it must not
//! serve or bar the one that has it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use underpass_tests::{
    apps::hammer::{self, Hammer},
    installed::Installed,
    testbed::{Actor, Site, wait::wait_until},
};

use super::{NODES, addresses, first::SECRET, lines_about, site, until_ready};

/// Who runs at the address in turn: the name of the pods, which is the application that answers, and their account. The
/// server takes calls of the account `client` alone.
const TURNS: [(&str, &str, Called); 2] = [("left", "client", Called::Answered), ("right", "default", Called::Failed)];
/// Pods, one after the other.
const PODS: usize = 4;
/// Patience with a call to an address that no pod has.
const BRIEFLY: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

/// What became of a pod's first call, as the application writes it.
#[derive(Clone, Copy, Debug)]
enum Called {
    Answered,
    Failed,
}

/// Each pod's first call is judged by its own identity, and it is called under its own policy: `left` by `client`
/// alone, `right` by `friend` alone, both of whom call the address all the time.
pub(crate) fn of_an_address(mesh: &Installed) -> Result<()> {
    let kubectl = mesh.cluster.kubectl();
    kubectl.apply(POLICIES)?;
    let _lowest = addresses::lowest_first(mesh, NODES[1])?;
    kubectl.apply(&pod("before", "before", "default"))?;
    let address = address_of(&until_ready(mesh, "shop", "before")?)?;
    let is_free = || wait_until("the address to be free", || Ok(!addresses::is_given(mesh, NODES[1], &address)?));
    kubectl.run(&["delete", "pod", "before", "-n", "shop"])?;
    is_free()?;
    let to: SocketAddr = format!("{address}:9080").parse()?;
    let callers = [("client", "left"), ("friend", "right")].map(|(from, by)| Calls::begin(mesh, from, by, to));
    let mut callers = callers.into_iter().collect::<Result<Vec<_>>>()?;
    for (n, (app, account, called)) in (0..PODS).zip(TURNS.iter().cycle()) {
        let name = format!("turn-{n}");
        kubectl.apply(&pod(&name, app, account))?;
        let got = address_of(&until_ready(mesh, "shop", &name)?)?;
        ensure!(got == address, "{name} has {got}, not {address}");
        let said = kubectl.run(&["logs", "-n", "shop", &name, "-c", "first"])?;
        let is_as_expected = said.contains(&format!("{called:?}"));
        ensure!(is_as_expected, "the first call of {name}, which is {account}: {said}\n{}", lines_about(mesh, &name));
        let caller = callers.iter_mut().find(|caller| caller.of == *app).context("a caller")?;
        hammer::answers(&mut caller.hammer, 3).with_context(|| format!("{name} does not answer {}", caller.of))?;
        // Half of the objects go before their pods, as those of a node that does not answer.
        match n % 4 < 2 {
            true => kubectl.run(&["delete", "pod", &name, "-n", "shop"]).map(drop)?,
            false => kubectl.delete_pod(&format!("shop/{name}"))?,
        }
        is_free()?;
        callers.iter().try_for_each(|caller| caller.has_no_tunnel(&address))?;
    }
    callers.into_iter().try_for_each(Calls::end)
}

/// Calls of one Deployment's pod to the address.
struct Calls {
    of: &'static str,
    site: Site,
    hammer: Actor<hammer::Struck>,
    until: PathBuf,
}

impl Calls {
    /// Of `from`, that only `of` may answer.
    fn begin(mesh: &Installed, from: &str, of: &'static str, to: SocketAddr) -> Result<Self> {
        let until = mesh.cluster.bed.lab().directory().join(format!("reuse-{of}"));
        let order = Hammer::new(vec![to], SECRET, &until).patience(BRIEFLY).pause(PAUSE).answered_by(&[of]);
        let site = site(mesh, from)?.with_files_of_the_lab();
        let hammer = hammer::start(&site, order)?;
        Ok(Self { of, site, hammer, until })
    }

    /// Its agent has heard of the end of its tunnels to a pod before the pod's address is free.
    fn has_no_tunnel(&self, address: &str) -> Result<()> {
        let to = format!("{address}:15008");
        let open = self.site.run("ss", &["-Htn", "state", "established", "dst", &to])?;
        ensure!(open.is_empty(), "tunnels to {} which is gone: {open}", self.of);
        Ok(())
    }

    /// The other one has answered none, though it was called.
    fn end(self) -> Result<()> {
        std::fs::write(&self.until, "")?;
        let (answered, failed) = self.hammer.join()?;
        println!("{}: {answered} answered, {failed:?}", self.of);
        ensure!(answered > 0 && !failed.is_empty(), "{answered} answered, {failed:?}");
        ensure!(!failed.keys().any(|failure| failure.contains("answered")), "{failed:?}");
        Ok(())
    }
}

fn address_of(pod: &Value) -> Result<String> {
    Ok(pod["status"]["podIP"].as_str().context("an address")?.to_owned())
}

const POLICIES: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: left, namespace: shop}
spec:
  selector: {matchLabels: {app: left}}
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: right, namespace: shop}
spec:
  selector: {matchLabels: {app: right}}
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/friend]}}]}]
";

/// A pod of the second node, bound to it already, whose init container writes what became of its call.
fn pod(name: &str, app: &str, account: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}
spec:
  nodeName: {}
  serviceAccountName: {account}
  terminationGracePeriodSeconds: 0
  initContainers:
  - name: first
    image: localhost/underpass-testapp:testbed
    imagePullPolicy: Never
    args: [dial, \"$(SERVER_SERVICE_HOST):80\", {SECRET}]
  containers:
  - name: main
    image: localhost/underpass-testapp:testbed
    imagePullPolicy: Never
    args: [echo, \"[::]:9080\", {app}]
",
        NODES[1]
    )
}
