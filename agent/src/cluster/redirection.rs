//! The word of a node about its pods, the annotation `ambient.istio.io/redirection`: by it the control plane counts them as
//! enrolled, and callers tunnel to them. Pure.
//!
//! What must hold: it is there only while the pod is captured, and it is gone before capture is undone. So a pod that is to
//! leave the mesh stays captured ([`held`]) until the World says that its callers know.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::watch;
use underpass_core::{
    ObjectName, World,
    enrol::is_redirected,
    resolve::{Local, LocalPod, Sources},
};
use underpass_kube::write::PodEvent;

use crate::pods::PodUid;

/// A change of the annotation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Redirection {
    /// The pod.
    pub pod: ObjectName,
    /// Its `metadata.uid`: another pod of the name is not meant.
    pub uid: PodUid,
    /// It is to be there.
    pub enabled: bool,
}

/// Says which annotations are to change, and which events are due. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Word(Arc<Senders>);

#[derive(Debug)]
struct Senders {
    redirections: watch::Sender<BTreeSet<Redirection>>,
    events: watch::Sender<BTreeSet<PodEvent>>,
}

/// What is due, for its writers.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) redirections: watch::Receiver<BTreeSet<Redirection>>,
    pub(super) events: watch::Receiver<BTreeSet<PodEvent>>,
}

impl Word {
    /// With nothing to say, and who writes it.
    pub(super) fn new() -> (Self, Due) {
        let (said, redirections) = watch::channel(BTreeSet::new());
        let (reported, events) = watch::channel(BTreeSet::new());
        (Self(Arc::new(Senders { redirections: said, events: reported })), Due { redirections, events })
    }

    /// From now on these are due.
    pub(crate) fn say(&self, due: BTreeSet<Redirection>) {
        replace(&self.0.redirections, due);
    }

    /// From now on these are due.
    pub(crate) fn report(&self, due: BTreeSet<PodEvent>) {
        replace(&self.0.events, due);
    }
}

fn replace<T: PartialEq>(said: &watch::Sender<T>, due: T) {
    said.send_if_modified(|said| {
        let differs = *said != due;
        *said = due;
        differs
    });
}

/// The changes that are due: the objects say what is there, the rest what is to be.
#[must_use]
pub(crate) fn due(sources: &Sources, local: &[LocalPod], captured: &BTreeSet<PodUid>) -> BTreeSet<Redirection> {
    let change = |pod: &LocalPod| {
        let enabled = match pod.local {
            Local::Enrolled => captured.contains(&pod.pod_uid),
            Local::Released => false,
            Local::Unknown => return None,
        };
        let object = sources.pod(&pod.name).filter(|object| object.uid == pod.pod_uid)?;
        let is_there = is_redirected(object);
        (is_there != enabled).then(|| Redirection { pod: pod.name.clone(), uid: Arc::clone(&pod.pod_uid), enabled })
    };
    local.iter().filter_map(change).collect()
}

/// The pods as they are to be treated by this World: one that is to leave the mesh, and that callers still tunnel to, stays.
#[must_use]
pub(crate) fn held(world: &World, local: &Arc<[LocalPod]>) -> Arc<[LocalPod]> {
    let is_called = |pod: &LocalPod| {
        let fact = world.workload(&pod.uid).filter(|fact| fact.is_of(&pod.addresses, &pod.account));
        pod.local == Local::Released && fact.is_some_and(|fact| fact.is_enrolled())
    };
    if !local.iter().any(is_called) {
        return Arc::clone(local);
    }
    let treat =
        |pod: &LocalPod| LocalPod { local: if is_called(pod) { Local::Enrolled } else { pod.local }, ..pod.clone() };
    local.iter().map(treat).collect()
}

#[cfg(test)]
mod tests {
    use underpass_core::{
        enrol::REDIRECTION,
        objects::Pod,
        testing::{ambient, labels, model, pod},
    };

    use super::*;

    fn annotated(pod: Pod) -> Pod {
        Pod { annotations: labels(&format!("{REDIRECTION}=enabled")), ..pod }
    }

    #[test]
    fn the_annotation_follows_capture() {
        let check = |object: Pod, is_captured: bool, expect: Option<bool>| {
            let uid = Arc::clone(&object.uid);
            let model = model([object.clone().into()]);
            let captured = is_captured.then(|| Arc::clone(&uid)).into_iter().collect();
            let due = due(model.sources(), &model.local_pods("node-1"), &captured);
            let expect = expect.map(|enabled| Redirection { pod: object.name.clone(), uid, enabled });
            assert_eq!(due, expect.into_iter().collect(), "{object:?} {is_captured}");
        };
        let (wanted, unwanted) = (|| ambient("default/a", "10.0.0.1", ""), || pod("default/a", "10.0.0.1"));
        check(wanted(), false, None);
        check(wanted(), true, Some(true));
        check(annotated(wanted()), true, None);
        check(annotated(wanted()), false, Some(false));
        check(annotated(unwanted()), true, Some(false));
        check(annotated(unwanted()), false, Some(false));
        check(unwanted(), false, None);
        let ended = Pod { phase: underpass_core::objects::Phase::Terminal, ..annotated(wanted()) };
        check(ended, true, None);
    }

    #[test]
    fn a_pod_of_the_same_name_is_not_meant() {
        let now = model([ambient("default/a", "10.0.0.1", "").into()]);
        let earlier = model([Pod { uid: "earlier".into(), ..ambient("default/a", "10.0.0.1", "") }.into()]);
        let local = earlier.local_pods("node-1");
        assert!(due(now.sources(), &local, &BTreeSet::from(["earlier".into()])).is_empty());
    }

    #[test]
    fn a_pod_stays_while_callers_tunnel_to_it() {
        let check = |fact: Option<Pod>, here: Pod, expect| {
            let world = model(fact.clone().map(Into::into)).world().clone();
            let local: Arc<[LocalPod]> = model([here.into()]).local_pods("node-1").into();
            let held = held(&world, &local);
            assert_eq!(held.iter().map(|pod| pod.local).collect::<Vec<_>>(), [expect], "{fact:?}");
            assert_eq!(Arc::ptr_eq(&held, &local), expect != Local::Enrolled || local[0].local == Local::Enrolled);
        };
        let (wanted, unwanted) = (|| ambient("default/a", "10.0.0.1", ""), || pod("default/a", "10.0.0.1"));
        check(Some(wanted()), unwanted(), Local::Enrolled);
        check(Some(unwanted()), unwanted(), Local::Released);
        check(None, unwanted(), Local::Released);
        check(Some(ambient("default/a", "10.0.0.9", "")), unwanted(), Local::Released);
        check(Some(wanted()), wanted(), Local::Enrolled);
        check(None, wanted(), Local::Enrolled);
    }
}
