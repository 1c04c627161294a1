//! The enrolment of pods: whether a pod is in the mesh. The most specific key decides:
//!
//! 1. pod label `istio.io/dataplane-mode`
//! 2. pod label, then annotation `sidecar.istio.io/inject`
//! 3. namespace label `istio.io/dataplane-mode`
//! 4. namespace label `istio-injection`
//!
//! The two sidecar keys are there because users' guides enrol that way; a setting turns them off. A key with an
//! undefined value decides nothing. Host-network pods, pods that have ended, pods with a sidecar and waypoints of
//! Istio's are never in the mesh. A gateway of Istio's is an application like any other, but has a proxy that may speak
//! the mesh's protocols itself: only its own label `istio.io/dataplane-mode` enrols it. What `sidecar.istio.io/inject`
//! asks for there is the gateway, and a namespace means its applications.
//!
//! That is the wish, by which a node enrols its own pods. A control plane goes by the nodes' word instead
//! ([`EnrolledBy::Redirection`]): by labels, callers would tunnel to pods that no agent serves.

use serde::Serialize;

use crate::{
    labels::Labels,
    objects::{Namespace, OwnProxy, Phase, Pod},
    trace::{Stage, Trace},
    world::{MeshSettings, Workload},
};

/// The label that turns ambient mode on (`ambient`) and off (`none`).
pub const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
/// The sidecar key of pods: `true` or `false`.
pub const SIDECAR_INJECT: &str = "sidecar.istio.io/inject";
/// The sidecar key of namespaces: `enabled` or `disabled`.
pub const ISTIO_INJECTION: &str = "istio-injection";
/// The annotation of a pod whose connections its node captures: `enabled`. The node's agent writes it.
pub const REDIRECTION: &str = "ambient.istio.io/redirection";
/// Its value.
const REDIRECTED: &str = "enabled";

/// What enrols pods, beside what never is in the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum EnrolledBy {
    /// The keys of pods and namespaces: the wish of their owners.
    #[default]
    Labels,
    /// [`REDIRECTION`]: the word of the pods' own nodes.
    Redirection,
}

/// What an enrolment was decided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnrolmentReason {
    /// Pod label `istio.io/dataplane-mode`.
    PodMode,
    /// Pod label `sidecar.istio.io/inject`.
    PodInjectLabel,
    /// Pod annotation `sidecar.istio.io/inject`.
    PodInjectAnnotation,
    /// Namespace label `istio.io/dataplane-mode`.
    NamespaceMode,
    /// Namespace label `istio-injection`.
    NamespaceInjection,
    /// `spec.hostNetwork`: it has no addresses of its own.
    HostNetwork,
    /// `status.phase` is `Succeeded` or `Failed`.
    Ended,
    /// An `istio-proxy` container runs beside its application.
    Sidecar,
    /// It is an Istio gateway that its own label does not enrol.
    Gateway,
    /// It is an Istio waypoint.
    Waypoint,
    /// `status.podIPs` is empty (yet).
    NoAddress,
    /// An address of a slice, and of no pod.
    NoPod,
    /// No key says anything.
    NoKey,
    /// Pod annotation `ambient.istio.io/redirection`.
    Redirection,
    /// The agent of its node has not said that it captures it.
    NotRedirected,
    /// The control plane has decided, and does not say by what.
    ControlPlane,
}

impl EnrolmentReason {
    /// For people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PodMode => "pod label istio.io/dataplane-mode",
            Self::PodInjectLabel => "pod label sidecar.istio.io/inject",
            Self::PodInjectAnnotation => "pod annotation sidecar.istio.io/inject",
            Self::NamespaceMode => "namespace label istio.io/dataplane-mode",
            Self::NamespaceInjection => "namespace label istio-injection",
            Self::HostNetwork => "it uses the host network (spec.hostNetwork)",
            Self::Ended => "it has ended",
            Self::Sidecar => "it has an Istio sidecar",
            Self::Gateway => "it is an Istio gateway, which only its own label istio.io/dataplane-mode enrols",
            Self::Waypoint => "it is an Istio waypoint",
            Self::NoAddress => "it has no address yet",
            Self::NoPod => "no pod has this address",
            Self::NoKey => "no label of the pod or its namespace enrols it",
            Self::Redirection => "pod annotation ambient.istio.io/redirection",
            Self::NotRedirected => "its node does not capture it (pod annotation ambient.istio.io/redirection)",
            Self::ControlPlane => "the control plane says so",
        }
    }
}

