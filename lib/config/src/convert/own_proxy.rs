//! The role of an Istio proxy in a pod. Its name does not tell: a sidecar, a gateway and a waypoint all run a container
//! `istio-proxy`, and the injector leaves its mark on gateways as well.
//!
//! What must hold: a pod with a sidecar is never taken for a gateway, because the agent would capture connections that
//! the sidecar captures already. So a gateway has to be certain: by what its proxy is told to be (`proxy router`), by
//! the labels of the Gateway API's controller, by the injector's template, or because there is no application beside
//! it. Labels such as `istio: ingressgateway` are a selector that any pod may have, and count for nothing.

use underpass_core::objects::OwnProxy;

use crate::shapes;

/// The container that runs it.
const PROXY: &str = "istio-proxy";
/// The mark of the injector.
const STATUS: &str = "sidecar.istio.io/status";
/// The templates that the injector is to apply: names, with commas.
const TEMPLATES: &str = "inject.istio.io/templates";
/// The Gateway that a pod was made for, and how that was written before.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
const OLD_GATEWAY_NAME: &str = "istio.io/gateway-name";

/// The proxy of Istio's in a pod, where there is one.
pub(super) fn of(shape: &shapes::Pod) -> Option<OwnProxy> {
    let (meta, spec) = (&shape.metadata, &shape.spec);
    let all = || spec.containers.iter().chain(&spec.init_containers);
    let Some(proxy) = all().find(|c| c.name == PROXY) else {
        return meta.annotations.contains_key(STATUS).then_some(OwnProxy::Sidecar);
    };
    let told = |role: &str| proxy.args.iter().any(|arg| arg == role);
    let is_alone = spec.containers.iter().all(|c| c.name == PROXY) && !spec.containers.is_empty();
    let template = meta.annotations.get(TEMPLATES).is_some_and(|t| t.split(',').any(|t| t.trim() == "gateway"));
    let made_for_one = [GATEWAY_NAME, OLD_GATEWAY_NAME].iter().any(|key| meta.labels.contains_key(*key));
    Some(match () {
        () if told("sidecar") => OwnProxy::Sidecar,
        () if told("waypoint") => OwnProxy::Waypoint,
        () if told("router") || is_alone || template || made_for_one => OwnProxy::Gateway,
        () => OwnProxy::Sidecar,
    })
}
