//! What a client says about itself, in Istio's form.

use prost_types::{Struct, Value, value::Kind};

use crate::{contract::envoy::config::core::v3 as core, wire::PARTIAL};

/// A node of the mesh as a client of its control plane. All of it is text for logs and for istiod, which serves by
/// the proxy type in the id; who the client is, its token proves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The client's pod.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// The Kubernetes node.
    pub node: String,
    /// The client's address.
    pub address: String,
    /// The cluster's id, as Istio's `CLUSTER_ID`.
    pub cluster: String,
    /// The program's version.
    pub version: String,
}

impl Node {
    /// The message. The id's form is Istio's: type, address, workload, domain, with tildes between.
    pub(super) fn message(&self) -> core::Node {
        let Self { pod, namespace, node, address, cluster, version } = self;
        let text = |text: &String| Value { kind: Some(Kind::StringValue(text.clone())) };
        let metadata = [
            ("NAME", pod),
            ("NAMESPACE", namespace),
            ("NODE_NAME", node),
            ("INSTANCE_IPS", address),
            ("CLUSTER_ID", cluster),
        ];
        core::Node {
            id: format!("ztunnel~{address}~{pod}.{namespace}~{namespace}.svc.cluster.local"),
            cluster: String::new(),
            metadata: Some(Struct { fields: metadata.map(|(key, value)| (key.into(), text(value))).into() }),
            locality: None,
            user_agent_name: "underpass".into(),
            user_agent_version: version.clone(),
            client_features: vec![PARTIAL.into()],
        }
    }
}