/// The decision and what it was decided by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Enrolment {
    enrolled: bool,
    because: EnrolmentReason,
}

impl Enrolment {
    /// As another one has decided.
    #[must_use]
    pub const fn decided(enrolled: bool, because: EnrolmentReason) -> Self {
        Self { enrolled, because }
    }

    /// Not in the mesh, for this reason.
    #[must_use]
    pub const fn outside(because: EnrolmentReason) -> Self {
        Self { enrolled: false, because }
    }

    /// In the mesh.
    #[must_use]
    pub const fn is_enrolled(&self) -> bool {
        self.enrolled
    }

    /// What decided.
    #[must_use]
    pub const fn because(&self) -> EnrolmentReason {
        self.because
    }

    /// Records `workload`'s enrolment in a trace.
    pub fn trace(&self, workload: &Workload, trace: &mut impl Trace) {
        let key = workload.object();
        trace.say(Stage::Enrolment, Some(&key), || {
            format!("{} the mesh: {}", if self.enrolled { "in" } else { "not in" }, self.because.as_str())
        });
    }
}

/// Decides for one pod. `namespace` is its namespace, where that was declared.
#[must_use]
pub fn decide(pod: &Pod, namespace: Option<&Namespace>, settings: &MeshSettings) -> Enrolment {
    let never = [
        (pod.host_network, EnrolmentReason::HostNetwork),
        (pod.phase == Phase::Terminal, EnrolmentReason::Ended),
        (pod.proxy == Some(OwnProxy::Sidecar), EnrolmentReason::Sidecar),
        (pod.proxy == Some(OwnProxy::Waypoint), EnrolmentReason::Waypoint),
        (pod.proxy == Some(OwnProxy::Gateway) && mode(&pod.labels).is_none(), EnrolmentReason::Gateway),
    ];
    if let Some((_, because)) = never.into_iter().find(|(is, _)| *is) {
        return Enrolment { enrolled: false, because };
    }
    if settings.enrolled_by == EnrolledBy::Redirection {
        return redirected(pod);
    }
    match wish(pod, namespace, settings) {
        Some((true, _)) if pod.addresses.is_empty() => {
            Enrolment { enrolled: false, because: EnrolmentReason::NoAddress }
        }
        Some((enrolled, because)) => Enrolment { enrolled, because },
        None => Enrolment { enrolled: false, because: EnrolmentReason::NoKey },
    }
}

/// The first key that says something, and what it says.
fn wish(pod: &Pod, namespace: Option<&Namespace>, settings: &MeshSettings) -> Option<(bool, EnrolmentReason)> {
    let none = Labels::new();
    let own = [
        (mode(&pod.labels), EnrolmentReason::PodMode),
        (sidecar(settings, &pod.labels, SIDECAR_INJECT, ["true", "false"]), EnrolmentReason::PodInjectLabel),
        (sidecar(settings, &pod.annotations, SIDECAR_INJECT, ["true", "false"]), EnrolmentReason::PodInjectAnnotation),
    ];
    let mut keys = own.into_iter().chain(of_namespace(namespace.map_or(&none, |n| &n.labels), settings));
    keys.find_map(|(says, because)| says.map(|enrolled| (enrolled, because)))
}

/// The owner of the key that enrols a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WishedBy {
    /// The pod itself.
    Pod,
    /// Its namespace: for all of its pods.
    Namespace,
}

/// A pod that its keys enrol, and that can never be in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What keeps it outside.
    pub because: EnrolmentReason,
    /// The key that enrols it.
    pub by: EnrolmentReason,
    /// The owner of the key.
    pub whose: WishedBy,
}

