//! The label of a namespace, set and taken away while its pods talk.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    apps::socket::{self, Dial, Dialed},
    installed::Installed,
    testbed::wait::wait_until,
};

use super::{PORT, command, pod, site, traffic::Traffic, upgrade};

/// The text that must not be seen between the nodes once both pods are in the mesh.
const SECRET: &str = "a-text-that-two-pods-know";
/// Mutual TLS only, and only the client's identity.
const POLICIES: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: clients, namespace: shop}
spec:
  selector: {matchLabels: {app: server}}
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]
";

pub(crate) fn on_and_off_under_traffic(mesh: &Installed) -> Result<()> {
    let kubectl = mesh.cluster.kubectl();
    let before = containers(mesh, "shop")?;
    until_the_service_answers(mesh)?;
    is_seen(mesh, true)?;

    let joining = Traffic::start(mesh, "joining", destinations(mesh)?)?;
    kubectl.run(&["label", "namespace", "shop", "istio-injection=enabled"])?;
    mesh.wait_for_redirection("shop", true)?;
    until_mutual_tls(mesh)?;
    joining.ends_without_a_failure()?;
    is_seen(mesh, false)?;
    logs_name_both(mesh)?;

    let policed = Traffic::start(mesh, "policed", destinations(mesh)?)?;
    kubectl.apply(POLICIES)?;
    outsider_is_refused(mesh)?;
    policed.ends_without_a_failure()?;
    command::answers_about_the_whole_cluster(mesh)?;
    upgrade::loses_no_connection(mesh, destinations(mesh)?)?;
    upgrade::needs_no_control_plane(mesh, destinations(mesh)?)?;
    upgrade::an_image_that_cannot_start_changes_nothing(mesh, destinations(mesh)?)?;
    upgrade::to_another_version_and_back(mesh, destinations(mesh)?)?;
    upgrade::a_deleted_agent_is_waited_for(mesh, destinations(mesh)?)?;
    is_seen(mesh, false)?;
    outsider_is_refused(mesh)?;
    kubectl.run(&["delete", "-n", "shop", "peerauthentication/strict", "authorizationpolicy/clients"])?;

    let leaving = Traffic::start(mesh, "leaving", destinations(mesh)?)?;
    kubectl.run(&["label", "namespace", "shop", "istio-injection-"])?;
    mesh.wait_for_redirection("shop", false)?;
    wait_until("the pods to be out of the mesh", || Ok(is_seen(mesh, true).is_ok()))?;
    leaving.ends_without_a_failure()?;

    let after = containers(mesh, "shop")?;
    ensure!(before == after, "a container was started again: {before:?}, {after:?}");
    Ok(())
}

/// kube-proxy knows a Service a moment after it was made.
fn until_the_service_answers(mesh: &Installed) -> Result<()> {
    let (client, to) = (site(mesh, "shop/client")?, destinations(mesh)?);
    wait_until("the Service to answer", || {
        let dialed = to.iter().map(|to| client.act(socket::dial, Dial::to(*to).say("hello")));
        Ok(dialed.collect::<Result<Vec<_>>>()?.into_iter().all(|dialed| dialed.answered().is_ok()))
    })
}

pub(crate) fn destinations(mesh: &Installed) -> Result<Vec<SocketAddr>> {
    let mut all = pod_addresses(mesh)?;
    let service = mesh.cluster.kubectl().get(&["service", "server", "-n", "shop"])?;
    let vip = service["spec"]["clusterIP"].as_str().context("an address")?;
    all.push(SocketAddr::new(vip.parse()?, 80));
    Ok(all)
}

/// The server's, of both families.
fn pod_addresses(mesh: &Installed) -> Result<Vec<SocketAddr>> {
    let server = pod(mesh, "shop/server")?;
    let name = server.rsplit('/').next().unwrap_or_default();
    let server = mesh.cluster.kubectl().get(&["pod", name, "-n", "shop"])?;
    let addresses = server["status"]["podIPs"].as_array().context("addresses")?;
    let parse = |address: &serde_json::Value| -> Result<SocketAddr> {
        Ok(SocketAddr::new(address["ip"].as_str().context("an address")?.parse()?, PORT))
    };
    let parsed = addresses.iter().map(parse).collect::<Result<Vec<_>>>()?;
    ensure!(parsed.len() == 2, "one family alone: {parsed:?}");
    Ok(parsed)
}

/// What is said between the nodes can be read on the link, or cannot.
fn is_seen(mesh: &Installed, expected: bool) -> Result<()> {
    for to in pod_addresses(mesh)? {
        let wire = mesh.cluster.bed.capture_wire("node-1")?;
        let talk = site(mesh, "shop/client")?.act(socket::dial, Dial::to(to).say(SECRET))?.answered()?;
        ensure!(talk.who()?.app == "server", "{talk:?}");
        ensure!(wire.contains(SECRET.as_bytes())? == expected, "{to}: seen on the link: {}", !expected);
    }
    Ok(())
}

/// The first of the two to be captured is known as such to the other's node a moment later.
fn until_mutual_tls(mesh: &Installed) -> Result<()> {
    wait_until("mutual TLS between the pods", || Ok(is_seen(mesh, false).is_ok()))
}

/// The access logs of both nodes name both identities.
fn logs_name_both(mesh: &Installed) -> Result<()> {
    let source = "\"source_identity\":\"spiffe://cluster.local/ns/shop/sa/client\"";
    let destination = "\"destination_identity\":\"spiffe://cluster.local/ns/shop/sa/server\"";
    for (node, direction) in [("node-1", "outbound"), ("node-2", "inbound")] {
        let direction = format!("\"direction\":\"{direction}\"");
        mesh.wait_for_line(node, &[source, destination, &direction, "\"path\":\"hbone\""])?;
    }
    Ok(())
}

/// Plaintext is refused, by STRICT, at every address of the server. It takes a moment until the server's node knows.
fn outsider_is_refused(mesh: &Installed) -> Result<()> {
    let outsider = site(mesh, "legacy/outsider")?;
    for to in destinations(mesh)? {
        wait_until(&format!("plaintext to {to} to be refused"), || {
            Ok(matches!(outsider.act(socket::dial, Dial::to(to).say("hello"))?, Dialed::Failed(_)))
        })?;
    }
    mesh.wait_for_line("node-2", &["\"reason\":\"plaintext_refused\"", "shop/strict"]).map(drop)
}

/// Which container runs in which pod of a namespace, and how often it was started.
fn containers(mesh: &Installed, namespace: &str) -> Result<BTreeMap<String, String>> {
    let pods = mesh.cluster.kubectl().get(&["pods", "-n", namespace])?;
    let of = |pod: &serde_json::Value| {
        let status = &pod["status"]["containerStatuses"][0];
        (pod["metadata"]["name"].to_string(), format!("{} {}", status["containerID"], status["restartCount"]))
    };
    Ok(pods["items"].as_array().into_iter().flatten().map(of).collect())
}
