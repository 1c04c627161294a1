//! What a client says about itself, in Istio's form.

use std::net::IpAddr;

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
    /// The client's address; empty where it is not known.
    pub address: String,
    /// The cluster's id, as Istio's `CLUSTER_ID`.
    pub cluster: String,
    /// The program's version.
    pub version: String,
}

/// In the place of an address that is not known: istiod refuses a node without one.
const UNKNOWN: &str = "0.0.0.0";

impl Node {
    fn address(&self) -> String {
        let is_one = self.address.parse::<IpAddr>().is_ok();
        if is_one { self.address.clone() } else { UNKNOWN.to_owned() }
    }

    /// The message. The id's form is Istio's: type, address, workload, domain, with tildes between.
    pub(super) fn message(&self) -> core::Node {
        let Self { pod, namespace, node, cluster, version, .. } = self;
        let address = &self.address();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_an_address_in_its_id_and_metadata() {
        for (address, expected) in
            [("10.0.0.1", "10.0.0.1"), ("fd00::1", "fd00::1"), ("", UNKNOWN), ("node-1", UNKNOWN)]
        {
            let node = Node { address: address.into(), pod: "a".into(), namespace: "n".into(), ..Node::default() };
            let message = node.message();
            assert_eq!(message.id, format!("ztunnel~{expected}~a.n~n.svc.cluster.local"));
            let metadata = message.metadata.unwrap_or_default();
            let told = metadata.fields.get("INSTANCE_IPS").and_then(|value| value.kind.clone());
            assert_eq!(told, Some(Kind::StringValue(expected.into())));
        }
    }
}
