//! TLSRoutes and TCPRoutes of the Gateway API. Beside [`super::gateway_route`], because their rules ask for nothing: they have
//! backends alone, of which there must be one.

use std::net::IpAddr;

use underpass_core::objects::{GatewayRoute, RouteProtocol, RouteRule};

use super::{
    Converted, Faults, Rejected,
    gateway_route::{Common, backends, is_short, rule_name},
    traffic_value::malformed,
};
use crate::{Fault, path::At, shapes};

/// The version in which a TLSRoute has hostnames.
const V1: &str = "gateway.networking.k8s.io/v1";
const NAME: &str = "a name: clients of TLS do not ask for addresses (RFC 6066)";

/// `gateway.networking.k8s.io TLSRoute`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn tls_route(shape: &shapes::GatewayTlsRoute) -> Result<Converted<GatewayRoute>, Rejected> {
    let (spec, mut faults) = (&shape.spec, Faults::default());
    let at = At::ROOT.field("spec");
    let names_at = at.field("hostnames");
    if spec.hostnames.is_empty() && shape.api_version == V1 {
        faults.push(&names_at, Fault::Missing);
    }
    for (i, name) in spec.hostnames.iter().enumerate().filter(|(_, name)| name.parse::<IpAddr>().is_ok()) {
        faults.push(&names_at.index(i), malformed(name, NAME));
    }
    if !is_short(&spec.hostnames, &names_at, &mut faults) {
        return faults.finish(None);
    }
    at_least_one(&spec.rules, &at.field("rules"), &mut faults);
    let common = Common { protocol: RouteProtocol::Tls, parents: &spec.parent_refs, hostnames: &spec.hostnames };
    common.route(faults, &shape.metadata, &spec.rules, rule)
}

/// `gateway.networking.k8s.io TCPRoute`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn tcp_route(shape: &shapes::GatewayTcpRoute) -> Result<Converted<GatewayRoute>, Rejected> {
    let (spec, mut faults) = (&shape.spec, Faults::default());
    at_least_one(&spec.rules, &At::ROOT.field("spec").field("rules"), &mut faults);
    let common = Common { protocol: RouteProtocol::Tcp, parents: &spec.parent_refs, hostnames: &[] };
    common.route(faults, &shape.metadata, &spec.rules, rule)
}

fn rule(s: &shapes::ConnectionRouteRule, namespace: &str, at: &At<'_>, faults: &mut Faults) -> Option<RouteRule> {
    let backends_at = at.field("backendRefs");
    at_least_one(&s.backend_refs, &backends_at, faults);
    if !is_short(&s.backend_refs, &backends_at, faults) {
        return None;
    }
    let refs: Vec<shapes::HttpBackendRef> = s.backend_refs.iter().map(Into::into).collect();
    let backends = backends(&refs, namespace, &backends_at, faults);
    Some(RouteRule { name: rule_name(s.name.as_ref(), at, faults), backends, ..RouteRule::default() })
}

fn at_least_one<T>(list: &[T], at: &At<'_>, faults: &mut Faults) {
    if list.is_empty() {
        faults.push(at, Fault::Missing);
    }
}
