//! Pods that are in the mesh, or out of it, for a reason that is easily missed.

use crate::{
    dangling::{Known, Level, Say, is_in_mesh},
    enrol::{DATAPLANE_MODE, EnrolmentReason, SIDECAR_INJECT},
    objects::{OwnProxy, Phase, Pod},
    world::Addressed,
};

impl Known<'_> {
    pub(super) fn pod(&self, pod: &Pod, say: Say<'_>) {
        let Some(fact) = self.model.world().pod(&pod.name) else { return self.ended(pod, say) };
        let ambient = |label: Option<&str>| label == Some("ambient");
        let namespace = pod.name.namespace();
        let asks = ambient(pod.labels.get(DATAPLANE_MODE));
        let is_asked = ambient(self.model.sources().namespace(namespace).and_then(|n| n.labels.get(DATAPLANE_MODE)));
        let own = format!("metadata.labels[{DATAPLANE_MODE}]");
        let because = fact.enrolment.because();
        match because {
            EnrolmentReason::PodInjectLabel | EnrolmentReason::PodInjectAnnotation if is_asked && !is_in_mesh(fact) => {
                let map = if because == EnrolmentReason::PodInjectLabel { "labels" } else { "annotations" };
                let says = format!("keeps the pod out of the mesh, although namespace {namespace} enrols its pods");
                say(Level::Warning, &format!("metadata.{map}[{SIDECAR_INJECT}]"), says);
            }
            EnrolmentReason::HostNetwork | EnrolmentReason::Sidecar | EnrolmentReason::Waypoint if asks => {
                say(
                    Level::Warning,
                    &own,
                    format!("the pod is not in the mesh despite this label: {}", because.as_str()),
                );
            }
            EnrolmentReason::Sidecar | EnrolmentReason::Gateway if is_asked => {
                say(
                    Level::Notice,
                    "",
                    format!(
                        "the pod is not in the mesh, although namespace {namespace} enrols its pods: {}",
                        because.as_str()
                    ),
                );
            }
            EnrolmentReason::PodMode if asks && pod.proxy == Some(OwnProxy::Gateway) => {
                let says = "an Istio gateway in the mesh: its connections into the mesh are carried under its own identity; it must \
                            not open mutual TLS of its own inside";
                say(Level::Notice, &own, says.to_owned());
            }
            _ => {}
        }
    }

    /// An address that a pod had, and another has now.
    fn ended(&self, pod: &Pod, say: Say<'_>) {
        for ip in pod.addresses.iter().filter(|_| pod.phase == Phase::Terminal && !pod.host_network) {
            if let Addressed::Workload(w) = self.model.world().addressed(*ip) {
                say(Level::Notice, "status.podIPs", format!("{ip} now belongs to {}: this pod has ended", w.name));
            }
        }
    }
}