/// What keeps a pod outside the mesh that its owner means to be in it; none: nothing does, or it is not meant. A sidecar is what
/// the sidecar keys ask for.
#[must_use]
pub fn kept_outside(pod: &Pod, namespace: Option<&Namespace>, settings: &MeshSettings) -> Option<Kept> {
    let (true, by) = wish(pod, namespace, settings)? else { return None };
    let is_mode = matches!(by, EnrolmentReason::PodMode | EnrolmentReason::NamespaceMode);
    let because = match pod.proxy {
        _ if pod.phase == Phase::Terminal => return None,
        _ if pod.host_network => EnrolmentReason::HostNetwork,
        Some(OwnProxy::Sidecar) if is_mode => EnrolmentReason::Sidecar,
        _ => return None,
    };
    let of_namespace = matches!(by, EnrolmentReason::NamespaceMode | EnrolmentReason::NamespaceInjection);
    Some(Kept { because, by, whose: if of_namespace { WishedBy::Namespace } else { WishedBy::Pod } })
}

/// The node of this pod says that it captures its connections ([`REDIRECTION`]).
#[must_use]
pub fn is_redirected(pod: &Pod) -> bool {
    pod.annotations.get(REDIRECTION).is_some_and(|value| value == REDIRECTED)
}

fn redirected(pod: &Pod) -> Enrolment {
    match (is_redirected(pod), pod.addresses.is_empty()) {
        (true, true) => Enrolment::outside(EnrolmentReason::NoAddress),
        (true, false) => Enrolment { enrolled: true, because: EnrolmentReason::Redirection },
        (false, _) => Enrolment::outside(EnrolmentReason::NotRedirected),
    }
}

/// A pod of this namespace that says nothing itself is in the mesh.
#[must_use]
pub fn enrols(namespace: &Namespace, settings: &MeshSettings) -> bool {
    of_namespace(&namespace.labels, settings).into_iter().find_map(|(says, _)| says).unwrap_or(false)
}

/// The keys of a namespace, the one that counts first.
fn of_namespace(labels: &Labels, settings: &MeshSettings) -> [(Option<bool>, EnrolmentReason); 2] {
    let injection = sidecar(settings, labels, ISTIO_INJECTION, ["enabled", "disabled"]);
    [(mode(labels), EnrolmentReason::NamespaceMode), (injection, EnrolmentReason::NamespaceInjection)]
}

fn mode(labels: &Labels) -> Option<bool> {
    switch(labels, DATAPLANE_MODE, ["ambient", "none"])
}

fn sidecar(settings: &MeshSettings, labels: &Labels, key: &str, on_off: [&str; 2]) -> Option<bool> {
    settings.sidecar_keys.then(|| switch(labels, key, on_off)).flatten()
}

