//! Whether a port of a workload accepts plaintext: the most specific PeerAuthentication decides ([`World::mtls`]);
//! without one, plaintext is accepted (PERMISSIVE), as in Istio.

use crate::{
    Kind, ObjectKey, ObjectName, World,
    trace::{Stage, Trace},
    world::{Takes, Workload},
};

/// The mutual TLS mode of target port `port` of `workload`, and the policy that sets it.
#[must_use]
pub fn takes<'a>(
    world: &'a World,
    workload: &'a Workload,
    port: u16,
    trace: &mut impl Trace,
) -> (Takes, Option<&'a ObjectName>) {
    match world.mtls(workload, port) {
        Some(says) => {
            let step = || crate::trace::Step {
                stage: Stage::PeerAuthentication,
                object: Some(ObjectKey::new(Kind::PeerAuthentication, says.by.clone())),
                says: sentence(says.takes, port),
            };
            trace.step(step);
            (says.takes, Some(&says.by))
        }
        None => {
            let says = || format!("no PeerAuthentication applies: {}", sentence(Takes::Plaintext, port));
            trace.say(Stage::PeerAuthentication, None, says);
            (Takes::Plaintext, None)
        }
    }
}

fn sentence(takes: Takes, port: u16) -> String {
    match takes {
        Takes::MutualTls => format!("port {port} accepts mutual TLS only"),
        Takes::Plaintext => format!("port {port} accepts mutual TLS and plaintext"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        objects::{Created, Object},
        testing::{labels, name, peer_authentication, pod, world},
    };

    /// Each policy: `namespace/name selector mode [port=mode] [@created]`; the pod is default/a with app=a.
    fn check(policies: &[&str], port: u16, expect: Takes) {
        let mut a = pod("default/a", "10.0.0.1");
        a.labels = labels("app=a");
        let objects: Vec<Object> = policies.iter().map(|p| peer_authentication(p).into()).chain([a.into()]).collect();
        let world = world(objects);
        let a = world.pod(&name("default/a")).unwrap();
        assert_eq!(takes(&world, a, port, &mut ()).0, expect, "{policies:?}");
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
