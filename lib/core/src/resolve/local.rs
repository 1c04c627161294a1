//! The pods of one node, as the node alone knows them: values that only it can use, and that no fact has. In a cluster
//! the node's own API server watch says the same.

use std::{net::IpAddr, sync::Arc};

use super::Resolver;
use crate::{
    Few, ObjectName,
    objects::Pod,
    world::{Account, Uid},
};

/// The desired enrolment of a pod on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// It is in the mesh.
    Enrolled,
    /// It is not.
    Released,
    /// It has ended, or has not begun: what still runs stays as it is.
    Unknown,
}

/// A pod of this node. It belongs together with the fact of its name only while addresses and account agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// `metadata.uid`: finds its cgroup. Kubernetes', never used again.
    pub pod_uid: Arc<str>,
    /// namespace/name.
    pub name: ObjectName,
    /// The fact's.
    pub uid: Uid,
    /// `status.podIPs`, canonical.
    pub addresses: Few<IpAddr>,
    /// Ports of these addresses at which its kubelet probes it, as its own object names them. Sorted, each once.
    pub probes: Few<u16>,
    /// Its identity without the trust domain.
    pub account: Account,
    /// Its desired enrolment.
    pub local: Local,
}

impl Resolver {
    /// The pods of a node, by name.
    #[must_use]
    pub fn local_pods(&self, node: &str) -> Vec<LocalPod> {
        self.index.pods_on.get(node).filter_map(|name| self.sources.pod(name)).map(|pod| self.local(pod)).collect()
    }

    fn local(&self, pod: &Pod) -> LocalPod {
        let local = if self.enrolment(pod).is_enrolled() {
            Local::Enrolled
        } else if pod.has_own_addresses() {
            Local::Released
        } else {
            Local::Unknown
        };
        LocalPod {
            pod_uid: Arc::clone(&pod.uid),
            name: pod.name.clone(),
            uid: Uid::of_pod(&self.settings.cluster, &pod.name),
            addresses: pod.addresses.clone(),
            probes: pod.probes.clone(),
            account: Account { namespace: pod.name.namespace().into(), name: Arc::clone(&pod.service_account) },
            local,
        }
    }
}
