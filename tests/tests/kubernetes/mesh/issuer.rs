//! Whose certificates the agents have for their pods.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use underpass_tests::cluster::Cluster;

use super::{NODES, PODS};

/// Every certificate of every node was issued by the CA of the control plane, which says so.
pub(crate) fn is_the_control_plane(cluster: &mut Cluster) -> Result<()> {
    let opened = cluster.control.running()?.wait_for_log("certificate authority opened")?;
    let mut identities = Vec::new();
    for node in NODES {
        let listed = cluster.mesh.underpass(node, &["certificates", "-o", "json"])?;
        let listed: Vec<Value> = serde_json::from_str(&listed)?;
        for certificate in listed {
            ensure!(certificate["state"] == "valid", "{certificate}");
            let issuer = certificate["issuer"].as_str().context("an issuer")?;
            ensure!(opened.contains(issuer), "{certificate} is not of the CA of {opened}");
            identities.push(certificate["identity"].as_str().context("an identity")?.to_owned());
        }
    }
    identities.sort();
    let expected = PODS.map(|pod| format!("spiffe://cluster.local/ns/{}", pod.replace('/', "/sa/")));
    ensure!(identities == expected, "{identities:?}");
    for identity in identities {
        cluster.control.running()?.wait_for_line(&["certificate issued", &identity])?;
    }
    let issued = cluster.control.metric("underpass_ca_certificates_issued_total", "")?;
    ensure!(issued >= PODS.len() as u64, "{issued} certificates issued");
    Ok(())
}
