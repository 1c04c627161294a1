//! End to end: a kubelet's probes of pods in the mesh, under PeerAuthentication `STRICT`. Level kernel: needs root, the kernel
//! programs and the agent. An actor that has the kubelet's name and a cgroup of its own on the node plays it.
//!
//! What must hold: what is not attested reaches the tunnel, is refused as plaintext and logged; each refusal has its twin, which
//! passes without the policy or with a probe that names the port.

#[path = "probes/kubelet.rs"]
mod kubelet;
#[path = "probes/setup.rs"]
mod setup;
mod support;
#[path = "probes/targets.rs"]
mod targets;

use kubelet::{a_kubelet_restarts, of_two_kubelets_neither_counts, the_setting_names_the_kubelets_cgroup};
use targets::{
    a_probe_names_ports_of_its_own_pod, a_probe_that_goes_ends_with_its_pod_or_object, probes_go_on_without_an_agent,
    the_kubelet_reaches_what_a_pod_names,
};

underpass_tests::scenarios! {
    the_kubelet_reaches_what_a_pod_names,
    a_probe_names_ports_of_its_own_pod,
    a_probe_that_goes_ends_with_its_pod_or_object,
    probes_go_on_without_an_agent,
    a_kubelet_restarts,
    of_two_kubelets_neither_counts,
    the_setting_names_the_kubelets_cgroup,
}
