//! NetworkPolicies (`networking.k8s.io/v1`): what is read of them. What they mean for the mesh is decided by who asks.

use serde::Deserialize;

use super::{objects::Metadata, selector::Selector};

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NetworkPolicy {
    /// Its name.
    pub metadata: Metadata,
    /// What it says.
    pub spec: Spec,
}

/// What a NetworkPolicy says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// The pods of its namespace that it is about.
    pub pod_selector: Selector,
    /// What it restricts; empty: see [`Self::restricts`].
    policy_types: Vec<Direction>,
    /// What it lets in.
    pub ingress: Vec<Rule>,
    /// What it lets out.
    pub egress: Vec<Rule>,
}

/// A direction of connections, as a pod sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Direction {
    /// Towards the pod.
    Ingress,
    /// From the pod.
    Egress,
}

/// Something that is let through: these ports, and these peers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// Empty: every port.
    pub ports: Vec<Port>,
    /// Empty: every peer.
    #[serde(alias = "from", alias = "to")]
    pub peers: Vec<Peer>,
}

/// Ports of the selected pods, or of their peers where it is about egress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    /// None: TCP.
    pub protocol: Option<String>,
    /// None: every port.
    pub port: Option<Number>,
    /// The last of a range that begins at `port`.
    pub end_port: Option<u16>,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Number {
    /// By its number.
    Number(u16),
    /// By the name that a container gives it.
    Name(String),
}

/// Some peers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Peer {
    /// Pods of the namespaces; none: all.
    pub pod_selector: Option<Selector>,
    /// Namespaces; none: the policy's own.
    pub namespace_selector: Option<Selector>,
    /// Addresses, instead of the other two.
    pub ip_block: Option<IpBlock>,
}

/// Addresses.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct IpBlock {
    /// `10.0.0.0/8`.
    pub cidr: String,
    /// Networks inside of it that are left out.
    #[serde(default)]
    pub except: Vec<String>,
}

impl Spec {
    /// It restricts this direction: by name, or by default. Then that is ingress, and egress where it has rules of it.
    #[must_use]
    pub fn restricts(&self, direction: Direction) -> bool {
        match direction {
            _ if !self.policy_types.is_empty() => self.policy_types.contains(&direction),
            Direction::Ingress => true,
            Direction::Egress => !self.egress.is_empty(),
        }
    }

    /// Its rules of a direction.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn directions_by_name_and_by_default() {
        let check = |spec: Value, ingress: bool, egress: bool| {
            let parsed: Spec = serde_json::from_value(spec.clone()).unwrap();
            let restricts = [Direction::Ingress, Direction::Egress].map(|direction| parsed.restricts(direction));
            assert_eq!(restricts, [ingress, egress], "{spec}");
        };
        check(json!({"podSelector": {}}), true, false);
        check(json!({"podSelector": {}, "egress": [{}]}), true, true);
        check(json!({"podSelector": {}, "policyTypes": ["Egress"]}), false, true);
        check(json!({"podSelector": {}, "policyTypes": ["Ingress"], "egress": [{}]}), true, false);
        check(json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}), true, true);
    }

    #[test]
    fn rules_of_both_directions_are_read() {
        let rule = |value: Value| serde_json::from_value::<Rule>(value).unwrap();
        let from = rule(json!({"from": [{"podSelector": {}}], "ports": [{"port": "x"}, {"port": 1, "endPort": 9}]}));
        assert_eq!(from.peers, rule(json!({"to": [{"podSelector": {}}]})).peers);
        assert_eq!(from.ports[0].port, Some(Number::Name("x".into())));
        assert_eq!((from.ports[1].port.clone(), from.ports[1].end_port), (Some(Number::Number(1)), Some(9)));
    }
}
