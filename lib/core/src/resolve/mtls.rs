//! PeerAuthentications, as the modes of ports. Most specific first: workload, namespace, mesh; the oldest among equals;
//! UNSET inherits.

use std::{collections::BTreeMap, sync::Arc};

use super::Resolver;
use crate::{
    Kind,
    objects::{MtlsMode, Object, PeerAuthentication, Pod},
    world::{Mtls, NamespaceMtls, PortMode, Takes},
};

impl Resolver {
    /// The modes of a pod's ports, by the policies that select it.
    pub(super) fn mtls_of(&self, pod: &Pod) -> Mtls {
        let policies = self.peer_authentications_of(pod);
        let first = |mode: &dyn Fn(&PeerAuthentication) -> MtlsMode| {
            policies.iter().find_map(|policy| Some(PortMode { takes: takes(mode(policy))?, by: policy.name.clone() }))
        };
        let named = policies.iter().flat_map(|policy| policy.ports.keys().copied());
        let ports: BTreeMap<u16, PortMode> =
            named.filter_map(|port| Some((port, first(&|policy| port_mode(policy, port))?))).collect();
        Mtls::new(first(&|policy| policy.mode), ports)
    }

    /// The mode of a namespace, by its policies without a selector.
    pub(super) fn namespace_mtls(&self, namespace: &Arc<str>) -> Option<NamespaceMtls> {
        let policies = self.sources.of_kind(Kind::PeerAuthentication, Some(namespace));
        let wide = policies.filter_map(|object| match object {
            Object::PeerAuthentication(policy) if policy.selector.is_none() => Some((takes(policy.mode)?, policy)),
            _ => None,
        });
        let (takes, policy) = wide.min_by_key(|(_, policy)| (policy.created, &policy.name))?;
        Some(NamespaceMtls { namespace: Arc::clone(namespace), says: PortMode { takes, by: policy.name.clone() } })
    }
}

fn takes(mode: MtlsMode) -> Option<Takes> {
    match mode {
        MtlsMode::Unset => None,
        MtlsMode::Strict => Some(Takes::MutualTls),
        MtlsMode::Permissive | MtlsMode::Disable => Some(Takes::Plaintext),
    }
}

fn port_mode(policy: &PeerAuthentication, port: u16) -> MtlsMode {
    match policy.ports.get(&port) {
        None | Some(MtlsMode::Unset) => policy.mode,
        Some(mode) => *mode,
    }
}