fn switch(labels: &Labels, key: &str, [on, off]: [&str; 2]) -> Option<bool> {
    match labels.get(key)? {
        v if v == on => Some(true),
        v if v == off => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Few,
        testing::{labels, namespace, pod},
    };

    fn check(pod_labels: &str, annotations: &str, namespace_labels: &str, expect: (bool, EnrolmentReason)) {
        let mut w = pod("default/a", "10.0.0.1");
        w.labels = labels(pod_labels);
        w.annotations = labels(annotations);
        let mut ns = namespace("default");
        ns.labels = labels(namespace_labels);
        let got = decide(&w, Some(&ns), &MeshSettings::default());
        assert_eq!((got.is_enrolled(), got.because()), expect, "{pod_labels} | {annotations} | {namespace_labels}");
        if pod_labels.is_empty() && annotations.is_empty() {
            assert_eq!(enrols(&ns, &MeshSettings::default()), expect.0, "{namespace_labels}");
        }
    }

    #[test]
    fn the_most_specific_key_decides() {
        use EnrolmentReason::{NamespaceInjection, NamespaceMode, NoKey, PodInjectAnnotation, PodInjectLabel, PodMode};
        let (mode, inject, injection) = (DATAPLANE_MODE, SIDECAR_INJECT, ISTIO_INJECTION);
        check("", "", "", (false, NoKey));
        check("", "", &format!("{injection}=enabled"), (true, NamespaceInjection));
        check("", "", &format!("{injection}=disabled"), (false, NamespaceInjection));
        check("", "", &format!("{mode}=ambient"), (true, NamespaceMode));
        check("", "", &format!("{mode}=none {injection}=enabled"), (false, NamespaceMode));
        check("", &format!("{inject}=false"), &format!("{mode}=ambient"), (false, PodInjectAnnotation));
        check("", &format!("{inject}=true"), "", (true, PodInjectAnnotation));
        check(&format!("{inject}=true"), &format!("{inject}=false"), "", (true, PodInjectLabel));
        check(&format!("{mode}=none {inject}=true"), "", &format!("{mode}=ambient"), (false, PodMode));
        check(&format!("{mode}=ambient {inject}=false"), "", "", (true, PodMode));
        // an undefined value decides nothing
        check(&format!("{mode}=Ambient"), "", &format!("{mode}=ambient"), (true, NamespaceMode));
        check("", "", &format!("{injection}=true"), (false, NoKey));
    }

    #[test]
    fn some_pods_never_are() {
        let check = |change: fn(&mut Pod), expect| {
            let mut w = pod("default/a", "10.0.0.1");
            w.labels = labels("istio.io/dataplane-mode=ambient");
            change(&mut w);
            let got = decide(&w, None, &MeshSettings::default());
            assert_eq!((got.is_enrolled(), got.because()), (expect == EnrolmentReason::PodMode, expect));
        };
        check(|_| {}, EnrolmentReason::PodMode);
        check(|w| w.host_network = true, EnrolmentReason::HostNetwork);
        check(|w| w.phase = Phase::Terminal, EnrolmentReason::Ended);
        check(|w| w.phase = Phase::Pending, EnrolmentReason::PodMode);
        check(|w| w.proxy = Some(OwnProxy::Sidecar), EnrolmentReason::Sidecar);
        check(|w| w.proxy = Some(OwnProxy::Waypoint), EnrolmentReason::Waypoint);
        check(|w| w.proxy = Some(OwnProxy::Gateway), EnrolmentReason::PodMode);
        check(|w| w.addresses = Few::new(), EnrolmentReason::NoAddress);
    }

    #[test]
    fn a_gateway_is_enrolled_by_its_own_label_alone() {
        let check = |labels_of_pod: &str, expect| {
            let mut w = pod("default/a", "10.0.0.1");
            (w.proxy, w.labels) = (Some(OwnProxy::Gateway), labels(labels_of_pod));
            let mut ns = namespace("default");
            ns.labels = labels("istio.io/dataplane-mode=ambient istio-injection=enabled");
            let got = decide(&w, Some(&ns), &MeshSettings::default());
            assert_eq!((got.is_enrolled(), got.because()), expect, "{labels_of_pod}");
        };
        check("", (false, EnrolmentReason::Gateway));
        check("sidecar.istio.io/inject=true", (false, EnrolmentReason::Gateway));
        check("istio.io/dataplane-mode=ambient", (true, EnrolmentReason::PodMode));
        check("istio.io/dataplane-mode=none", (false, EnrolmentReason::PodMode));
    }

    #[test]
    fn a_control_plane_goes_by_the_word_of_the_node() {
        let settings = MeshSettings { enrolled_by: EnrolledBy::Redirection, ..MeshSettings::default() };
        let check = |pod: Pod, expect| {
            let got = decide(&pod, None, &settings);
            assert_eq!((got.is_enrolled(), got.because()), (expect == EnrolmentReason::Redirection, expect));
        };
        let captured =
            || Pod { annotations: labels(&format!("{REDIRECTION}=enabled")), ..pod("default/a", "10.0.0.1") };
        check(captured(), EnrolmentReason::Redirection);
        check(Pod { annotations: labels(&format!("{REDIRECTION}=off")), ..captured() }, EnrolmentReason::NotRedirected);
        let wished = Pod { labels: labels(&format!("{DATAPLANE_MODE}=ambient")), ..pod("default/a", "10.0.0.1") };
        check(wished, EnrolmentReason::NotRedirected);
        // The node cannot be right about these.
        check(Pod { host_network: true, ..captured() }, EnrolmentReason::HostNetwork);
        check(Pod { proxy: Some(OwnProxy::Sidecar), ..captured() }, EnrolmentReason::Sidecar);
        check(Pod { addresses: Few::new(), ..captured() }, EnrolmentReason::NoAddress);
        check(Pod { phase: Phase::Terminal, ..captured() }, EnrolmentReason::Ended);
    }

    #[test]
    fn the_sidecar_keys_can_be_turned_off() {
        let settings = MeshSettings { sidecar_keys: false, ..MeshSettings::default() };
        let mut w = pod("default/a", "10.0.0.1");
        w.labels = labels("sidecar.istio.io/inject=true");
        assert_eq!(decide(&w, None, &settings).because(), EnrolmentReason::NoKey);
    }
}
