//! PeerAuthentication: does this port of this workload take plaintext? Most specific first: workload, namespace, mesh;
//! the oldest among equals; UNSET inherits. With nothing said, plaintext is taken (PERMISSIVE), as in Istio.

use crate::{
    Kind, ObjectKey, ObjectName, World,
    trace::{Stage, Trace},
    world::{MtlsMode, PeerAuthentication, Workload, selects},
};

/// What a port takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Mutual TLS only.
    MutualTls,
    /// Mutual TLS and plaintext.
    Plaintext,
}

/// What target port `port` of `workload` takes, and the policy that says so.
#[must_use]
pub fn takes<'a>(
    world: &'a World,
    workload: &Workload,
    port: u16,
    trace: &mut impl Trace,
) -> (Takes, Option<&'a ObjectName>) {
    let of = |namespace: &str| world.peer_authentications(namespace).iter().filter(|p| applies(world, p, workload));
    let (own, root) = (workload.name.namespace(), &*world.settings().root_namespace);
    let workload_level = of(own).filter(|p| p.selector.is_some()).map(|p| (&**p, port_mode(p, port)));
    let namespace_level = of(own).filter(|p| p.selector.is_none()).map(|p| (&**p, p.mode));
    let mesh_level = of(root).filter(|p| p.selector.is_none()).map(|p| (&**p, p.mode));

    for (policy, mode) in workload_level.chain(namespace_level).chain(mesh_level) {
        let takes = match mode {
            MtlsMode::Unset => continue,
            MtlsMode::Strict => Takes::MutualTls,
            MtlsMode::Permissive | MtlsMode::Disable => Takes::Plaintext,
        };
        trace.step(|| crate::trace::Step {
            stage: Stage::PeerAuthentication,
            object: Some(ObjectKey::new(Kind::PeerAuthentication, policy.name.clone())),
            says: says(takes, port),
        });
        return (takes, Some(&policy.name));
    }
    trace
        .say(Stage::PeerAuthentication, None, || format!("no policy says otherwise: {}", says(Takes::Plaintext, port)));
    (Takes::Plaintext, None)
}

/// Is this policy about this workload? One of the root namespace with a selector is ignored (a finding says so).
#[must_use]
pub fn applies(world: &World, policy: &PeerAuthentication, workload: &Workload) -> bool {
    let (of, root) = (policy.name.namespace(), &*world.settings().root_namespace);
    let in_own = of == workload.name.namespace();
    match &policy.selector {
        Some(selector) => in_own && of != root && selects(selector, &workload.labels),
        None => in_own || of == root,
    }
}

fn says(takes: Takes, port: u16) -> String {
    match takes {
        Takes::MutualTls => format!("port {port} takes mutual TLS only"),
        Takes::Plaintext => format!("port {port} takes mutual TLS and plaintext"),
    }
}

fn port_mode(policy: &PeerAuthentication, port: u16) -> MtlsMode {
    match policy.ports.get(&port) {
        None | Some(MtlsMode::Unset) => policy.mode,
        Some(mode) => *mode,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        testing::{labels, peer_authentication, pod, world},
        world::{Created, Object},
    };

    /// Each policy: `namespace/name selector mode [port=mode] [@created]`; the pod is default/a with app=a.
    fn check(policies: &[&str], port: u16, expect: Takes) {
        let mut a = pod("default/a", "10.0.0.1");
        a.labels = labels("app=a");
        let objects: Vec<Object> =
            policies.iter().map(|p| peer_authentication(p).into()).chain([a.clone().into()]).collect();
        assert_eq!(takes(&world(objects), &a, port, &mut ()).0, expect, "{policies:?}");
    }

    #[test]
    fn the_most_specific_says() {
        use Takes::{MutualTls, Plaintext};
        check(&[], 80, Plaintext);
        check(&["istio-system/m - STRICT"], 80, MutualTls);
        check(&["istio-system/m - STRICT", "default/n - PERMISSIVE"], 80, Plaintext);
        check(&["istio-system/m - STRICT", "default/n - DISABLE"], 80, Plaintext);
        check(&["istio-system/m - STRICT", "default/n - UNSET"], 80, MutualTls);
        check(&["istio-system/m - STRICT", "other/n - PERMISSIVE"], 80, MutualTls);
        check(&["default/n - PERMISSIVE", "default/w app=a STRICT"], 80, MutualTls);
        check(&["default/n - PERMISSIVE", "default/w app=b STRICT"], 80, Plaintext);
        check(&["default/n - STRICT", "default/w app=a UNSET"], 80, MutualTls);
        check(&["istio-system/w app=a STRICT"], 80, Plaintext);
    }

    #[test]
    fn port_level_modes_use_target_ports_and_need_a_selector() {
        use Takes::{MutualTls, Plaintext};
        check(&["default/w app=a STRICT 80=DISABLE"], 80, Plaintext);
        check(&["default/w app=a STRICT 80=DISABLE"], 81, MutualTls);
        check(&["default/w app=a UNSET 80=STRICT"], 80, MutualTls);
        check(&["default/w app=a STRICT 80=UNSET"], 80, MutualTls);
        check(&["default/n - STRICT 80=PERMISSIVE"], 80, MutualTls);
    }

    #[test]
    fn the_oldest_among_equals_says() {
        check(&["default/b - STRICT @5", "default/a - PERMISSIVE @9"], 80, Takes::MutualTls);
        check(&["default/b - STRICT", "default/a - PERMISSIVE"], 80, Takes::Plaintext);
        check(&["default/b - STRICT @5", "default/a - PERMISSIVE"], 80, Takes::MutualTls);
        assert!(Created(5) < Created::UNKNOWN);
    }
}
