//! Pods of this node that are to be in the mesh and are not, or came into it late: what is said about them as events of the
//! pods, and the readiness gate for room in the kernel's tables.
//!
//! What must hold: an event is due for as long as its cause holds, so that its writer writes it once, and again when it comes back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use underpass_core::{
    enrol::{self, Kept, WishedBy},
    objects::Pod,
    resolve::Sources,
    world::MeshSettings,
};
use underpass_kube::write::{EventType, PodEvent};
use underpass_telemetry::admin::{Gate, Readiness};

use crate::pods::{PodUid, WaitingPod};

/// The causes, and the gate.
#[derive(Debug)]
pub(super) struct Unenrolled {
    waiting: Vec<WaitingPod>,
    late: BTreeSet<PodUid>,
    /// A pod that begins anew is captured before it starts: there is a plugin that sees to it.
    has_plugin: bool,
    room: Gate,
}

impl Unenrolled {
    /// `has_plugin`: the CNI plugin is to be installed.
    pub(super) fn new(ready: &Readiness, has_plugin: bool) -> Self {
        let room = ready.gate("room for pods", "no pod is known yet");
        room.open();
        Self { waiting: Vec::new(), late: BTreeSet::new(), has_plugin, room }
    }

    /// These pods could not be enrolled, and are tried again.
    pub(super) fn set_waiting(&mut self, waiting: Vec<WaitingPod>) {
        let no_room = || waiting.iter().filter(|pod| pod.no_room);
        match no_room().next() {
            None => self.room.open(),
            Some(WaitingPod { name, .. }) => {
                let n = no_room().count();
                self.room.close(format!("pod {name} is not enrolled: the kernel's tables are full ({n} pods in all)"));
            }
        }
        self.waiting = waiting;
    }

    /// This pod is enrolled; `late`: its processes had started before.
    pub(super) fn added(&mut self, pod: &PodUid, late: bool) {
        if late {
            self.late.insert(Arc::clone(pod));
        }
    }

    /// This pod is enrolled no longer.
    pub(super) fn removed(&mut self, pod: &PodUid) {
        self.late.remove(pod);
    }

