//! Which waypoints to start and which to stop. Pure.
//!
//! | | wanted as it is | wanted otherwise | not wanted |
//! |---|---|---|---|
//! | there is none | start | start | |
//! | runs | | stop | stop |
//! | stops | wait | wait | |
//!
//! What must hold: of one pod there is one at a time. What replaces another one waits for its end: they may have an address, and
//! have a device of one name.

use std::collections::BTreeMap;

use underpass_core::{ObjectName, provision::Instance};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Start this one.
    Start(Instance),
    /// Stop the one of this pod.
    Stop(ObjectName),
}

/// The steps towards `wanted`, stops first. `known`: by pod, and whether it stops already.
pub(super) fn steps(known: &BTreeMap<ObjectName, (Instance, bool)>, wanted: &[Instance]) -> Vec<Step> {
    let is_wanted = |instance: &Instance| wanted.contains(instance);
    let stops = known.iter().filter(|(_, (instance, stops))| !stops && !is_wanted(instance));
    let starts = wanted.iter().filter(|instance| !known.contains_key(&instance.pod));
    stops.map(|(pod, _)| Step::Stop(pod.clone())).chain(starts.cloned().map(Step::Start)).collect()
}

#[cfg(test)]
mod tests {
    use underpass_core::{Few, testing::name};

    use super::*;

    fn instance(pod: &str, address: &str) -> Instance {
        Instance {
            node: "n".into(),
            pod: name(pod),
            number: 1,
            gateway: name(pod),
            class: "istio-waypoint".into(),
            port: 15008,
            addresses: Few::one(address.parse().unwrap()),
        }
    }

    #[test]
    fn every_cell() {
        let (a, moved, b) = (instance("x/a", "10.9.1.1"), instance("x/a", "10.9.1.2"), instance("x/b", "10.9.1.3"));
        let check = |known: &[(&Instance, bool)], wanted: &[&Instance], expect: &[Step]| {
            let known = known.iter().map(|(i, stops)| (i.pod.clone(), ((*i).clone(), *stops))).collect();
            let wanted: Vec<_> = wanted.iter().copied().cloned().collect();
            assert_eq!(steps(&known, &wanted), expect, "{known:?} {wanted:?}");
        };
        check(&[], &[&a, &b], &[Step::Start(a.clone()), Step::Start(b.clone())]);
        check(&[(&a, false)], &[&a], &[]);
        check(&[(&a, false)], &[&moved], &[Step::Stop(a.pod.clone())]);
        check(&[(&a, true)], &[&moved], &[]);
        check(&[(&a, true)], &[&a], &[]);
        check(&[(&a, false)], &[&b], &[Step::Stop(a.pod.clone()), Step::Start(b.clone())]);
        check(&[(&a, true)], &[], &[]);
    }
}
