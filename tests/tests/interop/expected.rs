//! The differences between the facts of istiod and those of our control plane, each with its reason.

use super::STRICT;

/// A difference that is meant to be. There is one wherever a fact has it, and one at least.
pub(crate) struct Expected {
    /// The start of the facts' keys.
    pub(crate) of: &'static str,
    /// The start of the field's path, which begins with a dot; empty: the fact itself, which only one of the two has.
    pub(crate) field: &'static str,
    /// What istiod says; none: nothing.
    pub(crate) istiod: Option<&'static str>,
    /// Only where control's fact has this value of this field.
    pub(crate) given: Option<(&'static str, &'static str)>,
    /// As it stands in docs/interop.md.
    pub(crate) reason: &'static str,
}

const PODS: &str = "workloads/Kubernetes//Pod/";
const ADDRESSES: &str = "workloads/Kubernetes/discovery.k8s.io/EndpointSlice/";

const fn says(of: &'static str, field: &'static str, istiod: &'static str, reason: &'static str) -> Expected {
    Expected { of, field, istiod: Some(istiod), given: None, reason }
}

const fn lacks(of: &'static str, field: &'static str, reason: &'static str) -> Expected {
    Expected { of, field, istiod: None, given: None, reason }
}

const BECAUSE: &str = "Istio's message says that a workload takes HBONE, not why.";
const STRICT_BY: &str =
    "istiod has one policy for all that demand mutual TLS, which does not name them. Refusals name it.";
const PERMISSIVE: &str = "istiod says nothing where plaintext is taken: no PeerAuthentication is named as the reason.";
const OWNER: &str = "istiod calls every owner a pod, and gives its name.";
const ADDRESS: &str = "What istiod knows of an address of a slice is the slice: no name of its own, no canonical service, no mode of mutual TLS, and an address that others may have too.";
const TARGETLESS: &str = "istiod makes a workload outside the mesh of an address in a slice without `targetRef`. Ours takes the pod that has the address: calls of the Service go by HBONE.";
const SELECTOR: &str = "istiod names the policies with each workload that they select, and no labels.";
const L7: &str = "istiod leaves out what only a waypoint judges, and an ALLOW rule with it: the effect is the same.";
const DRY_RUN: &str = "istiod sends no dry run, unless `AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY` is set: nothing is logged of what it would deny.";
const PORT_NAMES: &str =
    "Istio's message has numbers of ports, no names. The numbers of named target ports come with each workload.";
const AFFINITY: &str = "Istio's message has no affinity: the choice is free.";
const EXTERNAL: &str = "istiod gives no `externalIPs`: the kernel leaves calls of them alone.";
const EXTERNAL_NAME: &str = "istiod sends no ExternalName Service: nothing reports that its address leads nowhere.";

/// All of them.
pub(crate) const EXPECTED: &[Expected] = &[
    says("workloads/", ".enrolment.because", "control-plane", BECAUSE),
    says(PODS, ".mtls.default.by", STRICT, STRICT_BY),
    Expected { given: Some((".mtls.default.takes", "Plaintext")), ..lacks(PODS, ".mtls.default", PERMISSIVE) },
    says(PODS, ".owner.kind", "Other", OWNER),
    lacks(ADDRESSES, ".app", ADDRESS),
    lacks(ADDRESSES, ".version", ADDRESS),
    lacks(ADDRESSES, ".canonical_", ADDRESS),
    lacks(ADDRESSES, ".mtls.default", ADDRESS),
    says(ADDRESSES, ".host_network", "true", ADDRESS),
    says("workloads/Kubernetes/discovery.k8s.io/EndpointSlice/mesh/database/", ".name", "mesh/database", ADDRESS),
    says(
        "workloads/Kubernetes/discovery.k8s.io/EndpointSlice/default/kubernetes/",
        ".name",
        "default/kubernetes",
        ADDRESS,
    ),
    says("workloads/Kubernetes/discovery.k8s.io/EndpointSlice/mesh/mixed", "", "there", TARGETLESS),
    says("workloads/Kubernetes/discovery.k8s.io/EndpointSlice/mesh/unready/", "", "there", TARGETLESS),
    lacks(PODS, ".endpoints.mesh/mixed at ", TARGETLESS),
    lacks(PODS, ".endpoints.mesh/unready at ", TARGETLESS),
    lacks("policies/", ".scope.Selector", SELECTOR),
    lacks("policies/mesh/of-web-by-http", ".rules", L7),
    lacks("policies/out/needs-a-waypoint", ".rules.to.l7", L7),
    lacks("policies/mesh/tried", "", DRY_RUN),
    lacks("services/", ".ports.name", PORT_NAMES),
    lacks("services/web.mesh.", ".ports.target.Name", PORT_NAMES),
    says("services/web.mesh.", ".affinity", "None", AFFINITY),
    lacks("services/web.mesh.", ".external", EXTERNAL),
    lacks("services/elsewhere.mesh.", "", EXTERNAL_NAME),
];