    /// The events that are due about the pods among these objects, which are this node's.
    pub(super) fn events(&self, sources: &Sources, settings: &MeshSettings) -> BTreeSet<PodEvent> {
        let waiting: BTreeMap<_, _> = self.waiting.iter().map(|pod| (&pod.uid, &*pod.problem)).collect();
        let event = |pod: &Arc<Pod>| {
            let namespace = sources.namespace(pod.name.namespace()).map(|namespace| &**namespace);
            let (r#type, reason, note) = if let Some(problem) = waiting.get(&pod.uid) {
                (EventType::Warning, "NotCaptured", not_captured(problem))
            } else if self.late.contains(&pod.uid) {
                let (r#type, advice) =
                    if self.has_plugin { (EventType::Warning, WITH_PLUGIN) } else { (EventType::Normal, WITHOUT) };
                (r#type, "CapturedLate", format!("{LATE}. {advice}"))
            } else {
                let kept = enrol::kept_outside(pod, namespace, settings)?;
                (type_of(kept), "OutsideMesh", outside(kept))
            };
            let (pod, uid) = (pod.name.clone(), Arc::clone(&pod.uid));
            Some(PodEvent { pod, uid, r#type, reason, action: "Capture", note })
        };
        sources.pods().filter_map(event).collect()
    }
}

const LATE: &str = "The pod's processes had started before the node's agent captured its connections: those that it opened before are \
                    outside the mesh until they end";
const WITH_PLUGIN: &str = "Delete the pod where that matters: its successor is captured before it starts";
const WITHOUT: &str = "So it is for every new pod of a node without the CNI plugin";

fn not_captured(problem: &str) -> String {
    format!(
        "The pod is in the mesh by its labels, and its connections are not captured: {problem}. The agent tries again"
    )
}

fn outside(Kept { because, by, .. }: Kept) -> String {
    format!(
        "{} puts the pod into the mesh, and it stays outside, with plaintext connections: {}",
        upper(by.as_str()),
        because.as_str()
    )
}

/// A wish of the pod's own is refused; one of its namespace means its other pods.
const fn type_of(kept: Kept) -> EventType {
    match kept.whose {
        WishedBy::Pod => EventType::Warning,
        WishedBy::Namespace => EventType::Normal,
    }
}

/// With a capital letter.
fn upper(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use underpass_core::{
        objects::{Namespace, Object},
        testing::{ambient, labels, model, namespace, pod},
    };

    fn waiting(uid: &str, no_room: bool) -> WaitingPod {
        let name = underpass_core::ObjectName::new("default", uid);
        WaitingPod { name, uid: uid.into(), problem: "no process in /x".into(), no_room }
    }

    /// Type, reason and note of each.
    fn said(unenrolled: &Unenrolled, objects: impl IntoIterator<Item = Object>) -> Vec<String> {
        let model = model(objects);
        let events = unenrolled.events(model.sources(), model.world().settings());
        events.iter().map(|e| format!("{} {:?} {} {}", e.pod, e.r#type, e.reason, e.note)).collect()
    }

    #[test]
    fn each_cause_has_its_event_for_as_long_as_it_holds() {
        let mut unenrolled = Unenrolled::new(&Readiness::new(), true);
        let a = || Object::from(Pod { uid: "a".into(), ..ambient("default/a", "10.0.0.1", "") });
        assert_eq!(said(&unenrolled, [a()]), [""; 0]);
        unenrolled.set_waiting(vec![waiting("a", false)]);
        let expected = format!("default/a Warning NotCaptured {}", not_captured("no process in /x"));
        assert_eq!(said(&unenrolled, [a()]), [&*expected]);
        let another = Object::from(Pod { uid: "b".into(), ..ambient("default/a", "10.0.0.1", "") });
        assert_eq!(said(&unenrolled, [another]), [""; 0], "another pod of the name");
        unenrolled.set_waiting(Vec::new());
        unenrolled.added(&"a".into(), true);
        assert_eq!(said(&unenrolled, [a()]), [&*format!("default/a Warning CapturedLate {LATE}. {WITH_PLUGIN}")]);
        unenrolled.has_plugin = false;
        assert_eq!(said(&unenrolled, [a()]), [&*format!("default/a Normal CapturedLate {LATE}. {WITHOUT}")]);
        unenrolled.removed(&"a".into());
        unenrolled.added(&"a".into(), false);
        assert_eq!(said(&unenrolled, [a()]), [""; 0]);
    }

    #[test]
    fn what_stays_outside_in_spite_of_its_labels_is_named() {
        let unenrolled = Unenrolled::new(&Readiness::new(), true);
        let on_host = |own: &str| Pod { host_network: true, labels: labels(own), ..pod("shop/a", "10.0.0.1") };
        let enrolling = || Namespace { labels: labels("istio-injection=enabled"), ..namespace("shop") };
        let shop = || Object::from(enrolling());
        assert_eq!(
            said(&unenrolled, [shop(), on_host("").into()]),
            [
                "shop/a Normal OutsideMesh Namespace label istio-injection puts the pod into the mesh, and it stays outside, with plaintext \
              connections: it uses the host network (spec.hostNetwork)"
            ]
        );
        let own = said(&unenrolled, [on_host("istio.io/dataplane-mode=ambient").into()]);
        assert!(own[0].starts_with("shop/a Warning OutsideMesh Pod label istio.io/dataplane-mode puts"), "{own:?}");
        assert_eq!(said(&unenrolled, [on_host("").into()]), [""; 0]);
    }

    #[test]
    fn the_gate_is_about_room_alone() {
        let ready = Readiness::new();
        let mut unenrolled = Unenrolled::new(&ready, true);
        unenrolled.set_waiting(vec![waiting("a", false), waiting("b", true)]);
        let expected = "pod default/b is not enrolled: the kernel's tables are full (1 pods in all)";
        assert_eq!(ready.waiting(), [("room for pods", expected.to_owned())]);
        unenrolled.set_waiting(vec![waiting("a", false)]);
        assert!(ready.waiting().is_empty());
    }
}
