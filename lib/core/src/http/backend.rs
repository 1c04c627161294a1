//! What a route of the Gateway API refers to as a backend: a cluster, or the reason why there is none.

use std::sync::Arc;

use super::ClusterKey;
use crate::{ObjectName, World, objects::BackendRef};

/// The reason why a backend cannot be served: requests of its share are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokenRef {
    /// It is no Service.
    #[error("{kind} {name} cannot be a backend: Services can")]
    Kind {
        /// The kind, with its group.
        kind: Arc<str>,
        /// The name.
        name: ObjectName,
    },
    /// No Service has this name.
    #[error("Service {0} does not exist")]
    NotFound(ObjectName),
    /// The Service has no such port, or the reference says none.
    #[error("Service {service} has no port {}", port.map_or_else(|| "where none is said".to_owned(), |p| p.to_string()))]
    Port {
        /// The Service.
        service: ObjectName,
        /// The port.
        port: Option<u16>,
    },
}

/// The cluster of a backend.
pub(super) fn cluster(world: &World, backend: &BackendRef) -> Result<ClusterKey, BrokenRef> {
    let target = &backend.target;
    let Some(name) = target.service() else {
        let kind =
            if target.group.is_empty() { target.kind.to_string() } else { format!("{}.{}", target.kind, target.group) };
        return Err(BrokenRef::Kind { kind: kind.into(), name: target.name.clone() });
    };
    let service = world.service(name).ok_or_else(|| BrokenRef::NotFound(name.clone()))?;
    let port = backend.port.filter(|port| service.port(*port).is_some());
    let port = port.ok_or_else(|| BrokenRef::Port { service: name.clone(), port: backend.port })?;
    Ok(ClusterKey { host: Arc::clone(&service.hostname), subset: None, port })
}
