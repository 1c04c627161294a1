//! The readiness gate for pods of this node that the mesh does not know as the node does. A pod that is unknown, or known under
//! other addresses or another account, is captured and refuses both ways; the node is not ready meanwhile.

use underpass_core::{
    ObjectName, World,
    resolve::{Local, LocalPod},
};
use underpass_telemetry::admin::{Gate, Readiness};

use underpass_keeper::Snapshot;

/// The gate, open while the mesh knows every enrolled pod of this node.
#[derive(Debug)]
pub(super) struct Known(Gate);

impl Known {
    pub(super) fn new(readiness: &Readiness) -> Self {
        Self(readiness.gate("known pods", "no World is known yet"))
    }

    /// Opens or closes the gate, by this World and these pods.
    pub(super) fn set(&self, Snapshot { world, local }: &Snapshot) {
        let unknown = unknown(world, local);
        match unknown.first() {
            None => self.0.open(),
            Some(first) => {
                let n = unknown.len();
                self.0.close(format!(
                    "pod {first} has another address or account in the World, or is missing there ({n} pods in all)"
                ));
            }
        }
    }
}

/// Pods of this node that are enrolled, and whose fact is missing or has an address or an account that they have not. One whose
/// address has gone to another pod is on its way out: the node is ready all the same.
fn unknown<'a>(world: &World, local: &'a [LocalPod]) -> Vec<&'a ObjectName> {
    let is_known = |pod: &&LocalPod| {
        let fact = world.workload(&pod.uid);
        fact.is_some_and(|fact| {
            fact.account.as_ref() == Some(&pod.account) && fact.addresses.iter().all(|ip| pod.addresses.contains(ip))
        })
    };
    let enrolled = local.iter().filter(|pod| pod.local == Local::Enrolled);
    enrolled.filter(|pod| !is_known(pod)).map(|pod| &pod.name).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use underpass_core::{
        objects::Pod,
        testing::{ambient, model, pod},
    };

    use super::*;

    #[test]
    fn known_and_unknown_pods() {
        let a = || ambient("default/a", "10.0.0.1 fd00::1", "");
        let cases: [(&str, Option<Pod>, Pod, bool); 7] = [
            ("as it is", Some(a()), a(), true),
            ("not at all", None, a(), false),
            ("on its way out, with fewer addresses", Some(ambient("default/a", "10.0.0.1", "")), a(), true),
            ("with other addresses", Some(a()), ambient("default/a", "10.0.0.2 fd00::1", ""), false),
            ("as another account", Some(Pod { service_account: "x".into(), ..a() }), a(), false),
            ("under another name", Some(ambient("default/b", "10.0.0.1 fd00::1", "")), a(), false),
            ("outside the mesh, where nothing is refused", None, pod("default/a", "10.0.0.1 fd00::1"), true),
        ];
        for (what, mesh, here, expected) in cases {
            let world = Arc::new(model(mesh.map(Into::into)).world().clone());
            let local = model([here.into()]).local_pods("node-1").into();
            let ready = Readiness::new();
            let known = Known::new(&ready);
            known.set(&Snapshot { world, local });
            assert_eq!(ready.waiting().is_empty(), expected, "{what}: {:?}", ready.waiting());
        }
    }
}
