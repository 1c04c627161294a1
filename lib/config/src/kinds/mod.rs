//! The classes of kinds: served, known and not yet served, foreign. A kind of an API group of the mesh that this group
//! does not have is a mistake, never foreign.
//!
//! [`known`] and [`metadata`] are tables: the texts for users stand there, once.

#[cfg(test)]
mod docs;
mod known;
pub(crate) mod metadata;
pub(crate) mod rows;
pub(crate) mod series;

use underpass_core::Kind;
use underpass_door::KnownKind;

pub(crate) use self::known::CHART_VALUES;
pub use self::known::KNOWN;
use self::known::{GATEWAY_API, GATEWAY_API_OTHER, NETWORKING, SECURITY};
use crate::{Fault, hint::nearest};

/// The class of an `apiVersion` and `kind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Becomes part of the World.
    Served(Kind),
    /// Has `items`; of this kind each, where they do not say themselves.
    List(Option<String>),
    /// Configures a mesh, and is not served.
    Known(&'static KnownKind),
    /// Makes pods, from the template at this place.
    Template(&'static str),
    /// A foreign kind with the name of one of the mesh.
    Foreign(Fault),
    /// Foreign.
    Other,
    /// A mistake in this field, and which of the served kinds was probably meant.
    Mistake(&'static str, Fault, Option<Kind>),
}

/// The definition of a served kind: group, versions, and the apiVersion to write.
const fn home(kind: Kind) -> (&'static str, &'static [&'static str], &'static str) {
    match kind {
        Kind::Namespace | Kind::Node | Kind::Pod | Kind::Service | Kind::MeshConfig => ("", &["v1"], "v1"),
        Kind::EndpointSlice => ("discovery.k8s.io", &["v1"], "discovery.k8s.io/v1"),
        Kind::Gateway => (GATEWAY_API, &["v1", "v1beta1"], "gateway.networking.k8s.io/v1"),
        Kind::AuthorizationPolicy | Kind::PeerAuthentication | Kind::RequestAuthentication => {
            (SECURITY, &["v1", "v1beta1"], "security.istio.io/v1")
        }
        Kind::VirtualService | Kind::DestinationRule => {
            (NETWORKING, &["v1", "v1beta1", "v1alpha3"], "networking.istio.io/v1")
        }
        Kind::HttpRoute => (GATEWAY_API, &["v1", "v1beta1"], "gateway.networking.k8s.io/v1"),
        Kind::GrpcRoute => (GATEWAY_API, &["v1"], "gateway.networking.k8s.io/v1"),
        Kind::TlsRoute => (GATEWAY_API, &["v1", "v1alpha3", "v1alpha2"], "gateway.networking.k8s.io/v1"),
        Kind::TcpRoute => (GATEWAY_API, &["v1", "v1alpha2"], "gateway.networking.k8s.io/v1"),
        Kind::ReferenceGrant => (GATEWAY_API, &["v1", "v1beta1"], "gateway.networking.k8s.io/v1beta1"),
    }
}

pub(crate) fn classify(api_version: &str, kind: &str) -> Class {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    // Another group may have a known kind of the same name.
    let is_of_other =
        |k: Kind| home(k).0 != group && KNOWN.iter().any(|known| (known.group, known.kind) == (group, kind));
    if let Some(ours) = Kind::ALL.into_iter().find(|k| k.as_str() == kind && !is_of_other(*k)) {
        let (home, versions, served) = home(ours);
        return match ours {
            _ if group == home && versions.contains(&version) => Class::Served(ours),
            _ if group == home => {
                Class::Mistake("apiVersion", Fault::UnknownVersion { found: api_version.into(), served }, Some(ours))
            }
            _ if is_typo(group, home) => {
                let found = api_version.into();
                Class::Mistake("apiVersion", Fault::UnknownGroup { kind: ours.as_str(), found, served }, Some(ours))
            }
            Kind::AuthorizationPolicy | Kind::PeerAuthentication | Kind::RequestAuthentication => {
                Class::Foreign(Fault::ForeignGroup { kind: ours.as_str(), found: api_version.into() })
            }
            _ => Class::Other,
        };
    }
    if let Some(item) = kind.strip_suffix("List") {
        let is_ours = Kind::ALL.into_iter().any(|k| k.as_str() == item && home(k).0 == group);
        if is_ours || (group.is_empty() && item.is_empty()) {
            return Class::List(Some(item.to_owned()).filter(|i| !i.is_empty()));
        }
    }
    let known = || KNOWN.iter().filter(|k| k.group == group);
    if let Some(known) = known().find(|k| k.kind == kind) {
        return Class::Known(known);
    }
    if let Some((_, _, at)) = metadata::TEMPLATES.iter().find(|(g, k, _)| *g == group && *k == kind) {
        return Class::Template(at);
    }
    let ours = Kind::ALL.into_iter().filter(|k| home(*k).0 == group).map(Kind::as_str);
    let meant = nearest(kind, ours.chain(known().map(|k| k.kind)));
    let meant_kind = meant.and_then(|m| Kind::ALL.into_iter().find(|k| k.as_str() == m));
    let is_of_mesh = known().next().is_some() || [NETWORKING, SECURITY, GATEWAY_API].contains(&group);
    let is_known = is_of_mesh && !kind.ends_with("List");
    if is_known && group == GATEWAY_API && meant.is_none() {
        return Class::Known(&GATEWAY_API_OTHER);
    }
    // Kubernetes' own groups have kinds that are not listed here: there only a near miss is a mistake.
    if is_known || meant.is_some() {
        return Class::Mistake("kind", Fault::UnknownKind { found: kind.into(), meant }, meant_kind);
    }
    Class::Other
}

/// What is said of a Gateway that is no waypoint.
pub(crate) fn other_gateway() -> Option<&'static KnownKind> {
    KNOWN.iter().find(|known| (known.group, known.kind) == (GATEWAY_API, Kind::Gateway.as_str()))
}

/// The kind of ours that an object which cannot be read is of, or was probably meant to be.
pub(crate) fn meant(api_version: Option<&str>, kind: &str) -> Option<Kind> {
    let Some(api_version) = api_version else {
        let near = nearest(kind, Kind::ALL.into_iter().map(Kind::as_str))?;
        return Kind::ALL.into_iter().find(|k| k.as_str() == near);
    };
    match classify(api_version, kind) {
        Class::Served(kind) | Class::Mistake(_, _, Some(kind)) => Some(kind),
        _ => None,
    }
}

/// The API group of a kind of ours was probably meant to be `home`. Groups without a dot are Kubernetes' own, and none
/// of them has a kind of the same name; a group with one, under a domain of its own, is foreign.
fn is_typo(group: &str, home: &str) -> bool {
    let istio = |group: &str| group == "istio.io" || group.ends_with(".istio.io");
    !group.contains('.') || (istio(home) && istio(group)) || nearest(group, [home]).is_some()
}

/// The kind has no namespace.
pub(crate) fn is_cluster_scoped(kind: &str) -> bool {
    matches!(kind, "Namespace" | "Node" | "GatewayClass")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_kinds() {
        let check = |api_version: &str, kind: &str, expect: &str| {
            let got = match classify(api_version, kind) {
                Class::Served(k) => format!("served {k}"),
                Class::List(item) => format!("list of {}", item.as_deref().unwrap_or("anything")),
                Class::Known(_) => "not yet".into(),
                Class::Template(at) => format!("template at {at}"),
                Class::Foreign(_) => "foreign".into(),
                Class::Other => "other".into(),
                Class::Mistake(field, fault, meant) => {
                    let meant = meant.map(|k| format!(" [{k}]")).unwrap_or_default();
                    format!("{field} {fault}{meant}")
                }
            };
            assert_eq!(got, expect, "{api_version} {kind}");
        };
        check("v1", "Pod", "served Pod");
        check("v2", "Pod", "apiVersion `v2` is not served; write v1 [Pod]");
        check("apps/v1", "Pod", "apiVersion `apps/v1` has no Pod: did you mean `v1`? [Pod]");
        check("example.com/v1", "Pod", "other");
        check("serving.knative.dev/v1", "Service", "other");
        check("discovery.k8s.io/v1", "EndpointSlice", "served EndpointSlice");
        check(
            "discovery.k8s.io/v1beta1",
            "EndpointSlice",
            "apiVersion `discovery.k8s.io/v1beta1` is not served; write discovery.k8s.io/v1 [EndpointSlice]",
        );
        check("security.istio.io/v1", "AuthorizationPolicy", "served AuthorizationPolicy");
        check("security.istio.io/v1beta1", "PeerAuthentication", "served PeerAuthentication");
        check("policy.linkerd.io/v1alpha1", "AuthorizationPolicy", "foreign");
        for typo in
            ["v1", "apps/v1", "securty.istio.io/v1", "Security.istio.io/v1", "networking.istio.io/v1", "istio.io/v1"]
        {
            for kind in ["AuthorizationPolicy", "PeerAuthentication"] {
                let says = format!("apiVersion `{typo}` has no {kind}: did you mean `security.istio.io/v1`? [{kind}]");
                check(typo, kind, &says);
            }
        }
        check(
            "discovry.k8s.io/v1",
            "EndpointSlice",
            "apiVersion `discovry.k8s.io/v1` has no EndpointSlice: did you mean `discovery.k8s.io/v1`? [EndpointSlice]",
        );
        check(
            "security.istio.io/v1",
            "AuthorisationPolicy",
            "kind `AuthorisationPolicy` is not a kind of this API group: did you mean `AuthorizationPolicy`? [AuthorizationPolicy]",
        );
        check("security.istio.io/v1", "Thing", "kind `Thing` is not a kind of this API group");
        check("security.istio.io/v1", "RequestAuthentication", "served RequestAuthentication");
        check("networking.istio.io/v1beta1", "VirtualService", "served VirtualService");
        check(
            "networking.istio.io/v1",
            "VirtualServices",
            "kind `VirtualServices` is not a kind of this API group: did you mean `VirtualService`? [VirtualService]",
        );
        check("gateway.networking.k8s.io/v1beta1", "HTTPRoute", "served HTTPRoute");
        check("gateway.networking.k8s.io/v1", "GRPCRoute", "served GRPCRoute");
        check("gateway.networking.k8s.io/v1beta1", "ReferenceGrant", "served ReferenceGrant");
        check(
            "gateway.networking.k8s.io/v1alpha2",
            "HTTPRoute",
            "apiVersion `gateway.networking.k8s.io/v1alpha2` is not served; write gateway.networking.k8s.io/v1 [HTTPRoute]",
        );
        check("gateway.networking.k8s.io/v1alpha2", "TCPRoute", "served TCPRoute");
        check("gateway.networking.k8s.io/v1alpha3", "TLSRoute", "served TLSRoute");
        check(
            "gateway.networking.k8s.io/v1alpha3",
            "TCPRoute",
            "apiVersion `gateway.networking.k8s.io/v1alpha3` is not served; write gateway.networking.k8s.io/v1 [TCPRoute]",
        );
        check("gateway.networking.k8s.io/v1", "UDPRoute", "not yet");
        check("gateway.networking.k8s.io/v1beta1", "Gateway", "served Gateway");
        check("networking.istio.io/v1", "Gateway", "not yet");
        check("v1", "ConfigMap", "served ConfigMap");
        check("v1", "ServiceAccount", "other");
        check("v1", "pod", "kind `pod` is not a kind of this API group: did you mean `Pod`? [Pod]");
        check("apps/v1", "Deployment", "template at spec.template");
        check("batch/v1", "CronJob", "template at spec.jobTemplate.spec.template");
        check("networking.istio.io/v1alpha3", "EnvoyFilter", "not yet");
        check("gateway.networking.k8s.io/v1", "NewRoute", "not yet");
        check(
            "gateway.networking.k8s.io/v1",
            "HTTPRoutes",
            "kind `HTTPRoutes` is not a kind of this API group: did you mean `HTTPRoute`? [HTTPRoute]",
        );
        check("v1", "List", "list of anything");
        check("v1", "PodList", "list of Pod");
        check("v1", "ConfigMapList", "list of ConfigMap");
        check("security.istio.io/v1", "PeerAuthenticationList", "list of PeerAuthentication");
    }
}
