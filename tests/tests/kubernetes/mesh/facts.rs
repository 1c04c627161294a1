//! The same facts by every way: the World of an agent in a cluster is the one that files with the same manifests make.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use underpass_tests::{
    cluster::{CONTROL_NODE, Cluster},
    mesh::Source,
};

/// The lists of an agent, and the fields in which the two differ, with the reason.
const LISTS: [(&str, &[&str]); 3] = [
    // because: files say by which label a pod is enrolled, a control plane only that it is.
    // state: only of pods on the agent's own node.
    ("/workloads", &["because", "state"]),
    ("/services", &[]),
    ("/policies", &[]),
];

pub(crate) fn are_those_of_files(cluster: &mut Cluster) -> Result<()> {
    let in_cluster = cluster.mesh.set_source(Source::Manifests(cluster.manifests().to_owned()));
    // Of a node without pods of its own.
    cluster.mesh.start_on(CONTROL_NODE)?;
    for (list, except) in LISTS {
        let of_files = shown(cluster, CONTROL_NODE, list, except)?;
        for node in super::NODES {
            let of_control = shown(cluster, node, list, except)?;
            let missing: Vec<_> = of_files.iter().filter(|one| !of_control.contains(one)).collect();
            let more: Vec<_> = of_control.iter().filter(|one| !of_files.contains(one)).collect();
            ensure!(missing.is_empty() && more.is_empty(), "{list} of {node}: without {missing:#?}, with {more:#?}");
        }
        ensure!(!of_files.is_empty(), "nothing is compared in {list}");
    }
    cluster.mesh.terminate(CONTROL_NODE)?;
    cluster.mesh.set_source(in_cluster);
    Ok(())
}

fn shown(cluster: &Cluster, node: &str, list: &str, except: &[&str]) -> Result<Vec<Value>> {
    let mut all = cluster.mesh.admin(node, list)?.as_array().with_context(|| format!("{list} of {node}"))?.clone();
    // Every API server has this service, of itself.
    all.retain(|one| one["namespace"] != "default" || one["name"] != "kubernetes");
    for one in all.iter_mut().filter_map(Value::as_object_mut) {
        except.iter().for_each(|field| drop(one.remove(*field)));
    }
    Ok(all)
}
