//! Labels and annotations that users know from Istio, on pods, pod templates, namespaces and services, with their
//! meaning here.

use underpass_core::enrol::{DATAPLANE_MODE, ISTIO_INJECTION, SIDECAR_INJECT};

use underpass_door::Field;

use super::rows::{note, warn};

/// Kinds with a pod template, and its path. Of these the keys alone are checked: the pods themselves are read.
pub(crate) const TEMPLATES: &[(&str, &str, &str)] = &[
    ("apps", "Deployment", "spec.template"),
    ("apps", "StatefulSet", "spec.template"),
    ("apps", "DaemonSet", "spec.template"),
    ("apps", "ReplicaSet", "spec.template"),
    ("batch", "Job", "spec.template"),
    ("batch", "CronJob", "spec.jobTemplate.spec.template"),
    ("argoproj.io", "Rollout", "spec.template"),
];

/// The kind of object that has a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    /// A pod, or a template of pods.
    Pod,
    /// A template of pods only: on a pod that is there, it is simply done.
    Template,
    /// A namespace.
    Namespace,
    /// Anything that a waypoint may stand in front of.
    Target,
}

/// A key and value, with their meaning.
pub(crate) struct Key {
    pub(crate) on: &'static [On],
    /// The key; with `*` at its end, every key that starts so.
    pub(crate) key: &'static str,
    /// The value; `""` is any that is not named before.
    pub(crate) value: &'static str,
    pub(crate) means: Field,
}

const fn key(on: &'static [On], key: &'static str, value: &'static str, means: Field) -> Key {
    Key { on, key, value, means }
}

const NO_PROXY: &str = "has no effect: no proxy runs in the pod";
const POD: &[On] = &[On::Pod, On::Template];
const TEMPLATE: &[On] = &[On::Template];
const NAMESPACE: &[On] = &[On::Namespace];
const EVERY: &[On] = &[On::Pod, On::Template, On::Namespace];

/// The first key and value that fit count.
pub(crate) const KEYS: &[Key] = &[
    key(
        TEMPLATE,
        SIDECAR_INJECT,
        "true",
        note("", "its pods will be in the mesh, without a container being added to them"),
    ),
    key(TEMPLATE, SIDECAR_INJECT, "false", note("", "its pods will not be in the mesh")),
    key(POD, SIDECAR_INJECT, "", warn("", "this value has no effect: write \"true\" or \"false\"")),
    key(TEMPLATE, DATAPLANE_MODE, "ambient", note("", "its pods will be in the mesh")),
    key(TEMPLATE, DATAPLANE_MODE, "none", note("", "its pods will not be in the mesh")),
    key(&[On::Pod, On::Namespace], DATAPLANE_MODE, "ambient", HERE),
    key(&[On::Pod, On::Namespace], DATAPLANE_MODE, "none", HERE),
    key(EVERY, DATAPLANE_MODE, "", warn("", "this value has no effect: write \"ambient\" or \"none\"")),
    key(NAMESPACE, ISTIO_INJECTION, "enabled", HERE),
    key(NAMESPACE, ISTIO_INJECTION, "disabled", HERE),
    key(NAMESPACE, ISTIO_INJECTION, "", warn("", "this value has no effect: write \"enabled\" or \"disabled\"")),
    key(NAMESPACE, "istio.io/rev", "", warn("", "puts no pod into the mesh: write `istio.io/dataplane-mode: ambient`")),
    key(POD, "sidecar.istio.io/status", "", HERE),
    key(POD, "sidecar.istio.io/*", "", note("", NO_PROXY)),
    key(POD, "proxy.istio.io/*", "", note("", NO_PROXY)),
    key(
        POD,
        "traffic.sidecar.istio.io/exclude*",
        "",
        warn("", "has no effect: nothing is excluded; connections to and from the mesh are captured on every port"),
    ),
    key(POD, "traffic.sidecar.istio.io/*", "", note("", NO_PROXY)),
    key(
        POD,
        "ambient.istio.io/bypass-inbound-capture",
        "",
        warn("", "has no effect: inbound connections of the pod are captured and judged"),
    ),
    key(
        &[On::Target],
        "networking.istio.io/exportTo",
        "",
        note("", "has no effect: every namespace sees every Service"),
    ),
];

/// It has the meaning that its author expects.
const HERE: Field = note("", "");

/// The meaning of a key with a value, where it differs from what its author expects.
pub(crate) fn meaning(on: On, name: &str, value: Option<&str>) -> Option<&'static Field> {
    let fits = |k: &&Key| {
        let named = match k.key.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == k.key,
        };
        named && k.on.contains(&on) && (k.value.is_empty() || value == Some(k.value))
    };
    // The values of a pod that is there are its own business once they are valid.
    if on == On::Pod && name == SIDECAR_INJECT && matches!(value, Some("true" | "false")) {
        return None;
    }
    KEYS.iter().find(fits).map(|k| &k.means).filter(|f| !f.says.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meanings_of_keys() {
        let check = |on, name: &str, value: &str, expect: Option<&str>| {
            let says = meaning(on, name, Some(value)).map(|f| f.says);
            assert!(
                says.map_or(expect.is_none(), |s| expect.is_some_and(|e| s.contains(e))),
                "{on:?} {name}: {says:?}"
            );
        };
        check(On::Template, SIDECAR_INJECT, "true", Some("will be in the mesh"));
        check(On::Template, SIDECAR_INJECT, "false", Some("not be in the mesh"));
        check(On::Template, SIDECAR_INJECT, "yes", Some("has no effect"));
        check(On::Pod, SIDECAR_INJECT, "true", None);
        check(On::Pod, SIDECAR_INJECT, "True", Some("has no effect"));
        check(On::Pod, "sidecar.istio.io/proxyCPU", "100m", Some("no effect"));
        check(On::Pod, "sidecar.istio.io/status", "{}", None);
        check(On::Pod, "traffic.sidecar.istio.io/excludeInboundPorts", "80", Some("nothing is excluded"));
        check(On::Pod, "traffic.sidecar.istio.io/includeInboundPorts", "*", Some("no effect"));
        check(On::Namespace, DATAPLANE_MODE, "ambient", None);
        check(On::Namespace, DATAPLANE_MODE, "Ambient", Some("has no effect"));
        check(On::Namespace, ISTIO_INJECTION, "enabled", None);
        check(On::Namespace, ISTIO_INJECTION, "true", Some("has no effect"));
        check(On::Namespace, "istio.io/rev", "stable", Some("dataplane-mode"));
        check(On::Target, "istio.io/use-waypoint", "w", None);
        check(On::Target, "app", "x", None);
    }
}
