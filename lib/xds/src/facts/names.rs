//! Names of resources and what they mean, for both directions.

use std::net::IpAddr;

use underpass_core::{ObjectName, world::MeshSettings};

/// The policy for workloads that refuse plaintext on all ports. No object can have this name.
pub(super) const STATIC_STRICT: &str = "istio_converted_static_strict";
/// What precedes the name of a PeerAuthentication in the name of its policy. No object can have such a name.
pub(super) const CONVERTED: &str = "converted_peer_authentication_";

/// `namespace/name`.
pub(super) fn slashed(name: &ObjectName) -> String {
    format!("{}/{}", name.namespace(), name.name())
}

/// From `namespace/name`, neither of them empty.
pub(super) fn split(text: &str) -> Option<ObjectName> {
    let (namespace, name) = text.split_once('/')?;
    (!namespace.is_empty() && !name.is_empty()).then(|| ObjectName::new(namespace, name))
}

/// The hostname of a service of this cluster.
pub(super) fn hostname(settings: &MeshSettings, namespace: &str, name: &str) -> String {
    format!("{name}.{namespace}.svc.{}", settings.cluster_domain)
}

/// Ends the hostname of a waypoint that is missing: no name ends so (RFC 6761, 6.4), so that no data plane finds a Service
/// of it.
const MISSING: &str = ".waypoint-missing.invalid";

/// The hostname of a waypoint that is missing.
pub(super) fn missing(name: &ObjectName) -> String {
    format!("{}.{}{MISSING}", name.name(), name.namespace())
}

/// The name of the missing waypoint of this hostname.
pub(super) fn missing_in<'a>(namespace: &str, hostname: &'a str) -> Option<&'a str> {
    hostname.strip_suffix(MISSING)?.strip_suffix(namespace)?.strip_suffix('.')
}

/// The hostname of the service of this name, as [`service`] reads it.
pub(super) fn hostname_of(settings: &MeshSettings, name: &ObjectName) -> String {
    match name.name() {
        foreign if foreign.contains('.') => foreign.strip_suffix('.').unwrap_or(foreign).to_owned(),
        own => hostname(settings, name.namespace(), own),
    }
}

/// The name in a hostname of this cluster and namespace.
pub(super) fn name_in<'a>(settings: &MeshSettings, namespace: &str, hostname: &'a str) -> Option<&'a str> {
    let rest = hostname.strip_suffix(&*settings.cluster_domain)?.strip_suffix(".svc.")?;
    rest.strip_suffix(namespace)?.strip_suffix('.')
}

/// The service of this hostname. No Service has a dot in its name, so any other hostname is its own name, with one.
pub(super) fn service(settings: &MeshSettings, namespace: &str, hostname: &str) -> ObjectName {
    match name_in(settings, namespace, hostname).filter(|name| !name.contains('.')) {
        Some(name) => ObjectName::new(namespace, name),
        None if hostname.contains('.') => ObjectName::new(namespace, hostname),
        None => ObjectName::new(namespace, format!("{hostname}.")),
    }
}

/// 4 or 16 bytes.
pub(super) fn bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// From 4 or 16 bytes, canonical.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some(ip.to_canonical())
}
